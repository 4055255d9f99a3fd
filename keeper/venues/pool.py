"""What the router needs to know of a pool, whatever its kind."""

from __future__ import annotations

from typing import Protocol, Self

from keeper.model import Address
from keeper.venues.curve import Curve


class Pool(Protocol):
    """One state of one pool: an immutable value with exact integer quotes.

    `zero_for_one` sells token0. Amounts are base units; an amount of None means that the pool cannot take or give all
    of it.

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

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """What becomes of a trade, at least until the level has risen by the factor `reach`, or to the end."""

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the pool afterwards)."""

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the pool afterwards)."""

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of selling `amount_in` here, transfers included."""
