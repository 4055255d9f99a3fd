"""Undo records."""

from __future__ import annotations

import random

import pytest

from keeper.errors import BadData
from keeper.rewind import Rewind

pytestmark = pytest.mark.unit


def test_random_histories_step_back_exactly() -> None:
    """After any writes, stepping back to block n restores what the state was after block n."""
    rng = random.Random(7)
    for _ in range(200):
        state: dict[int, int] = {}
        row = [0] * 4
        rewind = Rewind(depth=64)
        after: dict[int, tuple[dict[int, int], list[int]]] = {0: ({}, [0] * 4)}
        for number in range(1, 20):
            rewind.begin(number)
            for _ in range(rng.randrange(6)):
                key = rng.randrange(5)
                if rng.random() < 0.3:
                    rewind.delete(state, key)
                else:
                    rewind.set(state, key, rng.randrange(100))
                rewind.set(row, rng.randrange(4), rng.randrange(100))
            after[number] = (dict(state), list(row))
        target = rng.randrange(0, 20)
        rewind.back(target)
        assert (state, row) == after[target]


def test_what_is_not_recorded_is_refused() -> None:
    """Stepping back past the oldest record raises instead of guessing."""
    rewind = Rewind(depth=3)
    for number in range(10, 20):
        rewind.begin(number)
    rewind.back(16)
    with pytest.raises(BadData, match="block 15"):
        rewind.back(15)


def test_history_leaves_no_records() -> None:
    """Writes before the first block cost nothing and cannot be undone."""
    rewind = Rewind()
    state: dict[str, int] = {}
    rewind.set(state, "a", 1)
    rewind.begin(5)
    rewind.set(state, "a", 2)
    assert rewind.back(4) == [(state, "a")]
    assert state == {"a": 1}
