"""The demo and the rehearsal: the real daemon, in a process of its own, through a crash on the private chain."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from keeper.demo_table import tell
from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil, ChainFailed
from keeper.devchain.cast import Member, freeze, stage_others
from keeper.devchain.comet import CometMarket, config_lines
from keeper.devchain.rpc import Rpc
from keeper.devchain.scenario import Borrower, crash, stage
from keeper.devchain.serve import awaken, tick, write_config
from keeper.devchain.world import World, ensure_world
from keeper.errors import CheckFailed, KeeperError
from keeper.journal.journal import journal_path
from keeper.journal.queries import Reader, attempts
from keeper.model import Address
from keeper.ops.views import DemoView

BLOCK_TIME = 1.0  # seconds
PATIENCE = 120.0  # seconds for everything that can be liquidated to be liquidated
QUIET_BLOCKS = 6  # blocks without a new attempt after which the show is over

Say = Callable[[str], None]


class Stage:
    """A private chain that mines by itself, with borrowers on it. `lock` keeps the miner out of a scene.

    The miner has a connection of its own, which no other thread may use; `watcher` is for everybody else. With
    `comet_model`, a Solidity file, there is a Comet-like market too.
    """

    def __init__(self, anvil: Anvil, world: World, comet_model: Path | None = None) -> None:
        self.anvil = anvil
        self.world = world
        self.cast: tuple[Borrower | Member, ...] = ()
        self.comet: CometMarket | None = None
        self._model = comet_model
        self.watcher = Rpc(anvil.http)
        self.actors: Actors = awaken(anvil, world)
        self.lock = threading.Lock()
        self._ending = threading.Event()
        self._miner = threading.Thread(target=self._mine, name="miner", daemon=True)

    def open_positions(self) -> None:
        """Borrowers, all of them healthy."""
        with self.lock:
            self.cast = stage(self.world, self.anvil.rpc, wall_clock=True)
            self.actors = Actors(self.anvil.rpc, self.world, wall_clock=True)
            others, self.comet = stage_others(self.actors, self._model)
            self.cast += others

    def crash(self) -> None:
        """Pools and feeds fall, and one oracle stands still where nobody would pay its price."""
        with self.lock:
            crash(self.world, self.anvil.rpc, wall_clock=True)
            freeze(self.actors)

    @contextmanager
    def mining(self) -> Iterator[None]:
        """A block every `BLOCK_TIME` seconds while inside."""
        self._miner.start()
        try:
            yield
        finally:
            self._ending.set()
            self._miner.join(timeout=10)
            self.watcher.close()

    def _mine(self) -> None:
        while not self._ending.wait(BLOCK_TIME):
            with self.lock:
                try:
                    tick(self.actors)
                except (OSError, http.client.HTTPException):
                    if self.anvil.running():
                        raise
                    return  # whoever waits for a block finds the same


@dataclass(slots=True)
class Daemon:
    """`keeper run` as a child process."""

    config: Path
    http: str
    log: Path
    live: bool
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its log goes to `log`."""
        command = [sys.executable, "-m", "keeper", "run", "--config", str(self.config)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command + (["--live"] if self.live else []),
                stdout=out,
                stderr=out,
                env=_environment(),
                start_new_session=True,
            )

    def ready(self, seconds: float) -> None:
        """Wait until it says it would act; raises CheckFailed with the end of its log when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            if self._ask("/readyz") is not None:
                return
            time.sleep(0.1)
        raise CheckFailed(f"the daemon did not become ready; the end of {self.log}:\n{self.tail()}")

    def status(self) -> Mapping[str, object]:
        """What `/status` says; empty while it does not answer."""
        return self._ask("/status") or {}

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; its exit code. Raises CheckFailed when it does not end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise CheckFailed(f"the daemon did not stop within {seconds:.0f} s of SIGTERM:\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL, as a machine that loses power; nothing when it has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _ask(self, path: str) -> Mapping[str, object] | None:
        try:
            answer = requests.get(f"{self.http}{path}", timeout=2)
        except requests.RequestException:
            return None
        found: Mapping[str, object] = answer.json()
        return found if answer.ok else None


def perform(
    directory: Path | None, *, live: bool = True, comet_model: Path | None = None, say: Say = lambda line: None
) -> DemoView:
    """Everything from an empty directory to the table; raises CheckFailed when one ends otherwise than expected."""
    began = time.monotonic()
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="keeper-demo-") as name:
            return _perform(Path(name), live, comet_model, say, began)
    return _perform(directory, live, comet_model, say, began)


def _perform(directory: Path, live: bool, comet_model: Path | None, say: Say, began: float) -> DemoView:
    built = ensure_world()
    with built.start(impersonate=True) as anvil, _blaming(anvil):
        theatre = Stage(anvil, built.world, comet_model)
        what = "Aave V3.6, Aave V3.0.2, Morpho Blue, Uniswap V2 and V3"
        say(f"private chain {built.world.chain_id} with {what} at {anvil.http}")
        theatre.open_positions()
        said = "" if theatre.comet is None else ", some of them in a model of Compound V3"
        say(f"{len(theatre.cast)} borrowers have opened positions{said}; all are healthy")
        more = "" if theatre.comet is None else config_lines(theatre.comet)
        with theatre.mining():
            port = free_port()
            config = directory / "keeper.toml"
            write_config(built.world, anvil, config, block_time=BLOCK_TIME, http_port=port, more=more)
            executor = deploy(config)
            write_config(
                built.world, anvil, config, block_time=BLOCK_TIME, http_port=port, executor=executor, more=more
            )
            say(f"the executor is deployed at {executor}")
            daemon = Daemon(config, f"http://127.0.0.1:{port}", directory / "daemon.log", live)
            daemon.start()
            try:
                daemon.ready(60)
                say(f"the daemon is watching ({'live' if live else 'dry run'}); now prices fall")
                theatre.crash()
                mode = "live" if live else "dry"
                journal = journal_path(directory / "data" / f"chain-{built.world.chain_id}", built.world.chain_id, mode)
                wait_until_quiet(journal, built.world.chain_id, mode, theatre.watcher)
                code = daemon.stop()
                if code != 0:
                    raise CheckFailed(f"the daemon ended with exit code {code}:\n{daemon.tail()}")
            finally:
                daemon.kill()
            rows = tell(journal, mode, theatre.cast, built.world, theatre.watcher)
    view = DemoView(built.world.chain_id, mode, time.monotonic() - began, rows)
    wrong = [f"{row.label}: expected {row.expected}, but {row.done}" for row in rows if not row.as_expected]
    if wrong:
        raise CheckFailed("the demo did not end as it should: " + "; ".join(wrong))
    return view


@contextmanager
def _blaming(anvil: Anvil) -> Iterator[None]:
    """Whatever fails inside because the private chain has ended is told as that: raises ChainFailed."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError, KeeperError) as error:
        if anvil.running():
            raise
        raise ChainFailed("anvil ended by itself while the demo ran: start the demo again") from error


