"""How plans become programs: order, nesting, recipients and amounts, seen through venues that take notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from keeper.execution.compose import compose
from keeper.model import (
    OWN_CALLBACK,
    Address,
    FeeQuote,
    FlashOffer,
    Hash,
    Head,
    Hop,
    Path,
    Plan,
    Route,
    Seizure,
    Token,
)
from keeper.ports import FlashSource, Liquidation, Venue
from keeper.program import Amount, Approve, Guard, Program, Source, Step, Transfer, balance, literal, word

pytestmark = pytest.mark.unit

EXECUTOR = Address("0x" + "ee" * 20)
MARKET = Address("0x" + "aa" * 20)
TILL = Address("0x" + "71" * 20)
LENDER = Address("0x" + "1e" * 20)
DEBT, COLLATERAL, WETH, MID = (Address("0x" + f"{n:02x}" * 20) for n in (0xD0, 0xC0, 0x3E, 0x33))
LIQUIDATE = Approve(DEBT, MARKET, literal(0))
GUARD = Guard(MARKET, b"view", 1, 2)
LIQUIDATION = Liquidation((GUARD,), (LIQUIDATE,), 0)
HEAD = Head(1, Hash("0x" + "01" * 32), Hash("0x" + "00" * 32), 1, 1)


class Notebook:
    """A venue and a lender whose steps are notes: brackets around what runs inside their callbacks.

    ``open`` and ``close`` are approvals of the pool with 1 and 2, so that a flat list shows the nesting.
    """

    name = "book"

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        return (Transfer(hop.token_in, hop.pool, amount), Transfer(hop.token_out, recipient, literal(hop.amount_out)))

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        owed = word(int(hop.pool[-2:], 16))
        return (Transfer(hop.token_out, recipient, amount), opened(hop.pool), *pay(owed), closed(hop.pool))

    def payee(self, hop: Hop) -> Address | None:
        return hop.pool

    def enclose(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return steps

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        return (opened(offer.lender), *inner, closed(offer.lender))


class Till(Notebook):
    """A venue that is paid first, takes its input from the executor, and wants a session around all its trades."""

    name = "till"

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        paid = literal(hop.amount_in)
        return (*pay(paid), Approve(hop.token_in, hop.pool, paid), Transfer(hop.token_out, recipient, amount))

    def payee(self, hop: Hop) -> Address | None:
        return None

    def enclose(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return (opened(TILL), *steps, closed(TILL))


def opened(where: Address) -> Step:
    return Approve(WETH, where, literal(1))


def closed(where: Address) -> Step:
    return Approve(WETH, where, literal(2))


def pool(number: int) -> Address:
    return Address(f"0x{number:040x}")


def owed(number: int) -> Amount:
    return word(number)


def hop(number: int, token_in: Address, token_out: Address, paid: int, got: int) -> Hop:
    return Hop("book", pool(number), token_in, token_out, paid, got)


def route(*paths: tuple[Hop, ...], exact_out: bool = False) -> Route:
    made = tuple(Path(hops) for hops in paths)
    return Route(made[0].hops[0].token_in, made[0].hops[-1].token_out, made, 0, exact_out)


def plan(debt: Address = DEBT, collateral: Address = COLLATERAL, **fields: Any) -> Plan:
    legs: dict[str, Any] = {"budget": 100, "loan": None, "buy": None, "sell": None, "profit_token": WETH} | fields
    return Plan(
        market="m",
        borrower=MARKET,
        head=HEAD,
        timestamp=1,
        debt=Token(debt, "D", 18),
        collateral=Token(collateral, "C", 18),
        repay=100,
        seizure=Seizure(100, 60, 0),
        gain=0,
        gas=0,
        fees=FeeQuote(0, 0),
        sanity_bound=0,
        health_factor=0,
        **legs,
    )


def composed(what: Plan) -> Program:
    book = Notebook()
    return compose(what, LIQUIDATION, {"book": cast(Venue, book)}, {"book": cast(FlashSource, book)}, EXECUTOR)


def with_till(what: Plan) -> Program:
    book, till = Notebook(), Till()
    venues = {"book": cast(Venue, book), "till": cast(Venue, till)}
    return compose(
        what, LIQUIDATION, venues, {"book": cast(FlashSource, book), "till": cast(FlashSource, till)}, EXECUTOR
    )


def till(number: int, token_in: Address, token_out: Address, paid: int, got: int) -> Hop:
    return Hop("till", pool(number), token_in, token_out, paid, got, lends=False)


def loan(amount: int = 100, token: Address = DEBT, source: str = "book") -> FlashOffer:
    return FlashOffer(source, LENDER, token, amount, 3, 0)


BUY = route(
    (hop(1, COLLATERAL, DEBT, 20, 40),),
    (hop(2, COLLATERAL, MID, 25, 7), hop(3, MID, DEBT, 7, 60)),
    exact_out=True,
)
SELL = route((hop(4, COLLATERAL, WETH, 5, 1),), (hop(5, COLLATERAL, MID, 10, 2), hop(6, MID, WETH, 2, 3)))
SOLD = (
    Transfer(COLLATERAL, pool(4), literal(5)),
    Transfer(WETH, EXECUTOR, literal(1)),
    Transfer(COLLATERAL, pool(5), balance(COLLATERAL)),
    Transfer(MID, EXECUTOR, literal(2)),
    Transfer(MID, pool(6), balance(MID)),
    Transfer(WETH, EXECUTOR, literal(3)),
)


def test_flash_swap_takes_every_output_before_it_liquidates() -> None:
    """All paths hand out the debt asset, the liquidation runs innermost, then the paths are paid from the last to the
    first, each with collateral into its first pool; the rest is sold after everything has been paid."""
    program = composed(plan(buy=BUY, sell=SELL))
    assert program.steps == (
        Transfer(DEBT, EXECUTOR, literal(40)),
        opened(pool(1)),
        *(
            Transfer(DEBT, EXECUTOR, literal(60)),
            opened(pool(3)),
            *(
                Transfer(MID, pool(3), owed(3)),
                opened(pool(2)),
                LIQUIDATE,
                Transfer(COLLATERAL, pool(2), owed(2)),
                closed(pool(2)),
            ),
            closed(pool(3)),
        ),
        Transfer(COLLATERAL, pool(1), owed(1)),
        closed(pool(1)),
        *SOLD,
    )
    assert program.guards == (GUARD,)
    assert program.profit_token == WETH
    assert program.sweep == (DEBT, COLLATERAL, MID)


def test_loan_is_paid_back_from_what_is_bought() -> None:
    """Inside the loan: liquidate, buy path after path; after it: sell the rest."""
    program = composed(plan(loan=loan(), buy=BUY, sell=SELL))
    assert program.steps == (
        opened(LENDER),
        LIQUIDATE,
        Transfer(DEBT, EXECUTOR, literal(40)),
        opened(pool(1)),
        Transfer(COLLATERAL, pool(1), owed(1)),
        closed(pool(1)),
        Transfer(DEBT, EXECUTOR, literal(60)),
        opened(pool(3)),
        Transfer(MID, pool(3), owed(3)),
        opened(pool(2)),
        Transfer(COLLATERAL, pool(2), owed(2)),
        closed(pool(2)),
        closed(pool(3)),
        closed(LENDER),
        *SOLD,
    )


def test_sale_that_brings_the_debt_token_happens_inside_the_loan() -> None:
    """When the debt is the profit token everything is sold before the loan is due, and only then."""
    sell = route((hop(4, COLLATERAL, WETH, 60, 110),))
    program = composed(plan(debt=WETH, loan=loan(token=WETH), sell=sell))
    sold = (Transfer(COLLATERAL, pool(4), balance(COLLATERAL)), Transfer(WETH, EXECUTOR, literal(110)))
    assert program.steps == (opened(LENDER), LIQUIDATE, *sold, closed(LENDER))
    assert program.sweep == (COLLATERAL,)


def test_same_asset_needs_no_trade_to_repay() -> None:
    """Collateral that is the debt asset repays the loan itself; all of the rest is sold, unspent budget included."""
    sell = route((hop(4, DEBT, WETH, 7, 1),))
    program = composed(plan(collateral=DEBT, budget=105, loan=loan(105), sell=sell))
    sold = (Transfer(DEBT, pool(4), balance(DEBT)), Transfer(WETH, EXECUTOR, literal(1)))
    assert program.steps == (opened(LENDER), LIQUIDATE, closed(LENDER), *sold)
    assert program.sweep == (DEBT,)


def test_same_asset_as_the_profit_token_trades_nothing() -> None:
    """Debt, collateral and profit in one token: borrow, liquidate, repay, keep; there is nothing to sweep."""
    program = composed(plan(debt=WETH, collateral=WETH, loan=loan(token=WETH)))
    assert program.steps == (opened(LENDER), LIQUIDATE, closed(LENDER))
    assert program.sweep == ()


def test_collateral_that_is_the_profit_token_is_kept() -> None:
    """With WETH as collateral nothing is sold and WETH is not swept."""
    buy = route((hop(1, WETH, DEBT, 20, 100),), exact_out=True)
    program = composed(plan(collateral=WETH, buy=buy))
    assert program.steps == (
        Transfer(DEBT, EXECUTOR, literal(100)),
        opened(pool(1)),
        LIQUIDATE,
        Transfer(WETH, pool(1), owed(1)),
        closed(pool(1)),
    )
    assert program.sweep == (DEBT,)


def test_own_callback_pays_inside_the_call_and_sells_the_rest_after_it() -> None:
    """The trades that pay go into the protocol's callback; a sale that pays nothing back waits until it is over."""
    around = Liquidation((GUARD,), (), 0, lambda inner: (opened(MARKET), *inner, closed(MARKET)))
    offer = FlashOffer(OWN_CALLBACK, MARKET, DEBT, 100, 0, 0)
    book = cast(Venue, Notebook())
    bought = compose(plan(loan=offer, buy=BUY, sell=SELL), around, {"book": book}, {}, EXECUTOR).steps
    assert bought[0] == opened(MARKET)
    assert bought[bought.index(closed(MARKET)) + 1 :] == SOLD
    assert Transfer(DEBT, EXECUTOR, literal(60)) in bought[: bought.index(closed(MARKET))]
    sale = route((hop(4, COLLATERAL, DEBT, 60, 110),))
    repaid = compose(plan(loan=offer, sell=sale, profit_token=DEBT), around, {"book": book}, {}, EXECUTOR).steps
    assert repaid == (
        opened(MARKET),
        *cast(Notebook, book).exact_in(sale.paths[0].hops[0], balance(COLLATERAL), EXECUTOR),
        closed(MARKET),
    )
    with pytest.raises(ValueError, match="none"):
        compose(plan(loan=offer, buy=BUY), LIQUIDATION, {"book": book}, {}, EXECUTOR)


