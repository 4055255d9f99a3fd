"""What is read at every head: all prices, what can leave each reserve, and the sentinel's word."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Head, Read
from keeper.ports import Client
from keeper.protocols.aave_v3.market import ORACLE, Market, available_read, price_keys

_SENTINEL = interface("aave_sentinel")


class Prices:
    """Base currency per whole token by asset; None where the oracle reverts or says zero.

    One view prices everything. When it reverts (one bad source is enough), assets are asked for one by one until all
    answer again.
    """

    def __init__(self) -> None:
        self.values: dict[Address, int | None] = {}
        self.liquidations_allowed: bool | None = None
        self._single = False
        self._asked: tuple[tuple[Address, ...], bool, bool, tuple[int, ...]] = ((), False, False, ())

    @property
    def nothing(self) -> bool:
        """No price at all is known."""
        return not any(self.values.values())

    @property
    def unknown(self) -> frozenset[Address]:
        """Assets and e-mode price sources without a price."""
        return frozenset(key for key, price in self.values.items() if not price)

    def replaced(self, prices: Mapping[Address, int | None]) -> Prices:
        """The same with some prices replaced; prices that are not known here are not added."""
        other = copy.copy(self)
        other.values = {key: prices.get(key, price) for key, price in self.values.items()}
        return other

    def questions(self, market: Market) -> tuple[Read, ...]:
        """The views that price everything, as they are asked now; nothing is remembered."""
        return tuple(_price_reads(market, price_keys(market), single=self._single))

    def answered(self, market: Market, answers: Sequence[bytes | None]) -> dict[Address, int | None]:
        """What the answers to `questions` say."""
        return _prices(price_keys(market), answers, single=self._single)

    def reads(self, market: Market) -> tuple[Read, ...]:
        """The views of one head; `take` understands the answers to the last ones asked for."""
        keys, reserves = price_keys(market), tuple(market.reserves)
        sentinel = market.sentinel if market.rules.sentinel else None
        self._asked = (keys, self._single, sentinel is not None, reserves)
        reads = _price_reads(market, keys, single=self._single)
        if sentinel is not None:
            reads.append(Read(sentinel, _SENTINEL.encode("isLiquidationAllowed")))
        return (*reads, *(available_read(market, number) for number in reserves))

    def take(self, market: Market, answers: Sequence[bytes | None]) -> list[tuple[int, bytes | None]]:
        """Take the prices and the sentinel's word; returns the answers about what can leave each reserve."""
        keys, single, sentinel, reserves = self._asked
        count = len(keys) if single else min(len(keys), 1)
        if len(answers) != count + sentinel + len(reserves):
            raise BadData(f"{len(answers)} answers were given to {count + sentinel + len(reserves)} questions")
        current = set(price_keys(market))
        found = _prices(keys, answers[:count], single=single)
        self.values = {k: p for k, p in (self.values | found).items() if k in current}
        self._single = any(price is None for price in found.values())
        self.liquidations_allowed = _allowed(answers[count]) if sentinel else None
        left = zip(reserves, answers[count + sentinel :], strict=True)
        return [(number, answer) for number, answer in left if number in market.reserves]

    async def read(self, client: Client, head: Head, market: Market) -> None:
        """Read prices and the sentinel at `head` now."""
        keys = price_keys(market)
        found: Mapping[Address, int | None] = {}
        for single in (False, True):
            answers = await client.read(tuple(_price_reads(market, keys, single=single)), head) if keys else []
            found = _prices(keys, answers, single=single)
            if all(price is not None for price in found.values()):
                break
        self.values = dict(found)
        self._single = any(price is None for price in found.values())
        self.liquidations_allowed = None
        if market.sentinel is not None and market.rules.sentinel:
            (answer,) = await client.read((Read(market.sentinel, _SENTINEL.encode("isLiquidationAllowed")),), head)
            self.liquidations_allowed = _allowed(answer)


def _price_reads(market: Market, keys: Sequence[Address], *, single: bool) -> list[Read]:
    if single:
        return [Read(market.oracle, ORACLE.encode("getAssetPrice", key)) for key in keys]
    return [Read(market.oracle, ORACLE.encode("getAssetsPrices", list(keys)))] if keys else []


def _prices(keys: Sequence[Address], answers: Sequence[bytes | None], *, single: bool) -> dict[Address, int | None]:
    if single:
        return {key: _word(answer) for key, answer in zip(keys, answers, strict=True)}
    if not answers or answers[0] is None:
        return dict.fromkeys(keys)
    (found,) = ORACLE.decode("getAssetsPrices", answers[0])
    if len(found) != len(keys):
        raise BadData(f"the oracle answered {len(found)} prices for {len(keys)} assets")
    return dict(zip(keys, found, strict=True))


def _word(answer: bytes | None) -> int | None:
    return int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else None


def _allowed(answer: bytes | None) -> bool:
    """A sentinel that does not answer forbids."""
    return bool(_word(answer))
