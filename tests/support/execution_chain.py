"""A chain in memory for the sending side: nonces, a pool, receipts, reorganisations; and places to be killed at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from eth_abi.abi import encode

from keeper.chain.refusals import Kind, Refusal, Unanswered
from keeper.errors import BadData, Transient
from keeper.execution.executor import EXECUTOR
from keeper.execution.signer import Unsigned
from keeper.model import (
    Address,
    Attempt,
    Decision,
    Hash,
    Head,
    Order,
    Read,
    Signed,
    TxKind,
    Verdict,
    Watch,
)
from keeper.ports import Ledger

ME = Address("0x" + "a1" * 20)
EXECUTOR_AT = Address("0x" + "e0" * 20)
WETH = Address("0x" + "ee" * 20)
BENEFICIARY = Address("0x" + "be" * 20)
GWEI = 10**9
GAIN = 10**17
_TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

Hook = Callable[[str], None]


class Killed(BaseException):
    """The process dies here: not an Exception, so that no handler of the keeper can survive it."""


def no_hook(place: str) -> None:
    """Nothing happens."""


@dataclass(frozen=True)
class Tx:
    """A decoded raw transaction."""

    sender: Address
    kind: str  # execute, cancel or foreign
    nonce: int
    data: bytes
    max_fee: int
    tip: int
    hash: Hash
    raw: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Tx:
        fields = json.loads(raw)
        tx_hash = Hash("0x" + sha256(raw).hexdigest())
        data = bytes.fromhex(fields["data"])
        return cls(
            Address(fields["sender"]),
            fields["kind"],
            fields["nonce"],
            data,
            fields["max_fee"],
            fields["tip"],
            tx_hash,
            raw,
        )


def encode_tx(sender: Address, kind: str, nonce: int, data: bytes, max_fee: int, tip: int) -> bytes:
    fields = {"sender": sender, "kind": kind, "nonce": nonce, "data": data.hex(), "max_fee": max_fee, "tip": tip}
    return json.dumps(fields).encode()


class FakeSigner:
    """Signs as the fake chain understands it."""

    def __init__(self, address: Address = ME, hook: Hook = no_hook) -> None:
        self.address = address
        self._hook = hook

    async def sign(self, tx: Unsigned) -> Signed:
        self._hook("before sign")
        raw = encode_tx(self.address, str(tx.kind), tx.nonce, tx.data, tx.max_fee, tx.tip)
        self._hook("after sign")
        return Signed(tx.kind, tx.nonce, Tx.decode(raw).hash, raw, tx.gas_limit, tx.max_fee, tx.tip)


@dataclass
class Mined:
    """A block with the state after it."""

    head: Head
    txs: list[Tx]
    receipts: dict[Hash, dict[str, Any]]
    nonces: dict[Address, int]
    done: frozenset[bytes]  # borrowers liquidated so far


@dataclass(frozen=True)
class Said:
    """One endpoint's answer to a raw transaction."""

    hash: Hash | None
    error: Transient | BadData | None = None


