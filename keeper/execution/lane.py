"""One owner per key: every nonce of a signer is given out, signed, sent, replaced and cancelled here, in turn."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from keeper.chain.wire import quantity
from keeper.errors import BadData, Halt, Transient
from keeper.execution.fees import Bid, bump_up, highest_base_fee
from keeper.execution.replies import Answer, Reception, Sender, combine
from keeper.execution.signer import Signer, Unsigned
from keeper.execution.verdicts import OPEN, WITH_RECEIPT
from keeper.model import Address, Attempt, AttemptState, Head, Order, Signed, TxKind, Verdict
from keeper.ports import Ledger

log = structlog.get_logger(__name__)
_S = AttemptState
GAP = "nonce gap"  # the market of an attempt that only fills one
PRIVATE = "private until block"  # how the journal's detail of an attempt begins that only relays may have


def new_attempt_id() -> str:
    """A fresh settlement id, 32 random bytes as 0x hex: it goes into the calldata, so it is drawn before simulating."""
    return "0x" + secrets.token_bytes(32).hex()


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """When to give up and how to replace. Ages are blocks, fees wei per gas."""

    max_age: int = 12  # a liquidation not mined this long after its simulation is cancelled
    rebroadcast_every: int = 3  # blocks after which the same transaction is handed out again
    bump_every: int = 3  # blocks after which a cancellation that is not mined offers more
    bump_percent: int = 13  # nodes want 10 % more (geth, reth, anvil), some 12.5 % (erigon's older default)
    min_tip: int = 10**9  # least tip of a cancellation
    max_fee: int = 500 * 10**9  # no replacement offers more
    cancel_gas: int = 21_000  # a self-transfer; more where the chain charges for data


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of an order."""

    attempt_id: str
    nonce: int
    reception: Reception
    detail: str = ""

    @property
    def refused(self) -> bool:
        """Nobody has it, and its nonce is free."""
        return self.reception.refused


@dataclass(frozen=True, slots=True)
class _Counts:
    head: Head
    latest: int  # nonces below are spent at `head`
    pending: int  # nonces below are spent or wait in the node's pool, whoever sent them


