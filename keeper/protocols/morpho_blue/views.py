"""What is read at every head: the price of every market with debt, and the rates that cannot be computed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Read
from keeper.protocols.columns import Column
from keeper.protocols.morpho_blue.irm import Kind, rate_read
from keeper.protocols.morpho_blue.registry import Registry

ORACLE = interface("morpho_oracle")
_PRICE = ORACLE.encode("price")
_MOST = 1 << 200  # a price beyond any that the contract could multiply with
_MOST_RATE = 1 << 96  # wads per second


class Views:
    """Answers at one head: prices by oracle (36 decimals more than the tokens' difference), rates by market.

    None where the view reverted or made no sense: then every market that needs it is unknown, and no other.
    """

    def __init__(self) -> None:
        self.prices: dict[Address, int | None] = {}
        self.rates: dict[int, int | None] = {}
        self.price = Column(np.float64)  # by market, NaN where there is none
        self.rate = Column(np.float64)
        self._asked: tuple[tuple[Address, ...], tuple[int, ...]] = ((), ())

    def reads(self, registry: Registry, exposed: Sequence[int], further: Iterable[Address]) -> tuple[Read, ...]:
        """The views of one head for these markets and `further` oracles; `take` understands the last ones asked."""
        oracles = tuple(dict.fromkeys([*(registry.params[n].oracle for n in exposed), *further]))
        asked = tuple(n for n in exposed if registry.kind(n) is Kind.ASKED)
        self._asked = (oracles, asked)
        reads = [Read(oracle, _PRICE) for oracle in oracles]
        return (
            *reads,
            *(rate_read(registry.params[n].irm, registry.params[n], registry.states[n]) for n in asked),
        )

    def take(self, registry: Registry, answers: Sequence[bytes | None]) -> None:
        """Take the answers; everything that was not asked for is forgotten."""
        oracles, asked = self._asked
        if len(answers) != len(oracles) + len(asked):
            raise BadData(f"{len(answers)} answers were given to {len(oracles) + len(asked)} questions")
        self.prices = {o: _number(a, _MOST) for o, a in zip(oracles, answers, strict=False)}
        self.rates = {n: _number(a, _MOST_RATE, zero=True) for n, a in zip(asked, answers[len(oracles) :], strict=True)}
        self.derive(registry)

    def derive(self, registry: Registry) -> None:
        """Keep the screen's view."""
        count = len(registry)
        for column in (self.price, self.rate):
            column.reserve(count)
        prices, rates = np.full(count, np.nan), np.full(count, np.nan)
        for number, params in registry.params.items():
            price = self.prices.get(params.oracle)
            if price:
                prices[number] = float(price)
        for number, rate in self.rates.items():
            if rate is not None:
                rates[number] = float(rate)
        self.price.data[:count], self.rate.data[:count] = prices, rates


def _number(answer: bytes | None, limit: int, *, zero: bool = False) -> int | None:
    if answer is None or len(answer) != 32:
        return None
    value = int.from_bytes(answer, "big")
    return value if (value or zero) and value < limit else None
