"""The order of a pass's plans against every order there is, and against the state they are really run on."""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.support.strategy_books import every_order, random_scene, run, total
from tests.support.strategy_executor import ToyExecutor

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "5000"))


def shares_of_the_best(seed: int, worlds: int, positions: int) -> list[float]:
    """What the sequence earns as a share of the best order, worst first, with the work it took."""
    found = []
    planned = bounded = 0
    for number in range(worlds):
        scene = random_scene(Random(seed + number), positions)
        order = run(scene)
        planned += scene.planned - positions
        best = max(every_order(scene).values())
        if order.ceiling is not None:
            bounded += 1
            assert best <= order.ceiling + order.ceiling // 100
        if best > 0:
            found.append(total(order.taken) / best)
    found.sort()
    mean, enough = sum(found) / len(found), sum(share >= 0.99 for share in found)
    assert bounded
    print(
        f"seed {seed}: {len(found)} worlds of {positions}, {bounded} bounded, mean {mean:.4f}, least {found[0]:.3f}, ",
        end="",
    )
    print(f"{enough} at 99 % or more, {planned / worlds:.1f} plans made anew")
    return found


def test_total_profit_is_that_of_the_best_order_in_nearly_all_worlds() -> None:
    """Four positions that get in one another's way in a few small pools, against all 24 orders."""
    found = shares_of_the_best(SEED, 16, 4)
    assert sum(share >= 0.99 for share in found) >= len(found) * 8 // 10
    assert sum(found) / len(found) >= 0.97


@pytest.mark.long
def test_total_profit_is_that_of_the_best_order_at_length() -> None:
    """The same for more worlds, and for five positions."""
    for worlds, positions in ((200, 4), (30, 5)):
        found = shares_of_the_best(SEED, worlds, positions)
        assert sum(share >= 0.99 for share in found) >= len(found) * 9 // 10
        assert sum(found) / len(found) >= 0.985


@pytest.mark.parametrize("number", range(30))
def test_one_after_the_other_each_earns_what_it_says(number: int) -> None:
    """Pools that work everything out from their own reserves give every plan in the order exactly its gain."""
    scene = random_scene(Random(SEED + 10_000 + number), 6, fall=number % 2 == 0)
    order = run(scene)
    pools = dict(scene.quoter.pools)
    for place, one in enumerate(order.taken):
        toy = ToyExecutor(pools)
        assert toy.run(one.plan) == one.plan.gain
        pools = toy.pools
        assert all(other < place for other in one.behind)
    ended = {found.position.account.borrower for found, _ in order.skipped}
    taken = {one.plan.borrower for one in order.taken}
    assert ended | taken == {position.account.borrower for position in scene.positions}
    assert not ended & taken


@pytest.mark.parametrize("number", range(10))
def test_what_is_not_counted_on_may_be_missing(number: int) -> None:
    """A plan earns the same with only those before it that it is said to be behind."""
    scene = random_scene(Random(SEED + 20_000 + number), 6)
    order = run(scene)
    for one in order.taken:
        needed: set[int] = set()
        waiting = list(one.behind)
        while waiting:
            needed.add(place := waiting.pop())
            waiting += order.taken[place].behind
        pools = dict(scene.quoter.pools)
        for place in sorted(needed):
            toy = ToyExecutor(pools)
            toy.run(order.taken[place].plan)
            pools = toy.pools
        assert ToyExecutor(pools).run(one.plan) == one.plan.gain
