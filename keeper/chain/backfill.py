"""Logs over long ranges of blocks, in order and without gaps, in steps as large as the node allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from keeper.chain import wire
from keeper.chain.pool import Endpoint, Pool
from keeper.chain.providers import Call
from keeper.chain.refusals import Kind, Refusal, Unanswered, suggested_last
from keeper.errors import Transient
from keeper.model import Address, Log, Watch

Range = tuple[int, int, list[Log]]

_SLOW = 5.0  # seconds; a range that took longer is not made larger
_MANY = 3_000  # logs; likewise: their text is held in memory, and taken apart in one go
_AT_ONCE = 500  # logs made before others have their turn


class Backfill:
    """``eth_getLogs`` over ranges. What a node allows is remembered with its endpoint."""

    def __init__(self, pool: Pool, *, ahead: int = 4) -> None:
        self._pool = pool
        self._ahead = ahead
        self._decoding = asyncio.Lock()

    async def ranges(self, watch: Watch, first: int, last: int) -> AsyncGenerator[Range, None]:
        """Ranges (first, last, logs) that cover `first`…`last` exactly once, in order; several are fetched ahead.

        Raises Transient or BadData when a range cannot be had from any endpoint; nothing is ever skipped.
        """
        if first > last:
            return
        if not watch.addresses or not watch.topics:
            yield first, last, []
            return
        todo = [_Piece(first, last)]  # contiguous, in order: all that was not yielded yet
        try:
            while todo:
                found = await self._begin(watch, todo)
                piece = todo.pop(0)
                if found[1] < piece.last:  # the node allowed less than was asked for
                    todo.insert(0, _Piece(found[1] + 1, piece.last))
                if todo:
                    self._begin(watch, todo)  # while what was found is worked on
                yield found
        finally:
            tasks = [piece.task for piece in todo if piece.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, watch: Watch, todo: list[_Piece]) -> asyncio.Task[Range]:
        """Have the first few pieces fetched, each no longer than is allowed now; returns the first one's task."""
        span = max((e.span for e in self._pool.candidates()[:1]), default=1)
        place = 0
        while place < min(self._ahead, len(todo)):
            piece = todo[place]
            if piece.task is None:
                end = min(piece.last, piece.first + span - 1)
                if end < piece.last:
                    todo.insert(place + 1, _Piece(end + 1, piece.last))
                    piece.last = end
                work = partial(_fetch, watch=watch, first=piece.first, last=end, decoding=self._decoding)
                piece.task = asyncio.create_task(self._pool.run(work))
            place += 1
        assert todo[0].task is not None
        return todo[0].task


@dataclass(slots=True, eq=False)
class _Piece:
    """Some of the blocks, and who fetches their logs."""

    first: int
    last: int
    task: asyncio.Task[Range] | None = None


