"""Composed programs over Uniswap V4, Balancer and the wrappers, mined with the predicted gain as floor."""

from __future__ import annotations

import os
import random

import pytest

from keeper.model import Plan
from tests.support.fork import Fork
from tests.support.venue_arena import say
from tests.support.venue_floor import VenueFloor, make_venue_floor

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261127"))
MIXES = (("uniswap_v4",), ("uniswap_v4", "uniswap_v3"), ("uniswap_v4", "uniswap_v2"), ())


@pytest.fixture
async def floor(fork: Fork) -> VenueFloor:
    return await make_venue_floor(fork)


def run(floor: VenueFloor, seed: int, cases: int) -> None:
    say(f"KEEPER_SEED={seed}, {cases} plans")
    done: dict[str, int] = {}
    number = mined = 0
    while mined < cases:
        rng = random.Random(f"{seed}/{number}")
        number += 1
        assert number < 4 * cases + 40, f"too few draws fit the pools: {done}"
        plan = floor.draw(rng, 1 + number % 4, floor.router(*rng.choice(MIXES)))
        if plan is None:
            continue
        snapshot = floor.bench.rpc.request("evm_snapshot")
        say(f"case {number - 1}: {told(plan)}")
        floor.run(plan)
        assert floor.bench.rpc.request("evm_revert", snapshot)
        mined += 1
        for what in seen(plan, 1 + (number - 1 + 1 - 1) % 4):
            done[what] = done.get(what, 0) + 1
    say(str(dict(sorted(done.items()))))


def told(plan: Plan) -> str:
    routes = [r for r in (plan.buy, plan.sell) if r]
    paths = [" > ".join(hop.venue for hop in path.hops) for r in routes for path in r.paths]
    return f"{plan.collateral.symbol}→{plan.debt.symbol} loan {plan.loan.source if plan.loan else None}: {paths}"


def seen(plan: Plan, shape: int) -> set[str]:
    routes = [r for r in (plan.buy, plan.sell) if r]
    found = {f"hop {hop.venue}" for r in routes for path in r.paths for hop in path.hops}
    found |= {
        f"chain {'+'.join(sorted({h.venue for h in p.hops}))}" for r in routes for p in r.paths if len(p.hops) > 1
    }
    found |= {"split" for r in routes if len(r.paths) > 1}
    return found | {f"loan {plan.loan.source if plan.loan else None}"}


def test_random_plans_gain_what_was_predicted(floor: VenueFloor) -> None:
    """Over all shapes, splits and chains, gain and leftovers equal the prediction, and nothing is left behind."""
    run(floor, SEED, 60)
