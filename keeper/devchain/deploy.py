"""Sends what builds the chain: one sender, nonces counted here, many transactions per block in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eth_utils.crypto import keccak

from keeper.devchain.artifacts import Artifact
from keeper.devchain.calls import calldata
from keeper.devchain.rpc import Rpc
from keeper.errors import KeeperError
from keeper.model import Address, address


class BuildFailed(KeeperError):
    """A transaction that builds the chain reverted."""


def created_address(sender: Address, nonce: int) -> Address:
    """Where a contract created by `sender` with `nonce` lands (keccak of the RLP of both)."""
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    coded = number if 0 < nonce < 0x80 else bytes([0x80 + len(number)]) + number
    content = b"\x94" + bytes.fromhex(sender[2:]) + coded
    return address(keccak(bytes([0xC0 + len(content)]) + content)[12:])


class Deployer:
    """Queues deployments and calls of one unlocked account; `flush` mines them and insists that all succeeded."""

    def __init__(self, rpc: Rpc, sender: str, block_gas: int, step: int = 12) -> None:
        self.rpc = rpc
        self.sender = address(sender)
        self._nonce = int(rpc.request("eth_getTransactionCount", sender, "latest"), 16)
        self._time = int(rpc.block()["timestamp"], 16)
        self._block_gas = block_gas
        self._step = step
        self._gas = 0
        self._pending: list[str] = []

    def resume(self) -> None:
        """Take up the head's time again after another sender mined."""
        self._time = int(self.rpc.block()["timestamp"], 16)

    def deploy(self, artifact: Artifact, *args: Any, libraries: Mapping[str, Address] | None = None) -> Address:
        """Queue a deployment and return the address it will have."""
        created = created_address(self.sender, self._nonce)
        self._queue({"data": "0x" + artifact.creation(libraries or {}, *args).hex()}, 8_000_000, artifact.name)
        return created

    def send(self, to: str, signature: str, *args: Any, value: int = 0, gas: int = 2_000_000) -> None:
        """Queue a call."""
        data = "0x" + calldata(signature, *args).hex()
        self._queue({"to": to, "data": data, "value": hex(value)}, gas, f"{signature} on {to}")

    def flush(self) -> None:
        """Mine what is queued; raises BuildFailed naming the first transaction that reverted."""
        if not self._pending:
            return
        self._time += self._step
        self.rpc.request("evm_setNextBlockTimestamp", self._time)
        self.rpc.request("evm_mine")
        receipts = self.rpc.request("eth_getBlockReceipts", "latest")
        if len(receipts) != len(self._pending):
            raise BuildFailed(f"{len(self._pending)} transactions were sent and {len(receipts)} were mined")
        for receipt, what in zip(receipts, self._pending, strict=True):
            if int(receipt["status"], 16) != 1:
                raise BuildFailed(f"building the private chain failed: {what} reverted")
        self._pending, self._gas = [], 0

    def _queue(self, transaction: dict[str, str], gas: int, what: str) -> None:
        if self._gas + gas > self._block_gas:
            self.flush()
        self.rpc.request(
            "eth_sendTransaction", transaction | {"from": self.sender, "nonce": hex(self._nonce), "gas": hex(gas)}
        )
        self._nonce += 1
        self._gas += gas
        self._pending.append(what)
