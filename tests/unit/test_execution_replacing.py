"""What is out and not mined: made dearer, left, or taken back, as the newest block says."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keeper.errors import BadData, ConfigError
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.lanes import REST, Lanes
from keeper.execution.submit import LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.journal import Journal
from keeper.model import Address, Attempt, FeeQuote, Head, Skip, SkipReason, TxKind
from keeper.ports import Book, Proof, Renewal, Safeguards
from keeper.replacing import Patience, Replacing
from keeper.strategy.gates import GateResult
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.scene import Scene as Pass
from tests.support.execution_chain import GWEI, ME, Chain, FakeClient, FakeSigner, an_order
from tests.unit.test_strategy_gates import PLAN

pytestmark = pytest.mark.unit

YOU = Address("0x" + "a2" * 20)
BORROWER = bytes(19) + b"\x07"
FEES = FeeQuote(10 * GWEI, GWEI)
POLICY = LanePolicy(max_age=40, rebroadcast_every=2, bump_every=2)
WAIT = 3  # blocks


@dataclass
class FakeBook:
    """A market in which the borrower either is liquidatable or has recovered."""

    name: str = "market"
    liquidatable: bool = True
    trusted: bool = True
    broken: bool = False

    @property
    def status(self) -> Any:
        return SimpleNamespace(trusted=self.trusted, reason="")

    def position(self, borrower: Address, timestamp: int) -> object | None:
        if self.broken:
            raise BadData("a log cannot be read")
        return object() if self.liquidatable else None


@dataclass
class FakeRenewer:
    """Offers `max_fee` where the least allows it, up to `most`; else the share is used up."""

    most: int = 500 * GWEI
    failure: str = ""
    jobs: list[Renewal] = field(default_factory=list)

    async def renew(self, jobs: Sequence[Renewal], head: Head, fees: FeeQuote) -> list[Proof]:
        self.jobs += jobs
        return [self._proof(job, head) for job in jobs]

    def _proof(self, job: Renewal, head: Head) -> Proof:
        if self.failure or job.least_max_fee > self.most:
            skip = Skip(SkipReason.SIMULATION_SHORT, self.failure or "the share is used up")
            return Proof(job.job, skip=skip)
        order = an_order(head, BORROWER, job.attempt_id, job.least_max_fee, job.least_tip)
        return Proof(job.job, order=replace(order, predicted_gain=77))


class Scene:
    """One attempt that nobody mines, and who looks after it."""

    def __init__(self, journal: Journal) -> None:
        self.chain = Chain()
        self.client = FakeClient(self.chain)
        self.journal = journal
        self.lanes = Lanes(journal, [Lane(self.client, journal, FakeSigner(key), POLICY) for key in (ME, YOU)])
        self.tracker = Tracker(self.client, journal, self.lanes, 3)
        self.submitter = LiveSubmitter(journal, self.lanes, self.tracker)
        self.book = FakeBook()
        self.renewer = FakeRenewer()
        self.safeguards = SimpleNamespace(paused=False, breaker=None)
        self.behind: frozenset[str] = frozenset()
        self.gates: tuple[GateResult, ...] = ()
        self.planned = True
        self.counted: Counter[str] = Counter()
        self.plan = replace(PLAN, market="market", borrower=Address("0x" + BORROWER.hex()), buy=None, sell=None)
        self.replacing = Replacing(
            journal,
            self.lanes,
            self.renewer,
            cast(Safeguards, self.safeguards),
            Patience(WAIT, WAIT),
            lambda what: self.counted.update([what]),
        )

    async def send(self) -> Attempt:
        await self.submitter.submit(an_order(self.chain.head, BORROWER, new_attempt_id()))
        return await self.attempt()

    async def attempt(self) -> Attempt:
        (found,) = await self.journal.unsettled()
        return found

    def opportunity(self) -> Opportunity:
        account = SimpleNamespace(borrower=Address("0x" + BORROWER.hex()))
        position: Any = SimpleNamespace(market="market", account=account)
        assert self.plan.buy is None  # nothing is traded, so nothing has to be quoted behind it
        skip = None if self.planned else Skip(SkipReason.UNPROFITABLE, "gas eats it")
        choice: Any = SimpleNamespace(plan=self.plan if self.planned else None, skip=skip)
        return Opportunity(position, choice, self.gates, cast(Any, object()))

    async def blocks(self, count: int) -> Attempt:
        """So many blocks in which nothing of ours is mined, each followed by a pass."""
        for _ in range(count):
            self.chain.mine(lambda tx: False)
            await self.submitter.settle(self.chain.head)
            found = [self.opportunity()] if self.book.liquidatable else []
            books = {} if "market" in self.behind else {"market": cast(Book, self.book)}
            head, appraiser = self.chain.head, cast(Any, SimpleNamespace(sources=()))
            quoter = cast(Any, object())
            scene = Pass(appraiser, books, quoter, FEES, head, head.timestamp + 12, 0, lambda market, borrower: True)
            await self.replacing.review(found, scene)
        return await self.attempt()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    yield Scene(journal)
    await journal.close()


def closed(name: str) -> tuple[GateResult, ...]:
    return (GateResult(name, open=False, detail=name, numbers={}, reason=SkipReason.UNPROFITABLE),)


def kinds(attempt: Attempt) -> list[TxKind]:
    return [tx.kind for tx in attempt.txs]


async def test_what_waits_is_sped_up_by_the_least_bump(scene: Scene) -> None:
    """Every `before` blocks: same id and nonce, 13 % more, newly predicted; and the newest one is mined."""
    first = await scene.send()
    assert kinds(await scene.blocks(WAIT - 1)) == [TxKind.EXECUTE]
    attempt = await scene.blocks(1)
    attempt = await scene.blocks(WAIT)
    assert (attempt.id, attempt.nonce, kinds(attempt)) == (first.id, first.nonce, [TxKind.EXECUTE] * 3)
    for older, newer in zip(attempt.txs, attempt.txs[1:], strict=False):
        assert newer.max_fee * 100 >= older.max_fee * 113
        assert newer.tip * 100 >= older.tip * 113
    assert attempt.predicted_gain == 77
    assert scene.counted == {"sped_up": 2}
    assert scene.submitter.in_flight("market", attempt.borrower, scene.chain.head) == first.id
    scene.chain.mine()
    ((mined, _, ok),) = scene.chain.on_chain()
    assert ok
    assert mined.hash == attempt.tx_hash


async def test_the_cap_ends_in_a_cancellation(scene: Scene) -> None:
    """When the share of the new profit does not allow the next bump, the nonce is taken back, once."""
    await scene.send()
    scene.renewer.most = 60 * GWEI
    attempt = await scene.blocks(2 * WAIT)
    assert kinds(attempt) == [TxKind.EXECUTE, TxKind.EXECUTE, TxKind.CANCEL]
    assert max(tx.max_fee for tx in attempt.txs if tx.kind is TxKind.EXECUTE) <= 60 * GWEI
    await scene.blocks(1)
    asked = len(scene.renewer.jobs)
    await scene.blocks(WAIT)
    assert len(scene.renewer.jobs) == asked, "what is being taken back is not proved again"
    assert scene.counted == {"sped_up": 1, "cancelled": 1}


async def test_a_recovered_position_is_taken_back(scene: Scene) -> None:
    """The book itself says that it is healthy again; an unknown market says nothing."""
    await scene.send()
    scene.book.liquidatable, scene.book.broken = False, True
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE]
    scene.book.broken = False
    assert kinds(await scene.blocks(1)) == [TxKind.EXECUTE, TxKind.CANCEL]


@pytest.mark.parametrize("name", ["profit_floor", "gas_ceiling", "oracle_gap", "exposure", "profit_sanity"])
async def test_a_prize_that_is_gone_is_taken_back(scene: Scene, name: str) -> None:
    """A gate about the prize has closed since: a self-transfer takes the nonce."""
    await scene.send()
    scene.gates = closed(name)
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE, TxKind.CANCEL]


@pytest.mark.parametrize("failure", ["plan", "simulation"])
async def test_without_a_plan_or_a_proof_it_is_taken_back(scene: Scene, failure: str) -> None:
    """Nothing worth doing is left, by the planner or by the node's simulation at the newest block."""
    await scene.send()
    scene.planned = failure != "plan"
    scene.renewer.failure = "reverts" if failure == "simulation" else ""
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE, TxKind.CANCEL]


