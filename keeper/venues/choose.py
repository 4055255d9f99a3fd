"""Which paths to trade together, where they compete for pools.

At the level at which a split settles, every path is worth its surplus: what it brings over trading its share at the
common marginal price, less its gas. The best set of paths that share no pool is the heaviest one by that measure; a
better set settles at another level, so the two are worked out in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keeper.model import Address
from keeper.venues.chains import Chain

_PROBES = 16
_NEAR = 32  # the end of a path's liquidity is found to this fraction of it
_CLOSE = 1e-4  # of the level
_LARGEST = 18  # rivals compared exhaustively


def surplus_at(chain: Chain, exact_out: bool, level: float, most: int, cost: Callable[[int], int]) -> float:
    """What a path brings over the marginal price that belongs to `level`, trading until it gets there or to `most`.

    Less its gas, at `cost` of it; 0 when the path starts beyond `level`.
    """
    low, high = 0, most
    at = chain.probe(exact_out, 0)
    if at is None or at.level >= level:
        return 0.0
    end = chain.probe(exact_out, most)
    if end is not None and end.level <= level:
        low, at = most, end
    for _ in range(_PROBES if low < most else 0):
        guess = low + int((level - at.level) / at.slope) if at.slope else high
        if not low < guess < high:
            guess = (low + high) // 2 if low else high // 16
        probed = chain.probe(exact_out, guess)
        close = probed is not None and abs(probed.level - level) < _CLOSE * abs(level)
        if probed is not None and (close or probed.level <= level):
            low, at = guess, probed
        else:
            high = guess
        if close or high < 2 or high - low <= low // _NEAR:
            break
    at_margin = low / (level * level)
    surplus = at_margin - at.other if exact_out else at.other - at_margin
    return surplus - cost(chain.gas(exact_out, low)) if low else 0.0


def greedy(ordered: Sequence[Chain]) -> list[Chain]:
    """Chains taken in the given order, unless a pool of theirs is taken already."""
    taken: set[Address] = set()
    chosen: list[Chain] = []
    for chain in ordered:
        if not chain.pools & taken:
            chosen.append(chain)
            taken |= chain.pools
    return chosen


def rival(chains: Sequence[Chain]) -> bool:
    """Whether any two chains share a pool."""
    return len(frozenset[Address]().union(*(chain.pools for chain in chains))) < sum(len(c.pools) for c in chains)


def heaviest(weighted: Sequence[tuple[float, Chain]]) -> list[Chain]:
    """The set of chains without common pools whose weights add up to most; those of no weight are left out."""
    chosen: list[Chain] = []
    for group in _groups([item for item in weighted if item[0] > 0]):
        group.sort(key=lambda item: item[0], reverse=True)
        chosen += _best(group[:_LARGEST], frozenset())[1]
    return chosen


def runners_up(weighted: Sequence[tuple[float, Chain]], chosen: Sequence[Chain], count: int) -> list[list[Chain]]:
    """The heaviest sets that hold one chain that is not in `chosen`, heaviest first."""
    inside = set(map(id, chosen))
    found: list[tuple[float, list[Chain]]] = []
    for weight, chain in weighted:
        if weight > 0 and id(chain) not in inside:
            rest = [item for item in weighted if not item[1].pools & chain.pools]
            others = heaviest(rest)
            ids = set(map(id, others))
            found.append((weight + sum(w for w, c in rest if id(c) in ids), [chain, *others]))
    found.sort(key=lambda item: item[0], reverse=True)
    return [chains for _, chains in found[:count]]


def _groups(weighted: Sequence[tuple[float, Chain]]) -> list[list[tuple[float, Chain]]]:
    """Chains that compete with one another, directly or through others."""
    groups: list[tuple[set[Address], list[tuple[float, Chain]]]] = []
    for item in weighted:
        touched = [group for group in groups if group[0] & item[1].pools]
        pools, members = set(item[1].pools), [item]
        for group in touched:
            pools |= group[0]
            members += group[1]
            groups.remove(group)
        groups.append((pools, members))
    return [members for _, members in groups]


def _best(ordered: Sequence[tuple[float, Chain]], taken: frozenset[Address]) -> tuple[float, list[Chain]]:
    """Heaviest choice from `ordered` (by falling weight) that leaves `taken` alone."""
    best: tuple[float, list[Chain]] = (0.0, [])
    left = sum(weight for weight, chain in ordered if not chain.pools & taken)
    for index, (weight, chain) in enumerate(ordered):
        if chain.pools & taken:
            continue
        if left <= best[0]:
            break
        more = _best(ordered[index + 1 :], taken | chain.pools)
        if weight + more[0] > best[0]:
            best = (weight + more[0], [chain, *more[1]])
        left -= weight
    return best
