"""What the router needs to know of a pool, whatever its kind."""

from __future__ import annotations

from typing import Protocol, Self

from keeper.model import Address


class Pool(Protocol):
    """One state of one pool: an immutable value with exact integer quotes.

    `zero_for_one` sells token0. Amounts are base units; an amount of None means that the pool cannot take or give all
    of it. Levels are floats and only screen: √(in/out) at the margin after the trade, fees included, so that trades
    over several pools are split best where their levels agree.

    A pool of more than two tokens is as many values as it has pairs of tokens, with one address and one state.
    """

    @property
    def venue(self) -> str: ...
    @property
    def address(self) -> Address:
        """Of the contract, or its 32-byte id where many pools live inside one contract."""

    @property
    def token0(self) -> Address: ...
    @property
    def token1(self) -> Address: ...
    @property
    def lends(self) -> bool:
        """Whether it hands its output out before it wants its input, and so can fund what brings the input."""

    @property
    def fixed_rate(self) -> bool:
        """Whether it only changes the form of a token, at a rate that no trade moves."""

    def pairs(self) -> tuple[Self, ...]:
        """Every pair of tokens of the same state, this one included."""

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`."""

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`."""

    def probe_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, float, float] | None:
        """(output, level afterwards, its rise per unit of input); `amount_in` may be 0."""

    def probe_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, float, float] | None:
        """(input, level afterwards, the fall of 1/level per unit of output); `amount_out` may be 0."""

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the pool afterwards)."""

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the pool afterwards)."""

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""

    def depth(self, zero_for_one: bool) -> int:
        """Input that moves the price by about 2 %."""

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of selling `amount_in` here, transfers included."""
