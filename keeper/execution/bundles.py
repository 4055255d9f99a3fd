"""Attempts that only private relays are told of: offered block by block, and dropped for nothing if none takes them.

The rule of the nonce. A transaction that only relays have may land until the last block any of them was told it may:
until that block has passed the attempt is open and its nonce taken. Then the attempt is DROPPED without a cancelling
transaction, and its nonce is free: relays drop what is out of date, and the executor refuses it after its deadline.
Should somebody have kept the transaction and land it all the same, the tracker finds it by its hash, because a dropped
attempt is watched until its nonce is spent.

Several attempts behind one transaction of somebody else's have nonces in a row, and each is offered with all of ours
that come before it: [theirs, a], [theirs, a, b], [theirs, a, b, c]. Every one of these bundles is valid by itself and a
builder takes the longest that pays; no nonce is in two different transactions.

What may have been seen in public is never dropped like that: it is taken back by an ordinary cancellation, which is
public.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import structlog

from keeper.errors import Halt
from keeper.execution.lane import PRIVATE, Lane, LanePolicy, Sending
from keeper.execution.lanes import Lanes
from keeper.execution.offers import Bundle, replacement_uuid
from keeper.execution.relays import Relays, Told
from keeper.execution.replies import Answer, Reception, Sender, combine
from keeper.execution.signer import Signer
from keeper.execution.submit import LiveSubmitter
from keeper.execution.track import Tracker
from keeper.execution.verdicts import OPEN
from keeper.model import Attempt, AttemptState, Hash, Head, Order, Signed, TxKind, Verdict
from keeper.ports import Ledger

log = structlog.get_logger(__name__)

_PRIVATE = re.compile(PRIVATE + r" (\d+)(?: behind (0x[0-9a-f]{64}))?")
_PUBLIC = "public since block"
_FORGOTTEN = 64  # blocks after which a dropped attempt is no longer looked for


@dataclass(frozen=True, slots=True)
class Leader:
    """The transaction ours must directly follow; `raw` is None when only a relay has it."""

    hash: Hash
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How far an attempt is private, as the journal keeps it in the attempt's detail."""

    until: int  # the last block any relay may include it in
    leader: Hash | None = None  # what it must follow; never sent without it

    @classmethod
    def of(cls, attempt: Attempt) -> Terms | None:
        """None for an attempt that may be known in public."""
        found = _PRIVATE.fullmatch(attempt.detail)
        return None if found is None else cls(int(found[1]), Hash(found[2]) if found[2] else None)

    def __str__(self) -> str:
        return f"{PRIVATE} {self.until}" + (f" behind {self.leader}" if self.leader else "")


@dataclass(frozen=True, slots=True)
class PrivatePolicy:
    """`blocks`: for how many blocks after its simulation an attempt is offered. `public_after`: blocks after which one
    that nobody included is sent in public too; None for never.
    """

    blocks: int = 4
    public_after: int | None = None


