"""The real daemon on a disk that takes nothing more, and beside another one with its key."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from keeper.demo import Daemon, free_port, wait_until_quiet
from keeper.devchain.serve import OPERATOR
from keeper.devchain.world import Built
from keeper.errors import Halt
from keeper.journal import journal_path
from keeper.journal.queries import AttemptRow, Reader, attempts
from tests.e2e.test_daemon import Theatre, theatre

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]


def ready(scene: Theatre, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{scene.http}/readyz", timeout=2).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise AssertionError("the daemon did not become ready")


def test_a_full_disk_ends_it_before_anything_is_sent(built: Built, tmp_path: Path) -> None:
    """No file may grow any more while it runs: it stops with the code of a Halt, nothing has left, and with space
    again it goes on where it was.
    """
    with theatre(built, tmp_path, live=True) as scene:
        command = [sys.executable, "-m", "keeper", "run", "--live", "--config", str(scene.config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said: list[bytes] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            ready(scene, process)
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))
            scene.stage.crash()
            assert process.wait(60) == Halt.exit_code
        finally:
            process.kill()
            process.wait(10)
            reader.join(10)
            process.stderr.close()
        last = said[-1].decode()
        assert "cannot be written" in last, said[-3:]
        assert "Traceback" not in b"".join(said).decode()
        assert scene.count() == scene.nonce, "something was sent that could not be written down"
        waiting = scene.stage.watcher.request("eth_getTransactionCount", OPERATOR, "pending")
        assert int(waiting, 16) == scene.nonce
        daemon = scene.daemon()
        try:
            wait_until_quiet(scene.journal, scene.stage.world.chain_id, scene.mode, scene.stage.watcher)
            assert daemon.stop() == 0, daemon.tail()
        finally:
            daemon.kill()
        scene.check_against_chain()
        assert [row for row in scene.attempts() if row.state == "mined"]


@pytest.mark.long
def test_two_keepers_with_one_key_and_two_journals(built: Built, tmp_path: Path) -> None:
    """A mistake nobody can forbid. Neither dies, no nonce sticks, and each journal is true of what its own keeper sent.

    What one finds spent by the other is dropped with that reason.
    """
    with theatre(built, tmp_path, live=True) as scene:
        chain, here = scene.stage.world.chain_id, free_port()
        other = tmp_path / "other.toml"
        text = scene.config.read_text().replace(scene.http.rpartition(":")[2], str(here))
        other.write_text(text.replace(str(tmp_path / "data"), str(tmp_path / "elsewhere")))
        assert "elsewhere" in other.read_text()
        daemons = [
            Daemon(scene.config, scene.http, tmp_path / "one.log", live=True),
            Daemon(other, f"http://127.0.0.1:{here}", tmp_path / "two.log", live=True),
        ]
        journals = [scene.journal, journal_path(tmp_path / "elsewhere" / f"chain-{chain}", chain, "live")]
        try:
            for daemon in daemons:
                daemon.start()
            for daemon in daemons:
                daemon.ready(90)
            scene.stage.crash()
            for journal in journals:
                wait_until_quiet(journal, chain, "live", scene.stage.watcher)
            for daemon in daemons:
                assert daemon.stop() == 0, daemon.tail()
        finally:
            for daemon in daemons:
                daemon.kill()
        rows = [rows_of(journal, chain) for journal in journals]
        rpc = scene.stage.watcher
        assert int(rpc.request("eth_getTransactionCount", OPERATOR, "pending"), 16) == scene.count()
        owners: dict[int, str] = {}
        for row in (row for mine in rows for row in mine):
            assert row.state in ("mined", "reverted", "cancelled", "dropped", "replaced"), row
            receipt = rpc.request("eth_getTransactionReceipt", row.tx_hash)
            assert (receipt is not None) == (row.state in ("mined", "reverted", "cancelled")), row
            if receipt is not None:
                assert (receipt["status"] == "0x0") == (row.state == "reverted")
                assert owners.setdefault(row.nonce, row.id) == row.id, "two mined at one nonce"
        assert set(owners) == set(range(scene.nonce, scene.count()))
        taken = [row.borrower for mine in rows for row in mine if row.state == "mined"]
        assert taken
        spent = [row for mine in rows for row in mine if "did not send" in row.detail]
        print(f"{[len(mine) for mine in rows]} attempts, {len(taken)} mined, {len(spent)} found spent by the other")


def rows_of(journal: Path, chain: int) -> list[AttemptRow]:
    reader = Reader(journal, chain, "live")
    try:
        return reader.ask(attempts)
    finally:
        reader.close()
