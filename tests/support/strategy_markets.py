"""Worlds whose pools are the real ones: random two-sided states of both kinds behind the real router."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from keeper.model import Address, FeeQuote, Route, Token
from keeper.venues.chains import Chain, Leg
from keeper.venues.pool import Pool
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import V2Pool
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, sqrt_ratio_at_tick, tick_at_sqrt_ratio
from keeper.venues.uniswap_v3.ticks import TickMap
from tests.support.strategy_fakes import NATIVE, NONE, PRICES, USD, position
from tests.support.strategy_worlds import TOKENS, World, log_uniform, random_pair, random_sources

SPACINGS = {100: 1, 500: 10, 3_000: 60, 10_000: 200}


@dataclass
class Fixed:
    """A venue whose pools are given."""

    found: Sequence[Pool]

    def pools(self) -> Iterable[Pool]:
        return self.found


@dataclass(frozen=True)
class RealQuoter:
    """The router, with every path and split of its pools laid open for a search that tries them all."""

    router: Router
    pools: dict[Address, Pool]
    gas_price: int

    def sell(
        self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address] = NONE
    ) -> Route | None:
        return self.router.sell(token_in, token_out, amount, avoid)

    def buy(self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address] = NONE) -> Route | None:
        return self.router.buy(token_in, token_out, amount, avoid)

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        return self.router.spot(token_in, token_out)

    def after(self, route: Route) -> RealQuoter:
        pools = dict(self.pools)
        for path in route.paths:
            for hop in path.hops:
                pool, down = pools[hop.pool], hop.token_in < hop.token_out
                done = pool.swap_out(down, hop.amount_out) if route.exact_out else pool.swap_in(down, hop.amount_in)
                assert done is not None
                pools[hop.pool] = done[1]
        return replace(self, router=self.router.after(route), pools=pools)

    def lines(self, token_in: Address, token_out: Address, avoid: Iterable[Address] = NONE) -> list[Chain]:
        free = [pool for pool in self.pools.values() if pool.address not in avoid]

        def legs(one: Address, other: Address) -> list[Leg]:
            return [Leg(pool, one < other) for pool in free if {pool.token0, pool.token1} == {one, other}]

        found = [Chain((leg,)) for leg in legs(token_in, token_out)]
        for middle in (NATIVE.address, USD.address):
            if middle not in (token_in, token_out):
                heads, tails = legs(token_in, middle), legs(middle, token_out)
                found += [Chain((head, tail)) for head in heads for tail in tails]
        return found

    def pools_of(self, line: Chain) -> frozenset[Address]:
        return line.pools

    def routed(self, shares: Sequence[tuple[Chain, int]], token_in: Address, *, exact_out: bool) -> Route | None:
        paths = []
        gas = 0
        for chain, amount in shares:
            path = chain.buy(amount) if exact_out else chain.sell(amount)
            if path is None:
                return None
            paths.append(path)
            gas += sum(
                leg.pool.gas(leg.zero_for_one, hop.amount_in) for leg, hop in zip(chain.legs, path.hops, strict=True)
            )
        return Route(token_in, paths[0].hops[-1].token_out, tuple(paths), gas, exact_out)

    def gas_in(self, one: Address, gas: int) -> int:
        price = (1, 1) if one == NATIVE.address else self.spot(NATIVE.address, one)
        return 0 if price is None else gas * self.gas_price * price[0] // price[1]


@dataclass(frozen=True)
class KeepingQuoter(RealQuoter):
    """The same, able to keep a split."""

    def again(self, route: Route) -> Route | None:
        shares = []
        for path in route.paths:
            legs = tuple(Leg(self.pools[hop.pool], hop.token_in < hop.token_out) for hop in path.hops)
            shares.append((Chain(legs), path.amount_out if route.exact_out else path.amount_in))
        return self.routed(shares, route.token_in, exact_out=route.exact_out)


def real_pool(rng: Random, number: int, first: Token, second: Token, dollars: int) -> Pool:
    """One side holds about `dollars` at oracle prices, off by up to 0.4 %; concentrated in two thirds of the cases."""
    if first.address > second.address:
        first, second = second, first
    here = Address(f"0x{0xF000 + number:040x}")
    x = dollars * 10**8 * 10**first.decimals // PRICES[first]
    y = dollars * 10**8 * 10**second.decimals * (10**6 + rng.randrange(-4_000, 4_001)) // (PRICES[second] * 10**6)
    if rng.random() < 0.33:
        return V2Pool("v2", here, first.address, second.address, 30, x, y)
    fee, spacing = rng.choice(list(SPACINGS.items()))
    price = math.isqrt(y * 2**192 // x)
    tick = tick_at_sqrt_ratio(price)
    size = math.isqrt(x * y)
    edge = MAX_TICK // spacing * spacing
    ticks = TickMap(spacing, fee, {}).changed(-edge, edge, size // 4)
    for _ in range(rng.randrange(1, 10)):
        width = rng.choice((200, 1_000, 5_000)) // spacing + 1
        low = tick // spacing - rng.randrange(0, width + 1)
        ticks = ticks.changed(low * spacing, (low + width) * spacing, size * rng.randrange(1, 30) // 10)
    assert sqrt_ratio_at_tick(tick) <= price
    return V3Pool("v3", here, first.address, second.address, ticks, price, tick)


def real_world(rng: Random, *, pools: int = 12, pairs: int = 6) -> World[RealQuoter]:
    """As `random_world`, over real pools."""
    made: dict[Address, Pool] = {}
    for number in range(pools):
        first, second = rng.sample(TOKENS, 2)
        if number < 4:
            first, second = NATIVE, TOKENS[1 + number]
        pool = real_pool(rng, number, first, second, log_uniform(rng, 20_000, 20_000_000))
        made[pool.address] = pool
    gas_price = log_uniform(rng, 10**8, 10**11)
    dollars = log_uniform(rng, 300, 5_000_000)
    chosen = rng.sample([(d, c) for d in TOKENS for c in TOKENS], pairs)
    offered = tuple(random_pair(rng, d, c, max(dollars * rng.randrange(1, 100) // 100, 1)) for d, c in chosen)
    connectors = (NATIVE.address, USD.address)
    router = Router([Fixed(list(made.values()))], connectors, native=NATIVE.address, gas_price=gas_price)
    quoter = RealQuoter(router, made, gas_price)
    sources = random_sources(rng, made)
    tip = gas_price // 10
    return World(position(offered), offered, quoter, sources, FeeQuote(gas_price - tip, tip))
