"""kill -9 between any two steps of a run that sends to relays only: the same promises, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.refusals import Unanswered
from keeper.execution.bundles import Leader, PrivateLane, PrivatePolicy, PrivateSubmitter
from keeper.execution.lane import LanePolicy
from keeper.execution.lanes import Lanes
from keeper.execution.offers import Bundle
from keeper.execution.recover import recover
from keeper.execution.relays import NoTally, Told
from keeper.execution.track import Tracker
from keeper.journal import Journal
from keeper.model import Address, Hash, Head
from tests.property.test_execution_crash import CONFIRMATIONS, SEED, Run, memory
from tests.support.execution_chain import Chain, FakeClient, FakeSigner, HookedLedger, Tx, an_order, refuse

__all__ = ["memory"]  # the fixture

pytestmark = pytest.mark.property

BLOCKS = 3


class BuilderChain(Chain):
    """A chain whose blocks also hold what relays were offered, as far as `chooses` agrees; the pool never sees it."""

    def __init__(self) -> None:
        self.offered: list[tuple[Tx, int, int]] = []  # transaction, first and last block
        self.groups: list[tuple[bytes, list[Tx], int]] = []  # behind whose transaction, in order, for one block
        self.followers: set[Hash] = set()  # whatever was ever offered behind another transaction
        self.followed: set[Hash] = set()  # what of it was mined there
        self.leaders: set[bytes] = set()  # others' transactions that were mined
        self.chooses: Callable[[Tx], bool] = lambda tx: True
        super().__init__()

    def mine(self, wanted: Callable[[Tx], bool] = lambda tx: True) -> Head:
        number = len(self.blocks) + 100
        private = self._behind(number)
        for tx, first, last in self.offered:
            due = first <= number <= last and (tx.sender, tx.nonce) not in self.pool
            # A builder simulates: what would revert, or cannot run, is left out.
            good = tx.data[:20] not in self.state.done and tx.nonce >= self.state.nonces.get(tx.sender, 0)
            if due and good and tx.data[:20] not in {other.data[:20] for other in private} and self.chooses(tx):
                self.pool[tx.sender, tx.nonce] = tx
                private.append(tx)
        hidden = {tx.hash for tx in private}
        head = super().mine(lambda tx: tx.hash in hidden or wanted(tx))
        for tx in private:
            if self.pool.get((tx.sender, tx.nonce)) is tx:
                del self.pool[tx.sender, tx.nonce]
        self.followed |= self.followers & {tx.hash for tx in self.state.txs}
        return head

    def _behind(self, number: int) -> list[Tx]:
        """Of each leader one whole bundle, if the leader is still to come and everything in the bundle succeeds."""
        chosen: list[Tx] = []
        for leader, txs, block in sorted(self.groups, key=lambda group: -len(group[1])):
            expected = dict(self.state.nonces)
            good = leader not in self.leaders and block == number
            for tx in txs:
                free = (tx.sender, tx.nonce) not in self.pool and tx.nonce == expected.get(tx.sender, 0)
                good = good and free and tx.data[:20] not in self.state.done
                expected[tx.sender] = tx.nonce + 1
            if good and self.chooses(txs[-1]):
                self.leaders.add(leader)
                self.pool.update({(tx.sender, tx.nonce): tx for tx in txs})
                chosen += txs
        return chosen


class FakeRelays:
    """Takes bundles, loses them, or does not answer. With `hold` it may include them in any block up to the last."""

    tally = NoTally()

    def __init__(self, run: PrivateRun, *, hold: bool) -> None:
        self._run = run
        self.hold = hold

    async def send(self, bundle: Bundle) -> list[Told]:
        run = self._run
        run.hook("before send")
        txs = [Tx.decode(raw) for raw in (*bundle.before, bundle.raw)]
        tx = txs[-1]
        fate = (
            run.rng.choice(("taken", "taken", "taken", "lost", "taken unanswered", "busy")) if run.mortal else "taken"
        )
        if "taken" in fate:
            run.chain.handed_out |= {each.hash: each for each in txs}
            if isinstance(bundle.leader, bytes):
                run.book.groups.append((bundle.leader, txs, bundle.block))
                run.book.followers |= {each.hash for each in txs}
            else:
                assert bundle.leader is None
                run.book.offered.append((tx, bundle.block, bundle.until if self.hold else bundle.block))
        run.hook("after send")
        if fate == "taken":
            return [Told("fake", tx.hash)]
        return [Told("fake", None, refuse("try again later") if fate == "busy" else Unanswered("no answer"))]

    async def withdraw(self, bundle: Bundle) -> int:
        return 0


class PrivateRun(Run):
    """One seeded life with relays. `public` is all that was ever handed out in public."""

    def __init__(self, seed: int, folder: Path, places: Counter[str], *, calm: bool) -> None:
        super().__init__(seed, folder, places)
        self.chain = self.book = BuilderChain()
        self.client = FakeClient(self.chain, self.hook)
        self.relays = FakeRelays(self, hold=self.rng.random() < 0.4)
        self.book.chooses = lambda tx: not self.mortal or self.rng.random() < 0.5
        self.calm = calm  # no reorganisations and no strangers: then a liquidation is never public
        self.public: list[Tx] = []
        self.updates = self.behind = 0
        taken = self.chain.take

        def take(raw: bytes) -> object:
            self.public.append(Tx.decode(raw))
            return taken(raw)

        self.chain.take = take  # type: ignore[method-assign,assignment]  # an observer of the only public door

    async def start(self) -> None:
        self.journal = await Journal.open(self.path, 1, "live", lambda: self.chain.head.timestamp)
        ledger = HookedLedger(self.journal, self.hook)
        lanes = Lanes(ledger, [self.lane(ledger, FakeSigner(key, self.hook)) for key in self.keys])
        tracker = Tracker(self.client, ledger, lanes, CONFIRMATIONS)
        self.ledger, self.lanes = ledger, lanes
        self.submitter = PrivateSubmitter(ledger, lanes, tracker)
        await recover(ledger, tracker, lanes, self.chain.head)
        await self.submitter.settle(self.chain.head)

    def lane(self, ledger: HookedLedger, signer: FakeSigner) -> PrivateLane:
        policy = LanePolicy(max_age=6, rebroadcast_every=2, bump_every=2)
        relays: Any = self.relays
        return PrivateLane(self.client, ledger, signer, relays, policy, PrivatePolicy(BLOCKS))

    def the_world_moves(self) -> None:
        if not self.calm:
            super().the_world_moves()
            return
        if self.rng.random() < 0.25:
            self.positions.add(self.rng.randbytes(20))
        self.chain.mine()

    async def a_pass(self) -> None:
        """Now and then an update is about to land, and several positions are wanted behind it."""
        head = self.chain.head
        if self.mortal and self.rng.random() < 0.3:
            await self.submitter.settle(head)
            self.updates += 1
            raw = f"update {self.updates}".encode()
            leader = Leader(Hash("0x" + sha256(raw).hexdigest()), raw)
            assert isinstance(self.submitter, PrivateSubmitter)
            for borrower in sorted(self.positions - self.chain.state.done)[: self.rng.randint(1, 4)]:
                account = Address("0x" + borrower.hex())
                if self.submitter.in_flight("market", account, head) is None:
                    self.ids += 1
                    await self.submitter.submit_behind(an_order(head, borrower, f"0x{self.ids:064x}"), leader)
                    self.behind += 1
        await super().a_pass()

    async def check_end(self) -> None:
        await super().check_end()
        mined = {tx.hash for tx, _, _ in self.chain.on_chain()}
        assert mined & self.book.followers <= self.book.followed, "something landed without what it follows"
        if self.calm:
            leaked = [tx for tx in self.public if tx.kind == "execute"]
            assert not leaked, "a liquidation was handed out in public"


def lives(count: int, folder: Path, offset: int) -> None:
    places: Counter[str] = Counter()
    deaths = cancels = mined = sped_up = behind = followed = 0
    for number in range(count):
        seed = SEED + offset + number
        run = PrivateRun(seed, folder, places, calm=number % 2 == 0)
        try:
            asyncio.run(run.live())
        except BaseException:
            print(f"KEEPER_SEED={seed}")
            raise
        deaths += run.deaths
        sped_up += run.sped_up
        kinds = Counter(tx.kind for tx, _, _ in run.chain.on_chain())
        cancels += kinds["cancel"]
        mined += kinds["execute"]
        behind, followed = behind + run.behind, followed + len(run.book.followed)
    print(f"{count} lives from seed {SEED + offset}, {deaths} deaths at {dict(places)}")
    print(f"{mined} mined, {cancels} cancelled in public, {sped_up} sped up")
    print(f"{behind} offered behind updates, {followed} of them mined there")
    assert followed > count // 2
    assert deaths >= count
    assert {p.split()[1] for p in places} >= {"intend", "sign", "signed", "send", "sent", "record", "read"}


def test_kill_at_random_steps_in_private(memory: Path) -> None:
    """80 seeded lives with several deaths each: 0 double sends, 0 stuck nonces, 0 liquidations leaked in public."""
    lives(80, memory, 7_000_000)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_kill_at_many_random_steps_in_private(memory: Path) -> None:
    """The same over 2,000 lives."""
    lives(2_000, memory, 8_000_000)
