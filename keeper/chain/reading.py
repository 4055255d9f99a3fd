"""Views pinned to one block hash, bundled; falls back step by step to what a node supports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeper.chain import wire
from keeper.chain.multicall import AGAIN, Packer, capacity, pack, request_size, unpack
from keeper.chain.pool import Endpoint
from keeper.chain.providers import Call
from keeper.chain.refusals import Kind, Refusal
from keeper.errors import Transient
from keeper.model import ZERO_ADDRESS, Head, Read

_UNMADE: Any = object()
_ROUNDS = 24  # each one halves bundles or learns something about the node, so this is never reached by a sane one


class Reading:
    """The views of one pass at one endpoint: `calls()` is what to send next, `take()` what came back.

    Identical views are made once. A view that reverts, or that alone exceeds the node's gas cap, answers None.
    """

    def __init__(self, endpoint: Endpoint, packer: Packer, reads: Sequence[Read], at: Head) -> None:
        self._endpoint = endpoint
        self._packer = packer
        self._at = at
        self._wanted = list(reads)
        self._reads = list(dict.fromkeys(reads))
        self._answers: dict[Read, Any] = dict.fromkeys(self._reads, _UNMADE)
        self._todo = self._bundles(range(len(self._reads)))
        self._pinned_by_number = False

    @property
    def done(self) -> bool:
        """Every view has its answer."""
        return not self._todo

    def answers(self) -> list[bytes | None]:
        """In the order of the reads given; only when `done`."""
        return [self._answers[read] for read in self._wanted]

    def calls(self) -> list[Call]:
        """The JSON-RPC calls of the next round."""
        if not self._todo:
            return []
        calls = [self._call(bundle) for bundle in self._todo]
        self._pinned_by_number = not self._endpoint.by_hash
        if self._pinned_by_number:  # the number is trusted only if it has our hash before and after
            header = ("eth_getBlockByNumber", [hex(self._at.number), False])
            calls = [header, *calls, header]
        return calls

    def take(self, results: Sequence[Any]) -> Refusal | None:
        """Take the results of `calls()`, in order; what is still open remains in `calls()`.

        Returns a refusal that only `learn` can explain; raises the ones that concern the node or the block.
        """
        if self._pinned_by_number:
            for raw in (results[0], results[-1]):
                if isinstance(raw, Refusal):
                    raise raw
                if wire.head(raw).hash != self._at.hash:
                    raise Transient(f"block {self._at.number} was reorganised while it was read")
            results = results[1:-1]
        todo, self._todo = self._todo, []
        puzzling: Refusal | None = None
        for bundle, result in zip(todo, results, strict=True):
            if isinstance(result, Refusal):
                puzzling = self._refused(bundle, result) or puzzling
            elif len(bundle) == 1:
                self._answers[self._reads[bundle[0]]] = self._learned(bundle[0], wire.data_bytes(result, "a view"))
            else:
                self._unpack(bundle, wire.data_bytes(result, "bundled views"))
        return puzzling

    def _unpack(self, bundle: list[int], answer: bytes) -> None:
        open_again: list[int] = []
        for index, item in zip(bundle, unpack(answer, len(bundle)), strict=True):
            if item is AGAIN:
                open_again.append(index)
            else:
                self._answers[self._reads[index]] = item if item is None else self._learned(index, item)
        if len(open_again) == len(bundle):
            self._halve(bundle)
        elif open_again:
            # The first of them is the likely glutton: alone it has all the gas and no limit on its answer.
            self._todo.append(open_again[:1])
            self._todo.extend(self._bundles(open_again[1:]))

    def _refused(self, bundle: list[int], error: Refusal) -> Refusal | None:
        if error.kind in (Kind.REVERT, Kind.GAS) and len(bundle) == 1:
            self._answers[self._reads[bundle[0]]] = None
            return None
        if error.kind in (Kind.REVERT, Kind.GAS, Kind.RANGE) and len(bundle) > 1:
            if error.kind is Kind.GAS:
                self._endpoint.views = max(min(self._endpoint.views, len(bundle)) // 2, 1)
            self._halve(bundle)
            return None
        if error.kind in (Kind.INVALID, Kind.UNSUPPORTED, Kind.OTHER):
            self._todo.append(bundle)
            return error
        raise error

    def split(self) -> None:
        """Drop to what the endpoint is now known to support."""
        self._todo = self._bundles([index for bundle in self._todo for index in bundle])

    def _halve(self, bundle: list[int]) -> None:
        middle = len(bundle) // 2
        self._todo.extend(part for part in (bundle[:middle], bundle[middle:]) if part)

    def _bundles(self, indices: Sequence[int]) -> list[list[int]]:
        if not self._endpoint.deployless:
            return [[index] for index in indices]
        small = [i for i in indices if request_size(self._reads[i]) <= capacity()]
        large = [[i] for i in indices if request_size(self._reads[i]) > capacity()]
        packed = self._packer.bundles([self._reads[i] for i in small], self._endpoint.views)
        return [[small[i] for i in bundle] for bundle in packed] + large

    def _call(self, bundle: list[int]) -> Call:
        if len(bundle) == 1:
            read = self._reads[bundle[0]]
            what = {"to": read.to, "data": "0x" + read.data.hex()}
        else:
            what = {"data": "0x" + pack([self._reads[index] for index in bundle]).hex()}
        return ("eth_call", [what, block_parameter(self._endpoint, self._at)])

    def _learned(self, index: int, answer: bytes) -> bytes:
        self._packer.learn(self._reads[index], len(answer))
        return answer


def block_parameter(endpoint: Endpoint, at: Head) -> Any:
    """EIP-1898: the block by hash, and only while canonical; the number where the node does not take hashes."""
    return {"blockHash": at.hash, "requireCanonical": True} if endpoint.by_hash else hex(at.number)


async def learn(endpoint: Endpoint, at: Head) -> bool:
    """Find out whether the node takes deployless calls and block hashes; True when that is news."""
    trivial = {"to": ZERO_ADDRESS, "data": "0x"}
    results = await endpoint.ask(
        [
            ("eth_call", [trivial, hex(at.number)]),
            ("eth_call", [trivial, {"blockHash": at.hash, "requireCanonical": True}]),
            ("eth_call", [{"data": "0x" + pack([]).hex()}, hex(at.number)]),
        ]
    )
    if isinstance(results[0], Refusal):
        raise results[0]
    before = (endpoint.by_hash, endpoint.deployless)
    if isinstance(results[1], Refusal) and results[1].kind is not Kind.BEHIND:
        endpoint.by_hash = False
    if isinstance(results[2], Refusal):
        endpoint.deployless = False
    return before != (endpoint.by_hash, endpoint.deployless)


async def finish(endpoint: Endpoint, reading: Reading, at: Head, puzzling: Refusal | None = None) -> list[bytes | None]:
    """Run a reading to its end, after a first round whose `take` returned `puzzling`."""
    for _ in range(_ROUNDS):
        if puzzling is not None:
            if not await learn(endpoint, at):
                raise puzzling
            reading.split()
        if reading.done:
            return reading.answers()
        calls = reading.calls()
        results: list[Any] = []
        for start in range(0, len(calls), endpoint.calls):
            results += await endpoint.ask(calls[start : start + endpoint.calls])
        puzzling = reading.take(results)
    raise Transient(f"{endpoint.label} did not answer {len(reading.calls())} views in {_ROUNDS} rounds")
