"""The best exact trade over all venues: which paths, and how much through each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from keeper.model import Address, Path, Route
from keeper.venues.chains import Chain, Graph, Key, Leg, key_between, key_of
from keeper.venues.choose import greedy, heaviest, rival, runners_up, surplus_at
from keeper.venues.pool import Pool
from keeper.venues.split import Point, Probe, split

_NOTHING: frozenset[Address] = frozenset()
_LENS = 4  # competing paths are first ranked by what they make of this fraction of the amount
_SETS = 4  # of paths that share no pool, tried at most


class PoolSource(Protocol):
    """A venue, as far as the router looks."""

    def pools(self) -> Iterable[Pool]:
        """The pools that can be quoted exactly now."""


class _Offer(NamedTuple):
    """A priced way of trading; `score` is base units of the side that is not fixed, gas taken off, more is better."""

    score: int
    paths: tuple[Path, ...]
    gas: int
    level: float  # at which the paths settle


class Router:
    """ports.Quoter over the pools' states at the moment it is made: make one per head.

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
        self._pools: dict[Key, Pool] = {key_of(pool): pool for venue in venues for pool in venue.pools()}
        self._graph = Graph(self._pools.values(), connectors)
        self._native = native
        self._gas_price = gas_price
        self._max_paths = max_paths
        self._chains: dict[tuple[Address, Address], list[Chain]] = {}
        self._rates: dict[Address, tuple[int, int]] = {}

    def pool(self, address: Address, one: Address, other: Address) -> Pool:
        """The pool at `address` between two tokens as it stands here; raises KeyError for a stranger."""
        return self._pools[key_between(address, one, other)]

    def priced(self, gas_price: int) -> Router:
        """The same pools with gas at `gas_price` wei."""
        return self._copy(self._pools, gas_price, self._chains)

    def after(self, route: Route) -> Router:
        """The pools once `route` has been traded; raises ValueError when it cannot be traded here."""
        pools = dict(self._pools)
        for path in route.paths:
            for hop in path.hops:
                pool = pools[key_between(hop.pool, hop.token_in, hop.token_out)]
                zero_for_one = hop.token_in < hop.token_out
                if route.exact_out:
                    traded = pool.swap_out(zero_for_one, hop.amount_out)
                else:
                    traded = pool.swap_in(zero_for_one, hop.amount_in)
                if traded is None:
                    raise ValueError(f"pool {hop.pool} cannot trade {hop.amount_in} for {hop.amount_out}")
                pools.update((key_of(pair), pair) for pair in traded[1].pairs() if key_of(pair) in pools)
        return self._copy(pools, self._gas_price, {})

    def again(self, route: Route) -> Route | None:
        """The same paths with the same fixed amounts, traded here; None when one cannot take or give its amount."""
        shares = [path.amount_out if route.exact_out else path.amount_in for path in route.paths]
        chains = [
            Chain(
                tuple(
                    Leg(self.pool(hop.pool, hop.token_in, hop.token_out), hop.token_in < hop.token_out)
                    for hop in path.hops
                )
            )
            for path in route.paths
        ]
        offer = self._offer(chains, shares, route.exact_out, _Cost(0, 1))
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
        """Marginal price before fees of the deepest path as (out, in) base units; None without a path."""
        if token_in == token_out:
            return 1, 1
        chains = self._between(token_in, token_out)
        return max(chains, key=Chain.depth).spot() if chains else None

    # ------------------------------------------------------------------------------------------------- inside

    def _copy(
        self, pools: dict[Key, Pool], gas_price: int, chains: dict[tuple[Address, Address], list[Chain]]
    ) -> Router:
        twin = object.__new__(Router)
        twin._pools, twin._graph, twin._native = pools, self._graph, self._native
        twin._gas_price, twin._max_paths = gas_price, self._max_paths
        twin._chains, twin._rates = chains, {}
        return twin

    def _between(self, token_in: Address, token_out: Address) -> list[Chain]:
        """Chains that have any liquidity at all."""
        key = (token_in, token_out)
        if key not in self._chains:
            found = self._graph.chains(self._pools, token_in, token_out)
            self._chains[key] = [chain for chain in found if chain.probe(False, 0) is not None]  # noqa: FBT003 - a sale
        return self._chains[key]

    def _trade(
        self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address], *, exact_out: bool
    ) -> Route | None:
        if amount <= 0 or token_in == token_out:
            return None
        chains = [chain for chain in self._between(token_in, token_out) if not chain.pools & avoid]
        cost = self._cost(token_in if exact_out else token_out)
        single = self._single(chains, amount, exact_out, cost)
        offers: list[_Offer] = []
        helpful = chains
        if single is not None:
            offer = self._offer([single], [amount], exact_out, cost)
            if offer is not None:
                offers.append(offer)
                # A path that starts where the best one ends can take nothing off it.
                end = _level(single, exact_out, amount)
                helpful = [chain for chain in chains if chain is single or _level(chain, exact_out, 0) < end]
        if len(helpful) > 1:
            offers += self._together(helpful, amount, exact_out, cost)
        if not offers:
            return None
        best = max(offers, key=lambda offer: offer.score)
        return Route(token_in, token_out, best.paths, best.gas, exact_out)

    def _single(self, chains: Sequence[Chain], amount: int, exact_out: bool, cost: _Cost) -> Chain | None:
        """The chain that trades all of it best, gas taken off."""
        found: list[tuple[int, int, Chain]] = []
        for number, chain in enumerate(chains):
            probed = chain.probe(exact_out, amount)
            if probed is not None:
                found.append((-probed.other if exact_out else probed.other, -number, chain))
        found.sort(reverse=True)
        best: tuple[int, Chain] | None = None
        for score, _, chain in found:
            if best is not None and score <= best[0]:
                break  # gas only takes off
            score -= cost.of(chain.gas(exact_out, amount))
            if best is None or score > best[0]:
                best = (score, chain)
        return best[1] if best else None

    def _together(self, chains: Sequence[Chain], amount: int, exact_out: bool, cost: _Cost) -> list[_Offer]:
        """Splits over sets of chains that share no pool."""
        if not rival(chains):
            return self._splits(chains, amount, exact_out, cost)
        size = max(1, amount // _LENS)
        waiting = [greedy(sorted(chains, key=partial(_price, exact_out, size), reverse=True))]
        tried: set[frozenset[int]] = set()
        offers: list[_Offer] = []
        best: _Offer | None = None
        while waiting and len(tried) < _SETS:
            chosen = waiting.pop(0)
            key = frozenset(map(id, chosen))
            if key in tried:
                continue
            tried.add(key)
            found = self._splits(chosen, amount, exact_out, cost)
            offers += found
            top = max(found, key=lambda offer: offer.score, default=None)
            if top is not None and (best is None or top.score > best.score):
                best = top
                weighted = [(surplus_at(c, exact_out, top.level, amount, cost.of), c) for c in chains]
                heavy = heaviest(weighted)
                waiting = [heavy, *runners_up(weighted, heavy, _SETS // 2)]
        return offers

    def _splits(self, chosen: Sequence[Chain], amount: int, exact_out: bool, cost: _Cost) -> list[_Offer]:
        """The best split over `chosen`, and over what is left when paths that may not earn their gas are dropped."""
        offers: list[_Offer] = []
        found = self._split(chosen, amount, exact_out, cost)
        while found is not None:
            offer, used = found
            if len(used) <= self._max_paths:
                offers.append(offer)
            if len(used) < 2:
                break
            doubtful = self._doubtful(used, exact_out, cost)
            if not doubtful and len(used) > self._max_paths:
                doubtful = [min(range(len(used)), key=lambda i: used[i][1])]
            chains = [chain for chain, _ in used]
            trials = [self._split([*chains[:i], *chains[i + 1 :]], amount, exact_out, cost) for i in doubtful]
            found = max((t for t in trials if t is not None), key=lambda trial: trial[0].score, default=None)
        return offers

    def _split(
        self, chains: Sequence[Chain], amount: int, exact_out: bool, cost: _Cost
    ) -> tuple[_Offer, list[tuple[Chain, int]]] | None:
        shares = split([_curve(chain, exact_out) for chain in chains], amount)
        if shares is None:
            return None
        used = [(chain, share) for chain, share in zip(chains, shares, strict=True) if share]
        offer = self._offer([chain for chain, _ in used], [share for _, share in used], exact_out, cost)
        return None if offer is None else (offer, used)

    def _doubtful(self, used: Sequence[tuple[Chain, int]], exact_out: bool, cost: _Cost) -> list[int]:
        """Paths whose surplus is less than twice their gas: without them, others may cross more ticks, or fewer."""
        surpluses = _surpluses(used, exact_out)
        return [i for i, (chain, share) in enumerate(used) if surpluses[i] < 2 * cost.of(chain.gas(exact_out, share))]

    def _offer(self, chains: Sequence[Chain], shares: Sequence[int], exact_out: bool, cost: _Cost) -> _Offer | None:
        """The exact amounts and gas of a split, the largest path last."""
        paths: list[Path] = []
        gas = 0
        for share, chain in sorted(zip(shares, chains, strict=True), key=lambda pair: pair[0]):
            path = chain.buy(share) if exact_out else chain.sell(share)
            if path is None:
                return None
            paths.append(path)
            gas += sum(
                leg.pool.gas(leg.zero_for_one, hop.amount_in) for leg, hop in zip(chain.legs, path.hops, strict=True)
            )
        total = -sum(path.amount_in for path in paths) if exact_out else sum(path.amount_out for path in paths)
        level = max(_level(chain, exact_out, share) for chain, share in zip(chains, shares, strict=True))
        return _Offer(total - cost.of(gas), tuple(paths), gas, level)

    def _cost(self, token: Address) -> _Cost:
        """What gas costs in `token`."""
        if not self._gas_price or self._native is None:
            return _Cost(0, 1)
        if token not in self._rates:
            self._rates[token] = self.spot(self._native, token) or (0, 1)
        out, into = self._rates[token]
        return _Cost(out * self._gas_price, into)


class _Cost(NamedTuple):
    numerator: int
    denominator: int

    def of(self, gas: int) -> int:
        """Base units, rounded up."""
        return -(-gas * self.numerator // self.denominator)


def _level(chain: Chain, exact_out: bool, amount: int) -> float:
    probed = chain.probe(exact_out, amount)
    return float("inf") if probed is None else probed[1]


def _price(exact_out: bool, size: int, chain: Chain) -> float:
    """Average price of a trade of `size`, the more the better; 0 where it cannot be made."""
    probed = chain.probe(exact_out, size)
    if probed is None or not probed.other:
        return 0.0
    return size / probed.other if exact_out else probed.other / size


def _curve(chain: Chain, exact_out: bool) -> Probe:
    def look(amount: int) -> Point | None:
        probed = chain.probe(exact_out, amount)
        return None if probed is None else Point(probed.level, probed.slope)

    return look


def _surpluses(used: Sequence[tuple[Chain, int]], exact_out: bool) -> list[float]:
    """What each path brings over trading its share at the common marginal price: at least that is lost without it."""
    level = max(_level(chain, exact_out, share) for chain, share in used)
    found: list[float] = []
    for chain, share in used:
        probed = chain.probe(exact_out, share)
        other = probed[0] if probed else 0
        at_margin = share / (level * level)
        found.append(at_margin - other if exact_out else other - at_margin)
    return found
