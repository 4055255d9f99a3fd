"""Where a condition on amounts ends, found with few evaluations when about where is known."""

from __future__ import annotations

from collections.abc import Callable


def last(holds: Callable[[int], bool], low: int, high: int, guess: int) -> int:
    """The largest number in [low, high] that satisfies what `low` satisfies and no number above a failing one does.

    It is looked for in growing steps away from `guess`: a good one saves most of a bisection's evaluations.
    """
    if low >= high or holds(high):
        return max(low, high)
    high -= 1
    step = 1
    middle = min(max(guess, low + 1), high)
    while low < high:
        if holds(middle):
            low = middle
            middle = min(low + step, high)
        else:
            high = middle - 1
            middle = max(high - step, low + 1)
        step *= 2
        if step > high - low:
            break
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
