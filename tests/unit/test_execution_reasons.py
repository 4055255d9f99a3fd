"""A revert that the node cannot explain at once is looked up again before anybody calls it a bug."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.refusals import Kind, Refusal, Unanswered
from keeper.execution import reasons
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.reverts import CLASSES
from keeper.execution.submit import LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.journal import Journal
from keeper.journal.attempts import load
from keeper.model import Attempt, AttemptState, Verdict
from keeper.strategy import failures
from keeper.strategy.failures import Failure, classifier
from tests.support.execution_chain import Chain, FakeClient, FakeSigner, an_order, refuse

pytestmark = pytest.mark.unit

BORROWER = bytes(19) + b"\x07"
GONE = bytes.fromhex("1f8eea5b")  # what the fake chain reverts with
WHY = "unknown error 0x1f8eea5b (4 bytes)"
CONFIRMATIONS = 12


class Mute(FakeClient):
    """A node that does not say why, for one reason or another."""

    how = ""  # state, transaction, words or silence: what is missing
    trace: Any = None

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        if method == "debug_traceTransaction":
            self.requests.append(method)
            if self.trace is None:
                raise refuse("the method debug_traceTransaction does not exist", Kind.UNSUPPORTED)
            return self.trace
        if method == "eth_getTransactionByHash" and self.how == "transaction":
            return None
        if method == "eth_call" and self.how == "state":
            raise refuse("missing trie node", Kind.BEHIND)
        if method == "eth_call" and self.how == "words":
            raise Refusal(Kind.REVERT, -32000, "execution reverted", "fake", None)
        if method == "eth_call" and self.how == "silence":
            raise Unanswered("no answer")
        return await super().request(method, params)


class Desk:
    """One reverted liquidation, and who finds out why."""

    def __init__(self, journal: Journal) -> None:
        self.chain = Chain()
        self.client = Mute(self.chain)
        self.journal = journal
        self.lane = Lane(self.client, journal, FakeSigner(), LanePolicy())
        self.told: list[Any] = []
        self.asked = 0
        self.restart()

    def restart(self) -> None:
        """A process that knows only what the journal says."""
        tracker = Tracker(self.client, self.journal, self.lane, CONFIRMATIONS, self.witnesses)
        self.submitter = LiveSubmitter(self.journal, self.lane, tracker)

    async def witnesses(self, method: str, params: Sequence[Any]) -> Sequence[Any]:
        self.asked += 1
        assert method == "eth_call"
        return self.told

    async def reverted(self) -> list[Verdict]:
        await self.submitter.submit(an_order(self.chain.head, BORROWER, new_attempt_id()))
        self.chain.blocks[-1].done |= {BORROWER}  # somebody else was faster
        return await self.block()

    async def block(self) -> list[Verdict]:
        self.chain.mine()
        return list(await self.submitter.settle(self.chain.head))

    async def attempt(self) -> Attempt:
        (found,) = await self.journal.ask(lambda db: load(db, "1", ()))
        return found


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    yield Desk(journal)
    await journal.close()


def test_the_words_are_the_strategys() -> None:
    """The one is recognised by the other; the last word is a bug."""
    assert reasons.PENDING == failures.UNEXPLAINED
    assert classifier(CLASSES)(f"{reasons.NOBODY}, asked for 8 blocks") is Failure.BUG


async def test_what_is_known_at_once_is_asked_once(desk: Desk) -> None:
    (verdict,) = await desk.reverted()
    assert verdict.detail == WHY
    assert await desk.block() == []
    assert desk.client.requests.count("eth_call") == 1


@pytest.mark.parametrize("how", ["state", "transaction", "words", "silence"])
async def test_the_same_node_says_it_later(desk: Desk, how: str) -> None:
    """Pending first, told again with its reason when it is known, and never again after that."""
    desk.client.how = how
    (first,) = await desk.reverted()
    assert first.state is AttemptState.REVERTED
    assert first.detail.startswith(reasons.PENDING)
    desk.client.how = ""
    (second,) = await desk.block()
    assert (second.attempt_id, second.state, second.detail) == (first.attempt_id, AttemptState.REVERTED, WHY)
    assert second.outcome is not None
    assert second.outcome.revert == WHY
    assert (await desk.attempt()).detail == WHY
    assert await desk.block() == []


async def test_another_node_says_it(desk: Desk) -> None:
    """Every endpoint is asked; one that says that it succeeds, or nothing, explains nothing."""
    desk.client.how = "state"
    await desk.reverted()
    assert desk.asked == 0
    desk.told = ["0x01", Unanswered("no"), refuse("busy"), Refusal(Kind.REVERT, 3, "reverted", "b", GONE)]
    (verdict,) = await desk.block()
    assert verdict.detail == WHY


async def test_a_trace_says_it(desk: Desk) -> None:
    desk.client.how = "state"
    await desk.reverted()
    desk.client.trace = {"output": "0x" + GONE.hex(), "error": "execution reverted"}
    (verdict,) = await desk.block()
    assert verdict.detail == WHY


@pytest.mark.parametrize("trace", [7, {}, {"output": None}, {"output": "zz"}, {"output": "0x"}, []])
async def test_nobody_ever_says_it(desk: Desk, trace: Any) -> None:
    """Asked at ages 0, 1, 2, 4 and 8 and then given up, in words that make a person look."""
    desk.client.how, desk.client.trace = "state", trace
    (verdict,) = await desk.reverted()
    ages = []
    for age in range(1, 11):
        before = desk.asked
        found = await desk.block()
        if desk.asked > before:
            ages.append(age)
        if found:
            (verdict,) = found
            assert age == 8
    assert ages == [1, 2, 4, 8]
    assert verdict.detail == f"{reasons.NOBODY}, asked for 8 blocks"


async def test_a_restart_goes_on_asking(desk: Desk) -> None:
    """What the journal says is pending is looked up at the first head, also long after."""
    desk.client.how = "state"
    await desk.reverted()
    desk.restart()
    desk.told = [Refusal(Kind.REVERT, 3, "reverted", "b", GONE)]
    (verdict,) = await desk.block()
    assert verdict.detail == WHY


async def test_a_restart_long_after_asks_everybody_before_it_gives_up(desk: Desk) -> None:
    await desk.submitter.submit(an_order(desk.chain.head, BORROWER, new_attempt_id()))
    desk.chain.blocks[-1].done |= {BORROWER}
    desk.client.how = "state"
    desk.told = [Refusal(Kind.REVERT, 3, "reverted", "b", GONE)]
    for _ in range(10):
        desk.chain.mine()
    desk.restart()
    (verdict,) = await desk.block()
    assert (verdict.detail, desk.asked) == (WHY, 1)


async def test_a_reorganisation_is_another_revert(desk: Desk) -> None:
    """The receipt of another block is looked up anew."""
    desk.client.how = "state"
    await desk.reverted()
    desk.chain.reorganise(1)
    await desk.submitter.settle(desk.chain.head)
    assert (await desk.attempt()).state is AttemptState.SENT
    desk.client.how = ""
    desk.chain.blocks[-1].done |= {BORROWER}
    (verdict,) = await desk.block()
    assert verdict.detail == WHY
