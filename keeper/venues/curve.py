"""What a pool or a path of pools does to a trade, as an array of straight pieces. Floats: they only screen.

The *level* is √(in/out) at the margin, fees included; it rises with what is traded. Inside one range of liquidity it is
a straight line in the amount sold, and its inverse one in the amount bought, over one pool or several: a piece from
(x, y) at level `low` leads to (x + dx, y + dx / (low · level)).

A curve is float64[n + 1, 5], one row a piece with the columns below, and a last row that only closes the last piece.
Levels never fall from one piece to the next; a piece of no width is a gap in the liquidity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeper.compiled import compiled

Curve = NDArray[np.float64]
X, Y = 0, 1  # base units sold and bought before the piece
LOW, HIGH = 2, 3  # level at its start and at its end
GAS = 4  # expected of a trade that ends in it
COLUMNS = 5

NOTHING: Curve = np.zeros((1, COLUMNS))


def straight(low: float, high: float, x: float, gas: int) -> Curve:
    """One piece from `low` to `high`, over which `x` is sold."""
    return np.array([[0.0, 0.0, low, high, gas], [x, x / (low * high), high, high, gas]])


def through(x: Curve, y: Curve, levels: Curve, gas: Curve | float) -> Curve:
    """The pieces between points: amounts sold and bought, levels, and the gas of a trade that ends after each."""
    made = np.empty((len(x), COLUMNS))
    made[:, X], made[:, Y], made[:, GAS] = x, y, gas
    made[:, LOW] = np.maximum.accumulate(levels)
    made[:-1, HIGH], made[-1, HIGH] = made[1:, LOW], made[-1, LOW]
    return made


@compiled("float64[:,::1](float64[:,::1],float64[:,::1])")
def joined(one: Curve, two: Curve) -> Curve:
    """Selling along `one`, and what that brings along `two`."""
    rows, others = len(one) - 1, len(two) - 1
    if rows == 0 or others == 0:
        return np.zeros((1, COLUMNS))
    made = np.empty((rows + others + 1, COLUMNS))
    i = j = n = 0
    x = y = 0.0
    first, second = one[0, LOW], two[0, LOW]
    while i < rows and j < others:
        made[n, X], made[n, Y], made[n, LOW] = x, y, first * second
        made[n, GAS] = one[i, GAS] + two[j, GAS]
        end, other = one[i + 1, Y], two[j + 1, X]
        if end <= other:
            first, x = one[i, HIGH], one[i + 1, X]
        else:
            low, high, width = one[i, LOW], one[i, HIGH], end - one[i, Y]
            got = other - one[i, Y]
            first = width / ((width - got) / low + got / high)
            x = one[i, X] + got * low * first
        if other <= end:
            second, y = two[j, HIGH], two[j + 1, Y]
        else:
            low, high, width = two[j, LOW], two[j, HIGH], other - two[j, X]
            put = end - two[j, X]
            second = low + put * (high - low) / width
            y = two[j, Y] + put / (low * second)
        made[n, HIGH] = max(first * second, made[n, LOW])
        n += 1
        i += end <= other
        j += other <= end
        if i < rows:
            first = max(first, one[i, LOW])
        if j < others:
            second = max(second, two[j, LOW])
    made[n, X], made[n, Y], made[n, LOW], made[n, HIGH], made[n, GAS] = x, y, first * second, first * second, 0.0
    return made[: n + 1].copy()
