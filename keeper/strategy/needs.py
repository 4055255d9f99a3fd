"""What a plan's trades and loan depend on, and whose plans get in its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.model import Address, Plan, market_of
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.wake import routes

Key = tuple[str, Address]  # market, borrower


@dataclass(frozen=True, slots=True)
class Needs:
    """What a plan changes, and whom it asks for a loan."""

    pools: frozenset[Address]
    lender: Address | None
    assets: frozenset[tuple[str, Address]]  # book and token
    positions: frozenset[Key]
    anything: bool = False  # every trade counts

    @classmethod
    def of(cls, plan: Plan) -> Needs:
        """Two routes, one loan, two assets of one book, and every position that the call takes."""
        book = market_of(plan.market)
        return cls(
            frozenset[Address]().union(*(route.pools for route in routes(plan))),
            plan.loan.lender if plan.loan is not None else None,
            frozenset({(book, plan.debt.address), (book, plan.collateral.address)}),
            frozenset((plan.market, borrower) for borrower in (plan.borrower, *plan.others)),
        )

    @classmethod
    def at_first(cls, one: Opportunity) -> Needs:
        """Of its plan; for a position without one, whatever anybody trades."""
        if one.choice.plan is not None:
            return cls.of(one.choice.plan)
        return cls(frozenset(), None, frozenset(), frozenset({one.key}), anything=True)

    def moved(self, by: Needs) -> bool:
        """Whether another plan's trades change what is traded or borrowed here."""
        return self.anything or not self.pools.isdisjoint(by.pools) or self.lender in by.pools

    def contested(self, traders: Mapping[Address, int]) -> bool:
        """Whether somebody else moves it, where `traders` tells how many trade in each pool, this one among them."""
        alone = [(pool, 1) for pool in self.pools] + [(self.lender, int(self.lender in self.pools))]
        return any(pool is not None and traders.get(pool, 0) > mine for pool, mine in alone)

    def shares(self, other: Needs) -> bool:
        """Whether another plan may change what the market lets this one do."""
        return not (self.assets.isdisjoint(other.assets) and self.positions.isdisjoint(other.positions))
