"""anvil as a child process: found on PATH or in the pinned npm package, on a free port, ended by its own pid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from keeper.devchain.rpc import Rpc
from keeper.devchain.solc import ROOT
from keeper.errors import ConfigError, KeeperError

CHAIN_ID = 31337
BLOCK_GAS_LIMIT = 60_000_000

_PACKAGED = Path("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
_LISTENING = re.compile(r"^Listening on 127\.0\.0\.1:(\d+)", re.MULTILINE)
_START_SECONDS = 60.0


class ChainFailed(KeeperError):
    """anvil did not start or ended by itself: something on this machine must be changed."""

    exit_code = ConfigError.exit_code


def find_anvil() -> str:
    """The anvil binary to run; raises ConfigError saying what to install when there is none."""
    found = shutil.which("anvil")
    if found is not None:
        return found
    packaged = ROOT / _PACKAGED
    if os.access(packaged, os.X_OK):
        return str(packaged)
    if not (ROOT / "package.json").exists():
        raise ConfigError(
            "the private chain is made in a checkout of the keeper, and this is an installed copy: use a clone"
        )
    raise ConfigError(
        f"anvil was found neither on PATH nor at {packaged}: run `make install`, or install Foundry (https://getfoundry.sh)"
    )


class Anvil:
    """A private chain, as a context manager. Attributes `port`, `http`, `ws`, `rpc` and `pid` are valid while it runs.

    `block_time` mines every so many seconds; `automine` mines each transaction as it arrives; with neither (the
    default) a block comes only when it is asked for, which is what makes a run repeatable. `impersonate` lets
    eth_sendTransaction speak for any account. `network` is a family with rules of its own ("optimism").
    """

    def __init__(
        self,
        *,
        port: int = 0,
        chain_id: int | None = CHAIN_ID,
        accounts: int = 10,
        block_time: int | None = None,
        automine: bool = False,
        impersonate: bool = False,
        timestamp: int | None = None,
        base_fee: int | None = None,
        gas_limit: int = BLOCK_GAS_LIMIT,
        fork_url: str | None = None,
        fork_block: int | None = None,
        cache_fork: bool = False,
        load_state: Path | None = None,
        dump_state: Path | None = None,
        network: str | None = None,
    ) -> None:
        options: list[str] = ["--host", "127.0.0.1", "--port", str(port), "--accounts", str(accounts)]
        options += ["--order", "fifo", "--gas-limit", str(gas_limit), "--no-request-size-limit"]
        options += [] if chain_id is None else ["--chain-id", str(chain_id)]
        if block_time is not None:
            options += ["--block-time", str(block_time)]
        elif not automine:
            options += ["--no-mining"]
        options += ["--auto-impersonate"] if impersonate else []
        options += [] if timestamp is None else ["--timestamp", str(timestamp)]
        options += [] if base_fee is None else ["--block-base-fee-per-gas", str(base_fee)]
        if fork_url is not None:
            options += ["--fork-url", fork_url, "--no-rate-limit"]
            options += [] if fork_block is None else ["--fork-block-number", str(fork_block)]
            # anvil's disk cache is keyed by chain id and number only: two private chains would poison each other.
            options += [] if cache_fork else ["--no-storage-caching"]
        options += [] if load_state is None else ["--load-state", str(load_state)]
        options += [] if dump_state is None else ["--dump-state", str(dump_state)]
        options += [] if network is None else ["--network", network]
        self._options = options
        self._wanted_port = port
        self._fork_url = fork_url
        self._loaded = load_state is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None  # its log, and the states of old blocks, which it leaves lying about
        self.port = 0

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until it answers; raises ConfigError without a binary, ChainFailed when it does not."""
        binary = find_anvil()
        self._folder = Path(tempfile.mkdtemp(prefix="anvil-"))
        command = [binary, *self._options, "--cache-path", str(self._folder)]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            self.port = self._await_port()
            self.rpc = Rpc(self.http)
            head = self.rpc.block()
            if self._loaded:
                # anvil starts a loaded chain at the wall clock; going on from its head makes runs repeatable.
                self.rpc.request("evm_setTime", int(head["timestamp"], 16))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process (its state is dumped first when that was asked for); safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if hasattr(self, "rpc"):
            self.rpc.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def running(self) -> bool:
        """True until the process has ended."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return self._folder / "log"

    def _await_port(self) -> int:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            text = self._log.read_text(errors="replace")
            found = _LISTENING.search(text)
            if found:
                return int(found[1])
            code = self._process.poll()
            if code is not None:
                raise ChainFailed(self._explain(code, text))
            time.sleep(0.01)
        raise ChainFailed(f"anvil did not listen within {_START_SECONDS:.0f} s: is the machine overloaded?")

    def _explain(self, code: int, text: str) -> str:
        if "Address already in use" in text or "address already in use" in text:
            return f"port {self._wanted_port} is already in use: choose another one for the private chain"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("Error")), lines[-1] if lines else "nothing")
        if self._fork_url is not None:
            said = said.replace(self._fork_url, "<the forked endpoint>")  # it may carry a key
        return f"anvil ended at once with code {code} and said: {said[:300]}"
