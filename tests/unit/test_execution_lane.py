"""The owner of a key and what follows its transactions, on a chain in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keeper.errors import BadData, Transient
from keeper.execution.lane import GAP, PRIVATE, Lane, LanePolicy
from keeper.execution.receipt import Receipt
from keeper.execution.recover import UNSIGNED, recover
from keeper.execution.replies import Reception
from keeper.execution.signer import Unsigned
from keeper.execution.submit import DRY, DrySubmitter, LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.execution.verdicts import Evidence, judge
from keeper.journal import Journal, queries
from keeper.model import Address, Attempt, AttemptState, Hash, Head, Order, Signed, TxKind, Verdict
from keeper.ports import Ledger, Submitter
from tests.support.execution_chain import GAIN, GWEI, ME, Chain, FakeClient, FakeSigner, Tx, an_order, encode_tx

pytestmark = pytest.mark.unit

S = AttemptState
CONFIRMATIONS = 3
POLICY = LanePolicy(max_age=6, rebroadcast_every=2, bump_every=2)
OTHER = Address("0x" + "b2" * 20)


@dataclass
class Desk:
    """Chain, client, journal, and the sending side over them."""

    chain: Chain
    client: FakeClient
    journal: Journal
    lane: Lane
    tracker: Tracker
    submitter: LiveSubmitter

    @property
    def head(self) -> Head:
        return self.chain.head

    def order(self, borrower: int = 1, head: Head | None = None) -> Order:
        return an_order(head or self.head, borrower.to_bytes(20, "big"), new_attempt_id())

    async def attempt(self, attempt_id: str) -> queries.AttemptRow:
        return next(row for row in await self.journal.ask(queries.attempts) if row.id == attempt_id)

    async def state(self, attempt_id: str) -> tuple[str, bool]:
        row = await self.attempt(attempt_id)
        return row.state, row.closed

    async def only(self) -> Attempt:
        (attempt,) = await self.journal.unsettled()
        return attempt


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    chain = Chain()
    client = FakeClient(chain)
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    lane = Lane(client, journal, FakeSigner(), POLICY)
    tracker = Tracker(client, journal, lane, CONFIRMATIONS)
    yield Desk(chain, client, journal, lane, tracker, LiveSubmitter(journal, lane, tracker))
    await journal.close()


# ---------------------------------------------------------------------------------------------------- nonces


async def test_concurrent_orders_get_successive_nonces(desk: Desk) -> None:
    """Orders handed in at once go out one after another, each at its own nonce."""
    sendings = await asyncio.gather(*(desk.submitter.submit(desk.order(n)) for n in range(1, 8)))
    assert [s.nonce for s in sendings] == list(range(7))
    assert sorted(desk.chain.pool) == [(ME, n) for n in range(7)]


async def test_a_node_that_unspends_what_is_closed_is_not_believed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count below what the journal knows to be spent for good: nothing is signed, and the next true one is used."""
    await desk.submitter.submit(desk.order())
    for _ in range(CONFIRMATIONS + 1):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.journal.spent(ME) == 1
    assert await desk.journal.spent(Address("0x" + "99" * 20)) == 0
    true = desk.chain.answer

    def lie(method: str, params: Sequence[Any]) -> Any:
        return "0x0" if method == "eth_getTransactionCount" else true(method, params)

    monkeypatch.setattr(desk.chain, "answer", lie)
    for known in (False, True):
        if known:  # as `settle` would have read it
            desk.lane.observe(desk.head, 0, 0)
        with pytest.raises(BadData, match=r"0 nonces .* the journal knows of 1"):
            await desk.submitter.submit(desk.order(2))
    assert await desk.journal.unsettled() == []
    monkeypatch.setattr(desk.chain, "answer", true)
    assert (await desk.submitter.submit(desk.order(2))).nonce == 1
    desk.lane.observe(desk.head, 0, 0)
    for _ in range(POLICY.bump_every + 2):
        assert await desk.lane.fill_gap(desk.head) is None
        desk.chain.mine(lambda tx: False)
        desk.lane.observe(desk.head, 0, 0)