@dataclass
class Chain:
    """Calldata of an execution is the borrower (20 bytes) and the settlement id (32 bytes)."""

    blocks: list[Mined] = field(default_factory=list)
    pool: dict[tuple[Address, int], Tx] = field(default_factory=dict)
    handed_out: dict[Hash, Tx] = field(default_factory=dict)  # everything a node was ever given
    forks: int = 0

    def __post_init__(self) -> None:
        self._append([], {}, {}, frozenset())

    @property
    def head(self) -> Head:
        return self.blocks[-1].head

    @property
    def state(self) -> Mined:
        return self.blocks[-1]

    def _append(
        self,
        txs: list[Tx],
        receipts: dict[Hash, dict[str, Any]],
        nonces: dict[Address, int],
        done: frozenset[bytes],
    ) -> None:
        number = len(self.blocks) + 100
        parent = self.blocks[-1].head.hash if self.blocks else Hash("0x" + "00" * 32)
        own = Hash("0x" + sha256(f"{number} {self.forks} {parent}".encode()).hexdigest())
        for receipt in receipts.values():
            receipt["blockHash"] = own
        head = Head(number, own, parent, 1_700_000_000 + 12 * number, 10 * GWEI, 15_000_000, 30_000_000)
        self.blocks.append(Mined(head, txs, receipts, nonces, done))

    def mine(self, wanted: Callable[[Tx], bool] = lambda tx: True) -> Head:
        """A block of what waits in the pool, in nonce order, as far as `wanted` agrees."""
        nonces, done = dict(self.state.nonces), self.state.done
        txs: list[Tx] = []
        receipts: dict[Hash, dict[str, Any]] = {}
        number = len(self.blocks) + 100
        for key in sorted(self.pool):
            tx = self.pool[key]
            if tx.nonce != nonces.get(tx.sender, 0) or not wanted(tx):
                continue
            del self.pool[key]
            nonces[tx.sender] = tx.nonce + 1
            ok = tx.kind != "execute" or tx.data[:20] not in done
            if tx.kind == "execute":
                done |= {tx.data[:20]}
            receipts[tx.hash] = self._receipt(tx, number, ok=ok)
            txs.append(tx)
        self._append(txs, receipts, nonces, done)
        return self.head

    def _receipt(self, tx: Tx, number: int, *, ok: bool) -> dict[str, Any]:
        def log(where: str, topics: list[str], data: bytes, index: int) -> dict[str, Any]:
            return {
                "address": where,
                "topics": topics,
                "data": "0x" + data.hex(),
                "blockNumber": hex(number),
                "logIndex": hex(index),
                "transactionHash": tx.hash,
            }

        def word(who: Address) -> str:
            return "0x" + who[2:].rjust(64, "0")

        logs = []
        if ok and tx.kind == "execute":
            logs.append(log(WETH, [_TRANSFER, word(EXECUTOR_AT), word(BENEFICIARY)], encode(["uint256"], [GAIN]), 0))
            topics = [EXECUTOR.topic("Executed"), "0x" + tx.data[20:52].hex(), word(WETH)]
            logs.append(log(EXECUTOR_AT, topics, encode(["uint256", "uint256"], [GAIN, 0]), 1))
        return {
            "transactionHash": tx.hash,
            "blockNumber": hex(number),
            "status": "0x1" if ok else "0x0",
            "gasUsed": hex(400_000 if tx.kind == "execute" else 21_000),
            "effectiveGasPrice": hex(11 * GWEI),
            "logs": logs,
        }

    def reorganise(self, depth: int, keep: Callable[[Tx], bool] = lambda tx: True) -> None:
        """Replace the newest `depth` blocks by as many empty ones; their transactions wait again if `keep` says so."""
        depth = min(depth, len(self.blocks) - 1)
        gone = self.blocks[len(self.blocks) - depth :]
        del self.blocks[len(self.blocks) - depth :]
        self.forks += 1
        for block in gone:
            for tx in block.txs:
                if keep(tx):
                    self.pool[tx.sender, tx.nonce] = tx
        for _ in range(depth):
            self._append([], {}, dict(self.state.nonces), self.state.done)

    def evict(self, wanted: Callable[[Tx], bool]) -> None:
        """The pool forgets transactions."""
        self.pool = {key: tx for key, tx in self.pool.items() if not wanted(tx)}

    def take(self, raw: bytes) -> Said:
        """A node's answer to a raw transaction."""
        tx = Tx.decode(raw)
        self.handed_out[tx.hash] = tx
        waiting = self.pool.get((tx.sender, tx.nonce))
        if waiting is not None and waiting.hash == tx.hash:
            return Said(None, refuse("already known"))
        if tx.nonce < self.state.nonces.get(tx.sender, 0):
            return Said(None, refuse("nonce too low"))
        if waiting is not None and (tx.max_fee * 10 < waiting.max_fee * 11 or tx.tip * 10 < waiting.tip * 11):
            return Said(None, refuse("replacement transaction underpriced"))
        self.pool[tx.sender, tx.nonce] = tx
        return Said(tx.hash)

    def foreign(self, sender: Address = ME, max_fee: int = 1000 * GWEI) -> Tx:
        """The operator sends something by hand with the keeper's key: it outbids whatever waits at that nonce."""
        raw = encode_tx(sender, "foreign", self.state.nonces.get(sender, 0), b"", max_fee, max_fee)
        tx = Tx.decode(raw)
        self.pool[tx.sender, tx.nonce] = tx
        return tx

    def on_chain(self) -> list[tuple[Tx, Head, bool]]:
        """Every transaction of the present chain with its block and whether it succeeded."""
        return [
            (tx, block.head, block.receipts[tx.hash]["status"] == "0x1") for block in self.blocks for tx in block.txs
        ]

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        if method == "eth_getTransactionCount":
            sender, at = Address(params[0]), params[1]
            if at == "pending":
                count = self.state.nonces.get(sender, 0)
                while (sender, count) in self.pool:
                    count += 1
                return hex(count)
            found = [block for block in self.blocks if block.head.hash == at["blockHash"]]
            if not found:
                raise refuse("header not found", Kind.BEHIND)
            return hex(found[0].nonces.get(sender, 0))
        if method == "eth_getTransactionReceipt":
            return next((b.receipts[params[0]] for b in self.blocks if params[0] in b.receipts), None)
        if method == "eth_getTransactionByHash":
            tx = self.handed_out[params[0]]
            return {"from": tx.sender, "to": EXECUTOR_AT, "input": "0x" + tx.data.hex(), "gas": "0x5208"}
        if method == "eth_call":
            data = bytes.fromhex(params[0]["input"][2:])
            block = self.blocks[int(params[1], 16) - 100]
            if data[:20] in block.done:
                raise Refusal(Kind.REVERT, 3, "execution reverted", "fake", bytes.fromhex("1f8eea5b"))
            return "0x" + encode(["uint256"], [GAIN]).hex()
        raise AssertionError(f"the fake chain does not know {method}")


