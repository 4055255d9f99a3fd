"""One debt and one collateral of a liquidatable borrower: what `liquidationCall` accepts and moves, to the wei."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from keeper.maths.percentage import BPS, percent_mul_half_up
from keeper.model import MAX_UINT256, Address, FlashOffer, Seizure, Token
from keeper.ports import Liquidation
from keeper.protocols.aave_v3.rules import (
    CLOSE_FACTOR_BPS,
    CLOSE_FACTOR_THRESHOLD,
    FULL_CLOSE_BELOW,
    MIN_LEFTOVER,
    Rules,
)
from keeper.protocols.ends import last

GAS_AROUND = 30_000  # the guard, the approval and taking it back
GAS_PER_ASSET = 30_000  # each collateral and debt of the borrower is valued
GAS_PER_BURNED_DEBT = 66_000
GAS_SAVED_BY_ONE_ASSET = 60_000  # when debt and collateral are one reserve


class Ending(Enum):
    """What a call leaves of the pair."""

    PARTIAL = "partial"
    DEBT_GONE = "debt gone"
    COLLATERAL_GONE = "collateral gone"


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a pair does not move with time."""

    rules: Rules
    debt: Token
    collateral: Token
    debt_price: int  # base currency per whole token
    collateral_price: int
    debt_unit: int
    collateral_unit: int
    bonus: int  # bps, 10,500 = 5 %
    fee: int  # bps of the bonus
    scaled_debt: int
    scaled_collateral: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What of it does: indices, whole debt and health at one timestamp."""

    debt_index: int
    supply_index: int
    total_debt: int  # base currency, all reserves
    health_factor: int  # wad


@dataclass(frozen=True, slots=True)
class Result:
    """What one call moves, `collateral` with the fee in it."""

    repaid: int
    collateral: int
    fee: int
    ending: Ending


class Quote:
    """LiquidationLogic.executeLiquidationCall for one pair at one moment."""

    def __init__(self, terms: Terms, moment: Moment) -> None:
        self.terms, self.moment = terms, moment
        rules = terms.rules
        self.debt = rules.debt_balance(terms.scaled_debt, moment.debt_index)
        self.collateral = rules.supply_balance(terms.scaled_collateral, moment.supply_index)
        self.cap = self._cap()

    def _cap(self) -> int:
        """The most debt one call repays."""
        terms, rules = self.terms, self.terms.rules
        above = self.moment.health_factor > CLOSE_FACTOR_THRESHOLD
        if not rules.whole_position_close_factor:
            return percent_mul_half_up(self.debt, CLOSE_FACTOR_BPS) if above else self.debt
        debt_value = rules.debt_value(self.debt, terms.debt_price, terms.debt_unit)
        collateral_value = self.collateral * terms.collateral_price // terms.collateral_unit
        if not above or debt_value < FULL_CLOSE_BELOW or collateral_value < FULL_CLOSE_BELOW:
            return self.debt
        half = percent_mul_half_up(self.moment.total_debt, CLOSE_FACTOR_BPS)
        return half * terms.debt_unit // terms.debt_price if debt_value > half else self.debt

    def asked(self, repay: int) -> int:
        """Collateral with bonus for `repay`, whether it is there or not."""
        terms = self.terms
        base = terms.debt_price * repay * terms.collateral_unit // (terms.collateral_price * terms.debt_unit)
        return terms.rules.max_collateral(base, terms.bonus)

    def call(self, cover: int, *, receive_a_token: bool = False) -> Result | None:
        """What a call with `debtToCover` = `cover` moves; None where it reverts."""
        terms, rules = self.terms, self.terms.rules
        repaid = min(cover, self.cap)
        collateral = self.asked(repaid)
        if collateral > self.collateral:
            collateral = self.collateral
            worth = terms.collateral_price * collateral * terms.debt_unit
            repaid = rules.debt_needed(worth // (terms.debt_price * terms.collateral_unit), terms.bonus)
        fee = 0
        if terms.fee:
            fee = rules.protocol_fee(collateral - rules.bonus_base(collateral, terms.bonus), terms.fee)
        ending = Ending.PARTIAL
        if collateral == self.collateral:
            ending = Ending.COLLATERAL_GONE
        elif repaid >= self.debt:
            ending = Ending.DEBT_GONE
        if ending is Ending.PARTIAL and rules.must_not_leave_dust and not self._leaves_enough(repaid, collateral):
            return None
        if not self._burns_debt(repaid) or not (receive_a_token or self._burns_collateral(collateral - fee)):
            return None
        return Result(repaid, collateral, self._paid_fee(collateral - fee, fee), ending)

    def _leaves_enough(self, repaid: int, collateral: int) -> bool:
        terms = self.terms
        left = terms.rules.debt_value(self.debt - repaid, terms.debt_price, terms.debt_unit)
        rest = (self.collateral - collateral) * terms.collateral_price // terms.collateral_unit
        return left >= MIN_LEFTOVER and rest >= MIN_LEFTOVER

    def _burns_debt(self, repaid: int) -> bool:
        """Burning a scaled amount of zero reverts (ScaledBalanceTokenBase: INVALID_BURN_AMOUNT)."""
        return repaid > 0 and self.terms.rules.debt_burn(repaid, self.moment.debt_index) > 0

    def _burns_collateral(self, received: int) -> bool:
        return self.terms.rules.supply_burn(received, self.moment.supply_index) > 0

    def _paid_fee(self, received: int, fee: int) -> int:
        """The fee is cut to what is left of the borrower's aTokens."""
        rules, index = self.terms.rules, self.moment.supply_index
        left = self.terms.scaled_collateral - rules.supply_burn(received, index)
        return rules.supply_balance(left, index) if fee and rules.supply_burn(fee, index) > left else fee

    def largest_partial(self, available: int) -> int:
        """The largest exact amount that leaves part of both sides (or, without a dust rule, exactly empties one).

        `available` bounds what the liquidator receives. Everything below, down to `smallest`, is accepted as well.
        """
        terms = self.terms
        reach = min(self.collateral, available)
        guess = self._repaid(reach)
        if terms.rules.must_not_leave_dust:
            dust = MIN_LEFTOVER * terms.collateral_unit // terms.collateral_price
            leftover = MIN_LEFTOVER * terms.debt_unit // terms.debt_price
            guess = min(self._repaid(min(self.collateral - dust, reach)), self.debt - leftover)
        return last(lambda repay: self.is_partial(repay, available), 0, self.cap, guess)

    def _repaid(self, collateral: int) -> int:
        """About the debt whose repayment takes so much collateral."""
        terms = self.terms
        worth = terms.collateral_price * collateral * terms.debt_unit
        return worth * BPS // (terms.debt_price * terms.collateral_unit * max(terms.bonus, 1))

    def is_partial(self, repay: int, available: int) -> bool:
        """Whether exactly `repay` leaves part of both sides; what `largest_partial` bounds."""
        collateral = self.asked(repay)
        if collateral > self.collateral or self.received(collateral) > available:
            return False
        if not self.terms.rules.must_not_leave_dust:
            return True
        return repay < self.debt and collateral < self.collateral and self._leaves_enough(repay, collateral)

    def received(self, collateral: int) -> int:
        """What of the taken collateral the liquidator gets."""
        rules, terms = self.terms.rules, self.terms
        if not terms.fee:
            return collateral
        return collateral - rules.protocol_fee(collateral - rules.bonus_base(collateral, terms.bonus), terms.fee)

    def smallest(self) -> int:
        """The smallest amount that burns at least one unit on either side."""
        return last(self.too_small, 0, self.cap, self._repaid(1)) + 1

    def too_small(self, repay: int) -> bool:
        """Whether nothing would be burned on one side."""
        received = self.received(min(self.asked(repay), self.collateral))
        return not (self._burns_debt(repay) and self._burns_collateral(received))