def test_pool_that_is_paid_first_takes_its_input_from_the_executor() -> None:
    """Inside a loan its own steps collect the payment; a pool before it delivers into the executor; one after it is
    paid by it directly. All trades of the venue stand in one session, sales and liquidation included."""
    buy = route(
        (till(1, COLLATERAL, DEBT, 20, 40),),
        (hop(2, COLLATERAL, MID, 25, 7), till(3, MID, DEBT, 7, 60)),
        (till(4, COLLATERAL, MID, 5, 8), hop(5, MID, DEBT, 8, 9)),
        exact_out=True,
    )
    sell = route((hop(6, COLLATERAL, WETH, 5, 1),))
    program = with_till(plan(loan=loan(), buy=buy, sell=sell))
    assert program.steps == (
        opened(TILL),
        opened(LENDER),
        LIQUIDATE,
        Approve(COLLATERAL, pool(1), literal(20)),
        Transfer(DEBT, EXECUTOR, literal(40)),
        Transfer(MID, EXECUTOR, literal(7)),
        opened(pool(2)),
        Transfer(COLLATERAL, pool(2), owed(2)),
        closed(pool(2)),
        Approve(MID, pool(3), literal(7)),
        Transfer(DEBT, EXECUTOR, literal(60)),
        Transfer(DEBT, EXECUTOR, literal(9)),
        opened(pool(5)),
        Approve(COLLATERAL, pool(4), literal(5)),
        Transfer(MID, pool(5), owed(5)),
        closed(pool(5)),
        closed(LENDER),
        Transfer(COLLATERAL, pool(6), balance(COLLATERAL)),
        Transfer(WETH, EXECUTOR, literal(1)),
        closed(TILL),
    )


