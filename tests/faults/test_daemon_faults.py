"""The real daemon, live, behind a node that misbehaves: it ends with a journal equal to the chain."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from keeper.demo import wait_until_quiet
from keeper.demo_table import tell
from keeper.devchain.world import Built
from tests.e2e.test_daemon import theatre
from tests.faults.kinds import KINDS, Kind
from tests.support.fault_proxy import Fault, in_thread

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
CHOSEN = (
    "answers dropped",
    "connection cut mid-frame",
    "half-open connection",
    "error dialects",
    "forked headers",
    "silent subscription",
    "logs missing",
    "nonce too high",
    "receipts vanish",
    "send: connection lost after taking it",
    "send: nonce too low, though taken",
)


def test_the_daemon_survives_what_its_node_does(built: Built, tmp_path: Path) -> None:
    """Faults come and go while twenty positions are liquidated: exit code 0, all taken, nothing twice."""
    endure(built, tmp_path, [kind for kind in KINDS if kind.name in CHOSEN], 0.8)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_daemon_survives_every_kind(built: Built, tmp_path: Path) -> None:
    """The same with every kind there is for a socket, two seconds each."""
    endure(built, tmp_path, [kind for kind in KINDS if "ws" in kind.transports], 2.0)


def endure(built: Built, folder: Path, kinds: list[Kind], seconds: float) -> None:
    rng = random.Random(SEED)
    with theatre(built, folder, live=True) as scene, in_thread(scene.anvil.http) as (proxy, disturb):
        text = scene.config.read_text().replace(scene.anvil.ws, proxy.ws)
        text = text.replace("[data]", 'request_timeout = "1s"\n\n[data]', 1)
        # An attempt that a fault has failed is tried again while the scene lasts.
        text = text.replace("[strategy]", '[strategy]\ncooldown = "2s"', 1)
        text += "\n[audit]\nevery = 5\n\n[breakers]\naudit_failures = 1_000\n"
        scene.config.write_text(text)
        daemon = scene.daemon()
        try:
            scene.stage.crash()
            order = [*kinds]
            rng.shuffle(order)
            for kind in order:
                disturb(kind.make(rng))
                time.sleep(seconds)
                disturb(Fault())
                time.sleep(seconds / 2)
            wait_until_quiet(scene.journal, scene.stage.world.chain_id, scene.mode, scene.stage.watcher)
            assert daemon.stop() == 0, daemon.tail()
        finally:
            daemon.kill()
        scene.check_against_chain()
        handed = {*proxy.handed}
        rows = tell(scene.journal, scene.mode, scene.stage.cast, scene.stage.world, scene.stage.watcher)
        attempts = scene.attempts()
    print(f"seed {SEED}: {len(kinds)} kinds, {len(attempts)} attempts, {len(handed)} transactions handed out")
    assert not [row for row in rows if not row.as_expected]
