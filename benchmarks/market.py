"""The keeper's own parts on a market of many: cold and warm start, and then its passes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.crowd import Crowd, who
from benchmarks.measure import Row, Stall
from benchmarks.passing import passes
from benchmarks.stage import Stage, staged
from keeper.assembly import Assembly, assemble
from keeper.chain.follow import Follower
from keeper.chain.rebuild import Progress
from keeper.devchain.catalogue import MAIN
from keeper.protocols.aave_v3 import AaveV3Book


def _follower(parts: Assembly, save_seconds: float, tell: Any) -> Follower:
    return Follower(
        parts.client,
        [*parts.books, *parts.venues],
        parts.checkpoints,
        parts.alerter,
        undo=parts.config.chain.max_reorg_depth,
        save_seconds=save_seconds,
        progress=tell,
    )


async def cold_start(stage: Stage, folder: Path) -> list[Row]:
    """From nothing, given up half-way, and gone on with: everybody must be there, to the wei."""
    config, users = stage.config(folder), stage.crowd.users
    seen: list[Progress] = []
    pause = users / 40_000
    begun, used = time.perf_counter(), time.process_time()
    async with Stall() as stall:
        async with assemble(config, live=False) as parts:
            parts.follower = _follower(parts, pause, seen.append)
            starting = asyncio.create_task(parts.start())
            while not starting.done():
                await asyncio.sleep(0.005)
                at = next((step for step in reversed(seen) if step.name == MAIN), None)
                if at is not None and at.percent > 50 and [s.number async for s in parts.checkpoints.load(MAIN)]:
                    starting.cancel()
                    await asyncio.gather(starting, return_exceptions=True)
            cut = starting.cancelled()
        first, halfway = seen[0], next((step for step in reversed(seen) if step.name == MAIN), seen[0])
        seen.clear()
        async with assemble(config, live=False) as parts:
            parts.follower = _follower(parts, 3600.0, seen.append)
            await parts.start()
            again = next((step for step in seen if step.name == MAIN), None)
            await _compare(parts, stage.crowd)
            await parts.follower.save()
    own, wall = time.process_time() - used, time.perf_counter() - begun
    resumed = again.first if again is not None else 0
    whole = cut and resumed > first.first
    logs = 13 * users
    note = (
        f"{logs:,} logs in {wall:.1f} s on the clock; cut at {halfway.percent:.0f} %, told {halfway.eta:.1f} s left, "
        f"went on at block {resumed} of {halfway.first}…{halfway.last}; every balance equal"
    )
    return [
        Row("cold start", "own processor time", own, "s", target="≤ 30 s at 100,000; resumed without loss",
            reached=whole and own <= 30.0 if users <= 100_000 else None, size=users, note=note),
        Row("stall", "cold start, interrupted and resumed", stall.busy * 1e3, "ms", target="≤ 50 ms",
            reached=stall.busy <= 0.05, size=users, note=f"{stall.wall * 1e3:.0f} ms on the clock"),
    ]  # fmt: skip


def _book(parts: Assembly) -> AaveV3Book:
    book = next(book for book in parts.books if book.name == MAIN)
    assert isinstance(book, AaveV3Book)
    return book


async def _compare(parts: Assembly, crowd: Crowd) -> None:
    """Raise AssertionError unless the book has exactly the crowd's balances."""
    book = _book(parts)
    assert book.status.trusted, book.status.reason
    ledger = book._ledger  # noqa: SLF001 - a benchmark may look inside
    for user in range(0, crowd.users, max(crowd.users // 20_000, 1)):
        mine = {(r, s): amount for r, s, amount, _ in ledger.supplies_and_debts(ledger.users[who(user)])}
        theirs = zip(crowd.slots[user].tolist(), crowd.amounts[user].tolist(), strict=True)
        assert mine == {(where // 2, where % 2): amount for where, amount in theirs}, who(user)
        if user % 100 == 0:
            await asyncio.sleep(0)  # what this takes is not the keeper's
    for where in set(crowd.slots[0].tolist()):
        assert ledger.total(where) >= crowd.total(where)
        await asyncio.sleep(0)


async def warm_start(stage: Stage, folder: Path) -> list[Row]:
    """Again, with what the last run left on disk."""
    users = stage.crowd.users
    begun, used = time.perf_counter(), time.process_time()
    async with Stall() as stall, assemble(stage.config(folder), live=False) as parts:
        await parts.start()
        wall, own = time.perf_counter() - begun, time.process_time() - used
        book = _book(parts)
        assert book.status.trusted, book.status.reason
        assert book.borrower_count >= users
    return [
        Row("warm start", "ready after a restart", own, "s", target="≤ 2 s plus catching up, at 100,000",
            reached=own <= 2.0 if users <= 100_000 else None, size=users, note=f"own time; {wall:.2f} s on the clock"),
        Row("stall", "warm start", stall.busy * 1e3, "ms", target="≤ 50 ms", reached=stall.busy <= 0.05, size=users,
            note=f"{stall.wall * 1e3:.0f} ms on the clock"),
    ]  # fmt: skip


def run(users: int, folder: Path, *, samples: int) -> list[Row]:
    """Every part on one stage."""
    with staged(users, history=True) as stage:
        rows = asyncio.run(cold_start(stage, folder))
        rows += asyncio.run(warm_start(stage, folder))
        return rows + asyncio.run(passes(stage, folder, samples=samples))
