"""Fixed-point numbers of 18 (wad) and 27 (ray) decimals, rounded as Aave's WadRayMath does.

A ray product or quotient of a scaled amount and an index is an amount in the token's base units, and back.
"""

from __future__ import annotations

from keeper.maths.integer import mul_div_down, mul_div_half_up, mul_div_up

WAD = 10**18
RAY = 10**27


def wad_div_half_up(a: int, b: int) -> int:
    """a·1e18 / b, half up (WadRayMath.wadDiv)."""
    return mul_div_half_up(a, WAD, b)


def ray_mul_half_up(a: int, b: int) -> int:
    """a·b / 1e27, half up (WadRayMath.rayMul)."""
    return mul_div_half_up(a, b, RAY)


def ray_mul_down(a: int, b: int) -> int:
    """⌊a·b / 1e27⌋ (WadRayMath.rayMulFloor, since Aave 3.5)."""
    return mul_div_down(a, b, RAY)


def ray_mul_up(a: int, b: int) -> int:
    """⌈a·b / 1e27⌉ (WadRayMath.rayMulCeil, since Aave 3.5)."""
    return mul_div_up(a, b, RAY)


def ray_div_half_up(a: int, b: int) -> int:
    """a·1e27 / b, half up (WadRayMath.rayDiv)."""
    return mul_div_half_up(a, RAY, b)


def ray_div_down(a: int, b: int) -> int:
    """⌊a·1e27 / b⌋ (WadRayMath.rayDivFloor, since Aave 3.5)."""
    return mul_div_down(a, RAY, b)


def ray_div_up(a: int, b: int) -> int:
    """⌈a·1e27 / b⌉ (WadRayMath.rayDivCeil, since Aave 3.5)."""
    return mul_div_up(a, RAY, b)