async def test_what_was_promised_to_relays_is_not_sent_in_public(desk: Desk) -> None:
    """Without the relays it waits, through a restart as well, until its nonce is taken back by a self-transfer."""
    await desk.submitter.submit(desk.order())
    attempt = await desk.only()
    desk.chain.evict(lambda tx: True)
    await desk.journal.record([Verdict(attempt.id, S.SENT, f"{PRIVATE} {desk.head.number + 4}")])
    attempt = await desk.only()
    for _ in range(POLICY.max_age):
        await desk.lane.tend(attempt, desk.head, now=True)
        assert not desk.chain.pool
        desk.chain.mine()
    await desk.lane.tend(attempt, desk.head)
    assert [tx.kind for tx in desk.chain.pool.values()] == ["cancel"]


async def test_nonces_of_others_with_the_same_key_are_left_alone(desk: Desk) -> None:
    """What waits in the pool and is not ours keeps its nonce."""
    desk.chain.foreign()
    assert (await desk.submitter.submit(desk.order())).nonce == 1


async def test_what_was_read_at_another_head_or_proved_wrong_is_read_again(desk: Desk) -> None:
    """A nonce spent in a newer block is not reused, and a refusal makes the lane look at the pool again."""
    await desk.submitter.submit(desk.order(1))
    desk.chain.evict(lambda tx: True)
    desk.chain.foreign()
    desk.chain.mine()
    await desk.journal.record([Verdict((await desk.only()).id, S.DROPPED, "lost")])
    assert (await desk.submitter.submit(desk.order(2))).nonce == 1
    desk.chain.evict(lambda tx: True)
    await desk.journal.record([Verdict((await desk.journal.unsettled())[1].id, S.DROPPED, "lost")])
    desk.chain.foreign()  # at nonce 1, after the lane has looked
    refused = await desk.submitter.submit(desk.order(3))
    assert (refused.nonce, refused.reception) == (1, Reception.UNDERPRICED)
    assert (await desk.submitter.submit(desk.order(3))).nonce == 2


async def test_a_gap_is_filled_first(desk: Desk) -> None:
    """A nonce that nobody holds any more goes to the next order, so that those behind it can be mined."""
    first, second = desk.order(1), desk.order(2)
    await desk.submitter.submit(first)
    await desk.submitter.submit(second)
    await desk.journal.record([Verdict(first.id, S.DROPPED, "lost for good", closed=True)])
    desk.chain.evict(lambda tx: tx.nonce == 0)
    desk.chain.mine()
    assert (await desk.submitter.submit(desk.order(3))).nonce == 0
    desk.chain.mine()
    assert desk.chain.state.nonces[ME] == 2


async def test_an_unreadable_nonce_writes_nothing(desk: Desk) -> None:
    """When the node does not know the head, the order is refused before anything is written."""
    lost = replace(desk.head, hash=desk.head.parent_hash)
    with pytest.raises(Transient):
        await desk.submitter.submit(desk.order(head=lost))
    assert await desk.journal.ask(queries.attempts) == []


async def test_a_gap_that_no_order_fills_is_filled(desk: Desk) -> None:
    """A transaction sent by hand vanishes in front of ours: a self-transfer takes its nonce, and ours are mined."""
    by_hand = desk.chain.foreign()
    order = desk.order()
    assert (await desk.submitter.submit(order)).nonce == 1
    desk.chain.evict(lambda tx: tx.hash == by_hand.hash)
    for _ in range(POLICY.bump_every + 1):
        desk.chain.mine()
        assert await desk.state(order.id) == ("sent", False)
        await desk.submitter.settle(desk.head)
    filler = (await desk.journal.ask(queries.attempts))[0]
    assert (filler.market, filler.nonce, filler.state) == (GAP, 0, "sent")
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("mined", True)
    assert await desk.state(filler.id) == ("cancelled", True)
    assert await desk.journal.unsettled() == []


async def test_what_waits_behind_another_nonce_is_not_bumped(desk: Desk) -> None:
    """A cancellation behind a transaction sent by hand is signed once: a better price would not help it."""
    desk.chain.foreign()
    order = desk.order()
    await desk.submitter.submit(order)
    for _ in range(POLICY.max_age + 4 * POLICY.bump_every):
        desk.chain.mine(lambda tx: False)
        await desk.submitter.settle(desk.head)
    assert [tx.kind for tx in (await desk.only()).txs] == [TxKind.EXECUTE, TxKind.CANCEL]


