"""Every gate, at its exact boundary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from keeper.model import Address, FeeQuote, Head, Plan, Route, SkipReason, Token, Uptime
from keeper.ports import Position
from keeper.strategy.gates import GateContext, GateResult, Gates, GateSettings, first_closed
from tests.support.strategy_fakes import BTC, HEAD, NATIVE, NONE, PRICES, USD, FakePair, position

pytestmark = pytest.mark.unit

ETH = 10**18
NOW = HEAD.timestamp + 5
SETTINGS = GateSettings(
    min_net=10**16,
    min_net_bps_of_cost=0,
    max_gas_price=50 * 10**9,
    max_oracle_gap_bps=100,
    max_head_age=30,
    max_exposure=10 * ETH,
    sanity_bps=10_000,
    sanity_slack=0,
)
# 6,000 USD = 3 native of debt against BTC, bonus 5 %.
PAIR = FakePair(USD, BTC, PRICES[USD], PRICES[BTC], 500, ((1, 6_000 * 10**6),), 0)
POSITION = position([PAIR])
PLAN = Plan(
    market="market",
    borrower=POSITION.account.borrower,
    head=HEAD,
    timestamp=HEAD.timestamp + 12,
    debt=USD,
    collateral=BTC,
    repay=6_000 * 10**6,
    budget=6_000 * 10**6,
    seizure=PAIR.seize(6_000 * 10**6),
    loan=None,
    buy=None,
    sell=None,
    profit_token=NATIVE.address,
    gain=ETH // 10,
    gas=10**6,
    fees=FeeQuote(19 * 10**9, 10**9),
    sanity_bound=15 * ETH // 100,
    health_factor=98 * 10**16,
)


@dataclass
class Spots:
    """A quoter that only knows spot prices, as (out, in) base units; at first exactly the market's."""

    prices: dict[tuple[Address, Address], tuple[int, int]] = field(
        default_factory=lambda: {
            (BTC.address, USD.address): (60_000 * 10**6, 10**8),
            (BTC.address, NATIVE.address): (30 * ETH, 10**8),
            (USD.address, NATIVE.address): (ETH, 2_000 * 10**6),
        }
    )

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        return self.prices.get((token_in, token_out))

    def sell(
        self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address] = NONE
    ) -> Route | None:
        raise AssertionError("gates trade nothing")

    def buy(self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address] = NONE) -> Route | None:
        raise AssertionError("gates trade nothing")

    def after(self, route: Route) -> Spots:
        raise AssertionError("gates trade nothing")


def evaluate(
    plan: Plan = PLAN,
    settings: GateSettings = SETTINGS,
    context: GateContext | None = None,
    spots: Spots | None = None,
    at: Position = POSITION,
) -> dict[str, GateResult]:
    results = Gates(settings).evaluate(plan, at, spots or Spots(), context or GateContext(now=NOW))
    return {result.name: result for result in results}


def only_closed(results: dict[str, GateResult]) -> str | None:
    closed = [name for name, result in results.items() if not result.open]
    assert len(closed) <= 1, closed
    return closed[0] if closed else None


def test_a_sound_plan_passes_every_gate() -> None:
    """Nothing is closed, and every gate has answered with a sentence."""
    results = evaluate()
    assert only_closed(results) is None
    assert len(results) == 14
    assert all(result.detail for result in results.values())
    assert first_closed(tuple(results.values())) is None


def test_all_gates_answer_even_when_the_first_is_closed() -> None:
    """A closed gate hides no other: all fourteen answer, and the first closed one is what a skip is counted under."""
    context = GateContext(now=NOW + 1_000, market_trusted=False, market_reason="log missing", paused=True)
    results = evaluate(context=context)
    assert len(results) == 14
    closed = [name for name, result in results.items() if not result.open]
    assert closed == ["market_unknown", "paused", "stale_head"]
    first = first_closed(tuple(results.values()))
    assert first is not None
    skip = first.skip()
    assert (skip.reason, skip.detail) == (SkipReason.MARKET_UNKNOWN, "log missing")


