"""Base paid for one collateral from the store front, after an absorb or without one: what it moves, to the wei."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.maths.percentage import BPS
from keeper.model import Address, FlashOffer, Seizure, Token
from keeper.protocols.compound_v3.arithmetic import Offer

# Measured on the model contract behind its proxy, with what it leaves out (rewards, liquidator points) added.
GAS_BUY = 175_000  # approval, buyCollateral and its prices
GAS_ABSORB = 95_000  # accrual and liquidator points
GAS_PER_ACCOUNT = 75_000  # its guard, its debt and its health
GAS_PER_HOLDING = 60_000  # each collateral of an absorbed account is priced twice and moved


@dataclass(frozen=True, slots=True)
class Absorbed:
    """An account to be absorbed, as it is now."""

    borrower: Address
    principal: int  # negative
    holdings: int  # collateral assets


@dataclass(frozen=True, slots=True)
class CometPair:
    """A ports.Pair. `on_sale` is the collateral in the reserves when everybody of `absorbs` has been absorbed."""

    debt: Token
    collateral: Token
    debt_price: int
    collateral_price: int
    offer: Offer
    on_sale: int
    absorbs: tuple[Absorbed, ...] = ()

    @property
    def bonus_bps(self) -> int:
        """The store front's discount, over par."""
        return self.collateral_price * BPS // self.offer.asked - BPS

    @property
    def feasible(self) -> tuple[tuple[int, int], ...]:
        least, most = self.offer.least(), self.offer.most(self.on_sale)
        return ((least, most),) if least <= most else ()

    def seize(self, repay: int) -> Seizure:
        """Raises ValueError where the contract would refuse."""
        bought = self.offer.quote(repay)
        if not 0 < bought <= self.on_sale:
            raise ValueError(f"{repay} of {self.debt.symbol} buys {bought} of {self.on_sale} {self.collateral.symbol}")
        return Seizure(repay, bought, 0)

    def gas(self, repay: int) -> int:
        if not self.absorbs:
            return GAS_BUY
        holdings = sum(account.holdings for account in self.absorbs)
        return GAS_BUY + GAS_ABSORB + GAS_PER_ACCOUNT * len(self.absorbs) + GAS_PER_HOLDING * holdings

    def budget(self, repay: int) -> int:
        return repay

    def advance(self, repay: int) -> FlashOffer | None:
        return None

    @property
    def others(self) -> tuple[Address, ...]:
        return tuple(account.borrower for account in self.absorbs[1:])
