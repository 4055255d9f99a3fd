"""Relays and event streams that mean harm, or are broken: nothing they say ends the keeper."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest

from keeper.config.values import Secret
from keeper.errors import BadData, Transient
from keeper.execution.mev_share import HintStream
from keeper.execution.offers import Bundle, Offer
from keeper.execution.oracle_updates import ANSWER_UPDATED, Feeds, Update
from keeper.execution.relays import Relays, RelaySpec, ReputationKey, Told
from keeper.model import Address

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
SECRET = "s3cret-path-of-the-relay"
BUNDLE = Bundle(b"\x02ours", 100, 103, "00000000-0000-0000-0000-000000000000", b"\x02theirs")
FEED = Address("0x" + "a1" * 20)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """A server that writes whatever it likes."""
    busy: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy[task] = writer
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{SECRET}"
    finally:
        server.close()
        for task, writer in busy.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


async def heard(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The body of a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
    found: dict[str, Any] = orjson.loads(await reader.readexactly(length) or b"{}")
    return found


def http(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bomb(byte: bytes, megabytes: int) -> bytes:
    """So many of the byte, compressed; never whole in our own memory."""
    squeeze = zlib.compressobj(wbits=31)
    return b"".join(squeeze.compress(byte * 2**20) for _ in range(megabytes)) + squeeze.flush()


def nonsense(rng: random.Random, depth: int = 3) -> Any:
    """Some JSON."""
    leaves: list[Any] = [None, True, 0, -1, 2**63, 1.5, "", "0x", "0x1", "x" * 50, "\u202e", "0x" + "f" * 70]
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(leaves)
    if rng.random() < 0.4:
        return [nonsense(rng, depth - 1) for _ in range(rng.randrange(4))]
    words = ["result", "error", "results", "gasUsed", "revert", "code", "message", "data", "id", "bundleHash", "hash"]
    return {rng.choice(words): nonsense(rng, depth - 1) for _ in range(rng.randrange(4))}


def answer(rng: random.Random, call: dict[str, Any]) -> bytes:
    """One hostile HTTP answer."""
    ran = [{"gasUsed": 1} for _ in call["params"][0].get("txs", ())]
    good = {"jsonrpc": "2.0", "id": 1, "result": {"results": ran}}
    match rng.randrange(16):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return http(orjson.dumps(nonsense(rng)), rng.choice((200, 200, 400, 403, 500)))
        case 2:
            return http(json.dumps({"result": nonsense(rng)}).encode())
        case 3:
            return http(json.dumps({"error": nonsense(rng)}).encode(), rng.choice((200, 400)))
        case 4:
            return http(b"[" * 100_000)
        case 5:
            return http(orjson.dumps(good), 302, "Location: http://127.0.0.1:1/elsewhere")
        case 6:
            return http(orjson.dumps(good))[: rng.randrange(1, 120)]
        case 7:
            return b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{}"
        case 8:
            return b"HTTP/1.1 200 x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 200) for n in range(200)) + b"\r\n"
        case 9:
            return http(bomb(b" ", 30), 200, "Content-Encoding: gzip")
        case 10:
            return http(orjson.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": 2**62, "message": [SECRET]}}))
        case 11:
            return http(orjson.dumps(good | {"result": {"results": nonsense(rng)}}))
        case _:  # for once what it should be
            return http(orjson.dumps(good))


@pytest.mark.parametrize("offer", list(Offer))
async def test_whatever_a_relay_answers_is_a_told_thing(offer: Offer) -> None:
    """120 answers per kind of relay, most of them hostile, to offers, simulations and probes: never an exception."""
    rng = random.Random(f"{SEED} {offer}")
    results: dict[bool, int] = {True: 0, False: 0}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = await heard(reader)
        writer.write(answer(rng, call))
        await writer.drain()

    async with serving(serve) as url:
        spec = RelaySpec("bad", Secret(url), offer, simulate=True)
        bundle = Bundle(b"\x02ours", 100, 103, BUNDLE.uuid) if offer is Offer.TRANSACTION else BUNDLE
        async with Relays([spec], ReputationKey(None), timeout=2) as relays:
            for number in range(120):  # a secret it repeats is masked where it is written: log, journal, alert
                told: list[Told] = await relays.send(bundle)
                assert len(told) == 1
                results[told[0].error is None] += 1
                if number % 10 == 0:
                    assert await relays.withdraw(bundle) in (0, 1)
                    with suppress(Transient, BadData):
                        await relays.each[0].probe()
    print(f"seed {SEED}, {offer}: {results}")
    assert min(results.values()) > 0


async def test_a_stream_that_never_ends_an_event_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless lines, endless events, a bomb, binary: memory stays, and the next connection is heard."""
    topics = [ANSWER_UPDATED, "0x" + (5).to_bytes(32, "big").hex()]
    hint = {"hash": "0x" + "cd" * 32, "logs": [{"address": FEED, "topics": topics}]}
    start = b"HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
    turns = 0

    async def flood(writer: asyncio.StreamWriter, piece: bytes, megabytes: int) -> None:
        for _ in range(megabytes * 2**20 // len(piece)):
            writer.write(piece)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        await reader.readuntil(b"\r\n\r\n")
        match turns:
            case 1:
                writer.write(start + b"\r\n")
                await flood(writer, b"data: " + b"x" * 60_000 + b"\n", 200)
            case 2:
                writer.write(start + b"\r\n")
                await flood(writer, b"data:" + b"x" * 60_000, 200)
            case 3:
                writer.write(start + b"Content-Encoding: gzip\r\n\r\n" + bomb(b"\n", 200))
            case 4:
                writer.write(start + b"\r\n" + random.Random(SEED).randbytes(100_000))
            case 5:
                writer.write(b"HTTP/1.1 204 x\r\n\r\n")
            case 6:
                writer.write(b"\x00\x01\x02")
            case 7:
                for bad in (b"data: 7\n\n", b"data: []\n\n", b'data: {"hash": 5}\n\n', b"data: {\n\n", b"data\n\n"):
                    writer.write((start + b"\r\n" if bad == b"data: 7\n\n" else b"") + bad)
                writer.write(b"data: " + orjson.dumps(hint) + b"\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(1)
        await writer.drain()

    monkeypatch.setattr("keeper.execution.mev_share.asyncio.sleep", quick)
    async with serving(serve) as url:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stream = HintStream("bad", Secret(url), Feeds(assets={FEED: [("market", FEED)]}), retry=0.001, silence=5)
        found: Update = await asyncio.wait_for(anext(aiter(stream)), 60)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (found.aggregator, found.answer, turns) == (FEED, 5, 7)
    assert grown < 64 * 1024, f"{grown} KiB more"


_SLEEP = asyncio.sleep


async def quick(seconds: float) -> None:
    await _SLEEP(min(seconds, 0.01))