class PrivateLane(Lane):
    """A lane whose liquidations go to relays only. Cancellations are public: they give nothing away."""

    def __init__(
        self,
        client: Sender,
        ledger: Ledger,
        signer: Signer,
        relays: Relays,
        policy: LanePolicy | None = None,
        private: PrivatePolicy | None = None,
    ) -> None:
        super().__init__(client, ledger, signer, policy)
        self._relays = relays
        self.private = private or PrivatePolicy()
        self._leaders: dict[str, Leader] = {}
        self._took: dict[str, set[str]] = {}  # by attempt: the relays that accepted a bundle with it
        self._offered: dict[str, Bundle] = {}  # by attempt: what relays were given last
        self._withdrawn: set[str] = set()

    async def submit(self, order: Order, leader: Leader | None = None) -> Sending:
        """Sign `order` and offer it for the next block, directly behind `leader` if there is one.

        Raises like `Lane.submit`.
        """
        await self._forget(order.head)
        if leader is not None:
            self._leaders[order.id] = leader
        return await super().submit(order)

    def replaceable(self, attempt: Attempt) -> bool:
        """Neither what was withdrawn nor what is bound to somebody else's transaction."""
        terms = Terms.of(attempt)
        return (
            super().replaceable(attempt)
            and attempt.id not in self._withdrawn
            and (terms is None or terms.leader is None)
        )

    async def cancel(self, attempt: Attempt, head: Head) -> Answer | None:
        """Offer it no more and ask the relays to forget it; in public as any lane does, if it may be known there."""
        if Terms.of(attempt) is None:
            return await super().cancel(attempt, head)
        self._withdrawn.add(attempt.id)
        bundle = self._bundle(attempt, attempt.txs[-1], head.number + 1, head.number + 1)
        agreed = await self._relays.withdraw(bundle)
        return Answer(Reception.ACCEPTED, f"withdrawn; {agreed} relays confirm it")

    async def tend(self, attempt: Attempt, head: Head, *, wanted: bool = True, now: bool = False) -> None:
        """Offer it for the next block, or let it go once no relay may include it any more."""
        terms = Terms.of(attempt)
        if terms is None or not attempt.txs or attempt.signer != self.address:
            # Without a word about who was told, it counts as public: of an earlier run, or killed before it was sent.
            known = attempt.detail != "" or not attempt.txs or attempt.txs[-1].kind is TxKind.CANCEL
            await super().tend(attempt, head, wanted=wanted and known, now=now)
        elif head.number >= self._last_chance(attempt, terms):
            await self._drop(attempt, head)
        elif not wanted:
            if attempt.id not in self._withdrawn:
                await self.cancel(attempt, head)
        elif attempt.id in self._withdrawn or (terms.leader is not None and attempt.id not in self._leaders):
            return  # a leader's raw transaction is not in the journal: after a restart there is nothing to follow
        elif self._goes_public(attempt, terms, head):
            public = replace(attempt, detail=f"{_PUBLIC} {head.number}")
            await self._ledger.record([Verdict(attempt.id, attempt.state, public.detail)])
            log.warning("attempt_made_public", attempt=attempt.id, block=head.number)
            await super().tend(public, head, now=True)
        else:
            await self.rebroadcast(attempt, head)

    async def fill_gap(self, head: Head) -> Sending | None:
        """Nothing while only private attempts wait behind the gap: they end by themselves, and for nothing."""
        waiting = [a for a in await self._ledger.unsettled() if a.signer == self.address and a.state in OPEN]
        if all(Terms.of(attempt) is not None for attempt in waiting):
            return None
        return await super().fill_gap(head)

    async def _deliver(self, attempt: Attempt, tx: Signed, head: Head) -> Answer:
        terms = Terms.of(attempt)
        if terms is None and attempt.state is AttemptState.INTENT and tx.kind is TxKind.EXECUTE:
            leader = self._leaders.get(attempt.id)
            # Behind another transaction it is for one block: it is planned anew for as long as that one waits.
            last = attempt.head_number + (self.private.blocks if leader is None else 1)
            terms = Terms(last, leader.hash if leader else None)
            # Before anybody is told: a kill in between leaves no doubt about who may know it.
            await self._ledger.record([Verdict(attempt.id, AttemptState.SIGNED, str(terms))])
        if terms is None or tx.kind is TxKind.CANCEL:
            return await super()._deliver(attempt, tx, head)
        bundle = self._bundle(attempt, tx, head.number + 1, terms.until)
        first = await self._before(attempt, terms) if terms.leader is not None else []
        bundle = replace(bundle, before=tuple(each.raw for each in first))
        if bundle.block > terms.until or (terms.leader is not None and bundle.leader is None):
            return Answer(Reception.UNCERTAIN, "nothing to offer it with")
        self._offered[attempt.id] = bundle
        told = await self._relays.send(bundle)
        for one in told:
            if one.error is None:
                for each in (*first, attempt):
                    self._took.setdefault(each.id, set()).add(one.relay)
            else:
                log.info("relay_declined", relay=one.relay, attempt=attempt.id, reason=str(one.error))
        return _as_one(told)

    async def _before(self, attempt: Attempt, terms: Terms) -> list[Attempt]:
        """The attempts behind the same transaction that hold the nonces before this one's, in their order."""
        return [
            other
            for other in await self._ledger.unsettled()
            if other.signer == self.address
            and other.nonce < attempt.nonce
            and other.state in OPEN
            and other.txs
            and other.id not in self._withdrawn
            and Terms.of(other) == terms
        ]

    def credit(self, attempt_id: str) -> None:
        """The attempt was mined: the relays that had accepted it are counted, once."""
        for relay in self._took.pop(attempt_id, ()):
            self._relays.tally.included(relay)

    def _bundle(self, attempt: Attempt, tx: Signed, block: int, until: int) -> Bundle:
        leader = self._leaders.get(attempt.id)
        first = None if leader is None else leader.raw if leader.raw is not None else leader.hash
        return Bundle(tx.raw, block, until, replacement_uuid(attempt.id), first)

    def _last_chance(self, attempt: Attempt, terms: Terms) -> int:
        """The last block in which a relay may include what it was given."""
        offered = self._offered.get(attempt.id)
        if attempt.id in self._withdrawn and offered is not None and not self._relays.hold:
            return offered.block  # nothing is offered any more, and bundles are for one block
        return terms.until

    def _goes_public(self, attempt: Attempt, terms: Terms, head: Head) -> bool:
        after = self.private.public_after
        return after is not None and terms.leader is None and head.number - attempt.head_number >= after

    async def _drop(self, attempt: Attempt, head: Head) -> None:
        reason = f"not included by block {head.number}, and only private relays were given it"
        await self._ledger.record([Verdict(attempt.id, AttemptState.DROPPED, reason)])
        log.info("attempt_not_included", attempt=attempt.id, block=head.number)
        self._leaders.pop(attempt.id, None)
        self._offered.pop(attempt.id, None)
        self._withdrawn.discard(attempt.id)

    async def _forget(self, head: Head) -> None:
        """Close what was dropped long ago, so that a nonce nobody takes does not collect attempts to look for."""
        unsettled = await self._ledger.unsettled()
        still = {attempt.id for attempt in unsettled}
        self._leaders = {key: leader for key, leader in self._leaders.items() if key in still}
        self._offered = {key: bundle for key, bundle in self._offered.items() if key in still}
        self._took = {key: relays for key, relays in self._took.items() if key in still}
        self._withdrawn &= still
        old = [
            Verdict(a.id, a.state, a.detail, closed=True)
            for a in unsettled
            if a.state is AttemptState.DROPPED
            and a.ended_number is None
            and a.signer == self.address
            and head.number - a.head_number > self.private.blocks + _FORGOTTEN
        ]
        await self._ledger.record(old)


