"""From plans in their order to transactions, each with every position that ends the pass with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keeper.model import Decision, Plan, Skip, SkipReason, Token
from keeper.ports import Job, Proof
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.sequence import Taken


@dataclass(frozen=True, slots=True)
class Ordering:
    """How much work a pass may put into the order of its plans, and when plans share a transaction."""

    renewals: int = 64  # plans made anew behind others


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


def turns(taken: Sequence[Taken]) -> tuple[Turn, ...]:
    """A transaction for each plan."""
    return tuple(Turn((one.opportunity,), one.covers, tuple(sorted(one.behind))) for one in taken)
