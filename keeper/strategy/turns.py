"""From plans in their order to transactions, each with every position that ends the pass with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from keeper.model import Address, Decision, Plan, Skip, SkipReason, Token, market_of
from keeper.ports import Job, Proof
from keeper.program import Approve, Call, Source, Transfer
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.sequence import Sequence as Sequenced
from keeper.strategy.sequence import Taken

BPS = 10_000


@dataclass(frozen=True, slots=True)
class Ordering:
    """How much work a pass may put into the order of its plans, and when plans share a transaction."""

    renewals: int = 64  # plans made anew behind others
    seconds: float = 0.5  # for making them
    items: int = 4  # plans in one transaction at most; 1: each has its own
    joined_gas: int = 60_000  # what a plan saves that shares a transaction, at least
    risk_bps: int = 200  # how often an item fails for a reason that its guard does not see, and all the others with it
    max_gas: int = 8_000_000  # of a transaction with several plans
    max_repaid: int = 1_000 * 10**18  # wei of debt in one transaction


@dataclass(frozen=True, slots=True)
class Turn:
    """One transaction of a pass: `items` are what it does, in order, `covered` what the same calls take as well.

    `behind`: places of the turns whose effects its plans count on; all of them come before it.
    """

    items: tuple[Opportunity, ...]
    covered: tuple[Opportunity, ...] = ()
    behind: tuple[int, ...] = ()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Of the items."""
        return tuple(item.choice.plan for item in self.items if item.choice.plan is not None)

    @property
    def positions(self) -> tuple[Opportunity, ...]:
        """Everything it takes."""
        return (*self.items, *self.covered)

    @property
    def job(self) -> Job:
        """What is to be proved."""
        steps = [(item.choice.plan, item.liquidation) for item in self.items]
        return Job(tuple((plan, way) for plan, way in steps if plan is not None and way is not None), self.behind)

    @property
    def repaid(self) -> dict[Token, int]:
        """The debt repaid of each asset, valued in wei of the native token, rounded up."""
        values: dict[Token, int] = {}
        for item, plan in zip(self.items, self.plans, strict=True):
            values[plan.debt] = values.get(plan.debt, 0) + item.repaid_value
        return values

    def decisions(
        self, proof: Proof, skip: Skip | None, attempt_id: str | None
    ) -> Iterator[tuple[Opportunity, Proof | None, Decision]]:
        """How each of its positions ends: all with the attempt; without one, those covered for their own reasons.

        The proof is of the transaction and comes with the first of them only.
        """
        gone = Skip(SkipReason.SUPERSEDED, "the plan that would take it as well is not sent")
        for number, one in enumerate(self.positions):
            why = skip if skip is None or number < len(self.items) else one.skip or gone
            yield one, None if number else proof, Decision(*one.key, why, attempt_id)


def unsendable(proof: Proof, sent: Sequence[bool], keeps_order: bool, stopping: bool) -> Skip | None:
    """Why something proved is not to be sent now: nothing is, or not behind other transactions; None when it may be."""
    if proof.skip is not None:
        return proof.skip
    if stopping:
        return Skip(SkipReason.PAUSED, "the keeper is shutting down and takes no new work")
    if all(sent[place] for place in proof.behind) and (keeps_order or not proof.behind):
        return None
    why = "was not sent" if keeps_order else "goes to relays, which need not keep the order"
    return Skip(SkipReason.SUPERSEDED, f"it was simulated behind another transaction of this pass, which {why}")


def paced(sequence: Sequenced, seconds: float, clock: Callable[[], float]) -> Iterator[None]:
    """Order the plans step by step; after `seconds` by `clock` nothing more is planned anew."""
    end = clock() + seconds
    for _ in sequence.steps():
        if clock() >= end:
            sequence.hurry()
        yield


def turns(taken: Sequence[Taken], ordering: Ordering) -> tuple[Turn, ...]:
    """Transactions for these plans in their order: one each, but for those that are better off in an earlier one."""
    drafts: list[_Draft] = []
    homes: list[int] = []  # by place in `taken`: the transaction
    for one in taken:
        behind = {homes[place] for place in one.behind}
        first = max(behind, default=0)  # it may not come before what it counts on
        saved = ordering.joined_gas * one.plan.fees.price
        risks = ((drafts[place].risk(one, ordering), place) for place in range(first, len(drafts)))
        worth = sorted(risk for risk in risks if risk[0] < saved)
        home = next((place for _, place in worth if drafts[place].takes(one, ordering)), len(drafts))
        if home == len(drafts):
            drafts.append(_Draft())
        drafts[home].items.append(one)
        drafts[home].net += one.plan.net
        drafts[home].behind |= behind - {home}
        homes.append(home)
    return tuple(draft.turn() for draft in drafts)


@dataclass(slots=True)
class _Draft:
    items: list[Taken] = field(default_factory=list)
    net: int = 0  # of all its plans
    behind: set[int] = field(default_factory=set)

    def takes(self, one: Taken, ordering: Ordering) -> bool:
        """Whether one more plan can run in the same transaction, each item left out when it is gone."""
        all_ = [*self.items, one]
        return (
            len(all_) <= ordering.items
            and len({market_of(item.plan.market) for item in all_}) == 1
            and len({item.plan.profit_token for item in all_}) == 1
            and all(item.opportunity.liquidation and item.opportunity.liquidation.guards for item in all_)
            and sum(item.plan.gas for item in all_) <= ordering.max_gas
            and sum(item.opportunity.repaid_value for item in all_) <= ordering.max_repaid
            and not {token for item in self.items for token in left_over(item.plan)} & sold(one)
        )

    def risk(self, one: Taken, ordering: Ordering) -> int:
        """Wei expected to be lost: any item may take down all the others."""
        return (self.net + len(self.items) * one.plan.net) * ordering.risk_bps // BPS

    def turn(self) -> Turn:
        covers = tuple(other for item in self.items for other in item.covers)
        return Turn(tuple(item.opportunity for item in self.items), covers, tuple(sorted(self.behind)))


def left_over(plan: Plan) -> frozenset[Address]:
    """Tokens of which something may lie in the executor when the plan has run, beside what it gains."""
    spent = plan.debt == plan.collateral or plan.budget == plan.seizure.repaid
    return frozenset() if spent or plan.debt.address == plan.profit_token else frozenset({plan.debt.address})


def sold(one: Taken) -> frozenset[Address]:
    """Tokens of which a plan may sell or spend all that the executor holds."""
    hops = [hop for path in one.plan.sell.paths for hop in path.hops] if one.plan.sell is not None else []
    steps = one.opportunity.liquidation.steps if one.opportunity.liquidation is not None else ()
    found = {hop.token_in for hop in hops}
    for step in steps:
        amounts = [patch.amount for patch in step.patches] if isinstance(step, Call) else []
        amounts += [step.amount] if isinstance(step, Approve | Transfer) else []
        found |= {amount.token for amount in amounts if amount.source is Source.BALANCE and amount.token is not None}
    return frozenset(found)
