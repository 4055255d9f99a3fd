"""The loop. One pass per head, one pass at a time, the newest head wins:

    advance ─▶ settle ─▶ audit ─▶ survey (screen, plan, gates) ─▶ rank ─▶ prove ─▶ submit ─▶ record

Everything a pass decides from was read at one block hash. Every liquidatable position ends it in exactly one decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from keeper.errors import BadData, KeeperError, Transient
from keeper.model import Decision, FeeQuote, Head, Skip, SkipReason, Verdict
from keeper.ports import (
    Book,
    Client,
    Fees,
    Following,
    Mirror,
    Position,
    Proof,
    Prover,
    Quoter,
    Recorder,
    Safeguards,
    Submitter,
    Synced,
)
from keeper.strategy.opportunity import Appraiser, Opportunity
from keeper.strategy.rank import rank


class Observer(Protocol):
    """What an operator is shown of the loop: logs, metrics, probes. Never blocks, never raises."""

    def synced(self, step: Synced) -> None: ...
    def settled(self, verdict: Verdict) -> None: ...
    def audited(self, mirror: str, difference: Skip | None) -> None: ...
    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None: ...
    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None: ...
    def passed(self, head: Head) -> None: ...
    def interrupted(self, head: Head, error: KeeperError) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop is made of."""

    client: Client
    follower: Following
    books: Sequence[Book]
    mirrors: Sequence[Mirror]  # the books and all else that is audited
    quoter: Callable[[FeeQuote, frozenset[str]], Quoter]  # of fees and the mirrors that are behind
    appraiser: Appraiser
    fees: Fees
    prover: Prover
    submitter: Submitter
    recorder: Recorder
    observer: Observer
    safeguards: Safeguards
    clock: Callable[[], int]  # Unix seconds
    review: Callable[[Synced, Sequence[Opportunity], FeeQuote], Awaitable[None]] | None = None  # what is not mined yet