class Lane:
    """Owns the nonces of one signer. Its methods run one at a time.

    Each step is in the ledger before it is taken: the nonce before the signature, the signature before the sending, and
    that it was sent before anything else happens. A nonce is given out when no unsettled attempt holds it, so that
    gaps are filled first.
    """

    def __init__(self, client: Sender, ledger: Ledger, signer: Signer, policy: LanePolicy | None = None) -> None:
        self._client = client
        self._ledger = ledger
        self._signer = signer
        self.policy = policy or LanePolicy()
        self._turn = asyncio.Lock()
        self._counts: _Counts | None = None
        self._gap_since: tuple[int, int] | None = None  # nonce, head number at which it was first seen
        self._sending: set[asyncio.Task[Sending]] = set()
        self._cancelled_at: dict[str, int] = {}  # attempt -> head number at which its newest cancellation was signed

    @property
    def address(self) -> Address:
        """The signer's address."""
        return self._signer.address

    @property
    def every(self) -> tuple[Lane, ...]:
        """This lane: it serves wherever several may."""
        return (self,)

    def of(self, signer: Address) -> Lane | None:
        """This lane, if it owns the address."""
        return self if signer == self.address else None

    def replaceable(self, attempt: Attempt) -> bool:
        """Whether a better offer may take the place of what the attempt has out: not once it is being taken back."""
        return bool(attempt.txs) and attempt.state in OPEN and attempt.txs[-1].kind is TxKind.EXECUTE

    def next_in_line(self, attempt: Attempt) -> bool:
        """Whether its nonce comes next: behind another one it waits for that, not for a better price."""
        return self._counts is None or attempt.nonce <= self._counts.latest

    def least(self, attempt: Attempt) -> Bid:
        """The fees that anything in the place of the attempt's transactions has to reach; the newest's gas limit."""
        percent = self.policy.bump_percent
        return Bid(
            attempt.txs[-1].gas_limit,
            max(bump_up(tx.max_fee, percent) for tx in attempt.txs),
            max(bump_up(tx.tip, percent) for tx in attempt.txs),
        )

    def observe(self, head: Head, latest: int, pending: int) -> None:
        """Take the signer's transaction counts as read at `head`, so that `submit` need not ask."""
        self._counts = _Counts(head, latest, pending)

    async def prepare(self, head: Head) -> None:
        """Read the transaction counts at `head`, unless they are known, so that `submit` need not."""
        if self._counts is None or self._counts.head != head:
            latest, pending = await self._client.batch(counts_request(self.address, head))
            self.observe(head, quantity(latest, "a transaction count"), quantity(pending, "a transaction count"))

    async def submit(self, order: Order) -> Sending:
        """Sign and send `order` at the next free nonce.

        Raises Transient or BadData when the nonce cannot be read or the signer does not answer: nothing is sent; Halt
        when the ledger cannot be written. A caller that is cancelled or times out does not interrupt it half-way.
        """
        sending = asyncio.create_task(self._submit(order))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return await asyncio.shield(sending)

    async def _submit(self, order: Order) -> Sending:
        async with self._turn:
            nonce = await self._next_nonce(order.head)
            attempt = await self._ledger.intend(order, self.address, nonce)
            offer = Bid(order.gas_limit, order.max_fee, order.tip)
            try:
                tx = await self._sign(attempt, TxKind.EXECUTE, order.to, order.data, offer)
            except (Transient, BadData) as error:
                detail = f"the signer did not sign: {error}"
                await self._ledger.record([Verdict(attempt.id, _S.DROPPED, detail, closed=True)])
                raise
            return await self._hand_out(attempt, tx, order.head)

    async def _hand_out(self, attempt: Attempt, tx: Signed, head: Head) -> Sending:
        """The first sending of an attempt."""
        answer = await self._deliver(attempt, tx, head)
        if answer.reception is Reception.ACCEPTED:
            await self._ledger.sent(attempt.id, head.number)
        elif answer.reception.refused:
            # Nobody has it, so it holds nothing up; it is watched until its nonce is spent all the same.
            self._counts = None
            detail = f"refused ({answer.reception}): {answer.detail}"
            await self._ledger.record([Verdict(attempt.id, _S.DROPPED, detail)])
        return Sending(attempt.id, attempt.nonce, answer.reception, answer.detail)

    async def rebroadcast(self, attempt: Attempt, head: Head) -> Answer:
        """Hand out the attempt's newest transaction again, byte for byte."""
        async with self._turn:
            answer = await self._deliver(attempt, attempt.txs[-1], head)
            if answer.reception is Reception.ACCEPTED:
                await self._ledger.sent(attempt.id, head.number)
            return answer

    async def cancel(self, attempt: Attempt, head: Head) -> Answer | None:
        """Outbid the attempt's own transactions with a self-transfer at the same nonce.

        None when that is too dear, or when the signer does not answer.
        """
        async with self._turn:
            offer = self._outbid(attempt.nonce, await self._ledger.unsettled(), head)
            if offer is None:
                return None
            tx = await self._try_sign(attempt, TxKind.CANCEL, self.address, b"", offer)
            if tx is None:
                return None
            self._cancelled_at[attempt.id] = head.number
            answer = await self._deliver(attempt, tx, head)
            if answer.reception is Reception.ACCEPTED:
                await self._ledger.sent(attempt.id, head.number)
            return answer

    async def speed_up(self, attempt: Attempt, order: Order, head: Head) -> Answer | None:
        """Replace the attempt's transaction by `order`, re-simulated at `head`, at the same nonce.

        None when its fees do not outbid what is out there by enough, or when the signer does not answer.
        """
        async with self._turn:
            if attempt.txs[-1].kind is TxKind.CANCEL or order.id != attempt.id:
                return None
            least = self.least(attempt)
            if order.max_fee < least.max_fee or order.tip < least.tip:
                return None
            offer = Bid(order.gas_limit, order.max_fee, order.tip)
            tx = await self._try_sign(attempt, TxKind.EXECUTE, order.to, order.data, offer)
            if tx is None:
                return None
            await self._ledger.resimulated(order)
            answer = await self._deliver(attempt, tx, head)
            if answer.reception is Reception.ACCEPTED:
                await self._ledger.sent(attempt.id, head.number)
            return answer

    async def tend(self, attempt: Attempt, head: Head, *, wanted: bool = True, now: bool = False) -> None:
        """Do what an open attempt needs at `head`: nothing, a rebroadcast, a cancellation or a dearer one.

        `now` rebroadcasts at once: after a restart or a reorganisation.
        """
        if attempt.signer != self.address:
            return
        if not attempt.txs:
            await self._abandon(attempt)
            return
        if attempt.txs[-1].kind is TxKind.CANCEL:
            since = self._cancelled_at.setdefault(attempt.id, head.number)
            give_up = self.next_in_line(attempt) and head.number - since >= self.policy.bump_every
        else:
            give_up = not wanted or head.number - attempt.head_number >= self.policy.max_age
        if give_up and await self.cancel(attempt, head):
            return
        last = attempt.sent_number
        if now or last is None or not 0 <= head.number - last < self.policy.rebroadcast_every:
            await self.rebroadcast(attempt, head)

    async def fill_gap(self, head: Head) -> Sending | None:
        """Send a self-transfer at the next nonce when open attempts wait behind it and nobody holds it.

        So it is after a transaction sent by hand was reorganised away, or evicted, in front of ours. An order takes the
        gap first if one comes within `bump_every` blocks. To be called after `observe` at the same head.
        """
        async with self._turn:
            attempts = await self._ledger.unsettled()
            gap = self._gap(attempts, head)
            if gap is not None and gap < await self._ledger.spent(self.address):
                gap = None  # the node is mistaken about what is spent
            if gap is None:
                self._gap_since = None
                return None
            if self._gap_since is None or self._gap_since[0] != gap:
                self._gap_since = (gap, head.number)
            if head.number - self._gap_since[1] < self.policy.bump_every:
                return None
            offer = self._outbid(gap, attempts, head)
            if offer is None:
                return None
            me = self.address
            order = Order(
                new_attempt_id(), GAP, me, me, b"", offer.gas_limit, offer.max_fee, offer.tip, head, 0,
                offer.gas_limit, -offer.most,
            )  # fmt: skip
            attempt = await self._ledger.intend(order, me, gap)
            tx = await self._try_sign(attempt, TxKind.CANCEL, me, b"", offer)
            if tx is None:
                await self._ledger.record([Verdict(attempt.id, _S.DROPPED, "the signer did not sign", closed=True)])
                return None
            return await self._hand_out(attempt, tx, head)

    def _gap(self, attempts: Sequence[Attempt], head: Head) -> int | None:
        """The nonce at which everything waits although nobody holds it, as of `head`."""
        counts = self._counts
        if counts is None or counts.head != head or counts.pending > counts.latest:
            return None
        held = {a.nonce for a in attempts if a.signer == self.address and a.state in OPEN}
        return counts.latest if held and min(held) > counts.latest else None

    async def _abandon(self, attempt: Attempt) -> None:
        """Give back the nonce of an attempt that nobody is signing any more."""
        async with self._turn:  # whoever had it before us has signed it by now, or never will
            if any(a.id == attempt.id and a.state is _S.INTENT for a in await self._ledger.unsettled()):
                await self._ledger.record([Verdict(attempt.id, _S.DROPPED, "never signed", closed=True)])

    async def _try_sign(self, attempt: Attempt, kind: TxKind, to: Address, data: bytes, offer: Bid) -> Signed | None:
        """For what can wait until the next head: None while the signer does not sign."""
        try:
            return await self._sign(attempt, kind, to, data, offer)
        except (Transient, BadData) as error:
            log.warning("signer_failed", signer=self.address, attempt=attempt.id, kind=str(kind), error=str(error))
            return None

    async def _deliver(self, attempt: Attempt, tx: Signed, head: Head) -> Answer:
        """Hand out what is signed; `head` is the newest block known.

        What was promised to relays only is not: when they are not configured any more it waits to be taken back, which
        gives nothing away.
        """
        if tx.kind is TxKind.EXECUTE and attempt.detail.startswith(PRIVATE):
            return Answer(Reception.UNCERTAIN, "only relays may have it, and none is configured")
        return combine(await self._client.send_raw(tx.raw))

    async def _sign(self, attempt: Attempt, kind: TxKind, to: Address, data: bytes, offer: Bid) -> Signed:
        unsigned = Unsigned(kind, attempt.nonce, to, data, offer.gas_limit, offer.max_fee, offer.tip)
        tx = await self._signer.sign(unsigned)
        if tx.nonce != attempt.nonce or tx.hash is None:
            raise Halt(f"the signer of {self.address} signed another nonce than {attempt.nonce}: do not use it")
        await self._ledger.signed(attempt.id, tx)
        return tx

    async def _next_nonce(self, head: Head) -> int:
        held = {a.nonce for a in await self._ledger.unsettled() if a.signer == self.address and _holds_nonce(a)}
        await self.prepare(head)
        assert self._counts is not None
        spent = await self._ledger.spent(self.address)
        if self._counts.latest < spent:
            told, self._counts = self._counts.latest, None
            raise BadData(
                f"the node says that {told} nonces of {self.address} are spent, and the journal knows of {spent}: "
                "nothing is signed on that; use another endpoint if it lasts"
            )
        # What waits in the pool and is not ours was sent by somebody else with this key: it is left to be mined.
        nonce = self._counts.latest
        while nonce in held or nonce < self._counts.pending:
            nonce += 1
        return nonce

    def _outbid(self, nonce: int, attempts: Sequence[Attempt], head: Head) -> Bid | None:
        """Fees for a self-transfer that replaces whatever was ever signed at `nonce`; None above the ceiling.

        All attempts there count, also those given up: their transactions may still wait in a pool, and a cancellation
        at the same price as an earlier one would be the same transaction.
        """
        percent = self.policy.bump_percent
        known = [tx for a in attempts if a.signer == self.address and a.nonce == nonce for tx in a.txs]
        tip = max([self.policy.min_tip, *(bump_up(tx.tip, percent) for tx in known)])
        base = highest_base_fee(head.next_base_fee(), self.policy.bump_every)
        max_fee = max([base + tip, *(bump_up(tx.max_fee, percent) for tx in known)])
        return Bid(self.policy.cancel_gas, max_fee, tip) if max_fee <= self.policy.max_fee else None


def counts_request(signer: Address, head: Head) -> list[tuple[str, list[object]]]:
    """Two requests: the signer's transaction count at `head`, and with the node's pool."""
    return [
        ("eth_getTransactionCount", [signer, {"blockHash": head.hash}]),
        ("eth_getTransactionCount", [signer, "pending"]),
    ]


def _holds_nonce(attempt: Attempt) -> bool:
    return attempt.state in OPEN or attempt.state in WITH_RECEIPT
