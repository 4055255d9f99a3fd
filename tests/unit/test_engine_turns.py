"""The loop while many positions are planned and put in order: others are served, however long that takes."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keeper.engine import Engine
from keeper.errors import Transient
from keeper.pauses import TURN
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.turns import Ordering
from keeper.strategy.wake import Wake
from tests.unit.test_strategy_sequence import Stage, opportunity, plan

pytestmark = pytest.mark.unit

MANY = 30


@contextmanager
def served() -> Iterator[list[float]]:
    """When somebody else had a turn, as processor time: a busy machine takes none of it."""
    seen: list[float] = []

    async def other() -> None:
        while True:
            seen.append(time.thread_time())
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    yield seen
    seen.append(time.thread_time())
    task.cancel()


def work() -> None:
    """As long as a slow plan takes."""
    end = time.thread_time() + TURN / 2
    while time.thread_time() < end:
        pass


def longest(seen: Sequence[float]) -> float:
    return max(after - before for before, after in pairwise(seen))


def engine(**parts: Any) -> Engine:
    return Engine(cast(Any, SimpleNamespace(**parts)), block_time=12, audit_every=100, audit_sample=1)


async def test_others_have_turns_between_the_plans_of_a_survey() -> None:
    """Thirty positions of one book: nobody waits for all of them."""

    def look(book: Any, handle: Any) -> Opportunity:
        work()
        return opportunity(plan(1, f"p{handle}", f"b{handle}"))

    status = SimpleNamespace(trusted=True, reason="")
    book = SimpleNamespace(name="m", status=status, read_only=False, screen=lambda timestamp: range(MANY))
    told = SimpleNamespace(surveyed=lambda book, found: None)
    with served() as seen:
        await asyncio.sleep(0)
        synced, scene = SimpleNamespace(behind=frozenset()), SimpleNamespace(timestamp=1, look=look)
        found = await engine(books=[book], observer=told).survey(cast(Any, synced), cast(Any, scene))
    assert len(found) == MANY
    assert longest(seen) < 4 * TURN < MANY * TURN / 2


async def test_others_have_turns_while_plans_are_put_in_order() -> None:
    """Thirty that share a pool, each planned anew behind the others."""

    def anew(wake: Wake, number: int) -> Opportunity:
        work()
        return opportunity(plan(1_000 - number - 10 * len(wake.plans), "p", f"b{number}"))

    numbers = range(MANY)
    stage = Stage({f"b{number}": lambda wake, number=number: anew(wake, number) for number in numbers})  # type: ignore[misc]  # mypy knows no defaults of lambdas
    scene = SimpleNamespace(wake=stage.wake, stands=stage.stands, again=stage.again, head=None, fees=None)

    async def prove(jobs: Sequence[Any], head: Any, fees: Any) -> list[Any]:
        return [None for _ in jobs]

    found = [opportunity(plan(1_000 - number, "p", f"b{number}")) for number in numbers]
    with served() as seen:
        await asyncio.sleep(0)
        made = engine(prover=SimpleNamespace(prove=prove))
        await made._prove(found, cast(Any, scene), Ordering(renewals=MANY, seconds=60.0))
    assert len(stage.asked) >= MANY - 1
    assert longest(seen) < 4 * TURN


async def test_nothing_is_collected_during_a_pass() -> None:
    """The garbage collector waits until it is over, also where the node ends it."""
    seen: list[bool] = []

    async def advance(head: Any) -> None:
        seen.append(gc.isenabled())
        raise Transient("the node is silent")

    with pytest.raises(Transient):
        await engine(follower=SimpleNamespace(advance=advance), observer=SimpleNamespace(synced=None)).step(
            cast(Any, None)
        )
    assert seen == [False]
    assert gc.isenabled()
