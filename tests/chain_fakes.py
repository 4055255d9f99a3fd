"""A chain without sockets: blocks that fork, a node that answers for them, a mirror whose truth is easy to compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw
from msgspec.json import encode

from keeper.chain.multicall import MAX_ANSWER, init_code
from keeper.chain.providers import Call, Notify
from keeper.chain.refusals import Refusal, refusal
from keeper.errors import BadData
from keeper.model import Address, Block, Hash, Head, Log, Read, Skip, Watch
from keeper.ports import Client
from keeper.rewind import Rewind

FACTORY = Address("0x" + "fa" * 20)
CREATED = "0x" + "c1" * 32  # data: the address of a new contract
VALUE = "0x" + "d1" * 32  # data: anything
DIRTY = "0x" + "e1" * 32  # makes the mirror ask for a refresh
ORACLE = Address("0x" + "0a" * 20)


def digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).hexdigest()


def child_address(number: int) -> Address:
    return Address("0x" + f"{number:040x}")


class FakeChain:
    """A tree of blocks; `canonical` is the branch the node shows."""

    def __init__(self, chain_id: int = 1) -> None:
        self.chain_id = chain_id
        genesis = Head(0, Hash("0x" + digest("genesis", chain_id)), Hash("0x" + "00" * 32), 1_000, 10)
        self.blocks: dict[str, Block] = {genesis.hash: Block(genesis, ())}
        self.canonical: list[Hash] = [genesis.hash]
        self._salt = 0

    @property
    def head(self) -> Head:
        return self.blocks[self.canonical[-1]].head

    def at(self, number: int) -> Block:
        return self.blocks[self.canonical[number]]

    def branch(self) -> list[Block]:
        return [self.blocks[h] for h in self.canonical]

    def mine(self, logs: Sequence[tuple[Address, str, bytes]] = ()) -> Head:
        self._salt += 1
        parent = self.head
        number = parent.number + 1
        block_hash = Hash("0x" + digest(parent.hash, self._salt))
        head = Head(number, block_hash, parent.hash, parent.timestamp + 12, 10)
        made = tuple(
            Log(address, (topic,), data, number, index, Hash("0x" + digest(block_hash, index)))
            for index, (address, topic, data) in enumerate(logs)
        )
        self.blocks[block_hash] = Block(head, made)
        self.canonical.append(block_hash)
        return head

    def drop(self, depth: int) -> None:
        """Take the newest `depth` blocks off the canonical branch."""
        del self.canonical[len(self.canonical) - depth :]

    def is_canonical(self, block_hash: str) -> bool:
        block = self.blocks.get(block_hash)
        return (
            block is not None
            and block.head.number < len(self.canonical)
            and self.canonical[block.head.number] == block_hash
        )


def view(block: Head, read: Read) -> bytes | None:
    """What every contract of the fake chain answers: something that depends on block, target and data."""
    if read.data[:1] == b"\xff":
        return None
    if read.data[:1] == b"\xee":
        return b"\x01" * int.from_bytes(read.data[1:4], "big")
    return bytes.fromhex(digest(block.hash, read.to, read.data))


class FakeNode:
    """A `Link` onto a FakeChain. `fault` sees each message first and may raise or return an answer in its place."""

    def __init__(self, chain: FakeChain, label: str = "fake", push: bool = False) -> None:
        self.chain = chain
        self.label = label
        self._push = push
        self.fault: Callable[[Sequence[Call]], list[Any] | None] = lambda calls: None
        self.log_fault: Callable[[dict[str, Any], list[Any]], list[Any] | Refusal] = lambda condition, logs: logs
        self.messages: list[list[str]] = []
        self.lag = 0  # blocks this node is behind the chain
        self.deployless = True
        self.by_hash = True
        self.views_most = 10_000
        self.subscribers: list[Notify] = []
        self.closed = False

    @property
    def push(self) -> bool:
        return self._push

    async def call(self, calls: Sequence[Call], *, within: float | None = None) -> list[Any]:
        self.messages.append([method for method, _ in calls])
        answer = self.fault(calls)
        return answer if answer is not None else [self._one(method, params) for method, params in calls]

    async def subscribe(self, params: Sequence[Any], notify: Notify) -> str:
        self.subscribers.append(notify)
        return hex(len(self.subscribers))

    async def close(self) -> None:
        self.closed = True

    def announce(self) -> None:
        for notify in self.subscribers:
            notify(raw_head(self.chain.at(self._top()).head))

    def refuse(self, code: int, message: str, data: Any = None) -> Refusal:
        return refusal({"code": code, "message": message, "data": data}, self.label)

    def _top(self) -> int:
        return max(len(self.chain.canonical) - 1 - self.lag, 0)

    def _one(self, method: str, params: Sequence[Any]) -> Any:
        if method == "eth_chainId":
            return hex(self.chain.chain_id)
        if method == "eth_getBlockByNumber":
            number = self._top() if params[0] == "latest" else int(params[0], 16)
            return raw_head(self.chain.at(number).head) if number <= self._top() else None
        if method == "eth_getBlockByHash":
            block = self.chain.blocks.get(params[0])
            return raw_head(block.head) if block is not None else None
        if method == "eth_getLogs":
            logs = self._logs(params[0])
            return logs if isinstance(logs, Refusal) else Raw(encode(logs))  # text, as a connection hands it on
        if method == "eth_call":
            return self._call(*params)
        if method == "eth_sendRawTransaction":
            return "0x" + digest(params[0])
        if method == "eth_unsubscribe":
            return True
        return self.refuse(-32601, "the method does not exist/is not available")

    def _logs(self, condition: dict[str, Any]) -> Any:
        if "blockHash" in condition:
            if condition["blockHash"] not in self.chain.blocks:
                return self.refuse(-32000, "unknown block")
            chosen = [self.chain.blocks[condition["blockHash"]]]
        else:
            first, last = int(condition["fromBlock"], 16), int(condition["toBlock"], 16)
            chosen = [b for b in self.chain.branch()[: self._top() + 1] if first <= b.head.number <= last]
        found = [
            raw_log(block, log)
            for block in chosen
            for log in block.logs
            if log.address in condition["address"] and log.topics[0] in condition["topics"][0]
        ]
        return self.log_fault(condition, found)

    def _call(self, what: dict[str, str], at: Any) -> Any:
        if isinstance(at, dict):
            if not self.by_hash:
                return self.refuse(-32602, "invalid argument 1: hex string expected")
            if not self.chain.is_canonical(at["blockHash"]):
                return self.refuse(-32000, "header not found")
            block = self.chain.blocks[at["blockHash"]].head
        else:
            if int(at, 16) > self._top():
                return self.refuse(-32000, "header not found")
            block = self.chain.at(int(at, 16)).head
        data = bytes.fromhex(what["data"][2:])
        if "to" in what:
            answer = view(block, Read(Address(what["to"]), data))
            return self.refuse(3, "execution reverted", "0x") if answer is None else "0x" + answer.hex()
        if not self.deployless:
            return self.refuse(-32602, "missing field `to`")
        return self._bundle(block, data)

    def _bundle(self, block: Head, data: bytes) -> Any:
        if len(data) > 49_152:
            return self.refuse(-32000, "max initcode size exceeded")
        arguments = data[len(init_code()) :]
        size = int.from_bytes(arguments[64:96], "big")
        packed, out, cursor, count = arguments[96 : 96 + size], b"\0", 0, 0
        while cursor < len(packed):
            target = Address("0x" + packed[cursor : cursor + 20].hex())
            length = int.from_bytes(packed[cursor + 20 : cursor + 23], "big")
            answer = view(block, Read(target, packed[cursor + 23 : cursor + 23 + length]))
            cursor += 23 + length
            count += 1
            if answer is None:
                out += b"\0\0\0\0"
            elif len(out) + 4 + len(answer) > MAX_ANSWER:
                out += b"\2\0\0\0"
            else:
                out += b"\1" + len(answer).to_bytes(3, "big") + answer
        if count > self.views_most:
            return self.refuse(-32000, "out of gas: gas required exceeds: 50000000")
        return "0x" + out.hex()


def raw_head(head: Head) -> dict[str, Any]:
    return {
        "number": hex(head.number),
        "hash": head.hash,
        "parentHash": head.parent_hash,
        "timestamp": hex(head.timestamp),
        "baseFeePerGas": hex(head.base_fee),
        "gasUsed": hex(head.gas_used),
        "gasLimit": hex(head.gas_limit),
    }


def raw_log(block: Block, log: Log) -> dict[str, Any]:
    return {
        "address": log.address,
        "topics": list(log.topics),
        "data": "0x" + log.data.hex(),
        "blockNumber": hex(log.block_number),
        "blockHash": block.head.hash,
        "logIndex": hex(log.log_index),
        "transactionHash": log.tx_hash,
        "removed": False,
    }


class FakeMirror:
    """Its state is one running digest per watched contract; contracts appear by a `CREATED` log of the factory."""

    def __init__(self, name: str = "mirror", history_from: int | None = 1, start: tuple[Address, ...] = ()) -> None:
        self.name = name
        self._history_from = history_from
        self._start = start
        self.digests: dict[Address, str] = {FACTORY: "", **dict.fromkeys(start, "")}
        self.undo = Rewind(128)
        self.seen: list[tuple[Head, bytes | None]] = []
        self.refreshed: dict[str, str] = {"at": ""}
        self.flags = {"dirty": False}
        self.distrusted: list[str] = []
        self.loads = 0
        self.poison: bytes | None = None  # a VALUE log with this data cannot be understood
        self.trusted = False

    @property
    def history_from(self) -> int | None:
        return self._history_from

    @property
    def dirty(self) -> bool:
        return self.flags["dirty"]

    def watch(self) -> Watch:
        return Watch(frozenset(self.digests), frozenset({CREATED, VALUE, DIRTY}))

    def reads(self) -> tuple[Read, ...]:
        # One view more for every second contract, so that the views change with the state.
        return tuple(Read(ORACLE, bytes([i])) for i in range(1 + len(self.digests) // 2))

    def apply(self, block: Block) -> None:
        self.undo.begin(block.head.number)
        for log in block.logs:
            self._take(log)

    def replay(self, logs: Sequence[Log]) -> None:
        for log in logs:
            self._take(log)

    def _take(self, log: Log) -> None:
        if log.address not in self.digests:
            raise BadData(f"a log of {log.address}, which is not watched")
        if self.poison is not None and log.data == self.poison:
            raise BadData("a poisonous log")
        self.undo.set(self.digests, log.address, fold(self.digests[log.address], log))
        if log.topics[0] == CREATED and log.address == FACTORY:
            child = Address("0x" + log.data.hex())
            if child not in self.digests:
                self.undo.set(self.digests, child, "")
        if log.topics[0] == DIRTY:
            self.undo.set(self.flags, "dirty", True)

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        assert len(answers) == len(self.reads())
        for read, answer in zip(self.reads(), answers, strict=True):
            assert answer == view(head, read), "an answer from another block"
        self.seen.append((head, answers[0]))

    async def refresh(self, client: Client, head: Head) -> None:
        (answer,) = await client.read([Read(ORACLE, b"refresh")], head)
        assert answer == view(head, Read(ORACLE, b"refresh"))
        self.flags["dirty"] = False

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        return None

    def rewind(self, number: int) -> None:
        self.undo.back(number)

    async def load(self, client: Client, head: Head) -> None:
        (answer,) = await client.read([Read(ORACLE, b"load")], head)
        assert answer == view(head, Read(ORACLE, b"load"))
        self.loads += 1
        self.digests = {FACTORY: "", **dict.fromkeys(self._start, "")}
        self.flags = {"dirty": False}
        self.undo.clear()
        self.trusted = True

    def distrust(self, reason: str) -> None:
        self.distrusted.append(reason)
        self.trusted = False

    def snapshot(self) -> bytes:
        return json.dumps([self.name, self.digests, self.flags]).encode()

    def restore(self, data: bytes) -> None:
        try:
            name, digests, flags = json.loads(data)
        except ValueError as error:
            raise BadData("not a snapshot") from error
        if name != self.name:
            raise BadData("a snapshot of another mirror")
        self.digests, self.flags = digests, flags
        self.undo.clear()
        self.trusted = True


def fold(before: str, log: Log) -> str:
    return digest(before, log.address, log.topics, log.data, log.block_number, log.log_index, log.tx_hash)


def truth(chain: FakeChain, mirror: FakeMirror, head: Head) -> dict[Address, str]:
    """The state of a mirror that read the canonical branch from the beginning to `head`."""
    assert chain.is_canonical(head.hash)
    digests: dict[Address, str] = {FACTORY: "", **dict.fromkeys(mirror._start, "")}
    for block in chain.branch()[: head.number + 1]:
        for log in block.logs:
            if log.address in digests:
                digests[log.address] = fold(digests[log.address], log)
                if log.topics[0] == CREATED and log.address == FACTORY:
                    digests.setdefault(Address("0x" + log.data.hex()), "")
    return digests


class FakeAlerter:
    def __init__(self) -> None:
        self.alerts: list[tuple[str, str]] = []

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        self.alerts.append((name, message))
