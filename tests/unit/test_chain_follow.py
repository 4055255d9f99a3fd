"""The follower's promises one by one."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeper.chain import rebuild
from keeper.chain.checkpoints import Checkpoints
from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.chain.providers import Call
from keeper.chain.rebuild import Progress
from keeper.chain.refusals import Unanswered
from keeper.chain.tracks import Dispatch
from keeper.errors import Transient
from keeper.model import Watch
from tests.chain_fakes import (
    CREATED,
    DIRTY,
    FACTORY,
    VALUE,
    FakeAlerter,
    FakeChain,
    FakeMirror,
    FakeNode,
    child_address,
    truth,
)

pytestmark = pytest.mark.unit

CHILD = child_address(1)


class World:
    """A chain with one contract that logs in every block, one node, and what follows it."""

    def __init__(
        self, blocks: int, *mirrors: FakeMirror, checkpoints: Checkpoints | None = None, **options: Any
    ) -> None:
        self.chain = FakeChain()
        self.chain.mine([(FACTORY, CREATED, bytes.fromhex(CHILD[2:]))])
        self.grow(blocks - 1)
        self.node = FakeNode(self.chain)
        self.client = NodeClient([self.node], attempts=1, backoff=0.0, rng=random.Random(1), log_range=50)
        self.mirrors = mirrors or (FakeMirror(),)
        self.alerter = FakeAlerter()
        self.progress: list[Progress] = []
        self.follower = Follower(
            self.client,
            self.mirrors,
            checkpoints,
            self.alerter,
            progress=self.progress.append,
            **{"undo": 16, **options},
        )

    def grow(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.chain.mine([(CHILD, VALUE, len(self.chain.canonical).to_bytes(4, "big"))])

    def right(self) -> bool:
        return all(mirror.digests == truth(self.chain, mirror, self.chain.head) for mirror in self.mirrors)

    def fail(self, text: str) -> None:
        def fault(calls: Sequence[Call]) -> list[Any] | None:
            if text in str(calls):
                raise Unanswered("the node is silent")
            return None

        self.node.fault = fault


async def test_a_pass_is_one_round_trip_whatever_the_number_of_mirrors() -> None:
    """In steady state each head costs one message, however many mirrors there are."""
    world = World(40, FakeMirror("a"), FakeMirror("b"), FakeMirror("c"))
    await world.follower.start(world.chain.head)
    for _ in range(5):
        world.grow()
        advance = await world.follower.advance(world.chain.head)
        assert (advance.applied, advance.undone, advance.requests, advance.behind) == (1, 0, 1, frozenset())
        assert world.right()
    assert (await world.follower.advance(world.chain.head)).requests == 0, "the same head again costs nothing"


async def test_history_is_replayed_once_and_reported() -> None:
    """A first start replays from `history_from`, with progress that ends at one hundred percent."""
    world = World(300)
    advance = await world.follower.start(world.chain.head)
    assert world.right()
    assert advance.behind == frozenset()
    percents = [p.percent for p in world.progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert world.progress[-1].eta == 0
    assert world.progress[0].blocks_per_second > 0
    assert world.progress[-1].last == 300 - 16


class Scattered(FakeMirror):
    """Notes what it has taken whenever it is laid out anew, and that this is no business of the event loop's."""

    def __init__(self) -> None:
        super().__init__()
        self.tidied: list[str] = []

    def tidy(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert not self.seen, "it follows already"
        self.tidied.append(self.digests[CHILD])


async def test_a_long_history_is_laid_out_before_anything_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when all of it has been replayed; a short gap scatters nothing."""
    monkeypatch.setattr(rebuild, "_SCATTERING", 100)
    world = World(300, mirror := Scattered())
    await world.follower.start(world.chain.head)
    assert world.right()
    assert len(mirror.tidied) == 1
    mirror.seen.clear()
    world.grow(80)  # beyond what is followed block by block
    await world.follower.advance(world.chain.head)
    assert world.right()
    assert len(mirror.tidied) == 1


async def test_a_mirror_without_history_begins_at_the_head() -> None:
    """Present state that can be read is not replayed, and the mirror follows from there."""
    world = World(300, FakeMirror(history_from=None, start=(CHILD,)))
    await world.follower.start(world.chain.head)
    assert world.progress == []
    assert set(world.mirrors[0].digests.values()) == {""}
    world.grow(3)
    advance = await world.follower.advance(world.chain.head)
    assert (advance.applied, advance.behind) == (3, frozenset())
    assert world.mirrors[0].digests[CHILD] != ""


async def test_a_gap_is_filled_block_by_block() -> None:
    """Missed heads cost two round trips: the headers between, and then all their logs."""
    world = World(40)
    await world.follower.start(world.chain.head)
    world.grow(10)
    advance = await world.follower.advance(world.chain.head)
    assert (advance.applied, advance.undone, advance.requests) == (10, 0, 2)
    assert world.right()


@pytest.mark.parametrize("depth", [1, 2, 5, 16])
async def test_a_reorganisation_is_undone(depth: int) -> None:
    """Blocks that are gone are stepped back from, and the new branch is applied."""
    world = World(60)
    await world.follower.start(world.chain.head)
    world.grow(20)
    await world.follower.advance(world.chain.head)
    world.chain.drop(depth)
    world.grow(depth + 1)
    advance = await world.follower.advance(world.chain.head)
    assert (advance.applied, advance.undone, advance.behind) == (depth + 1, depth, frozenset())
    assert world.right()
    assert world.alerter.alerts == []


async def test_a_step_back_is_followed() -> None:
    """When the head itself moves down the chain, so do the mirrors."""
    world = World(60)
    await world.follower.start(world.chain.head)
    world.grow(8)
    await world.follower.advance(world.chain.head)
    world.chain.drop(5)
    advance = await world.follower.advance(world.chain.head)
    assert (advance.applied, advance.undone) == (0, 5)
    assert world.right()
    assert world.mirrors[0].seen[-1][0] == world.chain.head


async def test_a_reorganisation_below_the_window_restores_a_checkpoint(tmp_path: Path) -> None:
    """Deeper than can be undone: the newest checkpoint that is still canonical, not a full load."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1, keep=8)
    world = World(60, checkpoints=checkpoints, checkpoint_every=10)
    await world.follower.start(world.chain.head)
    for _ in range(50):
        world.grow()
        await world.follower.advance(world.chain.head)
    world.chain.drop(30)
    world.grow(31)
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == frozenset()
    assert world.right()
    assert world.mirrors[0].loads == 1
    await checkpoints.close()


async def test_a_long_absence_is_replayed_in_ranges() -> None:
    """After a gap longer than the window the mirror goes on from where it was, without a load."""
    world = World(60)
    await world.follower.start(world.chain.head)
    world.grow(500)
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == frozenset()
    assert world.right()
    assert world.mirrors[0].loads == 1
    assert advance.requests < 60


async def test_an_interrupted_back_fill_goes_on_where_it_was(tmp_path: Path) -> None:
    """A failure in the middle of the history costs at most what was not yet saved, in this process or the next."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(2_000, checkpoints=checkpoints, save_seconds=0.0)
    world.fail("'fromBlock': '0x3e9'")
    with pytest.raises(Transient):
        await world.follower.start(world.chain.head)
    assert world.mirrors[0].loads == 1
    world.node.fault = lambda calls: None
    world.node.messages.clear()
    await world.follower.start(world.chain.head)
    assert world.right()
    assert world.mirrors[0].loads == 1
    assert len([m for m in world.node.messages if "eth_getLogs" in m]) < 30, "half the ranges are enough"

    second = World(2_000, FakeMirror(), save_seconds=0.0)
    second.chain = world.chain
    follower = Follower(world.client, second.mirrors, checkpoints, second.alerter, undo=16)
    world.node.messages.clear()
    await follower.start(world.chain.head)
    assert second.mirrors[0].loads == 0, "restored from disk"
    assert second.right()
    assert len(world.node.messages) < 6
    await checkpoints.close()


async def test_a_start_that_was_interrupted_does_not_cling_to_blocks_that_are_gone() -> None:
    """When the chain was reorganised beyond the window between two tries, the second one begins from the new chain."""
    world = World(200)
    world.fail("fromBlock")
    with pytest.raises(Transient):
        await world.follower.start(world.chain.head)
    world.node.fault = lambda calls: None
    world.chain.drop(100)
    world.grow(105)
    assert (await world.follower.start(world.chain.head)).behind == frozenset()
    assert world.right()


async def test_a_failure_leaves_everything_whole() -> None:
    """When the logs cannot be had nothing changes, and the next head brings everything."""
    world = World(40)
    await world.follower.start(world.chain.head)
    before, state = world.follower.head, dict(world.mirrors[0].digests)
    world.grow(2)
    world.fail("blockHash")
    with pytest.raises(Transient):
        await world.follower.advance(world.chain.head)
    assert (world.follower.head, world.mirrors[0].digests) == (before, state)
    world.node.fault = lambda calls: ["nonsense" for _ in calls]
    with pytest.raises(Transient):
        await world.follower.advance(world.chain.head)
    assert (world.follower.head, world.mirrors[0].digests) == (before, state)
    world.node.fault = lambda calls: None
    world.grow()
    assert (await world.follower.advance(world.chain.head)).applied == 3
    assert world.right()


async def test_a_contract_born_in_a_block_is_followed_from_that_block() -> None:
    """Logs of a contract that the same block announced are not missed, in the window as in the history."""
    world = World(30)
    baby, twin = child_address(2), child_address(3)
    world.chain.mine([(FACTORY, CREATED, bytes.fromhex(baby[2:])), (baby, VALUE, b"first"), (CHILD, VALUE, b"x")])
    world.grow(40)
    await world.follower.start(world.chain.head)
    assert world.right()
    world.chain.mine([(FACTORY, CREATED, bytes.fromhex(twin[2:])), (twin, VALUE, b"first"), (CHILD, VALUE, b"y")])
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == frozenset()
    assert world.mirrors[0].digests[twin] != ""
    assert world.right()


async def test_a_dirty_mirror_is_refreshed_or_reported() -> None:
    """What a log makes dirty is re-read at the same head; when that fails the mirror is behind until it succeeds."""
    world = World(40)
    await world.follower.start(world.chain.head)
    world.chain.mine([(CHILD, DIRTY, b"")])
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == frozenset()
    assert not world.mirrors[0].dirty
    world.chain.mine([(CHILD, DIRTY, b"")])
    world.fail(b"refresh".hex())
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == {"mirror"}
    world.node.fault = lambda calls: None
    assert (await world.follower.advance(world.chain.head)).behind == frozenset(), "the same head is enough"


async def test_one_bad_mirror_does_not_stop_the_others(tmp_path: Path) -> None:
    """A mirror that refuses a log is distrusted, announced and rebuilt, while the others stay at the head."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(40, FakeMirror("good"), FakeMirror("bad"), checkpoints=checkpoints)
    good, bad = world.mirrors
    await world.follower.start(world.chain.head)
    bad.poison = b"poison"
    world.chain.mine([(CHILD, VALUE, b"poison")])
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == {"bad"}
    assert good.digests == truth(world.chain, good, world.chain.head)
    assert bad.distrusted == ["a poisonous log"]
    assert [name for name, _ in world.alerter.alerts] == ["mirror_distrusted"]
    bad.poison = None
    for _ in range(3):
        world.grow()
        advance = await world.follower.advance(world.chain.head)
        await world.follower.rebuilt()
    assert advance.behind == frozenset()
    assert world.right()
    assert bad.loads == 1, "the checkpoint was enough"
    await world.follower.close()
    await checkpoints.close()


async def test_an_audit_can_demand_a_rebuild_from_the_chain(tmp_path: Path) -> None:
    """`distrust` believes no checkpoint: the mirror is loaded anew."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(40, checkpoints=checkpoints)
    await world.follower.start(world.chain.head)
    assert [s async for s in checkpoints.load("mirror")]
    world.follower.distrust("mirror", "the audit found a difference")
    world.grow()
    advance = await world.follower.advance(world.chain.head)
    assert advance.behind == frozenset(), "the only mirror is waited for"
    assert world.mirrors[0].loads == 2
    assert world.right()
    await checkpoints.close()


async def test_a_mirror_that_always_refuses_is_retried_less_and_less() -> None:
    """A permanent refusal costs a bounded number of rebuilds."""
    world = World(40, FakeMirror("good"), FakeMirror("bad"))
    bad = world.mirrors[1]
    await world.follower.start(world.chain.head)
    bad.poison = b"poison"
    world.chain.mine([(CHILD, VALUE, b"poison")])
    for _ in range(100):
        await world.follower.advance(world.chain.head)
        await world.follower.rebuilt()
        world.grow()
    assert 3 <= len(bad.distrusted) <= 10
    await world.follower.close()


def test_logs_go_to_whoever_watches_their_address_and_topic() -> None:
    """A union filter brings more than each mirror wants; each gets exactly its own, in order."""
    chain = FakeChain()
    chain.mine([(FACTORY, VALUE, b"1"), (FACTORY, CREATED, b"2"), (CHILD, VALUE, b"3"), (CHILD, DIRTY, b"4")])
    dispatch = Dispatch(
        [
            Watch(frozenset({FACTORY}), frozenset({VALUE})),
            Watch(frozenset({FACTORY, CHILD}), frozenset({CREATED, DIRTY})),
            Watch(frozenset(), frozenset()),
        ]
    )
    assert dispatch.watch == Watch(frozenset({FACTORY, CHILD}), frozenset({VALUE, CREATED, DIRTY}))
    parts = dispatch.split(chain.at(1))
    assert [[log.data for log in part] for part in parts] == [[b"1"], [b"2", b"4"], []]
