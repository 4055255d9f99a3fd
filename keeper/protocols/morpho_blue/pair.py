"""A liquidatable position's one pair of debt and collateral: what a call accepts and moves, to the wei."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.maths.percentage import BPS
from keeper.maths.wad_ray import WAD
from keeper.model import OWN_CALLBACK, Address, FlashOffer, Seizure, Token
from keeper.protocols.ends import last
from keeper.protocols.morpho_blue.market import Params, State
from keeper.protocols.morpho_blue.rules import (
    VIRTUAL_SHARES,
    assets_for,
    collateral_for,
    quoted_down,
    to_assets_down,
    to_assets_up,
    to_shares_down,
    to_shares_up,
)


@dataclass(frozen=True, slots=True)
class Call:
    """The two numbers of a call, of which one is zero: collateral to seize, or debt shares to repay."""

    seized: int
    shares: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What a call moves: loan assets, debt shares, collateral."""

    repaid: int
    shares: int
    seized: int


@dataclass(frozen=True, slots=True)
class Moment:
    """A position at one timestamp: the market after accrual, its price, and the incentive factor and most shares."""

    state: State
    price: int
    factor: int  # wad
    shares: int  # owed
    most: int  # shares that one call may repay; at most `shares`
    collateral: int
    must_stay: tuple[int, int] | None = None  # price and LLTV by which what a call leaves must be healthy, if it must

    def assets(self, shares: int) -> int:
        """Loan assets that repaying `shares` takes."""
        return to_assets_up(shares, self.state.borrow_assets, self.state.borrow_shares)

    def run(self, call: Call) -> Moved | None:
        """What a call moves; None where it reverts, or seizes nothing."""
        total_assets, total_shares = self.state.borrow_assets, self.state.borrow_shares
        if call.seized:
            seized = call.seized
            shares = to_shares_up(assets_for(seized, self.price, self.factor), total_assets, total_shares)
        else:
            shares = call.shares
            seized = collateral_for(to_assets_down(shares, total_assets, total_shares), self.price, self.factor)
        if not 0 < seized <= self.collateral or shares > self.most:
            return None
        moved = Moved(self.assets(shares), shares, seized)
        return moved if self.must_stay is None or self._stays(moved, *self.must_stay) else None

    def _stays(self, moved: Moved, price: int, lltv: int) -> bool:
        """Whether what is left is healthy: a pre-liquidation takes collateral out as its borrower could."""
        shares = self.shares - moved.shares
        if not shares:
            return True
        assets = max(self.state.borrow_assets - moved.repaid, 0)
        owed = to_assets_up(shares, assets, self.state.borrow_shares - moved.shares)
        return quoted_down(self.collateral - moved.seized, price) * lltv // WAD >= owed

    def partial(self, repay: int) -> Call:
        """The call that takes the most for at most `repay`.

        The collateral is named, not the shares: then what is repaid does not grow while the call waits for its block.
        """
        shares = to_shares_down(repay, self.state.borrow_assets, self.state.borrow_shares)
        assets = to_assets_down(shares, self.state.borrow_assets, self.state.borrow_shares)
        return Call(collateral_for(assets, self.price, self.factor), 0)


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a pair does not move with time."""

    morpho: Address
    params: Params
    loan: Token
    collateral_token: Token
    collateral_price: int  # 1e-18 of a whole loan token per whole collateral token
    gas: int
    contract: Address | None = None  # the pre-liquidation contract to call, instead of Morpho


class MorphoPair:
    """A ports.Pair. Repay amounts are base units of the loan token at the position's timestamp.

    `feasible` holds from the position's timestamp until the slack after it. Its last amount leaves nothing behind where
    one call can do that: it takes all debt by its shares where the collateral covers it at both ends of that time, and
    all collateral by its amount where it does not (what is still owed is then written off).
    """

    def __init__(self, terms: Terms, now: Moment, late: Moment) -> None:
        self.terms = terms
        self.now = now
        self._late = late
        self._full = self._whole()
        moved = None if self._full is None else now.run(self._full)
        self.full = None if moved is None else moved.repaid
        self._feasible = self._interval()

    def _whole(self) -> Call | None:
        for call in (Call(0, self.now.shares), Call(self.now.collateral, 0)):
            if self.now.run(call) is not None and self._late.run(call) is not None:
                return call
        return None

    def _interval(self) -> tuple[tuple[int, int], ...]:
        end = self.full if self.full is not None else self._most()
        one = assets_for(1, self.now.price, self.now.factor)
        first = last(lambda repay: self.now.partial(repay).seized == 0, 0, end, one) + 1
        if self.full is None:
            if first > end or not self._accepted(first):
                return ()
            end = last(self._accepted, first, end, end)
        return ((min(first, end), end),)

    def _most(self) -> int:
        """Not less than any accepted amount: all shares one call may repay, or the worth of the collateral."""
        now = self.now
        assets = assets_for(now.collateral, now.price, now.factor)
        worth = now.assets(to_shares_up(assets, now.state.borrow_assets, now.state.borrow_shares))
        return min(now.assets(min(now.most, self._late.most)), worth)

    def _accepted(self, repay: int) -> bool:
        call = self.now.partial(repay)
        return call.seized > 0 and self.now.run(call) is not None and self._late.run(call) is not None

    @property
    def debt(self) -> Token:
        return self.terms.loan

    @property
    def collateral(self) -> Token:
        return self.terms.collateral_token

    @property
    def debt_price(self) -> int:
        return WAD

    @property
    def collateral_price(self) -> int:
        return self.terms.collateral_price

    @property
    def bonus_bps(self) -> int:
        return -(-(self.now.factor - WAD) * BPS // WAD)

    @property
    def feasible(self) -> tuple[tuple[int, int], ...]:
        return self._feasible

    @property
    def others(self) -> tuple[Address, ...]:
        return ()

    def call(self, repay: int) -> Call:
        """The call for an amount."""
        return self._full if self._full is not None and repay == self.full else self.now.partial(repay)

    def moved(self, repay: int) -> Moved:
        """What repaying `repay` moves at the position's timestamp; raises ValueError where the contract reverts."""
        found = self.now.run(self.call(repay))
        if found is None:
            raise ValueError(f"liquidate reverts for {repay} of {self.debt.symbol} in market {self.terms.params.place}")
        return found

    def seize(self, repay: int) -> Seizure:
        found = self.moved(repay)
        return Seizure(found.repaid, found.seized, 0)

    def gas(self, repay: int) -> int:
        return self.terms.gas

    def budget(self, repay: int) -> int:
        call, now, late = self.call(repay), self.now, self._late
        repaid = self.moved(repay).repaid
        if call.shares:  # grows with the interest
            later = late.run(call)
            return repaid if later is None else max(repaid, later.repaid)
        if late.state == now.state:
            return repaid
        # The collateral's worth in debt does not move, but rounding it to shares may add up to one share's worth.
        worth = assets_for(call.seized, now.price, min(now.factor, late.factor))
        share = -(-(late.state.borrow_assets + 1) // (late.state.borrow_shares + VIRTUAL_SHARES))
        return max(repaid, worth + share)

    def advance(self, repay: int) -> FlashOffer | None:
        return FlashOffer(OWN_CALLBACK, self.terms.morpho, self.debt.address, self.budget(repay), 0, 0)
