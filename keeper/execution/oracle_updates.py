"""Price feed updates that are not mined yet: whose they are, and what price they bring.

Whatever is decoded here is a hint. The update and our transaction are simulated together before anything is sent, and
after inclusion the protocol's own oracle is read as at every head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from keeper.abi import interface
from keeper.chain.mempool import Pending
from keeper.execution.feed_graph import touched
from keeper.model import Address, Hash, Head, Read, address
from keeper.ports import Book, Client

log = structlog.get_logger(__name__)

_FEED = interface("price_feed")
_TRANSMITS = {_FEED.functions[name].selector for name in ("transmit", "transmitSecondary")}
_FORWARD = _FEED.functions["forward"]
ANSWER_UPDATED = _FEED.topic("AnswerUpdated")


class Repricable(Book, Protocol):
    """A book that can be looked at under other prices."""

    async def price_sources(self, client: Client, head: Head) -> Mapping[Address, Address]:
        """For each asset the contract its oracle asks for the price."""

    def prices(self) -> Mapping[Address, int | None]:
        """Base currency per whole token by asset, at the book's head."""

    def price_reads(self) -> tuple[Read, ...]:
        """The views that price everything."""

    def priced(self, answers: Sequence[bytes | None]) -> Mapping[Address, int | None]:
        """Base currency per whole token, from the answers to `price_reads`; None where the oracle has none."""

    def with_prices(self, prices: Mapping[Address, int | None]) -> Book:
        """The same book with some prices replaced (None: unknown): for reading only, until this one moves."""


@dataclass(frozen=True, slots=True)
class Update:
    """A pending answer of one feed's aggregator."""

    aggregator: Address
    answer: int
    hash: Hash  # of the transaction that brings it
    tx: Pending | None  # None when only somebody else's relay has it


