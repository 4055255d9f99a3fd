"""A Uniswap V3 pool as an immutable value that quotes exactly as ``UniswapV3Pool.swap`` trades."""

from __future__ import annotations

from bisect import bisect_left
from math import sqrt
from typing import Literal, NamedTuple, Self

from keeper.model import Address
from keeper.venues.curve import NOTHING, Curve
from keeper.venues.uniswap_v3.ranges import ranges
from keeper.venues.uniswap_v3.swap_math import FEE_UNIT, full_step, partial_in, partial_out
from keeper.venues.uniswap_v3.tick_math import tick_at_sqrt_ratio
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE, Ladder, TickMap

_Q96 = float(1 << 96)
_MAX_AMOUNT = (1 << 255) - 1  # amountSpecified is an int256
_IN, _OUT = 0, 1

# Measured on the published bytecode through the executor: a swap inside one range with both transfers, each initialised
# tick crossed (for the first time: later crossings are cheaper), and each end of a bitmap word passed between them.
GAS_SWAP = 98_000
GAS_TICK = 39_000
GAS_WORD = 7_500


class _Start(NamedTuple):
    """The first step in one direction: everything about a quote that does not depend on its size."""

    ladder: Ladder
    first: int  # boundary it heads for, without the ladder's origin
    amounts: tuple[int, int]  # in with fee, out of going all the way there
    base: tuple[int, int]  # what to take off the ladder's sums to count from here


