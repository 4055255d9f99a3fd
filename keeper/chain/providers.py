"""web3's asynchronous providers, fitted for many requests in flight.

web3 8 waits for an answer over a socket by polling a cache in a busy loop, and can have one batch in flight at a time.
Here the listener wakes each caller through a future of its own, so that waiting costs nothing and batches may overlap.
Over HTTP the body of an error status is read, because that is where nodes say why. The providers' log lines are
silenced: they carry the full URL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import aiohttp
import orjson
from msgspec import UNSET
from web3 import AsyncHTTPProvider, AsyncIPCProvider, WebSocketProvider
from web3.providers.persistent import PersistentConnectionProvider
from web3.types import RPCEndpoint, RPCRequest, RPCResponse
from websockets.exceptions import WebSocketException

from keeper.chain.reply import Message, Reply, decode, plain, value

Call = tuple[str, Sequence[Any]]
Notify = Callable[[Any], None]

_SILENT = logging.getLogger("keeper.chain.providers")
_SILENT.disabled = True


class SocketClosed(ConnectionError):
    """The socket ended while answers were awaited."""


class HttpRefused(Exception):
    """An HTTP status other than 200; `body` is the decoded JSON body, if it was JSON."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body


class Exchange(NamedTuple):
    """One answer with the bytes it took."""

    reply: Message
    sent: int
    received: int