class Sulking(FakeSigner):
    """A remote signer that answers when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = asyncio.Event()
        self.fails = False

    async def sign(self, tx: Unsigned) -> Signed:
        if self.fails:
            raise Transient("the signer does not answer")
        await self.answering.wait()
        return await super().sign(tx)


async def test_a_signer_that_fails_gives_the_nonce_back(desk: Desk) -> None:
    """Nothing signed means nothing held: the attempt is closed and the next order has its nonce."""
    signer = Sulking()
    signer.fails = True
    lane = Lane(desk.client, desk.journal, signer, POLICY)
    order = desk.order(1)
    with pytest.raises(Transient):
        await lane.submit(order)
    assert await desk.state(order.id) == ("dropped", True)
    assert (await desk.submitter.submit(desk.order(2))).nonce == 0


async def test_a_caller_that_gives_up_does_not_interrupt(desk: Desk) -> None:
    """A time-out around `submit` leaves no half-signed attempt: it goes out all the same, and is found in flight."""
    signer = Sulking()
    lane = Lane(desk.client, desk.journal, signer, POLICY)
    order = desk.order(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lane.submit(order), 0.05)
    assert await desk.state(order.id) == ("intent", False)
    signer.answering.set()
    second = await lane.submit(desk.order(2))
    assert second.nonce == 1
    assert await desk.state(order.id) == ("sent", False)


async def test_an_orphaned_intent_is_abandoned_at_the_next_head(desk: Desk) -> None:
    """An intent that nobody is signing any more gives its nonce back without a restart."""
    order = desk.order(1)
    await desk.journal.intend(order, ME, 0)
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("dropped", True)


# ------------------------------------------------------------------------------------------------- receptions


@pytest.mark.parametrize(
    ("fate", "reception"),
    [
        ("replacement transaction underpriced", Reception.UNDERPRICED),
        ("nonce too low", Reception.NONCE_TOO_LOW),
        ("insufficient funds for gas", Reception.INSUFFICIENT_FUNDS),
        ("intrinsic gas too low", Reception.REFUSED),
    ],
)
async def test_a_refused_order_blocks_nothing(desk: Desk, fate: str, reception: Reception) -> None:
    """A refusal ends the attempt at once; its nonce serves the next order, and then closes it for good."""
    desk.client.fate = lambda tx: fate
    refused = desk.order(1)
    sending = await desk.submitter.submit(refused)
    assert sending.reception is reception
    assert await desk.state(refused.id) == ("dropped", False)
    assert desk.submitter.in_flight("market", refused.borrower, desk.head) is None
    desk.client.fate = lambda tx: "deliver"
    good = desk.order(2)
    assert (await desk.submitter.submit(good)).nonce == 0
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert (await desk.state(good.id), await desk.state(refused.id)) == (("mined", True), ("dropped", True))
    assert reception in (await desk.attempt(refused.id)).detail


async def test_a_refused_transaction_that_lands_after_all(desk: Desk) -> None:
    """If the node kept what it said it refused, the journal follows the chain: one mined, the other replaced."""
    desk.client.fate = lambda tx: "insufficient funds"
    refused = desk.order(1)
    await desk.submitter.submit(refused)
    kept = Tx.decode((await desk.only()).raw)
    desk.client.fate = lambda tx: "deliver"
    second = desk.order(2)
    await desk.submitter.submit(second)
    desk.chain.handed_out[kept.hash] = kept
    desk.chain.pool[ME, 0] = kept
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert (await desk.state(refused.id), await desk.state(second.id)) == (("mined", True), ("replaced", True))
    assert refused.id in (await desk.attempt(second.id)).detail


@pytest.mark.parametrize("fate", ["lost", "delivered unanswered", "internal error"])
async def test_an_uncertain_sending_is_repeated_byte_for_byte(desk: Desk, fate: str) -> None:
    """Without a clear answer the nonce stays with the attempt, and the same raw transaction goes out again."""
    desk.client.fate = lambda tx: fate
    order = desk.order()
    sending = await desk.submitter.submit(order)
    assert sending.reception is Reception.UNCERTAIN
    assert await desk.state(order.id) == ("signed", False)
    assert desk.submitter.in_flight("market", order.borrower, desk.head) == order.id
    raw = (await desk.only()).raw
    desk.client.fate = lambda tx: "deliver"
    desk.chain.mine(lambda tx: False)
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("sent", False)
    assert [tx.raw for tx in desk.chain.pool.values()] == [raw]
    assert len(desk.chain.handed_out) == 1


async def test_an_evicted_transaction_is_handed_out_again(desk: Desk) -> None:
    """Every so many blocks the same bytes go out again, whatever the pool did."""
    await desk.submitter.submit(desk.order())
    desk.chain.evict(lambda tx: True)
    for _ in range(POLICY.rebroadcast_every):
        assert desk.chain.pool == {}
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert len(desk.chain.pool) == 1
    assert len(desk.chain.handed_out) == 1


# -------------------------------------------------------------------------------------- cancelling, replacing


async def test_a_stuck_attempt_is_cancelled_at_its_own_nonce(desk: Desk) -> None:
    """Too old: a self-transfer outbids it by the node's minimum, then outbids itself, and the nonce is free of it."""
    order = desk.order()
    await desk.submitter.submit(order)
    for _ in range(POLICY.max_age + 2 * POLICY.bump_every + 1):
        desk.chain.mine(lambda tx: False)
        await desk.submitter.settle(desk.head)
    attempt = await desk.only()
    assert [tx.kind for tx in attempt.txs] == [TxKind.EXECUTE, *[TxKind.CANCEL] * 3]
    assert {tx.nonce for tx in attempt.txs} == {0}
    for before, after in zip(attempt.txs, attempt.txs[1:], strict=False):
        assert after.max_fee * 100 >= before.max_fee * 113
        assert after.tip * 100 >= before.tip * 113
        assert after.tip <= after.max_fee <= POLICY.max_fee
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("cancelled", True)
    row = await desk.attempt(order.id)
    assert (row.gain, row.gas_used, row.net) == (0, 21_000, -21_000 * 11 * GWEI)


