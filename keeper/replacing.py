"""What is out there and not mined: looked at again at every head, and made dearer, left, or taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from keeper.errors import BadData
from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.execution.verdicts import OPEN
from keeper.model import Address, Attempt, Head, handle, market_of
from keeper.ports import Job, Ledger, Renewal, Renewer, Safeguards
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.scene import Scene

log = structlog.get_logger("keeper")

# Gates that say nothing about the prize: while one of them is closed nothing is replaced.
WAIT = frozenset({"market_unknown", "market_read_only", "paused", "breaker", "stale_head"})
Key = tuple[str, Address]  # market, borrower
# Gates that are about starting something new.
IGNORED = frozenset({"in_flight", "under_way", "cooldown"})


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
        patience: Patience,
        count: Callable[[str], None],
    ) -> None:
        """`count` hears of every attempt that was ``sped_up``, ``cancelled`` or, at one head, ``left``."""
        self._ledger = ledger
        self._lanes = lanes
        self._renewer = renewer
        self._safeguards = safeguards
        self._patience = patience
        self._since: dict[str, int] = {}  # attempt -> head number its newest transaction was simulated at
        self._count = count

    async def review(self, found: Sequence[Opportunity], scene: Scene) -> None:
        """Go through the open attempts. `found` are the liquidatable positions of this head's markets.

        Raises Transient when the node cannot simulate at this head; nothing was replaced then.
        """
        head = scene.head
        attempts = [a for a in await self._ledger.unsettled() if a.state in OPEN]
        self._since = {a.id: self._since.get(a.id, a.head_number) for a in attempts}
        waiting = [a for a in attempts if head.number - self._since[a.id] >= self._patience.before]
        seen = {one.key: one for one in found}
        jobs: list[tuple[Lane, Attempt, Renewal]] = []
        for attempt in waiting:
            lane = self._lanes.of(attempt.signer)
            if lane is None or not lane.replaceable(attempt):
                continue
            job = _anew(attempt, seen, scene)
            if isinstance(job, str):
                await self._cancel(lane, attempt, head, job)
            elif job is None:
                await self._leave(lane, attempt, head)
            elif lane.next_in_line(attempt):
                least = lane.least(attempt)
                jobs.append((lane, attempt, Renewal(attempt.id, job, least.max_fee, least.tip)))
        if not jobs:
            return
        proofs = await self._renewer.renew([job for _, _, job in jobs], head, scene.fees)
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


def _anew(attempt: Attempt, seen: Mapping[Key, Opportunity], scene: Scene) -> Job | str | None:
    """The attempt as it should be now, of what is left of its positions; why nothing is; None when nobody can say."""
    wake, items, whys = scene.wake, [], []
    taken: set[Key] = set()
    for key in attempt.positions:
        if key in taken:
            continue
        one = seen.get(key)
        if one is not None and wake.plans:
            try:
                one = scene.again(one, wake)
            except BadData:
                return None
        why = _gone(key, one, scene)
        if why is not None:
            whys.append(why)
        elif one is None or one.choice.plan is None or one.liquidation is None or _unsure(one):
            return None
        else:
            plan = one.choice.plan
            items.append((plan, one.liquidation))
            taken |= {(plan.market, borrower) for borrower in (plan.borrower, *plan.others)}
            wake = wake.after(plan)
    return Job(tuple(items)) if items else whys[0]


def _gone(key: Key, one: Opportunity | None, scene: Scene) -> str | None:
    """Why a position is not wanted any more; None when it is, or when that cannot be said."""
    label, borrower = key
    book = scene.books.get(market_of(label))
    if book is None or not book.status.trusted:
        return None
    if one is None:
        # Not liquidatable, or a market whose survey failed after the screen: the book itself is asked.
        try:
            position = book.position(handle(borrower, label.partition("/")[2]), scene.timestamp)
            return "the position has recovered" if position is None else None
        except BadData:
            return None
    if one.choice.plan is None:
        return one.choice.skip.detail if one.choice.skip else "there is no plan for it"
    closed = [gate for gate in one.gates if not gate.open and gate.name not in IGNORED]
    if any(gate.name in WAIT for gate in closed):
        return None
    return closed[0].detail if closed else None


def _unsure(opportunity: Opportunity) -> bool:
    return any(not gate.open and gate.name in WAIT for gate in opportunity.gates)
