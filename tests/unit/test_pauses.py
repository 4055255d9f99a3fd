"""The event loop has its turns, and the garbage collector rests inside and only there."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from contextlib import suppress

import pytest

from keeper.pauses import TURN, Turns, resting

pytestmark = pytest.mark.unit


class Knot:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


def thrown_away() -> None:
    """Enough for many collections."""
    for _ in range(5_000):
        Knot()


def test_nothing_is_collected_inside_and_everything_afterwards() -> None:
    """A knot that nobody has any more stays until it is over."""
    with resting():
        first = weakref.ref(Knot())
        thrown_away()
        assert first() is not None
    thrown_away()
    assert first() is None


def test_it_goes_on_after_an_error() -> None:
    """Whatever happens inside."""
    with suppress(KeyError), resting():
        raise KeyError
    assert gc.isenabled()


def test_the_outermost_end_counts() -> None:
    """What rests within something that rests ends nothing."""
    with resting():
        with resting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


async def test_others_have_a_turn_after_a_while() -> None:
    """Not between any two pieces of work, but before long."""
    served: list[float] = []

    async def other() -> None:
        while True:
            served.append(time.monotonic())
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    turns, begun = Turns(), time.monotonic()
    steps = 0
    while time.monotonic() < begun + 10 * TURN:
        await turns.give()
        steps += 1
    task.cancel()
    assert 1 <= len(served) <= 12
    assert steps > 100
