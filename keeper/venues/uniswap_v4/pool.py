"""A Uniswap V4 pool as an immutable value that quotes exactly as ``PoolManager.swap`` trades.

The steps of a swap are those of Uniswap V3 (``Pool.swap`` and ``SwapMath`` differ from it in the sign of amounts only).
What differs: a protocol fee comes on top of the pool's own, one for each direction; amounts are int128; and one side
may be the native coin, which is offered here as the wrapped token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from keeper.errors import BadData
from keeper.model import ZERO_ADDRESS, Address
from keeper.venues.curve import GAS, Curve
from keeper.venues.uniswap_v3.pool import GAS_SWAP as V3_GAS_SWAP
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.swap_math import FEE_UNIT
from keeper.venues.uniswap_v3.ticks import TickMap

_MOST = (1 << 127) - 1  # amounts are int128
_FEE_BITS = 12

# Measured on the published bytecode through the executor: a swap inside one range with payment and withdrawal, and what
# wrapping or unwrapping one side takes. The session they run in is part of the first.
GAS_SWAP = 108_000
GAS_NATIVE = 8_000


def swap_fee(protocol_fee: int, lp_fee: int) -> int:
    """Both fees together in pips: ``ProtocolFeeLibrary.calculateSwapFee``."""
    return protocol_fee + lp_fee - protocol_fee * lp_fee // FEE_UNIT


class V4Pool:
    """`address` is the pool's 32-byte id; `token0` and `token1` are as traded for here, the native coin wrapped.

    `protocol_fee` packs both directions as ``slot0`` does. Treat as immutable.
    """

    __slots__ = ("_down", "_flipped", "_up", "address", "native", "protocol_fee", "token0", "token1", "venue")
    lends = True
    fixed_rate = False

    def __init__(
        self,
        venue: str,
        address: Address,
        currencies: tuple[Address, Address],
        wrapped_native: Address,
        protocol_fee: int,
        down: V3Pool,
        up: V3Pool,
    ) -> None:
        self.venue = venue
        self.address = address
        self.native = currencies[0] == ZERO_ADDRESS
        first, second = (wrapped_native if currency == ZERO_ADDRESS else currency for currency in currencies)
        # The native coin sorts before every token, its wrapper does not.
        self._flipped = first > second
        self.token0, self.token1 = (second, first) if self._flipped else (first, second)
        self.protocol_fee = protocol_fee
        self._down, self._up = down, up

    @classmethod
    def made(
        cls,
        venue: str,
        address: Address,
        currencies: tuple[Address, Address],
        wrapped_native: Address,
        fees: tuple[int, int],
        spacing: int,
        gross_net: Mapping[int, tuple[int, int]],
        sqrt_price: int,
        tick: int,
    ) -> Self:
        """A pool from its parts; `fees` are the pool's own and the packed protocol's.

        Raises BadData when no pool can have such ticks, or when the fees leave nothing to swap.
        """
        lp_fee, packed = fees
        down_fee = swap_fee(packed & (1 << _FEE_BITS) - 1, lp_fee)
        up_fee = swap_fee(packed >> _FEE_BITS, lp_fee)
        if max(down_fee, up_fee) >= FEE_UNIT:
            raise BadData(f"its fees of {down_fee} and {up_fee} pips leave nothing to trade")
        ticks = TickMap(spacing, down_fee, gross_net)
        down = V3Pool(venue, address, *currencies, ticks, sqrt_price, tick)
        if up_fee == down_fee:
            return cls(venue, address, currencies, wrapped_native, packed, down, down)
        up = V3Pool(venue, address, *currencies, TickMap(spacing, up_fee, gross_net), sqrt_price, tick)
        return cls(venue, address, currencies, wrapped_native, packed, down, up)

    @property
    def sqrt_price(self) -> int:
        """√(currency1 per currency0), Q64.96."""
        return self._down.sqrt_price

    @property
    def tick(self) -> int:
        """As in ``slot0``."""
        return self._down.tick

    @property
    def liquidity(self) -> int:
        """Active now."""
        return self._down.liquidity

    @property
    def ticks(self) -> TickMap:
        """Initialised ticks; its fee is that of selling currency0."""
        return self._down.ticks

    @property
    def fees(self) -> tuple[int, int]:
        """Pips for selling currency0 and currency1."""
        return self._down.fee, self._up.fee

    def pairs(self) -> tuple[Self, ...]:
        """It has two tokens."""
        return (self,)

    def at(self, sqrt_price: int, tick: int) -> Self:
        """The same liquidity at another price, as after a Swap event."""
        down = self._down.at(sqrt_price, tick)
        return self._with(down, down if self._up is self._down else self._up.at(sqrt_price, tick))

    def changed(self, lower: int, upper: int, delta: int) -> Self:
        """The pool after a ModifyLiquidity event; raises BadData when more is taken than is there."""
        down = self._down.over(self._down.ticks.changed(lower, upper, delta))
        if self._up is self._down:
            return self._with(down, down)
        return self._with(down, self._up.over(self._up.ticks.changed(lower, upper, delta)))

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`; None when the pool cannot take it all."""
        side, way = self._side(zero_for_one)
        return _fits(amount_in, side.quote_in(way, amount_in))

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`; None when the pool cannot give it all."""
        side, way = self._side(zero_for_one)
        return _fits(amount_out, side.quote_out(way, amount_out))

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """One piece for each range of liquidity."""
        side, way = self._side(zero_for_one)
        curve = side.curve(way, reach).copy()
        curve[:, GAS] += GAS_SWAP - V3_GAS_SWAP + (GAS_NATIVE if self.native else 0)
        return curve

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the pool afterwards)."""
        side, way = self._side(zero_for_one)
        return self._traded(amount_in, side.swap_in(way, amount_in))

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the pool afterwards)."""
        side, way = self._side(zero_for_one)
        return self._traded(amount_out, side.swap_out(way, amount_out))

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""
        side, way = self._side(zero_for_one)
        return side.spot(way)

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of selling `amount_in` here, with what the ticks on the way take."""
        side, way = self._side(zero_for_one)
        return side.gas(way, amount_in) - V3_GAS_SWAP + GAS_SWAP + (GAS_NATIVE if self.native else 0)

    def _side(self, zero_for_one: bool) -> tuple[V3Pool, bool]:
        way = zero_for_one != self._flipped
        return (self._down if way else self._up), way

    def _traded(self, amount: int, swapped: tuple[int, V3Pool] | None) -> tuple[int, Self] | None:
        if swapped is None or _fits(amount, swapped[0]) is None:
            return None
        return swapped[0], self.at(swapped[1].sqrt_price, swapped[1].tick)

    def _with(self, down: V3Pool, up: V3Pool) -> Self:
        twin = object.__new__(self.__class__)
        twin.venue, twin.address, twin.native = self.venue, self.address, self.native
        twin.token0, twin.token1, twin._flipped = self.token0, self.token1, self._flipped
        twin.protocol_fee, twin._down, twin._up = self.protocol_fee, down, up
        return twin


def _fits(fixed: int, other: int | None) -> int | None:
    return None if other is None or fixed > _MOST or other > _MOST else other
