"""One step of a swap inside one range of constant liquidity, as ``SwapMath.sol`` and ``SqrtPriceMath.sol``.

Prices are sqrt prices in Q64.96, liquidity and amounts are plain integers, fees are in pips (1e-6). Division floors
unless the name says ``up``; the contract's 512-bit ``mulDiv`` is Python's unbounded ``*`` and ``//``. Where it divides
twice and rounds the same way, dividing by the product is the same. ⌈n / d⌉ is written as (n − 1) // d + 1 where it is
asked often: negative numbers take longer.
"""

from __future__ import annotations

from keeper.model import MAX_UINT256

FEE_UNIT = 1_000_000


def amount0_up(low: int, high: int, liquidity: int) -> int:
    """Token0 between two prices, rounded up: ``SqrtPriceMath.getAmount0Delta(…, true)``."""
    return -(-(liquidity << 96) * (high - low) // (high * low))


def amount0_down(low: int, high: int, liquidity: int) -> int:
    """Token0 between two prices, rounded down: ``SqrtPriceMath.getAmount0Delta(…, false)``."""
    return (liquidity << 96) * (high - low) // (high * low)


def amount1_up(low: int, high: int, liquidity: int) -> int:
    """Token1 between two prices, rounded up: ``SqrtPriceMath.getAmount1Delta(…, true)``."""
    return -(-liquidity * (high - low) >> 96)


def amount1_down(low: int, high: int, liquidity: int) -> int:
    """Token1 between two prices, rounded down: ``SqrtPriceMath.getAmount1Delta(…, false)``."""
    return liquidity * (high - low) >> 96


def full_step(price: int, target: int, liquidity: int, fee: int) -> tuple[int, int]:
    """(in with fee, out) of a step that goes all the way from `price` to `target`: ``SwapMath.computeSwapStep``.

    The same for exact-in and exact-out, whatever the size of the swap: an exact-in swap gets there if and only if
    ⌊remaining·(1e6−fee)/1e6⌋ ≥ in, which is remaining ≥ in + ⌈in·fee/(1e6−fee)⌉.
    """
    if target <= price:
        paid, out = amount0_up(target, price, liquidity), amount1_down(target, price, liquidity)
    else:
        paid, out = amount1_up(price, target, liquidity), amount0_down(price, target, liquidity)
    return paid - (-paid * fee // (FEE_UNIT - fee)), out


def partial_in(price: int, liquidity: int, remaining: int, fee: int, zero_for_one: bool) -> tuple[int, int]:
    """(out, price after) of an exact-in step that ends inside its range; all of `remaining` is taken.

    ``SqrtPriceMath.getNextSqrtPriceFromInput`` with its fallback for products above 256 bits.
    """
    paid = remaining * (FEE_UNIT - fee) // FEE_UNIT
    if not zero_for_one:
        after = price + (paid << 96) // liquidity
        return (liquidity << 96) * (after - price) // (after * price), after
    if paid == 0:
        return 0, price
    numerator = liquidity << 96
    product = paid * price
    denominator = numerator + product
    if denominator <= MAX_UINT256:
        after = -(-numerator * price // denominator)
    else:
        after = -(-numerator // (numerator // price + paid))
    return liquidity * (price - after) >> 96, after


def partial_out(price: int, liquidity: int, remaining: int, fee: int, zero_for_one: bool) -> tuple[int, int]:
    """(in with fee, price after) of an exact-out step that ends inside its range; all of `remaining` is given.

    ``SqrtPriceMath.getNextSqrtPriceFromOutput``; its two requirements hold because less than a full step is wanted.
    """
    if zero_for_one:
        moved = ((remaining << 96) - 1) // liquidity + 1
        after = price - moved
        paid = ((liquidity << 96) * moved - 1) // (price * after) + 1
    else:
        numerator = liquidity << 96
        after = (numerator * price - 1) // (numerator - remaining * price) + 1
        paid = (liquidity * (after - price) - 1 >> 96) + 1
    return paid + (paid * fee - 1) // (FEE_UNIT - fee) + 1, after