class V3Pool:
    """`sqrt_price` (Q64.96) and `tick` as in ``slot0``, `ticks` with fee and spacing. Treat as immutable.

    What it remembers between quotes follows from these values alone.
    """

    __slots__ = (
        "_curves",
        "_level",
        "_starts",
        "address",
        "fee",
        "liquidity",
        "sqrt_price",
        "tick",
        "ticks",
        "token0",
        "token1",
        "venue",
    )
    lends = True
    fixed_rate = False

    def __init__(
        self, venue: str, address: Address, token0: Address, token1: Address, ticks: TickMap, sqrt_price: int, tick: int
    ) -> None:
        self.venue = venue
        self.address = address
        self.token0 = token0
        self.token1 = token1
        self.ticks = ticks
        self.fee = ticks.fee  # pips
        self.sqrt_price = sqrt_price
        self.tick = tick
        self.liquidity = ticks.liquidity_at(tick)
        self._level = 1 / sqrt(1 - ticks.fee / FEE_UNIT)
        self._curves: list[tuple[float, Curve] | None] = [None, None]  # with how far they reach
        self._starts: list[_Start | Literal[False] | None] = [False, False]  # False: not worked out yet

    def pairs(self) -> tuple[Self, ...]:
        """It has two tokens."""
        return (self,)

    def at(self, sqrt_price: int, tick: int) -> Self:
        """The same liquidity at another price, as after a Swap event."""
        return self.__class__(self.venue, self.address, self.token0, self.token1, self.ticks, sqrt_price, tick)

    def over(self, ticks: TickMap) -> Self:
        """The same price over other liquidity, as after a Mint or Burn event."""
        return self.__class__(self.venue, self.address, self.token0, self.token1, ticks, self.sqrt_price, self.tick)

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`; None when the pool cannot take it all."""
        start = self._starts[zero_for_one]
        if start and 0 < amount_in < start[2][_IN]:  # most trades end in the range they start in
            return partial_in(self.sqrt_price, self.liquidity, amount_in, self.fee, zero_for_one)[0]
        walked = self._walk(zero_for_one, amount_in, _IN)
        return None if walked is None else walked[0]

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`; None when the pool cannot give it all."""
        start = self._starts[zero_for_one]
        if start and 0 < amount_out < start[2][_OUT]:
            return partial_out(self.sqrt_price, self.liquidity, amount_out, self.fee, zero_for_one)[0]
        walked = self._walk(zero_for_one, amount_out, _OUT)
        return None if walked is None else walked[0]

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """One piece for each range of liquidity."""
        known = self._curves[zero_for_one]
        if known is None or known[0] < reach:
            known = self._curves[zero_for_one] = (reach, self._make_curve(zero_for_one, reach))
        return known[1]

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the pool afterwards)."""
        return self._swap(zero_for_one, amount_in, _IN)

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the pool afterwards)."""
        return self._swap(zero_for_one, amount_out, _OUT)

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""
        square = self.sqrt_price * self.sqrt_price
        return (square, 1 << 192) if zero_for_one else (1 << 192, square)

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of selling `amount_in` here: the swap, the initialised ticks it crosses, the words it passes."""
        walked = self._walk(zero_for_one, amount_in, _IN)
        start = self._start(zero_for_one)
        if walked is None or walked[2] < 0 or start is None:
            return GAS_SWAP
        ladder = self.ticks.ladder(zero_for_one)
        ticks = self.ticks.crossed(self.tick, ladder.tick_after(walked[2]))
        steps = walked[2] + 1 - start.first - ladder.origin
        return GAS_SWAP + GAS_TICK * ticks + GAS_WORD * max(steps - ticks, 0)

    def _start(self, zero_for_one: bool) -> _Start | None:
        known = self._starts[zero_for_one]
        if known is False:
            known = self._starts[zero_for_one] = self._make_start(zero_for_one)
        return known

    def _make_start(self, zero_for_one: bool) -> _Start | None:
        # The contract refuses a swap whose price is already at the limit ("SPL").
        if self.sqrt_price <= LOWEST_PRICE if zero_for_one else self.sqrt_price >= HIGHEST_PRICE:
            return None
        ladder = self.ticks.ladder(zero_for_one)
        first = ladder.locate(self.tick)
        if first is None:
            return None
        index = first + ladder.origin
        amounts = (
            full_step(self.sqrt_price, ladder.price[index], self.liquidity, self.fee) if self.liquidity else (0, 0)
        )
        base = (ladder.sums[_IN][index] - amounts[_IN], ladder.sums[_OUT][index] - amounts[_OUT])
        return _Start(ladder, first, amounts, base)

    def _walk(self, zero_for_one: bool, amount: int, side: int) -> tuple[int, int, int] | None:
        """(amount of the other side, sqrt price after, last boundary reached or −1) of a swap that fixes `side`."""
        if not 0 < amount <= _MAX_AMOUNT:
            return None
        start = self._starts[zero_for_one] or self._start(zero_for_one)
        if start is None:
            return None
        ladder, first, amounts, base = start
        partial = partial_out if side else partial_in
        if amount < amounts[side]:
            other, price = partial(self.sqrt_price, self.liquidity, amount, self.fee, zero_for_one)
            first += ladder.origin
            return other, price, first if price == ladder.price[first] else -1
        wanted = amount + base[side]
        mine, others = ladder.sums[side], ladder.sums[1 - side]
        if mine[-1] < wanted and not ladder.reach(side, wanted):
            return None
        index = bisect_left(mine, wanted, first + ladder.origin)
        if mine[index] == wanted:
            return others[index] - base[1 - side], ladder.price[index], index
        rest, before = wanted - mine[index - 1], ladder.price[index - 1]
        other, price = partial(before, ladder.liquidity[index], rest, self.fee, zero_for_one)
        return (
            other + others[index - 1] - base[1 - side],
            price,
            index if price == ladder.price[index] else index - 1,
        )

    def _swap(self, zero_for_one: bool, amount: int, side: int) -> tuple[int, Self] | None:
        walked = self._walk(zero_for_one, amount, side)
        if walked is None:
            return None
        other, price, reached = walked
        ladder = self.ticks.ladder(zero_for_one)
        if reached >= 0 and price == ladder.price[reached]:
            tick = ladder.tick_after(reached)
        else:
            tick = self.tick if price == self.sqrt_price else tick_at_sqrt_ratio(price)
        return other, self.at(price, tick)

    def _make_curve(self, zero_for_one: bool, reach: float) -> Curve:
        """The pieces are ranges of liquidity; ends of bitmap words only count for gas."""
        if self.sqrt_price <= LOWEST_PRICE if zero_for_one else self.sqrt_price >= HIGHEST_PRICE:
            return NOTHING
        ticks, start = self.ticks, (float(self.sqrt_price), float(self.tick // (self.ticks.spacing << 8)))
        gas = (GAS_SWAP, GAS_TICK, GAS_WORD)
        return ranges(*ticks.floats(), ticks.place(self.tick), start, zero_for_one, self._level, reach, gas)
