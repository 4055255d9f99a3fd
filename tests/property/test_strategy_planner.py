"""The planner against a search that tries everything, and against an executor that moves the tokens."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from keeper.model import WAD, Plan, SkipReason
from keeper.strategy.planner import Decision, Planner, PlannerSettings
from tests.support import strategy_brute
from tests.support.strategy_executor import ToyExecutor
from tests.support.strategy_fakes import NATIVE, PRICES, FakePair, FakeQuoter
from tests.support.strategy_markets import KeepingQuoter, RealQuoter, real_world
from tests.support.strategy_worlds import World, random_world

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
SETTINGS = PlannerSettings(NATIVE.address, base_gas=120_000, warm_hop_gas=0)
MakeWorld = Callable[[Random], World[Any]]


def tell(text: str) -> None:
    print(f"KEEPER_SEED={SEED}: {text}")


def decide(world: World[Any], settings: PlannerSettings = SETTINGS, *, thorough: bool = False) -> Decision:
    return Planner(settings).plan(world.position, world.quoter, world.sources, world.fees, thorough=thorough)


def shape(plan: Plan) -> str:
    same = plan.debt == plan.collateral
    legs = "same asset" if same else ("two legs" if plan.buy else "one leg")
    return f"{'flash swap' if plan.loan is None else 'loan'}, {legs}{'' if plan.sell else ', nothing sold'}"


def grain(pair: FakePair) -> int:
    """Two base units of either asset in wei: what rounding in a coarse token (cents) can be worth to a tiny plan."""
    return sum(-(-2 * PRICES[t] * WAD // (10**t.decimals * PRICES[NATIVE])) for t in (pair.debt, pair.collateral))


def check_against_everything(
    make: MakeWorld, cases: int, name: str, fine: int, *, all_routes: bool = True
) -> Counter[str]:
    """Every plan earns ≥ 99.9 % of brute force (less the grain), and nothing earns where there is none."""
    least, seen = 1_000_000, Counter[str]()
    for case in range(cases):
        world = make(Random(f"{SEED}/{name}/{case}"))
        decision = decide(world)
        best = strategy_brute.best(world, SETTINGS.base_gas, fine, fine, all_routes=all_routes)
        if decision.plan is None:
            assert decision.skip is not None
            assert best is None or best.net <= grain(best.pair), f"case {case}: {decision.skip}, but {best} earns"
            seen[decision.skip.reason.value] += 1
            continue
        seen[shape(decision.plan)] += 1
        assert best is not None, f"case {case}: a plan where nothing is possible"
        share = (decision.plan.net + grain(best.pair)) * 1_000_000 // max(best.net, 1)
        assert share >= 999_000, f"case {case}: {decision.plan.net} of {best}"
        least = min(least, share)
    tell(f"{name}: {cases} worlds, at least {least / 10_000:.4f} % of brute force, {dict(seen)}")
    return seen


def keeping_world(rng: Random) -> World[RealQuoter]:
    world = real_world(rng)
    quoter = world.quoter
    return replace(world, quoter=KeepingQuoter(quoter.router, quoter.pools, quoter.gas_price))


def test_the_plan_earns_999_per_mille_of_a_search_that_tries_everything() -> None:
    """Over random worlds with holes, caps and fees the net is ≥ 99.9 % of pairs × amounts × fundings × routes."""
    seen = check_against_everything(random_world, 120, "constant product", 40)
    assert seen["flash swap, two legs"] >= 10
    assert seen[SkipReason.UNPROFITABLE.value] >= 5
    assert sum(seen[kind] for kind in seen if kind.startswith("loan")) >= 5


def test_the_plan_earns_999_per_mille_over_the_real_router() -> None:
    """The same over real pool states of both kinds, 12 pools and 6 pairs, routed by the keeper's own router."""
    seen = check_against_everything(keeping_world, 60, "real pools", 16)
    assert seen["flash swap, two legs"] >= 10


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_plan_earns_999_per_mille_over_many_worlds() -> None:
    """Both, at full size; over real pools with the router's own routes, as its splits are held to account elsewhere."""
    check_against_everything(random_world, 2_000, "constant product, many", 40)
    check_against_everything(keeping_world, 500, "real pools, many", 16, all_routes=False)


def worlds(cases: int, name: str) -> list[World[FakeQuoter]]:
    tell(name)
    return [random_world(Random(f"{SEED}/{name}/{case}")) for case in range(cases)]


def test_the_predicted_gain_is_what_an_executor_is_left_with() -> None:
    """For every shape of plan, running it step by step changes the profit token's balance by exactly `gain`."""
    seen = Counter[str]()
    for world in worlds(150, "gain"):
        for settings in (SETTINGS, replace(SETTINGS, flash_swaps=False)):
            plan = decide(world, settings).plan
            if plan is not None:
                assert ToyExecutor(world.quoter.pools).run(plan) == plan.gain
                seen[shape(plan)] += 1
    for kind in ("flash swap, two legs", "loan, two legs", "loan, one leg", "loan, same asset"):
        assert seen[kind] >= 3, seen
    assert seen["flash swap, two legs, nothing sold"] >= 3, seen
    assert seen["loan, same asset, nothing sold"] >= 1, seen


def test_a_plan_never_asks_for_an_amount_in_a_hole() -> None:
    """Whatever the intervals, the amount of a plan and of every candidate is one the contract accepts."""
    planned = 0
    for world in worlds(150, "holes"):
        decision = decide(world)
        for candidate in decision.candidates:
            pairs = [p for p in world.pairs if (p.debt, p.collateral) == (candidate.debt, candidate.collateral)]
            assert candidate.repay == 0 or any(pair.accepts(candidate.repay) for pair in pairs)
        if decision.plan is not None:
            planned += 1
            assert decision.plan.net > 0
            assert decision.pair is not None
            assert decision.plan.seizure == decision.pair.seize(decision.plan.repay)
            assert decision.plan.budget == decision.pair.budget(decision.plan.repay)
    assert planned >= 40


def test_no_trade_inside_a_loan_touches_a_locked_pool() -> None:
    """Purchases inside a loan, and sales that repay it, avoid what the lender locks; offers are for the budget."""
    loans = 0
    for world in worlds(150, "locks"):
        plan = decide(world, replace(SETTINGS, flash_swaps=False)).plan
        if plan is None or plan.loan is None:
            continue
        loans += bool(plan.loan.locks)
        assert plan.loan.amount == plan.budget
        inside = plan.buy or plan.sell
        if inside is not None and plan.debt != plan.collateral:
            assert not inside.pools & plan.loan.locks
    assert loans >= 5


def test_the_thorough_decision_is_the_same_choice() -> None:
    """Trying every candidate to its own best finds nothing that pruning loses beyond a thousandth."""
    for world in worlds(60, "thorough"):
        quick, slow = decide(world), decide(world, thorough=True)
        assert (quick.plan is None) == (slow.plan is None)
        if quick.plan is not None and slow.plan is not None:
            assert quick.plan.net * 1_000 >= slow.plan.net * 999
        assert len(slow.candidates) >= len(quick.candidates)