class Engine:
    """One chain's keeper. `block_time` in seconds; every `audit_every` passes `audit_sample` borrowers are compared."""

    def __init__(self, parts: Parts, *, block_time: int, audit_every: int, audit_sample: int) -> None:
        self.parts = parts
        self._block_time = block_time
        self._audit_every = audit_every
        self._audit_sample = audit_sample
        self._passes = 0

    async def run(self, heads: AsyncIterator[Head], stop: asyncio.Event) -> None:
        """Pass after pass until the heads end; once `stop` is set nothing more is submitted.

        A pass that the node interrupts is left at the next head. Raises Halt when the journal cannot be written.
        """
        async for head in heads:
            try:
                await self.step(head, stop)
            except (Transient, BadData) as error:
                self.parts.observer.interrupted(head, error)

    async def drain(self, heads: AsyncIterator[Head], grace: float) -> None:
        """Take no new work; up to `grace` seconds for what was sent to be mined and booked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self.parts.submitter.pending:
                    head = await anext(heads)
                    try:
                        await self._settle(head)
                    except (Transient, BadData) as error:
                        self.parts.observer.interrupted(head, error)

    async def step(self, head: Head, stop: asyncio.Event | None = None) -> tuple[Decision, ...]:
        """One pass. With `stop` set nothing more is submitted."""
        parts = self.parts
        synced = await parts.follower.advance(head)
        parts.observer.synced(synced)
        await self._settle(synced.head)
        await self._audit(synced)
        fees = await parts.fees.quote(synced.head)
        found = await self.survey(synced, fees)
        decisions = [await self._finish(*item, stop) for item in await self._prove(found, synced.head, fees)]
        await parts.recorder.record_pass(synced.head, decisions)
        if parts.review is not None:
            await parts.review(synced, found, fees)
        parts.observer.passed(synced.head)
        return tuple(decisions)

    async def survey(self, synced: Synced, fees: FeeQuote) -> list[Opportunity]:
        """Every liquidatable position of every market that is at the head, planned and gated."""
        quoter = self.parts.quoter(fees, synced.behind)
        timestamp = synced.head.timestamp + self._block_time
        everything: list[Opportunity] = []
        for book in self.parts.books:
            usable = book.name not in synced.behind and (book.status.trusted or book.read_only)
            found: list[Opportunity] = []
            try:
                for handle in book.screen(timestamp) if usable else ():
                    if (position := book.position(handle, timestamp)) is not None:
                        found.append(self._consider(book, position, quoter, fees))
                        await asyncio.sleep(0)  # probes and heads are served between two plans
            except BadData as error:  # this market is unknown; the others are not
                found = []
                self.parts.follower.distrust(book.name, str(error))
            self.parts.observer.surveyed(book, found)
            everything += found
        return everything

    def _consider(self, book: Book, position: Position, quoter: Quoter, fees: FeeQuote) -> Opportunity:
        parts, borrower = self.parts, position.account.borrower
        in_flight = parts.submitter.in_flight(position.market, borrower, position.head) is not None
        paused, breaker = parts.safeguards.paused, parts.safeguards.breaker
        return parts.appraiser.consider(
            book, position, quoter, fees, now=parts.clock(), in_flight=in_flight, paused=paused, breaker=breaker
        )

    async def _settle(self, head: Head) -> None:
        for verdict in (verdicts := await self.parts.submitter.settle(head)):
            self.parts.appraiser.cooldowns.ended(verdict, self.parts.clock())
            self.parts.observer.settled(verdict)
        await self.parts.safeguards.settled(verdicts)

    async def _audit(self, synced: Synced) -> None:
        self._passes += 1
        if self._passes % self._audit_every:
            return
        for mirror in self.parts.mirrors:
            if mirror.name in synced.behind:
                continue
            difference = await mirror.audit(self.parts.client, synced.head, self._audit_sample)
            self.parts.observer.audited(mirror.name, difference)
            await self.parts.safeguards.audited(mirror.name, difference)
            if difference is not None and not mirror.dirty:
                self.parts.follower.distrust(mirror.name, difference.detail)

    async def _prove(
        self, found: Sequence[Opportunity], head: Head, fees: FeeQuote
    ) -> list[tuple[Opportunity, Proof | None, Skip | None]]:
        """Simulate what the gates let through and no better plan stands in the way of."""
        open_ = {id(o.choice.plan): o for o in found if o.skip is None}
        ranked = rank([o.choice.plan for o in open_.values() if o.choice.plan is not None])
        superseded = {id(r.plan): r.skip for r in ranked if r.skip is not None}
        chosen = [open_[id(r.plan)] for r in ranked if r.skip is None]
        jobs = [(o.choice.plan, o.liquidation) for o in chosen if o.choice.plan and o.liquidation]
        proofs = await self.parts.prover.prove(jobs, head, fees)
        proved: list[tuple[Opportunity, Proof | None, Skip | None]] = [
            (o, proof, proof.skip) for o, proof in zip(chosen, proofs, strict=True)
        ]
        return proved + [
            (o, None, o.skip or superseded[id(o.choice.plan)])
            for o in found
            if o.skip is not None or id(o.choice.plan) in superseded
        ]

    async def _finish(
        self, found: Opportunity, proof: Proof | None, skip: Skip | None, stop: asyncio.Event | None
    ) -> Decision:
        """Send what was proved, unless the operator or a breaker has stopped that in the meantime."""
        account, market = found.position.account, found.position.market
        attempt_id, detail = None, ""
        if skip is None and stop is not None and stop.is_set():
            skip = Skip(SkipReason.PAUSED, "the keeper is shutting down and takes no new work")
        if skip is None and proof is not None and proof.order is not None:
            async with self.parts.safeguards.sending(proof.order, proof.plan, found.repaid_value) as skip:
                if skip is None:
                    sent = await self.parts.submitter.submit(proof.order)
                    attempt_id, detail = sent.attempt_id, sent.detail
        self.parts.appraiser.learn(found.position, proof, attempt_id, self.parts.clock())
        decision = Decision(market, account.borrower, skip, attempt_id)
        self.parts.observer.decided(found, proof, decision, detail)
        return decision
