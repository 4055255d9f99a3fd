"""A private chain with a crowd, ten people at the edge, and a node with their history in front of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.crowd import Crowd
from benchmarks.node import crowd_of, endow
from keeper.config import Config, load
from keeper.devchain.actors import Actors, account
from keeper.devchain.anvil import Anvil
from keeper.devchain.catalogue import MAIN, SPECS
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.devchain.world import World, ensure_world
from keeper.execution.executor import creation_code
from keeper.model import Address, address

LIQUIDATABLE = 10
_FALL = 95  # percent of the price that makes them so
_WINDOW = 80  # blocks above the history: more than can be reorganised away


@dataclass(frozen=True, slots=True)
class Stage:
    """A private chain with a crowd on its main market, and the node in front of it."""

    anvil: Anvil
    world: World
    actors: Actors
    crowd: Crowd
    node: str
    executor: Address

    def config(self, folder: Path) -> Config:
        """The daemon's configuration for it, with everything of one run in `folder`."""
        only = replace(self.world, markets={MAIN: self.world.main})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "operator.key").write_text(OPERATOR_KEY)
        (folder / "keeper.toml").write_text(config_text(only, self.node, folder, 12, 0, self.executor))
        endless = {f"KEEPER__{part}__MAX_HEAD_AGE": "1000000h" for part in ("CHAIN", "BREAKERS")}
        return load(folder / "keeper.toml", endless | {"KEEPER__AUDIT__EVERY": "1000000"})


@contextmanager
def staged(users: int, *, history: bool) -> Iterator[Stage]:
    """`users` made-up people and ten real ones at the edge; with `history` the node serves the logs of everybody."""
    built = ensure_world()
    with built.start(impersonate=True) as anvil:
        rpc, world = anvil.rpc, built.world
        actors = Actors(rpc, world)
        crowd = crowd_of(world, rpc, users)
        endow(rpc, crowd)
        with actors.block() as receipts:
            actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, OPERATOR), gas=6_000_000)
        executor = address(receipts[0]["contractAddress"])
        for number in range(LIQUIDATABLE):
            _at_the_edge(actors, world, number)
        actors.align({symbol: fallen(symbol) for symbol in SPECS})
        first, blocks = rpc.number() + 1, min(max(users // 400, 8), 2_500) if history else 1
        rpc.request("anvil_mine", hex(blocks + _WINDOW), hex(12))
        words = [anvil.http, str(users), str(first), str(blocks if history else 0)]
        node = subprocess.Popen([sys.executable, "-m", "benchmarks.node", *words], stdout=subprocess.PIPE, text=True)
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            yield Stage(anvil, world, actors, crowd, f"http://127.0.0.1:{port}", executor)
        finally:
            node.terminate()
            node.communicate()


def fallen(symbol: str) -> int:
    """The price at which those at the edge are liquidatable."""
    price = SPECS[symbol].price
    return price * _FALL // 100 if symbol == "WETH" else price


def _at_the_edge(actors: Actors, world: World, number: int) -> None:
    """Ether against a stable debt: below one when ether has fallen."""
    debt = ("USDC", "USDT", "DAI")[number % 3]
    dollars = 40_000 + 1_000 * number
    owed = dollars * 83 * _FALL * 1_000 // (100 * 100 * 985)
    actors.open_position(
        world.main,
        account(f"benchmark edge {number}"),
        {"WETH": actors.worth("WETH", dollars)},
        {debt: actors.worth(debt, owed)},
    )


def set_price(actors: Actors, price: int) -> None:
    """Of ether, in a block of its own."""
    with actors.block():
        actors.set_price("WETH", price)
