"""One endpoint: requests and batches over WebSocket, IPC or HTTP, with every failure named by what must happen next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from msgspec import UNSET
from websockets.exceptions import WebSocketException

from keeper.chain.providers import Call, Http, HttpRefused, Notify, Provider, provider_for
from keeper.chain.refusals import Kind, Refusal, Unanswered, refusal
from keeper.chain.reply import Message, Reply, value
from keeper.chain.wire import quantity
from keeper.errors import BadData, ConfigError


def masked(url: str) -> str:
    """The part of a URL that may be shown: scheme, host and port. Credentials, path and query can hold keys."""
    if "://" not in url:
        return url  # the path of an IPC socket
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        rest = "/…" if parts.path.strip("/") or parts.query else ""
        return f"{parts.scheme}://{parts.hostname or '?'}{port}{rest}"
    except ValueError:
        return "an unreadable URL"


@dataclass(slots=True)
class MethodStats:
    """What one JSON-RPC method has cost at one endpoint; a batch of more than one call counts as method ``batch``."""

    requests: int = 0  # round trips
    calls: int = 0  # JSON-RPC calls in them
    errors: int = 0  # round trips without an answer, and calls refused for another reason than a revert
    seconds: float = 0.0
    sent: int = 0  # bytes
    received: int = 0  # bytes


@dataclass(slots=True)
class Stats:
    """Counters that only grow, by (endpoint, method); read them at any time."""

    methods: dict[tuple[str, str], MethodStats] = field(default_factory=dict)

    def of(self, endpoint: str, method: str) -> MethodStats:
        """The counters of one method at one endpoint."""
        found = self.methods.get((endpoint, method))
        if found is None:
            found = self.methods[endpoint, method] = MethodStats()
        return found

    @property
    def requests(self) -> int:
        """Round trips over all endpoints and methods."""
        return sum(entry.requests for entry in self.methods.values())


class Link(Protocol):
    """What the client needs of one endpoint; `Connection` is the real one, tests bring their own."""

    label: str

    @property
    def push(self) -> bool:
        """Whether it can subscribe."""

    async def call(self, calls: Sequence[Call], *, within: float | None = None) -> list[Any]:
        """One round trip; each item is the raw result, or the `Refusal` of that call.

        Logs may still be text, a `msgspec.Raw`: `wire.entries` reads either.
        """

    async def subscribe(self, params: Sequence[Any], notify: Notify) -> str:
        """``eth_subscribe``; answers the subscription's id."""

    async def close(self) -> None:
        """Let go of the socket; idempotent."""


