"""Bad input, as an operator meets it: the real command, one clear sentence, the documented exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from eth_account import Account

from keeper.devchain.anvil import Anvil
from keeper.devchain.serve import OPERATOR_KEY, awaken, write_config
from keeper.devchain.world import Built, World

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bad_input")]

EMPTY = "0x00000000000000000000000000000000000abcde"
JOURNAL = "journal-31337-dry.sqlite3"
CACHE = "mirrors.sqlite3"
LIMIT = 60  # seconds; more is a hang
Edit = Callable[[dict[str, Any]], None]


def toml(table: dict[str, Any], prefix: str = "") -> str:
    """A nested dictionary as TOML."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    text = (f"[{prefix}]\n" if prefix and plain else "") + "".join(line + "\n" for line in plain)
    for key, value in table.items():
        if isinstance(value, dict):
            text += toml(value, f"{prefix}.{key}" if prefix else key)
    return text


def put(path: str, value: Any) -> Edit:
    """An edit that sets one key; None removes it."""

    def edit(config: dict[str, Any]) -> None:
        *tables, key = path.split(".")
        for name in tables:
            config = config.setdefault(name, {})
        if value is None:
            config.pop(key)
        else:
            config[key] = value

    return edit


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def told(self, code: int, *words: str) -> None:
        """The documented code, and a last line that names what must change; no traceback, no secret."""
        assert self.code == code, self
        assert "Traceback" not in self.err + self.out, self
        assert "bug in the keeper" not in self.err, self
        said = self.err[self.err.rindex("keeper: ") :]
        for word in words:
            assert word in said, (word, said)
        assert OPERATOR_KEY[2:] not in self.err + self.out


class Desk:
    """A configured keeper beside a running chain."""

    def __init__(self, anvil: Anvil, world: World, folder: Path) -> None:
        self.anvil, self.world, self.folder = anvil, world, folder
        path = write_config(world, anvil, folder / "base.toml")
        self.base = tomllib.loads(path.read_text())
        self.base["chain"] |= {"max_head_age": "1h", "request_timeout": "3s"}
        self.base["ops"]["http_port"] = 0
        self.base.pop("signer")
        self._count = 0

    def config(self, *edits: Edit, data: Path | None = None) -> Path:
        """A configuration of its own, with a data folder of its own unless `data` is given."""
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        made: dict[str, Any] = json.loads(json.dumps(self.base))
        made["data"]["dir"] = str(data or folder / "data")
        for edit in edits:
            edit(made)
        path = folder / "keeper.toml"
        path.write_text(toml(made))
        return path

    def run(self, *words: str, config: Path, **environment: str) -> Ended:
        done = subprocess.run(
            command(*words, "--config", str(config)),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
            env=environ(**environment),
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def popen(self, *words: str, config: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*words, "--config", str(config)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ(),
        )


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "keeper", *words]


