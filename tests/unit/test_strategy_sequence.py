"""Which plans of a pass run, behind which others, and in which transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keeper.errors import BadData
from keeper.model import Account, Address, FlashOffer, Hop, Path, Plan, Route, Seizure, Skip, SkipReason
from keeper.ports import Job, Liquidation, Pair, Position, Proof
from keeper.program import Guard, Transfer, balance
from keeper.strategy.gates import GateResult
from keeper.strategy.needs import Needs
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.planner import Decision
from keeper.strategy.sequence import Sequence as InOrder
from keeper.strategy.turns import Ordering, Turn, turns, unsendable
from keeper.strategy.wake import Wake
from tests.support.strategy_fakes import BTC, HEAD, NATIVE, USD, FakeSource
from tests.unit.test_strategy_gates import PLAN

pytestmark = pytest.mark.unit

GUARD = Guard(Address("g"), b"", 1, 1)
FREE = Ordering(risk_bps=0)


class NoPools:
    """A quoter behind which nothing has to be quoted."""

    def after(self, route: Route) -> NoPools:
        return self


def plan(net: int, pool: str, borrower: str, *, market: str = "m", out: int = 1, **fields: Any) -> Plan:
    hop = Hop("fake", Address(pool), BTC.address, USD.address, 1, out)
    route = Route(BTC.address, USD.address, (Path((hop,)),), 1, exact_out=True)
    made = replace(PLAN, market=market, borrower=Address(borrower), buy=route, sell=None, loan=None, others=())
    return replace(made, gain=net + made.cost, **fields)


def opportunity(made: Plan | None, skip: Skip | None = None, *, borrower: str = "", market: str = "m") -> Opportunity:
    who = made.borrower if made is not None else Address(borrower)
    where = made.market if made is not None else market
    position = Position(where, Account(who, 1, 1, 1), HEAD, 0, 1, None, ())
    gates = (GateResult("exposure", True, "", {"repaid": 7}, SkipReason.EXPOSURE),)
    pair = cast(Pair, SimpleNamespace()) if made is not None else None
    return Opportunity(position, Decision(made, skip, (), pair), gates, Liquidation((GUARD,), (), 1))


@dataclass
class Stage:
    """Says what becomes of a position behind others; alone is what is given."""

    behind: dict[str, Callable[[Wake], Opportunity | None]] = field(default_factory=dict)
    standing: bool = True
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def wake(self) -> Wake:
        return Wake(cast(Any, NoPools()), ())

    def stands(self, one: Opportunity, wake: Wake) -> bool:
        return self.standing

    def again(self, one: Opportunity, wake: Wake) -> Opportunity | None:
        who = one.position.account.borrower
        self.asked.append((who, tuple(done.borrower for done in wake.plans)))
        return self.behind.get(who, _gone)(wake)


def ordered(found: Sequence[Opportunity], stage: Stage | None = None, renewals: int = 64) -> InOrder:
    order = InOrder(found, stage or Stage(), renewals)
    for _ in order.steps():
        pass
    return order


def nets(order: InOrder) -> list[tuple[str, int, list[int]]]:
    return [(one.plan.borrower, one.plan.net, sorted(one.behind)) for one in order.taken]


def test_plans_that_share_nothing_stand_as_they_are_best_first() -> None:
    """Nothing is planned anew for them, whatever the order given."""
    stage = Stage()
    found = [opportunity(plan(net, f"p{net}", f"b{net}", market=f"m{net}")) for net in (1, 3, 2)]
    order = ordered(found, stage)
    assert nets(order) == [("b3", 3, []), ("b2", 2, []), ("b1", 1, [])]
    assert stage.asked == []
    assert order.skipped == ()


def test_one_that_shares_a_pool_is_planned_behind_the_better_one_and_counts_on_it() -> None:
    """Its new net decides."""
    stage = Stage({"b": lambda wake: opportunity(plan(5, "p", "b"))})
    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b"))], stage)
    assert stage.asked[0] == ("b", ("a",))
    assert nets(order) == [("a", 9, []), ("b", 5, [0])]


def test_after_planning_anew_the_order_may_change() -> None:
    """A third plan that now earns more goes first."""
    stage = Stage({"b": lambda wake: opportunity(plan(2, "p", "b", market="m2"))})
    found = [
        opportunity(plan(9, "p", "a")),
        opportunity(plan(8, "p", "b", market="m2")),
        opportunity(plan(4, "q", "c", market="m3")),
    ]
    assert [who for who, *_ in nets(ordered(found, stage))] == ["a", "c", "b"]


def test_the_order_that_earns_more_together_is_found() -> None:
    """The best alone leaves nothing to the two others, which together earn more."""

    def left(who: str) -> Callable[[Wake], Opportunity]:
        def again(wake: Wake) -> Opportunity:
            if "a" in [done.borrower for done in wake.plans]:
                return opportunity(None, Skip(SkipReason.UNPROFITABLE, "nothing left"), borrower=who)
            return opportunity(plan(7, "p", who))

        return again

    gone = opportunity(None, Skip(SkipReason.UNPROFITABLE, "nothing left"), borrower="a")
    stage = Stage({"a": lambda wake: gone, "b": left("b"), "c": left("c")})
    order = ordered(
        [opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b")), opportunity(plan(7, "p", "c"))], stage
    )
    assert sorted(who for who, *_ in nets(order)) == ["b", "c"]


def behind(net: int, who: str, fall: int) -> Callable[[Wake], Opportunity]:
    """Nets `fall` less for each that runs before."""
    return lambda wake: opportunity(plan(net - fall * len(wake.plans), "p", who))


def test_no_order_is_tried_that_could_bring_next_to_nothing() -> None:
    """What all of them net alone is the most there can be: within a hundredth of it the first order stands."""
    nets_alone = {"a": 1_000, "b": 999, "c": 800}
    found = [opportunity(plan(net, "p", who)) for who, net in nets_alone.items()]
    near = Stage({who: behind(net, who, 8) for who, net in nets_alone.items()})
    assert nets(ordered(found, near)) == [("a", 1_000, []), ("b", 991, [0]), ("c", 784, [0, 1])]
    assert near.asked == [("b", ("a",)), ("c", ("a", "b"))]
    far = Stage({who: behind(net, who, 40) for who, net in nets_alone.items()})
    ordered(found, far)
    assert ("a", ("b",)) in far.asked


def test_work_is_done_in_proportion_to_what_it_may_bring() -> None:
    """A twenty-second may still be won: beside the first order, ten times that share of the work is the most."""
    nets_alone = {f"b{number}": 1_000 - 60 * number for number in range(5)}
    found = [opportunity(plan(net, "p", who)) for who, net in nets_alone.items()]
    most, gap, first = sum(nets_alone.values()), 20 * sum(range(5)), 4
    for renewals in (20, 40):
        stage = Stage({who: behind(net, who, 20) for who, net in nets_alone.items()})
        ordered(found, stage, renewals)
        assert len(stage.asked) == first + renewals * gap * 10 // most


def test_nothing_bounds_an_order_where_trades_go_both_ways() -> None:
    """Whoever trades back through a pool helps the other: leaders are tried however little nets have fallen."""
    back = Route(
        USD.address, BTC.address, (Path((Hop("fake", Address("p"), USD.address, BTC.address, 1, 1),)),), 1, False
    )
    helpful = plan(999, "q", "b", sell=back)
    stage = Stage({"a": lambda wake: opportunity(plan(1_001, "p", "a")), "b": lambda wake: opportunity(helpful)})
    ordered([opportunity(plan(1_000, "p", "a")), opportunity(helpful)], stage)
    assert ("a", ("b",)) in stage.asked


def test_others_have_a_turn_after_every_plan_of_a_crowd() -> None:
    """Nobody in another's way: each is taken in a step of its own, and none is looked at again."""
    stage = Stage()
    found = [opportunity(plan(1_000 + number, f"p{number}", f"b{number}")) for number in range(100)]
    order = InOrder(found, stage, 64)
    assert sum(1 for _ in order.steps()) == 100
    assert len(order.taken) == 100
    assert stage.asked == []


