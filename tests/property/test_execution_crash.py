"""kill -9 between any two steps of a live run: nothing is sent twice, nothing is forgotten, no nonce stays stuck."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.errors import Transient
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.lanes import Lanes
from keeper.execution.recover import recover
from keeper.execution.submit import LiveSubmitter
from keeper.execution.track import Tracker
from keeper.execution.verdicts import OPEN
from keeper.journal import Journal
from keeper.journal.attempts import load
from keeper.model import Address, AttemptState, Decision, Skip, SkipReason
from tests.support.execution_chain import ME, Chain, FakeClient, FakeSigner, HookedLedger, Killed, an_order

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
CONFIRMATIONS = 4
YOU = Address("0x" + "a2" * 20)  # the second key
KEYS = (ME, YOU)
FATES = ("deliver", "deliver", "deliver", "deliver", "lost", "delivered unanswered", "intrinsic gas too low", "busy")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync costs nothing, if there is one: a killed process does not lose what the kernel has."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="keeper-", dir="/dev/shm") as folder:
        yield Path(folder)


class Run:
    """One seeded life of a keeper with its chain, its journal and its deaths."""

    def __init__(self, seed: int, folder: Path, places: Counter[str]) -> None:
        self.rng = random.Random(seed)
        self.path = folder / f"{seed}.sqlite3"
        self.chain = Chain()
        self.client = FakeClient(self.chain, self.hook)
        self.places = places
        self.deaths = 0
        self.risk = self.rng.choice((0.01, 0.03, 0.08))
        self.mortal = True
        self.ids = 0
        self.positions: set[bytes] = set()
        self.doubles = 0
        self.sped_up = 0
        self.keys = KEYS[: self.rng.choice((1, 2))]

    eagerness = 0.3  # how often what is out is replaced or taken back

    def hook(self, place: str) -> None:
        if self.mortal and self.deaths < 6 and self.rng.random() < self.risk:
            self.deaths += 1
            self.places[place] += 1
            raise Killed(place)

    async def start(self) -> None:
        self.journal = await Journal.open(self.path, 1, "live", lambda: self.chain.head.timestamp)
        ledger = HookedLedger(self.journal, self.hook)
        policy = LanePolicy(max_age=6, rebroadcast_every=2, bump_every=2)
        lanes = Lanes(ledger, [Lane(self.client, ledger, FakeSigner(key, self.hook), policy) for key in self.keys])
        tracker = Tracker(self.client, ledger, lanes, CONFIRMATIONS)
        self.ledger, self.lanes = ledger, lanes
        self.submitter = LiveSubmitter(ledger, lanes, tracker)
        await recover(ledger, tracker, lanes, self.chain.head)
        await self.submitter.settle(self.chain.head)

    async def die(self) -> None:
        """What kill -9 leaves: committed transactions, and neither a checkpoint nor a farewell."""
        await self.journal._run(self.journal._db.close)
        self.journal._pool.shutdown()
        self.journal._lock.release()

    async def alive(self) -> None:
        """Start, again and again if it is killed while starting."""
        while True:
            try:
                await self.start()
            except Killed:
                await self.die()
            else:
                return

    async def a_pass(self) -> None:
        """What the engine does at a head."""
        head = self.chain.head
        await self.submitter.settle(head)
        decisions = []
        for borrower in sorted(self.positions - self.chain.state.done):
            account = Address("0x" + borrower.hex())
            if self.submitter.in_flight("market", account, head):
                decisions.append(Decision("market", account, Skip(SkipReason.IN_FLIGHT, "on its way")))
                continue
            self.ids += 1
            sending = await self.submitter.submit(an_order(head, borrower, f"0x{self.ids:064x}"))
            decisions.append(Decision("market", account, attempt_id=sending.attempt_id))
        await self.ledger.record_pass(head, decisions)
        for attempt in await self.ledger.unsettled():
            lane = self.lanes.of(attempt.signer)
            if lane is None or not lane.replaceable(attempt) or self.rng.random() >= self.eagerness:
                continue
            if self.rng.random() < 0.2:
                await lane.cancel(attempt, head)
                continue
            least, borrower = lane.least(attempt), bytes.fromhex(attempt.borrower[2:])
            order = an_order(head, borrower, attempt.id, least.max_fee, least.tip)
            self.sped_up += await lane.speed_up(attempt, order, head) is not None

    def the_world_moves(self) -> None:
        rng, chain = self.rng, self.chain
        if rng.random() < 0.25:
            self.positions.add(rng.randbytes(20))
        if rng.random() < 0.1:
            chain.evict(lambda tx: rng.random() < 0.5)
        if rng.random() < 0.06:
            chain.foreign(rng.choice(self.keys))
        if rng.random() < 0.1:
            chain.reorganise(rng.randint(1, CONFIRMATIONS - 1), lambda tx: rng.random() < 0.8)
        busy = rng.random() < 0.3
        chain.mine(lambda tx: not busy and rng.random() < 0.8)

    async def live(self) -> None:
        self.client.fate = lambda tx: self.rng.choice(FATES)
        self.positions.add(self.rng.randbytes(20))
        await self.alive()
        for _ in range(self.rng.randint(12, 24)):
            self.the_world_moves()
            try:
                await self.a_pass()
            except Transient:
                pass
            except Killed:
                await self.die()
                await self.alive()
            await self.check_now()
        self.mortal = False
        self.client.fate = lambda tx: "deliver"
        for _ in range(60):
            self.chain.mine()
            await self.a_pass()
            if not await self.journal.unsettled() and self.positions <= self.chain.state.done:
                break
        await self.check_end()
        await self.journal.close()

    async def check_now(self) -> None:
        """At any time: at most one open attempt per nonce, and per position unless a reorganisation revived one."""
        still = [a for a in await self.journal.unsettled() if a.state in OPEN]
        assert len({(a.signer, a.nonce) for a in still}) == len(still)
        revived = await self.journal.ask(_revived)
        fresh = [a for a in still if a.id not in revived]
        assert len({a.borrower for a in fresh}) == len(fresh)

    async def check_end(self) -> None:
        attempts = await self.journal.ask(lambda db: load(db, "1 ORDER BY created_at", ()))
        hashes = {tx.hash: attempt.id for attempt in attempts for tx in attempt.txs}
        by_id = {attempt.id: attempt for attempt in attempts}

        # What every node refused is watched until its nonce is spent, which may be never.
        spent = self.chain.state.nonces
        unsettled = await self.journal.unsettled()
        left = [a for a in unsettled if a.state is not AttemptState.DROPPED or a.nonce < spent.get(a.signer, 0)]
        assert not left, "an attempt is not closed"
        assert not [tx for tx in self.chain.pool.values() if tx.kind != "foreign"], "a transaction of ours still waits"
        assert self.positions <= self.chain.state.done, "a position was never taken"
        forgotten = [tx for tx in self.chain.handed_out.values() if tx.hash not in hashes]
        assert not forgotten, "a transaction was sent that the journal does not know"

        expected: dict[str, AttemptState] = {}
        for tx, _, ok in self.chain.on_chain():
            if tx.kind == "foreign":
                continue
            attempt_id = hashes[tx.hash]
            assert attempt_id not in expected, "two transactions of one attempt were mined"
            ended = AttemptState.MINED if ok else AttemptState.REVERTED
            expected[attempt_id] = AttemptState.CANCELLED if tx.kind == "cancel" else ended
        revived = {by_id[key].borrower for key in await self.journal.ask(_revived)}
        twice = [key for key, state in expected.items() if state is AttemptState.REVERTED]
        assert {by_id[key].borrower for key in twice} <= revived, "one position was liquidated twice"
        self.doubles = len(twice)
        for attempt in by_id.values():
            if attempt.id in expected:
                assert attempt.state is expected[attempt.id]
            else:
                assert attempt.state in (AttemptState.REPLACED, AttemptState.DROPPED)
        assert len({(tx.sender, tx.nonce) for tx, _, _ in self.chain.on_chain()}) == sum(spent.values())
        outcomes = await self.journal.ask(_outcomes)
        assert outcomes == {key: str(state) for key, state in expected.items()}


def _revived(db: sqlite3.Connection) -> set[str]:
    """Attempts that had ended without being mined when a reorganisation freed their nonce again."""
    rows = db.execute(
        "SELECT attempt_id FROM attempt_events WHERE to_state = 'sent' AND from_state IN"
        " ('dropped', 'replaced', 'cancelled')"
    )
    return {attempt_id for (attempt_id,) in rows}


def _outcomes(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT attempt_id, state FROM outcomes").fetchall())


class Plain(Run):
    """An undisturbed life, so that the places it passes are always the same, with one death at a chosen one."""

    def __init__(self, folder: Path, fatal: int, *, stuck: bool) -> None:
        super().__init__(1, folder / f"{stuck}-{fatal}", Counter())
        self.path.parent.mkdir(exist_ok=True)
        self.fatal = fatal
        self.passed = 0
        self.keys = (ME,)
        self.eagerness = 1.0 if stuck else 0.0
        self.stuck = stuck  # the pool keeps losing the liquidation, so that it is cancelled
        self.risk = 0

    def hook(self, place: str) -> None:
        self.passed += 1
        if self.mortal and self.passed == self.fatal:
            self.deaths += 1
            raise Killed(place)

    def the_world_moves(self) -> None:
        self.chain.mine(lambda tx: not self.stuck or tx.kind == "cancel")

    async def live(self) -> None:
        self.positions.add(bytes(20))
        await self.alive()
        for _ in range(11):
            self.the_world_moves()
            try:
                await self.a_pass()
            except Killed:
                await self.die()
                await self.alive()
            await self.check_now()
        self.mortal = False
        for _ in range(20):
            self.chain.mine()
            await self.a_pass()
        await self.check_end()
        await self.journal.close()


@pytest.mark.parametrize("stuck", [False, True], ids=["mined", "cancelled"])
def test_kill_at_every_step(memory: Path, stuck: bool) -> None:
    """One kill before and after every journal, signing and network step of an attempt's life, one life each."""
    fatal, died = 0, True
    while died:
        fatal += 1
        run = Plain(memory, fatal, stuck=stuck)
        asyncio.run(run.live())
        died = run.deaths == 1
    assert fatal > (60 if stuck else 40)


def lives(count: int, folder: Path, offset: int = 0) -> None:
    places: Counter[str] = Counter()
    deaths = doubles = sped_up = 0
    for number in range(count):
        seed = SEED + offset + number
        run = Run(seed, folder, places)
        try:
            asyncio.run(run.live())
        except BaseException:
            print(f"KEEPER_SEED={seed}")
            raise
        deaths += run.deaths
        doubles += run.doubles
        sped_up += run.sped_up
    report = (
        f"{count} lives from seed {SEED + offset}, {deaths} deaths at {dict(places)}; {doubles} early exits after a "
    )
    print(report + f"reorganisation revived an attempt; {sped_up} replacements")
    assert deaths >= count
    assert {p.split()[1] for p in places} >= {"intend", "sign", "signed", "send", "sent", "record", "read"}


def test_kill_at_random_steps(memory: Path) -> None:
    """300 seeded lives with several deaths each: 0 double sends, 0 forgotten attempts, the journal equals the chain."""
    lives(300, memory)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_kill_at_many_random_steps(memory: Path) -> None:
    """The same over 5,000 lives."""
    lives(5_000, memory, 1_000_000)
