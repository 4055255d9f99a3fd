"""Whether a trade helps somebody: it goes back through a pool of theirs, or between the assets of a pair of theirs.

Any other trade only makes the next one through the same pools worse, or leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from keeper.model import Address, Hop, Plan
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.wake import routes

_Ends = tuple[Address, Address]


def favoured(one: Opportunity, plan: Plan | None, by: Plan) -> bool:
    """Whether `by` trades the other way: through a pool of `plan`, or between the assets of a pair of the position."""
    hops = _hops(by)
    if plan is not None and _back(_hops(plan), hops):
        return True
    return bool(_wanted(one, {by.profit_token}) & {(hop.token_in, hop.token_out) for hop in hops})


def one_way(everybody: Iterable[Opportunity]) -> bool:
    """Whether none of these plans helps any of these positions, with a plan or without."""
    known = list(everybody)
    plans = [one.choice.plan for one in known if one.choice.plan is not None]
    hops = [hop for plan in plans for hop in _hops(plan)]
    profits, trades = {plan.profit_token for plan in plans}, {(hop.token_in, hop.token_out) for hop in hops}
    return not _back(hops, hops) and not any(_wanted(one, profits) & trades for one in known)


def _hops(plan: Plan) -> list[Hop]:
    return [hop for route in routes(plan) for path in route.paths for hop in path.hops]


def _back(mine: Iterable[Hop], theirs: Iterable[Hop]) -> bool:
    return bool({(hop.pool, hop.token_out) for hop in mine} & {(hop.pool, hop.token_in) for hop in theirs})


def _wanted(one: Opportunity, profits: Iterable[Address]) -> set[_Ends]:
    """Trades, by what goes in and comes out, that would make the collateral of a pair dearer."""
    return {(given, pair.collateral.address) for pair in one.position.pairs for given in (pair.debt.address, *profits)}
