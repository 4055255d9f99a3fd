"""Quotes, event-kept state and mined swaps against the published bytecode of Uniswap V3."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from keeper.model import Address, Block
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, MIN_TICK, sqrt_ratio_at_tick
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE
from keeper.venues.uniswap_v3.venue import UniswapV3
from tests.support.venue_arena import Arena, block_of, head_of, make_arena, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))


@pytest.fixture
def arena() -> Iterator[Arena]:
    with make_arena() as made:
        yield made


TIERS = ((100, 1), (500, 10), (3_000, 60), (10_000, 200), (0, 3), (2_500, 50), (999_999, 16_383), (700, 8))


@dataclass
class Place:
    """A pool of the random world and the positions minted in it."""

    address: Address
    spacing: int
    positions: list[tuple[int, int, int]]


def draw_position(rng: random.Random, spacing: int, tick: int) -> tuple[int, int, int]:
    lowest, highest = -(-MIN_TICK // spacing), MAX_TICK // spacing
    middle = min(max(tick // spacing, lowest), highest)
    if rng.random() < 0.15:
        low, high = lowest, highest
    else:
        width = rng.choice((2, 40, 600, 5_000))
        low = min(max(middle + rng.randint(-width, width), lowest), highest - 1)
        high = min(low + rng.randint(1, width), highest)
    return low * spacing, high * spacing, int(10 ** rng.uniform(1, 24))


def build_v3(arena: Arena, rng: random.Random) -> list[Place]:
    places: list[Place] = []
    pairs = [(a, b) for i, a in enumerate(arena.tokens) for b in arena.tokens[i + 1 :]]
    for number, (fee, spacing) in enumerate((*TIERS, (100, 1), (3_000, 60))):
        arena.tier(fee, spacing)
        a, b = pairs[number % len(pairs)] if number < len(TIERS) else pairs[-1]
        tick = rng.choice((rng.randint(-2_000, 2_000), rng.randint(-80_000, 80_000), rng.randint(-700_000, 700_000)))
        if number == 2:
            tick = MAX_TICK - 70
        if number == 4:
            tick = MIN_TICK + 5
        low, high = sqrt_ratio_at_tick(tick), sqrt_ratio_at_tick(min(tick + 1, MAX_TICK))
        place = Place(arena.pool(a, b, fee, rng.randrange(low, high)), spacing, [])
        for _ in range(rng.randint(3, 25)):
            add(arena, rng, place, tick)
        arena.on.flush()
        places.append(place)
    return places


def add(arena: Arena, rng: random.Random, place: Place, tick: int) -> None:
    position = draw_position(rng, place.spacing, tick)
    arena.on.send(arena.desk, "v3Mint(address,int24,int24,uint128)", place.address, *position, gas=3_000_000)
    place.positions.append(position)


def draw_amount(rng: random.Random, pool: V3Pool, zero_for_one: bool, exact_out: bool) -> int:
    """Any size from 1 to beyond all liquidity, with a liking for the very edges of steps."""
    start = pool._start(zero_for_one)
    if start is None or rng.random() < 0.35:
        return int(2 ** rng.uniform(0, 130 if rng.random() < 0.9 else 254)) + rng.randint(0, 1)
    ladder, side = start.ladder, int(exact_out)
    for _ in range(rng.randint(0, 30)):
        if ladder.keys[-1] != ladder._end:
            ladder._grow()
    sums = ladder.sums[side]
    index = rng.randrange(start.first + ladder.origin, len(sums))
    edge = sums[index] - start.base[side]
    if rng.random() < 0.5:
        return max(1, edge + rng.randint(-2, 2))
    return max(1, rng.randrange(max(1, edge * 2)))


def check_v3(arena: Arena, rng: random.Random, venue: UniswapV3, places: list[Place], count: int) -> int:
    """Compare `count` quotes of each direction and kind drawn over all pools; returns how many were exhausted."""
    asks: list[tuple[str, bool, int]] = []
    for _ in range(count):
        place = rng.choice(places)
        pool = venue.pool(place.address)
        assert pool is not None
        zero_for_one, exact_out = rng.random() < 0.5, rng.random() < 0.5
        amount = draw_amount(rng, pool, zero_for_one, exact_out)
        asks.append((place.address, zero_for_one, -amount if exact_out else amount))
    exhausted = 0
    for ask, answer in zip(asks, arena.ask_v3(asks), strict=True):
        pool = venue.pool(Address(ask[0]))
        assert pool is not None
        zero_for_one, amount = ask[1:]
        mine = pool.swap_in(zero_for_one, amount) if amount > 0 else pool.swap_out(zero_for_one, -amount)
        quote = pool.quote_in(zero_for_one, amount) if amount > 0 else pool.quote_out(zero_for_one, -amount)
        exact_in_side = zero_for_one == (amount > 0)
        fixed, other = (0, 1) if exact_in_side else (1, 0)
        if answer is None or answer[fixed] != amount:
            assert mine is None, (ask, answer, mine, pool.sqrt_price, pool.tick)
            assert quote is None
            exhausted += 1
            continue
        assert mine is not None, (ask, answer, pool.sqrt_price, pool.tick)
        assert mine[0] == abs(answer[other]) == quote, (ask, answer, mine[0])
        assert (mine[1].sqrt_price, mine[1].tick, mine[1].liquidity) == answer[2:], (ask, answer)
    return exhausted


def disturb_v3(arena: Arena, rng: random.Random, venue: UniswapV3, places: list[Place]) -> dict[Address, V3Pool]:
    """One block of mints, burns and swaps, at most one per pool; returns what the swaps should lead to."""
    expected: dict[Address, V3Pool] = {}
    for place in rng.sample(places, rng.randint(1, len(places))):
        pool = venue.pool(place.address)
        assert pool is not None
        deed = rng.random()
        if deed < 0.2:
            add(arena, rng, place, pool.tick)
        elif deed < 0.35 and place.positions:
            position = place.positions.pop(rng.randrange(len(place.positions)))
            if rng.random() < 0.4:
                part = rng.randrange(1, position[2] + 1)
                if part < position[2]:
                    place.positions.append((*position[:2], position[2] - part))
                position = (*position[:2], part)
            arena.on.send(arena.desk, "v3Burn(address,int24,int24,uint128)", place.address, *position)
        else:
            zero_for_one, exact_out = rng.random() < 0.5, rng.random() < 0.5
            amount = draw_amount(rng, pool, zero_for_one, exact_out)
            after = (pool.swap_out if exact_out else pool.swap_in)(zero_for_one, amount)
            if after is None:
                continue
            expected[place.address] = after[1]
            signed, limit = (-amount if exact_out else amount), LOWEST_PRICE if zero_for_one else HIGHEST_PRICE
            signature = "v3Swap(address,bool,int256,uint160)"
            arena.on.send(arena.desk, signature, place.address, zero_for_one, signed, limit, gas=100_000_000)
    arena.on.flush()
    return expected


def state(pool: V3Pool) -> tuple[Any, ...]:
    return pool.address, pool.sqrt_price, pool.tick, pool.liquidity, dict(pool.ticks.gross_net)


async def run_v3(arena: Arena, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    places = build_v3(arena, rng)
    client = arena.client
    venue = UniswapV3(arena.v3, 0, arena.tokens)
    await venue.load(client, head_of(arena.rpc))
    assert {pool.address for pool in venue.pools()} == {place.address for place in places}
    swaps = exhausted = 0
    history: dict[int, list[tuple[Any, ...]]] = {}
    blocks: list[Block] = []
    for _ in range(rounds):
        before = arena.rpc.number()
        expected = disturb_v3(arena, rng, venue, places)
        if arena.rpc.number() == before:
            continue
        block = block_of(arena.rpc, venue.watch())
        venue.apply(block)
        assert not venue.dirty, venue.excluded
        for found, pool in expected.items():
            kept = venue.pool(found)
            assert kept is not None
            assert state(kept) == state(pool)
        swaps += len(expected)
        exhausted += check_v3(arena, rng, venue, places, quotes)
        history[block.head.number] = sorted(map(state, venue.pools()))
        blocks.append(block)
    assert await venue.audit(client, head_of(arena.rpc), len(places)) is None
    fresh = UniswapV3(arena.v3, 0, arena.tokens)
    await fresh.load(client, head_of(arena.rpc))
    assert sorted(map(state, fresh.pools())) == sorted(map(state, venue.pools()))
    restored = UniswapV3(arena.v3, 0, arena.tokens)
    restored.restore(venue.snapshot())
    assert sorted(map(state, restored.pools())) == sorted(map(state, venue.pools()))
    for back in range(2, min(30, len(blocks))):
        venue.rewind(blocks[-back].head.number)
        assert sorted(map(state, venue.pools())) == history[blocks[-back].head.number]
    for block in blocks[-back + 1 :]:
        venue.apply(block)
        assert sorted(map(state, venue.pools())) == history[block.head.number]
    say(f"{rounds * quotes} quotes, {exhausted} of them exhausted, {swaps} mined swaps, 0 differences")
    assert exhausted > rounds * quotes // 50
    assert swaps > rounds


async def test_v3_quotes_equal_the_pools(arena: Arena) -> None:
    """Random quotes on pools that random swaps, mints and burns keep changing: amounts and state after, to the wei."""
    await run_v3(arena, rounds=40, quotes=80)


@pytest.mark.long
async def test_v3_quotes_equal_the_pools_long(arena: Arena) -> None:
    """The same with ten thousand quotes."""
    await run_v3(arena, rounds=200, quotes=50)