def test_contested_is_what_somebody_else_moves() -> None:
    """By who trades in each pool: the same as asking everybody."""
    dice = Random(7)
    for _ in range(500):
        pools = [frozenset(Address(f"p{n}") for n in range(6) if dice.random() < 0.25) for _ in range(4)]
        lenders = [Address(f"p{dice.randrange(6)}") if dice.random() < 0.4 else None for _ in range(4)]
        everybody = [Needs(mine, lender, frozenset(), frozenset()) for mine, lender in zip(pools, lenders, strict=True)]
        traders = Counter(pool for needs in everybody for pool in needs.pools)
        for one in everybody:
            moved = any(one.moved(other) for other in everybody if other is not one)
            assert one.contested(traders) == moved


def test_one_that_is_not_worth_it_any_more_ends_with_the_reason_on_that_state() -> None:
    """Behind whom, and what it was worth alone."""
    worse = Skip(SkipReason.UNPROFITABLE, "the pools are empty", {"net": -3})
    stage = Stage({who: lambda wake, who=who: opportunity(None, worse, borrower=who) for who in ("a", "b")})  # type: ignore[misc]  # mypy knows no defaults of lambdas
    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b"))], stage)
    ((one, skip),) = order.skipped
    assert one.position.account.borrower == "b"
    assert skip.reason is SkipReason.UNPROFITABLE
    assert skip.detail == "behind the plan for a in m: the pools are empty"
    assert skip.numbers == {"net": -3, "net_alone": 8, "better_net": 9}


