"""A node that misbehaves on purpose: an HTTP and WebSocket JSON-RPC server in front of a good one.

One `Fault` at a time is asked about everything that passes. Whatever it leaves alone goes through untouched.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import aiohttp
from aiohttp import web
from eth_utils.crypto import keccak

Json = dict[str, Any]

_BIG = 1 << 30


class Channel:
    """Where one answer goes: a frame of a socket, or the response to a POST. `push` tells which."""

    push: bool

    async def send(self, text: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """The whole answer."""
        raise NotImplementedError

    async def begin(self, text: bytes, sent: int) -> None:
        """The first `sent` bytes of an answer that promises to be as long as `text`."""
        raise NotImplementedError

    def cut(self) -> None:
        """Abort the connection, as a crash or a firewall does."""
        raise NotImplementedError


class Fault:
    """No fault at all. A kind overrides the stages it disturbs; each is called in the order they are listed."""

    hits = 0  # times it struck, as far as it counts them

    def accept(self, push: bool) -> int:
        """HTTP status a new connection (or POST) is refused with; 0 lets it in."""
        return 0

    def deaf(self) -> bool:
        """True: what comes in now is read and forgotten; for a socket, for as long as it lives."""
        return False

    def request(self, request: Json) -> Json | None:
        """What the node is asked instead; None keeps the request from it (then `answer` gets no answer)."""
        return request

    def answer(self, request: Json, response: Json | None) -> Json | None:
        """What is answered instead; None for nothing."""
        return response

    def reply(self, replies: list[Json], batch: bool) -> Any:
        """The whole message: a list for a batch, otherwise the one answer; None for silence."""
        return replies if batch else replies[0]

    async def deliver(self, channel: Channel, text: bytes) -> None:
        """Put the message on the wire."""
        await channel.send(text)

    def notify(self, notification: Json) -> list[Json]:
        """What a subscriber is told instead."""
        return [notification]


class FaultProxy:
    """Serves `http` and `ws` URLs; everything is forwarded to `upstream` (an http:// URL) but for what `fault` does.

    Use as an async context manager. `handed` are the hashes of raw transactions in the order the client gave them to
    it, `passed` those that reached the node.
    """

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = Fault()
        self.handed: list[str] = []
        self.passed: list[str] = []

        self.connections = 0
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[web.WebSocketResponse] = set()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        app = web.Application(client_max_size=_BIG)
        app.router.add_route("*", "/{rest:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.fault = Fault()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.disconnect()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def disconnect(self) -> None:
        """Cut every socket there is."""
        for socket in [*self._sockets]:
            _abort(socket)

    # ------------------------------------------------------------------------------------------- serving

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        push = request.headers.get("Upgrade", "").lower() == "websocket"
        self.connections += 1
        refused = self.fault.accept(push)
        if refused:
            return web.Response(status=refused, text="<html>go away</html>", content_type="text/html")
        return await (self._socket(request) if push else self._post(request))

    async def _post(self, request: web.Request) -> web.StreamResponse:
        channel = _Post(request)
        body = await request.read()
        if self.fault.deaf():
            await asyncio.sleep(30)
        await self._handle(body, channel)
        if channel.response is None:  # nothing was said: the connection is closed on the client
            channel.cut()
            return web.Response(status=500)
        return channel.response

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=_BIG, autoping=False, timeout=0.1, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        channel = _Frames(socket, request)
        subscriber: list[aiohttp.ClientWebSocketResponse] = []
        dead = False
        try:
            async for message in socket:
                if dead or self.fault.deaf():
                    dead = True
                    continue
                if message.type is aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    self._spawn(self._handle(message.data, channel, subscriber))
        except (ConnectionError, RuntimeError):
            pass  # the client has gone, which is its right
        finally:
            self._sockets.discard(socket)
            for upstream in subscriber:
                await upstream.close()
        return socket

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------ forwarding

    async def _handle(
        self, body: str | bytes, channel: Channel, subscriber: list[aiohttp.ClientWebSocketResponse] | None = None
    ) -> None:
        message = json.loads(body)
        batch = isinstance(message, list)
        requests: list[Json] = message if batch else [message]
        fault = self.fault
        replies: list[Json] = []
        try:
            for request, response in zip(requests, await self._ask(fault, requests, channel, subscriber), strict=True):
                changed = fault.answer(request, response)
                if changed is not None:
                    replies.append(changed)
            if not replies:
                return
            reply = fault.reply(replies, batch)
            if reply is None:
                return
            await fault.deliver(channel, json.dumps(reply).encode() if not isinstance(reply, bytes) else reply)
        except (ConnectionError, RuntimeError, aiohttp.ClientError):
            return  # either end has gone while this was under way

    async def _ask(
        self,
        fault: Fault,
        requests: list[Json],
        channel: Channel,
        subscriber: list[aiohttp.ClientWebSocketResponse] | None,
    ) -> list[Json | None]:
        responses: list[Json | None] = [None] * len(requests)
        forward: list[tuple[int, Json]] = []
        for index, original in enumerate(requests):
            self._note(original, self.handed)
            request = fault.request(original)
            if request is None:
                continue
            self._note(request, self.passed)
            if request["method"] == "eth_subscribe" and subscriber is not None:
                responses[index] = await self._subscribe(request, channel, subscriber)
            elif request["method"] in ("eth_subscribe", "eth_unsubscribe"):
                responses[index] = {"jsonrpc": "2.0", "id": request["id"], "result": True}
            else:
                forward.append((index, request))
        if forward:
            assert self._session is not None
            async with self._session.post(self._upstream, json=[r | {"id": i} for i, r in forward]) as answer:
                found = {entry["id"]: entry for entry in await answer.json(content_type=None)}
            for index, request in forward:
                responses[index] = found[index] | {"id": request["id"]}
        return responses

    async def _subscribe(
        self, request: Json, channel: Channel, subscriber: list[aiohttp.ClientWebSocketResponse]
    ) -> Json:
        assert self._session is not None
        upstream = await self._session.ws_connect(self._upstream.replace("http", "ws", 1), max_msg_size=_BIG)
        subscriber.append(upstream)
        await upstream.send_json(request)
        response: Json = await upstream.receive_json()
        self._spawn(self._relay(upstream, channel))
        return response

    async def _relay(self, upstream: aiohttp.ClientWebSocketResponse, channel: Channel) -> None:
        async for message in upstream:
            original = json.loads(message.data)
            told = self.fault.notify(original)
            for item in told:
                with suppress(ConnectionError, RuntimeError):
                    await channel.send(json.dumps(item).encode())

    @staticmethod
    def _note(request: Json, where: list[str]) -> None:
        if request.get("method") == "eth_sendRawTransaction":
            where.append("0x" + keccak(hexstr=request["params"][0]).hex())


class _Frames(Channel):
    push = True

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self._socket = socket
        self._transport = request.transport

    async def send(self, text: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        await self._socket.send_str(text.decode(errors="replace"))

    async def begin(self, text: bytes, sent: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\x81\x7f" + struct.pack(">Q", len(text)) + text[:sent])

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Post(Channel):
    push = False

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    async def send(self, text: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.response is None:
            self.response = web.Response(body=text, status=status, headers=headers, content_type="application/json")

    async def begin(self, text: bytes, sent: int) -> None:
        self.response = web.StreamResponse(headers={"Content-Length": str(len(text))})
        await self.response.prepare(self._request)
        await self.response.write(text[:sent])

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _abort(socket: web.WebSocketResponse) -> None:
    transport = socket._req.transport if socket._req is not None else None
    if transport is not None:
        transport.abort()


@contextmanager
def in_thread(upstream: str) -> Iterator[tuple[FaultProxy, Callable[[Fault], None]]]:
    """A proxy with a thread and loop of its own, and what sets its fault; for tests that block."""
    ready, loop, ending = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    proxy = FaultProxy(upstream)

    async def serve() -> None:
        async with proxy:
            ready.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="fault proxy", daemon=True)
    thread.start()
    if not ready.wait(10):
        raise TimeoutError("the fault proxy did not start")

    def disturb(fault: Fault) -> None:
        loop.call_soon_threadsafe(setattr, proxy, "fault", fault)

    try:
        yield proxy, disturb
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(timeout=20)
        loop.close()