def _as_one(told: list[Told]) -> Answer:
    """Nobody's refusal is final unless everybody refuses for a reason that the next block will not change."""
    if not told:
        return Answer(Reception.UNCERTAIN, "no relay takes such a bundle")
    answer = combine(told)
    lasting = (Reception.NONCE_TOO_LOW, Reception.INSUFFICIENT_FUNDS, Reception.REFUSED)
    if answer.reception.refused and answer.reception not in lasting:
        return Answer(Reception.UNCERTAIN, answer.detail)
    return answer


class PrivateSubmitter(LiveSubmitter):
    """Sends through private lanes, also directly behind somebody else's transaction."""

    def __init__(self, ledger: Ledger, lane: PrivateLane | Lanes, tracker: Tracker) -> None:
        super().__init__(ledger, lane, tracker)
        self._lanes = lane if isinstance(lane, Lanes) else Lanes(ledger, [lane])
        self._behind: dict[Hash, tuple[int, Lane]] = {}  # by leader: the head of its first order, and who has them all

    @property
    def keeps_order(self) -> bool:
        """Each order is a bundle of its own: a relay may include the later one, or try it, without the earlier."""
        return False

    async def settle(self, head: Head) -> list[Verdict]:
        """As any submitter; relays are credited with what was mined."""
        changed = await super().settle(head)
        for verdict in changed:
            if verdict.state is AttemptState.MINED:
                for lane in self._lanes.every:
                    if isinstance(lane, PrivateLane):
                        lane.credit(verdict.attempt_id)
        return changed

    async def submit_behind(self, order: Order, leader: Leader) -> Sending:
        """Sign and offer [leader, earlier orders behind it, ours] for the next block, and for no other.

        All orders behind one leader go through one key: with another's, two bundles would both claim the leader.
        Raises like `submit`.
        """
        number = order.head.number
        self._behind = {key: found for key, found in self._behind.items() if found[0] == number}
        _, lane = self._behind.setdefault(leader.hash, (number, await self._lanes.choose(number)))
        if not isinstance(lane, PrivateLane):
            raise Halt(
                f"the key of {lane.address} sends in public only: nothing may be sent behind another transaction"
            )
        try:
            return await lane.submit(order, leader)
        finally:
            await self._look()
