"""What is out there and not mined: looked at again at every head, and made dearer, left, or taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from keeper.errors import BadData
from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.execution.verdicts import OPEN
from keeper.model import Attempt, FeeQuote, Handle, Head, handle, market_of
from keeper.ports import Book, Ledger, Renewal, Renewer, Safeguards, Synced
from keeper.strategy.opportunity import Opportunity

log = structlog.get_logger("keeper")

# Gates that say nothing about the prize: while one of them is closed nothing is replaced.
WAIT = frozenset({"market_unknown", "market_read_only", "paused", "breaker", "stale_head"})
# Gates that are about starting something new.
IGNORED = frozenset({"in_flight", "cooldown"})


@dataclass(frozen=True, slots=True)
class Patience:
    """In blocks: `before` a replacement, since what is out was simulated; the executor refuses what is older than
    `until`, which is then taken back rather than left to revert.
    """

    before: int
    until: int


class Replacing:
    """Decides about attempts, and only about such as are open already: the same position, settlement id and nonce.

    One that has not been mined for `Patience.before` blocks is planned and proved anew at the newest head. It is sped
    up when that pays within the share of the new gain that may be spent; it is cancelled when the position has
    recovered, the prize is gone, or the share is used up; it is left while nothing can be said, and behind another
    nonce.
    """

    def __init__(
        self,
        ledger: Ledger,
        lanes: Lane | Lanes,
        renewer: Renewer,
        safeguards: Safeguards,
        books: Sequence[Book],
        patience: Patience,
        block_time: int,
        count: Callable[[str], None],
    ) -> None:
        """`count` hears of every attempt that was ``sped_up``, ``cancelled`` or, at one head, ``left``."""
        self._ledger = ledger
        self._lanes = lanes
        self._renewer = renewer
        self._safeguards = safeguards
        self._books = books
        self._patience = patience
        self._block_time = block_time
        self._since: dict[str, int] = {}  # attempt -> head number its newest transaction was simulated at
        self._count = count

    async def review(self, synced: Synced, found: Sequence[Opportunity], fees: FeeQuote) -> None:
        """Go through the open attempts. `found` are the liquidatable positions of this head's markets.

        Raises Transient when the node cannot simulate at this head; nothing was replaced then.
        """
        head = synced.head
        attempts = [a for a in await self._ledger.unsettled() if a.state in OPEN]
        self._since = {a.id: self._since.get(a.id, a.head_number) for a in attempts}
        waiting = [a for a in attempts if head.number - self._since[a.id] >= self._patience.before]
        usable = {book.name: book for book in self._books if book.name not in synced.behind and book.status.trusted}
        seen = {(o.position.market, o.position.account.borrower): o for o in found}
        jobs: list[tuple[Lane, Attempt, Renewal]] = []
        for attempt in waiting:
            lane = self._lanes.of(attempt.signer)
            if lane is None or not lane.replaceable(attempt):
                continue
            opportunity = seen.get((attempt.market, attempt.borrower))
            book = usable.get(market_of(attempt.market))
            position = handle(attempt.borrower, attempt.market.partition("/")[2])
            why = _gone(book, opportunity, position, head.timestamp + self._block_time)
            if why is not None:
                await self._cancel(lane, attempt, head, why)
            elif book is None or opportunity is None or _unsure(opportunity):
                await self._leave(lane, attempt, head)
            elif lane.next_in_line(attempt) and opportunity.choice.plan and opportunity.liquidation:
                least = lane.least(attempt)
                plan, way = opportunity.choice.plan, opportunity.liquidation
                jobs.append((lane, attempt, Renewal(attempt.id, plan, way, least.max_fee, least.tip)))
        if not jobs:
            return
        proofs = await self._renewer.renew([job for _, _, job in jobs], head, fees)
        for (lane, attempt, _), proof in zip(jobs, proofs, strict=True):
            if proof.order is None:
                await self._cancel(lane, attempt, head, proof.skip.detail if proof.skip else "it cannot be proved")
            elif self._safeguards.paused or self._safeguards.breaker is not None:
                await self._leave(lane, attempt, head)
            elif (answer := await lane.speed_up(attempt, proof.order, head)) is not None:
                self._since[attempt.id] = head.number
                self._count("sped_up")
                log.info(
                    "attempt_sped_up",
                    attempt=attempt.id,
                    block=head.number,
                    max_fee_wei=str(proof.order.max_fee),
                    tip_wei=str(proof.order.tip),
                    answer=str(answer.reception),
                )

    async def _leave(self, lane: Lane, attempt: Attempt, head: Head) -> None:
        self._count("left")
        if head.number - self._since[attempt.id] > self._patience.until:
            await self._cancel(lane, attempt, head, "the executor's deadline has passed")

    async def _cancel(self, lane: Lane, attempt: Attempt, head: Head, why: str) -> None:
        answer = await lane.cancel(attempt, head)
        if answer is not None:
            self._count("cancelled")
        done = "too dear for now" if answer is None else str(answer.reception)
        log.info("attempt_taken_back", attempt=attempt.id, block=head.number, reason=why, answer=done)


def _gone(book: Book | None, opportunity: Opportunity | None, position: Handle, timestamp: int) -> str | None:
    """Why the attempt is not wanted any more; None when it is, or when that cannot be said."""
    if book is None:
        return None
    if opportunity is None:
        # Not liquidatable, or a market whose survey failed after the screen: the book itself is asked.
        try:
            return "the position has recovered" if book.position(position, timestamp) is None else None
        except BadData:
            return None
    if opportunity.choice.plan is None:
        return opportunity.choice.skip.detail if opportunity.choice.skip else "there is no plan for it"
    closed = [gate for gate in opportunity.gates if not gate.open and gate.name not in IGNORED]
    if any(gate.name in WAIT for gate in closed):
        return None
    return closed[0].detail if closed else None


def _unsure(opportunity: Opportunity) -> bool:
    return any(not gate.open and gate.name in WAIT for gate in opportunity.gates)
