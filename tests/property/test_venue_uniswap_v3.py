"""Uniswap V3's arithmetic: the running sums against the contract's own loop, and what must hold at the extremes."""

from __future__ import annotations

import os
import random
import sys
import time

import pytest

from keeper.errors import BadData
from keeper.model import Address
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.swap_math import full_step, partial_in, partial_out
from keeper.venues.uniswap_v3.tick_math import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    sqrt_ratio_at_tick,
    tick_at_sqrt_ratio,
)
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE, TickMap

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
TIERS = ((100, 1), (500, 10), (3_000, 60), (10_000, 200), (0, 3), (999_999, 16_383))


def draw_pool(rng: random.Random, positions: int = 12) -> V3Pool:
    fee, spacing = rng.choice(TIERS)
    tick = rng.choice((rng.randint(-3_000, 3_000), rng.randint(-800_000, 800_000), MAX_TICK - 1, MIN_TICK))
    ticks = TickMap(spacing, fee, {})
    lowest, highest = -(-MIN_TICK // spacing), MAX_TICK // spacing
    for _ in range(rng.randint(1, positions)):
        width = rng.choice((3, 60, 700))
        low = min(max(tick // spacing + rng.randint(-width, width), lowest), highest - 1)
        high = min(low + rng.randint(1, width), highest)
        if rng.random() < 0.15 and spacing > 1:
            low, high = lowest, highest
        ticks = ticks.changed(low * spacing, high * spacing, int(10 ** rng.uniform(0, 26)))
    price = rng.randrange(sqrt_ratio_at_tick(tick), sqrt_ratio_at_tick(tick + 1))
    return V3Pool("v3", Address("0x01"), Address("0x02"), Address("0x03"), ticks, price, tick)


def bitmap_of(pool: V3Pool) -> dict[int, int]:
    """The pool's ``tickBitmap``."""
    words: dict[int, int] = {}
    for tick in pool.ticks.gross_net:
        compressed = tick // pool.ticks.spacing
        words[compressed >> 8] = words.get(compressed >> 8, 0) | 1 << (compressed & 255)
    return words


def next_tick(bitmap: dict[int, int], spacing: int, tick: int, zero_for_one: bool) -> int:
    """``TickBitmap.nextInitializedTickWithinOneWord`` and the clamp of ``UniswapV3Pool.swap``."""
    compressed = tick // spacing
    if zero_for_one:
        bit = compressed & 255
        masked = bitmap.get(compressed >> 8, 0) & ((2 << bit) - 1)
        compressed -= bit - (masked.bit_length() - 1 if masked else 0)
    else:
        compressed += 1
        bit = compressed & 255
        masked = bitmap.get(compressed >> 8, 0) >> bit << bit
        compressed += ((masked & -masked).bit_length() - 1 if masked else 255) - bit
    return min(max(compressed * spacing, MIN_TICK), MAX_TICK)


def loop(pool: V3Pool, zero_for_one: bool, amount: int, exact_out: bool) -> tuple[int, int, int, int] | None:
    """``UniswapV3Pool.swap`` step by step: (other amount, price, tick, liquidity); None when it stops short."""
    limit = LOWEST_PRICE if zero_for_one else HIGHEST_PRICE
    price, tick, liquidity, rest, other = pool.sqrt_price, pool.tick, pool.liquidity, amount, 0
    if price <= limit if zero_for_one else price >= limit:
        return None
    bitmap = bitmap_of(pool)
    while rest and price != limit:
        following = next_tick(bitmap, pool.ticks.spacing, tick, zero_for_one)
        boundary = sqrt_ratio_at_tick(following)
        target = max(boundary, limit) if zero_for_one else min(boundary, limit)
        paid, out = full_step(price, target, liquidity, pool.fee) if liquidity else (0, 0)
        start = price
        if rest >= (out if exact_out else paid):
            rest -= out if exact_out else paid
            other += paid if exact_out else out
            price = target
        else:
            step = partial_out if exact_out else partial_in
            more, price = step(price, liquidity, rest, pool.fee, zero_for_one)
            other, rest = other + more, 0
        if price == boundary:
            if following in pool.ticks.gross_net:
                net = pool.ticks.gross_net[following][1]
                liquidity += -net if zero_for_one else net
            tick = following - 1 if zero_for_one else following
        elif price != start:
            tick = tick_at_sqrt_ratio(price)
    return None if rest else (other, price, tick, liquidity)


def draw_amount(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 100)) + rng.randint(0, 3)


def test_running_sums_equal_the_loop() -> None:
    """Whatever was asked before, in either direction and from any place, a quote is what stepping gives, and so is
    the state after it."""
    sys.stdout.write(f"seed {SEED}\n")
    rng = random.Random(SEED)
    compared = exhausted = 0
    for _ in range(100):
        pool = draw_pool(rng)
        for _ in range(40):
            zero_for_one, exact_out = rng.random() < 0.5, rng.random() < 0.5
            amount = draw_amount(rng)
            expected = loop(pool, zero_for_one, amount, exact_out)
            found = (pool.swap_out if exact_out else pool.swap_in)(zero_for_one, amount)
            compared += 1
            if expected is None:
                assert found is None
                exhausted += 1
                continue
            assert found is not None
            after = found[1]
            assert (found[0], after.sqrt_price, after.tick, after.liquidity) == expected
            if rng.random() < 0.5:
                pool = after  # shares what is remembered of the ticks, from another place
    sys.stdout.write(f"{compared} quotes, {exhausted} exhausted\n")
    assert compared // 50 < exhausted < compared // 2


def test_more_in_never_gives_less_and_there_is_no_free_lunch() -> None:
    """Output never falls when input rises, and selling what was bought never brings more than was paid."""
    rng = random.Random(SEED + 1)
    checked = 0
    for _ in range(400):
        pool = draw_pool(rng)
        zero_for_one, amount = rng.random() < 0.5, draw_amount(rng)
        out, more = pool.quote_in(zero_for_one, amount), pool.quote_in(zero_for_one, amount + rng.randint(1, amount))
        if out is None:
            assert more is None
            continue
        assert more is None or more >= out
        if not out:
            continue
        traded = pool.swap_in(zero_for_one, amount)
        assert traded is not None
        back = traded[1].quote_in(not zero_for_one, out)
        assert back is None or back <= amount
        checked += 1
    assert checked > 100


def test_ticks_and_prices_are_inverse_to_the_ends() -> None:
    """The constants are those of the contract, and each tick's price leads back to it, one less to the tick before."""
    assert sqrt_ratio_at_tick(MIN_TICK) == MIN_SQRT_RATIO
    assert sqrt_ratio_at_tick(MAX_TICK) == MAX_SQRT_RATIO
    assert tick_at_sqrt_ratio(MAX_SQRT_RATIO - 1) == MAX_TICK - 1
    assert (LOWEST_PRICE, HIGHEST_PRICE) == (MIN_SQRT_RATIO + 1, MAX_SQRT_RATIO - 1)
    rng = random.Random(SEED + 2)
    for tick in (
        MIN_TICK,
        MIN_TICK + 1,
        -1,
        0,
        1,
        MAX_TICK - 1,
        *(rng.randint(MIN_TICK, MAX_TICK - 1) for _ in range(3000)),
    ):
        price = sqrt_ratio_at_tick(tick)
        assert tick_at_sqrt_ratio(price) == tick
        assert tick_at_sqrt_ratio(sqrt_ratio_at_tick(tick + 1) - 1) == tick
    for wrong in (MIN_TICK - 1, MAX_TICK + 1):
        with pytest.raises(ValueError, match="out of range"):
            sqrt_ratio_at_tick(wrong)
    for wrong in (MIN_SQRT_RATIO - 1, MAX_SQRT_RATIO):
        with pytest.raises(ValueError, match="out of range"):
            tick_at_sqrt_ratio(wrong)


def test_sizes_no_contract_takes_are_refused() -> None:
    """Nothing, and what does not fit an int256, has no quote; a pool at a limit has none in that direction."""
    full = TickMap(1, 100, {MIN_TICK: (10**18, 10**18), MAX_TICK: (10**18, -(10**18))})
    for price, tick, open_down, open_up in (
        (MIN_SQRT_RATIO, MIN_TICK, False, True),
        (LOWEST_PRICE, MIN_TICK, False, True),
        (1 << 96, 0, True, True),
        (HIGHEST_PRICE, MAX_TICK - 1, True, False),
    ):
        pool = V3Pool("v3", Address("0x01"), Address("0x02"), Address("0x03"), full, price, tick)
        assert (pool.quote_in(True, 10**6) is not None, pool.quote_in(False, 10**6) is not None) == (open_down, open_up)
        for zero_for_one in (True, False):
            for amount in (-1, 0, 1 << 255, 1 << 300):
                assert pool.quote_in(zero_for_one, amount) is None
                assert pool.quote_out(zero_for_one, amount) is None


def test_mints_and_burns_undo_each_other() -> None:
    """Any order of burning what was minted leads back to the empty map, and impossible ones are refused."""
    rng = random.Random(SEED + 3)
    for _ in range(30):
        spacing = rng.choice((1, 10, 60))
        ticks, positions = TickMap(spacing, 500, {}), []
        for _ in range(15):
            low = rng.randint(-50, 50)
            positions.append((low * spacing, (low + rng.randint(1, 40)) * spacing, rng.randint(1, 10**20)))
            ticks = ticks.changed(*positions[-1])
        tick = rng.randint(-60 * spacing, 100 * spacing)
        assert ticks.liquidity_at(tick) == sum(amount for low, high, amount in positions if low <= tick < high)
        with pytest.raises(BadData):
            ticks.changed(positions[0][0], positions[0][1], -(10**22))
        rng.shuffle(positions)
        for low, high, amount in positions:
            ticks = ticks.changed(low, high, -amount)
        assert ticks.ticks == []
    for wrong in ({10: (5, 5)}, {0: (5, -5), 10: (5, 5)}, {0: (4, 5), 10: (5, -5)}, {0: (5, 5), 7: (5, -5)}):
        with pytest.raises(BadData):
            TickMap(10, 500, wrong)


@pytest.mark.long
def test_quotes_are_fast() -> None:
    """After warm-up a quote takes about as long over hundreds of ticks as over none."""
    rng = random.Random(SEED)
    ticks = TickMap(10, 500, {})
    for _ in range(230):
        low = rng.randint(-2_000, 1_990)
        ticks = ticks.changed(low * 10, rng.randint(low + 1, 2_000) * 10, int(10 ** rng.uniform(18, 20)))
    pool = V3Pool("v3", Address("0x01"), Address("0x02"), Address("0x03"), ticks, 1 << 96, 0)
    total = sum(pool.quote_in(True, 10**k) or 0 for k in range(30))
    assert total
    medians = []
    for exponent in (15, 19, 20, 21):
        timings = []
        for i in range(2000):
            amount = 10**exponent + i
            began = time.perf_counter()
            found = pool.quote_in(True, amount)
            timings.append(time.perf_counter() - began)
            assert found
        medians.append(sorted(timings)[1000] * 1e6)
    sys.stdout.write(f"{len(ticks.ticks)} ticks, microseconds per quote {[f'{m:.1f}' for m in medians]}\n")
    assert max(medians) < 20
