"""The ways one pair can be funded and traded, each a curve for the search, with a bound that costs no quote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keeper.model import FlashOffer, SkipReason
from keeper.ports import Pair
from keeper.strategy.funding import Lender, Market
from keeper.strategy.shapes import Terms, Trial, flash_swap, loan_one_leg, loan_same_asset, loan_two_legs
from keeper.strategy.sizing import Curve
from keeper.strategy.value import spot_value

BPS = 10_000
FLASH_SWAP = "flash swap"
Lent = Callable[[Terms, Pair, int, FlashOffer], Trial | SkipReason]


@dataclass(slots=True)
class Option:
    """One pair with one funding, and what became of it."""

    pair: Pair
    funding: str  # for a person
    curve: Curve[Trial]
    floor_cost: int  # wei of gas without any route
    refusal: SkipReason | None = None  # why the last impossible amount was impossible

    @property
    def trial(self) -> Trial | None:
        """The best amount tried."""
        return None if self.curve.best is None else self.curve.best[1]


@dataclass(frozen=True, slots=True)
class Options:
    """Builds the options of a position's pairs.

    `slack_bps` widens the bound at spot prices: the deepest path, whose price spot is, need not be the best one.
    With `every` also shapes are built that another one always beats.
    """

    terms: Terms
    market: Market
    flash_swaps: bool
    slack_bps: int
    every: bool

    def of(self, pair: Pair) -> list[Option]:
        """The shapes that can liquidate `pair`, one option per lender; empty when nobody lends and none is needed not.

        A loan with two legs trades as a flash swap does, for more (the premium), in fewer pools (the locks) and for
        more gas, so it is an option only where flash swaps are not.
        """
        debt, collateral = pair.debt.address, pair.collateral.address
        swappable = self.flash_swaps and debt != collateral
        options = []
        if swappable:
            options.append(self._option(pair, FLASH_SWAP, self._swap(pair), self._two_legs(pair)))
        if swappable and debt != self.terms.profit and not self.every:
            return options
        end = pair.feasible[-1][1]
        for lender in self.market.lenders(debt, [pair.budget(size) for size in (end, end >> 3, end >> 6) if size]):
            name = f"loan from {lender[0]} {lender[1][:10]}"
            if debt == collateral:
                score = self._loan(pair, lender, loan_same_asset)
                options.append(self._option(pair, f"{name}, same asset", score, self._same_asset(pair)))
                continue
            if debt == self.terms.profit:
                score = self._loan(pair, lender, loan_one_leg)
                options.append(self._option(pair, f"{name}, one leg", score, self._one_leg(pair)))
            if self.every or not (swappable or debt == self.terms.profit):
                score = self._loan(pair, lender, loan_two_legs)
                options.append(self._option(pair, f"{name}, two legs", score, self._two_legs(pair)))
        return options

    def _swap(self, pair: Pair) -> Callable[[int], Trial | SkipReason]:
        return lambda repay: flash_swap(self.terms, pair, repay)

    def _loan(self, pair: Pair, lender: Lender, shape: Lent) -> Callable[[int], Trial | SkipReason]:
        def score(repay: int) -> Trial | SkipReason:
            offer = self.market.offers(pair.debt.address, pair.budget(repay)).get(lender)
            return SkipReason.NO_FLASH_SOURCE if offer is None else shape(self.terms, pair, repay, offer)

        return score

    def _option(self, pair: Pair, funding: str, shape: Callable[[int], Trial | SkipReason], gain: int | None) -> Option:
        ends = (pair.feasible[0][0], pair.feasible[-1][1])
        floor_cost = (self.terms.base_gas + min(pair.gas(end) for end in ends)) * self.terms.gas_price

        def score(repay: int) -> tuple[int, int, Trial] | None:
            result = shape(repay)
            if isinstance(result, Trial):
                return result.net, result.cost, result
            option.refusal = result
            return None

        ceiling = None if gain is None else gain - floor_cost
        option = Option(pair, funding, Curve(pair.feasible, score, ceiling, floor_cost), floor_cost)
        return option

    # Upper bounds of the gain at the largest amount, in wei: trades at spot price without fee or impact. None where a
    # price is unknown.

    def _two_legs(self, pair: Pair) -> int | None:
        quoter, most = self.terms.quoter, pair.seize(pair.feasible[-1][1])
        price = quoter.spot(pair.collateral.address, pair.debt.address)
        if price is None or not price[0]:
            return None
        paid = most.repaid * price[1] * (BPS - self.slack_bps) // (price[0] * BPS)
        rest = spot_value(quoter, pair.collateral.address, self.terms.profit, max(most.seized - paid, 0))
        return None if rest is None else rest * (BPS + self.slack_bps) // BPS + self._unspent(pair)

    def _one_leg(self, pair: Pair) -> int | None:
        most = pair.seize(pair.feasible[-1][1])
        sold = spot_value(self.terms.quoter, pair.collateral.address, self.terms.profit, most.seized)
        return None if sold is None else sold * (BPS + self.slack_bps) // BPS - most.repaid

    def _same_asset(self, pair: Pair) -> int | None:
        most = pair.seize(pair.feasible[-1][1])
        rest = spot_value(self.terms.quoter, pair.collateral.address, self.terms.profit, most.seized - most.repaid)
        return None if rest is None else rest * (BPS + self.slack_bps) // BPS

    def _unspent(self, pair: Pair) -> int:
        end = pair.feasible[-1][1]
        return pair.budget(end) - pair.seize(end).repaid if pair.debt.address == self.terms.profit else 0
