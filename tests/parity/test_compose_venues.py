"""Composed programs over Uniswap V4, Balancer and the wrappers, mined with the predicted gain as floor."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from keeper.model import Plan
from tests.support.fork import Fork
from tests.support.venue_arena import say
from tests.support.venue_floor import VenueFloor, make_venue_floor

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261127"))
MIXES: tuple[tuple[str, ...], ...] = (
    ("uniswap_v4",),
    ("uniswap_v4", "uniswap_v3"),
    ("balancer_v2",),
    ("balancer_v2", "uniswap_v2"),
    ("balancer_v2", "uniswap_v3"),
    ("balancer_v2", "uniswap_v4"),
    (),
)


@pytest.fixture
async def floor(fork: Fork) -> VenueFloor:
    return await make_venue_floor(fork)


def run(floor: VenueFloor, seed: int, cases: int) -> None:
    say(f"KEEPER_SEED={seed}, {cases} plans")
    done: Counter[str] = Counter()
    number = mined = 0
    while mined < cases:
        rng = random.Random(f"{seed}/{number}")
        number += 1
        assert number < 4 * cases + 40, f"too few draws fit the pools: {done}"
        shape = 1 + number % 4
        plan = floor.draw(rng, shape, floor.router(*rng.choice(MIXES)))
        if plan is None:
            continue
        snapshot = floor.bench.rpc.request("evm_snapshot")
        say(f"case {number - 1}: {told(plan)}")
        floor.run(plan)
        assert floor.bench.rpc.request("evm_revert", snapshot)
        mined += 1
        done.update({f"shape {shape}", *seen(plan)})
    say(str(dict(sorted(done.items()))))
    for shape in (1, 2, 3, 4):
        assert done[f"shape {shape}"] >= cases // 10
    for name in ("balancer_v2", "uniswap_v4"):
        assert done[f"hop {name}"] >= cases // 4
        assert done[f"loan {name}"] >= cases // 20
    assert done["split"] >= cases // 4
    assert sum(count for what, count in done.items() if what.startswith("chain") and "+" in what) >= cases // 10


def told(plan: Plan) -> str:
    routes = [r for r in (plan.buy, plan.sell) if r]
    paths = [" > ".join(hop.venue for hop in path.hops) for r in routes for path in r.paths]
    return f"{plan.collateral.symbol}→{plan.debt.symbol} loan {plan.loan.source if plan.loan else None}: {paths}"


def seen(plan: Plan) -> set[str]:
    routes = [r for r in (plan.buy, plan.sell) if r]
    found = {f"hop {hop.venue}" for r in routes for path in r.paths for hop in path.hops}
    found |= {
        f"chain {'+'.join(sorted({h.venue for h in p.hops}))}" for r in routes for p in r.paths if len(p.hops) > 1
    }
    found |= {"split" for r in routes if len(r.paths) > 1}
    return found | {f"loan {plan.loan.source if plan.loan else None}"}


def test_random_plans_gain_what_was_predicted(floor: VenueFloor) -> None:
    """Over all shapes, splits and chains, gain and leftovers equal the prediction, and nothing is left behind."""
    run(floor, SEED, 48)


@pytest.mark.long
def test_random_plans_gain_what_was_predicted_at_length(floor: VenueFloor) -> None:
    """The same over many more plans."""
    run(floor, SEED + 1, 600)
