"""Quotes, event-kept state and mined swaps against the published bytecode of Balancer V2's weighted pools."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from keeper.devchain.balancer import BalancerPool, allow
from keeper.model import Address, Block
from keeper.venues.balancer_v2.pool import WeightedPool, WeightedState
from keeper.venues.balancer_v2.venue import BalancerV2
from tests.support.balancer_arena import DECIMALS, BalancerArena, Step, make_balancer_arena
from tests.support.venue_arena import block_of, head_of, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261128"))
ONE = 10**18
EXECUTOR = Address("0x" + "ee" * 20)


@pytest.fixture
def arena() -> Iterator[BalancerArena]:
    with make_balancer_arena() as made:
        yield made


def venue_of(arena: BalancerArena) -> BalancerV2:
    desk = arena.desk
    return BalancerV2(desk.vault, desk.factories, desk.start_block, arena.tokens, EXECUTOR)


def draw_weights(rng: random.Random, count: int) -> list[int]:
    """Weights of at least one per cent that add up to one; now and then such that their ratios are 1, 2 or 4."""
    if count == 2 and rng.random() < 0.6:
        first = rng.choice((ONE // 2, ONE // 3 + 1, ONE // 5, 4 * ONE // 5, ONE // 100))
        return [first, ONE - first]
    if count == 4 and rng.random() < 0.5:
        return [ONE // 4] * 4
    raw = [rng.random() ** 2 + 0.02 for _ in range(count)]
    found = [int(share / sum(raw) * ONE * 0.9) + ONE // 100 for share in raw]
    found[0] += ONE - sum(found)
    return found


def build(arena: BalancerArena, rng: random.Random, count: int) -> list[BalancerPool]:
    decimals = dict(zip(arena.tokens, DECIMALS, strict=True))
    pools: list[BalancerPool] = []
    for number in range(count):
        size = 2 if number % 3 == 0 else rng.randint(2, 4 if number % 2 == 0 else 8)
        tokens = rng.sample(arena.tokens, size)
        amounts = {t: int(10 ** rng.uniform(2, 6) * 10 ** decimals[t]) + rng.randrange(10**3) for t in tokens}
        fee = rng.choice((10**12, 10**15, 3 * 10**15, 10**17, rng.randrange(10**12, 10**17)))
        weights = draw_weights(rng, size)
        pools.append(arena.desk.create(arena.desk.factories[number % 2], tokens, weights, fee, amounts))
    return pools


def pair_of(venue: BalancerV2, pool: BalancerPool, sold: Address, bought: Address) -> WeightedPool:
    state = venue.pool(pool.address)
    assert state is not None
    return next(pair for pair in state.pairs if {pair.token0, pair.token1} == {sold, bought})


def draw_amount(rng: random.Random, held: int) -> int:
    """From one unit to beyond what the pool takes, with a liking for the limit and for dust."""
    kind = rng.random()
    if kind < 0.15:
        return rng.randint(1, 50)
    if kind < 0.4:
        return max(1, held * 3 // 10 + rng.randint(-3, 3))
    return max(1, int(held * 10 ** rng.uniform(-9, 0.1)))


def mine(pool: WeightedPool, sold: Address, amount: int, *, given_out: bool) -> tuple[int, WeightedPool] | None:
    zero_for_one = sold == pool.token0
    traded = pool.swap_out(zero_for_one, amount) if given_out else pool.swap_in(zero_for_one, amount)
    quote = pool.quote_out(zero_for_one, amount) if given_out else pool.quote_in(zero_for_one, amount)
    assert quote == (None if traded is None else traded[0])
    return traded


def check(arena: BalancerArena, rng: random.Random, venue: BalancerV2, pools: list[BalancerPool], count: int) -> int:
    """Compare `count` swaps, in sequences of one to four in one pool; returns how many sequences were refused."""
    asks: list[tuple[BalancerPool, bool, list[Step]]] = []
    expected: list[tuple[int, ...] | None] = []
    swaps = 0
    while swaps < count:
        pool, given_out = rng.choice(pools), rng.random() < 0.5
        state = venue.pool(pool.address)
        assert state is not None
        steps: list[Step] = []
        net: dict[Address, int] | None = dict.fromkeys(pool.tokens, 0)
        for _ in range(1 if rng.random() < 0.7 else rng.randint(2, 4)):
            sold, bought = rng.sample(pool.tokens, 2)
            pair = next(p for p in state.pairs if {p.token0, p.token1} == {sold, bought})
            held = state.balances[state.tokens.index(bought if given_out else sold)]
            amount = draw_amount(rng, held)
            steps.append((sold, bought, amount))
            traded = mine(pair, sold, amount, given_out=given_out)
            if traded is None or net is None:
                net = None
                break
            net[sold] += traded[0] if given_out else amount
            net[bought] -= amount if given_out else traded[0]
            state = traded[1].state
        asks.append((pool, given_out, steps))
        expected.append(None if net is None else tuple(net.values()))
        swaps += len(steps)
    answers = arena.ask(asks)
    for ask, answer, want in zip(asks, answers, expected, strict=True):
        assert answer == want, (ask, answer, want)
    return sum(answer is None for answer in answers)


def disturb(
    arena: BalancerArena, rng: random.Random, venue: BalancerV2, pools: list[BalancerPool]
) -> dict[Address, Any]:
    """One block of swaps, joins, exits and fees; returns the state that swapped pools should be in."""
    expected: dict[Address, WeightedState] = {}
    for pool in rng.sample(pools, rng.randint(1, len(pools))):
        state = venue.pool(pool.address)
        assert state is not None
        deed = rng.random()
        if deed < 0.12:
            arena.desk.join(pool, [held // rng.randint(5, 50) for held in state.balances])
        elif deed < 0.24:
            shares = arena.rpc.view(pool.address, "balanceOf(address)", arena.on.sender)
            arena.desk.exit(pool, shares // rng.randint(3, 20))
        elif deed < 0.32:
            fee = rng.randrange(10**12, 10**17)
            arena.on.send(pool.address, "setSwapFeePercentage(uint256)", fee)
        else:
            for _ in range(rng.randint(1, 3)):
                given_out = rng.random() < 0.5
                sold, bought = rng.sample(pool.tokens, 2)
                pair = next(p for p in state.pairs if {p.token0, p.token1} == {sold, bought})
                held = state.balances[state.tokens.index(bought if given_out else sold)]
                amount = max(1, int(held * 10 ** rng.uniform(-6, -0.6)))
                traded = mine(pair, sold, amount, given_out=given_out)
                if traded is None:
                    continue
                arena.desk.swap(pool, sold, bought, amount, given_out=given_out)
                expected[pool.address] = state = traded[1].state
    arena.on.flush()
    return expected


def state_of(pool: WeightedState) -> tuple[Any, ...]:
    return (
        pool.address,
        pool.pool_id,
        pool.tokens,
        pool.weights,
        pool.decimals,
        pool.fee,
        pool.balances,
        pool.exact_small,
    )


async def run(arena: BalancerArena, pools: int, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    made = build(arena, rng, pools)
    # A share of swap fees for the protocol is taken when somebody joins or leaves, and shows in the balances then.
    allow(arena.desk, arena.desk.collector, "setSwapFeePercentage(uint256)")
    arena.on.send(arena.desk.collector, "setSwapFeePercentage(uint256)", ONE // 2)
    arena.on.flush()
    client = arena.client
    venue = venue_of(arena)
    await venue.load(client, head_of(arena.rpc))
    assert {state.address for state in venue.usable()} == {pool.address for pool in made}
    assert len(venue.pools()) == sum(len(pool.tokens) * (len(pool.tokens) - 1) // 2 for pool in made)
    assert {state.exact_small for state in venue.usable()} == {False, True}
    refused = swaps = 0
    history: dict[int, list[tuple[Any, ...]]] = {}
    blocks: list[Block] = []
    for _ in range(rounds):
        before = arena.rpc.number()
        expected = disturb(arena, rng, venue, made)
        if arena.rpc.number() == before:
            continue
        block = block_of(arena.rpc, venue.watch())
        venue.apply(block)
        assert not venue.dirty, venue.excluded
        for found, state in expected.items():
            kept = venue.pool(found)
            assert kept is not None
            assert state_of(kept) == state_of(state)
        swaps += len(expected)
        refused += check(arena, rng, venue, made, quotes)
        history[block.head.number] = sorted(map(state_of, venue.usable()))
        blocks.append(block)
    assert await venue.audit(client, head_of(arena.rpc), len(made)) is None
    fresh = venue_of(arena)
    await fresh.load(client, head_of(arena.rpc))
    assert sorted(map(state_of, fresh.usable())) == sorted(map(state_of, venue.usable()))
    restored = venue_of(arena)
    restored.restore(venue.snapshot())
    assert sorted(map(state_of, restored.usable())) == sorted(map(state_of, venue.usable()))
    for back in range(2, min(30, len(blocks))):
        venue.rewind(blocks[-back].head.number)
        assert sorted(map(state_of, venue.usable())) == history[blocks[-back].head.number]
    for block in blocks[-back + 1 :]:
        venue.apply(block)
        assert sorted(map(state_of, venue.usable())) == history[block.head.number]
    say(f"{rounds * quotes} quotes, {refused} sequences refused, {swaps} pools swapped in and mined, 0 differences")
    assert refused > rounds * quotes // 50
    assert swaps > rounds


async def test_weighted_quotes_equal_the_vaults(arena: BalancerArena) -> None:
    """Random swaps, alone and in sequences, over pools of both generations that swaps, joins, exits and fees keep
    changing: amounts and balances, to the wei."""
    await run(arena, pools=8, rounds=16, quotes=80)


@pytest.mark.long
async def test_weighted_quotes_equal_the_vaults_long(arena: BalancerArena) -> None:
    """The same with twelve thousand quotes."""
    await run(arena, pools=24, rounds=150, quotes=80)


async def test_pools_that_cannot_be_quoted_are_left_out(arena: BalancerArena) -> None:
    """Paused, of strange tokens, or in a paused Vault: not offered; and back when that is over."""
    desk, tokens, rpc = arena.desk, arena.tokens, arena.rpc
    amounts = dict.fromkeys(tokens, 10**9)
    half = [ONE // 2] * 2
    sound, paused, strange = (
        desk.create(desk.factories[1], pair, half, 10**15, amounts)
        for pair in (tokens[:2], tokens[1:3], [tokens[0], tokens[7]])
    )
    venue = BalancerV2(desk.vault, desk.factories, desk.start_block, tokens[:3], EXECUTOR)
    await venue.load(arena.client, head_of(rpc))
    assert {pool.address for pool in venue.pools()} == {sound.address, paused.address}
    assert "fewer than two" in venue.excluded[strange.address]
    for signature in ("pause()", "unpause()"):
        allow(desk, paused.address, signature)

    async def after(where: Address, signature: str, *args: object) -> set[Address]:
        arena.on.send(where, signature, *args)
        arena.on.flush()
        venue.apply(block_of(rpc, venue.watch()))
        await venue.refresh(arena.client, head_of(rpc))
        venue.observe(head_of(rpc), await arena.client.read(venue.reads(), head_of(rpc)))
        return {pool.address for pool in venue.pools()}

    assert await after(paused.address, "pause()") == {sound.address}
    assert venue.excluded[paused.address] == "it is paused"
    assert await after(paused.address, "unpause()") == {sound.address, paused.address}
    allow(desk, desk.vault, "setPaused(bool)")
    assert await after(desk.vault, "setPaused(bool)", True) == set()
    assert await after(desk.vault, "setPaused(bool)", False) == {sound.address, paused.address}
    desk.swap(strange, strange.tokens[0], strange.tokens[1], 10**6, given_out=False)
    assert await after(tokens[0], "approve(address,uint256)", desk.vault, 1) == {sound.address, paused.address}
    assert not venue.dirty


async def test_audit_finds_what_an_event_did_not_tell(arena: BalancerArena) -> None:
    """A mirror that missed a block's logs is told so, leaves the pool out, and reads it anew."""
    desk, tokens = arena.desk, arena.tokens
    pool = desk.create(desk.factories[0], tokens[:2], [ONE // 2] * 2, 10**15, dict.fromkeys(tokens, 10**12))
    venue = venue_of(arena)
    await venue.load(arena.client, head_of(arena.rpc))
    desk.swap(pool, pool.tokens[0], pool.tokens[1], 10**9, given_out=False)
    arena.on.flush()
    head = head_of(arena.rpc)
    venue.apply(Block(head, ()))
    difference = await venue.audit(arena.client, head, 5)
    assert difference is not None
    assert pool.address in difference.detail
    assert venue.pools() == []
    await venue.refresh(arena.client, head)
    assert await venue.audit(arena.client, head, 5) is None
    assert len(venue.pools()) == 1