def encode(requests: Sequence[RPCRequest], batch: bool) -> bytes:
    """The wire form of requests."""
    return orjson.dumps(list(requests) if batch else requests[0], default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class _Futures(PersistentConnectionProvider):
    """A socket provider whose listener hands every answer to the future of the request it belongs to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.logger = _SILENT
        self._waiting: dict[int, asyncio.Future[tuple[Message, int]]] = {}
        self._batches: dict[int, int] = {}  # any id of a batch → its first id
        self._subscribing: dict[int, Notify] = {}
        self._subscribers: dict[str, Notify] = {}
        self.answered_at = 0.0  # monotonic; when the last answer came

    # -- the parts of web3's provider that are replaced

    async def connect(self) -> None:
        """Open the socket once; retries are the caller's."""
        await self._provider_specific_connect()
        self._message_listener_task = asyncio.create_task(self._message_listener())

    async def disconnect(self) -> None:
        """Close the socket; idempotent. Whoever still waits gets `SocketClosed`."""
        task, self._message_listener_task = self._message_listener_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._provider_specific_disconnect()

    async def send_request(self, method: RPCEndpoint, params: Any) -> RPCRequest:
        request = self.form_request(method, params)
        await self._send([request], batch=False)
        return request

    async def recv_for_request(self, rpc_request: RPCRequest) -> RPCResponse:
        return cast(RPCResponse, plain((await self._answer(cast(int, rpc_request["id"])))[0]))

    async def send_batch_request(self, requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCRequest]:
        formed = [self.form_request(method, params) for method, params in requests]
        await self._send(formed, batch=True)
        return formed

    async def recv_for_batch_request(self, _request_dicts: list[RPCRequest]) -> list[RPCResponse]:
        return cast(list[RPCResponse], plain((await self._answer(cast(int, _request_dicts[0]["id"])))[0]))

    async def _message_listener(self) -> None:
        error: BaseException = SocketClosed("the node closed the connection")
        try:
            while True:
                raw = await self.read_message()
                self._dispatch(decode(raw), len(raw))
        except (WebSocketException, OSError, ValueError, TypeError, AttributeError) as caught:  # or nonsense
            error = caught  # told to everybody who waits, in the place where they can act on it
        finally:
            self._end(error)

    # -- ours

    async def read_message(self) -> bytes | str:
        """One message from the socket."""
        raise NotImplementedError

    def alive(self) -> bool:
        """True while the listener runs."""
        return self._message_listener_task is not None and not self._message_listener_task.done()

    async def exchange(self, calls: Sequence[Call], *, batch: bool) -> Exchange:
        """Send calls as one message and wait for its answer."""
        formed = [self.form_request(RPCEndpoint(method), params) for method, params in calls]
        sent = await self._send(formed, batch=batch)
        reply, received = await self._answer(cast(int, formed[0]["id"]))
        return Exchange(reply, sent, received)

    async def subscribe(self, params: Sequence[Any], notify: Notify) -> str:
        """``eth_subscribe``; `notify` gets every result, also those that come before this returns, and None at the end.

        Answers the subscription's id, or an empty string where the node refuses.
        """
        request = self.form_request(RPCEndpoint("eth_subscribe"), params)
        number = cast(int, request["id"])
        self._subscribing[number] = notify
        try:
            await self._send([request], batch=False)
            answer, _ = await self._answer(number)
        finally:
            self._subscribing.pop(number, None)
        return str(value(answer.result)) if isinstance(answer, Reply) and answer.result is not UNSET else ""

    async def _send(self, requests: list[RPCRequest], *, batch: bool) -> int:
        first = cast(int, requests[0]["id"])
        body = encode(requests, batch)
        if not self.alive():
            raise SocketClosed("the connection is closed")
        self._waiting[first] = asyncio.get_running_loop().create_future()
        if batch:
            self._batches.update((cast(int, request["id"]), first) for request in requests)
        try:
            await self.socket_send(body)
        except BaseException:
            self._forget_request(first)
            raise
        return len(body)

    async def _answer(self, number: int) -> tuple[Message, int]:
        try:
            return await self._waiting[number]
        finally:
            self._forget_request(number)

    def _forget_request(self, number: int) -> None:
        self._waiting.pop(number, None)
        member = number
        while self._batches.pop(member, None) is not None:  # ids of a batch are consecutive
            member += 1
            if self._batches.get(member) != number:
                break

    def _dispatch(self, message: Message, size: int) -> None:
        if isinstance(message, list):
            ids = (value(reply.id) for reply in message)
            self._resolve(
                next((self._batches.get(number) for number in ids if number is not None), None), message, size
            )
        elif value(message.method) == "eth_subscription":
            params = value(message.params) or {}
            notify = self._subscribers.get(str(params.get("subscription")))
            if notify is not None:
                notify(params.get("result"))
        else:
            number = value(message.id)
            notify = self._subscribing.get(number) if isinstance(number, int) else None
            if notify is not None and message.result is not UNSET:
                self._subscribers[str(value(message.result))] = notify
            if number is None and value(message.error) is not None:
                # One error for a whole batch, without an id: it can be the answer to any of those that wait.
                for first in set(self._batches.values()) or set(self._waiting):
                    self._resolve(first, message, size)
            else:
                self._resolve(self._batches.get(number, number) if isinstance(number, int) else None, message, size)

    def _resolve(self, number: int | None, message: Message, size: int) -> None:
        future = self._waiting.get(number) if number is not None else None
        if future is not None and not future.done():
            self.answered_at = time.monotonic()
            future.set_result((message, size))

    def _end(self, error: BaseException) -> None:
        for future in self._waiting.values():
            if not future.done():
                closed = SocketClosed(str(error))
                closed.__cause__ = error
                future.set_exception(closed)
                future.exception()  # the waiter may be gone already
        subscribers, self._subscribers = self._subscribers, {}
        for notify in subscribers.values():
            notify(None)


class WebSocket(_Futures, WebSocketProvider):
    """`ws://` and `wss://`; messages of any size."""

    def __init__(self, url: str) -> None:
        # A head missed for a minute is a lost minute: the ping finds a dead peer sooner than web3's five minutes.
        kwargs = {"max_size": None, "ping_interval": 10, "ping_timeout": 20, "open_timeout": None, "close_timeout": 1}
        super().__init__(endpoint_uri=url, websocket_kwargs=kwargs, use_text_frames=True)

    async def socket_send(self, request_data: bytes) -> None:
        # web3 sends through `asyncio.wait_for`, which before Python 3.12 can swallow the cancellation of its caller.
        if self._ws is None:
            raise SocketClosed("the connection is closed")
        await self._ws.send(request_data.decode())

    async def read_message(self) -> bytes | str:
        if self._ws is None:
            raise SocketClosed("the connection is closed")
        return await self._ws.recv()


class Ipc(_Futures, AsyncIPCProvider):
    """A Unix socket; one JSON value per line."""

    def __init__(self, path: str) -> None:
        super().__init__(ipc_path=path, read_buffer_limit=1 << 30)

    async def socket_send(self, request_data: bytes) -> None:
        if self._writer is None:
            raise SocketClosed("the connection is closed")
        self._writer.write(request_data + b"\n")
        await self._writer.drain()

    async def read_message(self) -> bytes | str:
        line = await self._reader.readline() if self._reader is not None else b""
        if not line:
            raise SocketClosed("the node closed the connection")
        return line


class Http(AsyncHTTPProvider):
    """`http://` and `https://`, over one pooled session."""

    def __init__(self, url: str) -> None:
        super().__init__(endpoint_uri=url, exception_retry_configuration=None)
        self.logger = _SILENT
        self._session: aiohttp.ClientSession | None = None

    async def connect(self) -> None:
        """Open the pool; the first request opens the first socket."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Content-Type": "application/json"})

    async def disconnect(self) -> None:
        """Close the pool; idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def alive(self) -> bool:
        """True between connect and disconnect."""
        return self._session is not None

    async def exchange(self, calls: Sequence[Call], *, batch: bool) -> Exchange:
        """Post calls as one body and wait for its answer; raises `HttpRefused` on any status but 200."""
        if self._session is None:
            raise SocketClosed("the connection is closed")
        body = encode([self.form_request(RPCEndpoint(method), params) for method, params in calls], batch)
        async with self._session.post(cast(str, self.endpoint_uri), data=body) as response:
            raw = await response.read()
            if response.status == 200:
                return Exchange(decode(raw), len(body), len(raw))
            try:
                decoded = orjson.loads(raw)
            except orjson.JSONDecodeError:
                decoded = None
            raise HttpRefused(response.status, decoded)

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        return cast(RPCResponse, plain((await self.exchange([(method, params)], batch=False)).reply))

    async def make_batch_request(
        self, batch_requests: list[tuple[RPCEndpoint, Any]]
    ) -> list[RPCResponse] | RPCResponse:
        calls = [(str(method), params) for method, params in batch_requests]
        return cast(list[RPCResponse], plain((await self.exchange(calls, batch=True)).reply))


Provider = WebSocket | Ipc | Http


def provider_for(url: str) -> Provider:
    """The provider for a URL (`ws`, `wss`, `http`, `https`) or the path of an IPC socket; raises ValueError."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ("ws", "wss"):
        return WebSocket(url)
    if scheme in ("http", "https"):
        return Http(url)
    if not scheme and url:
        return Ipc(url)
    raise ValueError("the scheme must be ws, wss, http or https, or the value the path of an IPC socket")
