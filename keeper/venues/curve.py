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


@compiled("int64(float64[:,::1],int64,int64,int64,float64)")
def _piece(rows: Curve, first: int, last: int, column: int, value: float) -> int:
    """The last piece, of those from row `first` to before `last`, whose `column` is below `value`; else the first."""
    low, high = first, last - 1
    while low < high:
        middle = (low + high + 1) // 2
        if rows[middle, column] < value:
            low = middle
        else:
            high = middle - 1
    return low


@compiled("UniTuple(float64,4)(float64[:,::1],int64,int64,float64,boolean)")
def at_level(rows: Curve, first: int, last: int, level: float, exact_out: bool) -> tuple[float, float, float, float]:
    """(fixed side, other side, gas, growth of the fixed side) where the curve in `first` to `last` reaches `level`.

    The fixed side is what is sold, or with `exact_out` what is bought. The growth is by level when selling and by minus
    its inverse when buying, in which the pieces are straight.
    """
    if first == last or rows[first, LOW] >= level:
        return 0.0, 0.0, 0.0, 0.0
    row = _piece(rows, first, last, LOW, level)
    x, y, start, end = rows[row, X], rows[row, Y], rows[row, LOW], rows[row, HIGH]
    width = rows[row + 1, X] - x
    if level >= end:
        x, y, growth = x + width, rows[row + 1, Y], 0.0
    else:
        growth = width / (end - start)
        put = growth * (level - start)
        x += put
        y += put / (start * level)
    return (y, x, rows[row, GAS], growth) if exact_out else (x, y, rows[row, GAS], growth)


@compiled("UniTuple(float64,3)(float64[:,::1],int64,int64,float64,boolean)")
def traded(rows: Curve, first: int, last: int, amount: float, exact_out: bool) -> tuple[float, float, float]:
    """(other side, level, gas) after `amount` of the fixed side, which may be 0; level < 0 when it is too much."""
    column = Y if exact_out else X
    if first == last or rows[last, column] < amount:
        return 0.0, -1.0, 0.0
    row = _piece(rows, first, last, column, amount)
    start, end, width = rows[row, LOW], rows[row, HIGH], rows[row + 1, column] - rows[row, column]
    into = amount - rows[row, column]
    if width <= 0.0:
        return rows[row, X if exact_out else Y], start, rows[row, GAS]
    if exact_out:
        level = width / ((width - into) / start + into / end)  # exact at both ends, however far they are apart
        return rows[row, X] + into * start * level, level, rows[row, GAS]
    level = start + into * (end - start) / width
    return rows[row, Y] + into / (start * level), level, rows[row, GAS]
