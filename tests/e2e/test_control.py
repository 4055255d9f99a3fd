"""The running daemon under its operator's commands, over its socket, through a restart."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keeper.demo import BLOCK_TIME
from keeper.devchain.scenario import BORROWERS
from keeper.devchain.world import Built
from keeper.errors import CheckFailed
from keeper.journal.queries import Reader, decisions
from keeper.ops.control import Caller, socket_path
from tests.e2e.test_daemon import Theatre, theatre

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]

NOBODY = 65534


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def status(scene: Theatre) -> dict[str, Any]:
    """What the daemon says over its socket, as `keeper status` asks; empty while nobody answers."""
    try:
        caller = Caller.find(scene.journal.parent, scene.mode)
    except CheckFailed:
        return {}
    with closing(caller):
        return caller.ask("status")


def watched(scene: Theatre, lines: int) -> list[dict[str, Any]]:
    """The first lines of `keeper status --watch --json`, which goes on until it is interrupted."""
    command = [sys.executable, "-m", "keeper", "status", "--watch", "--json", "--config", str(scene.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(lines)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    return found


def reasons(scene: Theatre) -> set[str | None]:
    """Every reason for which the journal says something was left alone."""
    reader = Reader(scene.journal, scene.stage.world.chain_id, scene.mode)
    try:
        return {row.reason for row in reader.ask(lambda db: decisions(db, limit=100_000))}
    finally:
        reader.close()


def sock(scene: Theatre) -> Path:
    return socket_path(scene.journal.parent, scene.mode)


def check_strangers(scene: Theatre, folder: Path) -> None:
    """Another user gets neither through the folder nor to the socket, nor, were both open, an answer."""
    folder.chmod(0o755)
    script = (
        "import os, sys; from pathlib import Path; from keeper.ops.control import Caller;"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); Caller(Path(sys.argv[1])).ask('resume')"
    )

    def ask() -> str:
        command = [sys.executable, "-c", script, str(sock(scene))]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stderr

    assert "belongs to another user" in ask()
    sock(scene).parent.chmod(0o755)
    assert "belongs to another user" in ask()
    sock(scene).chmod(0o666)
    assert f"user {NOBODY} may not control" in ask()
    assert status(scene)["breakers"]


def test_a_paused_daemon_sends_nothing_until_it_is_resumed(built: Built, tmp_path: Path) -> None:
    """Paused by command, it watches, plans and records but sends nothing, also after kill -9; resumed, it goes on."""
    with theatre(built, tmp_path, live=True) as scene:
        daemon = scene.daemon()
        try:
            mode = sock(scene).lstat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert stat.S_IMODE(sock(scene).parent.stat().st_mode) == 0o700
            told = json.loads(scene.keeper("status", "--json").stdout)
            assert (told["paused"], told["mode"]) == (False, "live")
            paused = scene.keeper("pause", "--reason", "node upgrade")
            assert paused.returncode == 0, paused.stderr
            scene.stage.crash()
            until(lambda: "paused" in reasons(scene))
            time.sleep(BLOCK_TIME)
            assert scene.count() == scene.nonce
            assert not scene.attempts()
            explained = json.loads(scene.keeper("explain", BORROWERS[0].account, "--json").stdout)
            assert explained[0]["skip"]["reason"] == "paused"
            assert watched(scene, 2)[0]["pause_reason"] == "node upgrade"
            daemon.kill()  # leaves its socket behind
            assert scene.keeper("status").returncode == 11
            daemon.start()
            said = until(lambda: (found := status(scene)) and found["passes"] > 2 and found)
            assert (said["paused"], said["pause_reason"], said["mode"]) == (True, "node upgrade", "live")
            assert any("paused" in reason for reason in said["reasons"])
            assert "paused: node upgrade" in scene.keeper("status").stdout
            assert scene.count() == scene.nonce, "a paused keeper sent something"
            wrong = scene.keeper("resume", "no_such_breaker")
            assert wrong.returncode == 11
            assert "no_such_breaker" in wrong.stderr
            assert status(scene)["paused"]
            resumed = scene.keeper("resume")
            assert "lifted: pause" in resumed.stdout
            until(lambda: len(scene.attempts()) >= 5)
            assert not status(scene)["paused"]
            assert daemon.stop() == 0
            assert not sock(scene).exists()
        finally:
            daemon.kill()
        scene.check_against_chain()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="keeper-control-") as name:
        yield Path(name)


def test_a_breaker_stops_a_dry_run_until_it_is_reset(built: Built, public: Path) -> None:
    """An exposure limit trips by name, is shown, survives a restart, is reset by name, and never by another user."""
    with theatre(built, public, live=False) as scene:
        text = scene.config.read_text()
        scene.config.write_text(text + '\n[breakers]\nexposure_per_transaction = "1 wei"\n')
        daemon = scene.daemon()
        try:
            scene.stage.crash()
            said = until(lambda: (found := status(scene)) and found["breakers"] and found)
            assert "0.000000000 is allowed" in said["breakers"]["exposure_per_transaction"]
            assert not said["ready"]
            until(lambda: "breaker_open" in reasons(scene))
            assert not scene.attempts()
            assert daemon.stop() == 0
            scene.config.write_text(text)
            daemon.start()
            again = until(lambda: (found := status(scene)) and found["passes"] > 2 and found)
            assert again["breakers"] == said["breakers"]
            assert not scene.attempts()
            if os.geteuid() == 0:  # only root can become another user
                check_strangers(scene, public)
            assert "lifted: exposure_per_transaction" in scene.keeper("resume", "exposure_per_transaction").stdout
            until(scene.attempts)
            assert not status(scene)["breakers"]
            assert daemon.stop() == 0
        finally:
            daemon.kill()
