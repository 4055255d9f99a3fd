"""Liquidations directly behind a price update that is not mined yet: the loop's own steps, over repriced books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

import structlog

from keeper.chain.mempool import Pending
from keeper.engine import Engine, Observer, Parts
from keeper.errors import BadData, Halt, KeeperError, Transient
from keeper.execution.bundles import Leader
from keeper.execution.foresight import Foresight
from keeper.execution.oracle_updates import Feeds, Repricable, Update
from keeper.model import Address, Decision, FeeQuote, Head, Order, Verdict
from keeper.ports import Book, Client, Job, Proof, Sent, Submitter, Synced
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.scene import Scene
from keeper.strategy.turns import Ordering

log = structlog.get_logger("keeper")

_REMEMBERED = 1_000  # updates


class BehindProver(Protocol):
    """A prover that can put another transaction first."""

    async def prove_behind(
        self, first: Mapping[str, str] | None, jobs: Sequence[Job], head: Head, fees: FeeQuote
    ) -> list[Proof]: ...


class BehindSubmitter(Protocol):
    """A submitter that can offer an order behind another transaction."""

    async def submit_behind(self, order: Order, leader: Leader) -> Sent: ...


@dataclass(frozen=True, slots=True)
class Backruns:
    """What backruns need beside the loop's own parts. `submitter` is None in a dry run, which records orders only.

    An update that stays pending is tried at `blocks` heads. At most `most` positions are taken behind one.
    """

    feeds: Feeds
    client: Client
    prover: BehindProver
    foresight: Foresight
    submitter: BehindSubmitter | None
    blocks: int = 4
    most: int = 6


class BackrunEngine(Engine):
    """The loop, which between two heads also acts on pending updates of the feeds behind its books."""

    def __init__(
        self, parts: Parts, backruns: Backruns, *, block_time: int, audit_every: int, audit_sample: int
    ) -> None:
        super().__init__(parts, block_time=block_time, audit_every=audit_every, audit_sample=audit_sample)
        self._backruns = backruns
        self._turn = asyncio.Lock()
        self._stop: asyncio.Event | None = None
        self._seen: tuple[Synced, FeeQuote] | None = None
        self._waiting: dict[str, tuple[Update, int]] = {}  # by hash, with the head at which it was first seen

    @property
    def feeds(self) -> Feeds:
        """The feeds behind the books."""
        return self._backruns.feeds

    async def step(self, head: Head, stop: asyncio.Event | None = None) -> tuple[Decision, ...]:
        """One pass, then the feeds if it is time, then the updates that still wait."""
        async with self._turn:
            self._stop = stop
            decisions = await super().step(head, stop)
            if self._seen is not None:
                await self._look_after(self._seen[0].head)
            return decisions

    async def survey(self, synced: Synced, scene: Scene) -> list[Opportunity]:
        self._seen = synced, scene.fees
        return await super().survey(synced, scene)

    async def follow(self, updates: AsyncIterator[Update]) -> None:
        """React to each update, until cancelled. A failure of the node ends one reaction, not the following."""
        async for update in updates:
            try:
                await self.react(update)
            except Halt:
                raise  # the loop itself finds the same
            except KeeperError as error:
                log.info("backrun.interrupted", update=update.hash, reason=str(error))

    async def react(self, update: Update) -> list[Decision]:
        """Act on one update: what was decided about the positions behind it. Raises Transient, BadData, Halt."""
        async with self._turn:
            if self._seen is None or update.hash in self._waiting:
                return []
            self._waiting[update.hash] = update, self._seen[0].head.number
            while len(self._waiting) > _REMEMBERED:
                self._waiting.pop(next(iter(self._waiting)))
            return await self._try(update)

    async def _look_after(self, head: Head) -> None:
        backruns = self._backruns
        try:
            if backruns.feeds.due(head):
                books = [book for book in self.parts.books if _repricable(book)]
                known = [book for book in books if book.status.trusted]
                complete, able = len(known) == len(books), await backruns.foresight.offered(head)
                await backruns.feeds.read(backruns.client, known, head, complete=complete, foresight=able)
            self._waiting = {
                key: (update, since)
                for key, (update, since) in self._waiting.items()
                if head.number - since < backruns.blocks
            }
            hashes = list(self._waiting)
            found = await backruns.client.batch([("eth_getTransactionByHash", [tx_hash]) for tx_hash in hashes])
            for tx_hash, body in zip(hashes, found, strict=True):
                update, _ = self._waiting[tx_hash]
                if update.tx is not None and (body is None or body.get("blockNumber") is not None):
                    del self._waiting[tx_hash]  # mined or replaced: the book has its price, or never will
                elif update.tx is None and body is not None:
                    del self._waiting[tx_hash]
        except (Transient, BadData) as error:
            log.info("backrun.interrupted", reason=str(error))
            return
        for update, _ in list(self._waiting.values()):
            try:
                await self._try(update)
            except (Transient, BadData) as error:
                log.info("backrun.interrupted", update=update.hash, reason=str(error))

    async def _try(self, update: Update) -> list[Decision]:
        if self._seen is None or (self._stop is not None and self._stop.is_set()):
            return []
        synced, fees = self._seen
        if update.tx is not None and update.tx.raw is None:
            return []
        pairs = await self._repriced(update, synced)
        if not pairs:
            return []
        leader = Leader(update.hash, update.tx.raw if update.tx is not None else None)
        first = None if update.tx is None else call_of(update.tx)
        return await _Scout(self.parts, self._backruns, leader, first, pairs, self._block_time).act(synced, fees)

    async def _repriced(self, update: Update, synced: Synced) -> list[tuple[Book, Book]]:
        """The books whose prices the update changes, each with itself under the new ones.

        The node runs the update and is asked for the protocol's own prices behind it. Where it cannot, the answer that
        was decoded is the price of what has it as such, and what an adapter makes of it is unknown.
        """
        backruns, feeds, head = self._backruns, self._backruns.feeds, synced.head
        books: list[Repricable] = []
        for book in self.parts.books:
            if _repricable(book) and book.name not in synced.behind and book.status.trusted:
                books += [book] if feeds.depends(update.aggregator, book.name) else []
        if not books:
            return []
        if update.tx is None or not await backruns.foresight.offered(head):
            return [(book, view) for book in books if (view := _under(book, feeds.told(update, book.name))) is not None]
        reads = [book.price_reads() for book in books]
        first, time = call_of(update.tx), head.timestamp + self._block_time
        answers = await backruns.foresight.views(first, [read for each in reads for read in each], head, time)
        if answers is None:
            log.info("backrun.skipped", update=update.hash, detail="the update itself fails")
            return []
        found: list[tuple[Book, Book]] = []
        for book, asked in zip(books, reads, strict=True):
            mine, answers = answers[: len(asked)], answers[len(asked) :]
            view = _under(book, book.priced(mine))
            found += [] if view is None else [(book, view)]
        return found


def _under(book: Repricable, prices: Mapping[Address, int | None]) -> Book | None:
    """The book under these prices; None when they change nothing."""
    present = book.prices()
    changed = [asset for asset, price in prices.items() if price is not None and present.get(asset, price) != price]
    return book.with_prices(prices) if changed else None


class _Scout(Engine):
    """The steps of a pass for positions that only the update makes liquidatable."""

    def __init__(
        self,
        parts: Parts,
        backruns: Backruns,
        leader: Leader,
        first: Mapping[str, str] | None,
        pairs: Sequence[tuple[Book, Book]],
        block_time: int,
    ) -> None:
        wired = replace(
            parts,
            prover=_Behind(backruns.prover, first),
            submitter=_Following(parts.submitter, backruns.submitter, leader),
            observer=_Quiet(parts.observer, leader),
            books=[view for _, view in pairs],
        )
        super().__init__(wired, block_time=block_time, audit_every=1, audit_sample=0)
        self._pairs = pairs
        self._first = first
        self._foresight, self._most = backruns.foresight, backruns.most

    async def act(self, synced: Synced, fees: FeeQuote) -> list[Decision]:
        """The best of them that stand together are sent, the best first."""
        scene = self.scene(synced, fees)
        timestamp = scene.timestamp
        found: list[Opportunity] = []
        for book, view in self._pairs:
            for handle in view.screen(timestamp):
                if book.position(handle, timestamp) is None and (one := scene.look(view, handle)) is not None:
                    found.append(one)
                    await asyncio.sleep(0)
        # Each is proved alone behind the update, so none may count on another: no plan is made anew.
        proved, skipped = await self._prove(found, scene, Ordering(renewals=0, items=1))
        for opportunity, skip in [*skipped, *((turn.items[0], proof.skip) for turn, proof in proved if proof.skip)]:
            account = opportunity.position.account
            log.info("backrun.skipped", borrower=account.borrower, reason=skip.reason, detail=skip.detail)
        able = [(turn, proof, proof.order) for turn, proof in proved if proof.order is not None]
        able.sort(key=lambda item: -item[2].predicted_net)
        del able[self._most :]
        orders = [order for *_, order in able]
        standing = {order.id for order in await self._foresight.standing(self._first, orders, synced.head, timestamp)}
        return await self._send([(turn, proof) for turn, proof, order in able if order.id in standing], None)


class _Behind:
    def __init__(self, inner: BehindProver, first: Mapping[str, str] | None) -> None:
        self._inner, self._first = inner, first

    async def prove(self, jobs: Sequence[Job], head: Head, fees: FeeQuote) -> list[Proof]:
        return await self._inner.prove_behind(self._first, jobs, head, fees)


class _Following:
    def __init__(self, inner: Submitter, behind: BehindSubmitter | None, leader: Leader) -> None:
        self._inner, self._behind, self._leader = inner, behind, leader

    @property
    def pending(self) -> int:
        return self._inner.pending

    @property
    def keeps_order(self) -> bool:
        return False

    async def settle(self, head: Head) -> Sequence[Verdict]:
        return ()

    def in_flight(self, market: str, borrower: Address, head: Head) -> str | None:
        return self._inner.in_flight(market, borrower, head)

    async def submit(self, order: Order) -> Sent:
        if self._behind is None:
            return await self._inner.submit(order)
        return await self._behind.submit_behind(order, self._leader)


class _Quiet:
    """A hypothetical position is no news; an order that went out is."""

    def __init__(self, inner: Observer, leader: Leader) -> None:
        self._inner, self._leader = inner, leader

    def synced(self, step: Synced) -> None: ...
    def settled(self, verdict: Verdict) -> None: ...
    def audited(self, market: str, difference: object) -> None: ...
    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None: ...
    def passed(self, head: Head) -> None: ...
    def interrupted(self, head: Head, error: KeeperError) -> None: ...

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        if decision.attempt_id is not None:
            log.info("backrun.sent", update=self._leader.hash, attempt=decision.attempt_id)
            self._inner.decided(found, proof, decision, detail)


def call_of(tx: Pending) -> dict[str, str]:
    """The call object of a pending transaction."""
    return {
        "from": tx.sender,
        "to": tx.to,
        "input": "0x" + tx.data.hex(),
        "nonce": hex(tx.nonce),
        "gas": hex(tx.gas),
        "value": hex(tx.value),
        "maxFeePerGas": hex(tx.max_fee),
        "maxPriorityFeePerGas": hex(tx.tip),
    }


def _repricable(book: Book) -> TypeGuard[Repricable]:
    return hasattr(book, "with_prices")
