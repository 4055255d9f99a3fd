"""Who liquidated whom, and why it was not us: seen in the blocks' own logs, studied and written down beside the loop.

The loop is told nothing and waits for nothing. What it thought of each position is remembered from its decisions; the
chain is asked one batched request per block, only for blocks in which somebody was liquidated, in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import structlog

from keeper.chain.tracks import union
from keeper.engine import Observer
from keeper.errors import BadData, Halt, KeeperError, Transient
from keeper.execution.landed import Inquiry, LandedBlock
from keeper.journal.rivals import Liquidation
from keeper.model import (
    Address,
    Block,
    Decision,
    Hash,
    Head,
    LiquidationSeen,
    Log,
    MissReason,
    Read,
    Skip,
    SkipReason,
    Verdict,
    Watch,
    checksum,
    market_of,
)
from keeper.ports import Book, Client, Proof, Synced
from keeper.strategy.opportunity import Opportunity

log = structlog.get_logger("keeper")

QUEUE = 1_000  # blocks with liquidations, and reorganisations, that may wait to be studied
TRIES = 3
_WAITING = (None, SkipReason.IN_FLIGHT, SkipReason.COOLDOWN)  # how passes end while an attempt is out

_Key = tuple[str, Address]


class Ledger(Protocol):
    """The journal, as far as this writes it."""

    async def record_liquidations(self, rows: Sequence[Liquidation]) -> list[Liquidation]: ...
    async def undo_liquidations(self, number: int) -> None: ...
    async def attempt_hashes(self, attempt_ids: Sequence[str]) -> dict[str, set[str]]: ...


@dataclass(slots=True)
class _Sighting:
    """What the passes have made of a liquidatable position, since it became so."""

    first: int
    last: int
    reason: SkipReason | None = None
    detail: str = ""
    attempt_id: str | None = None  # the newest
    attempt_block: int = 0
    plan: tuple[int, int, int] | None = None  # gain, cost, net in wei


@dataclass(frozen=True, slots=True)
class _Found:
    """One liquidation with what we knew before it."""

    seen: LiquidationSeen
    reason: SkipReason | MissReason
    detail: str
    sighting: _Sighting | None


@dataclass(frozen=True, slots=True)
class _Job:
    """A block to be studied; without `found`: blocks above `number` were undone."""

    number: int
    hash: Hash | None = None  # None: replayed from before this process
    fee_recipient: Address | None = None
    found: tuple[_Found, ...] = ()


class Rivals(Observer):
    """A `ports.Mirror` of liquidations and an `engine.Observer` of decisions; give it to both.

    It must stand after the books among the mirrors: the prices it states are then those at the head of its step.
    """

    history_from: int | None = None  # what happened before the first start is nobody's miss
    dirty = False

    def __init__(
        self, books: Sequence[Book], inquiry: Inquiry, mode: str, missed: Callable[[str], None], *, pause: float = 2.0
    ) -> None:
        """`mode` is dry or live; `missed` is told the reason of each miss; `pause` between tries is in seconds."""
        self.name = f"liquidations ({mode})"
        self._books = books
        self._inquiry = inquiry
        self._dry = mode == "dry"
        self._missed = missed
        self._pause = pause
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(QUEUE)
        self._sightings: dict[_Key, _Sighting] = {}
        self._unknown: dict[str, str] = {}  # markets that could not be decided on in the last pass -> why
        self._behind: frozenset[str] = frozenset()
        self._passed: int | None = None

    # ---------------------------------------------------------------------------------------- as an observer

    def synced(self, step: Synced) -> None:
        self._behind = step.behind

    def settled(self, verdict: Verdict) -> None:
        """What became of an attempt is in the journal."""

    def audited(self, market: str, difference: Skip | None) -> None:
        """A book that differs becomes untrusted, which `surveyed` shows."""

    def interrupted(self, head: Head, error: KeeperError) -> None:
        """The pass counts as not made."""

    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None:
        status = book.status
        if book.name in self._behind:
            self._unknown[book.name] = "the book was not at the head"
        elif not status.trusted and not book.read_only:
            self._unknown[book.name] = status.reason
        else:
            self._unknown.pop(book.name, None)

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        number = found.position.head.number
        key = (decision.market, decision.borrower)
        sighting = self._current(key)
        if sighting is None:
            sighting = self._sightings[key] = _Sighting(number, number)
        sighting.last = number
        sighting.reason = None if decision.skip is None else decision.skip.reason
        sighting.detail = "" if decision.skip is None else decision.skip.detail
        if decision.attempt_id is not None:
            sighting.attempt_id, sighting.attempt_block = decision.attempt_id, number
        plan, order = found.choice.plan, None if proof is None else proof.order
        if order is not None and not order.others:
            sighting.plan = (order.predicted_gain, order.predicted_gain - order.predicted_net, order.predicted_net)
        elif plan is not None and (decision.attempt_id is not None or sighting.reason not in _WAITING):
            sighting.plan = (plan.gain, plan.cost, plan.net)
        elif decision.skip is not None and plan is None:
            numbers = decision.skip.numbers  # of the best there was, where it did not pay
            if numbers.keys() >= {"gain", "gas_cost", "net"}:
                sighting.plan = (numbers["gain"], numbers["gas_cost"], numbers["net"])

    def passed(self, head: Head) -> None:
        self._passed = head.number
        self._sightings = {key: item for key, item in self._sightings.items() if item.last >= head.number}

    # ------------------------------------------------------------------------------------------ as a mirror

    def watch(self) -> Watch:
        return union(book.liquidation_watch() for book in self._books)

    def reads(self) -> tuple[Read, ...]:
        return ()

    def apply(self, block: Block) -> None:
        seen = self._read(block.logs) if block.logs else ()
        if seen:
            head = block.head
            self._put(_Job(head.number, head.hash, head.fee_recipient, tuple(self._judge(item) for item in seen)))

    def replay(self, logs: Sequence[Log]) -> None:
        seen = sorted(self._read(logs), key=lambda item: (item.block_number, item.log_index))
        why = "the keeper was not running"
        for number, items in groupby(seen, key=lambda item: item.block_number):
            found = tuple(_Found(item, MissReason.NOT_WATCHING, why, None) for item in items)
            self._put(_Job(number, found=found))

    def rewind(self, number: int) -> None:
        self._put(_Job(number))

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """It reads nothing."""

    async def refresh(self, client: Client, head: Head) -> None:
        """It is never dirty."""

    async def load(self, client: Client, head: Head) -> None:
        """It begins at the head."""

    def distrust(self, reason: str) -> None:
        """It holds nothing that could be wrong."""

    def snapshot(self) -> bytes:
        return b"liquidations"

    def restore(self, data: bytes) -> None:
        """Only the place matters, which is stored beside it."""

    # --------------------------------------------------------------------------------------- beside the loop

    @asynccontextmanager
    async def recording(self, journal: Ledger, grace: float) -> AsyncIterator[None]:
        """Studies and writes while inside; on leaving, what is still waiting has `grace` seconds."""
        task = asyncio.create_task(self._work(journal), name="rivals")
        try:
            yield
        finally:
            # Something else may have ended it: then nothing will be taken from the queue any more.
            done = asyncio.ensure_future(self._queue.join())
            await asyncio.wait({done, task}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for item in (done, task):
                item.cancel()
            await asyncio.gather(done, task, return_exceptions=True)

    async def _work(self, journal: Ledger) -> None:
        while True:
            job = await self._queue.get()
            try:
                await self._study(job, journal)
            except Halt as error:  # the loop writes to the same journal, and stops by itself
                log.error("rivals.not_recorded", block=job.number, reason=str(error))
            finally:
                self._queue.task_done()

    async def _study(self, job: _Job, journal: Ledger) -> None:
        if not job.found:
            await journal.undo_liquidations(job.number)
            return
        landed = await self._ask(job)
        ids = [f.sighting.attempt_id for f in job.found if f.sighting is not None and f.sighting.attempt_id is not None]
        ours = await journal.attempt_hashes(ids) if ids else {}
        rows = [_row(found, job, landed, ours) for found in job.found]
        for row in await journal.record_liquidations(rows):
            if row.reason is not None:
                self._missed(row.reason)
            log.info(
                "liquidation.seen",
                block=row.block_number,
                market=row.market,
                borrower=checksum(Address(row.borrower)),
                by="us" if row.ours else checksum(Address(row.liquidator)),
                tx=row.tx_hash,
                reason=row.reason,
                detail=row.detail,
                gross_wei=None if row.gross is None else str(row.gross),
                gas_price_wei=None if row.gas_price is None else str(row.gas_price),
                coinbase_wei=None if row.coinbase_paid is None else str(row.coinbase_paid),
            )

    async def _ask(self, job: _Job) -> LandedBlock | None:
        """None when the node cannot tell: what the event says is written down all the same."""
        hashes = [found.seen.tx_hash for found in job.found]
        for turn in range(TRIES):
            try:
                return await self._inquiry.ask(job.number, job.hash, job.fee_recipient, hashes)
            except (Transient, BadData) as error:
                log.debug("rivals.unanswered", block=job.number, reason=str(error))
                await asyncio.sleep(self._pause * (turn + 1) if turn + 1 < TRIES else 0)
        return None

    # ---------------------------------------------------------------------------------------------- helpers

    def _put(self, job: _Job) -> None:
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            log.warning("rivals.dropped", block=job.number, liquidations=len(job.found))

    def _read(self, logs: Sequence[Log]) -> list[LiquidationSeen]:
        seen: list[LiquidationSeen] = []
        for book in self._books:
            watch = book.liquidation_watch()
            mine = [item for item in logs if item.address in watch.addresses and item.topics[0] in watch.topics]
            try:
                seen += book.liquidations(mine) if mine else ()
            except BadData as error:
                log.warning("rivals.not_understood", market=book.name, reason=str(error))
        return seen

    def _current(self, key: _Key) -> _Sighting | None:
        """What was made of a position in the last pass; None when it was not liquidatable then."""
        sighting = self._sightings.get(key)
        return sighting if sighting is not None and sighting.last >= (self._passed or 0) else None

    def _judge(self, seen: LiquidationSeen) -> _Found:
        """Why it is not ours, should it turn out not to be: from what the last pass before the block knew."""
        sighting = self._current((seen.market, seen.borrower))
        if sighting is not None:
            if sighting.attempt_id is None or sighting.reason not in _WAITING:
                reason = sighting.reason or SkipReason.IN_FLIGHT
                return _Found(seen, reason, sighting.detail, sighting)
            if self._dry:
                why = f"would have been sent on block {sighting.attempt_block}, to be mined from the next one on"
                return _Found(seen, MissReason.DRY_RUN, why, sighting)
            return _Found(
                seen, MissReason.LOST_RACE, f"our attempt was sent on block {sighting.attempt_block}", sighting
            )
        if self._passed is None:
            return _Found(seen, MissReason.NOT_WATCHING, "no pass had been made yet", None)
        if (unknown := self._unknown.get(market_of(seen.market))) is not None:
            return _Found(seen, SkipReason.MARKET_UNKNOWN, unknown, None)
        blocks = seen.block_number - self._passed
        why = f"not liquidatable at block {self._passed}, the last one looked at; taken {blocks} block(s) later"
        return _Found(seen, MissReason.NOT_SEEN, why, None)


def _row(found: _Found, job: _Job, block: LandedBlock | None, ours: dict[str, set[str]]) -> Liquidation:
    seen, sighting = found.seen, found.sighting
    attempt = None
    if sighting is not None and found.reason in (MissReason.LOST_RACE, MissReason.DRY_RUN):
        attempt = sighting.attempt_id
    row = Liquidation(
        market=seen.market,
        borrower=seen.borrower,
        block_number=seen.block_number,
        block_hash=job.hash or "",
        log_index=seen.log_index,
        tx_hash=seen.tx_hash,
        liquidator=seen.liquidator,
        debt=seen.debt.symbol,
        collateral=seen.collateral.symbol,
        repaid=seen.repaid,
        seized=seen.seized,
        gross=seen.gross,
        reason=str(found.reason),
        detail=found.detail,
        attempt_id=attempt,
        first_seen=None if sighting is None else sighting.first,
        last_seen=None if sighting is None else sighting.last,
        plan_gain=None if sighting is None or sighting.plan is None else sighting.plan[0],
        plan_cost=None if sighting is None or sighting.plan is None else sighting.plan[1],
        plan_net=None if sighting is None or sighting.plan is None else sighting.plan[2],
    )
    if block is None:
        return row
    landed = block.transactions[seen.tx_hash]
    standing = [index for index, tx_hash in enumerate(block.order) if tx_hash in ours.get(attempt or "", ())]
    return replace(
        row,
        block_hash=landed.block_hash,
        tx_index=landed.index,
        sender=landed.sender,
        target=landed.target,
        gas_used=landed.gas_used,
        gas_price=landed.gas_price,
        coinbase_paid=landed.coinbase_paid,
        coinbase_at_most=landed.coinbase_at_most,
        our_index=standing[0] if standing else None,
    )
