"""The best exact trade over all venues: which paths, and how much through each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from keeper.model import Address, Path, Route
from keeper.venues.chains import Chain, Graph, Key, Leg, key_between, key_of
from keeper.venues.curve import LOW, Curve
from keeper.venues.pool import Pool
from keeper.venues.split import Flags, Ints, deepest, offers

Pair = tuple[Address, Address]  # what is sold and what is bought

_NOTHING: frozenset[Address] = frozenset()
_REACH = (1.1, 2.0, 2.0**60)  # how far the levels are looked at to rise, as far as necessary
_WITHIN = 1 - 1e-9  # of all that a path can trade, so that rounding leads to nobody's end
_NEVER = float("-inf")
_DEEP = 1.01  # of the level: 2 % of the price
_SAME = 1e-6  # values that rounding may put in another order


class PoolSource(Protocol):
    """A venue, as far as the router looks."""

    def pools(self) -> Iterable[Pool]:
        """The pools that can be quoted exactly now."""


class _Offer(NamedTuple):
    """A priced way of trading; `score` is base units of the side that is not fixed, gas taken off, more is better."""

    score: int
    paths: tuple[Path, ...]
    gas: int


class _Ways:
    """All paths from one token to another with their curves. Treat as immutable."""

    __slots__ = ("_all", "_clash", "_found", "chains")

    def __init__(self, chains: Sequence[Chain], clash: Flags | None = None) -> None:
        self.chains = chains
        if clash is None:
            clash = np.array([[bool(a.pools & b.pools) for b in chains] for a in chains], np.bool_)
        self._clash = clash.reshape(len(chains), len(chains))
        self._all = np.ones(len(chains), np.bool_)
        self._found: dict[float, tuple[Curve, Ints]] = {}

    def over(self, pools: Mapping[Key, Pool], moved: frozenset[Key]) -> _Ways:
        """The same paths where the pools of `moved` are in other states."""
        if all(chain.keys.isdisjoint(moved) for chain in self.chains):
            return self
        return _Ways([chain.over(pools) if chain.keys & moved else chain for chain in self.chains], self._clash)

    def curves(self, reach: float) -> tuple[Curve, Ints]:
        """Their rows one behind the other, and where each begins."""
        if reach not in self._found:
            curves = [chain.curve(reach) for chain in self.chains]
            starts = np.zeros(len(curves) + 1, np.int64)
            np.cumsum([len(curve) for curve in curves], out=starts[1:])
            rows = np.concatenate(curves)
            ends = starts[1:][starts[1:] - starts[:-1] > 1] - 1
            rows[ends, :LOW] = np.maximum(rows[ends, :LOW] * _WITHIN, rows[ends - 1, :LOW])
            self._found[reach] = (rows, starts)
        return self._found[reach]

    def splits(
        self, total: int, avoid: frozenset[Address], *, exact_out: bool, cost: float, max_paths: int
    ) -> Iterator[tuple[float, float, list[tuple[Chain, int]]]]:
        """(value, level, who trades how much) of the best splits of `total`, best first. Floats decided."""
        allowed = self._all
        if avoid:
            allowed = np.array([avoid.isdisjoint(chain.pools) for chain in self.chains], np.bool_)
        for reach in _REACH:
            rows, starts = self.curves(reach)
            values, shares, levels, enough = offers(
                *(rows, starts, self._clash, allowed, float(total), exact_out, cost, max_paths, reach)
            )
            if enough:
                break
        for value, level, row in zip(values.tolist(), levels.tolist(), shares, strict=True):
            if value > _NEVER:
                yield value, level, self._whole(row.tolist(), total)

    def deepest(self) -> Chain | None:
        """The path that takes most before its price has moved by 2 %."""
        place = deepest(*self.curves(_REACH[0]), _DEEP) if self.chains else -1
        return self.chains[place] if place >= 0 else None

    def _whole(self, row: list[float], total: int) -> list[tuple[Chain, int]]:
        """Integers near the shares that add up to `total`; what rounding leaves goes to the largest, which is last."""
        used = sorted((share, place) for place, share in enumerate(row) if share)
        scale = total / sum(share for share, _ in used)
        found = [(self.chains[place], int(share * scale)) for share, place in used[:-1]]
        found.append((self.chains[used[-1][1]], total - sum(share for _, share in found)))
        return [(chain, share) for chain, share in found if share > 0]


@dataclass(frozen=True, slots=True)
class _Known:
    """What has been worked out of one state of the pools; `before` of older ones, with the pools that differ there."""

    before: Mapping[Pair, tuple[_Ways, frozenset[Key]]] = field(default_factory=dict)
    ways: dict[Pair, _Ways] = field(default_factory=dict)
    spots: dict[Pair, tuple[int, int] | None] = field(default_factory=dict)
    deep: dict[Pair, Chain | None] = field(default_factory=dict)

    def moved(self, keys: frozenset[Key]) -> _Known:
        """What is left of it where these pools are in other states."""
        older = {pair: (ways, since | keys) for pair, (ways, since) in self.before.items()}
        return _Known(older | {pair: (ways, keys) for pair, ways in self.ways.items()})


class Router:
    """ports.Quoter over the pools' states at the moment it is made: make one per head, or renew the last one.

    `connectors` are tokens that a path may go through. With `native` (the wrapped native token) and `gas_price` (wei
    per gas), a further path is only used if it brings more than its gas costs; gas is valued at the pools' own spot
    price, and at nothing where they have none. Paths of a route never share a pool.
    """

    def __init__(
        self,
        venues: Iterable[PoolSource],
        connectors: Iterable[Address],
        *,
        native: Address | None = None,
        gas_price: int = 0,
        max_paths: int = 6,
    ) -> None:
        self._pools = _pools(venues)
        self._graph = Graph(self._pools.values(), connectors)
        self._native = native
        self._gas_price = gas_price
        self._max_paths = max_paths
        self._known = _Known()
        self._head: Router | None = None  # whose trades have led here; None at the head itself

    def pool(self, address: Address, one: Address, other: Address) -> Pool:
        """The pool at `address` between two tokens as it stands here; raises KeyError for a stranger."""
        return self._pools[key_between(address, one, other)]

    def renewed(self, venues: Sequence[PoolSource], gas_price: int) -> Router:
        """The pools as they are at another head; what is known of paths through those that have not changed is kept."""
        pools = _pools(venues)
        if pools.keys() != self._pools.keys():
            connectors, paths = self._graph.connectors, self._max_paths
            return Router(venues, connectors, native=self._native, gas_price=gas_price, max_paths=paths)
        moved = frozenset(key for key, pool in pools.items() if pool is not self._pools[key])
        return self._copy(pools, gas_price, self._known.moved(moved) if moved else self._known, None)

    def priced(self, gas_price: int) -> Router:
        """The same pools with gas at `gas_price` wei."""
        return self._copy(self._pools, gas_price, self._known, self._head)

    def after(self, route: Route) -> Router:
        """The pools once `route` has been traded; raises ValueError when it cannot be traded here."""
        moved: dict[Key, Pool] = {}
        for path in route.paths:
            for hop in path.hops:
                key = key_between(hop.pool, hop.token_in, hop.token_out)
                pool = moved.get(key) or self._pools[key]
                zero_for_one = hop.token_in < hop.token_out
                if route.exact_out:
                    traded = pool.swap_out(zero_for_one, hop.amount_out)
                else:
                    traded = pool.swap_in(zero_for_one, hop.amount_in)
                if traded is None:
                    raise ValueError(f"pool {hop.pool} cannot trade {hop.amount_in} for {hop.amount_out}")
                moved.update((key_of(pair), pair) for pair in traded[1].pairs() if key_of(pair) in self._pools)
        known = self._known.moved(frozenset(moved))
        return self._copy({**self._pools, **moved}, self._gas_price, known, self._head or self)

    def again(self, route: Route) -> Route | None:
        """The same paths with the same fixed amounts, traded here; None when one cannot take or give its amount."""
        used = [
            (
                Chain(
                    tuple(
                        Leg(self.pool(hop.pool, hop.token_in, hop.token_out), hop.token_in < hop.token_out)
                        for hop in path.hops
                    )
                ),
                path.amount_out if route.exact_out else path.amount_in,
            )
            for path in route.paths
        ]
        offer = self._offer(used, route.exact_out, _Cost(0, 1))
        return (
            None if offer is None else Route(route.token_in, route.token_out, offer.paths, offer.gas, route.exact_out)
        )

    def sell(
        self, token_in: Address, token_out: Address, amount_in: int, avoid: frozenset[Address] = _NOTHING
    ) -> Route | None:
        """Best split for selling exactly `amount_in`, by output less gas; None when nothing can take it all."""
        return self._trade(token_in, token_out, amount_in, avoid, exact_out=False)

    def buy(
        self, token_in: Address, token_out: Address, amount_out: int, avoid: frozenset[Address] = _NOTHING
    ) -> Route | None:
        """Best split for buying exactly `amount_out`, by input plus gas; None when nothing can give it all."""
        return self._trade(token_in, token_out, amount_out, avoid, exact_out=True)

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        """Marginal price before fees as (out, in) base units; None without a path.

        Of the path that is the deepest at the head, whatever has been traded since: in the state that it is in here.
        """
        if token_in == token_out:
            return 1, 1
        spots, key = self._known.spots, (token_in, token_out)
        if key not in spots:
            head = self._head or self
            chain = head._deepest(key)  # noqa: SLF001 - another of its own kind
            spots[key] = None if chain is None else (chain if head is self else chain.over(self._pools)).spot()
        return spots[key]

    # ------------------------------------------------------------------------------------------------- inside

    def _copy(self, pools: dict[Key, Pool], gas_price: int, known: _Known, head: Router | None) -> Router:
        twin = object.__new__(Router)
        twin._pools, twin._graph, twin._native = pools, self._graph, self._native
        twin._gas_price, twin._max_paths = gas_price, self._max_paths
        twin._known, twin._head = known, head
        return twin

    def _deepest(self, pair: Pair) -> Chain | None:
        deep = self._known.deep
        if pair not in deep:
            deep[pair] = self._between(*pair).deepest()
        return deep[pair]

    def _between(self, token_in: Address, token_out: Address) -> _Ways:
        known, key = self._known, (token_in, token_out)
        if key not in known.ways:
            if key in known.before:
                ways, moved = known.before[key]
                known.ways[key] = ways.over(self._pools, moved)
            else:
                known.ways[key] = _Ways(list(self._graph.chains(self._pools, token_in, token_out)))
        return known.ways[key]

    def _trade(
        self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address], *, exact_out: bool
    ) -> Route | None:
        if amount <= 0 or token_in == token_out:
            return None
        ways = self._between(token_in, token_out)
        if not ways.chains:
            return None
        cost = self._cost(token_in if exact_out else token_out)
        splits = ways.splits(
            amount, avoid, exact_out=exact_out, cost=cost.numerator / cost.denominator, max_paths=self._max_paths
        )
        best: _Offer | None = None
        margin = 0.0
        for value, level, used in splits:
            if best is not None and value < best.score - _SAME * abs(best.score):
                break
            offer = self._offer(used, exact_out, cost)
            if offer is not None and (best is None or offer.score > best.score):
                best, margin = offer, level * level
        if best is None:  # the amount is about as small, or as large, as a pool can trade: only rounding decides
            alone = [self._offer([(c, amount)], exact_out, cost) for c in ways.chains if not c.pools & avoid]
            best = max((offer for offer in alone if offer is not None), key=lambda o: o.score, default=None)
        return None if best is None else Route(token_in, token_out, best.paths, best.gas, exact_out, margin)

    def _offer(self, used: Iterable[tuple[Chain, int]], exact_out: bool, cost: _Cost) -> _Offer | None:
        """The exact amounts and gas of a split."""
        paths: list[Path] = []
        gas = total = 0
        for chain, share in used:
            path = chain.buy(share) if exact_out else chain.sell(share)
            if path is None:
                return None
            paths.append(path)
            gas += chain.gas(path)
            total += -path.amount_in if exact_out else path.amount_out
        return _Offer(total - cost.of(gas), tuple(paths), gas)

    def _cost(self, token: Address) -> _Cost:
        """What gas costs in `token`."""
        if not self._gas_price or self._native is None:
            return _Cost(0, 1)
        out, into = self.spot(self._native, token) or (0, 1)
        return _Cost(out * self._gas_price, into) if into else _Cost(0, 1)


def _pools(venues: Iterable[PoolSource]) -> dict[Key, Pool]:
    return {key_of(pool): pool for venue in venues for pool in venue.pools()}


class _Cost(NamedTuple):
    numerator: int
    denominator: int

    def of(self, gas: int) -> int:
        """Base units, rounded up."""
        return -(-gas * self.numerator // self.denominator)
