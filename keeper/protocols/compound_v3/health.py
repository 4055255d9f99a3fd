"""What accounts are worth at one timestamp, in integers as Comet computes it and in floats for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.maths.integer import mul_div_down
from keeper.model import MAX_UINT256, WAD, Address
from keeper.protocols.compound_v3.arithmetic import INDEX, Offer, accrued, asked_price, present
from keeper.protocols.compound_v3.market import Asset, Market
from keeper.protocols.compound_v3.state import State
from keeper.protocols.compound_v3.weights import DEBT, KINDS, kind

# The screen's floats are off by at most 2^-47 of a sum of 24 terms: far inside this margin, by which collateral counts
# less and debt more.
SCREEN_MARGIN = 1e-9

Holding = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Health:
    """Values in base currency, factor in wad (MAX_UINT256 where nothing of value is owed)."""

    collateral: int
    debt: int
    factor: int


class Valuation:
    """A market's indices and prices at `timestamp`.

    `absorb` accrues before it judges, so health is by the indices of that moment; the contract's view `isLiquidatable`
    uses those stored at the last action, which are these for `timestamp` = `totals.accrued_at`.
    """

    def __init__(self, market: Market, state: State, timestamp: int) -> None:
        self.market, self.state, self.timestamp = market, state, timestamp
        self.supply_index, self.borrow_index = accrued(
            state.totals, market.supply_curve, market.borrow_curve, timestamp
        )

    @property
    def base_price(self) -> int | None:
        """Base currency per whole base token."""
        return self.price(self.market.base.address)

    def price(self, asset: Address) -> int | None:
        """Base currency per whole token, None while unknown."""
        return self.state.prices.get(asset)

    def owed(self, principal: int) -> int:
        """Base owed by a negative principal (CometCore.presentValue)."""
        return present(max(-principal, 0), self.borrow_index)

    def value(self, asset: Asset, amount: int, price: int) -> int:
        """CometWithExtendedAssetList.mulPrice: base currency."""
        return mul_div_down(amount, price, asset.scale)

    def health(self, principal: int, holdings: Iterable[Holding]) -> Health | None:
        """Below 1e18 exactly where an absorb at `timestamp` would find the account liquidatable.

        None when a price it depends on is unknown. The contract stops asking for prices once the debt is covered, so
        an account that is unknown here may be known there, and healthy.
        """
        base_price = self.base_price
        if base_price is None:
            return None
        debt = mul_div_down(self.owed(principal), base_price, self.market.base_scale)
        collateral = weighted = 0
        for token, amount in holdings:
            asset = self.market.by_asset.get(token)
            if asset is None:
                continue
            price = self.price(token)
            if price is None:
                return None
            value = self.value(asset, amount, price)
            collateral += value
            weighted += mul_div_down(value, asset.liquidate_factor, WAD)
        return Health(collateral, debt, weighted * WAD // debt if debt else MAX_UINT256)

    def credit(self, holdings: Iterable[Holding]) -> int | None:
        """Base credited for collateral that is absorbed (CometWithExtendedAssetList.absorbInternal)."""
        base_price, value = self.base_price, 0
        for token, amount in holdings:
            asset = self.market.by_asset.get(token)
            if asset is None:
                continue
            price = self.price(token)
            if price is None:
                return None
            value += mul_div_down(self.value(asset, amount, price), asset.liquidation_factor, WAD)
        return None if base_price is None else mul_div_down(value, self.market.base_scale, base_price)

    def offer(self, asset: Asset) -> Offer | None:
        """The store front's terms; None while a price is unknown, or where it asks nothing."""
        base_price, price = self.base_price, self.price(asset.token.address)
        if base_price is None or price is None:
            return None
        asked = asked_price(price, self.market.front_factor, asset.liquidation_factor)
        return Offer(base_price, asked, self.market.base_scale, asset.scale) if asked else None

    # The screen: what is unknown counts nothing, so that its holders pass; the exact answer then says unknown.

    def factors(self, slots: Mapping[Address, int]) -> NDArray[np.float64]:
        """Base currency per base unit of collateral, up to its liquidation factor, and (negative) of principal owed.

        By kind of entry in `Weights`.
        """
        found = np.zeros(KINDS)
        for asset in self.market.assets:
            slot = slots.get(asset.token.address)
            if slot is not None:
                value = (self.price(asset.token.address) or 0) * asset.liquidate_factor / (asset.scale * WAD)
                found[kind(slot)] = value * (1 - SCREEN_MARGIN)
        debt = self.borrow_index * (self.base_price or 0) / (INDEX * self.market.base_scale)
        found[kind(DEBT)] = -debt * (1 + SCREEN_MARGIN)
        return found

    @property
    def screen_slack(self) -> float:
        """Base currency a healthy-looking account may be above zero and still pass: what rounding can hide."""
        return 2.0 * len(self.market.assets) + 2.0
