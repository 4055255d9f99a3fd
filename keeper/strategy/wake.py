"""What plans that run first in a block leave behind for the next one: pools, positions, and what can still be lent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.model import Address, FlashOffer, Plan, Route, market_of
from keeper.ports import FlashSource, Quoter
from keeper.program import Step


@dataclass(frozen=True, slots=True)
class Wake:
    """The state behind `plans`, which run in that order on the head's state."""

    quoter: Quoter
    sources: Sequence[FlashSource]
    plans: tuple[Plan, ...] = ()

    def after(self, plan: Plan) -> Wake:
        """This state once `plan` has run; raises ValueError when its routes cannot be traded here."""
        quoter = self.quoter
        for route in routes(plan):
            quoter = quoter.after(route)
        return Wake(quoter, self.sources, (*self.plans, plan))

    def of(self, book: str) -> tuple[Plan, ...]:
        """The plans for one book."""
        return tuple(plan for plan in self.plans if market_of(plan.market) == book)

    def lenders(self) -> Sequence[FlashSource]:
        """The flash sources, none of which lends what these plans have taken out."""
        if not self.plans:
            return self.sources
        taken: Counter[tuple[Address, Address]] = Counter()
        seized: Counter[Address] = Counter()
        for plan in self.plans:
            seized[plan.collateral.address] += plan.seizure.seized
            for route in routes(plan):
                for path in route.paths:
                    for hop in path.hops:
                        taken[hop.pool, hop.token_out] += hop.amount_out
        return [_Drained(source, taken, seized) for source in self.sources]


@dataclass(frozen=True, slots=True)
class _Drained:
    """A flash source that must have more than it lends by what left it: out of a pool, or seized out of a market.

    A market's own lender cannot be told from another by a plan, so what was seized of a token counts against them all.
    """

    inner: FlashSource
    taken: Mapping[tuple[Address, Address], int]  # pool and token -> base units
    seized: Mapping[Address, int]

    @property
    def name(self) -> str:
        return self.inner.name

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        return tuple(offer for offer in self.inner.offers(token, amount) if self._has(offer))

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        return self.inner.borrow(offer, inner)

    def _has(self, offer: FlashOffer) -> bool:
        missing = self.taken.get((offer.lender, offer.token), 0) + self.seized.get(offer.token, 0)
        more = self.inner.offers(offer.token, offer.amount + missing) if missing else (offer,)
        return any(other.lender == offer.lender for other in more)


def routes(plan: Plan) -> tuple[Route, ...]:
    """What a plan trades, in the order in which it does."""
    return tuple(route for route in (plan.buy, plan.sell) if route is not None)
