"""How much of a trade goes through which path: equal marginal price. Floats; what they find is requoted exactly.

Each path has a *level* that rises with what is put through it (√(in/out) at the margin for a sale, minus its inverse
for a purchase). A split is best when the levels of all used paths agree and no unused one starts below. Inside one
range of liquidity the level is a straight line in the amount, over one pool or several, so a curve is a chain of
straight pieces. What is known of it are points with their slopes; between two points the lines through them are
taken to meet in one kink, and the amounts at which the curves as known would agree are looked at next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

_ROUNDS = 24
_AGREE = 1e-6  # relative spread of the levels; what is lost is about its square
_FAR = 1e-3  # a level this far off is corrected once more before the curves are compared again
_NARROW = 1e-4  # share of the total below which the end of a path's liquidity is not searched closer
_STILL = 3e-8  # of the result: what moving on as in the last round could still bring


class Point(NamedTuple):
    """A path after an amount: its level, and how fast that rises per base unit (0 where there is no liquidity)."""

    level: float
    slope: float


Probe = Callable[[int], Point | None]
"""The point after an amount (which may be 0); None when the path cannot take it."""


class _Curve:
    """What is known of one path. `amounts` and `levels` hold the points looked at and the kinks assumed between."""

    __slots__ = ("amounts", "kinks", "last", "levels", "probe", "slopes", "wall")

    def __init__(self, probe: Probe, start: Point) -> None:
        self.probe = probe
        self.amounts = [0.0]
        self.levels = [start.level]
        self.slopes = [start.slope]
        self.kinks = [False]
        self.wall = float("inf")  # the least amount known to be too much
        self.last = 0.0  # the greatest amount known to go through

    def look(self, amount: int) -> float | None:
        """Learn the level after `amount`; None when that is too much."""
        point = self.probe(amount)
        if point is None:
            self.wall = min(self.wall, amount)
            return None
        at = float(amount)
        index = bisect_right(self.amounts, at)
        if self.amounts[index - 1] == at and not self.kinks[index - 1]:
            return self.levels[index - 1]
        # Forget the kink assumed in the interval that is divided now.
        if index < len(self.kinks) and self.kinks[index]:
            self._drop(index)
        elif self.kinks[index - 1]:
            index -= 1
            self._drop(index)
        # The rounding of tiny amounts may disturb the order of the levels, which the search relies on.
        level = max(point.level, self.levels[index - 1])
        if index < len(self.levels):
            level = min(level, self.levels[index])
        self._insert(index, at, level, point.slope, kink=False)
        self.last = max(self.last, at)
        if index + 1 < len(self.amounts):
            self._assume(index + 1)
        self._assume(index)
        return level

    def cap(self) -> float:
        """The most to try: half-way between what is known to go through and what is known not to."""
        return (self.last + self.wall) / 2

    def amount_at(self, level: float) -> float:
        """Where the curve as known reaches `level`."""
        levels, amounts = self.levels, self.amounts
        index = bisect_right(levels, level)
        if index == 0:
            return 0.0
        low, amount = levels[index - 1], amounts[index - 1]
        if index < len(levels):
            return amount + (amounts[index] - amount) * (level - low) / (levels[index] - low)
        slope = self.slopes[-1]
        return min(amount + (level - low) / slope if slope else amount, self.cap())

    def _assume(self, index: int) -> None:
        """Put a kink before point `index` where the lines through it and the point before meet between them.

        Where they do not, there is more than one: the line through the point before is followed half the way.
        """
        low, high = self.slopes[index - 1], self.slopes[index]
        if not low or not high or low == high:
            return
        rise = self.levels[index] - self.levels[index - 1]
        width = self.amounts[index] - self.amounts[index - 1]
        meet = (rise - high * width) / (low - high)
        if not 0 < meet < width:
            meet = width / 2
        elif not width * 1e-9 < meet < width * (1 - 1e-9):
            return
        level = min(self.levels[index - 1] + low * meet, self.levels[index])
        self._insert(index, self.amounts[index - 1] + meet, level, 0.0, kink=True)

    def _insert(self, index: int, amount: float, level: float, slope: float, *, kink: bool) -> None:
        self.amounts.insert(index, amount)
        self.levels.insert(index, level)
        self.slopes.insert(index, slope)
        self.kinks.insert(index, kink)

    def _drop(self, index: int) -> None:
        for values in (self.amounts, self.levels, self.slopes, self.kinks):
            del values[index]


def split(probes: Sequence[Probe], total: int) -> list[int] | None:
    """Shares of `total`, in the order of `probes`, zero where a path is not worth using.

    None when the paths together cannot take it all. The shares add up exactly.
    """
    starts = [probe(0) for probe in probes]
    curves = [_Curve(probe, start) for probe, start in zip(probes, starts, strict=True) if start is not None]
    for curve in curves:
        size = total
        while curve.look(size) is None and size > 1:
            size >>= 2
    shares = _search(curves, total) if curves else None
    if shares is None:
        return None
    found = iter(shares)
    return [0 if start is None else next(found) for start in starts]


def _search(curves: Sequence[_Curve], total: int) -> list[int] | None:
    found: list[int] | None = None
    for _ in range(_ROUNDS):
        met = _meet(curves, float(total))
        if met is None:
            unsure = [curve for curve in curves if curve.wall - curve.last > max(1.0, _NARROW * total)]
            if not unsure:
                break
            for curve in unsure:
                curve.look(int(curve.cap()))
            continue
        level, amounts = met
        shares = _whole(amounts, total)
        lowest, highest, feasible = float("inf"), float("-inf"), True
        for curve, share in zip(curves, shares, strict=True):
            if not share:
                continue
            seen = curve.look(share)
            if seen is None:
                feasible = False
                continue
            lowest, highest = min(lowest, seen), max(highest, seen)
            if abs(seen - level) > _FAR * abs(level):
                curve.look(int(curve.amount_at(level)))
        if not feasible:
            continue
        moved = max(abs(a - b) for a, b in zip(shares, found, strict=True)) if found else total
        found = shares
        # Levels need not agree in the end: one may jump over a gap in its liquidity, or be at the end of it.
        spread = (highest - lowest) / abs(highest)
        if spread <= _AGREE or spread * moved <= _STILL * total:
            break
    return found


def _meet(curves: Sequence[_Curve], total: float) -> tuple[float, list[float]] | None:
    """The level where the curves as known add up to `total`, and their amounts there; None when they never do."""

    def put_through(level: float) -> float:
        return sum([curve.amount_at(level) for curve in curves])

    knots = sorted({level for curve in curves for level in curve.levels})
    low, high = 0, len(knots)  # below knots[low] it is less than total, at knots[high] it is enough
    while low < high:
        middle = (low + high) // 2
        if put_through(knots[middle]) < total:
            low = middle + 1
        else:
            high = middle
    if low == len(knots):
        return _beyond(curves, knots[-1], total)
    level = top = knots[low]
    if low:
        # Straight between two knots: one interpolation is exact.
        bottom = knots[low - 1]
        less, more = put_through(bottom), put_through(top)
        level = bottom + (top - bottom) * (total - less) / (more - less) if more > less else top
    return level, [curve.amount_at(level) for curve in curves]


def _beyond(curves: Sequence[_Curve], last: float, total: float) -> tuple[float, list[float]] | None:
    """As `_meet`, above every level looked at, where curves are continued up to their caps."""
    if sum(curve.cap() for curve in curves) < total:
        return None
    step = abs(last) or 1.0
    low, high = last, last + step
    for _ in range(60):
        if sum(curve.amount_at(high) for curve in curves) >= total:
            break
        low, step = high, 2 * step
        high += step
    else:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        if sum(curve.amount_at(middle) for curve in curves) >= total:
            high = middle
        else:
            low = middle
    return high, [curve.amount_at(high) for curve in curves]


def _whole(amounts: Sequence[float], total: int) -> list[int]:
    """Integers near `amounts` that add up to `total`; what rounding leaves goes to the largest."""
    sums = sum(amounts) or 1.0
    shares = [int(total * (amount / sums)) for amount in amounts]
    largest = max(range(len(shares)), key=shares.__getitem__)
    shares[largest] += total - sum(shares)
    return shares
