"""The loop. One pass per head, one pass at a time, the newest head wins:

    advance ─▶ settle ─▶ audit ─▶ survey (screen, plan, gates) ─▶ order ─▶ prove ─▶ send ─▶ record

Everything a pass decides from was read at one block hash. Every liquidatable position ends it in exactly one decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from keeper.errors import BadData, KeeperError, Transient
from keeper.model import Decision, FeeQuote, Head, Skip, Verdict
from keeper.pauses import Turns, resting
from keeper.ports import (
    Book,
    Client,
    Fees,
    Following,
    Mirror,
    Proof,
    Prover,
    Quoter,
    Recorder,
    Safeguards,
    Submitter,
    Synced,
)
from keeper.strategy.opportunity import Appraiser, Opportunity
from keeper.strategy.scene import Scene
from keeper.strategy.sequence import Sequence as Order
from keeper.strategy.turns import Ordering, Turn, paced, turns, unsendable


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
    review: Callable[[Sequence[Opportunity], Scene], Awaitable[None]] | None = None  # what is not mined yet
    ordering: Ordering = field(default_factory=Ordering)


class Engine:
    """One chain's keeper. `block_time` in seconds; every `audit_every` passes `audit_sample` borrowers are compared."""

    def __init__(self, parts: Parts, *, block_time: int, audit_every: int, audit_sample: int) -> None:
        self.parts, self._block_time = parts, block_time
        self._audit_every, self._audit_sample = audit_every, audit_sample
        self._passes, self._turns = 0, Turns()

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
        with resting():
            parts.observer.synced(synced := await parts.follower.advance(head))
            await self._settle(synced.head)
            await self._audit(synced)
            fees = await parts.fees.quote(synced.head)
            scene = self.scene(synced, fees)
            found = await self.survey(synced, scene)
            proved, skipped = await self._prove(found, scene, parts.ordering)
            decisions = await self._send(proved, stop)
            decisions += [self._decide(one, None, Decision(*one.key, skip)) for one, skip in skipped]
            await parts.recorder.record_pass(synced.head, decisions)
            if parts.review is not None:
                await parts.review(found, scene)
            parts.observer.passed(synced.head)
            return tuple(decisions)

    def scene(self, synced: Synced, fees: FeeQuote) -> Scene:
        """What every position of this pass is considered with."""
        parts, head = self.parts, synced.head
        books = {book.name: book for book in parts.books if book.name not in synced.behind}
        return Scene(
            *(parts.appraiser, books, parts.quoter(fees, synced.behind), fees, head, head.timestamp + self._block_time),
            now=parts.clock(),
            in_flight=lambda market, borrower: parts.submitter.in_flight(market, borrower, head) is not None,
            paused=parts.safeguards.paused,
            breaker=parts.safeguards.breaker,
        )

    async def survey(self, synced: Synced, scene: Scene) -> list[Opportunity]:
        """Every liquidatable position of every market that is at the head, planned and gated as if it were alone."""
        everything: list[Opportunity] = []
        for book in self.parts.books:
            usable = book.name not in synced.behind and (book.status.trusted or book.read_only)
            found: list[Opportunity] = []
            try:
                for handle in book.screen(scene.timestamp) if usable else ():
                    if (one := scene.look(book, handle)) is not None:
                        found.append(one)
                        await self._turns.give()  # probes and heads are served between plans
            except BadData as error:  # this market is unknown; the others are not
                found = []
                self.parts.follower.distrust(book.name, str(error))
            self.parts.observer.surveyed(book, found)
            everything += found
        return everything

    async def _settle(self, head: Head) -> None:
        for verdict in (verdicts := await self.parts.submitter.settle(head)):
            self.parts.appraiser.ended(verdict, self.parts.clock())
            self.parts.observer.settled(verdict)
        await self.parts.safeguards.settled(verdicts)

    async def _audit(self, synced: Synced) -> None:
        self._passes += 1
        due = not self._passes % self._audit_every
        for mirror in (one for one in self.parts.mirrors if due and one.name not in synced.behind):
            difference = await mirror.audit(self.parts.client, synced.head, self._audit_sample)
            self.parts.observer.audited(mirror.name, difference)
            await self.parts.safeguards.audited(mirror.name, difference)
            if difference is not None and not mirror.dirty:
                self.parts.follower.distrust(mirror.name, difference.detail)

    async def _prove(
        self, found: Sequence[Opportunity], scene: Scene, ordering: Ordering
    ) -> tuple[list[tuple[Turn, Proof]], Sequence[tuple[Opportunity, Skip]]]:
        """Put what the gates let through in order, and simulate it in that order; and who is left out, and why."""
        sequence = Order(found, scene, ordering.renewals)
        for _ in paced(sequence, ordering.seconds, asyncio.get_running_loop().time):
            await self._turns.give()
        taken = turns(sequence.taken, ordering)
        proofs = await self.parts.prover.prove([turn.job for turn in taken], scene.head, scene.fees)
        return list(zip(taken, proofs, strict=True)), sequence.skipped

    async def _send(self, proved: Sequence[tuple[Turn, Proof]], stop: asyncio.Event | None) -> list[Decision]:
        """In order: what was proved, unless it counts on what is not sent, or somebody has stopped it meanwhile."""
        sent, ends = list[bool](), list[tuple[Opportunity, Proof | None, Decision, str]]()
        try:
            for turn, proof in proved:
                attempt_id, detail = None, ""
                skip = unsendable(proof, sent, self.parts.submitter.keeps_order, stop is not None and stop.is_set())
                sent.append(False)
                if skip is None and proof.order is not None:
                    async with self.parts.safeguards.sending(proof.order, turn.repaid) as skip:
                        if skip is None:
                            order = await self.parts.submitter.submit(proof.order)
                            attempt_id, detail, sent[-1] = order.attempt_id, order.detail, not order.refused
                positions = [one.position for one in turn.positions]
                self.parts.appraiser.learn(positions, proof, attempt_id, self.parts.clock())
                ends += [(*end, detail) for end in turn.decisions(proof, skip, attempt_id)]
        finally:  # told once everything is out
            decisions = [self._decide(*end) for end in ends]
        return decisions

    def _decide(self, one: Opportunity, proof: Proof | None, decision: Decision, detail: str = "") -> Decision:
        self.parts.observer.decided(one, proof, decision, detail)
        return decision
