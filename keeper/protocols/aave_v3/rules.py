"""What each deployed version of Aave V3 does differently, in one table keyed by `Pool.POOL_REVISION`.

Sources: aave-v3-core (3.0.x) and the tags v3.1 to v3.7 of aave-v3-origin. Revisions 6 and 7 both carry 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from keeper.maths.integer import mul_div_down, mul_div_up
from keeper.maths.interest import compounded_interest_binomial, compounded_interest_taylor
from keeper.maths.percentage import (
    percent_div_down,
    percent_div_half_up,
    percent_div_up,
    percent_mul_down,
    percent_mul_half_up,
    percent_mul_up,
)
from keeper.maths.wad_ray import (
    ray_div_down,
    ray_div_half_up,
    ray_div_up,
    ray_mul_down,
    ray_mul_half_up,
    ray_mul_up,
)

Binary = Callable[[int, int], int]

CLOSE_FACTOR_THRESHOLD = 95 * 10**16  # wad; LiquidationLogic.CLOSE_FACTOR_HF_THRESHOLD
SENTINEL_BYPASS = 95 * 10**16  # wad; ValidationLogic.MINIMUM_HEALTH_FACTOR_LIQUIDATION_THRESHOLD
CLOSE_FACTOR_BPS = 5_000  # LiquidationLogic.DEFAULT_LIQUIDATION_CLOSE_FACTOR
FULL_CLOSE_BELOW = 2_000 * 10**8  # base currency; LiquidationLogic.MIN_BASE_MAX_CLOSE_FACTOR_THRESHOLD
MIN_LEFTOVER = FULL_CLOSE_BELOW // 2  # base currency; LiquidationLogic.MIN_LEFTOVER_BASE


@dataclass(frozen=True, slots=True)
class Rules:
    """One version's arithmetic and preconditions. Functions take and return base units unless said otherwise."""

    version: str

    supply_balance: Binary  # (scaled, liquidity index) → aToken balance
    debt_balance: Binary  # (scaled, variable borrow index) → debt
    supply_burn: Binary  # (amount, index) → scaled, when aTokens are burned or transferred
    debt_burn: Binary  # (amount, index) → scaled, when debt is burned
    debt_value: Callable[[int, int, int], int]  # (amount, price, unit) → base currency
    compounded_interest: Binary  # (yearly rate in ray, seconds) → factor in ray

    exact_threshold: bool  # health from Σ value·threshold; before, from the average threshold floored to whole bps
    needs_reserve_threshold: bool  # a reserve whose own threshold is zero never counts as collateral
    liquid_emodes: bool  # an e-mode lists its collaterals in a bitmap; before, a reserve named its one category
    emode_price_source: bool  # an e-mode may price its assets from one common source

    whole_position_close_factor: bool  # the 50 % cap counts the whole debt, with the $2,000 exception (3.3)
    must_not_leave_dust: bool  # leftovers of at least $1,000 on both sides, or nothing on one (3.3)
    burns_deficit: bool  # debts left without collateral are burned in the same call (3.3)
    grace_period: bool  # reserves have `liquidationGracePeriodUntil` (3.1)
    sentinel: bool  # a price oracle sentinel can forbid liquidations (until 3.6)
    virtual_balance: bool  # withdrawals are bounded by the accounted, not the actual, underlying (3.1)
    every_reserve_virtual: bool  # no reserve (GHO) is exempt from that, nor values its debt by `balanceOf` (3.4)
    forbids_self_liquidation: bool  # since 3.4

    rolls_collateral_index: bool  # liquidations with receiveAToken roll the collateral's indices without an event (3.5)
    balance_events: bool  # Mint and Burn state differences of balances; before, the amount asked for (3.5)

    max_collateral: Binary  # (base collateral, bonus bps) → collateral with bonus
    debt_needed: Binary  # (debt for all collateral with bonus, bonus bps) → debt to repay
    bonus_base: Binary  # (collateral, bonus bps) → the part of it that is not bonus
    protocol_fee: Binary  # (bonus, fee bps) → fee
    flash_premium: Binary  # (amount, premium bps) → premium

    liquidation_gas: int  # of liquidationCall itself, before what each asset of the borrower adds


_V3_0 = Rules(
    version="3.0",
    supply_balance=ray_mul_half_up,
    debt_balance=ray_mul_half_up,
    supply_burn=ray_div_half_up,
    debt_burn=ray_div_half_up,
    debt_value=mul_div_down,
    compounded_interest=compounded_interest_binomial,
    exact_threshold=False,
    needs_reserve_threshold=True,
    liquid_emodes=False,
    emode_price_source=True,
    whole_position_close_factor=False,
    must_not_leave_dust=False,
    burns_deficit=False,
    grace_period=False,
    sentinel=True,
    virtual_balance=False,
    every_reserve_virtual=True,
    forbids_self_liquidation=False,
    rolls_collateral_index=False,
    balance_events=False,
    max_collateral=percent_mul_half_up,
    debt_needed=percent_div_half_up,
    bonus_base=percent_div_half_up,
    protocol_fee=percent_mul_half_up,
    flash_premium=percent_mul_half_up,
    liquidation_gas=335_000,
)
_V3_1 = replace(_V3_0, version="3.1", grace_period=True, virtual_balance=True, every_reserve_virtual=False)
_V3_2 = replace(_V3_1, version="3.2", liquid_emodes=True, emode_price_source=False)
_V3_3 = replace(_V3_2, version="3.3", whole_position_close_factor=True, must_not_leave_dust=True, burns_deficit=True)
_V3_4 = replace(
    _V3_3,
    version="3.4",
    compounded_interest=compounded_interest_taylor,
    every_reserve_virtual=True,
    forbids_self_liquidation=True,
)
_V3_5 = replace(
    _V3_4,
    version="3.5",
    supply_balance=ray_mul_down,
    debt_balance=ray_mul_up,
    supply_burn=ray_div_up,
    debt_burn=ray_div_down,
    debt_value=mul_div_up,
    exact_threshold=True,
    rolls_collateral_index=True,
    balance_events=True,
    debt_needed=percent_div_up,
    flash_premium=percent_mul_up,
    liquidation_gas=265_000,
)
_V3_6 = replace(_V3_5, version="3.6", needs_reserve_threshold=False)
_V3_7 = replace(
    _V3_6,
    version="3.7",
    sentinel=False,
    max_collateral=percent_mul_down,
    bonus_base=percent_div_down,
    protocol_fee=percent_mul_up,
)

RULES: dict[int, Rules] = {
    1: _V3_0,
    2: _V3_0,
    3: _V3_0,
    4: _V3_1,
    5: _V3_2,
    6: _V3_3,
    7: _V3_3,
    8: _V3_4,
    9: _V3_5,
    10: _V3_6,
    11: _V3_7,
}
NEWEST = _V3_7  # what an unknown revision is shown with, read-only
