"""Which of a pass's plans can run side by side: each was made as if it were alone with the pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.model import Address, Plan, Skip, SkipReason
from keeper.strategy.value import native


@dataclass(frozen=True, slots=True)
class Ranked:
    """A plan in order of net; `skip` is set when a better one takes what it needs."""

    plan: Plan
    skip: Skip | None = None


def rank(plans: Sequence[Plan]) -> tuple[Ranked, ...]:
    """The plans by net, best first; those that share a traded pool or a position with a better one are superseded.

    A lender is not taken: its loan is repaid before the next transaction. A superseded plan takes nothing away from the
    plans after it. Equal nets go by market and borrower.
    """
    taken: dict[tuple[str, Address], Plan] = {}
    ranked = []
    for plan in sorted(plans, key=lambda plan: (-plan.net, plan.market, plan.borrower)):
        needs = _needs(plan)
        better = next((taken[need] for need in sorted(needs) if need in taken), None)
        if better is None:
            taken.update(dict.fromkeys(needs, plan))
            ranked.append(Ranked(plan))
            continue
        shared = next(need for need in sorted(needs) if need in taken)
        detail = (
            f"nets {native(plan.net)} native, but the plan for {better.borrower} in {better.market} nets"
            f" {native(better.net)} and also needs {' '.join(shared)}"
        )
        ranked.append(Ranked(plan, Skip(SkipReason.SUPERSEDED, detail, {"net": plan.net, "better_net": better.net})))
    return tuple(ranked)


def _needs(plan: Plan) -> frozenset[tuple[str, Address]]:
    """What the plan changes: the pools it trades in, and the position."""
    needs = {(plan.market, borrower) for borrower in (plan.borrower, *plan.others)}
    for route in (plan.buy, plan.sell):
        needs |= {("pool", pool) for pool in route.pools} if route else set()
    return frozenset(needs)
