"""The ranges of liquidity ahead of a price as the pieces of a curve. Floats: they only screen."""

from __future__ import annotations

import numpy as np

from keeper.compiled import compiled
from keeper.venues.curve import COLUMNS, GAS, HIGH, LOW, Curve, X, Y

_Q96 = float(1 << 96)


@compiled(
    "float64[:,::1](float64[::1],float64[::1],float64[::1],int64,UniTuple(float64,2),boolean,float64,float64,"
    "UniTuple(int64,3))"
)
def ranges(
    liquidity: Curve,
    prices: Curve,
    words: Curve,
    place: int,
    start: tuple[float, float],
    zero_for_one: bool,
    free: float,
    reach: float,
    gas: tuple[int, int, int],
) -> Curve:
    """The curve from the price and word of `start`, which has `place` ticks at or below it, on to a rise by `reach`.

    `liquidity`, `prices` and `words` are `TickMap.floats`. `free` is the level at price 1, 1/√(1 − fee), `gas` that
    of a swap, of a tick crossed and of a word passed.
    """
    swap, tick, word = gas
    here, at = start
    count = place if zero_for_one else len(prices) - place
    made = np.empty((count + 1, COLUMNS))
    x = y = 0.0
    price, rows, spent = here, 0, float(swap)
    made[0, LOW] = (_Q96 / here if zero_for_one else here / _Q96) * free
    limit = made[0, LOW] * reach
    while rows < count and made[rows, LOW] < limit:
        which = place - 1 - rows if zero_for_one else place + rows
        depth = liquidity[which + 1] if zero_for_one else liquidity[which]
        made[rows, X], made[rows, Y], made[rows, GAS] = x, y, spent
        end = prices[which]
        token0, token1 = abs(_Q96 / end - _Q96 / price) * depth, abs(end - price) / _Q96 * depth
        x += (token0 if zero_for_one else token1) * free * free
        y += token1 if zero_for_one else token0
        made[rows, HIGH] = max((_Q96 / end if zero_for_one else end / _Q96) * free, made[rows, LOW])
        spent += tick + (word * abs(words[which] - at) if depth > 0.0 else 0.0)
        price, at = end, words[which]
        rows += 1
        made[rows, LOW] = made[rows - 1, HIGH]
    made[rows, X], made[rows, Y], made[rows, HIGH], made[rows, GAS] = x, y, made[rows, LOW], spent
    return made[: rows + 1].copy()
