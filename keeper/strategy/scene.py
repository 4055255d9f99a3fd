"""What every position of one pass is considered with, alone on the head's state or behind plans that run first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from keeper.model import OWN_CALLBACK, Address, FeeQuote, Handle, Head, market_of
from keeper.ports import Book, Pair, Position, Quoter
from keeper.strategy.memo import Memo
from keeper.strategy.opportunity import Appraiser, Opportunity
from keeper.strategy.wake import Wake


@dataclass(frozen=True, slots=True)
class Scene:
    """`timestamp` is the next block's, `now` the clock's, both Unix seconds; `quoter` is on the head's state.

    `in_flight` tells of a market's label and a borrower whether an attempt on that position has not ended.
    """

    appraiser: Appraiser
    books: Mapping[str, Book]
    quoter: Quoter
    fees: FeeQuote
    head: Head
    timestamp: int
    now: int
    in_flight: Callable[[str, Address], bool]
    paused: bool = False
    breaker: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "quoter", Memo.of(self.quoter))  # every plan of the pass asks it

    @property
    def wake(self) -> Wake:
        """The head's state: no plan has run."""
        return Wake(self.quoter, self.appraiser.sources)

    def look(self, book: Book, handle: Handle) -> Opportunity | None:
        """A position alone; None when it is not liquidatable. Raises BadData when the book is unknown."""
        position = book.position(handle, self.timestamp)
        return None if position is None else self._consider(book, position, self.wake)

    def again(self, one: Opportunity, wake: Wake) -> Opportunity | None:
        """The position behind `wake`, planned and gated anew; None when nothing of it is left, or nobody can say."""
        book = self.books[market_of(one.position.market)]
        position = book.position(one.position.account.handle, self.timestamp, wake.of(book.name))
        return None if position is None else self._consider(book, position, wake)

    def stands(self, one: Opportunity, wake: Wake) -> bool:
        """Whether the market behind `wake` lets the plan do exactly what it says; about pools nothing is said."""
        book = self.books[market_of(one.position.market)]
        position = book.position(one.position.account.handle, self.timestamp, wake.of(book.name))
        return position is not None and _stands(one, position, book)

    def _consider(self, book: Book, position: Position, wake: Wake) -> Opportunity:
        return self.appraiser.consider(
            book,
            position,
            self.quoter,
            self.fees,
            now=self.now,
            in_flight=lambda borrower: self.in_flight(position.market, borrower),
            paused=self.paused,
            breaker=self.breaker,
            wake=wake,
            out=self.in_flight,
        )


def _stands(one: Opportunity, position: Position, book: Book) -> bool:
    """Whether the plan's pair and the way to call the market are what they were."""
    plan, old, way = one.choice.plan, one.choice.pair, one.liquidation
    if plan is None or old is None or way is None:
        return False
    pair = next((pair for pair in position.pairs if _names(pair) == _names(old)), None)
    if pair is None or pair.feasible != old.feasible or pair.others != plan.others:
        return False
    if plan.loan is not None and plan.loan.source == OWN_CALLBACK and pair.advance(plan.repay) != plan.loan:
        return False
    if (pair.seize(plan.repay), pair.budget(plan.repay)) != (plan.seizure, plan.budget):
        return False
    new = book.liquidation(pair, plan.borrower, plan.repay)
    return replace(new, around=None) == replace(way, around=None)


def _names(pair: Pair) -> tuple[Address, Address]:
    return pair.debt.address, pair.collateral.address
