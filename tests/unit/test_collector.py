"""The garbage collector rests inside, and only there."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import pytest

from keeper.collector import resting

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