async def _fetch(endpoint: Endpoint, watch: Watch, first: int, last: int, decoding: asyncio.Lock) -> Range:
    """One range beginning at `first` that this endpoint answers, made smaller until it does.

    Answers are taken apart one at a time: several that came at once would hold everything else up together.
    """
    end = min(last, first + endpoint.span - 1)
    while True:
        groups = address_groups(watch, endpoint)
        calls: list[Call] = [_call(group, watch, first, end) for group in groups]
        # A node that lacks the range's last block would answer with fewer logs and no error.
        calls.append(("eth_getBlockByNumber", [hex(end), False]))
        started = time.monotonic()
        try:
            results = await _send(endpoint, calls)
            seconds = time.monotonic() - started
            header = wire.head(results[-1], f"block {end}")
            async with decoding:
                await asyncio.sleep(0)
                answers = [wire.entries(raw) for raw in results[:-1]]
                if end > first and any(_looks_truncated(len(answer)) for answer in answers):
                    end = first + (end - first) // 2
                    continue
                found = await _logs(list(chain.from_iterable(answers)), watch, first, end)
            if header.number != end:
                raise Transient(f"{endpoint.label} answered block {header.number} where block {end} was asked for")
        except Refusal as error:
            if error.kind is not Kind.RANGE:
                raise
            end = _smaller(endpoint, watch, first, end, error)
            continue
        except Unanswered:
            # A query that is too heavy often ends in silence; the next try, perhaps elsewhere, is a smaller one.
            endpoint.span = max((end - first + 1) // 2, 1)
            raise
        _grow(endpoint, end - first + 1, len(found), seconds)
        return first, end, found


async def _send(endpoint: Endpoint, calls: Sequence[Call]) -> list[Any]:
    results: list[Any] = []
    for start in range(0, len(calls), endpoint.calls):
        try:
            part = await endpoint.ask(calls[start : start + endpoint.calls])
        except Refusal as error:
            # Refused as a whole: it may be the batch that is too large, or one of its parts.
            if error.kind not in (Kind.RANGE, Kind.INVALID, Kind.UNSUPPORTED) or len(calls) == 1:
                raise
            part = [(await endpoint.ask([call]))[0] for call in calls[start : start + endpoint.calls]]
        results += part
    for result in results:
        if isinstance(result, Refusal):
            raise result
    return results


def address_groups(watch: Watch, endpoint: Endpoint) -> list[list[Address]]:
    """The watched addresses in filters no longer than the endpoint takes."""
    addresses = sorted(watch.addresses)
    return [addresses[i : i + endpoint.addresses] for i in range(0, len(addresses), endpoint.addresses)]


def _call(group: list[Address], watch: Watch, first: int, end: int) -> Call:
    condition = {**wire.log_filter(watch, group), "fromBlock": hex(first), "toBlock": hex(end)}
    return ("eth_getLogs", [condition])


async def _logs(answer: list[wire.Entry], watch: Watch, first: int, last: int) -> list[Log]:
    """The answer as logs; others have their turn meanwhile."""
    logs = wire.Logs(watch, first, last)
    for start in range(0, len(answer), _AT_ONCE):
        await asyncio.sleep(0)
        logs.take(answer[start : start + _AT_ONCE])
    return logs.all()


def _looks_truncated(count: int) -> bool:
    """Some proxies cut an answer at a round number instead of refusing it; such a one is asked for again in halves."""
    return count >= 1_000 and count % 1_000 == 0


def _smaller(endpoint: Endpoint, watch: Watch, first: int, end: int, error: Refusal) -> int:
    """The end of the next, smaller range; raises `error` when nothing can be made smaller."""
    span = end - first + 1
    complains_of_addresses = "address" in error.reason.lower()
    if endpoint.addresses > 1 and len(watch.addresses) > 1 and (complains_of_addresses or span == 1):
        endpoint.addresses = max(min(endpoint.addresses, len(watch.addresses)) // 2, 1)
        return end
    if span == 1:
        # As small as it gets: from here on it is this endpoint's failure, and another one's turn.
        raise Refusal(Kind.OTHER, error.code, f"{error.reason} (for the single block {first})", endpoint.label)
    endpoint.span_ceiling = min(endpoint.span_ceiling, span - 1)
    hint = suggested_last(error.reason, first)
    if hint is not None and hint < end:
        endpoint.span = hint - first + 1
        return hint
    endpoint.span = span // 2
    return first + endpoint.span - 1


def _grow(endpoint: Endpoint, span: int, logs: int, seconds: float) -> None:
    if span < endpoint.span:
        return  # the end of the history, or a range already cut: says nothing about the limit
    if seconds > _SLOW or logs > _MANY:
        endpoint.span = max(span * 3 // 4, 1)
        return
    # The ceiling was set by one dense or unlucky range: it gives way slowly, so that sparse history stays fast.
    endpoint.span_ceiling += max(endpoint.span_ceiling // 64, 1)
    endpoint.span = min(span * 2, endpoint.span_ceiling, endpoint.span_most)