@pytest.mark.parametrize("name", ["paused", "breaker", "stale_head", "market_unknown"])
async def test_nothing_is_replaced_while_nothing_can_be_said(scene: Scene, name: str) -> None:
    """It is left as long as it can land, and then taken back rather than left to revert."""
    await scene.send()
    scene.gates = closed(name)
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE]
    assert kinds(await scene.blocks(1)) == [TxKind.EXECUTE, TxKind.CANCEL]
    assert not scene.renewer.jobs
    assert scene.counted == {"left": 2, "cancelled": 1}


@pytest.mark.parametrize("why", ["behind", "untrusted"])
async def test_an_unknown_market_decides_nothing(scene: Scene, why: str) -> None:
    """A book that is behind or not trusted is not asked whether the position has recovered."""
    await scene.send()
    scene.book.liquidatable = False
    scene.behind = frozenset({"market"}) if why == "behind" else frozenset()
    scene.book.trusted = why != "untrusted"
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE]


async def test_a_pause_during_the_proof_holds_it_back(scene: Scene) -> None:
    """The operator pauses while the node simulates: no dearer transaction leaves."""
    await scene.send()
    scene.safeguards.paused = True
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE]


async def test_in_flight_and_cooldown_gates_are_not_about_it(scene: Scene) -> None:
    """The position is in flight because of this very attempt."""
    await scene.send()
    scene.gates = closed("in_flight") + closed("cooldown")
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE, TxKind.EXECUTE]


