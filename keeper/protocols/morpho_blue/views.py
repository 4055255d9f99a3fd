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
        self._oracles: tuple[Address, ...] = ()
        self._markets = np.zeros(0, np.intp)  # whose prices are asked for, and of which oracle
        self._oracle = np.zeros(0, np.intp)
        self._models: tuple[int, ...] = ()

    def reads(self, registry: Registry, exposed: Sequence[int], further: Iterable[Address]) -> tuple[Read, ...]:
        """The views of one head for these markets and `further` oracles; `take` understands the last ones asked."""
        places: dict[Address, int] = {}
        oracle = [places.setdefault(registry.params[n].oracle, len(places)) for n in exposed]
        for other in further:
            places.setdefault(other, len(places))
        self._oracles = tuple(places)
        self._markets, self._oracle = np.array(exposed, np.intp), np.array(oracle, np.intp)
        self._models = tuple(n for n in exposed if registry.kind(n) is Kind.ASKED)
        rates = (rate_read(registry.params[n].irm, registry.params[n], registry.states[n]) for n in self._models)
        return (*(Read(each, _PRICE) for each in self._oracles), *rates)

    def take(self, registry: Registry, answers: Sequence[bytes | None]) -> None:
        """Take the answers; everything that was not asked for is forgotten."""
        oracles, models = self._oracles, self._models
        if len(answers) != len(oracles) + len(models):
            raise BadData(f"{len(answers)} answers were given to {len(oracles) + len(models)} questions")
        prices = [_number(answer, _MOST) for answer in answers[: len(oracles)]]
        rates = [_number(answer, _MOST_RATE, zero=True) for answer in answers[len(oracles) :]]
        self.prices = dict(zip(oracles, prices, strict=True))
        self.rates = dict(zip(models, rates, strict=True))
        count = len(registry)
        for column in (self.price, self.rate):
            column.reserve(count)
            column.data[:count] = np.nan
        if prices:
            values = np.array([np.nan if price is None else float(price) for price in prices])
            self.price.data[self._markets] = values[self._oracle]
        for number, rate in self.rates.items():
            self.rate.data[number] = np.nan if rate is None else float(rate)

    def silent(self) -> list[int]:
        """Markets whose price or rate was asked for and did not come."""
        bad: list[int] = self._markets[np.isnan(self.price.data[self._markets])].tolist()
        return bad + [number for number, rate in self.rates.items() if rate is None and number not in bad]


def _number(answer: bytes | None, limit: int, *, zero: bool = False) -> int | None:
    if answer is None or len(answer) != 32:
        return None
    value = int.from_bytes(answer, "big")
    return value if (value or zero) and value < limit else None
