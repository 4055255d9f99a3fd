"""Quotes, event-kept state and mined swaps against the published bytecode of Uniswap V4."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from keeper.devchain.uniswap_v4 import PoolKey, key_of
from keeper.model import ZERO_ADDRESS, Address, Block
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.swap_math import amount0_up, amount1_up
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, MIN_TICK, sqrt_ratio_at_tick
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE
from keeper.venues.uniswap_v4 import storage
from keeper.venues.uniswap_v4.pool import V4Pool
from keeper.venues.uniswap_v4.venue import UniswapV4
from tests.support.v4_arena import V4Arena, make_v4_arena
from tests.support.venue_arena import block_of, head_of, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261126"))
TIERS = ((100, 1), (500, 10), (3_000, 60), (10_000, 200), (0, 3), (999_000, 32_767), (700, 8), (2_500, 50), (45, 1))


@pytest.fixture
def arena() -> Iterator[V4Arena]:
    with make_v4_arena() as made:
        yield made


@dataclass
class Place:
    """A pool of the random world and the positions minted in it."""

    key: PoolKey
    positions: list[tuple[int, int, int]]


def venue_of(arena: V4Arena) -> UniswapV4:
    tokens = [*arena.tokens, arena.weth]
    return UniswapV4(arena.desk.manager, arena.desk.start_block, tokens, arena.prober, arena.weth)


def draw_position(rng: random.Random, spacing: int, tick: int, most: float) -> tuple[int, int, int]:
    lowest, highest = -(-MIN_TICK // spacing), MAX_TICK // spacing
    middle = min(max(tick // spacing, lowest), highest)
    if rng.random() < 0.15:
        low, high = lowest, highest
    else:
        width = rng.choice((2, 40, 600, 5_000))
        low = min(max(middle + rng.randint(-width, width), lowest), highest - 1)
        high = min(low + rng.randint(1, width), highest)
    low, high = low * spacing, high * spacing
    prices = sqrt_ratio_at_tick(low), sqrt_ratio_at_tick(high)
    # Amounts are int128 here: no position can be worth more on either side.
    unit = max(amount0_up(*prices, 1 << 64), amount1_up(*prices, 1 << 64))
    return low, high, max(1, min(int(10 ** rng.uniform(1, most)), (1 << 126 + 64) // unit))


def add(arena: V4Arena, rng: random.Random, place: Place, tick: int) -> None:
    native = place.key.currency0 == ZERO_ADDRESS
    position = draw_position(rng, place.key.spacing, tick, 17 if native else 24)
    arena.desk.modify(place.key, *position)
    place.positions.append(position)


def build(arena: V4Arena, rng: random.Random) -> list[Place]:
    """Pools of every tier, two with the native coin, one at either end of the prices."""
    places: list[Place] = []
    pairs = [(a, b) for i, a in enumerate(arena.tokens) for b in arena.tokens[i + 1 :]]
    for number, (fee, spacing) in enumerate((*TIERS, (500, 10), (3_000, 60))):
        a, b = pairs[number % len(pairs)]
        if number >= len(TIERS):
            a, b = ZERO_ADDRESS, arena.tokens[0 if number == len(TIERS) else -1]
        tick = rng.choice((rng.randint(-2_000, 2_000), rng.randint(-80_000, 80_000), rng.randint(-700_000, 700_000)))
        if a == ZERO_ADDRESS:
            tick = rng.randint(-2_000, 2_000)
        elif number == 2:
            tick = MAX_TICK - 70
        elif number == 4:
            tick = MIN_TICK + 5
        place = Place(key_of(a, b, fee, spacing), [])
        low, high = sqrt_ratio_at_tick(tick), sqrt_ratio_at_tick(min(tick + 1, MAX_TICK))
        arena.desk.initialize(place.key, rng.randrange(low, high))
        for _ in range(rng.randint(3, 25)):
            add(arena, rng, place, tick)
        if number % 3 == 1:
            arena.desk.protocol_fee(place.key, rng.randint(0, 1_000) << 12 | rng.randint(0, 1_000))
        arena.on.flush()
        places.append(place)
    return places


def facing(pool: V4Pool, key: PoolKey, zero_for_one: bool) -> bool:
    """The direction as the router has it, from that of the pool's own currencies."""
    return zero_for_one == (key.currency1 == pool.token1)


