"""The liquidity of a pool over its ticks, and the steps every swap through it has to take.

A swap stops, and the contract rounds, at each initialised tick *and* at each end of a 256-tick bitmap word
(``TickBitmap.nextInitializedTickWithinOneWord``). What a step between two such boundaries takes and gives does not
depend on the size of the swap nor on where it started, so running sums over them are kept per direction: a quote is a
first step, a bisection, and a last step. The sums live as long as the liquidity does; a swap only moves the place in
them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from math import log1p

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.venues.uniswap_v3.swap_math import full_step
from keeper.venues.uniswap_v3.tick_math import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    sqrt_ratio_at_tick,
    tick_at_sqrt_ratio,
)

# The limits a swap "without limit" is given: one inside the extremes, as the contract demands.
Floats = NDArray[np.float64]
LOWEST_PRICE = MIN_SQRT_RATIO + 1
HIGHEST_PRICE = MAX_SQRT_RATIO - 1
_Q96 = float(1 << 96)
_HALF_LOG = log1p(1e-4) / 2  # of the price by tick


class TickMap:
    """Initialised ticks as {tick: (gross, net)} with the pool's spacing and fee (pips). Treat as immutable.

    Raises BadData when the ticks cannot be those of a pool: nets that do not cancel, negative liquidity, a tick off
    the grid.
    """

    __slots__ = ("_above", "_floats", "_ladders", "_ticks", "fee", "gross_net", "spacing")

    def __init__(self, spacing: int, fee: int, gross_net: Mapping[int, tuple[int, int]]) -> None:
        self.spacing = spacing
        self.fee = fee
        self.gross_net = gross_net
        self._ticks = sorted(gross_net)
        self._above: list[int] = []
        liquidity = 0
        for tick in self._ticks:
            gross, net = gross_net[tick]
            liquidity += net
            if tick % spacing or not MIN_TICK <= tick <= MAX_TICK or gross < abs(net) or gross == 0 or liquidity < 0:
                raise BadData(f"tick {tick} holds gross {gross} and net {net}, which no pool of spacing {spacing} can")
            self._above.append(liquidity)
        if liquidity:
            raise BadData(f"the net liquidities of the ticks leave {liquidity} instead of cancelling")
        self._floats: tuple[Floats, Floats, Floats] | None = None
        self._ladders = (Ladder(self, zero_for_one=False), Ladder(self, zero_for_one=True))

    @property
    def ticks(self) -> list[int]:
        """Initialised ticks, ascending; not to be changed."""
        return self._ticks

    def liquidity_at(self, tick: int) -> int:
        """Active liquidity while the pool's tick is `tick`."""
        index = self.place(tick)
        return self._above[index - 1] if index else 0

    def place(self, tick: int) -> int:
        """How many initialised ticks are at or below `tick`."""
        return bisect_right(self._ticks, tick)

    def floats(self) -> tuple[Floats, Floats, Floats]:
        """Of each initialised tick, ascending, in floats: its sqrt price (Q64.96) and the bitmap word it is in.

        Before them the liquidity below each and, one more, above the last.
        """
        if self._floats is None:
            at = np.array(self._ticks, np.float64)
            price = np.clip(np.exp(at * _HALF_LOG) * _Q96, LOWEST_PRICE, HIGHEST_PRICE)
            self._floats = (np.array([0, *self._above], np.float64), price, at // (self.spacing << 8))
        return self._floats

    def ladder(self, zero_for_one: bool) -> Ladder:
        """The steps in one direction."""
        return self._ladders[zero_for_one]

    def crossed(self, before: int, after: int) -> int:
        """Initialised ticks crossed when the pool's tick moves from `before` to `after`."""
        return abs(bisect_right(self._ticks, after) - bisect_right(self._ticks, before))

    def changed(self, lower: int, upper: int, delta: int) -> TickMap:
        """The map after a Mint (`delta` > 0) or Burn (< 0) over [lower, upper): ``Tick.update``.

        Raises BadData when more is burned than is there.
        """
        if delta == 0:
            return self
        gross_net = dict(self.gross_net)
        for tick, net_delta in ((lower, delta), (upper, -delta)):
            gross, net = gross_net.get(tick, (0, 0))
            if gross + delta < 0:
                raise BadData(f"a burn of {-delta} at tick {tick} exceeds its gross liquidity {gross}")
            if gross + delta == 0:
                del gross_net[tick]
                if net + net_delta:
                    raise BadData(f"tick {tick} is cleared with net liquidity {net + net_delta}")
            else:
                gross_net[tick] = (gross + delta, net + net_delta)
        return TickMap(self.spacing, self.fee, gross_net)


class Ladder:
    """Boundaries in trading order with running sums of what the steps to them take and give; grown on demand.

    Works in *keys*, which ascend in either direction: the boundary's tick going up, its negative going down. Step i
    goes from boundary i−1 to boundary i; sums are relative to boundary 0 of the first build, so that growing at the
    front leaves the others unchanged. Boundaries with no liquidity before them are left out: nothing can end there.
    """

    __slots__ = (
        "_down",
        "_end",
        "_grid",
        "_inits",
        "_map",
        "_previous",
        "keys",
        "liquidity",
        "origin",
        "price",
        "sums",
    )

    def __init__(self, ticks: TickMap, zero_for_one: bool) -> None:
        self._map = ticks
        self._down = zero_for_one
        self._inits = [-tick for tick in reversed(ticks.ticks)] if zero_for_one else ticks.ticks
        self._end = self._inits[-1] if self._inits else None
        self._grid = 0 if zero_for_one else -ticks.spacing
        self._previous = 0  # the boundary before boundary 0
        self.keys: list[int] = []
        self.price: list[int] = []  # sqrt price at the boundary, or the swap limit where that comes first
        self.liquidity: list[int] = []  # during the step to the boundary
        self.sums: tuple[list[int], list[int]] = ([], [])  # in with fee, out; after the step
        self.origin = 0  # how many boundaries were grown at the front

    def locate(self, tick: int) -> int | None:
        """Index of the boundary a swap from `tick` heads for first, counted from the first build (add `origin`).

        None when there is no liquidity ahead.
        """
        place = -tick if self._down else tick + 1
        if self._end is None or place > self._end:
            return None
        if not self.keys:
            self._anchor(self._next(place))
        while place <= self._previous:
            self._grow_front()
        while place > self.keys[-1]:
            self._grow()
        return bisect_left(self.keys, place) - self.origin

    def reach(self, side: int, wanted: int) -> bool:
        """Grow until the sum on `side` (0 in, 1 out) is at least `wanted`; False when the liquidity ends before."""
        sums = self.sums[side]
        while sums[-1] < wanted:
            if self.keys[-1] == self._end:
                return False
            self._grow()
        return True

    def tick_after(self, index: int) -> int:
        """The pool's tick once boundary `index` has been reached exactly."""
        price, tick = self.price[index], self._tick(self.keys[index])
        if price in (LOWEST_PRICE, HIGHEST_PRICE) and tick in (MIN_TICK, MAX_TICK):
            return tick_at_sqrt_ratio(price)
        return tick - 1 if self._down else tick

    def _tick(self, key: int) -> int:
        return -key if self._down else key

    def _liquidity_before(self, key: int) -> int:
        return self._map.liquidity_at(-key if self._down else key - 1)

    def _target(self, key: int) -> int:
        return min(max(sqrt_ratio_at_tick(self._tick(key)), LOWEST_PRICE), HIGHEST_PRICE)

    def _next(self, place: int) -> int:
        """First boundary at or after `place`, which is not beyond the last initialised tick."""
        init = self._inits[bisect_left(self._inits, place)]
        if not self._liquidity_before(place):
            return init
        word = self._map.spacing << 8
        return min(init, self._grid - (self._grid - place) // word * word)

    def _before(self, key: int) -> int:
        """Last boundary before boundary `key`."""
        index = bisect_left(self._inits, key)
        init = self._inits[index - 1] if index else -MAX_TICK - 1
        if not self._liquidity_before(key):
            return init
        word = self._map.spacing << 8
        return max(init, self._grid + (key - 1 - self._grid) // word * word)

    def _anchor(self, key: int) -> None:
        self.keys.append(key)
        self.price.append(self._target(key))
        self.liquidity.append(self._liquidity_before(key))
        for sums in self.sums:
            sums.append(0)
        self._previous = self._before(key)

    def _grow(self) -> None:
        key = self._next(self.keys[-1] + 1)
        price, liquidity = self._target(key), self._liquidity_before(key)
        step = full_step(self.price[-1], price, liquidity, self._map.fee) if liquidity else (0, 0)
        self.keys.append(key)
        self.price.append(price)
        self.liquidity.append(liquidity)
        for sums, amount in zip(self.sums, step, strict=True):
            sums.append(sums[-1] + amount)

    def _grow_front(self) -> None:
        key = self._previous
        price = self._target(key)
        step = full_step(price, self.price[0], self.liquidity[0], self._map.fee) if self.liquidity[0] else (0, 0)
        self.keys.insert(0, key)
        self.price.insert(0, price)
        self.liquidity.insert(0, self._liquidity_before(key))
        for sums, amount in zip(self.sums, step, strict=True):
            sums.insert(0, sums[0] - amount)
        self._previous = self._before(key)
        self.origin += 1
