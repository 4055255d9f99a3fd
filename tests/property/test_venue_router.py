"""The router against brute force, on pools drawn at random."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

from keeper.model import Address, Route
from keeper.venues.chains import Chain, Graph, key_of
from keeper.venues.curve import HIGH, LOW, X
from keeper.venues.pool import Pool
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import V2Pool
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, MIN_TICK, sqrt_ratio_at_tick, tick_at_sqrt_ratio
from keeper.venues.uniswap_v3.ticks import TickMap

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
TOKENS = [Address(f"0x{i:040x}") for i in range(1, 5)]
SPACINGS = {100: 1, 500: 10, 3_000: 60, 10_000: 200}


@dataclass
class Fixed:
    """A venue whose pools are given."""

    found: Sequence[Pool]

    def pools(self) -> Iterable[Pool]:
        return self.found


def draw_v3(rng: random.Random, number: int, a: Address, b: Address, tick: int, size: float) -> V3Pool:
    fee, spacing = rng.choice(list(SPACINGS.items()))
    tick += rng.randint(-fee // 100, fee // 100)
    ticks = TickMap(spacing, fee, {})
    if rng.random() < 0.7:
        edge = MAX_TICK // spacing * spacing
        ticks = ticks.changed(-edge, edge, int(size * rng.uniform(0.1, 1)))
    for _ in range(rng.randint(1, 12)):
        width = rng.choice((100, 500, 3_000)) // spacing + 1
        low = tick // spacing + rng.randint(-width, width // 2)
        high = low + rng.randint(1, 2 * width)
        low, high = max(low, -(-MIN_TICK // spacing)), min(high, MAX_TICK // spacing)
        ticks = ticks.changed(low * spacing, high * spacing, int(size * rng.uniform(0.3, 20)))
    price = rng.randrange(sqrt_ratio_at_tick(tick), sqrt_ratio_at_tick(tick + 1))
    return V3Pool("v3", Address(f"0x{number:040x}"), a, b, ticks, price, tick_at_sqrt_ratio(price))


def draw_v2(rng: random.Random, number: int, a: Address, b: Address, tick: int, size: float) -> V2Pool:
    root = 1.0001 ** ((tick + rng.randint(-50, 50)) / 2)
    liquidity = size * rng.uniform(0.2, 3)
    return V2Pool("v2", Address(f"0x{number:040x}"), a, b, 30, int(liquidity / root), int(liquidity * root))


def draw_pools(rng: random.Random, direct: int, around: int) -> list[Pool]:
    """`direct` pools between tokens 0 and 1, and `around` between each of them and tokens 2 and 3."""
    values = [rng.randint(-20_000, 20_000) for _ in TOKENS]
    size = 10 ** rng.uniform(14, 24)
    pools: list[Pool] = []
    for i, a in enumerate(TOKENS):
        for j in range(i + 1, len(TOKENS)):
            count = direct if (i, j) == (0, 1) else 0 if (i, j) == (2, 3) else rng.randint(0, around)
            for _ in range(count):
                draw = draw_v3 if rng.random() < 0.7 else draw_v2
                scale = size * 10 ** rng.uniform(-1, 0.5)
                pools.append(draw(rng, 1000 + len(pools), a, TOKENS[j], values[i] - values[j], scale))
    return pools


def depth(pool: Pool, zero_for_one: bool) -> int:
    """Input that moves the price by about 2 %, or all that the pool takes."""
    curve = pool.curve(zero_for_one, 1.01)
    target, x = curve[0, LOW] * 1.01, 0.0
    for piece, following in itertools.pairwise(curve):
        if piece[LOW] < target:
            share = min((target - piece[LOW]) / max(piece[HIGH] - piece[LOW], 1e-300), 1.0)
            x = piece[X] + share * (following[X] - piece[X])
    return int(x)


def disjoint_sets(chains: Sequence[Chain], taken: frozenset[Address] = frozenset()) -> list[list[Chain]]:
    """Every maximal choice of chains that share no pool."""
    found: list[list[Chain]] = []
    for i, chain in enumerate(chains):
        if not chain.pools & taken:
            rest = [c for c in chains[i + 1 :] if not c.pools & chain.pools]
            found += [[chain, *more] for more in disjoint_sets(rest, taken | chain.pools) or [[]]]
    return found


def brute_force(chains: Sequence[Chain], amount: int, exact_out: bool, parts: int) -> int | None:
    """Best amount on the other side over all sets, each filled in `parts` portions with the next best marginal."""
    best: int | None = None
    size = amount / parts
    tables: dict[int, list[int | None]] = {}

    def other(chain: Chain, portions: int) -> int | None:
        table = tables.setdefault(id(chain), [0])
        while len(table) <= portions:
            wanted = round(size * len(table))
            path = (chain.buy if exact_out else chain.sell)(wanted) if table[-1] is not None else None
            table.append(None if path is None else path.amount_in if exact_out else path.amount_out)
        return table[portions]

    for chosen in disjoint_sets(chains):
        given = [0] * len(chosen)
        total = 0
        for _ in range(parts):
            gains: list[tuple[int, int]] = []
            for i, chain in enumerate(chosen):
                now, then = other(chain, given[i]), other(chain, given[i] + 1)
                if now is not None and then is not None:
                    gains.append((now - then if exact_out else then - now, i))
            if not gains:
                break
            gain, i = max(gains)
            given[i] += 1
            total += gain
        else:
            total = -total if exact_out else total
            if best is None or (total < best if exact_out else total > best):
                best = total
    return best


def check_exact(pools: Sequence[Pool], route: Route, amount: int, exact_out: bool) -> None:
    """A route is what trading it pool by pool gives, adds up, and touches no pool twice."""
    by_address = {pool.address: pool for pool in pools}
    assert (route.amount_out if exact_out else route.amount_in) == amount
    assert len(route.pools) == sum(len(path.hops) for path in route.paths)
    for path in route.paths:
        assert path.hops[0].token_in == route.token_in
        assert path.hops[-1].token_out == route.token_out
        for hop, following in zip(path.hops, path.hops[1:], strict=False):
            assert hop.amount_out == following.amount_in
            assert hop.token_out == following.token_in
        for hop in path.hops:
            pool, zero_for_one = by_address[hop.pool], hop.token_in < hop.token_out
            if exact_out:
                assert pool.quote_out(zero_for_one, hop.amount_out) == hop.amount_in
            else:
                assert pool.quote_in(zero_for_one, hop.amount_in) == hop.amount_out


def run_against_brute_force(cases: int, parts: int) -> None:
    sys.stdout.write(f"seed {SEED}\n")
    rng = random.Random(SEED)
    worst, splits, compared = math.inf, 0, 0
    for _ in range(cases):
        pools = draw_pools(rng, rng.randint(1, 4), rng.randint(0, 2))
        token_in, token_out = rng.sample(TOKENS[:2], 2)
        around = [pool for pool in pools if token_in in (pool.token0, pool.token1)]
        most = max(depth(pool, pool.token0 == token_in) for pool in around)
        amount = int(most * 10 ** rng.uniform(-3, 1.3)) + 1_000
        router = Router([Fixed(pools)], TOKENS[2:], max_paths=12)
        exact_out = rng.random() < 0.5
        chains = list(Graph(pools, TOKENS[2:]).chains({key_of(p): p for p in pools}, token_in, token_out))
        if exact_out:
            sold = router.sell(token_in, token_out, amount)
            if sold is None:
                continue
            amount = sold.amount_out
        route = (router.buy if exact_out else router.sell)(token_in, token_out, amount)
        best = brute_force(chains, amount, exact_out, parts)
        if best is None:
            continue
        assert route is not None
        check_exact(pools, route, amount, exact_out)
        ratio = best / route.amount_in if exact_out else route.amount_out / best
        worst = min(worst, ratio)
        compared += 1
        splits += len(route.paths) > 1
        assert ratio >= 0.999, (ratio, exact_out, amount, [p.hops for p in route.paths])
    sys.stdout.write(f"{compared} cases, {splits} split, worst {worst:.6f} of brute force\n")
    assert compared > cases * 0.8
    assert splits > cases // 4


def test_split_reaches_brute_force() -> None:
    """Routes, split or not, are exact and earn at least 99.9 % of the best over all disjoint sets of paths."""
    run_against_brute_force(cases=150, parts=100)


@pytest.mark.long
def test_split_reaches_brute_force_long() -> None:
    """The same over many more cases and finer portions."""
    run_against_brute_force(cases=600, parts=250)


def gas_of(chains: Sequence[Chain], amounts: Sequence[int]) -> int:
    """Gas of selling the amounts along the chains, as the pools tell it."""
    total = 0
    for chain, amount in zip(chains, amounts, strict=True):
        path = chain.sell(amount)
        assert path is not None
        hops = zip(chain.legs, path.hops, strict=True)
        total += sum(leg.pool.gas(leg.zero_for_one, hop.amount_in) for leg, hop in hops)
    return total


def best_net(chains: Sequence[Chain], amount: int, gas_value: float, parts: int) -> float:
    """Most output less the value of gas over every choice of up to three disjoint chains, filled greedily."""
    best = -math.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations(chains, count):
            if len(frozenset().union(*(c.pools for c in chosen))) < sum(len(c.pools) for c in chosen):
                continue
            given = [0] * count
            outs: list[int] = [0] * count
            for _ in range(parts):
                gains = []
                for i, chain in enumerate(chosen):
                    path = chain.sell(round(amount / parts * (given[i] + 1)))
                    if path is not None:
                        gains.append((path.amount_out - outs[i], i))
                if not gains:
                    break
                gain, i = max(gains)
                given[i], outs[i] = given[i] + 1, outs[i] + gain
            else:
                used = [(c, round(amount / parts * g)) for c, g in zip(chosen, given, strict=True) if g]
                cost = gas_of([c for c, _ in used], [share for _, share in used]) * gas_value
                best = max(best, sum(outs) - cost)
    return best


def test_a_path_must_earn_its_gas() -> None:
    """With gas at a price, output less gas reaches that of every choice of up to three paths, to 0.2 % of the trade
    (a hop costs up to 1 % of it here, and shares are not fitted to the ends of ticks); and dearer gas never means more
    paths."""
    rng = random.Random(SEED + 1)
    fewer = compared = 0
    for _ in range(25):
        pools = draw_pools(rng, 3, 1)
        token_in, token_out = TOKENS[0], TOKENS[1]
        most = max(depth(pool, True) for pool in pools if token_in == pool.token0)
        amount = int(most * 10 ** rng.uniform(-2, 0.7)) + 10**6
        free = Router([Fixed(pools)], TOKENS[2:], native=token_out)
        route = free.sell(token_in, token_out, amount)
        if route is None:
            continue
        # The native token is the one bought, so gas costs its price.
        price = max(1, int(route.amount_out * 10 ** rng.uniform(-5, -2) / 100_000))
        dear = free.priced(price).sell(token_in, token_out, amount)
        assert dear is not None
        check_exact(pools, dear, amount, exact_out=False)
        assert len(dear.paths) <= len(route.paths)
        chains = list(Graph(pools, TOKENS[2:]).chains({key_of(p): p for p in pools}, token_in, token_out))
        net, best = dear.amount_out - dear.gas * price, best_net(chains, amount, price, 40)
        assert net >= best - 0.002 * route.amount_out
        fewer += len(dear.paths) < len(route.paths)
        compared += 1
    assert compared >= 20
    assert fewer >= 5


def test_larger_trades_and_there_and_back() -> None:
    """More sold brings more, and buying what a sale brought costs no more than was sold (to 2 in a million)."""
    rng = random.Random(SEED + 2)
    checked = 0
    for _ in range(40):
        pools = draw_pools(rng, 3, 2)
        router = Router([Fixed(pools)], TOKENS[2:])
        most = max(depth(pool, True) for pool in pools if pool.token0 == TOKENS[0])
        last = 0
        for size in sorted(int(most * 10 ** rng.uniform(-4, 0.5)) + 10**6 for _ in range(8)):
            route = router.sell(TOKENS[0], TOKENS[1], size)
            if route is None:
                break
            assert route.amount_out >= last * (1 - 2e-6)
            last = route.amount_out
            back = router.buy(TOKENS[0], TOKENS[1], route.amount_out)
            assert back is not None
            assert back.amount_in <= size * (1 + 2e-6) + 2
            checked += 1
    assert checked > 200


def test_after_a_route_the_pools_are_where_it_left_them() -> None:
    """Trading a route and then the rest brings no more than both at once, and only its own pools have moved."""
    rng = random.Random(SEED + 3)
    for _ in range(40):
        pools = draw_pools(rng, 4, 0)  # over one hop: two routes may pair the pools of longer paths in two ways
        router = Router([Fixed(pools)], TOKENS[2:])
        size = max(depth(pool, True) for pool in pools if pool.token0 == TOKENS[0]) // 3 + 10**6
        whole, first = router.sell(TOKENS[0], TOKENS[1], 2 * size), router.sell(TOKENS[0], TOKENS[1], size)
        if whole is None or first is None:
            continue
        later = router.after(first)
        second = later.sell(TOKENS[0], TOKENS[1], size)
        assert second is not None
        assert first.amount_out + second.amount_out <= whole.amount_out * (1 + 2e-6)
        assert router.sell(TOKENS[0], TOKENS[1], size) == first
        moved = {pool.address for pool in pools if later.pool(pool.address, pool.token0, pool.token1) is not pool}
        assert moved == first.pools
        untouched = first.pools and later.sell(TOKENS[0], TOKENS[1], size, first.pools)
        assert not untouched or not untouched.pools & first.pools


def test_a_renewed_router_is_a_new_one() -> None:
    """Over heads that move some pools, or none, or lose one, whatever was asked before, the answers are the same."""
    rng = random.Random(SEED + 6)
    compared = 0
    for _ in range(12):
        pools = draw_pools(rng, 3, 2)
        kept = Router([Fixed(pools)], TOKENS[2:], native=TOKENS[0], gas_price=10**9)
        size = max(depth(pool, True) for pool in pools if pool.token0 == TOKENS[0]) // 3 + 10**6
        for step in range(8):
            for index in rng.sample(range(len(pools)), rng.choice((0, 1, 3))):
                traded = pools[index].swap_in(rng.random() < 0.5, size // 7)
                pools[index] = traded[1] if traded else pools[index]
            if step == 5:
                pools.pop()
            kept = kept.renewed([Fixed(list(pools))], 10**9 + step)
            fresh = Router([Fixed(list(pools))], TOKENS[2:], native=TOKENS[0], gas_price=10**9 + step)
            for one, other in rng.sample(list(itertools.permutations(TOKENS, 2)), 4):
                route = fresh.sell(one, other, size)
                assert kept.sell(one, other, size) == route
                assert kept.buy(one, other, size // 3) == fresh.buy(one, other, size // 3)
                assert kept.spot(one, other) == fresh.spot(one, other)
                if route is not None:
                    after, later = kept.after(route), fresh.after(route)
                    assert after.buy(one, other, size // 5) == later.buy(one, other, size // 5)
                    assert after.spot(other, one) == later.spot(other, one)
                    compared += 1
    assert compared > 100


def test_the_margin_is_what_one_more_unit_costs() -> None:
    """Between two amounts the average price of what is added lies between the margins told at both."""
    rng = random.Random(SEED + 5)
    told = 0
    for _ in range(60):
        pools = draw_pools(rng, 4, 0)
        router = Router([Fixed(pools)], TOKENS[2:], max_paths=12)
        size = max(depth(pool, True) for pool in pools if pool.token0 == TOKENS[0])
        size = int(size * 10 ** rng.uniform(-2, 0.3)) + 10**9
        for trade in (router.sell, router.buy):
            one, two = trade(TOKENS[0], TOKENS[1], size), trade(TOKENS[0], TOKENS[1], size + size // 50)
            if one is None or two is None or two.amount_out - one.amount_out < 10**6:
                continue
            average = (two.amount_in - one.amount_in) / (two.amount_out - one.amount_out)
            assert 0 < one.margin * (1 - 1e-4) <= average <= two.margin * (1 + 1e-4)
            told += 1
    assert told > 60


def test_nothing_that_anybody_can_build_breaks_a_trade() -> None:
    """Pools at either end of all prices, all but empty, many alike; amounts from one unit to more than there is."""
    rng = random.Random(SEED + 7)
    found = 0
    for _ in range(80):
        pools: list[Pool] = []
        for number in range(rng.randint(1, 5)):
            size = 10 ** rng.uniform(2, 24)
            pools.append(
                V2Pool("v2", Address(f"0x{2_000 + number:040x}"), TOKENS[0], TOKENS[1], 30, int(size), int(size))
            )
        for number in range(rng.randint(0, 4)):
            spacing = rng.choice((1, 60, 200))
            edge = MAX_TICK // spacing * spacing
            low, high = sorted(rng.choice((-edge, -120_000, -1_200, 0, 1_200, 120_000, edge)) for _ in range(2))
            if low == high:
                continue
            ticks = TickMap(spacing, 500, {}).changed(low, high, rng.choice((1, 2, 100, 10**12, 10**24)))
            tick = min(rng.choice((-edge, edge - 1, low, high - 1, high, 0)), MAX_TICK - 1)
            price = sqrt_ratio_at_tick(tick)
            address = Address(f"0x{3_000 + number:040x}")
            pools.append(V3Pool("v3", address, TOKENS[0], TOKENS[1], ticks, price, tick_at_sqrt_ratio(price)))
        router = Router([Fixed(pools)], TOKENS[2:], native=TOKENS[0], gas_price=rng.choice((0, 1, 10**9)))
        ends = [int(end) for pool in pools for end in pool.curve(True, 2.0**60)[-1, :2] if end < 2**250]
        wild = [1, 2, 3, 20, 10**6, 10**18, 10**21, 10**22, 2**112, 2**200, *rng.sample(ends, min(len(ends), 4))]
        for amount in wild:
            for one, other in ((TOKENS[0], TOKENS[1]), (TOKENS[1], TOKENS[0])):
                for trade in (router.sell, router.buy):
                    route = trade(one, other, amount)
                    if route is not None:
                        found += 1
                        assert (route.amount_out if route.exact_out else route.amount_in) == amount
    assert found > 500


TRADES = """
import random, sys
if sys.argv[1] == "without":
    sys.modules["numba"] = None
from keeper.venues.router import Router
from tests.property.test_venue_router import SEED, TOKENS, Fixed, depth, draw_pools

rng = random.Random(SEED + 4)
for _ in range(12):
    pools = draw_pools(rng, 3, 1)
    size = max(depth(pool, True) for pool in pools if pool.token0 == TOKENS[0]) // 3 + 10**6
    router = Router([Fixed(pools)], TOKENS[2:], native=TOKENS[0], gas_price=size // 10**8)
    sold = router.sell(TOKENS[0], TOKENS[1], size)
    print(sold, sold and router.buy(TOKENS[0], TOKENS[1], sold.amount_out), router.spot(TOKENS[0], TOKENS[1]))
"""


def test_without_a_compiler_the_routes_are_the_same() -> None:
    """The loops run as they are written where numba is not installed."""
    told = [
        subprocess.run([sys.executable, "-c", TRADES, word], check=True, capture_output=True, text=True).stdout
        for word in ("with", "without")
    ]
    assert told[0] == told[1]
    assert told[0].count("Route(") > 12
