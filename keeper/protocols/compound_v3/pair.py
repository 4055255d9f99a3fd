"""Base paid for one collateral from the store front, after an absorb or without one: what it moves, to the wei."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.maths.integer import mul_div_up
from keeper.maths.percentage import BPS
from keeper.model import Address, FlashOffer, Seizure, Token
from keeper.protocols.compound_v3.arithmetic import Offer

# Measured on the model contract behind its proxy; what it leaves out (rewards, liquidator points) is added.
GAS_BUY = 150_000  # guard, approval, buyCollateral and its prices
GAS_BUY_AFTER = 110_000  # the same when an absorb has touched prices and assets before
GAS_ABSORB = 60_000  # accrual and liquidator points
GAS_PER_ACCOUNT = 32_000  # its guard and its debt
GAS_PER_HOLDING = 18_000  # each collateral of each account is priced twice and moved
GAS_PER_ASSET = 28_000  # the first time one is priced


@dataclass(frozen=True, slots=True)
class Absorbed:
    """An account to be absorbed, as it is now."""

    borrower: Address
    principal: int  # negative
    holdings: int  # how many collateral assets it has


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
    assets: int = 0  # different collateral assets of those accounts
    front: bool = False  # what is on sale without the absorb, a position of its own, is part of it

    @property
    def bonus_bps(self) -> int:
        """The store front's discount, over par, rounded up."""
        return mul_div_up(self.collateral_price, BPS, self.offer.asked) - BPS

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
        accounts = GAS_PER_ACCOUNT * len(self.absorbs) + GAS_PER_HOLDING * holdings
        return GAS_BUY_AFTER + GAS_ABSORB + accounts + GAS_PER_ASSET * self.assets

    def budget(self, repay: int) -> int:
        return repay

    def advance(self, repay: int) -> FlashOffer | None:
        return None

    @property
    def others(self) -> tuple[Address, ...]:
        """The further accounts; and the collateral's token, by which its own position is known, where it is part."""
        accounts = tuple(account.borrower for account in self.absorbs[1:])
        return (*accounts, self.collateral.address) if self.front else accounts
