"""Integer division with the rounding in the name. Nothing is negative, and no divisor is zero."""

from __future__ import annotations


def mul_div_down(a: int, b: int, divisor: int) -> int:
    """⌊a·b / divisor⌋, as Solidity's ``a * b / divisor``."""
    return a * b // divisor


def mul_div_up(a: int, b: int, divisor: int) -> int:
    """⌈a·b / divisor⌉, as Aave's MathUtils.mulDivCeil."""
    return -(-a * b // divisor)


def mul_div_half_up(a: int, b: int, divisor: int) -> int:
    """a·b / divisor to the nearest integer; what lies within ⌊divisor/2⌋ below goes up."""
    return (a * b + divisor // 2) // divisor