@pytest.mark.parametrize(
    ("context", "name", "reason"),
    [
        (GateContext(NOW, market_trusted=False), "market_unknown", SkipReason.MARKET_UNKNOWN),
        (GateContext(NOW, read_only=True), "market_read_only", SkipReason.MARKET_READ_ONLY),
        (GateContext(NOW, paused=True), "paused", SkipReason.PAUSED),
        (GateContext(NOW, in_flight=True), "in_flight", SkipReason.IN_FLIGHT),
        (GateContext(NOW, waits_for="the attempt on x"), "under_way", SkipReason.SUPERSEDED),
        (GateContext(NOW, breaker="3 reverts in a row"), "breaker", SkipReason.BREAKER_OPEN),
        (GateContext(NOW, breaker=""), "breaker", SkipReason.BREAKER_OPEN),
        (GateContext(NOW, cooldown_until=NOW + 1), "cooldown", SkipReason.COOLDOWN),
        (GateContext(NOW, cooldown_until=NOW), None, None),
        (GateContext(NOW, cooldown_until=NOW - 1), None, None),
        (GateContext(HEAD.timestamp + 30), None, None),
        (GateContext(HEAD.timestamp + 31), "stale_head", SkipReason.STALE_HEAD),
        (GateContext(HEAD.timestamp - 100), None, None),
    ],
)
def test_the_state_of_the_process_closes_its_gate(
    context: GateContext, name: str | None, reason: SkipReason | None
) -> None:
    """Each runtime fact closes exactly its own gate, at its exact second, under its own reason."""
    results = evaluate(context=context)
    assert only_closed(results) == name
    if name is not None:
        assert results[name].reason == reason


AT = PLAN.timestamp


@pytest.mark.parametrize(
    ("uptime", "said", "numbers"),
    [
        (None, None, {}),
        (Uptime(up=True, since=AT - 3_601, grace=3_600), None, {"grace": 3_600, "up_for": 3_601}),
        (Uptime(up=True, since=AT - 3_600, grace=3_600), "up for 3600 s", {"grace": 3_600, "up_for": 3_600}),
        (Uptime(up=True, since=AT - 1, grace=0), None, {"grace": 0, "up_for": 1}),
        (Uptime(up=True, since=AT, grace=0), "up for 0 s", {"grace": 0, "up_for": 0}),
        (Uptime(up=True, since=AT + 9, grace=0), "up for 0 s", {"grace": 0, "up_for": 0}),
        (Uptime(up=False, since=AT - 9_999, grace=3_600), "down for 9999 s", {"grace": 3_600, "down_for": 9_999}),
        (Uptime(up=None, grace=60, unknown="the feed is silent"), "unknown: the feed is silent", {"grace": 60}),
        (Uptime(up=None), "unknown: no reason given", {"grace": 0}),
    ],
)
def test_the_sequencer_must_have_been_up_for_more_than_the_grace(
    uptime: Uptime | None, said: str | None, numbers: dict[str, int]
) -> None:
    """By the time of inclusion, strictly, as `PriceOracleSentinel` counts; down and unknown are closed alike."""
    results = evaluate(context=GateContext(NOW, uptime=uptime))
    gate = results["sequencer"]
    assert gate.numbers == numbers
    assert only_closed(results) == (None if said is None else "sequencer")
    if said is not None:
        assert said in gate.detail
        assert gate.skip().reason is SkipReason.SEQUENCER


