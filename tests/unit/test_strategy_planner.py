"""What the planner says about single positions: the reasons of its skips, their numbers, and the choice it makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeper.model import OWN_CALLBACK, Address, FeeQuote, Skip, SkipReason, Token
from keeper.ports import FlashSource, Position
from keeper.strategy.planner import Decision, Planner, PlannerSettings
from tests.support.strategy_fakes import (
    BTC,
    GOV,
    NATIVE,
    PRICES,
    USD,
    FakePair,
    FakeQuoter,
    FakeSource,
    Pool,
    pool,
    position,
)

pytestmark = pytest.mark.unit

ETH = 10**18
FEES = FeeQuote(9 * 10**9, 10**9)
SETTINGS = PlannerSettings(NATIVE.address, base_gas=100_000, warm_hop_gas=0)
DEEP = (pool(1, NATIVE, USD, 20_000_000, 5), pool(2, BTC, NATIVE, 10_000_000, 30), pool(3, BTC, USD, 3_000_000, 30))
LENDER = FakeSource("lender", Address("0x" + "aa" * 20), {USD.address: 10**14, NATIVE.address: 10**23}, 5, 100_000)


def pair(debt: Token, collateral: Token, dollars: int, *, holes: tuple[tuple[int, int], ...] | None = None) -> FakePair:
    most = dollars * 10**8 * 10**debt.decimals // PRICES[debt]
    return FakePair(debt, collateral, PRICES[debt], PRICES[collateral], 500, holes or ((1, most),))


def quoter(*pools: Pool) -> FakeQuoter:
    return FakeQuoter({p.address: p for p in pools}, FEES.price)


def decide(
    at: Position,
    pools: FakeQuoter | None = None,
    sources: tuple[FlashSource, ...] = (),
    settings: PlannerSettings = SETTINGS,
    *,
    thorough: bool = False,
) -> Decision:
    decision = Planner(settings).plan(at, pools or quoter(*DEEP), sources, FEES, thorough=thorough)
    assert (decision.plan is None) != (decision.skip is None)
    assert (decision.plan is None) == (decision.pair is None)
    return decision


def skipped(decision: Decision) -> Skip:
    assert decision.skip is not None
    return decision.skip


# ---------------------------------------------------------------------------------------------------- skips


def test_no_pair_repeats_the_markets_refusals() -> None:
    """Without pairs the skip is NO_PAIR and names every refusal; a single kind of refusal keeps its own reason."""
    paused = Skip(SkipReason.NO_PAIR, "USD is paused.", {"paused": 1})
    drained = Skip(SkipReason.COLLATERAL_DRAINED, "BTC has 5 units left.", {"available": 5})
    both = skipped(decide(replace(position([]), refusals=(paused, drained))))
    assert both.reason is SkipReason.NO_PAIR
    assert "USD is paused; BTC has 5 units left." in both.detail
    assert both.numbers == {"paused": 1, "available": 5, "pairs_refused": 2}
    one = skipped(decide(replace(position([]), refusals=(drained, drained))))
    assert one.reason is SkipReason.COLLATERAL_DRAINED
    assert skipped(decide(position([]))).reason is SkipReason.NO_PAIR


def test_a_pair_without_any_accepted_amount_is_a_dust_hole() -> None:
    """Where the dust rule leaves nothing, the skip says so."""
    decision = decide(position([replace(pair(USD, NATIVE, 5_000), feasible=())]))
    skip = skipped(decision)
    assert skip.reason is SkipReason.DUST_HOLE
    assert "USD debt against WNAT" in skip.detail
    assert skip.numbers == {"pairs_dust_hole": 1}
    assert [c.note for c in decision.candidates] == ["the dust rule leaves no accepted amount"]


def test_collateral_that_no_pool_takes_has_no_route() -> None:
    """No pool at all, and pools that cannot give that much at any accepted amount."""
    assert skipped(decide(position([pair(USD, GOV, 50_000)]))).reason is SkipReason.NO_ROUTE
    thin = quoter(pool(1, NATIVE, USD, 10_000))
    whole = pair(USD, NATIVE, 50_000, holes=((50_000 * 10**6, 50_000 * 10**6),))
    assert skipped(decide(position([whole]), thin)).reason is SkipReason.NO_ROUTE


def test_a_needed_loan_that_nobody_gives_has_no_flash_source() -> None:
    """Collateral that is the debt asset needs a lender; so does everything where flash swaps are switched off."""
    same = position([pair(NATIVE, NATIVE, 50_000)])
    assert skipped(decide(same)).reason is SkipReason.NO_FLASH_SOURCE
    assert decide(same, sources=(LENDER,)).plan is not None
    other = position([pair(USD, NATIVE, 50_000)])
    assert skipped(decide(other, settings=replace(SETTINGS, flash_swaps=False))).reason is SkipReason.NO_FLASH_SOURCE
    poor = FakeSource("poor", LENDER.lender, {NATIVE.address: 10**18}, 5, 100_000)
    fixed = position([pair(NATIVE, NATIVE, 50_000, holes=((25 * ETH, 25 * ETH),))])
    assert skipped(decide(fixed, sources=(poor,))).reason is SkipReason.NO_FLASH_SOURCE


def test_a_loan_shallower_than_the_debt_is_used_to_its_depth() -> None:
    """The amount is cut to what the lender has, to within a thousandth, not given up."""
    poor = FakeSource("poor", LENDER.lender, {NATIVE.address: 7 * ETH}, 0, 100_000)
    plan = decide(position([pair(NATIVE, NATIVE, 50_000)]), sources=(poor,)).plan
    assert plan is not None
    assert 7 * ETH * 999 // 1_000 <= plan.repay <= 7 * ETH


def test_what_cannot_pay_its_gas_is_unprofitable_without_a_single_quote() -> None:
    """Dust is turned away by its bonus at spot prices; the skip has gas and bonus, and no pool is asked."""
    pools = quoter(*DEEP)
    skip = skipped(decide(position([pair(USD, NATIVE, 40), pair(USD, BTC, 40)]), pools))
    assert skip.reason is SkipReason.UNPROFITABLE
    assert skip.numbers["gas_cost"] == 500_000 * FEES.price
    assert skip.numbers["bonus"] == ETH // 1_000  # 5 % of 40 USD at 2,000
    assert skip.numbers["net"] < 0
    assert pools.calls == []


def test_an_unprofitable_position_says_what_ate_the_bonus() -> None:
    """bonus − protocol fee − premium − unspent − impact − gas = net, in wei, all of them named in the sentence."""
    shallow = quoter(pool(1, NATIVE, USD, 30_000), pool(2, BTC, NATIVE, 30_000))
    whole = pair(USD, BTC, 9_000, holes=((9_000 * 10**6, 9_000 * 10**6),))
    at = position([replace(whole, accrual_ppm=100)])
    for settings, premium in ((SETTINGS, 0), (replace(SETTINGS, flash_swaps=False), 9_000.9 * 5 / 10_000 / 2_000)):
        skip = skipped(decide(at, shallow, (LENDER,), settings))
        assert skip.reason is SkipReason.UNPROFITABLE
        n = skip.numbers
        assert n["bonus"] == 225 * ETH // 1_000  # 450 USD
        assert n["protocol_fee"] == pytest.approx(n["bonus"] // 10, rel=1e-6)
        assert n["premium"] == pytest.approx(premium * ETH, rel=1e-6)
        assert n["unspent"] == pytest.approx(9 * 10**5 * ETH // (10**6 * 2_000), rel=1e-6)
        assert n["gas_cost"] == n["gas"] * FEES.price
        eaten = n["protocol_fee"] + n["premium"] + n["unspent"] + n["impact"] + n["gas_cost"]
        assert n["bonus"] - eaten == n["net"] < 0
        assert n["impact"] > n["bonus"]
        for word in ("bonus 0.225000000", "impact", "premium", "protocol fee", "gas"):
            assert word in skip.detail


def test_numbers_that_cannot_be_known_are_not_invented() -> None:
    """Where neither market nor pools value the debt asset, an unprofitable skip holds gain, gas and net alone."""
    pools = quoter(pool(1, GOV, USD, 20_000), pool(2, GOV, NATIVE, 20_000))
    whole = pair(USD, GOV, 5_000, holes=((5_000 * 10**6, 5_000 * 10**6),))
    skip = skipped(decide(position([whole], native_price=None), pools))
    assert skip.reason is SkipReason.UNPROFITABLE
    assert set(skip.numbers) == {"gain", "gas_cost", "net", "gas"}


# ------------------------------------------------------------------------------------------------- choices


def test_slippage_makes_the_best_amount_less_than_the_most() -> None:
    """In a thin market the plan stops where the next unit costs more than its bonus, and earns more than the most."""
    thin = quoter(pool(1, NATIVE, USD, 1_000_000))
    most = 200_000 * 10**6
    free = decide(position([pair(USD, NATIVE, 200_000)]), thin).plan
    forced = decide(position([pair(USD, NATIVE, 200_000, holes=((most, most),))]), thin)
    assert free is not None
    assert 1_000 * 10**6 < free.repay < 60_000 * 10**6
    assert forced.plan is None or forced.plan.net < free.net


def test_a_hole_is_jumped_to_the_better_side() -> None:
    """With the best amount in a hole, the plan takes the better of its two edges."""
    thin = quoter(pool(1, NATIVE, USD, 1_000_000))
    free = decide(position([pair(USD, NATIVE, 200_000)]), thin).plan
    assert free is not None
    best = free.repay
    for low, high in ((best * 9 // 10, best * 3), (best // 3, best * 11 // 10)):
        holed = pair(USD, NATIVE, 200_000, holes=((1, low), (high, 200_000 * 10**6)))
        plan = decide(position([holed]), thin).plan
        assert plan is not None
        assert plan.repay == (low if low > best // 2 else high)


def test_the_better_pair_wins() -> None:
    """Of two collaterals for one debt, the one that loses less to the pools is seized."""
    decision = decide(position([pair(USD, BTC, 100_000), pair(USD, NATIVE, 100_000)]))
    assert decision.plan is not None
    assert decision.plan.collateral == NATIVE
    assert decision.pair is not None
    assert decision.pair.collateral == NATIVE
    assert [c.collateral for c in decision.candidates] == [NATIVE, BTC]


def test_one_sale_that_repays_the_loan_beats_two_trades() -> None:
    """Debt in the native token: with a free loan everything is sold once; with a dear one the pools lend."""
    at = position([pair(NATIVE, BTC, 3_000)])
    free = FakeSource("free", LENDER.lender, LENDER.depths, 0, 20_000)
    dear = FakeSource("dear", LENDER.lender, LENDER.depths, 100, 20_000)
    once = decide(at, sources=(free,)).plan
    assert once is not None
    assert once.loan is not None
    assert once.buy is None
    assert once.sell is not None
    assert once.sell.amount_in == once.seizure.seized
    assert once.gain == once.sell.amount_out - once.seizure.repaid
    twice = decide(at, sources=(dear,)).plan
    assert twice is not None
    assert twice.loan is None


def test_the_cheaper_lender_is_taken_and_a_locked_pool_avoided() -> None:
    """A loan locks its pool only where the pool would be traded in; then premium and detour are weighed."""
    at = position([pair(NATIVE, BTC, 3_000)])
    direct, other = DEEP[1], pool(7, BTC, NATIVE, 9_000_000, 30)
    pools = quoter(DEEP[0], direct, other)
    locking = FakeSource("locking", direct.address, LENDER.depths, 0, 20_000, frozenset({direct.address}))
    plan = decide(at, pools, (locking, LENDER)).plan
    assert plan is not None
    assert plan.loan is not None
    assert plan.loan.source == "locking"
    assert plan.sell is not None
    assert plan.sell.pools == {other.address}
    alone = decide(at, quoter(DEEP[0], direct), (locking, LENDER)).plan
    assert alone is not None
    assert alone.loan is None or alone.loan.source == "lender"


@pytest.mark.parametrize("debt", [NATIVE, USD])
def test_unspent_budget_is_gain_only_in_the_profit_token(debt: Token) -> None:
    """What interest does not use up stays as debt token: counted where that is the profit token, swept elsewhere."""
    at = position([replace(pair(debt, BTC, 100_000), accrual_ppm=1_000)])
    plan = decide(at).plan
    assert plan is not None
    assert plan.buy is not None
    assert plan.sell is not None
    assert plan.budget - plan.repay == plan.repay // 1_000
    assert plan.buy.amount_out == plan.budget
    unspent = plan.budget - plan.seizure.repaid
    assert plan.gain == plan.sell.amount_out + (unspent if debt == NATIVE else 0)


def test_the_sanity_bound_is_the_bonus_at_the_markets_prices() -> None:
    """5 % of 100,000 USD at 2,000 per native is 2.5; by the pools' price of the debt where the native is not listed."""
    listed = decide(position([pair(USD, NATIVE, 100_000)])).plan
    assert listed is not None
    assert listed.repay == 100_000 * 10**6
    assert listed.sanity_bound == 25 * ETH // 10
    assert 0 < listed.gain < listed.sanity_bound
    unlisted = decide(position([pair(USD, NATIVE, 100_000)], native_price=None)).plan
    assert unlisted is not None
    assert unlisted.sanity_bound == pytest.approx(25 * ETH // 10, rel=1e-9)


def test_gas_is_what_every_part_expects() -> None:
    """Base, liquidation, loan and both routes, at next base fee plus tip."""
    plan = decide(
        position([pair(USD, BTC, 100_000)]), sources=(LENDER,), settings=replace(SETTINGS, flash_swaps=False)
    ).plan
    assert plan is not None
    assert plan.loan is not None
    assert plan.buy is not None
    assert plan.sell is not None
    assert plan.gas == 100_000 + 400_000 + 100_000 + plan.buy.gas + plan.sell.gas
    assert plan.cost == plan.gas * 10 * 10**9
    assert plan.net == plan.gain - plan.cost


def test_a_thorough_look_shows_every_funding_of_every_pair() -> None:
    """For a person each pair appears with the flash swap and each lender, tried or refused; the choice is the same."""
    at = position([pair(USD, NATIVE, 100_000), pair(NATIVE, BTC, 100_000), pair(NATIVE, NATIVE, 100)])
    quick = decide(at, sources=(LENDER,))
    slow = decide(at, sources=(LENDER,), thorough=True)
    assert quick.plan is not None
    assert slow.plan is not None
    assert (slow.plan.debt, slow.plan.collateral) == (quick.plan.debt, quick.plan.collateral)
    shown = sorted((c.debt.symbol, c.collateral.symbol, c.funding) for c in slow.candidates)
    loan = "loan from lender 0xaaaaaaaa"
    assert shown == [
        ("USD", "WNAT", "flash swap"),
        ("USD", "WNAT", f"{loan}, two legs"),
        ("WNAT", "BTC", "flash swap"),
        ("WNAT", "BTC", f"{loan}, one leg"),
        ("WNAT", "BTC", f"{loan}, two legs"),
        ("WNAT", "WNAT", f"{loan}, same asset"),
    ]
    assert [c.net for c in slow.candidates] == sorted((c.net for c in slow.candidates), reverse=True)


def test_the_protocols_own_callback_is_the_loan() -> None:
    """Where the collateral comes first nobody is asked for a loan; each of the three shapes is paid inside the call."""
    two_legs = replace(pair(USD, BTC, 50_000), pays_last=True)
    one_leg = replace(pair(NATIVE, USD, 50_000), pays_last=True)
    same = replace(pair(USD, USD, 50_000), pays_last=True)
    for one in (two_legs, one_leg, same):
        found = decide(position([one]), sources=(LENDER,))
        assert found.plan is not None
        assert found.plan.loan is not None
        assert (found.plan.loan.source, found.plan.loan.premium) == (OWN_CALLBACK, 0)
        assert (found.plan.buy is None) == (one is not two_legs)
        other = decide(position([replace(one, pays_last=False)]), sources=(LENDER,))
        assert other.plan is not None
        assert found.plan.net >= other.plan.net
        thorough = decide(position([one]), sources=(LENDER,), thorough=True)
        assert {c.funding for c in thorough.candidates} > {OWN_CALLBACK}


def test_a_plan_names_everybody_it_liquidates() -> None:
    """Further borrowers of a pair are the plan's too."""
    friend = Address("0x" + "fe" * 20)
    found = decide(position([replace(pair(USD, BTC, 50_000), others=(friend,))]), sources=(LENDER,))
    assert found.plan is not None
    assert found.plan.others == (friend,)


def test_planning_is_pure() -> None:
    """The same inputs give the same decision, and leave the pools as they were."""
    at = position([pair(USD, BTC, 100_000), pair(NATIVE, BTC, 60_000)])
    pools = quoter(*DEEP)
    before = dict(pools.pools)
    assert decide(at, pools, (LENDER,)) == decide(at, pools, (LENDER,))
    assert pools.pools == before
