"""Whatever goes wrong, no secret comes out: of no command, no file and no probe."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from eth_account import Account

from keeper.devchain.world import Built
from keeper.model import address
from tests.e2e.test_daemon import Theatre, theatre
from tests.faults.kinds import KINDS
from tests.support.fault_proxy import Channel, Fault, Json, in_thread

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
_RNG = random.Random(SEED)
KEY = _RNG.randbytes(32).hex()
PASSWORD = "Canary Passw0rd: " + _RNG.randbytes(6).hex()
USER_PASSWORD = "canaryuserpw" + _RNG.randbytes(6).hex()
PATH = "canarypath" + _RNG.randbytes(8).hex()
QUERY = "canaryquery" + _RNG.randbytes(8).hex()
BORROWER = "0x" + "ab" * 20


def spellings() -> dict[str, bytes]:
    """What must not be found anywhere, by what it is."""
    found = {"key as a number": str(int(KEY, 16)).encode(), "key as bytes": bytes.fromhex(KEY), "key": KEY.encode()}
    for name, text in (("password", PASSWORD), ("user", USER_PASSWORD), ("path", PATH), ("query", QUERY)):
        raw = text.encode()
        found |= {name: raw, f"{name} as base64": base64.b64encode(raw)[:16], f"{name} as hex": raw.hex().encode()}
        found[f"{name}, quoted"] = quote(text).encode()
    return found


class Telltale(Fault):
    """A node that repeats in its errors what it was called with."""

    def __init__(self) -> None:
        self.url = f"https://user:{USER_PASSWORD}@node.example/{PATH}?key={QUERY}"

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if request["method"] in ("eth_chainId", "eth_call", "eth_getLogs"):
            message = f"project {PATH} with key={QUERY} may not call {self.url} (Authorization: Basic {USER_PASSWORD})"
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32000, "message": message}}
        return response

    async def deliver(self, channel: Channel, text: bytes) -> None:
        await channel.send(text)


def test_no_secret_ever_comes_out(built: Built, tmp_path: Path) -> None:
    """Canaries in every input: every command, also failing ones, every file it leaves, /status and /metrics."""
    found: list[str] = []
    ran: list[str] = []
    with theatre(built, tmp_path, live=False) as scene, in_thread(scene.anvil.http) as (proxy, disturb):
        plain = scene.config.read_text()
        secret = proxy.ws.replace("ws://", f"ws://user:{USER_PASSWORD}@") + f"/{PATH}?key={QUERY}"
        text = plain.replace(scene.anvil.ws, secret).replace(str(tmp_path / "operator.key"), str(tmp_path / "key"))
        good = write(tmp_path, text)
        scene.stage.watcher.request("anvil_setBalance", address(Account.from_key(KEY).address), hex(10**21))

        def keeper(*words: str, config: Path = good, more: Mapping[str, str] | None = None, codes: str = "") -> None:
            done = command(config, words, more or {})
            ran.append(f"{' '.join(words)}: {done.returncode}")
            found.extend(leaks(" ".join(words), done.stdout + done.stderr))
            assert done.returncode not in (1, 2), (words, done.stderr[-800:])
            assert not codes or str(done.returncode) in codes.split(), (words, done.returncode, done.stderr[-500:])

        keeper("--debug", "run", "--once", codes="0")
        keeper("scan", "--json", codes="0")
        keeper("doctor", "--json")
        keeper("config", "show", "--json", codes="0")
        keeper("report", "--json", codes="0")
        keeper("--debug", "deploy", "--yes", codes="0")
        keeper("explain", BORROWER, "--json", codes="0")
        # A node that tells on us, one that is not there, one of another chain.
        disturb(Telltale())
        time.sleep(0.1)
        keeper("--debug", "run", "--once")
        keeper("doctor", "--json")
        disturb(Fault())
        gone = write(tmp_path, text.replace(str(proxy.ws.rpartition(":")[2]) + "/", "1/"), "gone.toml")
        keeper("--debug", "scan", config=gone, codes="12")
        # Keys and passwords that are wrong in every way.
        bad = {"KEEPER__SIGNER__PRIVATE_KEY": KEY + "zz"}
        none = write(tmp_path, text.replace(f'private_key_file = "{tmp_path / "key"}"', ""), "none.toml")
        keeper("--debug", "run", "--live", config=none, more=bad, codes="10 11")
        store = tmp_path / "store.json"
        store.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), PASSWORD, iterations=2)))
        locked = write(
            tmp_path, text.replace("private_key_file", "keystore").replace('/key"', '/store.json"'), "l.toml"
        )
        for password in (PASSWORD, PASSWORD + "x"):
            keeper("--debug", "doctor", config=locked, more={"KEEPER__SIGNER__PASSWORD": password})
        keeper("--debug", "config", "validate", config=write(tmp_path, text + f'\npassword = "{PASSWORD}\n', "t.toml"))
        stray = {"KEEPER__SIGNER__PASWORD": PASSWORD, "KEEPER__CHAIN__ID": KEY, "KEEPER__TOKENS__CONNECTORS": KEY}
        keeper("--debug", "config", "validate", more=stray, codes="10")

        found += daemon_leaks(scene, good, disturb)
        for file in tmp_path.rglob("*"):
            inputs = ("key", "store.json", "operator.key")
            if file.is_file() and file.suffix != ".toml" and file.name not in inputs:
                found += leaks(str(file.relative_to(tmp_path)), file.read_bytes())
    assert leaks("a trap that works", good.read_bytes() + KEY.upper().encode())
    print(f"seed {SEED}: {len(ran)} commands ({'; '.join(ran)}), {len(spellings())} spellings")
    assert not found, "\n".join(found)


def daemon_leaks(scene: Theatre, config: Path, disturb: object) -> list[str]:
    """A running daemon through bad hours: its log, /status and /metrics."""
    assert callable(disturb)
    found: list[str] = []
    scene.config = config
    daemon = scene.daemon()
    try:
        rng = random.Random(SEED)
        for name in ("garbage", "connection cut mid-frame", "connections refused"):
            disturb(next(kind for kind in KINDS if kind.name == name).make(rng))
            time.sleep(0.7)
        disturb(Telltale())
        time.sleep(1.5)
        for path in ("/status", "/metrics", "/readyz", "/livez"):
            found += leaks(path, requests.get(f"{scene.http}{path}", timeout=5).content)
        disturb(Fault())
        assert daemon.stop() == 0, daemon.tail()
    finally:
        daemon.kill()
    return found + leaks("the daemon's log", daemon.log.read_bytes())


def command(config: Path, words: tuple[str, ...], more: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")}
    cache = {name: value for name, value in os.environ.items() if name == "KEEPER_CACHE"}
    return subprocess.run(
        [sys.executable, "-m", "keeper", *words, "--config", str(config)],
        capture_output=True,
        check=False,
        timeout=60,
        env=clean | cache | dict(more),
    )


def write(folder: Path, text: str, name: str = "canary.toml") -> Path:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text(KEY + "\n")
    path = folder / name
    path.write_text(text)
    return path


def leaks(where: str, content: bytes) -> list[str]:
    """Every secret in `content`, whatever its case."""
    lowered = content.lower()
    return [
        f"{what} in {where}: …{_around(content, raw)}…" for what, raw in spellings().items() if raw.lower() in lowered
    ]


def _around(content: bytes, raw: bytes) -> str:
    at = content.lower().find(raw.lower())
    return content[max(at - 120, 0) : at + 20].decode(errors="replace")
