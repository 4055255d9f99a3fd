"""What the doctor says of relays, their streams and remote signers: of real ones, hostile ones, and of nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from keeper.checkup import diagnose
from keeper.config import Config, load
from keeper.devchain.anvil import Anvil
from keeper.model import checksum
from keeper.ops.doctor import Check, Level, Report, examine
from keeper.sending_checks import UNREACHABLE_NONCE, sending_checks
from tests.parity.test_execution_remote_signer import ME, OTHER, SECRET, Web3Signer, signed
from tests.support.relay_server import RelayServer

pytestmark = pytest.mark.parity

BASE = """
[chain]
id = 8453
endpoints = ["ws://127.0.0.1:1"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 16291000
[private]
timeout = "300ms"
"""
KEYED = {"KEEPER__PRIVATE__SIGNING_KEY": "0x" + "17" * 32}


def configured(folder: Path, text: str = "", environment: dict[str, str] = KEYED) -> Config:
    path = folder / "keeper.toml"
    path.write_text(BASE + text)
    return load(path, environment)


async def asked(config: Config) -> dict[str, tuple[Level, str]]:
    checks: list[Check] = sending_checks(config)
    report: Report = await examine(checks)
    for result in report.results:
        assert SECRET not in result.finding.text + result.finding.fix
        assert (result.finding.fix == "") == (result.finding.level is Level.OK)
    return {result.name: (result.finding.level, result.finding.text) for result in report.results}


def relay(name: str, url: str, more: str = "") -> str:
    return f'[relays.{name}]\nurl = "{url}/{SECRET}"\n{more}'


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("offer", ["bundle", "transaction", "mev_share"])
async def test_a_relay_that_listens(anvil: Anvil, tmp_path: Path, offer: str) -> None:
    """A harmless signed question, whatever it says to it; a random key is worth a word."""
    async with RelayServer(anvil.rpc, offers_cancel=offer == "bundle") as server:
        text = f'[relays.one]\nurl = "{server.url}"\noffer = "{offer}"\n'
        text += f'stream = "{server.stream}"\n' if offer == "mev_share" else ""
        found = await asked(configured(tmp_path, text))
        assert found["relay one"][0] is Level.OK
        if offer == "mev_share":
            level, said = found["relay stream one"]
            assert level is Level.OK
            assert said.endswith("is open")
        assert (server.held, server.forged, len(server.requests)) == ([], 0, 1)
        level, said = (await asked(configured(tmp_path, text, {})))["relay one"]
        assert level is Level.WARN
        assert "stranger" in said


@pytest.mark.parametrize("mode", ["hang", "broken", "nonsense"])
async def test_a_relay_that_does_not(anvil: Anvil, tmp_path: Path, mode: str) -> None:
    """The only one: a failure. One of two: a warning. A stream that is none: a warning."""
    async with RelayServer(anvil.rpc) as good, RelayServer(anvil.rpc, mode) as bad:
        alone = await asked(configured(tmp_path, f'[relays.bad]\nurl = "{bad.url}"\n'))
        assert alone["relay bad"][0] is Level.FAIL
        both = f'[relays.bad]\nurl = "{bad.url}"\noffer = "mev_share"\nstream = "{bad.url}"\n'
        both += f'[relays.good]\nurl = "{good.url}"\n'
        found = await asked(configured(tmp_path, both))
        assert {name: level for name, (level, _) in found.items()} == {
            "relay bad": Level.WARN,
            "relay stream bad": Level.WARN,
            "relay good": Level.OK,
        }


async def test_a_relay_that_does_not_know_us(tmp_path: Path) -> None:
    """A refusal of the signature or of the key in the URL is a failure; nobody there is one too."""

    async def unwelcome(request: web.Request) -> web.Response:
        error = {"code": -32600, "message": "signer address is not registered"}
        return web.json_response({"jsonrpc": "2.0", "id": 1, "error": error}, status=403)

    async def locked(request: web.Request) -> web.Response:
        return web.Response(status=401, text="who are you")

    for answer, word in ((unwelcome, "not registered"), (locked, "HTTP 401")):
        async with serving(answer) as url:
            level, said = (await asked(configured(tmp_path, relay("one", url))))["relay one"]
        assert level is Level.FAIL
        assert word in said
    level, said = (await asked(configured(tmp_path, relay("one", "http://127.0.0.1:1"))))["relay one"]
    assert level is Level.FAIL
    assert "cannot be reached" in said


@asynccontextmanager
async def signing(folder: Path, told: Web3Signer) -> AsyncIterator[Config]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await told.handle(request)

    async with serving(handle) as url:
        text = f'[signer]\nremote_url = "{url}/{SECRET}"\naddress = "{ME}"\ntimeout = "300ms"\n'
        yield configured(folder, text)


async def test_a_remote_signer_signs_something_worthless(tmp_path: Path) -> None:
    """At a nonce that no chain reaches and without a fee, and is believed byte for byte."""
    told = Web3Signer()
    async with signing(tmp_path, told) as config:
        found = await asked(config)
        assert found["remote signer"][0] is Level.OK
        assert checksum(ME) in found["remote signer"][1]
        (request,) = told.requests
        fields = request["params"][0]
        assert int(fields["nonce"], 16) == UNREACHABLE_NONCE == 2**64 - 2
        assert (fields["maxFeePerGas"], fields["value"], fields["to"].lower()) == ("0x0", "0x0", ME)
        told.answer = lambda fields: signed(fields, key=OTHER)
        level, said = (await asked(config))["remote signer"]
        assert level is Level.FAIL
        assert "instead of" in said


@pytest.mark.parametrize(
    ("accounts", "word"), [([], "holds 0 keys"), (["0x" + "99" * 20], "holds 1 keys"), ([ME], "locked"), (7, "locked")]
)
async def test_a_remote_signer_that_declines_is_asked_whom_it_knows(
    tmp_path: Path, accounts: object, word: str
) -> None:
    """Whether the key is missing or the signer just says no."""
    told = Web3Signer()

    async def decline(body: dict[str, Any]) -> web.StreamResponse:
        if body["method"] == "eth_accounts":
            return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": accounts})
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": {"code": -1, "message": "locked"}})

    told.raw = decline
    async with signing(tmp_path, told) as config:
        level, said = (await asked(config))["remote signer"]
    assert level is Level.FAIL
    assert word in said


async def test_nothing_is_asked_where_nothing_is_configured(tmp_path: Path) -> None:
    assert sending_checks(configured(tmp_path)) == []


async def test_the_doctor_asks_them_whatever_the_node_does(tmp_path: Path) -> None:
    """`keeper doctor` has a line for each, also while no endpoint answers."""
    text = (
        relay("one", "http://127.0.0.1:1") + f'[signer]\nremote_url = "http://127.0.0.1:1/{SECRET}"\naddress = "{ME}"\n'
    )
    report = await diagnose(configured(tmp_path, text), live=False)
    levels = {result.name: result.finding.level for result in report.results}
    assert levels["relay one"] is Level.FAIL
    assert levels["remote signer"] is Level.FAIL
    assert SECRET not in str(report.json())
