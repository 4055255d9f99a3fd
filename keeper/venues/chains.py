"""Pools in trading order from one token to another: a path before an amount is chosen for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from keeper.model import Address, Hop, Path
from keeper.venues.pool import Pool

_REMEMBERED = 512
Key = tuple[Address, Address, Address]  # a pool's address and its two tokens in order


def key_of(pool: Pool) -> Key:
    """What tells a pool from every other, and from the other pairs of its state."""
    return pool.address, pool.token0, pool.token1


def key_between(address: Address, one: Address, other: Address) -> Key:
    """The key of the pool at `address` that trades the two tokens, in either order."""
    return (address, one, other) if one < other else (address, other, one)


class Leg(NamedTuple):
    """One pool and the direction it is traded in."""

    pool: Pool
    zero_for_one: bool

    @property
    def token_in(self) -> Address:
        """What the pool takes."""
        return self.pool.token0 if self.zero_for_one else self.pool.token1

    @property
    def token_out(self) -> Address:
        """What the pool gives."""
        return self.pool.token1 if self.zero_for_one else self.pool.token0


class Probed(NamedTuple):
    """The amount on the other side, the level afterwards, and how fast that rises."""

    other: int
    level: float
    slope: float


class Chain:
    """Legs whose tokens meet. Levels are those of `pool.Pool`, multiplied over the legs.

    For a sale the level is √(in/out) at the margin, for a purchase −√(out/in): both rise with the amount.
    """

    __slots__ = ("_seen", "legs", "pools")

    def __init__(self, legs: tuple[Leg, ...]) -> None:
        self.legs = legs
        self.pools = frozenset(leg.pool.address for leg in legs)
        self._seen: dict[tuple[bool, int], Probed | None] = {}

    def probe(self, exact_out: bool, amount: int) -> Probed | None:
        """What `amount`, which may be 0, leads to; None when a pool on the way cannot."""
        key = (exact_out, amount)
        if key not in self._seen:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[key] = self._probe_out(amount) if exact_out else self._probe_in(amount)
        return self._seen[key]

    def _probe_in(self, amount: int) -> Probed | None:
        level, slope = 1.0, 0.0
        for pool, zero_for_one in self.legs:
            probed = pool.probe_in(zero_for_one, amount)
            if probed is None:
                return None
            amount, factor, rise = probed
            # One unit more at the start is 1/level² more here.
            slope = slope * factor + rise / level if rise else 0.0
            level *= factor
        return Probed(amount, level, slope)

    def _probe_out(self, amount: int) -> Probed | None:
        level, slope = 1.0, 0.0  # of √(out/in), which falls
        for pool, zero_for_one in reversed(self.legs):
            probed = pool.probe_out(zero_for_one, amount)
            if probed is None:
                return None
            amount, factor, fall = probed
            slope = slope / factor + fall / level if fall else 0.0
            level /= factor
        return Probed(amount, -level, slope)

    def sell(self, amount: int) -> Path | None:
        """Exactly `amount` sold along the chain; None when a pool cannot take it or nothing comes out."""
        hops: list[Hop] = []
        for leg in self.legs:
            out = leg.pool.quote_in(leg.zero_for_one, amount)
            if not out:
                return None
            hops.append(_hop(leg, amount, out))
            amount = out
        return Path(tuple(hops))

    def buy(self, amount: int) -> Path | None:
        """Exactly `amount` bought along the chain; None when a pool cannot give it."""
        hops: list[Hop] = []
        for leg in reversed(self.legs):
            paid = leg.pool.quote_out(leg.zero_for_one, amount)
            if not paid:
                return None
            hops.append(_hop(leg, paid, amount))
            amount = paid
        return Path(tuple(reversed(hops)))

    def spot(self) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""
        out, into = 1, 1
        for leg in self.legs:
            numerator, denominator = leg.pool.spot(leg.zero_for_one)
            out, into = out * numerator, into * denominator
        return out, into

    def depth(self) -> int:
        """Input that moves some pool on the way by about 2 %, base units of the first token."""
        out, into = 1, 1
        least: int | None = None
        for leg in self.legs:
            depth = leg.pool.depth(leg.zero_for_one) * into // out
            least = depth if least is None else min(least, depth)
            numerator, denominator = leg.pool.spot(leg.zero_for_one)
            out, into = out * numerator, into * denominator
        return least or 0

    def gas(self, exact_out: bool, amount: int) -> int:
        """Expected gas of trading `amount`, which the chain can."""
        total = 0
        for pool, zero_for_one in reversed(self.legs) if exact_out else self.legs:
            other = (pool.quote_out if exact_out else pool.quote_in)(zero_for_one, amount) or 0
            total += pool.gas(zero_for_one, other if exact_out else amount)
            amount = other
        return total


def _hop(leg: Leg, amount_in: int, amount_out: int) -> Hop:
    pool = leg.pool
    return Hop(pool.venue, pool.address, leg.token_in, leg.token_out, amount_in, amount_out, pool.lends)


class Graph:
    """Which pools trade which tokens; what does not change when the pools' states do."""

    def __init__(self, pools: Iterable[Pool], connectors: Iterable[Address]) -> None:
        self.connectors = tuple(dict.fromkeys(connectors))
        self._edges: dict[tuple[Address, Address], list[tuple[Key, bool]]] = {}
        self._forms: dict[Address, list[Address]] = {}  # what a token can be turned into at a fixed rate
        for pool in pools:
            self._edges.setdefault((pool.token0, pool.token1), []).append((key_of(pool), True))
            self._edges.setdefault((pool.token1, pool.token0), []).append((key_of(pool), False))
            if pool.fixed_rate:
                self._forms.setdefault(pool.token0, []).append(pool.token1)
                self._forms.setdefault(pool.token1, []).append(pool.token0)

    def chains(self, pools: Mapping[Key, Pool], token_in: Address, token_out: Address) -> Iterator[Chain]:
        """Every chain of one pool, or of two over a connector; a conversion may come before them, or after."""
        yield from self._traded(pools, token_in, token_out)
        for form in self._forms.get(token_in, ()):
            for first in self._conversions(pools, token_in, form):
                for chain in self._traded(pools, form, token_out) if form != token_out else ():
                    if not self._passed(first, form, chain):
                        yield Chain((first, *chain.legs))
        for form in self._forms.get(token_out, ()):
            for last in self._conversions(pools, form, token_out):
                for chain in self._traded(pools, token_in, form) if form != token_in else ():
                    if not self._passed(last, form, chain):
                        yield Chain((*chain.legs, last))

    def _passed(self, conversion: Leg, form: Address, chain: Chain) -> bool:
        """Whether the chain has been through the conversion's pool or its tokens, or is found without it anyway."""
        if len(chain.legs) == 1:
            return form in self.connectors or conversion.pool.address in chain.pools
        middle = chain.legs[0].token_out
        return middle in (conversion.token_in, conversion.token_out) or conversion.pool.address in chain.pools

    def _conversions(self, pools: Mapping[Key, Pool], token_in: Address, token_out: Address) -> list[Leg]:
        return [leg for leg in self._legs(pools, token_in, token_out) if leg.pool.fixed_rate]

    def _traded(self, pools: Mapping[Key, Pool], token_in: Address, token_out: Address) -> Iterator[Chain]:
        for first in self._legs(pools, token_in, token_out):
            yield Chain((first,))
        for connector in self.connectors:
            if connector in (token_in, token_out):
                continue
            seconds = self._legs(pools, connector, token_out)
            for first in self._legs(pools, token_in, connector) if seconds else ():
                for second in seconds:
                    if second.pool.address != first.pool.address:  # two pairs of one state move together
                        yield Chain((first, second))

    def _legs(self, pools: Mapping[Key, Pool], token_in: Address, token_out: Address) -> list[Leg]:
        return [Leg(pools[key], z) for key, z in self._edges.get((token_in, token_out), ())]
