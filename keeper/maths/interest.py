"""Interest factors in ray for a yearly rate in ray over whole seconds (Aave's MathUtils)."""

from __future__ import annotations

from keeper.maths.wad_ray import RAY, ray_mul_half_up

SECONDS_PER_YEAR = 365 * 24 * 3600


def linear_interest(rate: int, seconds: int) -> int:
    """1 + rate·seconds/year, division rounded down (MathUtils.calculateLinearInterest)."""
    return RAY + rate * seconds // SECONDS_PER_YEAR


def compounded_interest_binomial(rate: int, seconds: int) -> int:
    """Three terms of the binomial expansion (MathUtils.calculateCompoundedInterest, Aave 3.0 to 3.3)."""
    if seconds == 0:
        return RAY
    squared = ray_mul_half_up(rate, rate) // (SECONDS_PER_YEAR * SECONDS_PER_YEAR)
    cubed = ray_mul_half_up(squared, rate) // SECONDS_PER_YEAR
    second = seconds * (seconds - 1) * squared // 2
    third = seconds * (seconds - 1) * max(seconds - 2, 0) * cubed // 6
    return RAY + rate * seconds // SECONDS_PER_YEAR + second + third


def compounded_interest_taylor(rate: int, seconds: int) -> int:
    """Three terms of e^x with x = rate·seconds/year (MathUtils.calculateCompoundedInterest, since Aave 3.4)."""
    x = rate * seconds // SECONDS_PER_YEAR
    return RAY + x + ray_mul_half_up(x, x // 2 + ray_mul_half_up(x, x // 6))