class Connection:
    """A lazily opened endpoint. It reopens on the next call after a failure and never retries a call by itself."""

    def __init__(
        self,
        url: str,
        *,
        chain_id: int | None = None,
        timeout: float = 20.0,
        in_flight: int = 32,
        stats: Stats | None = None,
        label: str = "",
    ) -> None:
        self.label = label or masked(url)
        self.stats = stats if stats is not None else Stats()
        self._url = url
        self._chain_id = chain_id
        self._timeout = timeout
        self._slots = asyncio.Semaphore(in_flight)
        self._opening = asyncio.Lock()
        self._provider: Provider | None = None
        try:
            self._push = not isinstance(provider_for(url), Http)
        except ValueError as error:
            raise ConfigError(f"the RPC endpoint {self.label} cannot be used: {error}") from error

    @property
    def push(self) -> bool:
        """Whether the transport can carry subscriptions."""
        return self._push

    async def call(self, calls: Sequence[Call], *, within: float | None = None) -> list[Any]:
        """One round trip for all `calls`, `within` seconds; each item is the raw result, or the `Refusal` of that call.

        Raises Unanswered when no answer came, Refusal when the whole message was refused, BadData on nonsense.
        """
        batch = len(calls) != 1
        stats = self.stats.of(self.label, "batch" if batch else calls[0][0])
        stats.requests += 1
        stats.calls += len(calls)
        answered = False
        async with self._slots:
            started = time.monotonic()
            try:
                async with asyncio.timeout(within or self._timeout):
                    provider = await self._open()
                    exchange = await provider.exchange(calls, batch=batch)
                stats.sent += exchange.sent
                stats.received += exchange.received
                results = self._results(exchange.reply, calls)
                answered = True
            except TimeoutError as error:
                await self._drop_if_deaf(started)
                raise Unanswered(
                    f"{self.label} did not answer {calls[0][0]} within {within or self._timeout:g} s"
                ) from error
            except HttpRefused as error:
                raise self._http(error) from error
            except (OSError, EOFError, WebSocketException, aiohttp.ClientError) as error:
                if self._push:
                    await self._drop()
                raise Unanswered(f"the connection to {self.label} failed: {_reason(error, self._url)}") from error
            except ValueError as error:  # not JSON
                raise BadData(f"{self.label} answered something that is not JSON") from error
            finally:
                stats.seconds += time.monotonic() - started
                stats.errors += 0 if answered else 1
        stats.errors += sum(1 for r in results if isinstance(r, Refusal) and r.kind is not Kind.REVERT)
        return results

    async def subscribe(self, params: Sequence[Any], notify: Notify) -> str:
        """``eth_subscribe`` with `params`; `notify` gets each result, and None once when the connection is lost.

        Raises Unanswered, or Refusal where the transport or the node has no subscriptions.
        """
        try:
            async with asyncio.timeout(self._timeout):
                provider = await self._open()
                subscription = "" if isinstance(provider, Http) else await provider.subscribe(params, notify)
        except (OSError, EOFError, WebSocketException) as error:
            raise Unanswered(f"the connection to {self.label} failed: {_reason(error, self._url)}") from error
        if not subscription:
            raise Refusal(Kind.UNSUPPORTED, -32601, "subscriptions are not offered", self.label)
        return subscription

    async def close(self) -> None:
        """Close the socket; idempotent."""
        await self._drop()

    async def _open(self) -> Provider:
        provider = self._provider
        if provider is not None and provider.alive():
            return provider
        async with self._opening:
            if self._provider is not None and not self._provider.alive():
                await self._drop()
            if self._provider is None:
                fresh = provider_for(self._url)
                try:
                    await fresh.connect()
                    await self._check_chain(fresh)
                except BaseException:
                    await fresh.disconnect()
                    raise
                self._provider = fresh
            return self._provider

    async def _check_chain(self, provider: Provider) -> None:
        """A reconnect can end at another node: it must be on the same chain before anything is believed."""
        if self._chain_id is None:
            return
        calls: list[Call] = [("eth_chainId", [])]
        results = self._results((await provider.exchange(calls, batch=False)).reply, calls)
        if isinstance(results[0], Refusal):
            raise results[0]
        found = quantity(results[0], "a chain id")
        if found != self._chain_id:
            raise ConfigError(
                f"{self.label} is on chain {found}, but chain {self._chain_id} is configured: "
                "correct the endpoint or the chain id"
            )

    async def _drop_if_deaf(self, since: float) -> None:
        """Give up a socket on which nothing was answered since: its other end may have died, perhaps without a word."""
        provider = self._provider
        if provider is not None and not isinstance(provider, Http) and provider.answered_at < since:
            await self._drop()

    async def _drop(self) -> None:
        provider, self._provider = self._provider, None
        if provider is not None:
            await provider.disconnect()

    def _results(self, reply: Message, calls: Sequence[Call]) -> list[Any]:
        count = len(calls)
        if isinstance(reply, Reply) and (refused := value(reply.error)) is not None:
            error = refusal(refused, self.label)
            if count == 1:
                return [error]
            raise error
        replies = [reply] if isinstance(reply, Reply) else reply
        if len(replies) != count:
            raise BadData(f"{self.label} answered something that is not a JSON-RPC response to {count} call(s)")
        if count > 1:
            try:
                by_id = {int(value(item.id)): item for item in replies}
            except (TypeError, ValueError) as error:
                raise BadData(f"{self.label} answered a batch without usable ids") from error
            if len(by_id) != count:
                raise BadData(f"{self.label} answered one call of a batch twice")
            replies = [by_id[number] for number in sorted(by_id)]
        results: list[Any] = []
        for (method, _), item in zip(calls, replies, strict=True):
            if (refused := value(item.error)) is not None:
                results.append(refusal(refused, self.label))
            elif item.result is UNSET:
                raise BadData(f"{self.label} answered neither a result nor an error")
            else:
                results.append(item.result if method == "eth_getLogs" else value(item.result))
        return results

    def _http(self, error: HttpRefused) -> Refusal | Unanswered:
        body = error.body[0] if isinstance(error.body, list) and error.body else error.body
        if isinstance(body, dict) and body.get("error"):
            found = refusal(body["error"], self.label)
            if found.kind in (Kind.OTHER, Kind.INVALID) and error.status == 429:
                return Refusal(Kind.RATE, found.code, found.reason, self.label)
            return found
        if error.status == 429:
            return Refusal(Kind.RATE, 429, "HTTP 429 (too many requests)", self.label)
        if error.status == 413:
            return Refusal(Kind.RANGE, 413, "HTTP 413 (payload too large)", self.label)
        if error.status in (401, 403):
            return Refusal(Kind.OTHER, error.status, f"HTTP {error.status} (check the endpoint's key)", self.label)
        return Unanswered(f"{self.label} answered HTTP {error.status}")


def _reason(error: BaseException, url: str) -> str:
    """What went wrong in words that cannot contain the URL's secrets."""
    text = str(error) or type(error).__name__
    parts = urlsplit(url) if "://" in url else None
    secrets = [url, *([parts.path.strip("/"), parts.query, parts.password or ""] if parts is not None else [])]
    if any(secret and secret in text for secret in secrets):
        return type(error).__name__
    return " ".join(text.split())[:200]
