"""The ways one pair can be funded and traded, each a curve for the search, with a bound that costs no quote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from keeper.model import OWN_CALLBACK, Address, FlashOffer, SkipReason
from keeper.ports import Pair
from keeper.strategy.funding import Lender, Market
from keeper.strategy.shapes import (
    Recipe,
    Terms,
    Trial,
    flash_swap,
    loan_one_leg,
    loan_same_asset,
    loan_two_legs,
    slope,
)
from keeper.strategy.sizing import Curve
from keeper.strategy.value import spot_value

BPS = 10_000
PROBES = (0, 2, 4, 6, 8, 10, 12)  # lenders are looked for at the largest amount and at these halvings of it
COARSE = 6  # tokens of fewer decimals have base units that show in a result
WORTH_BPS = 2  # share of the net for which the search is taken up again
FLASH_SWAP = "flash swap"
_NO_POOLS: frozenset[Address] = frozenset()
Shape = Callable[[Terms, int], Trial | SkipReason]
Lent = Callable[[Terms, Pair, int, FlashOffer], Trial | SkipReason]


@dataclass(slots=True)
class Option:
    """One pair with one funding, and what became of it."""

    pair: Pair
    funding: str  # for a person
    curve: Curve[Trial]
    floor_cost: int  # wei of gas without any route
    shape: Shape
    recipe: Recipe
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
        more gas, so it is an option only where flash swaps are not, or `instead` of one. The protocol's own callback
        asks for no premium, locks no pool and saves the lender's gas, so where there is one nothing else is.
        """
        debt, collateral = pair.debt.address, pair.collateral.address
        swappable = self.flash_swaps and debt != collateral
        options = []
        if pair.advance(pair.feasible[-1][1]) is not None:
            options.append(self._own_callback(pair))
            if not self.every:
                return options
        if swappable:
            options.append(self._option(pair, FLASH_SWAP, self._swap(pair), self._two_legs(pair)))
        if debt == collateral:
            options += self._loans(pair, "same asset", loan_same_asset, self._same_asset)
        elif debt == self.terms.profit:
            options += self._loans(pair, "one leg", loan_one_leg, self._one_leg)
        if debt != collateral and (self.every or not (swappable or debt == self.terms.profit)):
            options += self._loans(pair, "two legs", loan_two_legs, self._two_legs)
        return options

    def instead(self, option: Option) -> list[Option]:
        """Loans in place of a flash swap whose best purchase goes through pools that are paid first and cannot lend."""
        if self.every or option.funding != FLASH_SWAP or not self._wants_payment_first(option.pair):
            return []
        return self._loans(option.pair, "two legs", loan_two_legs, self._two_legs)

    def minding_the_sale(self, option: Option) -> Option | None:
        """The same option with the recipe that improves its best amount, or one beside it, most; None where none does.

        The neighbours count because a purchase that takes the sale's pools makes dents in the curve, and the best
        amount without them may lie in one. Unless only they lie in one, what helps the best amount most is what is
        looked at beside it.
        """
        seeds = option.curve.around_best()
        best, found = 0, None
        recipes: list[Recipe] = []
        for seed in seeds:
            if seed is seeds[0] or (seed.shared and not seeds[0].shared):
                recipes = seed.recipes(option.recipe)
            gains = [(self._gain(option, seed, recipe), recipe) for recipe in recipes]
            most, recipe = max(gains, key=lambda gain: gain[0], default=(0, None))
            if most > max(best, abs(seed.net) * WORTH_BPS // BPS):
                best, found = most, recipe
            recipes = [] if recipe is None else [recipe]
        if found is None:
            return None
        gain = None if option.curve.ceiling is None else option.curve.ceiling + option.floor_cost
        other = self._option(option.pair, option.funding, option.shape, gain, found)
        other.curve.start(seeds[0].repay)
        return other

    def _gain(self, option: Option, seed: Trial, recipe: Recipe) -> int:
        """What the recipe adds to the net of a trial, wei."""
        result = option.shape(replace(self.terms, recipe=recipe), seed.repay)
        return result.net - seed.net if isinstance(result, Trial) else -abs(seed.net) - 1

    def _wants_payment_first(self, pair: Pair) -> bool:
        end = pair.feasible[-1][1]
        for owed in (pair.budget(end >> part) for part in PROBES if end >> part):
            buy = self.terms.quoter.buy(pair.collateral.address, pair.debt.address, owed, _NO_POOLS)
            if buy is not None:
                return bool(buy.prepaid)
        return False

    def _own_callback(self, pair: Pair) -> Option:
        debt, collateral = pair.debt.address, pair.collateral.address
        shape, gain = loan_two_legs, self._two_legs(pair)
        if debt == collateral:
            shape, gain = loan_same_asset, self._same_asset(pair)
        elif debt == self.terms.profit:
            shape, gain = loan_one_leg, self._one_leg(pair)

        def score(terms: Terms, repay: int) -> Trial | SkipReason:
            offer = pair.advance(repay)
            return SkipReason.NO_FLASH_SOURCE if offer is None else shape(terms, pair, repay, offer)

        return self._option(pair, OWN_CALLBACK, score, gain)

    def _swap(self, pair: Pair) -> Shape:
        return lambda terms, repay: flash_swap(terms, pair, repay)

    def _loans(self, pair: Pair, legs: str, shape: Lent, ceiling: Callable[[Pair], int | None]) -> list[Option]:
        """One option for each lender worth trying."""
        end = pair.feasible[-1][1]
        amounts = [pair.budget(end >> part) for part in PROBES if end >> part]
        return [
            self._option(
                pair,
                f"loan from {source} {lender[:10]}, {legs}",
                self._loan(pair, (source, lender), shape),
                ceiling(pair),
            )
            for source, lender in self.market.lenders(pair.debt.address, amounts)
        ]

    def _loan(self, pair: Pair, lender: Lender, shape: Lent) -> Shape:
        def score(terms: Terms, repay: int) -> Trial | SkipReason:
            offer = self.market.offers(pair.debt.address, pair.budget(repay)).get(lender)
            return SkipReason.NO_FLASH_SOURCE if offer is None else shape(terms, pair, repay, offer)

        return score

    def _option(self, pair: Pair, funding: str, shape: Shape, gain: int | None, recipe: Recipe | None = None) -> Option:
        terms = self.terms if recipe is None else replace(self.terms, recipe=recipe)
        ends = (pair.feasible[0][0], pair.feasible[-1][1])
        floor_cost = (terms.base_gas + min(pair.gas(end) for end in ends)) * terms.gas_price + terms.data_fee

        def score(repay: int) -> tuple[int, int, bool, float | None, Trial] | None:
            result = shape(terms, repay)
            if isinstance(result, Trial):
                dented, rise = bool(result.shared), slope(terms.profit, pair, result)
                return result.net, result.cost, dented, rise, result
            option.refusal = result
            return None

        ceiling = None if gain is None else gain - floor_cost
        coarse = min(pair.debt.decimals, pair.collateral.decimals) < COARSE
        curve = Curve(pair.feasible, score, ceiling, floor_cost, coarse=coarse)
        option = Option(pair, funding, curve, floor_cost, shape, terms.recipe)
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