@dataclass(frozen=True, slots=True)
class GasModel:
    """Gas of a liquidation call with its guard and approvals, for one borrower and one pair."""

    base: int
    burned_debts: int  # further debts that are burned when the call takes the borrower's last collateral

    def liquidation(self, whole: Result | None) -> int:
        """Units expected; `whole` is the result of a call for all it can take."""
        last = whole is not None and whole.ending is Ending.COLLATERAL_GONE
        return self.base + (GAS_PER_BURNED_DEBT * self.burned_debts if last else 0)


def gas_model(rules: Rules, debts: int, collaterals: int, *, same_asset: bool) -> GasModel:
    """From the borrower's number of debts and collaterals; constants measured on 3.6 and 3.0.2 bytecode."""
    base = rules.liquidation_gas + GAS_AROUND + GAS_PER_ASSET * (debts + collaterals)
    burned = debts - 1 if rules.burns_deficit and collaterals == 1 else 0
    return GasModel(base - (GAS_SAVED_BY_ONE_ASSET if same_asset else 0), burned)


class AavePair:
    """A ports.Pair. Repay amounts are base units of the debt asset at the position's timestamp.

    `feasible` holds from the position's timestamp until `slack` seconds later, and its partial amounts already at the
    head. Repaying `full` means passing uint256.max: all the debt, or the debt that takes all the collateral. With at
    least `ample` available it does not matter how much there is.
    """

    def __init__(self, now: Quote, head: Quote, late: Quote, available: int, gas: GasModel) -> None:
        self._now = now
        self._gas = gas
        self.terms = now.terms
        self.available = available
        self.ways: dict[tuple[Address, int, bool], Liquidation] = {}  # of calling the market, as made up so far
        self._results: dict[int, Result] = {}
        self.ample = max(quote.collateral for quote in (now, late, head))
        quotes = (now, late, head) if self.terms.rules.must_not_leave_dust else (now, late)
        largest, smallest = now.largest_partial(available), now.smallest()
        for quote in quotes[1:]:  # what is the end at one moment mostly stands at the others
            if largest > quote.cap or not quote.is_partial(largest, available):
                largest = min(largest, quote.largest_partial(available))
            if quote.too_small(smallest):
                smallest = quote.smallest()
        whole, later = now.call(MAX_UINT256), late.call(MAX_UINT256)
        self._whole: Result | None = None
        self._whole_budget = 0
        if (
            whole is not None
            and later is not None
            and Ending.PARTIAL not in (whole.ending, later.ending)
            and max(whole.collateral - whole.fee, later.collateral - later.fee) <= available
        ):
            self._whole = whole
            self._whole_budget = max(whole.repaid, later.repaid)
        self.full = self._whole.repaid if self._whole is not None else None
        intervals = [(smallest, largest)] if smallest <= largest else []
        if self.full is not None and (not intervals or self.full > largest):
            if intervals and self.full == largest + 1:
                intervals = [(smallest, self.full)]
            else:
                intervals.append((self.full, self.full))
        self._feasible = tuple(intervals)

    @property
    def debt(self) -> Token:
        return self.terms.debt

    @property
    def collateral(self) -> Token:
        return self.terms.collateral

    @property
    def debt_price(self) -> int:
        return self.terms.debt_price

    @property
    def collateral_price(self) -> int:
        return self.terms.collateral_price

    @property
    def bonus_bps(self) -> int:
        return self.terms.bonus - BPS

    @property
    def feasible(self) -> tuple[tuple[int, int], ...]:
        return self._feasible

    def cover(self, repay: int) -> int:
        """The `debtToCover` to pass for repaying `repay`."""
        return MAX_UINT256 if repay == self.full else repay

    def result(self, repay: int) -> Result:
        """What repaying `repay` moves at the position's timestamp; raises ValueError where the contract reverts."""
        found = self._results.get(repay)
        if found is None:
            found = self._now.call(self.cover(repay))
            if found is None:
                raise ValueError(
                    f"liquidationCall reverts for {repay} of {self.debt.symbol} against {self.collateral.symbol}"
                )
            self._results[repay] = found
        return found

    def seize(self, repay: int) -> Seizure:
        found = self.result(repay)
        received = self._now.received(found.collateral)
        return Seizure(found.repaid, received, found.fee)

    def gas(self, repay: int) -> int:
        return self._gas.liquidation(self._whole if repay == self.full else None)

    @property
    def others(self) -> tuple[Address, ...]:
        return ()

    def advance(self, repay: int) -> FlashOffer | None:
        return None

    def budget(self, repay: int) -> int:
        return self._whole_budget if repay == self.full else repay