def draw_amount(rng: random.Random, side: V3Pool, zero_for_one: bool, exact_out: bool, most: int) -> int:
    """Any size from 1 to beyond all liquidity, with a liking for the very edges of steps."""
    start = side._start(zero_for_one)
    if start is None or rng.random() < 0.35:
        return int(2 ** rng.uniform(0, most if rng.random() < 0.9 else 254)) + rng.randint(0, 1)
    ladder, which = start.ladder, int(exact_out)
    for _ in range(rng.randint(0, 30)):
        if ladder.keys[-1] != ladder._end:
            ladder._grow()
    sums = ladder.sums[which]
    edge = sums[rng.randrange(start.first + ladder.origin, len(sums))] - start.base[which]
    if rng.random() < 0.5:
        return max(1, edge + rng.randint(-2, 2))
    return max(1, rng.randrange(max(1, edge * 2)))


def check(arena: V4Arena, rng: random.Random, venue: UniswapV4, places: list[Place], count: int) -> int:
    """Compare `count` quotes drawn over all pools, directions and kinds; returns how many were exhausted."""
    asks: list[tuple[PoolKey, bool, int]] = []
    for _ in range(count):
        key = rng.choice(places).key
        pool = venue.pool(key.id)
        assert pool is not None
        zero_for_one, exact_out = rng.random() < 0.5, rng.random() < 0.5
        side, way = pool._side(facing(pool, key, zero_for_one))
        assert way == zero_for_one
        amount = draw_amount(rng, side, way, exact_out, 130)
        asks.append((key, zero_for_one, amount if exact_out else -amount))
    exhausted = 0
    for (key, zero_for_one, specified), answer in zip(asks, arena.ask(asks), strict=True):
        pool = venue.pool(key.id)
        assert pool is not None
        way, amount = facing(pool, key, zero_for_one), abs(specified)
        mine = pool.swap_in(way, amount) if specified < 0 else pool.swap_out(way, amount)
        quote = pool.quote_in(way, amount) if specified < 0 else pool.quote_out(way, amount)
        fixed, other = (0, 1) if zero_for_one == (specified < 0) else (1, 0)
        if answer is None or answer[fixed] != specified:
            assert mine is None, (key, zero_for_one, specified, answer, mine)
            assert quote is None
            exhausted += 1
            continue
        assert mine is not None, (key, zero_for_one, specified, answer)
        assert mine[0] == abs(answer[other]) == quote, (key, zero_for_one, specified, answer, mine[0])
        assert (mine[1].sqrt_price, mine[1].tick, mine[1].liquidity) == answer[2:]
    return exhausted


def disturb(arena: V4Arena, rng: random.Random, venue: UniswapV4, places: list[Place]) -> dict[Address, V4Pool]:
    """One block of liquidity, fees and swaps, at most one per pool; returns what the swaps should lead to."""
    expected: dict[Address, V4Pool] = {}
    for place in rng.sample(places, rng.randint(1, len(places))):
        pool = venue.pool(place.key.id)
        assert pool is not None
        deed = rng.random()
        if deed < 0.2:
            add(arena, rng, place, pool.tick)
        elif deed < 0.35 and place.positions:
            position = place.positions.pop(rng.randrange(len(place.positions)))
            part = rng.randrange(1, position[2] + 1) if rng.random() < 0.4 else position[2]
            if part < position[2]:
                place.positions.append((*position[:2], position[2] - part))
            arena.desk.modify(place.key, *position[:2], -part)
        elif deed < 0.4:
            arena.desk.protocol_fee(place.key, rng.randint(0, 1_000) << 12 | rng.randint(0, 1_000))
        else:
            zero_for_one, exact_out = rng.random() < 0.5, rng.random() < 0.5
            way = facing(pool, place.key, zero_for_one)
            side, own = pool._side(way)
            amount = draw_amount(rng, side, own, exact_out, 126)
            after = (pool.swap_out if exact_out else pool.swap_in)(way, amount)
            native = place.key.currency0 == ZERO_ADDRESS
            if after is None or (native and max(amount, after[0]) > 10**24):
                continue
            expected[place.key.id] = after[1]
            limit = LOWEST_PRICE if zero_for_one else HIGHEST_PRICE
            specified = amount if exact_out else -amount
            arena.desk.swap(place.key, zero_for_one=zero_for_one, amount=specified, limit=limit)
    arena.on.flush()
    return expected


def state(pool: V4Pool) -> tuple[Any, ...]:
    return pool.address, pool.sqrt_price, pool.tick, pool.liquidity, pool.fees, dict(pool.ticks.gross_net)


