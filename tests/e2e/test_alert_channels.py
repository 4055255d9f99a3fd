"""Alerts over real HTTP: webhooks that take them, refuse them and hang, and what the rest of the keeper notices."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from keeper import app
from keeper.config import Config, load
from keeper.devchain.serve import OPERATOR_KEY, config_text
from keeper.ops.channels import Channels
from keeper.ops.metrics import Metrics
from keeper.ops.redact import Redactor
from tests.support.fork import Fork

# apprise imports a module of the standard library that Python 3.13 drops.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:.imghdr:DeprecationWarning")]

CANARY = "C4naryTokenThatNobodyMayEverSee"


class Hooks:
    """A webhook at each of three paths; what arrives is kept by path."""

    def __init__(self) -> None:
        self.got: dict[str, list[dict[str, Any]]] = {"good": [], "refuses": [], "hangs": []}
        self.port = 0
        self.going = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        assert request.match_info["token"] == CANARY
        self.got[kind].append(await request.json())
        if kind == "refuses":
            return web.Response(status=500, text=f"the token {CANARY} is refused")
        if kind == "hangs":
            await self.going.wait()
        return web.Response()

    def url(self, kind: str) -> str:
        return f"json://127.0.0.1:{self.port}/{kind}/{CANARY}?rto=1&cto=1"


@asynccontextmanager
async def hooks() -> AsyncIterator[Hooks]:
    found = Hooks()
    served = web.Application()
    served.router.add_post("/{kind}/{token}", found.take)
    runner = web.AppRunner(served, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        found.going.set()
        await runner.cleanup()


def configured(fork: Fork, folder: Path, lines: str, **environ: str) -> Config:
    path = folder / "keeper.toml"
    path.write_text(config_text(fork.world, fork.ws, folder, 12, 0, None) + "\n[alerts]\n" + lines)
    (folder / "operator.key").write_text(OPERATOR_KEY)
    return load(path, {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h", **environ})


async def test_a_run_tells_the_channels_and_no_secret_anybody(
    fork: Fork, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run whose channels take, refuse and hang: it does its pass and ends in time, the good channel has heard of
    start and end with the mode before it, failures are counted, and no channel's URL is in any output."""
    async with hooks() as web_:
        (tmp_path / "channels").write_text("\n".join(web_.url(kind) for kind in ("hangs", "refuses", "good")))
        config = configured(
            fork,
            tmp_path,
            'channels_file = "channels"\n',
        )
        redactor = Redactor(config.secrets())
        began = time.monotonic()
        with caplog.at_level(logging.DEBUG):
            await asyncio.wait_for(app.run(config, redactor, live=False, once=True), 60)
        took = time.monotonic() - began
    bodies = [item["message"] for item in web_.got["good"]]
    assert bodies[0].startswith("[dry run] started (dry) with 3 markets")
    assert bodies[-1] == "[dry run] stopped in good order"
    assert all(item["title"] == f"keeper on chain {config.chain.id}" for item in web_.got["good"])
    assert web_.got["hangs"], "the hanging channel was tried"
    assert len(web_.got["refuses"]) == len(bodies)
    assert took < 30
    out, err = capsys.readouterr()
    rest = written(tmp_path)
    ours = "".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("urllib3", "aiohttp"))
    )
    assert "alert.undelivered" in out + err + ours
    for text in (out, err, ours, rest, repr(config)):
        assert CANARY not in text


def written(folder: Path) -> str:
    """Everything on disk but the file that the channels are read from."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "channels"]
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


async def test_the_loop_does_not_feel_a_hanging_channel(fork: Fork, tmp_path: Path) -> None:
    """While a channel hangs, putting an alert costs the loop less than a millisecond on average; errors are counted."""
    async with hooks() as web_:
        config = configured(
            fork, tmp_path, f"channels = ['{web_.url('hangs')}', '{web_.url('refuses')}']\nmax_per_minute = 1000\n"
        )
        metrics = Metrics(CollectorRegistry(), version="0", mode="live", markets={})
        channels = Channels.open(config.alerts, mode="live", chain_id=1, redact=str, failed=metrics.notify_errors.inc)
        began = time.monotonic()
        for index in range(500):
            channels.put("node_lost", f"node {index}", True)
        assert time.monotonic() - began < 0.5
        ticks = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5):
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1
        assert ticks > 60, "the loop came round all the time"
        began = time.monotonic()
        await channels.close(0.5)
        assert time.monotonic() - began < 1.5
    counted = metrics.registry.get_sample_value("keeper_notify_errors_total")
    # 2 × 500 messages, 100 of which either may still wait for its turn.
    assert counted is not None
    assert counted >= 800


async def test_the_notify_check_sends_only_when_it_is_asked(fork: Fork, tmp_path: Path) -> None:
    """`keeper doctor` looks at the channels and sends nothing; with --notify each gets one message, and a channel that
    refuses is a failure that does not repeat its URL."""
    from keeper.checkup import diagnose

    async with hooks() as web_:
        config = configured(
            fork, tmp_path, f"channels = ['{web_.url('good')}']\nsevere_channels = ['{web_.url('refuses')}']\n"
        )
        report = await diagnose(config, live=False)
        assert _finding(report.json(), "alerts")["level"] == "ok"
        assert web_.got == {"good": [], "refuses": [], "hangs": []}
        report = await diagnose(config, live=False, notify=True)
        assert [item["message"] for item in web_.got["good"]] == [
            "a test message that `keeper doctor --notify` was asked for"
        ]
        found = _finding(report.json(), "alerts")
        assert found["level"] == "fail"
        assert "severe_channels[0] (json)" in found["text"]
        assert CANARY not in json.dumps(report.json())


def _finding(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in report["checks"] if item["check"] == name)
    return found
