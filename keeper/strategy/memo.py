"""A quoter that is asked everything once, however many plans are made on its state."""

from __future__ import annotations

from keeper.model import Address, Route
from keeper.ports import Quoter, Requoter

NO_POOLS: frozenset[Address] = frozenset()
_Trade = tuple[bool, Address, Address, int, frozenset[Address]]


class Memo:
    """Remembers the trades of `quoter`; satisfies `ports.Requoter`.

    Loans differ in the pools they lock, which seldom matter: the best route over all pools is also the best without
    some pools that it does not use, so a locked pool costs a second quote only where it would have been traded in.
    """

    def __init__(self, quoter: Quoter) -> None:
        self._quoter = quoter
        self._trades: dict[_Trade, Route | None] = {}
        self._spots: dict[tuple[Address, Address], tuple[int, int] | None] = {}
        self._after: dict[int, tuple[Route, Memo]] = {}  # by identity; the route is kept so that it stays unique

    @classmethod
    def of(cls, quoter: Quoter) -> Memo:
        """The quoter itself where it is one."""
        return quoter if isinstance(quoter, cls) else cls(quoter)

    def sell(
        self, token_in: Address, token_out: Address, amount_in: int, avoid: frozenset[Address] = NO_POOLS
    ) -> Route | None:
        """As the quoter beneath."""
        return self._trade((False, token_in, token_out, amount_in, avoid))

    def buy(
        self, token_in: Address, token_out: Address, amount_out: int, avoid: frozenset[Address] = NO_POOLS
    ) -> Route | None:
        """As the quoter beneath."""
        return self._trade((True, token_in, token_out, amount_out, avoid))

    def after(self, route: Route) -> Memo:
        """As the quoter beneath."""
        if id(route) not in self._after:
            self._after[id(route)] = (route, Memo(self._quoter.after(route)))
        return self._after[id(route)][1]

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        """As the quoter beneath."""
        if (token_in, token_out) not in self._spots:
            self._spots[token_in, token_out] = self._quoter.spot(token_in, token_out)
        return self._spots[token_in, token_out]

    def again(self, route: Route) -> Route | None:
        """As the quoter beneath; None where it cannot keep a split."""
        return self._quoter.again(route) if isinstance(self._quoter, Requoter) else None

    def _trade(self, trade: _Trade) -> Route | None:
        if trade in self._trades:
            return self._trades[trade]
        exact_out, token_in, token_out, amount, avoid = trade
        free = self._trade((exact_out, token_in, token_out, amount, NO_POOLS)) if avoid else None
        if avoid and (free is None or not free.pools & avoid):
            route = free
        else:
            ask = self._quoter.buy if exact_out else self._quoter.sell
            route = ask(token_in, token_out, amount, avoid)
        self._trades[trade] = route
        return route