async def test_a_cancellation_has_a_ceiling(tmp_path: Path) -> None:
    """Above the highest fee nothing more is offered: the attempt is handed out as it is and waits."""
    chain = Chain()
    client = FakeClient(chain)
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    lane = Lane(client, journal, FakeSigner(), replace(POLICY, max_fee=50 * GWEI))
    submitter = LiveSubmitter(journal, lane, Tracker(client, journal, lane, CONFIRMATIONS))
    await submitter.submit(an_order(chain.head, bytes(20), new_attempt_id()))
    chain.evict(lambda tx: True)
    for _ in range(POLICY.max_age + 4):
        chain.mine(lambda tx: False)
        await submitter.settle(chain.head)
    (attempt,) = await journal.unsettled()
    assert [tx.kind for tx in attempt.txs] == [TxKind.EXECUTE]
    assert len(chain.pool) == 1
    await journal.close()


async def test_a_cancellation_outbids_everything_at_its_nonce(desk: Desk) -> None:
    """Also what an attempt that was given up had signed there: the same price would be the same transaction."""
    first, second = desk.order(1), desk.order(2)
    await desk.submitter.submit(first)
    assert await desk.lane.cancel(await desk.only(), desk.head) is not None
    await desk.journal.record([Verdict(first.id, S.DROPPED, "taken for lost")])
    desk.chain.evict(lambda tx: True)
    await desk.submitter.submit(second)
    _, newer = sorted(await desk.journal.unsettled(), key=lambda a: a.id == second.id)
    assert await desk.lane.cancel(newer, desk.head) is not None
    found = [tx for a in await desk.journal.unsettled() for tx in a.txs if tx.kind is TxKind.CANCEL]
    low, high = sorted(found, key=lambda tx: tx.max_fee)
    assert high.max_fee * 100 >= low.max_fee * 113
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert (await desk.state(first.id), await desk.state(second.id)) == (("dropped", True), ("cancelled", True))


