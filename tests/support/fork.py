"""A fork of the built world that every test gets back in the state it was built in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil
from keeper.devchain.rpc import Rpc, RpcError
from keeper.devchain.world import World


@dataclass(frozen=True, slots=True)
class Fork:
    """A private chain that a test may do anything to. Blocks come only when asked for (see `actors.mine`)."""

    rpc: Rpc
    http: str
    ws: str
    world: World
    actors: Actors


class ForkKeeper:
    """One forking anvil for many tests: snapshot before each, revert after it, a new process when that fails."""

    def __init__(self, base: Anvil, world: World) -> None:
        self._base = base
        self._world = world
        self._anvil: Anvil | None = None

    @contextmanager
    def lend(self) -> Iterator[Fork]:
        """The fork for the duration of one test."""
        anvil = self._ready()
        snapshot = anvil.rpc.request("evm_snapshot")
        try:
            yield Fork(anvil.rpc, anvil.http, anvil.ws, self._world, Actors(anvil.rpc, self._world))
        finally:
            if not self._restore(anvil, snapshot):
                self.stop()

    def stop(self) -> None:
        """End the fork; the next loan starts another."""
        if self._anvil is not None:
            self._anvil.stop()
            self._anvil = None

    def _ready(self) -> Anvil:
        if self._anvil is None or not self._anvil.running():
            self.stop()
            self._anvil = Anvil(fork_url=self._base.http, chain_id=self._world.chain_id, impersonate=True).start()
        return self._anvil

    def _restore(self, anvil: Anvil, snapshot: str) -> bool:
        """Whether the chain is as it was; mining mode and the pool, which a revert leaves alone, are reset too."""
        try:
            anvil.rpc.request("evm_setAutomine", False)
            anvil.rpc.request("evm_setIntervalMining", 0)
            anvil.rpc.request("anvil_removeBlockTimestampInterval")
            anvil.rpc.request("anvil_dropAllTransactions")
            reverted = anvil.rpc.request("evm_revert", snapshot)
            return bool(reverted) and anvil.rpc.number() == self._world.height
        except (RpcError, OSError):
            return False