def test_venue_that_lends_has_its_session_open() -> None:
    """A loan under a venue's own name needs the session although nothing is traded there; others open none."""
    steps = with_till(plan(debt=WETH, collateral=WETH, loan=loan(token=WETH, source="till"))).steps
    assert steps == (opened(TILL), opened(LENDER), LIQUIDATE, closed(LENDER), closed(TILL))
    assert with_till(plan(debt=WETH, collateral=WETH, loan=loan(token=WETH))).steps == steps[1:-1]


def test_flash_swap_needs_pools_that_lend() -> None:
    """A path that ends in a pool that is paid first cannot fund the liquidation; one that only begins there can."""
    ends = route((hop(2, COLLATERAL, MID, 25, 7), till(3, MID, DEBT, 7, 100)), exact_out=True)
    with pytest.raises(ValueError, match="cannot lend"):
        with_till(plan(buy=ends))
    begins = route((till(2, COLLATERAL, MID, 25, 7), hop(3, MID, DEBT, 7, 100)), exact_out=True)
    assert with_till(plan(buy=begins)).steps == (
        opened(TILL),
        Transfer(DEBT, EXECUTOR, literal(100)),
        opened(pool(3)),
        LIQUIDATE,
        Approve(COLLATERAL, pool(2), literal(25)),
        Transfer(MID, pool(3), owed(3)),
        closed(pool(3)),
        closed(TILL),
    )


def test_unspent_budget_is_not_sold_on_the_way() -> None:
    """A sale that passes through the debt token leaves the unspent budget, which is no part of the gain, alone."""
    buy = route((hop(1, COLLATERAL, DEBT, 20, 109),), exact_out=True)
    sell = route((hop(2, COLLATERAL, DEBT, 40, 90), hop(3, DEBT, WETH, 90, 5)))
    program = composed(plan(budget=109, buy=buy, sell=sell))
    through = [s.amount for s in program.steps if isinstance(s, Transfer) and s.to == pool(3)]
    assert through == [Amount(Source.BALANCE, 9, DEBT)]


def test_plan_without_funding_is_refused() -> None:
    """A plan that neither borrows nor buys is none."""
    with pytest.raises(ValueError, match="neither borrows nor buys"):
        composed(plan())


def test_unknown_venue_is_an_error() -> None:
    """A hop of a venue that is not there does not pass silently."""
    stranger = route((Hop("nowhere", pool(9), COLLATERAL, DEBT, 1, 100),), exact_out=True)
    with pytest.raises(KeyError, match="nowhere"):
        composed(plan(buy=stranger))