def refuse(reason: str, kind: Kind = Kind.OTHER) -> Refusal:
    return Refusal(kind, -32000, reason, "fake")


class FakeClient:
    """One endpoint of the chain. `fate` decides what happens to each raw transaction."""

    def __init__(self, chain: Chain, hook: Hook = no_hook) -> None:
        self.chain = chain
        self.hook = hook
        self.fate: Callable[[Tx], str] = lambda tx: "deliver"
        self.requests: list[str] = []

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        return (await self.batch([(method, params)]))[0]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.hook("before read")
        self.requests += [method for method, _ in calls]
        answers = [self.chain.answer(method, params) for method, params in calls]
        self.hook("after read")
        return answers

    async def send_raw(self, raw: bytes) -> list[Said]:
        self.hook("before send")
        tx = Tx.decode(raw)
        fate = self.fate(tx)
        if fate == "lost":
            answer = Said(None, Unanswered("the node did not answer"))
        elif fate == "delivered unanswered":
            self.chain.take(raw)
            answer = Said(None, Unanswered("the node did not answer"))
        elif fate == "deliver":
            answer = self.chain.take(raw)
        else:
            answer = Said(None, refuse(fate))
        self.hook("after send")
        return [answer]

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        raise AssertionError("the sending side reads no views")

    def logs(self, watch: Watch, first: int, last: int) -> Any:
        raise AssertionError("the sending side reads no logs")


class HookedLedger:
    """A ledger between whose steps the process can be killed."""

    def __init__(self, inner: Ledger, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook

    async def record_pass(self, head: Head, decisions: Sequence[Decision]) -> None:
        self._hook("before record_pass")
        await self._inner.record_pass(head, decisions)
        self._hook("after record_pass")

    async def intend(self, order: Order, signer: Address, nonce: int) -> Attempt:
        self._hook("before intend")
        attempt = await self._inner.intend(order, signer, nonce)
        self._hook("after intend")
        return attempt

    async def signed(self, attempt_id: str, tx: Signed) -> None:
        self._hook("before signed")
        await self._inner.signed(attempt_id, tx)
        self._hook("after signed")

    async def resimulated(self, order: Order) -> None:
        self._hook("before resimulated")
        await self._inner.resimulated(order)
        self._hook("after resimulated")

    async def sent(self, attempt_id: str, number: int) -> None:
        self._hook("before sent")
        await self._inner.sent(attempt_id, number)
        self._hook("after sent")

    async def spent(self, signer: Address) -> int:
        return await self._inner.spent(signer)

    async def record(self, verdicts: Sequence[Verdict]) -> None:
        self._hook("before record")
        await self._inner.record(verdicts)
        self._hook("after record")

    async def unsettled(self) -> list[Attempt]:
        return await self._inner.unsettled()


def an_order(head: Head, borrower: bytes, attempt_id: str, max_fee: int = 50 * GWEI, tip: int = GWEI) -> Order:
    """An order for `borrower` as the fake chain executes it."""
    return Order(
        id=attempt_id,
        market="market",
        borrower=Address("0x" + borrower.hex()),
        to=EXECUTOR_AT,
        data=borrower + bytes.fromhex(attempt_id[2:]),
        gas_limit=500_000,
        max_fee=max_fee,
        tip=tip,
        head=head,
        predicted_gain=GAIN,
        predicted_gas=400_000,
        predicted_net=GAIN - 400_000 * 11 * GWEI,
        plan={"debt": "USDC", "repay": "1000000000"},
    )


__all__ = [
    "BENEFICIARY",
    "EXECUTOR_AT",
    "GAIN",
    "GWEI",
    "ME",
    "WETH",
    "Chain",
    "FakeClient",
    "FakeSigner",
    "HookedLedger",
    "Killed",
    "Said",
    "Tx",
    "TxKind",
    "an_order",
    "encode_tx",
    "no_hook",
    "refuse",
]
