"""From a plan to the program the executor runs: the four shapes of `keeper.model.Plan` as nested callbacks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keeper.model import OWN_CALLBACK, Address, FlashOffer, Path, Plan, Route
from keeper.ports import FlashSource, Liquidation, Venue
from keeper.program import Amount, Item, Program, Step, Transfer, balance, literal


def compose(
    plan: Plan,
    liquidation: Liquidation,
    venues: Mapping[str, Venue],
    sources: Mapping[str, FlashSource],
    executor: Address,
) -> Program:
    """The program that carries out `plan`, whose market wants to be called as `liquidation` says.

    `venues` and `sources` are by the names in the plan's hops and offer. Run at `plan.timestamp` on the state of
    `plan.head`, by an executor without balances of its own, it gains exactly `plan.gain`. What is left of the debt
    token, the collateral and the tokens passed through is swept. Raises ValueError when the plan has none of the four
    shapes, KeyError when it names an unknown venue or source.
    """
    same_asset = plan.debt.address == plan.collateral.address
    unspent = {} if same_asset else {plan.debt.address: plan.budget - plan.seizure.repaid}
    trade = _Trade(venues, executor, unspent)
    liquidate = liquidation.steps
    steps: tuple[Step, ...]
    if plan.loan is None:
        if plan.buy is None:
            raise ValueError(f"the plan for {plan.borrower} in {plan.market} neither borrows nor buys the debt asset")
        steps = (*trade.flash_swap(plan.buy, liquidate), *trade.sell(plan.sell))
    else:
        borrow = _borrower(plan.loan, liquidation, sources)
        # A sale that brings the debt token pays the loan back, so it must come before; any other waits until the
        # lender's own pool is open again.
        repays = plan.buy is None and plan.sell is not None and plan.sell.token_out == plan.loan.token
        steps = borrow(trade.sell(plan.sell)) if repays else (*borrow(trade.buy(plan.buy)), *trade.sell(plan.sell))
    return Program(liquidation.guards, _enclosed(steps, plan, venues), plan.profit_token, _leftovers(plan))


def compose_items(
    items: Sequence[tuple[Plan, Liquidation]],
    floors: Sequence[int],
    venues: Mapping[str, Venue],
    sources: Mapping[str, FlashSource],
    executor: Address,
) -> Program:
    """One program for several plans, each an item: left out when its guards say that the position is gone.

    `floors` are the least growths of the profit token by each, base units. When all run, the gain is the sum of the
    plans' gains, provided that each was made for the state behind those before it, and that none of them sells a token
    that an earlier one leaves over (`left_over` and `sold`). Raises as `compose`.
    """
    steps: list[Step] = []
    sweep: dict[Address, None] = {}
    for (plan, liquidation), floor in zip(items, floors, strict=True):
        one = compose(plan, liquidation, venues, sources, executor)
        inner = one.steps
        for guard in reversed(one.guards):
            inner = (Item(guard, plan.profit_token, floor, inner),)
        steps += inner
        sweep |= dict.fromkeys(one.sweep)
    return Program((), tuple(steps), items[0][0].profit_token, tuple(sweep))


def _enclosed(steps: tuple[Step, ...], plan: Plan, venues: Mapping[str, Venue]) -> tuple[Step, ...]:
    """The whole program inside what its venues want open, once each: trades of one venue nest, openings may not."""
    names = dict.fromkeys(hop.venue for r in (plan.buy, plan.sell) if r for path in r.paths for hop in path.hops)
    if plan.loan is not None and plan.loan.source in venues:
        names[plan.loan.source] = None  # a venue lends under its own name
    for name in names:
        steps = venues[name].enclose(steps)
    return steps


def _borrower(
    loan: FlashOffer, liquidation: Liquidation, sources: Mapping[str, FlashSource]
) -> Callable[[tuple[Step, ...]], tuple[Step, ...]]:
    """From the trades that pay a loan back to the steps that take it and liquidate: the call itself may be the loan."""
    if loan.source == OWN_CALLBACK:
        if liquidation.around is None:
            raise ValueError("the plan is paid inside the protocol's own callback, and the protocol has none")
        return liquidation.around
    source = sources[loan.source]
    return lambda trades: source.borrow(loan, (*liquidation.steps, *trades))


@dataclass(frozen=True, slots=True)
class _Trade:
    venues: Mapping[str, Venue]
    executor: Address
    unspent: Mapping[Address, int]  # base units that are in the executor when selling and are not for sale

    def flash_swap(self, route: Route, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Take the output of every path, then run `inner`, then pay the paths from the last to the first.

        Raises ValueError when the last pool of a path wants to be paid first.
        """
        if route.prepaid:
            raise ValueError(f"{', '.join(sorted(route.prepaid))} cannot lend: it is paid before it hands out")
        for path in reversed(route.paths):
            inner = self._exact_out(path, inner)
        return inner

    def buy(self, route: Route | None) -> tuple[Step, ...]:
        """Buy path after path, paying with what the executor holds."""
        paths = route.paths if route else ()
        return tuple(step for path in paths for step in self._exact_out(path, ()))

    def sell(self, route: Route | None) -> tuple[Step, ...]:
        """Sell path after path; the last one takes whatever is there, so that nothing stays behind."""
        paths = route.paths if route else ()
        steps: list[Step] = []
        for number, path in enumerate(paths, start=1):
            for position, hop in enumerate(path.hops):
                known = position == 0 and number < len(paths)
                amount = literal(hop.amount_in) if known else self._all(hop.token_in)
                steps += self.venues[hop.venue].exact_in(hop, amount, self.executor)
        return tuple(steps)

    def _exact_out(self, path: Path, before_paying: tuple[Step, ...]) -> tuple[Step, ...]:
        """Buy through the last pool, which is paid by the pool before it, and so on back to the first.

        When the last pool lends, the path's output is in the executor when `before_paying` runs, innermost.
        """
        hops = path.hops

        def through(position: int, amount: Amount, recipient: Address) -> tuple[Step, ...]:
            hop = hops[position]
            venue = self.venues[hop.venue]
            payee = venue.payee(hop)

            def pay(owed: Amount) -> tuple[Step, ...]:
                if position:
                    return through(position - 1, owed, payee or self.executor)
                return (*before_paying, Transfer(hop.token_in, payee, owed)) if payee else before_paying

            return venue.exact_out(hop, amount, recipient, pay)

        return through(len(hops) - 1, literal(path.amount_out), self.executor)

    def _all(self, token: Address) -> Amount:
        return balance(token, self.unspent.get(token, 0))


def _leftovers(plan: Plan) -> tuple[Address, ...]:
    routes = [route for route in (plan.buy, plan.sell) if route]
    passed = [hop.token_out for route in routes for path in route.paths for hop in path.hops[:-1]]
    tokens = dict.fromkeys([plan.debt.address, plan.collateral.address, *passed])
    return tuple(token for token in tokens if token != plan.profit_token)
