"""Weighted pools as immutable values that quote exactly as ``WeightedPool.onSwap`` answers the Vault.

One state holds all tokens of a pool; what the router trades in is a pair of them.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from keeper.errors import BadData
from keeper.model import Address
from keeper.venues.balancer_v2.fixed_point import ONE, div_down, div_up, mul_down, mul_up, power_up
from keeper.venues.curve import NOTHING, Curve, through

_MOST = (1 << 112) - 1  # the Vault keeps balances as uint112
_MOST_RATIO = 3 * 10**17  # of a balance that one trade may bring or take: WeightedMath's _MAX_IN_RATIO, _MAX_OUT_RATIO
_DECIMALS = 18

# Measured on the published bytecode through the executor: approval, swap and both transfers.
GAS_SWAP = 85_000
_PIECES = 24


class WeightedState:
    """A pool's tokens in the Vault's order with weights (wad), decimals and balances (base units); `fee` is a wad.

    `exact_small` is `fixed_point.power_up`'s. Treat as immutable.
    """

    __slots__ = (
        "_pairs",
        "address",
        "balances",
        "decimals",
        "exact_small",
        "fee",
        "pool_id",
        "tokens",
        "venue",
        "weights",
    )

    def __init__(
        self,
        venue: str,
        address: Address,
        pool_id: str,
        tokens: tuple[Address, ...],
        weights: tuple[int, ...],
        decimals: tuple[int, ...],
        fee: int,
        balances: tuple[int, ...],
        *,
        exact_small: bool,
    ) -> None:
        self.venue = venue
        self.address = address
        self.pool_id = pool_id
        self.tokens = tokens
        self.weights = weights
        self.decimals = decimals
        self.fee = fee
        self.balances = balances
        self.exact_small = exact_small
        self._pairs: tuple[WeightedPool, ...] = ()

    @property
    def pairs(self) -> tuple[WeightedPool, ...]:
        """Every two tokens, the lower address first."""
        if not self._pairs:
            places = range(len(self.tokens))
            self._pairs = tuple(
                WeightedPool(self, i, j) for i in places for j in places if self.tokens[i] < self.tokens[j]
            )
        return self._pairs

    def holding(self, balances: tuple[int, ...]) -> Self:
        """The same pool with other balances."""
        return self._with(balances, self.fee)

    def charging(self, fee: int) -> Self:
        """The same pool with another swap fee."""
        return self._with(self.balances, fee)

    def moved(self, changes: dict[Address, int]) -> Self:
        """The pool after its balances changed by these; raises BadData for a stranger or a balance below zero."""
        strangers = changes.keys() - set(self.tokens)
        balances = tuple(held + changes.get(token, 0) for token, held in zip(self.tokens, self.balances, strict=True))
        if strangers or min(balances) < 0:
            raise BadData(f"balances {self.balances} of {self.address} cannot change by {changes}")
        return self.holding(balances)

    def _with(self, balances: tuple[int, ...], fee: int) -> Self:
        return self.__class__(
            self.venue,
            self.address,
            self.pool_id,
            self.tokens,
            self.weights,
            self.decimals,
            fee,
            balances,
            exact_small=self.exact_small,
        )


class WeightedPool:
    """Two tokens of a weighted pool. Treat as immutable.

    The Vault is paid before it hands out, and pulls what it is owed from whoever trades.
    """

    __slots__ = ("_places", "address", "state", "token0", "token1", "venue")
    lends = False
    fixed_rate = False

    def __init__(self, state: WeightedState, first: int, second: int) -> None:
        self.state = state
        self.venue = state.venue
        self.address = state.address
        self.token0 = state.tokens[first]
        self.token1 = state.tokens[second]
        self._places = (first, second)

    def pairs(self) -> tuple[WeightedPool, ...]:
        """Every pair of the pool."""
        return self.state.pairs

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`; None above three tenths of the balance, or where the Vault overflows.

        ``WeightedMath._calcOutGivenIn`` after ``_subtractSwapFeeAmount``.
        """
        state, (into, out_of) = self.state, self._way(zero_for_one)
        if not 0 < amount_in <= _MOST - state.balances[into]:
            return None
        charged = self._scaled(into, amount_in - mul_up(amount_in, state.fee))
        balance_in, balance_out = self._balance(into), self._balance(out_of)
        if balance_in == 0 or charged > mul_down(balance_in, _MOST_RATIO):
            return None
        base = div_up(balance_in, balance_in + charged)
        exponent = div_down(state.weights[into], state.weights[out_of])
        try:
            power = power_up(base, exponent, exact_small=state.exact_small)
        except BadData:
            return None
        out = mul_down(balance_out, max(ONE - power, 0))
        return out // self._unit(out_of)

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`; None above three tenths of the balance, or where the Vault overflows.

        ``WeightedMath._calcInGivenOut`` before ``_addSwapFeeAmount``.
        """
        state, (into, out_of) = self.state, self._way(zero_for_one)
        wanted, balance_in, balance_out = self._scaled(out_of, amount_out), self._balance(into), self._balance(out_of)
        if amount_out <= 0 or balance_in == 0 or wanted > mul_down(balance_out, _MOST_RATIO):
            return None
        base = div_up(balance_out, balance_out - wanted)
        exponent = div_up(state.weights[out_of], state.weights[into])
        try:
            power = power_up(base, exponent, exact_small=state.exact_small)
        except BadData:
            return None
        paid = -(-mul_up(balance_in, power - ONE) // self._unit(into))
        paid = div_up(paid, ONE - state.fee)
        return paid if paid <= _MOST - state.balances[into] else None

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """Pieces between points of the curve, up to the most that one trade may bring or take.

        With r the weights' ratio in/out, the level is √((in + kept)^(r+1) / (in^r · out · r · share)).
        """
        state, (into, out_of) = self.state, self._way(zero_for_one)
        held, other = float(state.balances[into]), float(state.balances[out_of])
        if not held or not other:
            return NOTHING
        share, ratio = 1 - state.fee / ONE, state.weights[into] / state.weights[out_of]
        most = _MOST_RATIO / ONE
        grown = 1 + np.linspace(0.0, min(most, (1 - most) ** (-1 / ratio) - 1), _PIECES + 1) ** 2 / most
        levels = np.sqrt(grown ** (ratio + 1) * held / (other * ratio * share))
        return through((grown - 1) * held / share, other * (1 - grown**-ratio), levels, GAS_SWAP)

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, WeightedPool] | None:
        """(output, the pool afterwards)."""
        out = self.quote_in(zero_for_one, amount_in)
        return None if out is None else (out, self._after(zero_for_one, amount_in, out))

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, WeightedPool] | None:
        """(input, the pool afterwards)."""
        paid = self.quote_out(zero_for_one, amount_out)
        return None if paid is None else (paid, self._after(zero_for_one, paid, amount_out))

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""
        state, (into, out_of) = self.state, self._way(zero_for_one)
        return state.balances[out_of] * state.weights[into], state.balances[into] * state.weights[out_of]

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of a trade here."""
        return GAS_SWAP

    def _way(self, zero_for_one: bool) -> tuple[int, int]:
        first, second = self._places
        return (first, second) if zero_for_one else (second, first)

    def _unit(self, place: int) -> int:
        return int(10 ** (_DECIMALS - self.state.decimals[place]))

    def _scaled(self, place: int, amount: int) -> int:
        return amount * self._unit(place)

    def _balance(self, place: int) -> int:
        return self._scaled(place, self.state.balances[place])

    def _after(self, zero_for_one: bool, paid: int, out: int) -> WeightedPool:
        into, out_of = self._way(zero_for_one)
        balances = list(self.state.balances)
        balances[into] += paid
        balances[out_of] -= out
        return WeightedPool(self.state.holding(tuple(balances)), *self._places)
