"""Plans of ours that are out and not mined yet: what they trade in is spoken for until they have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keeper.model import Address, Plan, Verdict, market_of
from keeper.strategy.value import native
from keeper.strategy.wake import routes

_REMEMBERED = 1_000  # attempts


class Underway:
    """A plan for the head's state is wrong where a transaction of ours that is not mined moves it first.

    An attempt counts while its position is in flight; how long that can be is bounded by the executor's deadline.
    """

    def __init__(self) -> None:
        self._plans: dict[str, tuple[Plan, ...]] = {}

    def sent(self, attempt_id: str, plans: Sequence[Plan]) -> None:
        """An attempt has gone out that carries out `plans`."""
        self._plans[attempt_id] = tuple(plans)
        while len(self._plans) > _REMEMBERED:
            del self._plans[next(iter(self._plans))]

    def ended(self, verdict: Verdict) -> None:
        """The chain has said something about an attempt; one that is undecided again after a reorganisation stays."""
        if verdict.closed:
            self._plans.pop(verdict.attempt_id, None)

    def clash(self, plan: Plan, out: Callable[[str, Address], bool]) -> str:
        """Why `plan` has to wait; empty when nothing that is out gets in its way.

        `out` tells of a market's label and a borrower whether an attempt on that position has not ended.
        """
        pools = _pools(plan)
        for plans in self._plans.values():
            for other in plans:
                mine = (other.market, other.borrower) == (plan.market, plan.borrower)
                if not mine and _touches(plan, pools, other) and out(other.market, other.borrower):
                    return (
                        f"the attempt on {other.borrower} in {other.market}, which nets {native(other.net)} native, "
                        "is not mined yet and trades in the same place"
                    )
        return ""


def _pools(plan: Plan) -> frozenset[Address]:
    lender = frozenset({plan.loan.lender}) if plan.loan is not None else frozenset()
    return lender.union(*(route.pools for route in routes(plan)))


def _touches(plan: Plan, pools: frozenset[Address], other: Plan) -> bool:
    """Whether `other` moves a pool that `plan` needs, or takes the same collateral out of the same market."""
    if any(route.pools & pools for route in routes(other)):
        return True
    same_market = market_of(other.market) == market_of(plan.market)
    return same_market and other.collateral.address == plan.collateral.address