def test_one_of_which_nothing_is_left_is_superseded() -> None:
    """So is one in a market that cannot say."""
    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b"))], Stage({"a": _gone, "b": _gone}))
    ((_, skip),) = order.skipped
    assert skip.reason is SkipReason.SUPERSEDED
    assert skip.numbers == {"net": 8, "better_net": 9}
    assert "plan for a in m" in skip.detail


def _gone(wake: Wake) -> None:
    return None


def test_a_market_that_cannot_be_read_behind_others_supersedes_with_its_own_words() -> None:
    """The others are not held up."""

    def raises(wake: Wake) -> Opportunity:
        raise BadData("m is odd")

    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b"))], Stage({"a": raises, "b": raises}))
    ((_, skip),) = order.skipped
    assert skip.detail.endswith("m is odd")


def test_without_work_allowed_the_worse_of_two_in_one_pool_waits() -> None:
    """But what shares only a market, which lets it stand, does not."""
    found = [opportunity(plan(9, "p", "a")), opportunity(plan(8, "p", "b")), opportunity(plan(7, "q", "c"))]
    order = ordered(found, Stage(), renewals=0)
    assert nets(order) == [("a", 9, []), ("c", 7, [])]
    ((one, skip),) = order.skipped
    assert (one.position.account.borrower, skip.reason) == ("b", SkipReason.SUPERSEDED)


def test_what_no_longer_stands_in_its_market_is_planned_anew_and_counts_on_it() -> None:
    """Although no pool is shared."""
    stage = Stage({"b": lambda wake: opportunity(plan(6, "q", "b"))}, standing=False)
    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "q", "b"))], stage)
    assert nets(order) == [("a", 9, []), ("b", 6, [0])]


def test_a_lender_whose_pool_was_traded_in_is_asked_again() -> None:
    """Its depth is another."""
    loan = FlashOffer("lender", Address("p"), USD.address, 1, 0, 1)
    stage = Stage({"b": lambda wake: opportunity(plan(8, "q", "b", loan=loan))})
    order = ordered([opportunity(plan(9, "p", "a")), opportunity(plan(8, "q", "b", loan=loan))], stage)
    assert nets(order)[1] == ("b", 8, [0])


def test_further_borrowers_of_a_call_end_with_it() -> None:
    """Their own plans are not carried out, and what was said against them does not count."""
    found = [
        opportunity(plan(9, "p", "a", others=(Address("b"), Address("c")))),
        opportunity(plan(8, "q", "b")),
        opportunity(None, Skip(SkipReason.UNPROFITABLE, "small"), borrower="c"),
    ]
    order = ordered(found)
    assert [one.plan.borrower for one in order.taken] == ["a"]
    assert [one.position.account.borrower for one in order.taken[0].covers] == ["b", "c"]
    assert order.skipped == ()
    (turn,) = turns(order.taken, FREE)
    proof = Proof(turn.job)
    ends = [(d.borrower, d.attempt_id, told is proof) for _, told, d in turn.decisions(proof, None, "x")]
    assert ends == [("a", "x", True), ("b", "x", False), ("c", "x", False)]
    failed = Skip(SkipReason.SIMULATION_REVERTED, "no")
    reasons = [decision.skip.reason for _, _, decision in turn.decisions(proof, failed, None) if decision.skip]
    assert reasons == [SkipReason.SIMULATION_REVERTED, SkipReason.SUPERSEDED, SkipReason.UNPROFITABLE]


def test_a_lender_has_no_more_than_is_left() -> None:
    """What was bought from a pool or seized from a market cannot be lent."""
    pool = Address("p")
    sources = (FakeSource("s", pool, {USD.address: 100}, 0, 1),)
    wake = Wake(cast(Any, NoPools()), sources)
    assert wake.lenders() == sources
    seized = Seizure(1, 30, 0)
    (source,) = wake.after(plan(1, "p", "a", out=40, seizure=seized, collateral=USD)).lenders()
    assert [offer.amount for offer in source.offers(USD.address, 30)] == [30]
    assert source.offers(USD.address, 31) == ()


# ------------------------------------------------------------------------------------------- transactions


def shape(found: Sequence[Turn]) -> list[tuple[list[str], list[int]]]:
    return [([made.borrower for made in turn.plans], list(turn.behind)) for turn in found]


