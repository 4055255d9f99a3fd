"""Percentages in basis points (10,000 = 100 %), rounded as Aave's PercentageMath does."""

from __future__ import annotations

from keeper.maths.integer import mul_div_down, mul_div_half_up, mul_div_up

BPS = 10_000


def percent_mul_half_up(value: int, bps: int) -> int:
    """value·bps / 1e4, half up (PercentageMath.percentMul)."""
    return mul_div_half_up(value, bps, BPS)


def percent_mul_down(value: int, bps: int) -> int:
    """⌊value·bps / 1e4⌋ (PercentageMath.percentMulFloor)."""
    return mul_div_down(value, bps, BPS)


def percent_mul_up(value: int, bps: int) -> int:
    """⌈value·bps / 1e4⌉ (PercentageMath.percentMulCeil)."""
    return mul_div_up(value, bps, BPS)


def percent_div_half_up(value: int, bps: int) -> int:
    """value·1e4 / bps, half up (PercentageMath.percentDiv)."""
    return mul_div_half_up(value, BPS, bps)


def percent_div_down(value: int, bps: int) -> int:
    """⌊value·1e4 / bps⌋ (PercentageMath.percentDivFloor, since Aave 3.7)."""
    return mul_div_down(value, BPS, bps)


def percent_div_up(value: int, bps: int) -> int:
    """⌈value·1e4 / bps⌉ (PercentageMath.percentDivCeil, since Aave 3.5)."""
    return mul_div_up(value, BPS, bps)
