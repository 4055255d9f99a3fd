"""Whether a trade helps somebody: it goes back through a pool of theirs, or between the assets of a pair of theirs.

Any other trade only makes the next one through the same pools worse, or leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from keeper.model import Address, Hop, Plan
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.wake import routes

_Ends = tuple[Address, Address]


class Favours:
    """What would help any of these positions, or any of the plans that are known of them."""

    def __init__(self, positions: Iterable[Opportunity]) -> None:
        self._wanted: set[_Ends] = set()  # trades, by what goes in and comes out
        self._collaterals: set[Address] = set()
        self._debts: set[Address] = set()
        self._out: set[_Ends] = set()  # pool and what a plan takes out of it
        self._plans: list[Plan] = []
        for one in positions:
            for pair in one.position.pairs:
                self._wanted.add((pair.debt.address, pair.collateral.address))
                self._collaterals.add(pair.collateral.address)
                if pair.debt != pair.collateral:
                    self._debts.add(pair.debt.address)
            if one.choice.plan is not None:
                self.add(one.choice.plan)

    def add(self, plan: Plan) -> None:
        """One more plan of one of the positions."""
        self._plans.append(plan)
        self._out.update((hop.pool, hop.token_out) for hop in _hops(plan))

    @property
    def one_way(self) -> bool:
        """Whether none of the plans helps any of the positions, with a plan or without."""
        return not any(map(self.come_from, self._plans))

    def come_from(self, by: Plan) -> bool:
        """Whether `by` may help somebody, that may be the plan itself; also by selling what somebody has to buy."""
        return any(route.token_in in self._debts for route in routes(by)) or any(
            (hop.token_in, hop.token_out) in self._wanted
            or (hop.token_in == by.profit_token and hop.token_out in self._collaterals)
            or (hop.pool, hop.token_in) in self._out
            for hop in _hops(by)
        )


def favoured(one: Opportunity, plan: Plan | None, by: Plan) -> bool:
    """Whether `by` trades the other way: through a pool of `plan`, or between the assets of a pair of the position."""
    hops = _hops(by)
    mine = {(hop.pool, hop.token_out) for hop in _hops(plan)} if plan is not None else set()
    if any((hop.pool, hop.token_in) in mine for hop in hops):
        return True
    back = {(hop.token_in, hop.token_out) for hop in hops}
    return any(
        (given, pair.collateral.address) in back
        for pair in one.position.pairs
        for given in (pair.debt.address, by.profit_token)
    )


def _hops(plan: Plan) -> list[Hop]:
    return [hop for route in routes(plan) for path in route.paths for hop in path.hops]
