"""Quotes, event-kept state and mined swaps against the published bytecode of Uniswap V2."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from keeper.model import Address
from keeper.venues.uniswap_v2 import UniswapV2
from tests.support.venue_arena import Arena, block_of, head_of, make_arena, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))


@pytest.fixture
def arena() -> Iterator[Arena]:
    with make_arena() as made:
        yield made


async def run_v2(arena: Arena, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    pairs = [
        arena.pair(a, b, int(10 ** rng.uniform(4, 33)), int(10 ** rng.uniform(4, 33)))
        for i, a in enumerate(arena.tokens)
        for b in arena.tokens[i + 1 :]
    ]
    client = arena.client
    venue = UniswapV2(arena.v2, 0, arena.tokens)
    await venue.load(client, head_of(arena.rpc))
    assert {pool.address for pool in venue.pools()} == set(pairs)
    refused = checked = 0
    history: dict[int, list[tuple[Any, ...]]] = {}
    for _ in range(rounds):
        expected: dict[Address, tuple[int, int]] = {}
        for found in rng.sample(pairs, 3):
            pool = venue.pool(found)
            assert pool is not None
            zero_for_one = rng.random() < 0.5
            amount = int(2 ** rng.uniform(0, 112))
            after = pool.swap_in(zero_for_one, amount)
            if rng.random() < 0.2:
                amounts = [reserve // rng.randint(2, 9) + 2 for reserve in (pool.reserve0, pool.reserve1)]
                arena.on.send(arena.desk, "v2Mint(address,uint256,uint256)", found, *amounts)
            elif after is not None and after[0]:
                expected[found] = (after[1].reserve0, after[1].reserve1)
                signature = "v2Swap(address,bool,uint256,uint256)"
                arena.on.send(arena.desk, signature, found, zero_for_one, amount, after[0])
        arena.on.flush()
        block = block_of(arena.rpc, venue.watch())
        venue.apply(block)
        assert not venue.dirty
        for found, reserves in expected.items():
            kept = venue.pool(found)
            assert kept is not None
            assert (kept.reserve0, kept.reserve1) == reserves
        history[block.head.number] = [(p.address, p.reserve0, p.reserve1) for p in venue.pools()]
        asks: list[tuple[str, bool, int, int]] = []
        promised: list[bool] = []
        for _ in range(quotes):
            pool = venue.pool(rng.choice(pairs))
            assert pool is not None
            zero_for_one = rng.random() < 0.5
            if rng.random() < 0.5:
                amount = int(2 ** rng.uniform(0, 115))
                out = pool.quote_in(zero_for_one, amount)
                checked += 1
                if out is None:
                    refused += 1
                    asks.append((pool.address, zero_for_one, amount, 1))
                    promised.append(False)
                    continue
                if out:
                    asks.append((pool.address, zero_for_one, amount, out))
                    promised.append(True)
                asks.append((pool.address, zero_for_one, amount, out + 1))
                promised.append(False)
            else:
                into, out_of = (pool.reserve0, pool.reserve1) if zero_for_one else (pool.reserve1, pool.reserve0)
                amount = rng.randint(1, out_of + 1) if rng.random() < 0.5 else int(2 ** rng.uniform(0, 112))
                paid = pool.quote_out(zero_for_one, amount)
                checked += 1
                if paid is None:
                    refused += 1
                    asks.append((pool.address, zero_for_one, (1 << 112) - 1 - into, amount))
                    promised.append(False)
                    continue
                # The library's "+ 1" is one more than the pair insists on only where its division leaves nothing.
                exact = into * amount * 10_000 % ((out_of - amount) * 9_970) == 0
                asks.append((pool.address, zero_for_one, paid, amount))
                promised.append(True)
                if paid - 1 - exact > 0:
                    asks.append((pool.address, zero_for_one, paid - 1 - exact, amount))
                    promised.append(False)
        answers = arena.ask_v2(asks)
        assert answers == promised, [
            (ask, got) for ask, got, want in zip(asks, answers, promised, strict=True) if got != want
        ]
    fresh = UniswapV2(arena.v2, 0, arena.tokens)
    await fresh.load(client, head_of(arena.rpc))
    assert [(p.address, p.reserve0, p.reserve1) for p in fresh.pools()] == history[max(history)]
    assert await venue.audit(client, head_of(arena.rpc), 6) is None
    for number in sorted(history, reverse=True)[:20]:
        venue.rewind(number)
        assert [(p.address, p.reserve0, p.reserve1) for p in venue.pools()] == history[number]
    say(f"{checked} quotes, {refused} of them refused, 0 differences")
    assert refused > checked // 50


async def test_v2_quotes_are_the_limit_of_what_the_pair_takes(arena: Arena) -> None:
    """A pair takes the quoted output, not one more; the quoted input, not one less; and refuses what we refuse."""
    await run_v2(arena, rounds=20, quotes=100)


@pytest.mark.long
async def test_v2_quotes_are_the_limit_of_what_the_pair_takes_long(arena: Arena) -> None:
    """The same with ten thousand quotes."""
    await run_v2(arena, rounds=100, quotes=100)