async def test_behind_another_nonce_no_price_helps(scene: Scene) -> None:
    """A transaction sent by hand waits in front: ours is not made dearer."""
    scene.chain.foreign()
    attempt = await scene.send()
    assert attempt.nonce == 1
    assert kinds(await scene.blocks(WAIT)) == [TxKind.EXECUTE]


async def test_orders_go_to_the_idlest_key(scene: Scene) -> None:
    """Alternately while nothing is mined; each key counts its own nonces; a key that cannot pay comes last."""
    sent = [
        await scene.submitter.submit(an_order(scene.chain.head, bytes([n]) * 20, new_attempt_id())) for n in range(1, 5)
    ]
    attempts = {a.id: a for a in await scene.journal.unsettled()}
    assert [attempts[s.attempt_id].signer for s in sent] == [ME, YOU, ME, YOU]
    assert [s.nonce for s in sent] == [0, 0, 1, 1]
    scene.client.fate = lambda tx: "insufficient funds for gas * price + value"
    refused = await scene.submitter.submit(an_order(scene.chain.head, bytes([9]) * 20, new_attempt_id()))
    scene.client.fate = lambda tx: "deliver"
    assert {a.id: a.signer for a in await scene.journal.unsettled()}[refused.attempt_id] == ME
    number = scene.chain.head.number
    assert [(await scene.lanes.choose(at)).address for at in (number, number + REST)] == [YOU, ME]


async def test_one_key_twice_is_refused(scene: Scene) -> None:
    """Two owners of one key's nonces would fight; and no key at all cannot send."""
    lane = scene.lanes.every[0]
    with pytest.raises(ConfigError, match="twice"):
        Lanes(scene.journal, [lane, lane])
    with pytest.raises(ConfigError, match="no key"):
        Lanes(scene.journal, [])