def environ(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")}
    return kept | {name: value for name, value in os.environ.items() if name == "KEEPER_CACHE"} | more


@pytest.fixture(scope="module")
def desk(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with built.start(impersonate=True) as anvil:
        awaken(anvil, built.world)
        yield Desk(anvil, built.world, tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def recorded(desk: Desk) -> Path:
    """The data folder of a keeper that has run."""
    config = desk.config()
    done = desk.run("run", "--once", config=config)
    assert done.code == 0, done
    return config.parent / "data"


class Node(BaseHTTPRequestHandler):
    """A gateway that spoils what the node behind it answers; configured by subclassing."""

    upstream = ""
    body: bytes | None = None  # answered to everything
    spoil: Callable[[dict[str, Any]], dict[str, Any] | None] = staticmethod(lambda call: None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.body if self.body is not None else json.dumps(self.answer(json.loads(raw))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def answer(self, asked: Any) -> Any:
        calls = asked if isinstance(asked, list) else [asked]
        answers = []
        for call in calls:
            spoilt = type(self).spoil(call)
            if spoilt is None:
                request = Request(self.upstream, json.dumps(call).encode(), {"Content-Type": "application/json"})
                with urlopen(request, timeout=10) as found:
                    answers.append(json.load(found))
            else:
                answers.append({"jsonrpc": "2.0", "id": call["id"], **spoilt})
        return answers if isinstance(asked, list) else answers[0]

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@contextmanager
def node(desk: Desk, **attributes: Any) -> Iterator[str]:
    """The URL of a spoilt node, with a key in its path."""
    handler = type("Spoilt", (Node,), {"upstream": desk.anvil.http} | attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/KEYINTHEPATH"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_every_wrong_key_is_named_at_once(desk: Desk) -> None:
    """File and environment: unknown, misspelt and malformed keys, the same contract twice, keys of another kind."""
    wrong = desk.config(
        put("strategy.proffit_floor", "1 ether"),
        put("strategy.max_gas_price", "30"),
        put("chain.id", "one"),
        put("signer", {"private_key": OPERATOR_KEY}),
    )
    ended = desk.run("run", config=wrong, KEEPER__CHAIN__BLOKTIME="1s", KEEPER_OPS__LOG_LEVEL="debug")
    ended.told(10, "strategy.proffit_floor", "did you mean strategy.profit_floor", "strategy.max_gas_price", "chain.id")
    ended.told(
        10, "KEEPER__CHAIN__BLOKTIME", "did you mean KEEPER__OPS__LOG_LEVEL", "signer.private_key must not stand"
    )
    missing = desk.config(put("signer", {"private_key_file": "/nowhere/key"}))
    ended = desk.run("run", config=missing)
    ended.told(10, "has 1 error", "signer.private_key_file", "No such file")
    twice = desk.config(put("venues.again", desk.base["venues"]["uniswap_v2"]))
    desk.run("config", "validate", config=twice).told(10, "venues.uniswap_v2 and venues.again are the same contract")
    fee = desk.config(put("venues.uniswap_v3.fee_bps", 25))
    desk.run("config", "validate", config=fee).told(10, "venues.uniswap_v3.fee_bps", "remove the key")


def test_every_wrong_contract_is_named_at_once(desk: Desk) -> None:
    """No code, another kind of contract, a start block to come: all in one sentence, before anything is read."""
    world = desk.world
    usdc = world.tokens["USDC"].address
    config = desk.config(
        put("markets.aave_v36.address", usdc),
        put("markets.aave_v302.start_block", 10**9),
        put("venues.uniswap_v2.address", EMPTY),
        put("venues.uniswap_v3.address", world.uniswap.v2_factory),
        put("tokens.wrapped_native", usdc),
        put("tokens.connectors", [world.uniswap.v3_factory]),
        put("executor.address", world.desk),
    )
    for words in (("run",), ("scan",)):
        ended = desk.run(*words, config=config)
        ended.told(10, "markets.aave_v36.address", "does not answer getPool()")
        ended.told(10, "markets.aave_v302.start_block", "newest block", "venues.uniswap_v2.address", "no contract")
        ended.told(10, "venues.uniswap_v3.address", "feeAmountTickSpacing", "tokens.wrapped_native", "6 decimals")
        ended.told(10, "tokens.connectors[0]", "decimals()", "executor.address", "not this version's executor")
    doctor = desk.run("doctor", "--json", config=config)
    doctor.told(11, "contracts")
    assert "markets.aave_v36.address" in next(
        check["text"] for check in json.loads(doctor.out)["checks"] if check["check"] == "deployments"
    )


def test_nodes_that_cannot_be_used(desk: Desk) -> None:
    """Wrong chain, nobody there, no JSON-RPC: the endpoint and the reason are named, its key is not."""
    desk.run("run", config=desk.config(put("chain.id", 1))).told(10, "is on chain 31337", "chain 1", "correct")
    dead = desk.config(put("chain.endpoints", ["http://127.0.0.1:1/KEYINTHEPATH"]))
    ended = desk.run("run", config=dead)
    ended.told(12, "http://127.0.0.1:1", "check that the node runs")
    with node(desk, body=b"<html>please log in</html>") as url:
        ended = desk.run("scan", config=desk.config(put("chain.endpoints", [url])))
    ended.told(12, "not JSON", "check that the node runs")
    assert "KEYINTHEPATH" not in ended.err
    assert "Unclosed" not in ended.err
    spare = desk.config(put("chain.endpoints", ["http://127.0.0.1:1", desk.anvil.http]))
    assert desk.run("scan", "--json", config=spare).code == 0


def test_nodes_that_lack_or_garble_history(desk: Desk) -> None:
    """A pruned node and one whose logs are malformed end in what is needed, never in an empty answer."""

    def pruned(call: dict[str, Any]) -> dict[str, Any] | None:
        old = call["method"] == "eth_getLogs" and int(call["params"][0].get("fromBlock", "0xffff"), 16) < 30
        return {"error": {"code": 4444, "message": "pruned history unavailable"}} if old else None

    def garbled(call: dict[str, Any]) -> dict[str, Any] | None:
        return {"result": [{"address": "?"}]} if call["method"] == "eth_getLogs" else None

    with node(desk, spoil=staticmethod(pruned)) as url:
        config = desk.config(put("chain.endpoints", [url]))
        ended = desk.run("run", "--once", config=config)
        doctor = desk.run("doctor", config=config)
    ended.told(12, "pruned history", "logs from block 4 on")
    doctor.told(11, "history")
    assert "KEYINTHEPATH" not in ended.err + doctor.out
    with node(desk, spoil=staticmethod(garbled)) as url:
        ended = desk.run("scan", "--json", config=desk.config(put("chain.endpoints", [url])))
    ended.told(12, "malformed log", "endpoint")
    assert not ended.out


def test_keys_that_do_not_open(desk: Desk, tmp_path: Path) -> None:
    """Locked, wrong password, not a keystore, not a key: said without a mask in the middle of the sentence."""
    keystore, password, key = tmp_path / "keystore.json", tmp_path / "password", tmp_path / "key"
    keystore.write_text(json.dumps(Account.encrypt(bytes.fromhex(OPERATOR_KEY[2:]), "correct horse", iterations=2)))
    password.write_text("battery staple\n")
    key.write_text("0x1234\n")

    def told(table: dict[str, str], *words: str) -> None:
        ended = desk.run("run", "--once", config=desk.config(put("signer", table)))
        ended.told(10, *words)
        assert "***" not in ended.err
        assert "battery" not in ended.err

    told({"keystore": str(keystore)}, "is locked: set signer.password_file")
    told({"keystore": str(keystore), "password_file": str(password)}, "check signer.password_file")
    told({"keystore": str(key), "password_file": str(password)}, "signer.keystore")
    told({"private_key_file": str(key)}, "64 hexadecimal digits")


def test_what_is_recorded_is_never_touched(desk: Desk, recorded: Path) -> None:
    """A damaged, foreign, newer or other chain's journal or cache is refused with its path, and left byte for byte."""

    def sql(name: str, statement: str) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            db = sqlite3.connect(folder / name)
            db.execute(statement)
            db.commit()
            db.close()

        return spoil

    def garble(name: str) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            raw = bytearray((folder / name).read_bytes())
            raw[4096:8192] = bytes(range(256)) * 16
            (folder / name).write_bytes(raw)

        return spoil

    def foreign(folder: Path) -> None:
        (folder / JOURNAL).write_bytes(b"not a database" * 500)

    cases = (
        (JOURNAL, garble(JOURNAL), "is damaged"),
        (JOURNAL, foreign, "is not a keeper journal"),
        (JOURNAL, sql(JOURNAL, "PRAGMA user_version = 99"), "schema 99"),
        (JOURNAL, sql(JOURNAL, "UPDATE meta SET value = '1' WHERE key = 'chain_id'"), "belongs to chain 1"),
        (CACHE, garble(CACHE), "damaged"),
        (CACHE, sql(CACHE, "UPDATE chain SET id = 1"), "belongs to chain 1"),
    )
    for number, (name, spoil, word) in enumerate(cases):
        data = desk.folder / f"spoilt-{number}"
        shutil.copytree(recorded, data)
        folder = data / "chain-31337"
        spoil(folder)
        before = {path.name: path.read_bytes() for path in folder.glob("*.sqlite3")}
        config = desk.config(data=data)
        desk.run("run", "--once", config=config).told(10, name, word)
        if word.endswith("damaged"):
            desk.run("doctor", config=config).told(11, "journal" if name == JOURNAL else "cache")
        assert {path.name: path.read_bytes() for path in folder.glob("*.sqlite3")} == before


def test_places_that_cannot_be_used(desk: Desk, tmp_path: Path) -> None:
    """A data folder that is a file, a port in use, a second keeper on one journal, no journal to report on."""
    (tmp_path / "file").write_text("x")
    desk.run("run", config=desk.config(data=tmp_path / "file")).told(10, "data.dir")
    desk.run("report", config=desk.config()).told(10, "does not exist yet", "run the keeper first")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = desk.config(put("ops.http_port", taken.getsockname()[1]))
        desk.run("run", config=busy).told(10, "already in use", "ops.http_port")
        done = subprocess.run(
            command("devchain", "--config", str(tmp_path / "dev.toml"), "--port", str(taken.getsockname()[1])),
            capture_output=True, text=True, check=False, timeout=LIMIT, env=environ(),
        )  # fmt: skip
        Ended(done.returncode, done.stdout, done.stderr).told(10, "already in use", "choose another")
    config = desk.config()
    first = desk.popen("run", config=config)
    try:
        journal = config.parent / "data" / "chain-31337" / JOURNAL
        deadline = time.monotonic() + LIMIT
        while not journal.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        desk.run("run", config=config).told(10, "already written to by process", str(first.pid))
        first.send_signal(signal.SIGTERM)
        assert first.wait(LIMIT) == 0
    finally:
        first.kill()
        first.communicate()


def test_the_private_chain_says_what_is_missing(tmp_path: Path) -> None:
    """Without node on PATH, or with a cache that cannot be written, `demo` ends at once and says so."""
    for environment, word in (
        ({"KEEPER_CACHE": str(tmp_path / "cache")}, "node is not on PATH: install Node"),
        ({"KEEPER_CACHE": "/proc/cache"}, "set KEEPER_CACHE"),
    ):
        done = subprocess.run(
            command("demo"), capture_output=True, text=True, check=False, timeout=LIMIT,
            env={"PATH": "/nonexistent", "HOME": str(tmp_path)} | environment,
        )  # fmt: skip
        Ended(done.returncode, done.stdout, done.stderr).told(10, word)


def test_signals_are_heard_before_anything_is_imported(desk: Desk) -> None:
    """A daemon told to stop in its first second ends with 0, as at any later time; a question ends with 143."""
    cases = ((("run",), signal.SIGTERM, 0), (("run",), signal.SIGINT, 0), (("scan",), signal.SIGTERM, 143))
    for words, number, code in cases:
        process = desk.popen(*words, config=desk.config())
        proc, deadline = Path(f"/proc/{process.pid}"), time.monotonic() + LIMIT
        while not caught(proc, signal.SIGTERM) and time.monotonic() < deadline:
            time.sleep(0.001)
        early = "numpy" not in (proc / "maps").read_text()
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT)
        assert early, "the handler came only after the imports"
        assert (process.returncode, err) == (code, "")


def caught(proc: Path, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    masks = dict(line.split(":\t") for line in (proc / "status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(masks["SigCgt"], 16) >> (number - 1) & 1)


def test_an_interrupted_start_is_quiet(desk: Desk) -> None:
    """SIGTERM and SIGINT at any moment of the start: no traceback, and once signals are handled, exit 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        for delay in (0.1, 0.7, 1.4):
            process = desk.popen("run", config=desk.config())
            time.sleep(delay)
            process.send_signal(number)
            try:
                _, err = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
            assert "Traceback" not in err, err
            assert process.returncode in (0, 130, -number), (process.returncode, err)
            if '"started"' in err:
                assert process.returncode == 0


def test_json_parses_and_a_closed_pipe_is_fine(desk: Desk, recorded: Path) -> None:
    """Every --json is one document whose amounts are decimal strings; `| head -1` ends without a word on stderr."""
    config = desk.config(data=recorded)
    borrower = "0x" + "5b" * 20
    commands = (("scan",), ("explain", borrower), ("doctor",), ("report",), ("config", "show"))
    for words in commands:
        done = desk.run(*words, "--json", config=config)
        assert done.code == 0, done
        found = json.loads(done.out)
        if words == ("scan",):
            row = found["borrowers"][0]
            assert all(row[name].isdecimal() for name in ("health_factor", "collateral_value", "debt_value"))
        if words == ("report",):
            assert found["net"] == "0"
        if words not in (("scan",), ("doctor",)):
            continue
        line = " ".join(command(*words, "--config", str(config)))
        piped = subprocess.run(
            f"{line} | head -1", shell=True, capture_output=True, text=True, check=True, timeout=LIMIT, env=environ()
        )
        assert piped.stdout
        assert not piped.stderr


def test_the_least_configuration_works_over_every_transport(desk: Desk, built: Built, tmp_path: Path) -> None:
    """What the README shows, with all else at its default, over WebSocket, HTTP and IPC, and with a dead spare."""
    base = desk.base
    least = {
        "chain": {"id": 31337, "endpoints": []},
        "tokens": {"wrapped_native": base["tokens"]["wrapped_native"]},
        "markets": {"aave": base["markets"]["aave_v36"]},
        "venues": {"uniswap_v3": base["venues"]["uniswap_v3"]},
    }
    socket_path = tmp_path / "node.ipc"
    anvil = built.start(impersonate=True)
    anvil._options += ["--ipc", str(socket_path)]
    with anvil:
        actors = awaken(anvil, built.world)
        found = []
        for number, endpoints in enumerate(
            ([anvil.ws], [anvil.http], [str(socket_path)], ["ws://127.0.0.1:1", anvil.http])
        ):
            least["chain"]["endpoints"] = endpoints
            config = tmp_path / f"{number}.toml"
            config.write_text(toml(least))
            home = {"HOME": str(tmp_path / str(number)), "KEEPER__OPS__HTTP_PORT": "0"}
            actors.mine()
            scanned = desk.run("scan", "--json", config=config, **home)
            assert scanned.code == 0, scanned
            found.append(len(json.loads(scanned.out)["borrowers"]))
        assert found == [1, 1, 1, 1]
        once = desk.run("run", "--once", config=config, **home)
        assert once.code == 0, once
