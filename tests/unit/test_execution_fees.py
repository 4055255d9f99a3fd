"""Fees: exact for the next block, tied to the profit, never beyond the share."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from keeper.errors import BadData
from keeper.execution.fees import (
    BPS,
    FeePolicy,
    FeeSource,
    FixedTip,
    PercentileTip,
    ShareTip,
    bid,
    bump_up,
    gas_limit_up,
    highest_base_fee,
    paid,
)
from keeper.model import FeeQuote
from tests.support.execution_chain import GWEI, Chain, FakeClient

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
FIXED = FeePolicy(FixedTip(), 2 * GWEI, 50 * GWEI, 500 * GWEI)
HEAD = Chain().head


class History(FakeClient):
    """Answers eth_feeHistory with what it was given."""

    def __init__(self, answer: Any) -> None:
        super().__init__(Chain())
        self.history = answer

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.requests += [method for method, _ in calls]
        return [self.history for _ in calls]


def test_a_bid_never_exceeds_the_share() -> None:
    """10,000 random quotes, gains and policies: the worst cost stays within the share, and the fields fit."""
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    declined = 0
    for _ in range(10_000):
        policy = FeePolicy(
            rng.choice((FixedTip(), ShareTip(rng.randrange(10_001)))),
            rng.randrange(3 * GWEI),
            rng.randrange(3 * GWEI, 100 * GWEI),
            rng.randrange(GWEI, 1000 * GWEI),
            rng.randrange(10_001),
            rng.randrange(8),
        )
        quote = FeeQuote(rng.randrange(200 * GWEI), rng.randrange(10 * GWEI))
        gain, gas = rng.randrange(10 ** rng.randrange(12, 21)), rng.randrange(21_000, 3_000_000)
        offer = bid(policy, quote, gain, gas)
        if offer is None:
            declined += 1
            limit = gas_limit_up(gas)
            assert min(gain * policy.spend_share_bps // BPS // limit, policy.max_fee) <= quote.base_fee
            continue
        assert offer.most * BPS <= gain * policy.spend_share_bps
        assert offer.gas_limit >= gas
        assert quote.base_fee < offer.max_fee <= policy.max_fee
        assert 0 <= offer.tip <= offer.max_fee - quote.base_fee
        assert paid(quote, offer).price <= offer.max_fee
    assert 1_000 < declined < 9_000


def test_headroom_outlives_full_blocks() -> None:
    """With enough gain the transaction stays includable, tip in full, after the configured number of full blocks."""
    offer = bid(FIXED, FeeQuote(30 * GWEI, 2 * GWEI), 10**18, 300_000)
    assert offer is not None
    head = replace(HEAD, base_fee=30 * GWEI, gas_used=HEAD.gas_limit)
    fee = head.base_fee
    for _ in range(FIXED.headroom_blocks):
        fee = replace(head, base_fee=fee).next_base_fee()
    assert offer.max_fee == fee + 2 * GWEI
    assert highest_base_fee(0, 3) == 3  # a base fee of nothing still grows


def test_the_share_policy_bids_from_the_gain() -> None:
    """The tip is the share of what is left after the base fee, within its limits."""
    policy = replace(FIXED, tip=ShareTip(2_000), spend_share_bps=9_000)
    quote = FeeQuote(10 * GWEI, policy.min_tip)
    gain, gas = 10**16 + 10 * GWEI * 400_000, 400_000
    offer = bid(policy, quote, gain, gas)
    assert offer is not None
    assert offer.tip == 10**16 * 2_000 // BPS // gas
    capped = bid(policy, quote, 10**20, gas)
    assert capped is not None
    assert capped.tip == policy.max_tip
    assert bid(policy, quote, 0, gas) is None
    assert bid(policy, quote, -5, gas) is None


def test_gas_limit_covers_refunds_and_the_held_back_64th() -> None:
    """A fifth refunded and a 64th kept back still fit, with a tenth to spare, rounded up."""
    for used in (21_000, 400_000, 1_234_567):
        burnt = used * 5 // 4
        assert gas_limit_up(used) * 63 * 10 >= burnt * 64 * 11
        assert gas_limit_up(used) <= used * 7 // 5 + 2


def test_a_bump_always_counts() -> None:
    """A replacement rises by the percentage rounded up, and by one wei at least."""
    assert [bump_up(value, 13) for value in (0, 1, 7, 100, 101)] == [1, 2, 8, 113, 115]


async def test_the_percentile_is_the_median_of_blocks_with_transactions() -> None:
    """Empty blocks say nothing; the tip stays within the policy's limits; the node is asked once per head."""
    policy = replace(FIXED, tip=PercentileTip(60, 5))
    answer = {"reward": [[hex(t * GWEI)] for t in (9, 0, 5, 7, 3)], "gasUsedRatio": [0.5, 0, 0.1, 0.9, 1.0]}
    client = History(answer)
    source = FeeSource(client, policy)
    quote = await source.quote(HEAD)
    assert quote == FeeQuote(HEAD.next_base_fee(), 5 * GWEI)
    await source.quote(HEAD)
    assert client.requests == ["eth_feeHistory"]
    low = FeeSource(History({"reward": [["0x1"]], "gasUsedRatio": [1.0]}), policy)
    assert (await low.quote(HEAD)).tip == policy.min_tip
    high = FeeSource(History({"reward": [[hex(10**15)]], "gasUsedRatio": [1.0]}), policy)
    assert (await high.quote(HEAD)).tip == policy.max_tip
    quiet = FeeSource(History({"reward": None, "gasUsedRatio": [0.0]}), policy)
    assert (await quiet.quote(HEAD)).tip == policy.min_tip


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"reward": [[]], "gasUsedRatio": [1]}, {"reward": [["x"]], "gasUsedRatio": [1]}]
)
async def test_a_malformed_history_is_bad_data(answer: Any) -> None:
    """Nonsense from the node is named as such."""
    with pytest.raises(BadData):
        await FeeSource(History(answer), replace(FIXED, tip=PercentileTip())).quote(HEAD)


async def test_a_fixed_tip_asks_nobody() -> None:
    """Base fee and tip come from the head and the policy alone."""
    client = History(None)
    assert await FeeSource(client, FIXED).quote(HEAD) == FeeQuote(HEAD.next_base_fee(), 2 * GWEI)
    assert client.requests == []
