"""The follower against a scripted chain of forks, gaps, duplicates, stale answers and failures."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.checkpoints import Checkpoints
from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.chain.providers import Call
from keeper.chain.refusals import Refusal, Unanswered
from keeper.errors import Transient
from keeper.model import Address
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

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261"))


class World:
    """A chain that grows and forks at random, and the contracts on each branch."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.chain = FakeChain()
        self.born = 0

    def contracts(self) -> list[Address]:
        return [
            Address("0x" + log.data.hex())
            for block in self.chain.branch()
            for log in block.logs
            if log.topics[0] == CREATED
        ]

    def mine(self, blocks: int) -> None:
        known = self.contracts()
        for _ in range(blocks):
            logs: list[tuple[Address, str, bytes]] = []
            if self.rng.random() < 0.15:
                self.born += 1
                child = child_address(self.born)
                logs.append((FACTORY, CREATED, bytes.fromhex(child[2:])))
                known.append(child)
                if self.rng.random() < 0.7:
                    logs.append((child, VALUE, self.rng.randbytes(3)))
            for _ in range(self.rng.choice((0, 0, 1, 3))):
                if known:
                    topic = DIRTY if self.rng.random() < 0.05 else VALUE
                    logs.append((self.rng.choice(known), topic, self.rng.randbytes(4)))
            self.chain.mine(logs)


def shaky(node: FakeNode, rng: random.Random, rate: float) -> None:
    """Make a node fail in every way a node can, at `rate` per message."""

    def fault(calls: Sequence[Call]) -> list[Any] | None:
        if rng.random() >= rate:
            return None
        kind = rng.randrange(5)
        if kind == 0:
            raise Unanswered("the node is silent")
        if kind == 1:
            return [node.refuse(-32005, "rate limit exceeded") for _ in calls]
        if kind == 2:
            return [None for _ in calls]
        if kind == 3:
            return ["nonsense" for _ in calls]
        return [node.refuse(-32000, "header not found") for _ in calls]

    def log_fault(condition: dict[str, Any], logs: list[Any]) -> list[Any] | Refusal:
        if "fromBlock" in condition and int(condition["toBlock"], 16) - int(condition["fromBlock"], 16) > 40:
            return node.refuse(-32005, "query exceeds max block range 40")
        if logs and rng.random() < rate:
            return [*logs, logs[0]]  # a duplicate
        return logs

    node.fault = fault
    node.log_fault = log_fault


async def drive(seed: int, path: Path, steps: int) -> dict[str, int]:
    """One random life of a follower; returns what happened in it."""
    rng = random.Random(seed)
    world = World(rng)
    world.mine(rng.randrange(3, 150))
    nodes = [FakeNode(world.chain, f"node{i}") for i in range(2)]
    seen = {"advances": 0, "failures": 0, "undone": 0, "applied": 0, "restarts": 0, "lost": 0, "checks": 0}

    def build() -> tuple[NodeClient, list[FakeMirror]]:
        client = NodeClient(
            nodes, attempts=2, backoff=0.0, cool_down=0.0, rng=random.Random(seed), log_range=60, batch_size=20
        )
        mirrors = [FakeMirror("first"), FakeMirror("second")]
        mirrors[1].poison = b"\xde\xad\xbe\xef"
        return client, mirrors

    checkpoints = await Checkpoints.open(path, 1)
    client, mirrors = build()
    alerter = FakeAlerter()
    options: dict[str, Any] = {"undo": 12, "checkpoint_every": 7, "save_seconds": 0.0}
    follower = Follower(client, mirrors, checkpoints, alerter, **options)
    started = False
    for _ in range(steps):
        action = rng.random()
        if action < 0.62:
            world.mine(1)
        elif action < 0.72:
            world.mine(rng.randrange(2, 30))  # heads were missed
        elif action < 0.86:
            depth = min(rng.choice((1, 1, 2, 3, 6, 11, 20)), len(world.chain.canonical) - 2)
            world.chain.drop(depth)
            world.mine(rng.randrange(0, depth + 2))
        elif action < 0.90:
            await follower.close()
            client, mirrors = build()
            follower = Follower(client, mirrors, checkpoints, alerter, **options)
            started = False
            seen["restarts"] += 1
        elif action < 0.93 and started:
            follower.distrust("first", "the audit found a difference")
            seen["lost"] += 1
        # otherwise the same head again
        rate = rng.choice((0.0, 0.0, 0.0, 0.3, 0.8))
        for node in nodes:
            shaky(node, rng, rate)
            node.lag = rng.choice((0, 0, 0, 2)) if node is nodes[1] else 0
        try:
            advance = await (follower.advance(world.chain.head) if started else follower.start(world.chain.head))
        except Transient:
            seen["failures"] += 1
            continue
        started = True
        seen["advances"] += 1
        seen["applied"] += advance.applied
        seen["undone"] += advance.undone
        for mirror in mirrors:
            if mirror.name not in advance.behind:
                right = truth(world.chain, mirror, advance.head)
                assert mirror.digests == right, f"seed {seed}: {mirror.name} at {advance.head}"
                assert mirror.seen[-1][0] == advance.head, f"seed {seed}: not observed at the head"
                assert not mirror.dirty
                seen["checks"] += 1
    # However it went, a quiet network brings every mirror home.
    for node in nodes:
        shaky(node, rng, 0.0)
        node.lag = 0
    for _ in range(80):
        world.mine(1)
        advance = await (follower.advance(world.chain.head) if started else follower.start(world.chain.head))
        started = True
        await follower.rebuilt()
        if not advance.behind:
            break
    assert not advance.behind, f"seed {seed}: {advance.behind} never came back ({alerter.alerts[-3:]})"
    assert all(mirror.digests == truth(world.chain, mirror, world.chain.head) for mirror in mirrors), f"seed {seed}"
    await follower.close()
    await checkpoints.close()
    return seen


async def lives(tmp_path: Path, count: int, steps: int) -> None:
    total: dict[str, int] = {}
    print(f"KEEPER_SEED={SEED}")
    for index in range(count):
        seen = await drive(SEED + index, tmp_path / f"{index}.sqlite", steps)
        for key, value in seen.items():
            total[key] = total.get(key, 0) + value
    print(total)
    assert total["checks"] > count * steps // 2
    assert min(total[key] for key in ("failures", "undone", "applied", "restarts", "lost")) > 0


async def test_a_mirror_equals_a_replay_of_the_canonical_chain(tmp_path: Path) -> None:
    """Whatever the chain and the nodes do, a mirror that is not reported behind equals a from-scratch replay."""
    await lives(tmp_path, 40, 60)


@pytest.mark.long
async def test_a_mirror_equals_a_replay_of_the_canonical_chain_for_long(tmp_path: Path) -> None:
    """The same promise over many and longer lives."""
    await lives(tmp_path, 400, 150)
