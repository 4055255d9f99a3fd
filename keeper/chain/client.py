"""The node as adapters see it: `NodeClient` satisfies `ports.Client` over one or several endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from keeper.chain import wire
from keeper.chain.backfill import Backfill, Range, address_groups
from keeper.chain.connection import Connection, Link, Stats, masked
from keeper.chain.multicall import Packer
from keeper.chain.pool import Endpoint, Pool
from keeper.chain.providers import Call
from keeper.chain.reading import Reading, finish
from keeper.chain.refusals import Kind, Refusal
from keeper.errors import BadData, ConfigError, KeeperError, Transient
from keeper.model import Block, Hash, Head, Read, Watch


@dataclass(frozen=True, slots=True)
class Sent:
    """What one endpoint said to a raw transaction: its hash, or why not."""

    endpoint: str
    hash: Hash | None
    error: KeeperError | None = None


class NodeClient:
    """Reads with failover and bounded retries; sends exactly once per endpoint.

    Reads are retried because asking twice is harmless. `send_raw` never is: whether to send again is decided by whoever
    owns the nonce.
    """

    def __init__(self, links: Sequence[Link], *, stats: Stats | None = None, **pool: Any) -> None:
        """`pool` takes the options of `Pool`: chain_id, max_lag (blocks), max_age (seconds), attempts, …"""
        self.stats = stats if stats is not None else Stats()
        self.pool = Pool(links, **pool)
        self._packer = Packer()
        self._backfill = Backfill(self.pool)

    @classmethod
    def connect(
        cls,
        urls: Sequence[str],
        *,
        chain_id: int | None = None,
        timeout: float = 20.0,
        in_flight: int = 32,
        **pool: Any,
    ) -> Self:
        """A client over URLs in order of preference; nothing is opened before `start` or the first request."""
        stats = Stats()
        links: list[Link] = []
        for url in urls:
            same = sum(1 for link in links if link.label.partition(" #")[0] == masked(url))
            label = f"{masked(url)} #{same + 1}" if same else masked(url)
            links.append(
                Connection(url, chain_id=chain_id, timeout=timeout, in_flight=in_flight, stats=stats, label=label)
            )
        return cls(links, stats=stats, chain_id=chain_id, **pool)

    @property
    def chain_id(self) -> int | None:
        """The chain every endpoint must be on; known after `start`."""
        return self.pool.chain_id

    @property
    def round_trips(self) -> int:
        """Messages sent so far, over all endpoints; a batch is one."""
        return sum(endpoint.round_trips for endpoint in self.pool.endpoints)

    async def start(self) -> None:
        """First contact; raises ConfigError on the wrong chain, Unreachable when nobody answers."""
        await self.pool.start()

    async def close(self) -> None:
        """Close every connection; idempotent."""
        await asyncio.gather(*(endpoint.link.close() for endpoint in self.pool.endpoints))

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------- requests

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        """One JSON-RPC request, raw result. Raises Refusal (`.kind`, `.data`), Transient or BadData."""
        return (await self.batch([(method, params)]))[0]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Several requests in one round trip; the first error among them is raised.

        A batch with an ``eth_send…`` in it goes to one endpoint, once.
        """
        if not calls:
            return []
        if any(method.startswith("eth_send") for method, _ in calls):
            return await self.pool.once(lambda endpoint: _all_good(endpoint, calls))
        return await self.pool.run(lambda endpoint: _all_good(endpoint, calls))

    async def try_batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Several requests in one round trip; what failed for a reason of its own is a `Refusal` in its place.

        Reverts and invalid requests are such reasons; failures of the node are retried like everywhere else.
        """
        if not calls:
            return []
        return await self.pool.run(lambda endpoint: _mostly_good(endpoint, calls))

    async def each(self, method: str, params: Sequence[Any]) -> list[Any]:
        """What every usable endpoint answers to one question: a result or an error. Never raises."""
        return await asyncio.gather(*(_ask(endpoint, method, params) for endpoint in self.pool.candidates()))

    async def send_raw(self, raw: bytes) -> list[Sent]:
        """Hand a signed transaction to every usable endpoint, once each, at the same time. Never raises."""
        return await asyncio.gather(*(_send(endpoint, raw) for endpoint in self.pool.candidates()))

    # --------------------------------------------------------------------------------------------- blocks

    async def head(self) -> Head:
        """The newest header of the best endpoint, after the stale-head guard."""

        async def work(endpoint: Endpoint) -> Head:
            found = wire.head((await _all_good(endpoint, [("eth_getBlockByNumber", ["latest", False])]))[0])
            self.pool.check_head(endpoint, found)
            return found

        return await self.pool.run(work)

    async def header(self, block: int | Hash) -> Head:
        """The header of a block by number or hash; raises Transient when no endpoint knows it."""
        method = "eth_getBlockByNumber" if isinstance(block, int) else "eth_getBlockByHash"
        parameter = hex(block) if isinstance(block, int) else block

        async def work(endpoint: Endpoint) -> Head:
            return wire.head((await _all_good(endpoint, [(method, [parameter, False])]))[0], f"block {block}")

        found = await self.pool.run(work)
        if block not in (found.number, found.hash):
            raise BadData(f"the node answered block {found.number} {found.hash} where block {block} was asked for")
        return found

    async def headers(self, first: int, last: int) -> list[Head]:
        """The headers of blocks `first`…`last`, each the child of the one before; Transient when they are not."""

        async def work(endpoint: Endpoint) -> list[Head]:
            found: list[Head] = []
            numbers = range(first, last + 1)
            for start in range(0, len(numbers), endpoint.calls):
                part = numbers[start : start + endpoint.calls]
                raws = await _all_good(endpoint, [("eth_getBlockByNumber", [hex(n), False]) for n in part])
                found += [wire.head(raw, f"block {n}") for n, raw in zip(part, raws, strict=True)]
            for number, item in zip(numbers, found, strict=True):
                if item.number != number:
                    raise BadData(f"{endpoint.label} answered block {item.number} where block {number} was asked for")
            for parent, child in pairwise(found):
                if child.parent_hash != parent.hash:
                    raise Transient(f"the chain was reorganised at block {child.number} while its headers were read")
            return found

        return await self.pool.run(work) if first <= last else []

    # ------------------------------------------------------------------------------------ views and logs

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        """View calls pinned to `at.hash`, many in one request; None where the view reverted."""
        return (await self.pass_batch((), Watch(frozenset(), frozenset()), reads, at))[1]

    def logs(self, watch: Watch, first: int, last: int) -> AsyncGenerator[Range, None]:
        """Async iterator of (first, last, list[Log]) ranges, in order and without gaps, both ends included."""
        return self._backfill.ranges(watch, first, last)

    async def pass_batch(
        self, heads: Sequence[Head], watch: Watch, reads: Sequence[Read], at: Head
    ) -> tuple[list[Block], list[bytes | None]]:
        """The logs of every block in `heads`, by hash, and `reads` at `at`: one round trip in steady state."""
        if not reads and (not heads or not watch.addresses or not watch.topics):
            return [Block(head, ()) for head in heads], []

        async def work(endpoint: Endpoint) -> tuple[list[Block], list[bytes | None]]:
            reading = Reading(endpoint, self._packer, reads, at)
            groups = address_groups(watch, endpoint) if watch.topics else []
            filters = [{**wire.log_filter(watch, group), "blockHash": h.hash} for h in heads for group in groups]
            calls: list[Call] = [("eth_getLogs", [condition]) for condition in filters]
            views = reading.calls()
            results = await _in_parts(endpoint, [*calls, *views])
            for result in results[: len(calls)]:
                if isinstance(result, Refusal):
                    raise _for_one_block(result, endpoint)
            puzzling = reading.take(results[len(calls) :]) if views else None
            blocks = []
            for index, item in enumerate(heads):
                found = wire.Logs(watch, item.number, item.number, {item.number: item.hash})
                for raw in results[index * len(groups) : (index + 1) * len(groups)]:
                    found.take(wire.entries(raw))
                blocks.append(Block(item, tuple(found.all())))
            return blocks, await finish(endpoint, reading, at, puzzling)

        return await self.pool.run(work)


async def _in_parts(endpoint: Endpoint, calls: Sequence[Call]) -> list[Any]:
    """Results and refusals of `calls`; more than one round trip only beyond the endpoint's batch limit."""
    results: list[Any] = []
    while len(results) < len(calls):
        part = calls[len(results) : len(results) + endpoint.calls]
        try:
            results += await endpoint.ask(part)
        except Refusal as error:
            if error.kind in (Kind.RANGE, Kind.INVALID, Kind.UNSUPPORTED) and len(part) > 1:
                endpoint.calls = max(len(part) // 2, 1)  # batches of this size are refused as such
                continue
            raise
    return results


async def _all_good(endpoint: Endpoint, calls: Sequence[Call]) -> list[Any]:
    results = await _in_parts(endpoint, calls)
    for result in results:
        if isinstance(result, Refusal):
            raise result
    return results


async def _mostly_good(endpoint: Endpoint, calls: Sequence[Call]) -> list[Any]:
    results = await _in_parts(endpoint, calls)
    for result in results:
        if isinstance(result, Refusal) and result.kind in (Kind.RATE, Kind.BEHIND, Kind.OTHER):
            raise result
    return results


def _for_one_block(error: Refusal, endpoint: Endpoint) -> Refusal:
    """A log filter refused for its size although it covers one block: fewer addresses next time."""
    if error.kind is Kind.RANGE and endpoint.addresses > 1:
        endpoint.addresses = endpoint.addresses // 2
        return Refusal(Kind.BEHIND, error.code, error.reason, endpoint.label)
    return error


async def _ask(endpoint: Endpoint, method: str, params: Sequence[Any]) -> Any:
    try:
        return (await endpoint.ask([(method, params)]))[0]
    except (Transient, BadData, ConfigError) as error:
        return error


async def _send(endpoint: Endpoint, raw: bytes) -> Sent:
    try:
        result = (await endpoint.ask([("eth_sendRawTransaction", ["0x" + raw.hex()])]))[0]
        if isinstance(result, Refusal):
            return Sent(endpoint.label, None, result)
        return Sent(endpoint.label, wire.hash32(result, "a transaction hash"))
    except (Transient, BadData, ConfigError) as error:  # the last: a reconnect that ended on another chain
        return Sent(endpoint.label, None, error)