def test_the_profit_floor_is_a_net_of_at_least_the_minimum() -> None:
    """A net exactly at the floor passes, one wei less does not; also for the floor that is a share of the gas cost."""
    least = PLAN.cost + SETTINGS.min_net
    assert only_closed(evaluate(replace(PLAN, gain=least))) is None
    assert only_closed(evaluate(replace(PLAN, gain=least - 1))) == "profit_floor"
    share = replace(SETTINGS, min_net=0, min_net_bps_of_cost=12_500)  # cost 0.02: net at least 0.025
    assert only_closed(evaluate(replace(PLAN, gain=45 * ETH // 1_000), share)) is None
    assert only_closed(evaluate(replace(PLAN, gain=45 * ETH // 1_000 - 1), share)) == "profit_floor"
    odd = replace(PLAN, gas=3, fees=FeeQuote(1, 0), gain=3 + 2)  # cost 3: a share of 3.75 rounds up to 4, net is 2
    assert only_closed(evaluate(odd, replace(share, sanity_slack=10))) == "profit_floor"
    assert only_closed(evaluate(replace(odd, gain=3 + 4), replace(share, sanity_slack=10))) is None


def test_the_gas_ceiling_is_on_base_fee_and_tip_together() -> None:
    """50 gwei in all passes, one wei more does not."""
    assert only_closed(evaluate(replace(PLAN, fees=FeeQuote(49 * 10**9, 10**9)))) is None
    assert only_closed(evaluate(replace(PLAN, fees=FeeQuote(49 * 10**9, 10**9 + 1)))) == "gas_ceiling"


def test_profit_beyond_the_bonus_is_a_broken_price() -> None:
    """Gain up to bonus × repaid × factor + slack passes, one wei more does not."""
    assert only_closed(evaluate(replace(PLAN, gain=15 * ETH // 100))) is None
    assert only_closed(evaluate(replace(PLAN, gain=15 * ETH // 100 + 1))) == "profit_sanity"
    wider = replace(SETTINGS, sanity_bps=12_000, sanity_slack=7)
    assert only_closed(evaluate(replace(PLAN, gain=18 * ETH // 100 + 7), wider)) is None
    assert only_closed(evaluate(replace(PLAN, gain=18 * ETH // 100 + 8), wider)) == "profit_sanity"


def test_exposure_is_the_repaid_value_in_wei() -> None:
    """3 native of debt pass a limit of exactly 3, and not a wei less; without a market price the pools value it."""
    assert only_closed(evaluate(settings=replace(SETTINGS, max_exposure=3 * ETH))) is None
    assert only_closed(evaluate(settings=replace(SETTINGS, max_exposure=3 * ETH - 1))) == "exposure"
    unlisted = position([PAIR], native_price=None)
    at_spot = 3 * ETH + 1  # spot is rounded up by one wei
    assert only_closed(evaluate(settings=replace(SETTINGS, max_exposure=at_spot), at=unlisted)) is None
    assert only_closed(evaluate(settings=replace(SETTINGS, max_exposure=at_spot - 1), at=unlisted)) == "exposure"


def test_what_cannot_be_valued_is_too_much_exposure() -> None:
    """Neither a market price of the native token nor a pool for the debt: closed."""
    spots = Spots()
    del spots.prices[USD.address, NATIVE.address]
    results = evaluate(spots=spots, at=position([PAIR], native_price=None))
    assert only_closed(results) == "exposure"


@pytest.mark.parametrize("token", [USD, NATIVE])
@pytest.mark.parametrize("side", [1, -1])
def test_the_oracle_gap_is_measured_on_both_trades_and_both_ways(token: Token, side: int) -> None:
    """100 bps off passes on either leg and in either direction, one part in 10^8 more does not."""
    spots = Spots()
    out, into = spots.prices[BTC.address, token.address]
    spots.prices[BTC.address, token.address] = (out * (10_000 + side * 100), into * 10_000)
    results = evaluate(spots=spots)
    assert only_closed(results) is None
    assert results["oracle_gap"].numbers["gap_bps_debt" if token is USD else "gap_bps_native"] == 100
    spots.prices[BTC.address, token.address] = (out * (10**8 + side * (10**6 + 1)), into * 10**8)
    results = evaluate(spots=spots)
    assert only_closed(results) == "oracle_gap"
    assert results["oracle_gap"].numbers["gap_bps_debt" if token is USD else "gap_bps_native"] == 101


def test_a_price_the_pools_do_not_have_closes_the_oracle_gap() -> None:
    """Unknown is not fine: a leg without a pool price is closed."""
    for leg in (USD, NATIVE):
        spots = Spots()
        del spots.prices[BTC.address, leg.address]
        assert only_closed(evaluate(spots=spots)) == "oracle_gap"


def test_the_oracle_gap_skips_what_is_not_traded() -> None:
    """Collateral that is the debt asset is only compared with the native token; without native price, not at all."""
    same = replace(PAIR, collateral=USD, collateral_price=PRICES[USD])
    plan = replace(PLAN, collateral=USD)
    results = evaluate(plan, at=position([same]))
    assert only_closed(results) is None
    assert "gap_bps_debt" not in results["oracle_gap"].numbers
    assert results["oracle_gap"].numbers["gap_bps_native"] == 0
    bare = evaluate(plan, at=position([same], native_price=None))
    assert bare["oracle_gap"].open
    assert set(bare["oracle_gap"].numbers) == {"limit"}


def test_a_plan_for_another_position_is_refused() -> None:
    """A plan whose pair the position does not have is a mistake of the caller, not a closed gate."""
    with pytest.raises(ValueError, match="has no pair"):
        evaluate(replace(PLAN, debt=NATIVE))


def test_the_age_is_that_of_the_plans_own_head() -> None:
    """The age of the head is taken from the plan's own head."""
    late = replace(PLAN, head=Head(101, HEAD.hash, HEAD.parent_hash, HEAD.timestamp + 60, 1))
    assert only_closed(evaluate(late, context=GateContext(HEAD.timestamp + 90))) is None
