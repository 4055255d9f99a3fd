"""The status server over a real socket on the loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import orjson
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from keeper.errors import ConfigError
from keeper.model import Hash, Head
from keeper.ops.http import Server, ask_livez
from keeper.ops.metrics import Metrics
from keeper.ops.redact import Redactor
from keeper.ops.vitals import MarketVitals, Vitals

pytestmark = pytest.mark.e2e

SECRET = "s3cr3t-s3cr3t"


@dataclass
class Running:
    vitals: Vitals
    now: list[float]
    host: str
    port: int

    async def get(self, path: str) -> tuple[int, bytes, str]:
        url = f"http://{self.host}:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.read(), response.headers["Content-Type"]


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    Metrics(registry, version="1", mode="dry", markets={"core": "aave_v3"})
    now = [1_000.0]
    vitals = Vitals("1", "dry", 1, 60, 30, clock=lambda: now[0], monotonic=lambda: now[0])
    server = Server(vitals, registry, Redactor([SECRET]), port=0)
    host, port = await server.start()
    yield Running(vitals, now, host, port)
    await server.stop()
    await server.stop()


async def test_metrics(running: Running) -> None:
    """/metrics is Prometheus text of the registry that was passed in."""
    status, body, kind = await running.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert b'keeper_build_info{mode="dry",version="1"} 1.0' in body


async def test_livez(running: Running) -> None:
    """/livez is 200 while the loop comes round and 503 with the reason when not; `ask_livez` agrees."""
    assert (await running.get("/livez"))[0] == 200
    assert (await ask_livez(running.host, running.port)).ok
    assert (await ask_livez("0.0.0.0", running.port)).ok  # what the image listens on
    running.now[0] += 100
    status, body, _ = await running.get("/livez")
    assert status == 503
    assert b"has not come round for 100 s" in body
    assert not (await ask_livez(running.host, running.port)).ok


async def test_readyz(running: Running) -> None:
    """/readyz is 503 with every reason until connected, synced and trusted."""
    status, body, _ = await running.get("/readyz")
    assert status == 503
    assert len(orjson.loads(body)["reasons"]) == 3
    running.vitals.provider, running.vitals.synced = "wss://a", True
    running.vitals.head = Head(5, Hash("0x" + "01" * 32), Hash("0x" + "02" * 32), 1_000, 1)
    running.vitals.markets["core"] = MarketVitals(trusted=True, reason="")
    assert (await running.get("/readyz"))[0] == 200
    running.vitals.breakers["reverts"] = "three in a row"
    assert (await running.get("/readyz"))[0] == 503


async def test_status_is_masked(running: Running) -> None:
    """/status tells the state as JSON, and a secret that got into it does not come out."""
    running.vitals.markets["core"] = MarketVitals(trusted=False, reason=f"wss://u:{SECRET}@h/x said {SECRET}")
    status, body, kind = await running.get("/status")
    assert status == 200
    assert kind.startswith("application/json")
    found = orjson.loads(body)
    assert found["mode"] == "dry"
    assert found["ready"] is False
    assert SECRET.encode() not in body


async def test_only_reading(running: Running) -> None:
    """Nothing can be changed over HTTP, and there is nothing else to be found."""
    async with aiohttp.ClientSession() as session:
        for path in ("/livez", "/status", "/metrics"):
            async with session.post(f"http://{running.host}:{running.port}{path}") as response:
                assert response.status == 405
    assert (await running.get("/"))[0] == 404


async def test_a_taken_port_is_one_clear_sentence() -> None:
    """A port in use ends in a ConfigError that names the keys to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        vitals = Vitals("1", "dry", 1, 60, 30)
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1 port {port} .*ops\.http_port"):
            await Server(vitals, CollectorRegistry(), Redactor(), port=port).start()


async def test_health_of_something_else() -> None:
    """Nobody there, or another program there, is not a living keeper."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "nothing answers" in (await ask_livez("127.0.0.1", port)).reasons[0]

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/livez", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await ask_livez("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()
    assert "something else than a keeper" in found.reasons[0]