def deploy(config: Path) -> Address:
    """`keeper deploy --yes` as a child process; the executor's address."""
    done = subprocess.run(
        [sys.executable, "-m", "keeper", "deploy", "--yes", "--config", str(config)],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
        timeout=120,
    )
    words = [word.strip(".,;:") for word in done.stdout.split() if word.startswith("0x")]
    if done.returncode != 0 or not words:
        raise CheckFailed(f"the executor could not be deployed: {done.stderr.strip() or done.stdout.strip()}")
    return Address(words[0].lower())


def wait_until_quiet(journal: Path, chain_id: int, mode: str, rpc: Rpc) -> None:
    """Until no attempt is open and none has been added for a few blocks; raises CheckFailed after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    count, since = 0, rpc.number()
    while time.monotonic() < deadline:
        time.sleep(BLOCK_TIME / 2)
        reader = Reader(journal, chain_id, mode)
        try:
            rows = reader.ask(attempts)
        finally:
            reader.close()
        number = rpc.number()
        if len(rows) != count or any(row.state in ("intent", "signed", "sent") for row in rows):
            count, since = len(rows), number
        elif count and number - since >= QUIET_BLOCKS:
            return
    raise CheckFailed(f"after {PATIENCE:.0f} s there were still new attempts: {count} in all")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """The caller's environment without settings that would change the demo."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")} | {
        name: value for name, value in os.environ.items() if name == "KEEPER_CACHE"
    }