def test_plans_share_a_transaction_only_where_that_saves_more_than_it_risks() -> None:
    """Saved: gas of one more transaction. At risk: the share of what the others earn, and of its own."""
    price = PLAN.fees.price
    saved = Ordering().joined_gas * price
    small = [opportunity(plan(saved, f"p{n}", f"b{n}")) for n in range(3)]
    assert shape(turns(ordered(small).taken, Ordering(risk_bps=2_499))) == [(["b0", "b1", "b2"], [])]
    assert shape(turns(ordered(small).taken, Ordering(risk_bps=2_500))) == [(["b0", "b1"], []), (["b2"], [])]
    assert shape(turns(ordered(small).taken, Ordering(risk_bps=5_000))) == [(["b0"], []), (["b1"], []), (["b2"], [])]
    big = opportunity(plan(100 * saved, "p", "big"))
    assert shape(turns(ordered([big, *small]).taken, Ordering(risk_bps=200))) == [
        (["big"], []),
        (["b0", "b1", "b2"], []),
    ]


@pytest.mark.parametrize(
    ("second", "ordering"),
    [
        (plan(1, "q", "b", market="other"), FREE),
        (plan(1, "q", "b"), replace(FREE, items=1)),
        (plan(1, "q", "b"), replace(FREE, max_gas=2 * PLAN.gas - 1)),
        (plan(1, "q", "b"), replace(FREE, max_repaid=13)),
        (plan(1, "q", "b", profit_token=BTC.address), FREE),
    ],
)
def test_what_cannot_share_a_transaction_does_not(second: Plan, ordering: Ordering) -> None:
    """Another market, another profit token, or more than one transaction may do."""
    found = turns(ordered([opportunity(plan(2, "p", "a")), opportunity(second)]).taken, ordering)
    assert len(found) == 2
    same = turns(ordered([opportunity(plan(2, "p", "a")), opportunity(plan(1, "q", "b"))]).taken, FREE)
    assert len(same) == 1
    assert same[0].repaid == {PLAN.debt: 14}


def test_what_sells_all_there_is_does_not_follow_one_that_leaves_some() -> None:
    """Unspent debt of the first would be sold by the second, if the first has run."""
    leaves = plan(9, "p", "a", budget=PLAN.seizure.repaid + 1)
    through = Path(
        (
            Hop("fake", Address("q1"), BTC.address, PLAN.debt.address, 1, 1),
            Hop("fake", Address("q2"), PLAN.debt.address, NATIVE.address, 1, 1),
        )
    )
    sells = plan(8, "q", "b", sell=Route(BTC.address, NATIVE.address, (through,), 1, exact_out=False))
    assert len(turns(ordered([opportunity(leaves), opportunity(sells)]).taken, FREE)) == 2
    exact = plan(9, "p", "a", budget=PLAN.seizure.repaid)
    assert len(turns(ordered([opportunity(exact), opportunity(sells)]).taken, FREE)) == 1
    steps = (Transfer(PLAN.debt.address, Address("x"), balance(PLAN.debt.address)),)
    spends = replace(opportunity(plan(8, "q", "b")), liquidation=Liquidation((GUARD,), steps, 1))
    assert len(turns(ordered([opportunity(leaves), spends]).taken, FREE)) == 2


def test_without_a_guard_nothing_shares_a_transaction() -> None:
    """It could not be left out."""
    bare = replace(opportunity(plan(8, "q", "b")), liquidation=Liquidation((), (), 1))
    assert len(turns(ordered([opportunity(plan(9, "p", "a")), bare]).taken, FREE)) == 2


def test_nothing_runs_before_what_it_counts_on() -> None:
    """The third counts on the second, in another market, so it cannot join the first."""
    stage = Stage({"c": lambda wake: opportunity(plan(3, "q", "c"))})
    found = [
        opportunity(plan(9, "p", "a")),
        opportunity(plan(8, "q", "b", market="other")),
        opportunity(plan(7, "q", "c")),
    ]
    assert shape(turns(ordered(found, stage).taken, FREE)) == [(["a"], []), (["b"], []), (["c"], [0, 1])]


def test_what_counts_on_something_unsent_is_not_sent() -> None:
    """Nor where the order is not kept; what is stopped says so."""
    job = Job(())
    assert unsendable(Proof(job), [], True, False) is None
    assert unsendable(Proof(job, behind=(0,)), [True, False], True, False) is None
    for proof, sent, keeps in (
        (Proof(job, behind=(1,)), [True, False], True),
        (Proof(job, behind=(0,)), [True], False),
    ):
        skip = unsendable(proof, sent, keeps, False)
        assert skip is not None
        assert skip.reason is SkipReason.SUPERSEDED
    stopped = unsendable(Proof(job), [], True, True)
    assert stopped is not None
    assert stopped.reason is SkipReason.PAUSED
