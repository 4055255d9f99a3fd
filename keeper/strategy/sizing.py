"""Where to look next for the best amount: a search over several concave curves at once, in exact integers.

What a liquidation earns, as a function of the amount repaid, is close to concave: every further unit of collateral is
sold at a worse price. Concavity bounds what lies between amounts already tried, by the chords on either side of
them (a chord, prolonged, runs above a concave curve) and by the tangents at them, where they are known. The search
always tries the place with the highest bound, over all curves together, and ends when no bound exceeds the best trial
by more than a tolerance: a hopeless curve costs no trial, and a curve that still rises at its end costs one or two.
Gaps in a curve's domain are never tried.

The curves are only nearly concave. A route over one more pool costs a fixed amount of gas more, and a purchase dents
the curve where it starts to use a pool that the sale needs, or pairs its pools another way. Where that may matter a
geometric grid is tried first, and the neighbourhood of the best amount is always tried, finely where gas is a visible
part of the result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
Line = tuple[int, int, int, int]  # through (x, y) with slope dy / dx, dx > 0
Score = Callable[[int], tuple[int, int, bool, float | None, T] | None]
"""Amount → (net, gas cost, whether the curve may be dented here, its slope, what was tried); None where impossible.

The slope is that of the net by the amount between steps of gas, None where it is not known.
"""
Piece = tuple[int, int]  # untried amounts, both ends included

GRID = 6  # halvings of the grid
VISIBLE = 20  # gas matters to the search when it is more than 1/VISIBLE of the net
# Powers of two by which a width is divided:
SLOPE = 9  # distance from a curve's end to the second trial, which shows whether it still rises there
SLOPE_COARSE = 5  # the same where rounding to coarse units would hide the slope over so short a distance
STEP = 4  # least distance from other tried amounts
FINEST = 10  # untried pieces of less than this part of their amounts are left alone
_FINE = 1 << 60  # in which slopes are written
BESIDE, BESIDE_VISIBLE = 4, 8  # untried pieces beside the best amount are divided down to this; where gas is visible


class Curve(Generic[T]):
    """One way of liquidating, as a function of the amount.

    `domain` are closed intervals, ascending. `ceiling` is an upper bound of the net at the domain's end before any
    price impact, `floor_cost` a lower bound of the gas cost, both wei; with None as ceiling nothing is known. `coarse`
    says that an asset's base unit is worth something.
    """

    def __init__(
        self,
        domain: Sequence[Piece],
        score: Score[T],
        ceiling: int | None,
        floor_cost: int,
        *,
        coarse: bool = False,
    ) -> None:
        self._slope_step = SLOPE_COARSE if coarse else SLOPE
        self.ceiling = ceiling
        self.best: tuple[int, T] | None = None  # net, what was tried
        self.tried = 0
        self.bound: int | None = ceiling  # of the net at amounts not yet tried; None: unbounded
        self.finished = False  # nothing is left to try
        self._score = score
        self._floor_cost = floor_cost
        self._pieces = [(max(low, 1), high) for low, high in domain if max(low, 1) <= high]
        self._end = self._pieces[-1][1] if self._pieces else 0
        self._edges = {edge for piece in self._pieces for edge in piece}
        self._xs: list[int] = []
        self._points: list[tuple[int, int, int, float | None]] = []  # amount, net, gas cost, slope; ascending
        self._values: list[T] = []  # what was tried there
        self._bounds: dict[Piece, tuple[int | None, int]] = {}  # as far as known
        self._dented = False
        self._cap: int | None = None  # lowest amount known to be impossible
        self._target = self._end
        self._peer()

    @property
    def gas_is_visible(self) -> bool:
        """Gas is so large a part of the best net that steps in it can hide a better amount."""
        return any(cost * VISIBLE > abs(net) for _, net, cost, _ in self._points)

    def around_best(self) -> list[T]:
        """The best that was tried, then what was tried next to it."""
        if not self._points:
            return []
        place = max(range(len(self._points)), key=lambda index: self._points[index][1])
        return [self._values[near] for near in (place, place - 1, place + 1) if 0 <= near < len(self._values)]

    def advance(self, enough: int = 0) -> int:
        """Try the most promising amount, and at first a grid where it may exceed `enough`; the number of trials."""
        before = self.tried
        first = not self._points
        self._attempt(self._target)
        if first and self.best is not None and (self._dented or self.gas_is_visible):
            grid = {self._nearest(self._end >> halving) for halving in range(1, GRID + 1)} | self._edges
            for amount in sorted((amount for amount in grid if amount), reverse=True):
                if self._is_untried(amount) and self._reaches(amount, max(enough, self.best[0])):
                    self._attempt(amount)
        self._peer()
        return self.tried - before

    def start(self, amount: int) -> None:
        """Try an amount believed to be near the best one, and one on either side that brackets the best."""
        for near in (amount, amount - (amount >> STEP), amount + (amount >> STEP)):
            if self._is_untried(near):
                self._attempt(near)
        self._peer()

    def refine(self) -> int:
        """Try the middle of the wider untried piece beside the best amount; 0 when both are narrow.

        A best amount at the end of an interval is left alone where gas is not visible: the curve rises towards it.
        """
        at = max(self._points, key=lambda point: point[1])[0] if self._points else 0
        if at in self._edges and not self.gas_is_visible:
            return 0
        beside = [piece for piece in self._pieces if piece[1] < at][-1:]
        beside += [piece for piece in self._pieces if piece[0] > at][:1]
        low, high = max(beside, key=lambda piece: piece[1] - piece[0], default=(0, 0))
        if high - low <= high >> (BESIDE_VISIBLE if self.gas_is_visible else BESIDE):
            return 0
        self._attempt((low + high) // 2)
        self._peer()
        return 1

    def _attempt(self, amount: int) -> None:
        self.tried += 1
        result = self._score(amount)
        self._cut(amount)
        if result is None:
            # Depth runs out upwards: more than an impossible amount is impossible too. One that is impossible below
            # a possible one is too small to trade, and so is what is smaller still.
            if self._xs and self._xs[-1] > amount:
                self._pieces = [piece for piece in self._pieces if piece[0] > amount]
            else:
                self._cap = amount
                self._pieces = [piece for piece in self._pieces if piece[1] < amount]
            self._bounds.clear()
            return
        net, cost, dented, slope, value = result
        self._dented = self._dented or dented
        place = bisect_left(self._xs, amount)
        self._xs.insert(place, amount)
        self._points.insert(place, (amount, net, cost, slope))
        self._values.insert(place, value)
        self._forget(place)
        if self.best is None or net > self.best[0]:
            self.best = (net, value)

    def _forget(self, place: int) -> None:
        """A bound rests on the two points on either side: those that rest on the one at `place` are void."""
        low = self._xs[place - 2] if place >= 2 else 0
        high = self._xs[place + 2] if place + 2 < len(self._xs) else self._end
        self._bounds = {piece: bound for piece, bound in self._bounds.items() if piece[1] < low or piece[0] > high}

    def _cut(self, amount: int) -> None:
        pieces: list[Piece] = []
        for low, high in self._pieces:
            if low <= amount <= high:
                pieces += [part for part in ((low, amount - 1), (amount + 1, high)) if part[0] <= part[1]]
            else:
                pieces.append((low, high))
        self._pieces = pieces

    def _nearest(self, amount: int) -> int | None:
        return max((min(high, amount) for low, high in self._pieces if low <= amount), default=None)

    def _is_untried(self, amount: int) -> bool:
        return any(low <= amount <= high for low, high in self._pieces)

    def _reaches(self, amount: int, enough: int) -> bool:
        return self.ceiling is None or _at(self._slope(self.ceiling), amount) > enough

    def _slope(self, ceiling: int) -> Line:
        return (0, -self._floor_cost, ceiling + self._floor_cost, self._end)

    def _peer(self) -> None:
        """Find the untried amount with the highest bound."""
        self.finished = True
        for piece in self._pieces:
            if piece[1] - piece[0] < piece[1] >> FINEST and self._touches(piece):
                continue
            if piece not in self._bounds:
                self._bounds[piece] = self._bound(piece)
            bound, target = self._bounds[piece]
            if self.finished or (self.bound is not None and (bound is None or bound > self.bound)):
                self.finished, self.bound, self._target = False, bound, target

    def _touches(self, piece: Piece) -> bool:
        place = bisect_left(self._xs, piece[0])
        before = self._xs[place - 1] if place else None
        after = self._xs[place] if place < len(self._xs) else None
        return piece[0] - 1 == before or piece[1] + 1 in (after, self._cap)

    def _bound(self, piece: Piece) -> tuple[int | None, int]:
        """Upper bound of the net in `piece`, and where in it to look."""
        low, high = piece
        place = bisect_left(self._xs, low)
        left, right = self._points[max(0, place - 2) : place], self._points[place : place + 2]
        lines: list[Line] = []
        if self.ceiling is not None:
            lines.append(self._slope(self.ceiling))
        if left:
            x, net, cost, _ = left[-1]
            x0, net0 = left[0][:2] if len(left) == 2 else (0, -cost)  # no gain without an amount
            lines.append((x, net, net - net0, x - x0))
        if len(right) == 2:
            (x, net, _, _), (x1, net1, _, _) = right
            lines.append((x, net, net1 - net, x1 - x))
        for x, net, _, slope in (*left[-1:], *right[:1]):
            if slope is not None:
                lines.append((x, net, int(slope * _FINE), _FINE))
        bound, at = _peak(lines, low, high) if lines else (None, high)
        width = high - low
        if high + 1 == self._cap:
            at = min(at, low + width // 2 if left else max(low, high // 4))
        elif right and high + 1 == right[0][0]:
            if right[0][1] + right[0][2] < 0:  # far too much, where the slope tells little
                at = min(at, low + width // 2 if left else max(low, high // 4))
            at = min(at, high - (width >> (STEP if len(right) == 2 else self._slope_step)))
        if left and low - 1 == left[-1][0]:
            at = max(at, low + (width >> STEP))
        return bound, at


def _at(line: Line, x: int) -> int:
    """Height of a line at `x`, rounded up."""
    return line[1] - (line[2] * (line[0] - x)) // line[3]


def _peak(lines: Sequence[Line], low: int, high: int) -> tuple[int, int]:
    """Maximum over [low, high] of the lowest of `lines`, and where it is; the larger amount where it is level."""
    places = [low, high]
    for index, (x0, y0, dy0, dx0) in enumerate(lines):
        for x1, y1, dy1, dx1 in lines[index + 1 :]:
            slopes = dy0 * dx1 - dy1 * dx0
            if slopes:
                x = ((y1 - y0) * dx0 * dx1 + dy0 * x0 * dx1 - dy1 * x1 * dx0) // slopes
                places += [place for place in (x, x + 1) if low < place < high]
    return max([(min([y - dy * (x0 - x) // dx for x0, y, dy, dx in lines]), x) for x in places])


def maximise(curves: Sequence[Curve[T]], *, tolerance_bps: int, limit: int) -> Curve[T] | None:
    """Try amounts until the best net over all curves is known within `tolerance_bps`; the curve that has it.

    At most about `limit` trials are made. What cannot be positive by its bound is not tried; None when nothing was
    found possible.
    """
    trials = 0
    while trials < limit:
        leader = _leader(curves)
        best = leader.best[0] if leader is not None and leader.best is not None else 0
        enough = max(best, 0) * (10_000 + tolerance_bps) // 10_000
        open_curves = [c for c in curves if not c.finished and (c.bound is None or c.bound > enough)]
        if open_curves:
            trials += max(open_curves, key=lambda c: (c.bound is None, c.bound or 0)).advance(enough)
        elif leader is not None and (steps := leader.refine()):
            trials += steps
        else:
            break
    return _leader(curves)


def _leader(curves: Sequence[Curve[T]]) -> Curve[T] | None:
    leader, most = None, 0
    for curve in curves:
        if curve.best is not None and (leader is None or curve.best[0] > most):
            leader, most = curve, curve.best[0]
    return leader
