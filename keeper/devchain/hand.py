"""Sending and mining on the private chain, one deterministic block at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eth_utils.crypto import keccak

from keeper.devchain.calls import calldata
from keeper.devchain.catalogue import BASE_FEE
from keeper.devchain.lending import ENABLED
from keeper.devchain.rpc import Rpc, RpcError
from keeper.devchain.world import World
from keeper.errors import KeeperError
from keeper.model import Address, address

_ETH = 10**18
_GAS = 4_000_000
_MAX_FEE = 200 * 10**9


class Reverted(KeeperError):
    """A transaction on the private chain was mined and reverted; `reason` is what a replay of it says."""

    def __init__(self, what: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{what} reverted: {reason}")


def account(label: str) -> Address:
    """A made-up account that depends on nothing but its label."""
    return address(keccak(text=f"keeper devchain {label}")[12:])


class Hand:
    """Speaks for any account of an anvil that mines on request.

    Outside `block()` every send is mined at once, alone in its block, and a revert raises `Reverted`. Time moves
    `step` seconds per block and the base fee stays where it is put, so that a run depends only on what is asked.
    With `wall_clock` a block carries the time of day instead (at least one second after its parent).
    """

    def __init__(
        self, rpc: Rpc, world: World, *, step: int = 12, base_fee: int = BASE_FEE, wall_clock: bool = False
    ) -> None:
        self.rpc = rpc
        self.world = world
        self.step = step
        self.base_fee = base_fee
        self.wall_clock = wall_clock
        self._paid: set[str] = set()
        self._sent: list[tuple[str, str, dict[str, str]]] = []
        self._collecting = False
        rpc.request("anvil_autoImpersonateAccount", ENABLED)

    @property
    def now(self) -> int:
        """Timestamp of the newest block."""
        return int(self.rpc.block()["timestamp"], 16)

    def send(self, sender: str, to: str | None, signature: str, *args: Any, value: int = 0, gas: int = _GAS) -> str:
        """Call `signature` as `sender`; returns the transaction hash. Raises Reverted, unless inside `block()`."""
        return self.submit(sender, to, calldata(signature, *args), value=value, gas=gas, what=signature)

    def submit(
        self, sender: str, to: str | None, data: bytes, *, value: int = 0, gas: int = _GAS, what: str = "a transaction"
    ) -> str:
        """Send raw calldata as `sender` (creation code when `to` is None); otherwise as `send`."""
        if sender not in self._paid:
            self._paid.add(sender)
            if int(self.rpc.request("eth_getBalance", sender, "latest"), 16) < 100 * _ETH:
                self.rpc.request("anvil_setBalance", sender, hex(1_000 * _ETH))
        transaction = {
            "from": sender,
            "data": "0x" + data.hex(),
            "value": hex(value),
            "gas": hex(gas),
            "maxFeePerGas": hex(_MAX_FEE),
            "maxPriorityFeePerGas": hex(10**8),
        } | ({} if to is None else {"to": to})
        sent: str = self.rpc.request("eth_sendTransaction", transaction)
        self._sent.append((sent, what, transaction))
        if not self._collecting:
            self.mine()
        return sent

    @contextmanager
    def block(self, seconds: int | None = None, *, strict: bool = True) -> Iterator[list[dict[str, Any]]]:
        """Everything sent inside goes into one block, in order. The list holds the receipts afterwards.

        With `strict` (the default) a revert of any of them raises `Reverted`; otherwise look at the receipts.
        """
        assert not self._collecting, "blocks do not nest"
        receipts: list[dict[str, Any]] = []
        self._collecting = True
        try:
            yield receipts
        except BaseException:
            self._sent.clear()
            self.rpc.request("anvil_dropAllTransactions")
            raise
        finally:
            self._collecting = False
        receipts += self.mine(seconds, strict=strict)

    def mine(self, seconds: int | None = None, *, blocks: int = 1, strict: bool = True) -> list[dict[str, Any]]:
        """Mine, each block `seconds` (default: `step`) after the one before; returns the last block's receipts."""
        now = self.now
        for _ in range(blocks):
            if seconds is None and self.wall_clock:
                now = max(now + 1, int(time.time()))
            else:
                now += self.step if seconds is None else seconds
            self.rpc.request("anvil_setNextBlockBaseFeePerGas", hex(self.base_fee))
            self.rpc.request("evm_mine", {"timestamp": now, "blocks": 1})
        receipts: list[dict[str, Any]] = self.rpc.request("eth_getBlockReceipts", "latest")
        sent, self._sent = self._sent, []
        if strict and sent:
            status = {receipt["transactionHash"]: int(receipt["status"], 16) for receipt in receipts}
            for number, what, transaction in sent:
                if status.get(number) != 1:
                    raise Reverted(
                        f"{what} by {transaction['from']}",
                        self._reason(transaction) if number in status else "it was not mined",
                    )
        return receipts

    def mine_until(self, timestamp: int) -> None:
        """Mine one block at `timestamp`, e.g. the wall clock's; does nothing when the head is not older."""
        if timestamp > self.now:
            self.mine(timestamp - self.now)

    def _reason(self, transaction: dict[str, str]) -> str:
        """What the same call says now; the state may have moved on since, so this is a hint only."""
        try:
            self.rpc.request("eth_call", transaction, "latest")
        except RpcError as error:
            return error.message if error.data in (None, "0x") else f"{error.message} ({error.data})"
        return "unknown (the same call passes now)"