async def test_speeding_up_pins_the_nonce(desk: Desk) -> None:
    """A dearer version of the same attempt takes the same nonce; one that is not dear enough is not signed."""
    order = desk.order()
    await desk.submitter.submit(order)
    attempt = await desk.only()
    assert await desk.lane.speed_up(attempt, replace(order, max_fee=order.max_fee * 112 // 100), desk.head) is None
    assert await desk.lane.speed_up(attempt, replace(desk.order(), max_fee=10**12, tip=10**11), desk.head) is None
    answer = await desk.lane.speed_up(attempt, replace(order, max_fee=order.max_fee * 2, tip=order.tip * 2), desk.head)
    assert answer is not None
    assert answer.reception is Reception.ACCEPTED
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("mined", False)
    assert (await desk.attempt(order.id)).tx_hash == (await desk.only()).txs[1].hash
    assert desk.chain.state.nonces[ME] == 1


# ------------------------------------------------------------------------------------------------- settling


async def test_nothing_unsettled_costs_no_request(desk: Desk) -> None:
    """A head without open attempts asks the node nothing; with any number of them, one batch."""
    await desk.submitter.settle(desk.head)
    assert desk.client.requests == []
    for number in range(1, 5):
        await desk.submitter.submit(desk.order(number))
    calls: list[str] = []
    desk.client.hook = calls.append
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert calls.count("before read") == 1
    desk.client.hook = lambda place: None


async def test_an_attempt_closes_at_its_confirmations(desk: Desk) -> None:
    """Mined at once, closed exactly when the block has the wanted confirmations."""
    order = desk.order()
    await desk.submitter.submit(order)
    for number in range(1, CONFIRMATIONS + 1):
        desk.chain.mine()
        changed = await desk.submitter.settle(desk.head)
        assert await desk.state(order.id) == ("mined", number == CONFIRMATIONS)
        assert bool(changed) == (number in (1, CONFIRMATIONS))
    row = await desk.attempt(order.id)
    assert (row.gain, row.gas_used, row.gas_price) == (GAIN, 400_000, 11 * GWEI)


async def test_a_reorganised_receipt_goes_back_and_out_again(desk: Desk) -> None:
    """The block is undone and the pool has forgotten: sent again at once, mined in another block, one outcome."""
    order = desk.order()
    await desk.submitter.submit(order)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    desk.chain.reorganise(1, lambda tx: False)
    assert desk.chain.pool == {}
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("sent", False)
    assert (await desk.attempt(order.id)).gain is None
    assert len(desk.chain.pool) == 1
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("mined", True)


async def test_mined_again_in_another_block(desk: Desk) -> None:
    """Between two heads the block was undone and the transaction mined elsewhere: the outcome is the new block's."""
    order = desk.order()
    await desk.submitter.submit(order)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    before = (await desk.only()).ended_hash
    desk.chain.reorganise(1)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    attempt = await desk.only()
    assert attempt.state is S.MINED
    assert attempt.ended_hash not in (None, before)
    assert (await desk.attempt(order.id)).block_number == desk.head.number


async def test_receipts_of_another_fork_are_not_believed(desk: Desk) -> None:
    """A receipt in a block above the head, or at its height with another hash, says nothing about this head."""
    order = desk.order()
    await desk.submitter.submit(order)
    before = desk.head
    desk.chain.mine()
    assert await desk.tracker.settle(before) == []
    sibling = replace(desk.head, hash=before.hash)  # known to the node, at the same height as the receipt
    assert await desk.tracker.settle(sibling) == []
    assert await desk.state(order.id) == ("sent", False)


async def test_a_foreign_transaction_is_believed_at_the_second_look(desk: Desk) -> None:
    """A spent nonce without a receipt of ours can be a lagging node, so one head is not enough to give up."""
    order = desk.order()
    await desk.submitter.submit(order)
    desk.chain.foreign()
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("sent", False)
    await desk.submitter.settle(desk.head)  # the same head again is not another look
    assert await desk.state(order.id) == ("sent", False)
    sent = len(desk.chain.handed_out)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("dropped", False)
    assert "did not send" in (await desk.attempt(order.id)).detail
    assert len(desk.chain.handed_out) == sent
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("dropped", True)


async def test_a_spent_nonce_is_not_cancelled(desk: Desk) -> None:
    """An old attempt whose nonce somebody else spent gets no cancellation: there is nothing left to take back."""
    order = desk.order()
    await desk.submitter.submit(order)
    for _ in range(POLICY.max_age - 1):
        desk.chain.mine(lambda tx: False)
        await desk.submitter.settle(desk.head)
    desk.chain.foreign()
    for _ in range(3):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert [tx.kind for tx in (await desk.only()).txs] == [TxKind.EXECUTE]
    assert await desk.state(order.id) == ("dropped", False)


def test_evidence_of_another_fork_counts_for_nothing() -> None:
    """Receipts above the head, or at its height in another block, do not decide even when the nonce is spent."""
    head = Chain().head
    tx = Signed(TxKind.EXECUTE, 0, Hash("0x" + "11" * 32), b"raw", 1, 1, 1)
    attempt = Attempt("0x" + "01" * 32, "m", OTHER, ME, 0, S.SENT, 0, 90, txs=(tx,), sent_number=90)
    for number, block_hash, believed in (
        (head.number - 1, Hash("0x" + "22" * 32), True),
        (head.number, head.hash, True),
        (head.number, Hash("0x" + "22" * 32), False),
        (head.number + 1, Hash("0x" + "22" * 32), False),
    ):
        receipt = Receipt(Hash("0x" + "11" * 32), number, block_hash, succeeded=False, gas_used=1, gas_price=1, logs=())
        evidence = Evidence(head, 1, {receipt.tx_hash: receipt}, {})
        found = judge([attempt], evidence, 3, lambda attempt: False)
        assert [verdict.state for verdict in found] == ([S.REVERTED] if believed else [])


async def test_a_lagging_receipt_is_no_foreign_transaction(desk: Desk) -> None:
    """The nonce is spent, the receipt comes one head later: mined, never dropped."""
    order = desk.order()
    await desk.submitter.submit(order)
    desk.chain.mine()
    hidden = desk.chain.state.receipts
    desk.chain.state.receipts = {}
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("sent", False)
    desk.chain.state.receipts = hidden
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("mined", False)
    assert [e.after for e in await desk.journal.ask(lambda db: queries.events(db, order.id))][-2:] == ["sent", "mined"]


async def test_a_dropped_attempt_revives_with_its_nonce(desk: Desk) -> None:
    """The foreign block is undone: the attempt is open again; if the position has a newer one, it is cancelled."""
    first = desk.order(1)
    await desk.submitter.submit(first)
    desk.chain.foreign()
    for _ in range(2):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(first.id) == ("dropped", False)
    second = desk.order(1)
    assert (await desk.submitter.submit(second)).nonce == 1
    desk.chain.reorganise(2, lambda tx: False)
    await desk.submitter.settle(desk.head)
    assert await desk.state(first.id) == ("sent", False)
    kinds = {a.id: [tx.kind for tx in a.txs] for a in await desk.journal.unsettled()}
    assert kinds == {first.id: [TxKind.EXECUTE, TxKind.CANCEL], second.id: [TxKind.EXECUTE]}
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert (await desk.state(first.id), await desk.state(second.id)) == (("cancelled", True), ("mined", True))


async def test_a_lost_race_is_told_from_a_failure(desk: Desk) -> None:
    """A reverted attempt is replayed on the state before its block: it would have succeeded, or it says why not."""
    rival = Address("0x" + "01" * 20)  # sorts first in the block
    raw = encode_tx(rival, "execute", 0, (1).to_bytes(20, "big") + bytes(32), 1, 1)
    desk.chain.pool[rival, 0] = Tx.decode(raw)
    lost = desk.order(1)
    await desk.submitter.submit(lost)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert (await desk.attempt(lost.id)).state == "reverted"
    assert "would have succeeded" in str((await desk.attempt(lost.id)).revert)
    again = desk.order(1)
    await desk.submitter.submit(again)
    desk.chain.mine()
    await desk.submitter.settle(desk.head)
    assert (await desk.attempt(again.id)).revert is not None
    assert "would have succeeded" not in str((await desk.attempt(again.id)).revert)


async def test_an_unknown_head_changes_nothing(desk: Desk) -> None:
    """When the node does not know the head, the journal is as it was."""
    order = desk.order()
    await desk.submitter.submit(order)
    desk.chain.mine()
    with pytest.raises(Transient):
        await desk.submitter.settle(replace(desk.head, hash=Chain().head.parent_hash))
    assert await desk.state(order.id) == ("sent", False)


async def test_attempts_of_another_key_are_watched_and_not_touched(desk: Desk) -> None:
    """After a change of keys the old key's attempts are followed to their end, and nothing is signed for them."""
    old = Lane(desk.client, desk.journal, FakeSigner(OTHER), POLICY)
    order = desk.order()
    await old.submit(order)
    found = await recover(desk.journal, desk.tracker, desk.lane, desk.head)
    assert found.watched == (order.id,)
    for _ in range(POLICY.max_age + 2):
        desk.chain.mine(lambda tx: False)
        await desk.submitter.settle(desk.head)
    assert len(desk.chain.handed_out) == 1
    assert (await desk.submitter.submit(desk.order(2))).nonce == 0
    for _ in range(CONFIRMATIONS):
        desk.chain.mine()
        await desk.submitter.settle(desk.head)
    assert await desk.state(order.id) == ("mined", True)


# ------------------------------------------------------------------------------------------------- recovery


async def test_recovery_of_each_state(desk: Desk) -> None:
    """Unsigned is dropped, signed and sent go out again unchanged, mined is found, unwanted is cancelled."""
    mined, sent, signed, unwanted, intent = (desk.order(n) for n in range(1, 6))
    await desk.submitter.submit(mined)
    await desk.submitter.submit(sent)
    desk.client.fate = lambda tx: "delivered unanswered"
    await desk.submitter.submit(signed)
    await desk.submitter.submit(unwanted)
    desk.client.fate = lambda tx: "deliver"
    await desk.journal.intend(intent, ME, 4)
    desk.chain.mine(lambda tx: tx.nonce == 0)
    desk.chain.evict(lambda tx: tx.nonce == 1)
    raws = {a.id: a.raw for a in await desk.journal.unsettled()}

    async def wanted(attempt: Attempt) -> bool:
        return attempt.id != unwanted.id

    lane = Lane(desk.client, desk.journal, FakeSigner(), POLICY)
    found = await recover(desk.journal, Tracker(desk.client, desk.journal, lane, 3), lane, desk.head, wanted)
    assert (found.abandoned, found.settled) == ((intent.id,), (mined.id,))
    assert (found.resumed, found.cancelling, found.watched) == ((sent.id, signed.id), (unwanted.id,), ())
    assert (await desk.state(intent.id), (await desk.attempt(intent.id)).detail) == (("dropped", True), UNSIGNED)
    pool = {tx.nonce: tx for tx in desk.chain.pool.values()}
    assert (pool[1].raw, pool[2].raw, pool[3].kind) == (raws[sent.id], raws[signed.id], "cancel")
    states = [(await desk.state(o.id))[0] for o in (mined, sent, signed, unwanted)]
    assert states == ["mined", "sent", "sent", "sent"]
    again = await recover(desk.journal, Tracker(desk.client, desk.journal, lane, 3), lane, desk.head)
    assert again.cancelling == (unwanted.id,)  # a cancellation that was signed is never taken back


async def test_a_dry_run_records_and_sends_nothing(tmp_path: Path) -> None:
    """The order is kept with its calldata and closed; the position counts as in flight for a while, then may recur."""
    chain = Chain()
    client = FakeClient(chain)
    client.fate = lambda tx: pytest.fail("a dry run sent something")
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "dry")
    dry = DrySubmitter(client, journal, ME, hold=3)
    order = an_order(chain.head, bytes(20), new_attempt_id())
    await dry.submit(order)
    (row,) = await journal.ask(queries.attempts)
    assert (row.state, row.closed, row.detail, row.tx_hash) == ("dropped", True, DRY, None)
    assert row.plan == {"debt": "USDC", "repay": "1000000000"}
    stored = await journal.ask(lambda db: db.execute("SELECT raw, hash, sent_at FROM transactions").fetchone())
    assert stored == (order.data, None, None)
    for _ in range(3):
        await dry.settle(chain.head)
        assert dry.in_flight("market", order.borrower, chain.head) == order.id
        chain.mine()
    assert dry.in_flight("market", order.borrower, chain.head) is None
    await dry.settle(chain.head)
    await dry.submit(an_order(chain.head, bytes(20), new_attempt_id()))
    await journal.intend(an_order(chain.head, bytes(20), new_attempt_id()), ME, 0)
    left = await recover(journal, Tracker(client, journal, None), None, chain.head)
    assert len(left.abandoned) == 1
    assert await journal.unsettled() == []
    await journal.close()


def test_both_submitters_serve_the_engine(desk: Desk) -> None:
    """Dry and live are called through one port."""
    ports: list[Submitter] = [desk.submitter, DrySubmitter(desk.client, desk.journal, ME)]
    ledger: Ledger = desk.journal
    assert len(ports) == 2
    assert ledger is desk.journal
