"""The end of a condition is found wherever it is, whatever was guessed, and quickly where the guess was good."""

from __future__ import annotations

import os
import random

import pytest

from keeper.protocols.ends import last

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "3"))


def test_every_end_is_found_from_every_guess() -> None:
    """All ranges up to nine numbers, with guesses outside them too."""
    for low in range(3):
        for high in range(low, low + 9):
            for end in range(low, high + 1):
                for guess in range(-2, high + 3):
                    assert last(lambda x, end=end: x <= end, low, high, guess) == end  # type: ignore[misc]  # mypy knows no defaults of lambdas


def test_a_good_guess_takes_few_looks() -> None:
    """Amounts of any size: about twice as many as the distance has digits, and at most twice a bisection."""
    dice = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    for _ in range(2_000):
        high = dice.randrange(1, 1 << dice.randrange(1, 200))
        end = dice.randint(0, high)
        guess = max(min(end + dice.randrange(-1, 2) * dice.getrandbits(dice.randrange(0, 100)), high), 0)
        looks = 0

        def holds(amount: int, end: int = end) -> bool:
            nonlocal looks
            looks += 1
            return amount <= end

        assert last(holds, 0, high, guess) == end
        assert looks <= 2 * abs(guess - end).bit_length() + 5
        assert looks <= 2 * high.bit_length() + 3