def decode_call(to: Address, data: bytes) -> tuple[Address, int] | None:
    """(aggregator, answer) of a call that posts a report, directly or through a forwarder; None for anything else.

    The answer is the median: `observations[length / 2]` of the sorted list (OCR2Aggregator, `_report`). An unsorted or
    empty list would revert there.
    """
    selector = data[:4]
    try:
        if selector == _FORWARD.selector:
            inner_to, inner = decode(_FORWARD.inputs, data[4:])
            return None if inner[:4] == _FORWARD.selector else decode_call(address(inner_to), inner)
        if selector not in _TRANSMITS:
            return None
        report = decode(_FEED.functions["transmit"].inputs, data[4:])[1]
        _, _, observed, _ = decode(["uint32", "bytes32", "int192[]", "int192"], report)
    except (DecodingError, OverflowError, ValueError):
        return None
    if not observed or list(observed) != sorted(observed) or observed[len(observed) // 2] <= 0:
        return None
    return to, observed[len(observed) // 2]


@dataclass(slots=True)
class Feeds:
    """Which aggregators stand behind the prices of which books. A proxy's switch says nothing, so it is read anew.

    An asset of `assets` has the aggregator's answer as its price. One of `through` has a price that something makes of
    it: a cap, a ratio, another feed. What that will be only a simulation of the update can tell.
    """

    every: int = 50  # blocks
    assets: dict[Address, list[tuple[str, Address]]] = field(default_factory=dict)  # aggregator -> (book, asset)
    through: dict[Address, list[tuple[str, Address]]] = field(default_factory=dict)  # contract -> (book, asset)
    skipped: dict[tuple[str, Address], str] = field(default_factory=dict)  # (book, asset) -> why it has none
    _read_at: int | None = None

    def due(self, head: Head) -> bool:
        """Whether it is time to read them."""
        return self._read_at is None or not 0 <= head.number - self._read_at < self.every

    def wants(self, to: Address, data: bytes) -> bool:
        """Cheap: whether a pending call could be an update of a feed in use."""
        if data[:4] == _FORWARD.selector:
            return len(data) >= 36 and self.used(address(data[16:36]))
        return data[:4] in _TRANSMITS and self.used(to)

    def used(self, aggregator: Address) -> bool:
        """Whether a price depends on it."""
        return aggregator in self.assets or aggregator in self.through

    def update(self, tx: Pending) -> Update | None:
        """What a pending transaction would post."""
        found = decode_call(tx.to, tx.data)
        return None if found is None or not self.used(found[0]) else Update(*found, tx.hash, tx)

    def of(self, aggregator: Address, book: str) -> list[Address]:
        """The assets of a book that the aggregator prices."""
        return [asset for name, asset in self.assets.get(aggregator, ()) if name == book]

    def made_from(self, aggregator: Address, book: str) -> list[Address]:
        """The assets of a book whose price is made from the aggregator's answer, nobody here knows how."""
        return [asset for name, asset in self.through.get(aggregator, ()) if name == book]

    def depends(self, aggregator: Address, book: str) -> bool:
        """Whether a price of the book depends on the aggregator."""
        return bool(self.of(aggregator, book) or self.made_from(aggregator, book))

    def told(self, update: Update, book: str) -> dict[Address, int | None]:
        """The prices of a book as far as the update's own answer tells them."""
        made: dict[Address, int | None] = dict.fromkeys(self.made_from(update.aggregator, book))
        return made | dict.fromkeys(self.of(update.aggregator, book), update.answer)

    async def read(
        self,
        client: Client,
        books: Iterable[Repricable],
        head: Head,
        *,
        complete: bool = True,
        foresight: bool = False,
    ) -> None:
        """Find the aggregators at `head`. Raises Transient, BadData; what was known is then kept.

        Without `complete`, because books are missing, it stays due. `foresight`: the node can simulate what becomes of
        a price; without that, adapters which change their feed's answer are left out.
        """
        assets: dict[Address, list[tuple[str, Address]]] = {}
        through: dict[Address, list[tuple[str, Address]]] = {}
        skipped: dict[tuple[str, Address], str] = {}
        for book in books:
            sources = await book.price_sources(client, head)
            proxies = await _proxies(client, sources, head)
            prices = book.prices()
            answers = await _ask(client, "latestAnswer", list(sources.values()), head)
            feeds = await _ask(client, "latestAnswer", [proxies.get(s, s) for s in sources.values()], head)
            behind = await _ask(client, "aggregator", [proxies.get(s, s) for s in sources.values()], head)
            adapted: dict[tuple[str, Address], tuple[Address, str]] = {}
            for (asset, source), answer, feed, aggregator in zip(sources.items(), answers, feeds, behind, strict=True):
                key = (book.name, asset)
                if source not in proxies or aggregator is None:
                    adapted[key] = source, f"{source} names no feed behind it"
                elif answer is None or answer != feed or answer != prices.get(asset):
                    adapted[key] = source, f"the price of {source} is not its feed's answer ({answer}, {feed})"
                else:
                    assets.setdefault(address(aggregator.to_bytes(20, "big")), []).append(key)
            graph = await touched(client, [s for s, _ in adapted.values()], head) if foresight else {}
            for key, (source, reason) in adapted.items():
                if not foresight:
                    skipped[key] = f"{reason}, and the node has no eth_simulateV1 to say what an update makes of it"
                elif source not in graph:
                    skipped[key] = f"{reason}, and the node does not say which contracts it reads"
                for contract in graph.get(source, ()):
                    through.setdefault(contract, []).append(key)
        for key, reason in skipped.items():
            if self.skipped.get(key) != reason:
                log.info("feed_not_followed", market=key[0], asset=key[1], reason=reason)
        self.assets, self.through, self.skipped = assets, through, skipped
        self._read_at = head.number if complete else None


async def _proxies(client: Client, sources: Mapping[Address, Address], head: Head) -> dict[Address, Address]:
    """For each source the feed's proxy: itself, or what an adapter that may pass the answer on says it reads."""
    listed = list(sources.values())
    own = await _ask(client, "aggregator", listed, head)
    inner = await _ask(client, "ASSET_TO_USD_AGGREGATOR", listed, head)
    found: dict[Address, Address] = {}
    for source, aggregator, feed in zip(listed, own, inner, strict=True):
        if aggregator:
            found[source] = source
        elif feed:
            found[source] = address(feed.to_bytes(20, "big"))
    return found


async def _ask(client: Client, name: str, targets: Sequence[Address], head: Head) -> list[int | None]:
    """One word from each; None where it is not offered, or is no word that fits."""
    answers = await client.read([Read(target, _FEED.encode(name)) for target in targets], head) if targets else []
    found: list[int | None] = []
    for answer in answers:
        word = int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else None
        found.append(word if word is not None and word < 1 << 160 else None)
    return found


def answer_in_log(topics: Sequence[str]) -> int | None:
    """The answer of an ``AnswerUpdated`` log, as far as a hint shows it."""
    if len(topics) < 2 or topics[0] != ANSWER_UPDATED or len(topics[1]) != 66:
        return None
    try:
        value = int(topics[1], 16)
    except ValueError:
        return None
    return value if 0 < value < 1 << 191 else None
