"""Which paths a trade takes, and how much goes through each. Floats; what they find is requoted exactly.

Over given paths a split is best when the levels of all that are used agree and no unused one starts below. At that
level every path is worth its surplus: what it brings over trading its share at the common marginal price, less its gas.
The best set of paths that share no pool is the heaviest one by that measure; a better set settles at another level, so
the two are worked out in turns, and paths that may not earn their gas are left out on trial.

Curves lie one behind the other in `rows`; curve i is rows[starts[i] : starts[i + 1]], its last row closing it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeper.compiled import compiled
from keeper.venues.curve import GAS, LOW, Curve, X, Y, at_level, traded

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

OFFERS = 3  # splits told
_ROUNDS = 100
_EXACT = 1e-13  # of the total
_TWIN = 1e-12  # of the value
_RIVALS = 62  # paths looked at together
_SETS = 8  # of paths that share no pool, settled at most
_VISITS = 3_000  # choices looked at for the heaviest set
_LENS = 4  # paths are first ranked by what they make of this fraction of the amount


@compiled("UniTuple(float64,2)(float64[:,::1],int64[::1],int64[::1],int64,float64,boolean,float64,float64[::1])")
def _filled(
    rows: Curve, starts: Ints, chosen: Ints, count: int, total: float, exact_out: bool, cost: float, shares: Curve
) -> tuple[float, float]:
    """(value, level) of `total` spread over the chosen paths; `shares` are written, in their order.

    The value is what is not fixed, gas taken off: less than nothing for a purchase. Level < 0 when they cannot.
    """
    low, high, most = np.inf, 0.0, 0.0
    for k in range(count):
        first, last = starts[chosen[k]], starts[chosen[k] + 1] - 1
        if first < last:
            low, high = min(low, rows[first, LOW]), max(high, rows[last, LOW])
            most += rows[last, Y if exact_out else X]
    if most < total or not low < high:
        return -np.inf, -1.0
    level = low
    for _ in range(_ROUNDS):
        amount = growth = 0.0
        for k in range(count):
            one = chosen[k]
            put, _, _, grows = at_level(rows, starts[one], starts[one + 1] - 1, level, exact_out)
            amount += put
            growth += grows
        if abs(amount - total) <= _EXACT * total:
            low = high = level
            break
        if amount < total:
            low = level
        else:
            high = level
        if exact_out:
            slack = (1.0 / level - (total - amount) / growth) if growth > 0.0 else 0.0
            level = 1.0 / slack if slack > 0.0 else -1.0
        else:
            level = level + (total - amount) / growth if growth > 0.0 else -1.0
        if not low < level < high:
            level = (low + high) / 2
            if not low < level < high:
                break
    # A curve may be level over a stretch, or all of it within the rounding of a level: what is missing lies in between.
    below = above = 0.0
    for k in range(count):
        one = chosen[k]
        shares[k] = at_level(rows, starts[one], starts[one + 1] - 1, low, exact_out)[0]
        below += shares[k]
        above += at_level(rows, starts[one], starts[one + 1] - 1, high, exact_out)[0]
    part = (total - below) / (above - below) if above > below else 0.0
    other = gas = 0.0
    for k in range(count):
        one = chosen[k]
        first, last = starts[one], starts[one + 1] - 1
        shares[k] += part * (at_level(rows, first, last, high, exact_out)[0] - shares[k])
        if shares[k] < 0.5:
            shares[k] = 0.0
            continue
        shares[k] = min(shares[k], rows[last, Y if exact_out else X])
        got, _, burnt = traded(rows, first, last, shares[k], exact_out)
        other += got
        gas += burnt
    return (-other if exact_out else other) - cost * gas, high


@compiled("float64(float64[:,::1],int64,int64,float64,float64,boolean,float64)")
def _surplus(rows: Curve, first: int, last: int, level: float, total: float, exact_out: bool, cost: float) -> float:
    """What a path brings over the price at `level`, trading until it gets there or to `total`, less its gas."""
    fixed, other, gas, _ = at_level(rows, first, last, level, exact_out)
    if fixed <= 0.0:
        return 0.0
    if fixed > total:
        fixed = total
        other, _, gas = traded(rows, first, last, total, exact_out)
    at_margin = fixed * level * level if exact_out else fixed / (level * level)
    return (at_margin - other if exact_out else other - at_margin) - cost * gas


@compiled("void(float64[::1],uint64[::1],int64[::1],int64,uint64[::1])")
def _heaviest(weights: Curve, clashes: NDArray[np.uint64], order: Ints, count: int, found: NDArray[np.uint64]) -> None:
    """Write to found[0] the set of the greatest weight in which nobody clashes; `order` is by falling weight.

    found[1] are those that may not be in it. By depth first, for a bounded number of steps.
    """
    one = np.uint64(1)
    taken, barred = np.zeros(count + 1, np.uint64), np.zeros(count + 1, np.uint64)
    weight, rest = np.zeros(count + 1), np.zeros(count + 1)
    for k in range(count - 1, -1, -1):
        rest[k] = rest[k + 1] + weights[order[k]]
    path = np.zeros(count + 1, np.int64)  # 0: to be taken, 1: to be left out, 2: done
    barred[0] = found[1]
    best, depth, visits = 0.0, 0, 0
    found[0] = np.uint64(0)
    while depth >= 0 and visits < _VISITS:
        visits += 1
        if weight[depth] > best:
            best = weight[depth]
            found[0] = taken[depth]
        if depth == count or weight[depth] + rest[depth] <= best or path[depth] == 2:
            path[depth] = 0
            depth -= 1
            continue
        which = order[depth]
        bit = one << np.uint64(which)
        step = path[depth]
        path[depth] += 1
        if step == 0:
            if barred[depth] & bit:
                continue
            taken[depth + 1], barred[depth + 1] = taken[depth] | bit, barred[depth] | clashes[which]
            weight[depth + 1] = weight[depth] + weights[which]
        else:
            taken[depth + 1], barred[depth + 1], weight[depth + 1] = taken[depth], barred[depth], weight[depth]
        depth += 1
        path[depth] = 0


@compiled("void(float64[::1],float64[:,::1],float64[::1],float64,float64,int64[::1],int64,float64[::1])")
def _keep(
    values: Curve, shares: Curve, levels: Curve, value: float, level: float, chosen: Ints, count: int, written: Curve
) -> None:
    """Put a split in its place among the best, unless it is there: sets with idle paths come to the same split."""
    place = 0
    while place < len(values) and values[place] >= value:
        place += 1
    for near in range(max(place - 1, 0), min(place + 1, len(values))):
        if abs(values[near] - value) <= _TWIN * abs(value):
            return
    if place == len(values):
        return
    for k in range(len(values) - 1, place, -1):
        values[k], levels[k] = values[k - 1], levels[k - 1]
        shares[k] = shares[k - 1]
    values[place], levels[place] = value, level
    shares[place] = 0.0
    for k in range(count):
        shares[place, chosen[k]] = written[k]


@compiled(
    "void(float64[:,::1],int64[::1],int64[::1],int64,float64,boolean,float64,int64,"
    "float64[::1],float64[:,::1],float64[::1])"
)
def _settled(
    rows: Curve, starts: Ints, chosen: Ints, count: int, total: float, exact_out: bool, cost: float, most: int,
    values: Curve, shares: Curve, levels: Curve,
) -> None:  # fmt: skip
    """Keep the best splits over the chosen paths or fewer.

    Again and again one is left out that hardly earns its gas, or, of more than `most`, the least.
    """
    written, spare, trial = np.empty(count), np.empty(count), np.empty(count, np.int64)
    value, level = _filled(rows, starts, chosen, count, total, exact_out, cost, written)
    while level > 0.0:
        used = least = 0
        for k in range(count):
            if written[k] > 0.0:
                chosen[used], written[used] = chosen[k], written[k]
                least = used if written[used] < written[least] else least
                used += 1
        count = used
        if count == 0:  # nothing but fractions of a unit
            break
        if count <= most:
            _keep(values, shares, levels, value, level, chosen, count, written)
        without, best = -1, -np.inf
        for k in range(count if count > 1 else 0):
            first, last = starts[chosen[k]], starts[chosen[k] + 1] - 1
            gas = traded(rows, first, last, written[k], exact_out)[2]
            if _surplus(rows, first, last, level, total, exact_out, 0.0) < 2.0 * cost * gas:
                trial[:k], trial[k : count - 1] = chosen[:k], chosen[k + 1 : count]
                tried = _filled(rows, starts, trial, count - 1, total, exact_out, cost, spare)[0]
                if tried > best:
                    without, best = k, tried
        if without < 0 and count > most:
            without = least
        if without < 0:
            break
        for k in range(without, count - 1):
            chosen[k] = chosen[k + 1]
        count -= 1
        value, level = _filled(rows, starts, chosen, count, total, exact_out, cost, written)


@compiled(
    "int64(float64[:,::1],int64[::1],boolean[::1],float64,boolean,float64,int64[::1],"
    "float64[::1],float64[:,::1],float64[::1])"
)
def _helpful(
    rows: Curve, starts: Ints, allowed: Flags, total: float, exact_out: bool, cost: float, found: Ints,
    values: Curve, shares: Curve, levels: Curve,
) -> int:  # fmt: skip
    """How many paths can take part; they are written to `found`, the best price first.

    The best that trades all of it alone is kept as a split; what starts where it ends can take nothing off it.
    """
    price = np.zeros(len(starts) - 1)
    single, best, end = -1, -np.inf, np.inf
    size = max(total / _LENS, 1.0)
    for i in range(len(price)):
        first, last = starts[i], starts[i + 1] - 1
        if not allowed[i] or first == last:
            continue
        other, level, gas = traded(rows, first, last, total, exact_out)
        if level > 0.0:
            value = (-other if exact_out else other) - cost * gas
            if value > best:
                single, best, end = i, value, level
        other, level, _ = traded(rows, first, last, size, exact_out)
        if level > 0.0 and other > 0.0:
            price[i] = size / other if exact_out else other / size
        else:
            price[i] = 1e-9 / rows[first, LOW]  # behind all that can
    if single >= 0:
        values[0], shares[0, single], levels[0] = best, total, end
    count = 0
    for i in np.argsort(-price, kind="mergesort"):
        if count < len(found) and price[i] > 0.0 and (i == single or rows[starts[i], LOW] < end):
            found[count] = i
            count += 1
    return count


@compiled("boolean(float64[:,::1],int64[::1],boolean[::1],float64,boolean,float64,float64,float64,float64)")
def _enough(
    rows: Curve, starts: Ints, allowed: Flags, total: float, exact_out: bool, cost: float,
    reach: float, best: float, level: float,
) -> bool:  # fmt: skip
    """Whether nothing beyond the ends of the curves, which are looked at up to `reach`, can be better than `best`."""
    for i in range(len(starts) - 1):
        first, last = starts[i], starts[i + 1] - 1
        if not allowed[i] or first == last:
            continue
        if level <= 0.0:
            return False
        rest, end = total - rows[last, Y if exact_out else X], rows[last, LOW]
        if end < rows[first, LOW] * reach:  # there is no more of it
            continue
        if level > end:
            return False
        if rest > 0.0:  # alone it might save the gas of the others
            value = -rows[last, X] - rest * end * end if exact_out else rows[last, Y] + rest / (end * end)
            if value - cost * rows[last - 1, GAS] > best:
                return False
    return True


@compiled(
    "Tuple((float64[::1],float64[:,::1],float64[::1],boolean))"
    "(float64[:,::1],int64[::1],boolean[:,::1],boolean[::1],float64,boolean,float64,int64,float64)"
)
def offers(
    rows: Curve,
    starts: Ints,
    clash: Flags,
    allowed: Flags,
    total: float,
    exact_out: bool,
    cost: float,
    max_paths: int,
    reach: float,
) -> tuple[Curve, Curve, Curve, bool]:
    """The best splits of `total` over the allowed paths: their values, best first, shares by path, and levels.

    `clash` says which paths share a pool, `cost` what gas costs in the token that is not fixed. A value of minus
    infinity is no split. The flag says whether curves up to a level risen by the factor `reach` were long enough.
    """
    values, shares, levels = np.full(OFFERS, -np.inf), np.zeros((OFFERS, len(starts) - 1)), np.zeros(OFFERS)
    helpful = np.empty(_RIVALS, np.int64)
    count = _helpful(rows, starts, allowed, total, exact_out, cost, helpful, values, shares, levels)
    one, none = np.uint64(1), np.uint64(0)
    clashes = np.zeros(count, np.uint64)
    for a in range(count):
        for b in range(count):
            if clash[helpful[a], helpful[b]]:
                clashes[a] |= one << np.uint64(b)
    waiting, tried, found = np.zeros(2 * _SETS, np.uint64), np.zeros(_SETS, np.uint64), np.zeros(2, np.uint64)
    chosen, weights = np.empty(count, np.int64), np.zeros(count)
    barred = none
    for a in range(count):  # the best prices first
        if not barred >> np.uint64(a) & one:
            waiting[0] |= one << np.uint64(a)
            barred |= clashes[a]
    best, at, end, settled = -np.inf, 0, 1 if count > 1 else 0, 0
    while at < end and settled < _SETS:
        now = waiting[at]
        at += 1
        if np.any(tried[:settled] == now):
            continue
        tried[settled] = now
        settled += 1
        size = 0
        for a in range(count):
            if now >> np.uint64(a) & one:
                chosen[size] = helpful[a]
                size += 1
        _settled(rows, starts, chosen, size, total, exact_out, cost, max_paths, values, shares, levels)
        if values[0] > best:
            best, level = values[0], levels[0]
            for a in range(count):
                i = helpful[a]
                weights[a] = _surplus(rows, starts[i], starts[i + 1] - 1, level, total, exact_out, cost)
            order = np.argsort(-weights, kind="mergesort")
            positive = int(np.count_nonzero(weights > 0.0))
            found[1] = none
            _heaviest(weights, clashes, order, positive, found)
            heavy = waiting[0] = found[0]
            at, end = 0, 1
            for a in order[:positive]:  # the best sets that hold one who is not in it
                bit = one << np.uint64(a)
                if not heavy & bit and end < _SETS // 2:
                    found[1] = clashes[a] | bit
                    _heaviest(weights, clashes, order, positive, found)
                    waiting[end] = found[0] | bit
                    end += 1
    enough = _enough(rows, starts, allowed, total, exact_out, cost, reach, values[0], levels[0])
    return values, shares, levels, enough


@compiled("int64(float64[:,::1],int64[::1],float64)")
def deepest(rows: Curve, starts: Ints, rise: float) -> int:
    """The path that takes most before its level has risen by the factor `rise`; -1 when there is none."""
    best, place = 0.0, -1
    for i in range(len(starts) - 1):
        first, last = starts[i], starts[i + 1] - 1
        if first < last:
            depth = at_level(rows, first, last, rows[first, LOW] * rise, False)[0]  # noqa: FBT003 - a sale
            if place < 0 or depth > best:
                best, place = depth, i
    return place
