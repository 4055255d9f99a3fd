"""Morpho Blue's arithmetic, rounded as the contract rounds. Factors and rates per second are wads."""

from __future__ import annotations

from keeper.maths.integer import mul_div_down, mul_div_up
from keeper.maths.wad_ray import WAD

ORACLE_SCALE = 10**36
VIRTUAL_SHARES = 10**6
VIRTUAL_ASSETS = 1
LIQUIDATION_CURSOR = 3 * 10**17
MAX_INCENTIVE = 115 * 10**16


def to_shares_down(assets: int, total_assets: int, total_shares: int) -> int:
    """Shares for `assets`, rounded down (SharesMathLib.toSharesDown)."""
    return mul_div_down(assets, total_shares + VIRTUAL_SHARES, total_assets + VIRTUAL_ASSETS)


def to_shares_up(assets: int, total_assets: int, total_shares: int) -> int:
    """Shares for `assets`, rounded up (SharesMathLib.toSharesUp)."""
    return mul_div_up(assets, total_shares + VIRTUAL_SHARES, total_assets + VIRTUAL_ASSETS)


def to_assets_down(shares: int, total_assets: int, total_shares: int) -> int:
    """Assets for `shares`, rounded down (SharesMathLib.toAssetsDown)."""
    return mul_div_down(shares, total_assets + VIRTUAL_ASSETS, total_shares + VIRTUAL_SHARES)


def to_assets_up(shares: int, total_assets: int, total_shares: int) -> int:
    """Assets for `shares`, rounded up (SharesMathLib.toAssetsUp)."""
    return mul_div_up(shares, total_assets + VIRTUAL_ASSETS, total_shares + VIRTUAL_SHARES)


def compounded(rate: int, seconds: int) -> int:
    """e^(rate·seconds) − 1 by three terms of its series, each rounded down (MathLib.wTaylorCompounded)."""
    first = rate * seconds
    second = first * first // (2 * WAD)
    return first + second + second * first // (3 * WAD)


def incentive(lltv: int) -> int:
    """The liquidation incentive factor: collateral received per debt repaid, in value (Morpho.liquidate)."""
    gap = LIQUIDATION_CURSOR * (WAD - lltv) // WAD
    return min(MAX_INCENTIVE, WAD * WAD // (WAD - gap))


def quoted_down(collateral: int, price: int) -> int:
    """What collateral is worth in loan assets, rounded down."""
    return mul_div_down(collateral, price, ORACLE_SCALE)


def quoted_up(collateral: int, price: int) -> int:
    """What collateral is worth in loan assets, rounded up."""
    return mul_div_up(collateral, price, ORACLE_SCALE)


def assets_for(seized: int, price: int, factor: int) -> int:
    """Debt that pays for `seized` collateral at an incentive factor, rounded up twice (Morpho.liquidate)."""
    return mul_div_up(quoted_up(seized, price), WAD, factor)


def collateral_for(assets: int, price: int, factor: int) -> int:
    """Collateral that `assets` of debt pay for at an incentive factor, rounded down twice (Morpho.liquidate)."""
    return mul_div_down(mul_div_down(assets, factor, WAD), ORACLE_SCALE, price)
