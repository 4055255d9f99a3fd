"""The real daemon, sending for real, killed with SIGKILL at random moments and started again."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from keeper.demo import Daemon, wait_until_quiet
from keeper.devchain.scenario import Expected
from keeper.devchain.serve import OPERATOR
from keeper.devchain.world import Built
from keeper.journal.attempts import load
from keeper.journal.queries import Reader
from keeper.model import Attempt, AttemptState
from tests.e2e.test_daemon import Theatre, expected, theatre

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
KILLS = 6  # in one scene
LATEST = 4.5  # seconds after its start at which a daemon is killed at the latest: by then it has sent


def lives(scene: Theatre, rng: random.Random) -> None:
    """Prices fall; then `KILLS` daemons die, and one is left to finish."""
    # An attempt that another of ours in the same pool has failed is tried again while the scene lasts.
    text = scene.config.read_text()
    scene.config.write_text(text.replace("[strategy]", '[strategy]\ncooldown = "2s"', 1))
    daemon = Daemon(scene.config, scene.http, scene.folder / "daemon.log", live=True)
    try:
        daemon.start()
        daemon.ready(60)
        scene.stage.crash()
        for _ in range(KILLS):
            if rng.random() < 0.4:
                with scene.stage.lock:  # no block is mined: what was sent waits in the pool through the restart
                    time.sleep(rng.uniform(0.0, 0.5))
                    daemon.kill()
                    daemon.start()
            else:
                time.sleep(rng.uniform(0.0, LATEST))
                daemon.kill()
                daemon.start()
            if rng.random() < 0.5:
                daemon.ready(60)
        daemon.ready(60)
        wait_until_quiet(scene.journal, scene.stage.world.chain_id, scene.mode, scene.stage.watcher)
        assert daemon.stop() == 0, daemon.tail()
    finally:
        daemon.kill()


def check(scene: Theatre) -> int:
    """The journal against the chain; how many attempts there were."""
    scene.check_against_chain()
    reader = Reader(scene.journal, scene.stage.world.chain_id, scene.mode)
    try:
        attempts = reader.ask(lambda db: load(db, "1 ORDER BY created_at", ()))
    finally:
        reader.close()
    rpc = scene.stage.watcher
    pending = int(rpc.request("eth_getTransactionCount", OPERATOR, "pending"), 16)
    assert pending == scene.count(), "a nonce is stuck: something of ours still waits"

    known = {tx.hash: attempt for attempt in attempts for tx in attempt.txs}
    mined: dict[str, int] = {}  # attempt -> block
    for number in range(rpc.number() + 1):
        for tx in rpc.request("eth_getBlockByNumber", hex(number), True)["transactions"]:
            if tx["from"].lower() == OPERATOR and int(tx["nonce"], 16) >= scene.nonce:
                assert tx["hash"] in known, f"{tx['hash']} was sent, and the journal does not know it"
                attempt = known[tx["hash"]]
                assert attempt.id not in mined, "two transactions of one attempt were mined"
                mined[attempt.id] = number
    for attempt in attempts:
        landed = attempt.state in (AttemptState.MINED, AttemptState.REVERTED, AttemptState.CANCELLED)
        assert landed == (attempt.id in mined), (attempt.id, attempt.state, attempt.detail)

    positions: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.id in mined:
            positions[attempt.market, attempt.borrower].append(attempt)
    # One may still revert because another of ours traded in the same pool before it, but never one on its own position.
    for group in positions.values():
        group.sort(key=lambda attempt: mined[attempt.id])
        for earlier, later in pairwise(group):
            assert later.head_number >= mined[earlier.id], "two attempts on one position were out at once"
    taken = {a.borrower for a in attempts if a.state is AttemptState.MINED}
    assert taken == expected(Expected.LIQUIDATE), "not everything that pays was liquidated"
    return len(attempts)


def scenes(count: int, built: Built, folder: Path) -> None:
    attempts = 0
    for number in range(count):
        seed = SEED + number
        home = folder / str(number)
        home.mkdir()
        print(f"KEEPER_SEED={seed}")
        with theatre(built, home, live=True) as scene:
            lives(scene, random.Random(seed))
            attempts += check(scene)
    print(f"{count * KILLS} kills, {attempts} attempts, none sent twice, none forgotten, no nonce stuck")


def test_killed_while_sending(built: Built, tmp_path: Path) -> None:
    """Six kills at random moments: nothing is sent twice or forgotten, no nonce is stuck, the journal is the chain."""
    scenes(1, built, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_killed_a_hundred_times(built: Built, tmp_path: Path) -> None:
    """The same over 102 kills."""
    scenes(17, built, tmp_path)
