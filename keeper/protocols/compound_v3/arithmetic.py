"""Comet's arithmetic in integers. Indices are scaled by 1e15, factors, utilisation and rates per second are wad.

Every function rounds down unless its name says otherwise, as CometCore and Comet do.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeper.maths.integer import mul_div_down, mul_div_up
from keeper.model import WAD
from keeper.protocols.compound_v3.contract import Totals

INDEX = 10**15


@dataclass(frozen=True, slots=True)
class Curve:
    """One side's interest rate by utilisation: `base` and slopes per second, all wad."""

    kink: int
    slope_low: int
    slope_high: int
    base: int

    def rate(self, utilisation: int) -> int:
        """Comet.getSupplyRate and getBorrowRate."""
        below = self.base + mul_div_down(self.slope_low, min(utilisation, self.kink), WAD)
        return below + mul_div_down(self.slope_high, max(utilisation - self.kink, 0), WAD)


def present(principal: int, index: int) -> int:
    """CometCore.presentValueSupply and presentValueBorrow, of a principal that is not negative."""
    return mul_div_down(principal, index, INDEX)


def supply_principal(value: int, index: int) -> int:
    """CometCore.principalValueSupply."""
    return mul_div_down(value, INDEX, index)


def borrow_principal_up(value: int, index: int) -> int:
    """CometCore.principalValueBorrow."""
    return mul_div_up(value, INDEX, index)


def utilisation(totals: Totals) -> int:
    """Comet.getUtilization: by the stored indices."""
    supplied = present(totals.supply, totals.supply_index)
    return 0 if supplied == 0 else mul_div_down(present(totals.borrow, totals.borrow_index), WAD, supplied)


def accrued(totals: Totals, supply: Curve, borrow: Curve, timestamp: int) -> tuple[int, int]:
    """Supply and borrow index at `timestamp` if nothing happens until then (Comet.accruedInterestIndices)."""
    elapsed = max(timestamp - totals.accrued_at, 0)
    used = utilisation(totals)
    return (
        totals.supply_index + mul_div_down(totals.supply_index, supply.rate(used) * elapsed, WAD),
        totals.borrow_index + mul_div_down(totals.borrow_index, borrow.rate(used) * elapsed, WAD),
    )


def asked_price(price: int, front_factor: int, liquidation_factor: int) -> int:
    """What the store front asks for a whole token, base currency (the first half of Comet.quoteCollateral)."""
    discount = mul_div_down(front_factor, WAD - liquidation_factor, WAD)
    return mul_div_down(price, WAD - discount, WAD)


@dataclass(frozen=True, slots=True)
class Offer:
    """The store front's terms for one collateral: prices are base currency per whole token."""

    base_price: int
    asked: int
    base_scale: int
    scale: int

    def quote(self, base: int) -> int:
        """Collateral for so much base (the second half of Comet.quoteCollateral)."""
        return self.base_price * base * self.scale // self.asked // self.base_scale

    def least(self) -> int:
        """The least base that buys anything."""
        return mul_div_up(1, self.asked * self.base_scale, self.base_price * self.scale)

    def most(self, reserves: int) -> int:
        """The most base worth paying for `reserves` of the collateral: more buys nothing more, or is refused."""
        worth, each = self.asked * self.base_scale, self.base_price * self.scale
        return min(mul_div_up(reserves, worth, each), ((reserves + 1) * worth - 1) // each)
