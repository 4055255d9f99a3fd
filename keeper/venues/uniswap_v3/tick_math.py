"""Ticks and square-root prices, integer for integer as ``TickMath.sol`` of Uniswap v3-core.

A sqrt price is √(token1/token0) in Q64.96. Both functions are pure; the first is memoised because the same ticks are
asked for after every change of liquidity.
"""

from __future__ import annotations

from functools import lru_cache

from keeper.model import MAX_UINT256

MIN_TICK = -887272
MAX_TICK = 887272
MIN_SQRT_RATIO = 4295128739
MAX_SQRT_RATIO = 1461446703485210103287273052203988822378723970342

# round(2^128 · 1.0001^(−2^i / 2)) as the contract has them, i = 0…19.
_FACTORS = (
    0xFFFCB933BD6FAD37AA2D162D1A594001,
    0xFFF97272373D413259A46990580E213A,
    0xFFF2E50F5F656932EF12357CF3C7FDCC,
    0xFFE5CACA7E10E4E61C3624EAA0941CD0,
    0xFFCB9843D60F6159C9DB58835C926644,
    0xFF973B41FA98C081472E6896DFB254C0,
    0xFF2EA16466C96A3843EC78B326B52861,
    0xFE5DEE046A99A2A811C461F1969C3053,
    0xFCBE86C7900A88AEDCFFC83B479AA3A4,
    0xF987A7253AC413176F2B074CF7815E54,
    0xF3392B0822B70005940C7A398E4B70F3,
    0xE7159475A2C29B7443B29C7FA6E889D9,
    0xD097F3BDFD2022B8845AD8F792AA5825,
    0xA9F746462D870FDF8A65DC1F90E061E5,
    0x70D869A156D2A1B890BB3DF62BAF32F7,
    0x31BE135F97D08FD981231505542FCFA6,
    0x9AA508B5B7A84E1C677DE54F3E99BC9,
    0x5D6AF8DEDB81196699C329225EE604,
    0x2216E584F5FA1EA926041BEDFE98,
    0x48A170391F7DC42444E8FA2,
)


@lru_cache(maxsize=1 << 16)
def sqrt_ratio_at_tick(tick: int) -> int:
    """``TickMath.getSqrtRatioAtTick``: Q64.96; raises ValueError outside MIN_TICK…MAX_TICK."""
    if not MIN_TICK <= tick <= MAX_TICK:
        raise ValueError(f"tick {tick} is out of range")
    rest = abs(tick)
    ratio = 1 << 128
    for factor in _FACTORS:
        if rest & 1:
            ratio = ratio * factor >> 128
        rest >>= 1
    if tick > 0:
        ratio = MAX_UINT256 // ratio
    return -(-ratio >> 32)


def tick_at_sqrt_ratio(sqrt_price: int) -> int:
    """``TickMath.getTickAtSqrtRatio``: greatest tick whose ratio is at most `sqrt_price`; ValueError out of range."""
    if not MIN_SQRT_RATIO <= sqrt_price < MAX_SQRT_RATIO:
        raise ValueError(f"sqrt price {sqrt_price} is out of range")
    ratio = sqrt_price << 32
    msb = ratio.bit_length() - 1
    r = ratio >> (msb - 127) if msb >= 128 else ratio << (127 - msb)
    log_2 = (msb - 128) << 64
    for bit in range(63, 49, -1):
        r = r * r >> 127
        carry = r >> 128
        log_2 |= carry << bit
        r >>= carry
    log_sqrt10001 = log_2 * 255738958999603826347141
    low = (log_sqrt10001 - 3402992956809132418596140100660247210) >> 128
    high = (log_sqrt10001 + 291339464771989622907027621153398088495) >> 128
    return high if low != high and sqrt_ratio_at_tick(high) <= sqrt_price else low
