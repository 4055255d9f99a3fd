"""A conversion at a contract's own rate, as a pool the router can trade in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import sqrt
from typing import NamedTuple, Self

from keeper.model import Address
from keeper.venues.curve import NOTHING, Curve, straight

# The level of a fixed rate does not rise, but the search for the best split wants to tell amounts apart.
_RISE = 1e-6  # of the level, over all that can be converted


class Limits(NamedTuple):
    """The most that can be converted at once, each in its own unit: shares, assets, assets, shares."""

    redeem: int
    withdraw: int
    deposit: int
    mint: int


class RatePool(ABC):
    """`share` is worth `assets` / `shares` of `asset`, rounded as the subclass says. Treat as immutable."""

    __slots__ = (
        "address",
        "asset",
        "assets",
        "limits",
        "share",
        "shares",
        "token0",
        "token1",
        "venue",
    )
    lends = False
    fixed_rate = True
    gas_in: int  # of wrapping
    gas_out: int  # of unwrapping

    def __init__(
        self,
        venue: str,
        share: Address,
        asset: Address,
        assets: int,
        shares: int,
        limits: Limits,
    ) -> None:
        self.venue = venue
        self.address = share
        self.share = share
        self.asset = asset
        self.token0, self.token1 = sorted((share, asset))
        self.assets = assets
        self.shares = shares
        self.limits = limits

    @abstractmethod
    def redeemed(self, shares: int) -> int:
        """What `shares` bring for certain."""

    @abstractmethod
    def redeeming(self, assets: int) -> int:
        """The shares that bring `assets`."""

    @abstractmethod
    def deposited(self, assets: int) -> int:
        """The shares that `assets` bring."""

    @abstractmethod
    def depositing(self, shares: int) -> int:
        """The assets that bring `shares`."""

    @abstractmethod
    def after(self, assets: int, shares: int) -> Self:
        """The conversion once its totals have changed by these."""

    def pairs(self) -> tuple[Self, ...]:
        """It has two tokens."""
        return (self,)

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`; None beyond what can be converted."""
        out = self._unwraps(zero_for_one)
        if not 0 < amount_in <= self._most(zero_for_one):
            return None
        return self.redeemed(amount_in) if out else self.deposited(amount_in)

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`; None beyond what can be converted."""
        out = self._unwraps(zero_for_one)
        if not 0 < amount_out <= (self.limits.withdraw if out else self.limits.mint):
            return None
        return self.redeeming(amount_out) if out else self.depositing(amount_out)

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """One piece, all but level."""
        (out, into), most = self.spot(zero_for_one), self._most(zero_for_one)
        if not most or not out or not into:
            return NOTHING
        level = sqrt(into / out)
        return straight(level, level * (1 + _RISE), float(most), self.gas(zero_for_one, most))

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the conversion afterwards)."""
        out = self.quote_in(zero_for_one, amount_in)
        return None if out is None else (out, self._traded(zero_for_one, amount_in, out))

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the conversion afterwards)."""
        paid = self.quote_out(zero_for_one, amount_out)
        return None if paid is None else (paid, self._traded(zero_for_one, paid, amount_out))

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """The rate as (out, in)."""
        return (self.assets, self.shares) if self._unwraps(zero_for_one) else (self.shares, self.assets)

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of the conversion."""
        return self.gas_out if self._unwraps(zero_for_one) else self.gas_in

    def _unwraps(self, zero_for_one: bool) -> bool:
        return zero_for_one == (self.token0 == self.share)

    def _most(self, zero_for_one: bool) -> int:
        return self.limits.redeem if self._unwraps(zero_for_one) else self.limits.deposit

    def _traded(self, zero_for_one: bool, paid: int, out: int) -> Self:
        return self.after(-out, -paid) if self._unwraps(zero_for_one) else self.after(paid, out)
