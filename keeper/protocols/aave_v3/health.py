"""What positions are worth at one timestamp, in integers as the pool computes it and in floats for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.maths.interest import linear_interest
from keeper.maths.percentage import BPS, percent_mul_half_up
from keeper.maths.wad_ray import RAY, ray_mul_half_up, wad_div_half_up
from keeper.model import MAX_UINT256, Address
from keeper.ports import Position
from keeper.protocols.aave_v3.ledger import DEBT, EMODES, KINDS, kind, slot
from keeper.protocols.aave_v3.market import Category, Market, Reserve, State

# The screen's floats are off by at most 2^-50 a term and 2^-44 over the terms of one user (a reserve has two, there are
# 128): far inside this margin, by which collateral counts less and debt more.
SCREEN_MARGIN = 1e-9

Entry = tuple[int, int, int, bool]  # reserve, side, scaled amount, used as collateral


@dataclass(frozen=True, slots=True)
class Health:
    """GenericLogic.calculateUserAccountData: values in base currency, factor in wad (MAX_UINT256 without debt)."""

    collateral: int
    debt: int
    factor: int


class Valuation:
    """A market's prices and indices at `timestamp`. A price that is missing or zero makes what needs it unknown."""

    def __init__(
        self, market: Market, states: Mapping[int, State], prices: Mapping[Address, int | None], timestamp: int
    ) -> None:
        self.market = market
        self.timestamp = timestamp
        self._states = states
        self._prices = prices
        self.positions: dict[Address, Position] = {}  # as built so far; none outlives a change of the market
        self._indices: dict[int, tuple[int, int]] = {}

    def indices(self, reserve: int) -> tuple[int, int]:
        """Supply and debt index in ray (ReserveLogic.getNormalizedIncome and getNormalizedDebt).

        Raises BadData for a reserve whose state was never read: a node that listed it only now and then.
        """
        found = self._indices.get(reserve)
        if found is None:
            state = self._states.get(reserve)
            if state is None:
                raise BadData(f"reserve {reserve} is listed, but nothing is known of its interest")
            elapsed = max(self.timestamp - state.updated, 0)
            factor = self.market.rules.compounded_interest(state.debt_rate, elapsed)
            found = (
                ray_mul_half_up(linear_interest(state.supply_rate, elapsed), state.supply_index),
                ray_mul_half_up(factor, state.debt_index),
            )
            self._indices[reserve] = found
        return found

    def category(self, reserve: Reserve, emode: int) -> Category | None:
        """The user's e-mode, if the reserve is a collateral of it."""
        category = self.market.categories.get(emode) if emode else None
        return category if category is not None and category.collaterals >> reserve.id & 1 else None

    def threshold(self, reserve: Reserve, emode: int) -> int:
        """Liquidation threshold in bps for a user of that e-mode; zero when the reserve does not count."""
        if self.market.rules.needs_reserve_threshold and reserve.threshold == 0:
            return 0
        category = self.category(reserve, emode)
        return reserve.threshold if category is None else category.threshold

    def bonus(self, reserve: Reserve, emode: int) -> int:
        """Liquidation bonus in bps (10,500 = 5 %) for a user of that e-mode."""
        category = self.category(reserve, emode)
        return reserve.bonus if category is None else category.bonus

    def price(self, reserve: Reserve, emode: int) -> int | None:
        """Base currency per whole token as health counts it; None while unknown."""
        source = self._emode_source(emode)
        if source is not None:
            common = self._price(source)
            if common is None:
                return None  # the pool asks for it whatever the user holds
            if reserve.emode_category == emode:
                return common
        return self._price(reserve.token.address)

    def seizure_price(self, reserve: Reserve, emode: int, side: int) -> int | None:
        """The price a liquidation uses (LiquidationLogic._getConfigurationData): an e-mode's source covers any debt."""
        source = self._emode_source(emode)
        if source is not None and (side == DEBT or self.category(reserve, emode) is not None):
            return self._price(source)
        return self._price(reserve.token.address)

    def health(self, entries: Iterable[Entry], emode: int) -> Health | None:
        """A user's account data; None when a price or a balance it depends on is unknown."""
        rules = self.market.rules
        collateral = debt = weighted = 0
        for number, side, scaled, enabled in entries:
            reserve = self.market.reserves.get(number)
            if reserve is None or not (scaled if side == DEBT else enabled):
                continue
            price = self.price(reserve, emode)
            if price is None:
                return None
            if side == DEBT:
                if not (rules.every_reserve_virtual or reserve.virtual):
                    return None
                amount = rules.debt_balance(scaled, self.indices(number)[1])
                debt += rules.debt_value(amount, price, reserve.unit)
            elif reserve.threshold or not rules.needs_reserve_threshold:
                value = rules.supply_balance(scaled, self.indices(number)[0]) * price // reserve.unit
                collateral += value
                weighted += value * self.threshold(reserve, emode)
        if debt == 0:
            return Health(collateral, 0, MAX_UINT256)
        if rules.exact_threshold:
            return Health(collateral, debt, wad_div_half_up(weighted, debt) // BPS)
        average = weighted // collateral if collateral else 0
        return Health(collateral, debt, wad_div_half_up(percent_mul_half_up(collateral, average), debt))

    def factors(self, emodes: Iterable[int]) -> NDArray[np.float64]:
        """Value per unit of scaled amount by kind of entry: collateral up to its threshold positive, debt negative.

        Exact for `emodes`; for all others as if the user were in none.
        What is unknown gets a factor that lets its holders through; the exact answer then says unknown.
        """
        factors = np.zeros(KINDS)
        reserves = self.market.reserves
        for reserve in reserves.values():
            for side, value in enumerate(self._values(reserve, 0)):
                first = kind(slot(reserve.id, side), 0)
                factors[first : first + EMODES] = value
        for emode in emodes:
            category = self.market.categories.get(emode) if emode else None
            if category is None:
                continue
            everywhere = (
                self._emode_source(emode) is not None
            )  # whatever the user holds, the common price must be there
            for reserve in reserves.values():
                if everywhere or category.collaterals >> reserve.id & 1:
                    for side, value in enumerate(self._values(reserve, emode)):
                        factors[kind(slot(reserve.id, side), emode)] = value
        return factors

    def _values(self, reserve: Reserve, emode: int) -> tuple[float, float]:
        """Base currency per unit of scaled supply, up to its threshold, and (negative) of scaled debt."""
        rounding = 0 if self.market.rules.exact_threshold else 1  # the average threshold loses less than one bps
        supply_index, debt_index = self.indices(reserve.id)
        price, unit = self.price(reserve, emode) or 0, RAY * reserve.unit
        supply = supply_index * price * max(self.threshold(reserve, emode) - rounding, 0) / (unit * BPS)
        return supply * (1 - SCREEN_MARGIN), -(debt_index * price / unit) * (1 + SCREEN_MARGIN)

    @property
    def screen_slack(self) -> float:
        """Base currency a healthy-looking user may be above zero and still pass: what rounding to it can hide."""
        return 4.0 * len(self.market.reserves) + 2.0

    def unknown(self) -> dict[Address, str]:
        """Assets and e-mode price sources without a usable price."""
        return {key: "no price" for key, price in self._prices.items() if not price}

    def native_price(self, asset: Address | None) -> int | None:
        """Base currency per whole `asset`, None when the market does not list it."""
        return None if asset is None else self._price(asset)

    def _emode_source(self, emode: int) -> Address | None:
        if not emode or not self.market.rules.emode_price_source:
            return None
        category = self.market.categories.get(emode)
        return None if category is None else category.price_source

    def _price(self, key: Address) -> int | None:
        return self._prices.get(key) or None
