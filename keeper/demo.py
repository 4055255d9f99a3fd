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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil, ChainFailed
from keeper.devchain.rpc import Rpc
from keeper.devchain.scenario import BORROWERS, Borrower, Expected, crash, stage
from keeper.devchain.serve import awaken, tick, write_config
from keeper.devchain.world import World, ensure_world
from keeper.errors import CheckFailed, KeeperError
from keeper.journal.journal import journal_path
from keeper.journal.queries import AttemptRow, DecisionRow, Reader, attempts, decisions
from keeper.model import Address
from keeper.ops.views import DemoRow, DemoView

BLOCK_TIME = 1.0  # seconds
PATIENCE = 120.0  # seconds for everything that can be liquidated to be liquidated
QUIET_BLOCKS = 6  # blocks without a new attempt after which the show is over

Say = Callable[[str], None]


class Stage:
    """A private chain that mines by itself, with borrowers on it. `lock` keeps the miner out of a scene.

    The miner has a connection of its own, which no other thread may use; `watcher` is for everybody else.
    """

    def __init__(self, anvil: Anvil, world: World) -> None:
        self.anvil = anvil
        self.world = world
        self.watcher = Rpc(anvil.http)
        self.actors: Actors = awaken(anvil, world)
        self.lock = threading.Lock()
        self._ending = threading.Event()
        self._miner = threading.Thread(target=self._mine, name="miner", daemon=True)

    def open_positions(self) -> None:
        """Borrowers, all of them healthy."""
        with self.lock:
            stage(self.world, self.anvil.rpc, wall_clock=True)
            self.actors = Actors(self.anvil.rpc, self.world, wall_clock=True)

    def crash(self) -> None:
        """Pools and feeds fall."""
        with self.lock:
            crash(self.world, self.anvil.rpc, wall_clock=True)

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


def perform(directory: Path | None, *, live: bool = True, say: Say = lambda line: None) -> DemoView:
    """Everything from an empty directory to the table; raises CheckFailed when one ends otherwise than expected."""
    began = time.monotonic()
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="keeper-demo-") as name:
            return _perform(Path(name), live, say, began)
    return _perform(directory, live, say, began)


def _perform(directory: Path, live: bool, say: Say, began: float) -> DemoView:
    built = ensure_world()
    with built.start(impersonate=True) as anvil, _blaming(anvil):
        theatre = Stage(anvil, built.world)
        say(f"private chain {built.world.chain_id} with Aave V3.6, Aave V3.0.2, Uniswap V2 and V3 at {anvil.http}")
        theatre.open_positions()
        say(f"{len(BORROWERS)} borrowers have opened positions; all are healthy")
        with theatre.mining():
            port = free_port()
            config = directory / "keeper.toml"
            write_config(built.world, anvil, config, block_time=BLOCK_TIME, http_port=port)
            executor = deploy(config)
            write_config(built.world, anvil, config, block_time=BLOCK_TIME, http_port=port, executor=executor)
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
            rows = tell(journal, built.world, mode, theatre.watcher)
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


def tell(journal: Path, world: World, mode: str, rpc: Rpc) -> tuple[DemoRow, ...]:
    """One row per borrower, from the journal alone but for the final health, which the pool itself is asked."""
    reader = Reader(journal, world.chain_id, mode)
    try:
        done: Sequence[AttemptRow] = reader.ask(attempts)
        seen: Sequence[DecisionRow] = reader.ask(lambda db: decisions(db, limit=100_000))
    finally:
        reader.close()
    actors = Actors(rpc, world)
    return tuple(_row(borrower, world, done, seen, actors) for borrower in BORROWERS)


def _row(
    borrower: Borrower, world: World, done: Sequence[AttemptRow], seen: Sequence[DecisionRow], actors: Actors
) -> DemoRow:
    mine = [row for row in done if row.borrower == borrower.account and row.market == borrower.market]
    mined = [row for row in mine if row.state == "mined"]
    dry = [row for row in mine if row.state == "dropped" and row.signer and row.block_number is None]
    skips = [
        row for row in seen
        if row.borrower == borrower.account and row.market == borrower.market and row.reason is not None
    ]  # fmt: skip
    standing = actors.standing(world.markets[borrower.market], borrower.account)
    first = min(mine, key=lambda row: (row.head_number, row.nonce), default=None)
    before = int(first.plan["health_factor"]) if first else standing.health_factor
    predicted = realised = None
    if mined:
        state, detail = "liquidated", _what(mined)
        predicted = sum(row.predicted_net for row in mined)
        realised = sum(row.net or 0 for row in mined)
    elif dry:
        state, detail = "would liquidate", _what(dry)
        predicted = sum(row.predicted_net for row in dry)
    elif skips:
        state, detail = str(skips[0].reason), skips[0].detail
    else:
        state, detail = "healthy", borrower.why
    return DemoRow(
        market=borrower.market,
        borrower=borrower.account,
        label=borrower.label,
        expected=str(borrower.expected),
        as_expected=_as_expected(borrower.expected, state),
        health_factor=before,
        health_after=standing.health_factor,
        done=state,
        detail=detail,
        predicted_net=predicted,
        realised_net=realised,
        tx_hash=mined[0].tx_hash if mined else None,
    )


def _what(rows: Sequence[AttemptRow]) -> str:
    pairs = [f"{row.plan['debt']} debt for {row.plan['collateral']}, {row.plan['funding']}" for row in reversed(rows)]
    return "; ".join(dict.fromkeys(pairs)) + (f" ({len(rows)} times)" if len(rows) > 1 else "")


def _as_expected(expected: Expected, state: str) -> bool:
    taken = state in ("liquidated", "would liquidate")
    match expected:
        case Expected.LIQUIDATE:
            return taken
        case Expected.UNPROFITABLE:
            return state in ("unprofitable", "profit_floor")
        case Expected.BARRED:
            return state == "no_pair"
        case Expected.REFUSED:
            return state == "oracle_gap"
        case Expected.HEALTHY:
            return state == "healthy"


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
