"""The small web server: metrics for Prometheus, probes for whoever supervises, status for a person. It only reads."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from keeper.errors import ConfigError
from keeper.ops.redact import Redactor
from keeper.ops.vitals import Health, Vitals


class Server:
    """Serves `registry` and `vitals` between `start` and `stop`; also an async context manager."""

    def __init__(
        self, vitals: Vitals, registry: CollectorRegistry, redactor: Redactor, *, host: str = "127.0.0.1", port: int
    ) -> None:
        self._vitals = vitals
        self._registry = registry
        self._redactor = redactor
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.address = ("", 0)  # where it listens, once started

    async def start(self) -> tuple[str, int]:
        """Bind, and answer where: with port 0 the system picks one. Raises ConfigError when it cannot bind."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/status", self._status)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"the status server cannot listen on {self._host} port {self._port} ({_reason(error)}): "
                "set ops.http_host and ops.http_port to a free address"
            ) from error
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.address = str(host), int(port)
        return self.address

    async def stop(self) -> None:
        """Close; idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, request: web.Request) -> web.Response:
        return self._probe(self._vitals.live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return self._probe(self._vitals.ready())

    async def _status(self, request: web.Request) -> web.Response:
        return self._json(self._vitals.status(), 200)

    def _probe(self, health: Health) -> web.Response:
        return self._json({"ok": health.ok, "reasons": list(health.reasons)}, 200 if health.ok else 503)

    def _json(self, value: dict[str, Any], status: int) -> web.Response:
        body = orjson.dumps(self._redactor.value(value), option=orjson.OPT_APPEND_NEWLINE)
        return web.Response(body=body, status=status, content_type="application/json")


def _reason(error: OSError) -> str:
    """What the system says; asyncio wraps it in a sentence that names the address again."""
    known = error.errno is not None and error.errno > 0  # a name that cannot be resolved has a negative number
    return os.strerror(error.errno) if known and error.errno is not None else str(error.strerror)


async def ask_livez(host: str, port: int) -> Health:
    """What a running keeper's ``/livez`` says; not alive, with the reason, when nobody answers."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - an address to listen on is not one to call
        host = "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/livez"
    try:
        async with ClientSession(timeout=ClientTimeout(total=5)) as session, session.get(url) as response:
            answer = orjson.loads(await response.read())
            return Health(tuple(str(reason) for reason in answer["reasons"]))
    except (ClientError, TimeoutError, OSError):
        return Health((f"nothing answers on {host} port {port}: is the keeper running?",))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Health((f"something else than a keeper answers on {host} port {port}",))