async def run(arena: V4Arena, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    places = build(arena, rng)
    client = arena.client
    venue = venue_of(arena)
    await venue.load(client, head_of(arena.rpc))
    assert {pool.address for pool in venue.pools()} == {place.key.id for place in places}
    swaps = exhausted = 0
    history: dict[int, list[tuple[Any, ...]]] = {}
    blocks: list[Block] = []
    for _ in range(rounds):
        before = arena.rpc.number()
        expected = disturb(arena, rng, venue, places)
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
        exhausted += check(arena, rng, venue, places, quotes)
        history[block.head.number] = sorted(map(state, venue.pools()))
        blocks.append(block)
    assert await venue.audit(client, head_of(arena.rpc), len(places)) is None
    fresh = venue_of(arena)
    await fresh.load(client, head_of(arena.rpc))
    assert sorted(map(state, fresh.pools())) == sorted(map(state, venue.pools()))
    restored = venue_of(arena)
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


async def test_v4_quotes_equal_the_pools(arena: V4Arena) -> None:
    """Random quotes on pools that swaps, liquidity and protocol fees keep changing: amounts and state, to the wei."""
    await run(arena, rounds=20, quotes=60)


@pytest.mark.long
async def test_v4_quotes_equal_the_pools_long(arena: V4Arena) -> None:
    """The same with ten thousand quotes."""
    await run(arena, rounds=200, quotes=50)


async def test_pools_that_cannot_be_quoted_are_left_out(arena: V4Arena) -> None:
    """Hooks, fees that a hook sets, and fees that leave nothing: not offered. A pool made later is, once it is read."""
    price = 1 << 96
    a, b, c, _ = arena.tokens
    plain = key_of(a, b, 3_000, 60)
    hook = Address("0x" + "00" * 18 + "0010")  # afterDonate only, which no swap and no pool's birth calls
    hooked = PoolKey(a, b, 3_000, 60, hook)
    greedy = key_of(a, c, 1_000_000, 60)
    nearly = key_of(b, c, 999_999, 60)
    for key in (plain, hooked, greedy, nearly):
        arena.desk.initialize(key, price)
    arena.desk.protocol_fee(nearly, 1_000 << 12 | 1_000)
    arena.on.flush()
    venue = venue_of(arena)
    await venue.load(arena.client, head_of(arena.rpc))
    assert {pool.address for pool in venue.pools()} == {plain.id}
    assert "leave nothing" in venue.excluded[nearly.id]
    assert hooked.id not in venue.excluded
    later = key_of(ZERO_ADDRESS, c, 500, 10)
    arena.desk.initialize(later, price)
    arena.desk.modify(later, -1_000, 1_000, 10**15)
    arena.desk.protocol_fee(nearly, 0)
    arena.on.flush()
    venue.apply(block_of(arena.rpc, venue.watch()))
    assert venue.dirty
    assert venue.pool(later.id) is None
    await venue.refresh(arena.client, head_of(arena.rpc))
    assert {pool.address for pool in venue.pools()} == {plain.id, later.id, nearly.id}
    found = venue.pool(later.id)
    assert found is not None
    assert (found.native, found.liquidity) == (True, 10**15)
    assert {found.token0, found.token1} == {arena.weth, c}


async def test_audit_finds_what_an_event_did_not_tell(arena: V4Arena) -> None:
    """A pool whose state was written behind the events' back is named, left out, and read anew."""
    key = key_of(arena.tokens[0], arena.tokens[1], 3_000, 60)
    arena.desk.initialize(key, 1 << 96)
    arena.desk.modify(key, -600, 600, 10**18)
    arena.on.flush()
    venue = venue_of(arena)
    await venue.load(arena.client, head_of(arena.rpc))
    slot = hex(storage.slot0(key.id))
    word = int(arena.rpc.request("eth_getStorageAt", arena.desk.manager, slot, "latest"), 16)
    arena.rpc.request("anvil_setStorageAt", arena.desk.manager, slot, f"0x{word + 1:064x}")
    arena.rpc.request("evm_mine")
    venue.apply(block_of(arena.rpc, venue.watch()))
    head = head_of(arena.rpc)
    difference = await venue.audit(arena.client, head, 5)
    assert difference is not None
    assert key.id in difference.detail
    assert venue.pools() == []
    await venue.refresh(arena.client, head)
    (pool,) = venue.pools()
    assert pool.sqrt_price == (1 << 96) + 1
