"""A MEV-Share event stream: hints about transactions that only the relay has, matched against the feeds in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from keeper.chain.connection import masked
from keeper.chain.refusals import Unanswered
from keeper.chain.wire import hash32
from keeper.config.values import Secret
from keeper.errors import BadData
from keeper.execution.oracle_updates import Feeds, Update, answer_in_log, decode_call
from keeper.model import Address, address

log = structlog.get_logger(__name__)

_SILENCE = 60.0  # seconds without a line, pings included, after which the stream is taken for dead
_LINE = 1 << 20  # bytes of the longest line, and of the longest event


class HintStream:
    """An async iterator over updates that hints tell of. It reconnects by itself, with growing pauses."""

    def __init__(self, name: str, url: Secret, feeds: Feeds, *, retry: float = 1.0, silence: float = _SILENCE) -> None:
        """Seconds: `retry` before the first reconnection, doubling up to a minute; `silence` until it is given up."""
        self._label = f"the event stream of relay {name} ({masked(url.reveal())})"
        self._url = url
        self._feeds = feeds
        self._retry = retry
        self._silence = silence

    async def __aiter__(self) -> AsyncIterator[Update]:
        pause = self._retry
        while True:
            try:
                async for hint in self._events():
                    pause = self._retry
                    update = read_hint(hint, self._feeds)
                    if update is not None:
                        yield update
                reason = "it was closed"
            except TimeoutError:
                reason = f"nothing came for {self._silence:g} s"
            except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
                reason = type(error).__name__  # its text may repeat the URL
            log.info("hint_stream_lost", stream=self._label, reason=reason, seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60.0)

    async def _events(self) -> AsyncIterator[Mapping[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self._silence)
        # Not compressed: a few bytes could become any number of them.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=_LINE, auto_decompress=False) as session,
            session.get(self._url.reveal(), headers=headers) as response,
        ):
            response.raise_for_status()
            data: list[bytes] = []
            size = 0
            async for line in response.content:
                text = line.rstrip(b"\r\n")
                if text.startswith(b"data:"):
                    data.append(text[5:].strip())
                    size += len(line)
                    if size > _LINE:
                        raise ValueError("an event without end")
                elif not text and data:  # an empty line ends an event; comments and other fields say nothing
                    found = _json(b"\n".join(data))
                    data, size = [], 0
                    if isinstance(found, dict):
                        yield found


async def probe(name: str, url: Secret, *, within: float) -> str:
    """Open the stream and close it again: a sentence about it. Raises Unanswered; `within` in seconds."""
    label = f"the event stream of relay {name} ({masked(url.reveal())})"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
            session.get(url.reveal(), headers={"Accept": "text/event-stream"}, allow_redirects=False) as response,
        ):
            status, kind = response.status, response.content_type
    except TimeoutError:
        raise Unanswered(f"{label} did not answer within {within:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unanswered(f"{label} cannot be reached ({type(error).__name__})") from None
    if status != 200 or kind != "text/event-stream":
        raise Unanswered(f"{label} is none: it answers HTTP {status}, {kind}")
    return f"{label} is open"


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def read_hint(hint: Mapping[str, Any], feeds: Feeds) -> Update | None:
    """The update behind a hint; None when it concerns no feed in use, or does not show the answer.

    The answer is read from calldata where that is shared, else from the logs. Without either there is no price to plan
    with, and nothing is bid.
    """
    try:
        tx_hash = hash32(hint["hash"], "a transaction hash")
        for call in hint.get("txs") or ():
            to, data = address(call["to"]), bytes.fromhex(str(call.get("callData") or "0x")[2:])
            found = decode_call(to, data) if feeds.wants(to, data) else None
            if found is not None and found[0] in feeds.assets:
                return Update(*found, tx_hash, None)
        for entry in hint.get("logs") or ():
            emitter = address(entry["address"])
            answer = answer_in_log([str(topic).lower() for topic in entry.get("topics") or ()])
            if emitter in feeds.assets and answer is not None:
                return Update(emitter, answer, tx_hash, None)
            if emitter in feeds.assets:
                _unknown(emitter)
    except (KeyError, TypeError, ValueError, AttributeError, BadData):
        return None
    return None


def _unknown(aggregator: Address) -> None:
    log.debug("hint_without_answer", aggregator=aggregator)
