"""How other people's transactions landed: who sent them, where they stand in the block, and what they paid for it.

What plain JSON-RPC tells exactly: sender, target, place in the block, gas used and the effective price of gas (the
receipt). What it cannot tell is a payment that a contract makes to the block's fee recipient, which leaves no log.
Two ways to it:

- ``debug_traceTransaction`` with the call tracer shows each transfer of value: exact, per transaction.
- Without it, the fee recipient's balance grew over the block by all priority fees and all such payments together
  (``eth_getBlockReceipts`` and two ``eth_getBalance``). What is left after the fees bounds any one payment from above;
  zero is exact. It says nothing when the recipient sent a transaction itself in that block, as builders that pay a
  proposer do, and takes for granted that it is not a contract that spends on its own.

A payment to anybody else (a proposer named in a bundle, a refund) is in neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keeper.chain.refusals import Refusal
from keeper.chain.wire import quantity
from keeper.errors import BadData, Transient
from keeper.model import Address, Hash

STRIKES = 3
_PAYS = frozenset({"CALL", "SELFDESTRUCT"})  # the frames whose `value` moves


class Batcher(Protocol):
    """The client, as far as this needs it."""

    async def try_batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Landed:
    """One mined transaction. Gas price is the effective one, payments in wei; None where it is not known."""

    block_hash: Hash
    index: int
    sender: Address
    target: Address | None  # None: it created a contract
    gas_used: int
    gas_price: int
    coinbase_paid: int | None = None
    coinbase_at_most: int | None = None


@dataclass(frozen=True, slots=True)
class LandedBlock:
    """The asked-for transactions of one block by hash, and the hashes of all in order."""

    hash: Hash
    transactions: Mapping[Hash, Landed]
    order: tuple[Hash, ...]


class Inquiry:
    """Asks one batched request per block; learns whether the node traces and stops asking it to when it does not."""

    def __init__(self, client: Batcher) -> None:
        self._client = client
        self._traces = True
        self._plain = False  # the next request goes without what is beyond plain JSON-RPC
        self._strikes = 0  # requests in a row that failed with it and were answered without
        self._proved = False  # a trace has been answered: the bound is not needed

    async def ask(
        self, number: int, block_hash: Hash | None, recipient: Address | None, hashes: Sequence[Hash]
    ) -> LandedBlock:
        """About transactions of block `number`; `recipient` is its fee recipient, if it is known beforehand.

        Raises Transient when the node does not know them (any more), BadData on nonsense.
        """
        unique = list(dict.fromkeys(hashes))
        block = (
            ("eth_getBlockByHash", [block_hash, False])
            if block_hash
            else ("eth_getBlockByNumber", [hex(number), False])
        )
        calls: list[tuple[str, Sequence[Any]]] = [block]
        calls += [("eth_getTransactionReceipt", [item]) for item in unique]
        extras = not self._plain and self._strikes < STRIKES
        traced = unique if extras and self._traces else []
        calls += [("debug_traceTransaction", [item, {"tracer": "callTracer"}]) for item in traced]
        bounded = extras and recipient is not None and not self._proved
        if bounded:
            tag = {"blockHash": block_hash} if block_hash else hex(number)
            calls += [
                ("eth_getBlockReceipts", [block_hash or hex(number)]),
                ("eth_getBalance", [recipient, hex(number - 1)]),
                ("eth_getBalance", [recipient, tag]),
            ]
        try:
            answers = await self._client.try_batch(calls)
        except Transient:
            # Perhaps only what goes beyond the plain is not to be had here.
            self._plain = True
            raise
        self._strikes = self._strikes + 1 if self._plain else 0 if extras else self._strikes
        self._plain = False
        head, rest = answers[0], answers[1:]
        receipts, rest = rest[: len(unique)], rest[len(unique) :]
        traces, rest = rest[: len(traced)], rest[len(traced) :]
        return self._read(head, dict(zip(unique, receipts, strict=True)), dict(zip(traced, traces, strict=False)), rest)

    def _read(
        self, head: Any, receipts: Mapping[Hash, Any], traces: Mapping[Hash, Any], balances: Sequence[Any]
    ) -> LandedBlock:
        if not isinstance(head, dict) or not isinstance(head.get("hash"), str):
            raise Transient("the node does not know the block (any more) whose liquidations are looked at")
        miner = Address(str(head.get("miner", "")).lower())
        if traces:
            self._proved = all(isinstance(trace, dict) for trace in traces.values())
            self._traces = self._proved
        most = _at_most(miner, head, balances)
        found = {}
        for tx_hash, raw in receipts.items():
            if not isinstance(raw, dict) or raw.get("blockHash") != head["hash"]:
                raise Transient(f"transaction {tx_hash} is not in the block (any more) that it was seen in")
            trace = traces.get(tx_hash)
            paid = paid_to(miner, trace) if isinstance(trace, dict) else 0 if most == 0 else None
            found[tx_hash] = _landed(raw, paid, most if paid is None else None)
        return LandedBlock(Hash(head["hash"]), found, tuple(Hash(item) for item in head.get("transactions", ())))


def paid_to(recipient: Address, frame: Mapping[str, Any]) -> int:
    """Wei that a traced call and everything below it gave to `recipient`; what was reverted gave nothing."""
    if frame.get("error"):
        return 0
    own = 0
    if frame.get("type") in _PAYS and str(frame.get("to", "")).lower() == recipient:
        own = quantity(frame.get("value") or "0x0", "a value")
    return own + sum(paid_to(recipient, inner) for inner in frame.get("calls") or ())


def _landed(raw: Mapping[str, Any], paid: int | None, most: int | None) -> Landed:
    sender, target = raw.get("from"), raw.get("to")
    if not isinstance(sender, str):
        raise BadData("the node answered a receipt without a sender")
    return Landed(
        Hash(raw["blockHash"]),
        quantity(raw.get("transactionIndex"), "a transaction index"),
        Address(sender.lower()),
        Address(target.lower()) if isinstance(target, str) else None,
        quantity(raw.get("gasUsed"), "gas used"),
        quantity(raw.get("effectiveGasPrice"), "a gas price"),
        paid,
        most,
    )


def _at_most(miner: Address, head: Mapping[str, Any], answers: Sequence[Any]) -> int | None:
    """What the fee recipient's balance grew by beyond priority fees and withdrawals; None where that says nothing."""
    if len(answers) != 3 or any(isinstance(answer, Refusal) for answer in answers) or not isinstance(answers[0], list):
        return None
    receipts, before, after = answers
    base_fee = quantity(head.get("baseFeePerGas") or "0x0", "a base fee")
    fees = 0
    for receipt in receipts:
        if str(receipt.get("from", "")).lower() == miner:
            return None
        price = quantity(receipt.get("effectiveGasPrice"), "a gas price")
        fees += (price - base_fee) * quantity(receipt.get("gasUsed"), "gas used")
    gwei = sum(
        quantity(item.get("amount"), "a withdrawal")
        for item in head.get("withdrawals") or ()
        if str(item.get("address", "")).lower() == miner
    )
    grown = quantity(after, "a balance") - quantity(before, "a balance") - fees - gwei * 10**9
    return grown if grown >= 0 else None
