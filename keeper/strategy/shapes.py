"""What one way of funding one liquidation leaves in the executor: the four shapes that `model.Plan` documents."""

from __future__ import annotations

from dataclasses import dataclass, field

from keeper.model import Address, FlashOffer, Route, Seizure, SkipReason
from keeper.ports import Pair, Quoter, Requoter
from keeper.strategy.value import spot_value

_NO_POOLS: frozenset[Address] = frozenset()
GAS_MATTERS = 100  # gas of a hundredth of the gain is worth saving on
THIN = 8  # a path with less than an eighth of a trade


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a purchase minds the sale that follows it: the cheapest one alone may use up what the sale needs more."""

    spare: frozenset[Address] = _NO_POOLS  # pools it leaves alone
    weigh: bool = False  # split it at the prices that the sale will leave
    sale_spares: frozenset[Address] = _NO_POOLS  # pools that sale is taken to leave alone; only with `weigh`


@dataclass(frozen=True, slots=True)
class Terms:
    """What every trial of one plan shares."""

    quoter: Requoter
    profit: Address  # the wrapped native token
    gas_price: int  # wei per gas, next base fee + tip
    base_gas: int  # gas of a transaction before routes, loan and liquidation
    warm_hop_gas: int = 0  # gas that each hop takes less than its pool says
    recipe: Recipe = field(default_factory=Recipe)
    data_fee: int = 0  # wei per transaction beside its gas


@dataclass(frozen=True, slots=True)
class Trial:
    """One amount through one shape, worked out exactly.

    `gain` is in wei of the profit token, before gas. Where the collateral does not cover what must be paid back, the
    shortfall is valued at spot: such a gain is negative, only tells a search which way is better, and never a plan's.
    """

    repay: int
    budget: int
    seizure: Seizure
    loan: FlashOffer | None
    buy: Route | None
    sell: Route | None
    gain: int
    gas: int  # units
    cost: int  # wei

    @property
    def net(self) -> int:
        """Gain less gas, wei."""
        return self.gain - self.cost

    @property
    def shared(self) -> frozenset[Address]:
        """Pools that are both bought and sold through."""
        return self.buy.pools & self.sell.pools if self.buy and self.sell else _NO_POOLS

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        """What to try instead of `recipe`, by which this was bought: the shared pools weighed or spared, a path spared.

        Sparing a path may save gas, or leave the sale a pool that a thin path hardly needs.
        """
        if self.buy is None or self.sell is None:
            return []
        found = []
        if self.shared:
            found = [Recipe(recipe.spare, weigh=True), Recipe(recipe.spare | self.shared)]
        gas_matters = self.cost * GAS_MATTERS > self.gain
        for path in self.buy.paths:
            if gas_matters or path.amount_in * THIN < self.buy.amount_in:
                found += [Recipe(recipe.spare | {hop.pool}) for hop in path.hops]
                pools = frozenset(hop.pool for hop in path.hops)
                found.append(Recipe(recipe.spare, weigh=True, sale_spares=pools))
        return [other for other in dict.fromkeys(found) if other != recipe]


def flash_swap(terms: Terms, pair: Pair, repay: int) -> Trial | SkipReason:
    """Shape 1: the buying route hands out the debt asset first and is paid with seized collateral."""
    budget = pair.budget(repay)
    return _two_legs(terms, pair, repay, budget, None, budget)


def loan_two_legs(terms: Terms, pair: Pair, repay: int, offer: FlashOffer) -> Trial | SkipReason:
    """Shape 2: collateral buys exactly loan and premium, the rest is sold."""
    return _two_legs(terms, pair, repay, offer.amount, offer, offer.amount + offer.premium)


def loan_one_leg(terms: Terms, pair: Pair, repay: int, offer: FlashOffer) -> Trial | SkipReason:
    """Shape 3, where the debt asset is the profit token: everything seized is sold for it."""
    seizure = pair.seize(repay)
    sell = terms.quoter.sell(pair.collateral.address, pair.debt.address, seizure.seized, offer.locks)
    if sell is None:
        return SkipReason.NO_ROUTE
    gain = sell.amount_out - seizure.repaid - offer.premium
    return _trial(terms, pair, repay, offer.amount, seizure, offer, None, sell, gain)


def loan_same_asset(terms: Terms, pair: Pair, repay: int, offer: FlashOffer) -> Trial | SkipReason:
    """Shape 4, where the collateral is the debt asset: the loan is repaid from what was seized."""
    seizure = pair.seize(repay)
    rest = seizure.seized - seizure.repaid - offer.premium
    return _with_rest(terms, pair, repay, offer.amount, seizure, offer, None, rest, 0)


def _two_legs(
    terms: Terms, pair: Pair, repay: int, budget: int, loan: FlashOffer | None, owed: int
) -> Trial | SkipReason:
    """Buy `owed`, sell the rest."""
    seizure = pair.seize(repay)
    avoid = terms.recipe.spare | loan.locks if loan else terms.recipe.spare
    buy = _bought(terms.quoter, pair, owed, avoid, lent=loan is not None)
    if buy is not None and terms.recipe.weigh and seizure.seized > buy.amount_in:
        buy = _weighed(terms, pair, owed, avoid, buy, seizure.seized - buy.amount_in, lent=loan is not None)
    if buy is None:
        return SkipReason.NO_ROUTE
    kept = budget - seizure.repaid if pair.debt.address == terms.profit else 0
    return _with_rest(terms, pair, repay, budget, seizure, loan, buy, seizure.seized - buy.amount_in, kept)


def _bought(quoter: Quoter, pair: Pair, owed: int, avoid: frozenset[Address], *, lent: bool) -> Route | None:
    """The purchase of `owed`; unless the debt asset is `lent`, through pools that hand it out before they are paid."""
    buy = quoter.buy(pair.collateral.address, pair.debt.address, owed, avoid)
    while not lent and buy is not None and buy.prepaid:
        avoid |= buy.prepaid
        buy = quoter.buy(pair.collateral.address, pair.debt.address, owed, avoid)
    return buy


def _weighed(
    terms: Terms, pair: Pair, owed: int, avoid: frozenset[Address], buy: Route, rest: int, *, lent: bool
) -> Route:
    """The purchase split as it would be after the sale of `rest`, which is where both together leave the prices."""
    quoter = terms.quoter
    if pair.collateral.address == terms.profit:
        return buy
    sale = quoter.sell(pair.collateral.address, terms.profit, rest, terms.recipe.sale_spares)
    split = None if sale is None else _bought(quoter.after(sale), pair, owed, avoid, lent=lent)
    return (None if split is None else quoter.again(split)) or buy


def _with_rest(
    terms: Terms,
    pair: Pair,
    repay: int,
    budget: int,
    seizure: Seizure,
    loan: FlashOffer | None,
    buy: Route | None,
    rest: int,
    kept: int,
) -> Trial | SkipReason:
    """Turn `rest` of the collateral into the profit token and add `kept`, profit token that was never spent."""
    token = pair.collateral.address
    sell: Route | None = None
    if rest < 0:
        short = spot_value(terms.quoter, token, terms.profit, -rest)
        gain = -1 - (-rest if short is None else short)
    elif token == terms.profit:
        gain = rest + kept
    elif rest == 0:
        gain = kept
    else:
        quoter = terms.quoter if buy is None else terms.quoter.after(buy)
        sell = quoter.sell(token, terms.profit, rest)  # by now the loan is closed and its pools are open again
        if sell is None:
            return SkipReason.NO_ROUTE
        gain = sell.amount_out + kept
    return _trial(terms, pair, repay, budget, seizure, loan, buy, sell, gain)


def _trial(
    terms: Terms,
    pair: Pair,
    repay: int,
    budget: int,
    seizure: Seizure,
    loan: FlashOffer | None,
    buy: Route | None,
    sell: Route | None,
    gain: int,
) -> Trial:
    hops = sum(len(path.hops) for route in (buy, sell) if route is not None for path in route.paths)
    gas = terms.base_gas + pair.gas(repay) + sum(part.gas for part in (loan, buy, sell) if part is not None)
    gas -= terms.warm_hop_gas * hops
    return Trial(repay, budget, seizure, loan, buy, sell, gain, gas, gas * terms.gas_price + terms.data_fee)


def slope(profit: Address, pair: Pair, trial: Trial) -> float | None:
    """How the gain of `trial` rises with the amount, wei per base unit of debt; a float, which only guides the search.

    All that moves is in proportion to the amount, but for what trades give: for that their margins count. None where a
    margin is unknown, where the purchase moves what the sale trades in, and for a gain that is none.
    """
    debt, collateral, buy, sell = pair.debt.address, pair.collateral.address, trial.buy, trial.sell
    if trial.gain <= 0 or trial.shared:
        return None
    due = trial.seizure.repaid + (trial.loan.premium if trial.loan is not None else 0)
    spent, kept = 0.0, 0.0
    if buy is not None:
        if not buy.margin:
            return None
        spent = buy.amount_out * buy.margin
        kept = float(trial.budget - trial.seizure.repaid if debt == profit else 0)
    elif debt == collateral:
        spent = float(due)
    else:
        kept = float(-due)
    rest = trial.seizure.seized - spent
    if sell is not None:
        if not sell.margin:
            return None
        rest /= sell.margin
    elif collateral != profit:
        return None
    return (rest + kept) / trial.repay
