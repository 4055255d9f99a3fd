"""Which of a pass's plans may run side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeper.model import Address, FlashOffer, Hop, Path, Plan, Route, SkipReason
from keeper.strategy.rank import rank
from tests.support.strategy_fakes import BTC, USD
from tests.unit.test_strategy_gates import PLAN

pytestmark = pytest.mark.unit


def made(net: int, pool: str, borrower: str, *, lender: str | None = None, locks: str | None = None) -> Plan:
    hop = Hop("fake", Address(pool), BTC.address, USD.address, 1, 1)
    route = Route(BTC.address, USD.address, (Path((hop,)),), 1, exact_out=True)
    loan = None
    if lender is not None:
        locked = frozenset({Address(locks)}) if locks else frozenset[Address]()
        loan = FlashOffer("lender", Address(lender), USD.address, 1, 0, 1, locked)
    return replace(PLAN, borrower=Address(borrower), buy=route, loan=loan, gain=net + PLAN.cost)


def nets(plans: list[Plan]) -> list[tuple[int, bool]]:
    return [(ranked.plan.net, ranked.skip is None) for ranked in rank(plans)]


def test_plans_that_share_nothing_all_stand_best_first() -> None:
    """Order is by net, whatever the order given."""
    plans = [made(1, "p1", "b1"), made(3, "p3", "b3"), made(2, "p2", "b2")]
    assert nets(plans) == [(3, True), (2, True), (1, True)]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (made(2, "p", "b1"), made(1, "p", "b2")),
        (made(2, "p1", "b"), made(1, "p2", "b")),
    ],
)
def test_sharing_a_pool_or_a_position_supersedes_the_worse(better: Plan, worse: Plan) -> None:
    """The worse plan is skipped, saying which plan takes what it needs."""
    first, second = rank([worse, better])
    assert first.plan is better
    assert first.skip is None
    assert second.skip is not None
    assert second.skip.reason is SkipReason.SUPERSEDED
    assert second.skip.numbers == {"net": 1, "better_net": 2}
    assert better.borrower in second.skip.detail


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (made(2, "p1", "b1", lender="l"), made(1, "p2", "b2", lender="l")),
        (made(2, "p1", "b1", lender="l1", locks="x"), made(1, "x", "b2")),
        (made(2, "p1", "b"), replace(made(1, "p2", "b"), market="another")),
    ],
)
def test_sharing_a_lender_or_a_name_is_no_conflict(better: Plan, worse: Plan) -> None:
    """A loan is over when its transaction is, and one account's positions in two markets are two."""
    assert [ranked.skip for ranked in rank([worse, better])] == [None, None]


def test_a_superseded_plan_takes_nothing_away() -> None:
    """The third plan shares a pool with the second only, which does not run."""
    second = replace(made(2, "p1", "b2"), sell=made(0, "p2", "").buy)
    plans = [made(3, "p1", "b1"), second, made(1, "p2", "b3")]
    assert nets(plans) == [(3, True), (2, False), (1, True)]


def test_equal_nets_have_one_order() -> None:
    """Ties go by market and borrower, so that a pass is reproducible."""
    a, b = made(1, "p", "b1"), made(1, "p", "b2")
    assert [r.plan for r in rank([a, b])] == [r.plan for r in rank([b, a])] == [a, b]
