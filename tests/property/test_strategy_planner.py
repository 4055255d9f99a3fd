"""The planner against a search that tries everything, and against an executor that moves the tokens."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from keeper.model import Plan, SkipReason
from keeper.strategy.planner import Planner, PlannerSettings
from tests.support import strategy_brute
from tests.support.strategy_executor import ToyExecutor
from tests.support.strategy_fakes import NATIVE
from tests.support.strategy_worlds import World, random_world

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
SETTINGS = PlannerSettings(NATIVE.address)
ENOUGH_BPS = 9_990


def shape(plan: Plan) -> str:
    same = plan.debt == plan.collateral
    legs = "same asset" if same else ("two legs" if plan.buy else "one leg")
    return f"{'flash swap' if plan.loan is None else 'loan'}, {legs}{'' if plan.sell else ', nothing sold'}"


def check_against_everything(cases: int, seed: int) -> tuple[int, Counter[str]]:
    """The least share of the brute-force net in bps·100 over `cases` worlds, and what was decided how often."""
    least, seen = 1_000_000, Counter[str]()
    for case in range(cases):
        world = random_world(Random(f"{seed}/{case}"))
        decision = Planner(SETTINGS).plan(world.position, world.quoter, world.sources, world.fees)
        best = strategy_brute.best(world, SETTINGS.base_gas)
        if decision.plan is None:
            assert decision.skip is not None
            assert best is None or best.net <= 0, f"case {case}: skipped {decision.skip}, but {best} earns"
            seen[decision.skip.reason.value] += 1
            continue
        seen[shape(decision.plan)] += 1
        assert best is not None, f"case {case}: a plan where nothing is possible"
        share = decision.plan.net * 1_000_000 // max(best.net, 1)
        assert decision.plan.net * 10_000 >= best.net * ENOUGH_BPS, f"case {case}: {decision.plan.net} of {best}"
        least = min(least, share)
    return least, seen


def test_the_plan_earns_999_per_mille_of_a_search_that_tries_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Over random worlds with holes, caps and fees the net is ≥ 99.9 % of brute force; a skip means nothing earns."""
    least, seen = check_against_everything(120, SEED)
    with capsys.disabled():
        print(f"\nplanner optimality: seed {SEED}, 120 worlds, least share {least / 10_000:.4f} %, {dict(seen)}")
    assert sum(seen.values()) == 120
    assert seen["flash swap, two legs"] >= 10
    assert seen[SkipReason.UNPROFITABLE.value] >= 10


@pytest.mark.long
def test_the_plan_earns_999_per_mille_over_many_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    """The same over 2,000 worlds."""
    least, seen = check_against_everything(2_000, SEED + 1)
    with capsys.disabled():
        print(f"\nplanner optimality: seed {SEED + 1}, 2000 worlds, least share {least / 10_000:.4f} %, {dict(seen)}")


def worlds(cases: int, seed: int) -> list[World]:
    return [random_world(Random(f"{seed}/gain/{case}")) for case in range(cases)]


def test_the_predicted_gain_is_what_an_executor_is_left_with() -> None:
    """For every shape of plan, running it step by step changes the profit token's balance by exactly `gain`."""
    print(f"seed {SEED}")
    seen = Counter[str]()
    for world in worlds(150, SEED):
        for settings in (SETTINGS, replace(SETTINGS, flash_swaps=False)):
            decision = Planner(settings).plan(world.position, world.quoter, world.sources, world.fees)
            if decision.plan is None:
                continue
            assert ToyExecutor(world.quoter.pools).run(decision.plan) == decision.plan.gain
            seen[shape(decision.plan)] += 1
    for kind in ("flash swap, two legs", "loan, two legs", "loan, one leg", "loan, same asset"):
        assert seen[kind] >= 3, seen
    assert seen["flash swap, two legs, nothing sold"] + seen["loan, same asset, nothing sold"] >= 3, seen


def test_a_plan_never_asks_for_an_amount_in_a_hole() -> None:
    """Whatever the intervals, the amount of a plan and of every candidate is one the contract accepts."""
    print(f"seed {SEED}")
    planned = 0
    for world in worlds(150, SEED + 2):
        decision = Planner(SETTINGS).plan(world.position, world.quoter, world.sources, world.fees)
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


def test_the_thorough_decision_is_the_same_choice() -> None:
    """Trying every candidate to its own best finds nothing that pruning loses beyond the tolerance."""
    print(f"seed {SEED}")
    for world in worlds(60, SEED + 3):
        quick = Planner(SETTINGS).plan(world.position, world.quoter, world.sources, world.fees)
        slow = Planner(SETTINGS).plan(world.position, world.quoter, world.sources, world.fees, thorough=True)
        assert (quick.plan is None) == (slow.plan is None)
        if quick.plan is not None and slow.plan is not None:
            assert quick.plan.net * 10_000 >= slow.plan.net * 9_995
        assert len(slow.candidates) >= len(quick.candidates)
