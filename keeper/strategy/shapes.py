"""What one way of funding one liquidation leaves in the executor: the four shapes that `model.Plan` documents."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.model import Address, FlashOffer, Route, Seizure, SkipReason
from keeper.ports import Pair, Quoter
from keeper.strategy.value import spot_value


@dataclass(frozen=True, slots=True)
class Terms:
    """What every trial of one plan shares."""

    quoter: Quoter
    profit: Address  # the wrapped native token
    gas_price: int  # wei per gas, next base fee + tip
    base_gas: int  # gas of a transaction before routes, loan and liquidation


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


NO_LOCKS: frozenset[Address] = frozenset()


def flash_swap(terms: Terms, pair: Pair, repay: int) -> Trial | SkipReason:
    """Shape 1: the buying route hands out the debt asset first and is paid with seized collateral."""
    budget = pair.budget(repay)
    buy = terms.quoter.buy(pair.collateral.address, pair.debt.address, budget)
    return SkipReason.NO_ROUTE if buy is None else _two_legs(terms, pair, repay, budget, None, buy)


def loan_two_legs(terms: Terms, pair: Pair, repay: int, offer: FlashOffer) -> Trial | SkipReason:
    """Shape 2: collateral buys exactly loan and premium, the rest is sold."""
    owed = offer.amount + offer.premium
    buy = terms.quoter.buy(pair.collateral.address, pair.debt.address, owed, offer.locks)
    return SkipReason.NO_ROUTE if buy is None else _two_legs(terms, pair, repay, offer.amount, offer, buy)


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
    terms: Terms, pair: Pair, repay: int, budget: int, loan: FlashOffer | None, buy: Route
) -> Trial | SkipReason:
    seizure = pair.seize(repay)
    kept = budget - seizure.repaid if pair.debt.address == terms.profit else 0
    return _with_rest(terms, pair, repay, budget, seizure, loan, buy, seizure.seized - buy.amount_in, kept)


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
        sell = quoter.sell(token, terms.profit, rest, loan.locks if loan else NO_LOCKS)
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
    gas = terms.base_gas + pair.gas(repay) + sum(part.gas for part in (loan, buy, sell) if part is not None)
    return Trial(repay, budget, seizure, loan, buy, sell, gain, gas, gas * terms.gas_price)
