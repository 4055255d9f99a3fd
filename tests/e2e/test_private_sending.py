"""The real daemon as a process of its own, with a relay as its only way to a block."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest

from keeper.demo import Stage, wait_until_quiet
from keeper.demo_table import tell
from keeper.devchain.rpc import Rpc
from keeper.devchain.scenario import Expected
from keeper.devchain.world import Built
from tests.e2e.test_daemon import Theatre, expected
from tests.support.relay_server import RelayServer

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.xdist_group("daemon")]


class Builder(threading.Thread):
    """A relay server and its blocks, one a second, beside the test."""

    def __init__(self, stage: Stage, url: str) -> None:
        super().__init__(name="builder", daemon=True)
        self._stage = stage
        self._url = url
        self.ready = threading.Event()
        self.ending = threading.Event()
        self.server: RelayServer | None = None
        self.bundled: set[str] = set()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        with closing(Rpc(self._url)) as rpc:
            await self._build(rpc)

    async def _build(self, rpc: Rpc) -> None:
        async with RelayServer(rpc, wall_clock=True) as self.server:
            self.ready.set()
            while not self.ending.is_set():
                await asyncio.sleep(1)
                with self._stage.lock:
                    self.bundled.update(self.server.build().included)


def test_everything_that_pays_is_taken_through_the_relay(built: Built, tmp_path: Path) -> None:
    """The demo's crash with `[relays]`: the same borrowers are liquidated, every one in a bundle, none in public."""
    with built.start(impersonate=True) as anvil:
        stage = Stage(anvil, built.world)
        stage.open_positions()
        builder = Builder(stage, anvil.http)
        builder.start()
        try:
            assert builder.ready.wait(20)
            assert builder.server is not None
            scene = Theatre(anvil, stage, tmp_path, live=True)
            extra = f'\n[relays.builder]\nurl = "{builder.server.url}"\n\n[private]\ntimeout = "5s"\n'
            scene.config.write_text(scene.config.read_text() + extra)
            daemon = scene.daemon()
            try:
                stage.crash()
                wait_until_quiet(scene.journal, stage.world.chain_id, scene.mode, stage.watcher)
                assert daemon.stop() == 0
            finally:
                daemon.kill()
            rows = tell(scene.journal, scene.mode, stage.cast, stage.world, stage.watcher)
            assert not [row for row in rows if not row.as_expected]
            assert {row.borrower for row in rows if row.done == "liquidated"} == expected(Expected.LIQUIDATE)
            mined = {row.tx_hash for row in scene.attempts() if row.state in ("mined", "reverted")}
            assert mined
            assert mined <= builder.bundled
            assert {row.state for row in scene.attempts()} <= {"mined", "dropped", "replaced"}
            assert builder.server.forged == 0
        finally:
            builder.ending.set()
            builder.join(10)
            stage.watcher.close()
