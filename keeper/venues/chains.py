"""Pools in trading order from one token to another: a path before an amount is chosen for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from keeper.model import Address, Hop, Path
from keeper.venues.curve import Curve, joined
from keeper.venues.pool import Pool

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


class Chain:
    """Legs whose tokens meet."""

    __slots__ = ("_curve", "_reach", "keys", "legs", "pools")

    def __init__(self, legs: tuple[Leg, ...]) -> None:
        self.legs = legs
        self.keys = frozenset(key_of(leg.pool) for leg in legs)
        self.pools = frozenset(leg.pool.address for leg in legs)
        self._curve: Curve | None = None
        self._reach = 0.0

    def curve(self, reach: float) -> Curve:
        """What becomes of a trade, at least until the level has risen by the factor `reach`, or to the end."""
        if self._curve is None or self._reach < reach:
            curve: Curve | None = None
            for pool, zero_for_one in self.legs:
                part = pool.curve(zero_for_one, reach)
                curve = part if curve is None else joined(curve, part)
            assert curve is not None
            self._curve, self._reach = curve, reach
        return self._curve

    def over(self, pools: Mapping[Key, Pool]) -> Chain:
        """The same chain where `pools` are in other states."""
        return Chain(tuple(Leg(pools[key_of(pool)], zero_for_one) for pool, zero_for_one in self.legs))

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

    def gas(self, path: Path) -> int:
        """Expected gas of a trade along the chain."""
        return sum(leg.pool.gas(leg.zero_for_one, hop.amount_in) for leg, hop in zip(self.legs, path.hops, strict=True))


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
