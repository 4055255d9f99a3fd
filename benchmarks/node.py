"""A node with a history: a private chain behind, made-up borrowers' logs and scaled balances in front.

`python -m benchmarks.node ANVIL USERS FIRST BLOCKS` serves JSON-RPC over HTTP and prints its port. What it takes is the
node's time, not the keeper's.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from functools import cache
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from benchmarks.crowd import ENTRIES, Asset, Crowd, index_of
from keeper.abi import interface
from keeper.chain.multicall import init_code, pack, unpack
from keeper.devchain.catalogue import SPECS
from keeper.devchain.rpc import Rpc
from keeper.devchain.world import World, ensure_world
from keeper.model import Address, Read
from keeper.protocols.aave_v3 import events
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, slot

_BALANCE = interface("aave_token").functions["scaledBalanceOf"].selector
_DATA = 4 + 32
_LIMIT = 10_000  # logs in one answer, as nodes have it


def crowd_of(world: World, rpc: Rpc, users: int) -> Crowd:
    """People on the main market of the private chain."""
    listed = rpc.view(world.main.pool, "getReservesList()", returns="address[]")
    numbers = {token.lower(): number for number, token in enumerate(listed)}
    assets = [
        Asset(
            numbers[world.tokens[symbol].address],
            world.tokens[symbol].address,
            tokens.a_token,
            tokens.debt_token,
            10 ** SPECS[symbol].decimals / (SPECS[symbol].price / 10**8),
        )
        for symbol, tokens in world.main.reserves.items()
    ]
    return Crowd(users, sorted(assets, key=lambda asset: asset.number), world.main.pool)


def endow(rpc: Rpc, crowd: Crowd) -> None:
    """Add what the crowd holds to the tokens' totals, straight into their storage."""
    for asset in crowd.assets:
        for side, token in ((SUPPLY, asset.a_token), (DEBT, asset.v_token)):
            total = int(rpc.view(token, "scaledTotalSupply()"))
            wanted = total + crowd.total(slot(asset.number, side))
            for place in range(200):
                where = hex(place)
                found = int(rpc.request("eth_getStorageAt", token, where, "latest"), 16)
                if found & (1 << 128) - 1 != total:
                    continue
                rpc.request("anvil_setStorageAt", token, f"0x{place:064x}", f"0x{found - total + wanted:064x}")
                if int(rpc.view(token, "scaledTotalSupply()")) == wanted:
                    break
                rpc.request("anvil_setStorageAt", token, f"0x{place:064x}", f"0x{found:064x}")
            else:
                raise AssertionError(f"where {token} keeps its total is not known")


class Node:
    """Answers one batch at a time out of both."""

    def __init__(self, anvil: str, crowd: Crowd, first: int, blocks: int) -> None:
        self._anvil = anvil
        self._crowd = crowd
        self._first = first
        self._blocks = blocks
        self._session: aiohttp.ClientSession | None = None
        self._slots = {asset.a_token: slot(asset.number, SUPPLY) for asset in crowd.assets} | {
            asset.v_token: slot(asset.number, DEBT) for asset in crowd.assets
        }
        self._most = 3 * ENTRIES * crowd.users // max(blocks, 1)  # logs of a block, at most
        self.prepared = cache(self._prepared)

    def _prepared(self, number: int) -> bytes:
        """The logs of a block, packed: those of a million people would take eight gigabytes."""
        return zlib.compress(self._crowd.logs(number - self._first, self._blocks, number, f"0x{number:064x}"), 1)

    async def handle(self, request: web.Request) -> web.Response:
        """One HTTP request."""
        body = orjson.loads(await request.read())
        calls = body if isinstance(body, list) else [body]
        answers = await asyncio.gather(*(self._answer(call) for call in calls))
        text = b"[" + b",".join(answers) + b"]" if isinstance(body, list) else answers[0]
        return web.Response(body=text, content_type="application/json")

    async def _answer(self, call: dict[str, Any]) -> bytes:
        if call["method"] == "eth_getLogs":
            logs = await self._logs(call)
            return await self._forward(call) if logs is None else logs
        if call["method"] == "eth_call":
            result = await self._view(call)
            if result is not None:
                return _reply(call, orjson.dumps("0x" + result.hex()))
        return await self._forward(call)

    async def _logs(self, call: dict[str, Any]) -> bytes | None:
        wanted = call["params"][0]
        if "fromBlock" not in wanted or self._crowd.pool not in wanted["address"]:
            return None
        if events.MINT not in wanted["topics"][0]:
            return None
        low, high = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        last = self._first + self._blocks - 1
        covered = max(min(high, last) - max(low, self._first) + 1, 0)
        if covered > 1 and covered * self._most > _LIMIT:
            error = {"code": -32005, "message": f"query returned more than {_LIMIT} results"}
            return orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "error": error})
        pieces: list[bytes] = []
        for start, end in ((low, min(high, self._first - 1)), (max(low, last + 1), high)):
            if start <= end:
                part = call | {"params": [wanted | {"fromBlock": hex(start), "toBlock": hex(end)}]}
                found = orjson.loads(await self._forward(part))
                if "error" in found:
                    return None
                if found["result"]:
                    pieces.append(orjson.dumps(found["result"])[1:-1])
            if start == low:
                pieces += [zlib.decompress(self.prepared(n)) for n in range(max(low, self._first), min(high, last) + 1)]
        return _reply(call, b"[" + b",".join(piece for piece in pieces if piece) + b"]")

    async def _view(self, call: dict[str, Any]) -> bytes | None:
        what = call["params"][0]
        data = bytes.fromhex((what.get("data") or what.get("input") or "0x")[2:])
        if "to" in what:
            mine = self._mine(Read(what["to"], data))
            return None if mine is None else mine.to_bytes(32, "big")
        if not data.startswith(init_code()) or _BALANCE not in data:
            return None
        reads = _reads(data[len(init_code()) :])
        answers = [self._mine(read) for read in reads]
        others = [read for read, mine in zip(reads, answers, strict=True) if mine is None]
        if len(others) == len(reads):
            return None
        rest: list[Any] = []
        if others:
            part = call | {"params": [{"data": "0x" + pack(others).hex()}, *call["params"][1:]]}
            found = orjson.loads(await self._forward(part))
            if "error" in found:
                return None
            rest = unpack(bytes.fromhex(found["result"][2:]), len(others))
        given = iter(rest)
        out = [b"\0"]
        for mine in answers:
            item = next(given) if mine is None else mine.to_bytes(32, "big")
            status = 1 if isinstance(item, bytes) else 0 if item is None else 2
            payload = item if isinstance(item, bytes) else b""
            out.append(bytes([status]) + len(payload).to_bytes(3, "big") + payload)
        return b"".join(out)

    def _mine(self, read: Read) -> int | None:
        where = self._slots.get(Address(read.to))
        if where is None or len(read.data) != _DATA or read.data[:4] != _BALANCE:
            return None
        user = index_of(read.data[-20:].hex())
        return None if user is None or user >= self._crowd.users else self._crowd.amount(user, where)

    async def _forward(self, call: dict[str, Any]) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Content-Type": "application/json"})
        async with self._session.post(self._anvil, data=orjson.dumps(call)) as response:
            return await response.read()


def _reply(call: dict[str, Any], result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + orjson.dumps(call["id"]) + b',"result":' + result + b"}"


def _reads(arguments: bytes) -> list[Read]:
    """The inverse of `multicall.pack`, after the code."""
    size = int.from_bytes(arguments[64:96], "big")
    body, cursor, found = arguments[96 : 96 + size], 0, []
    while cursor < size:
        length = int.from_bytes(body[cursor + 20 : cursor + 23], "big")
        target = Address("0x" + body[cursor : cursor + 20].hex())
        found.append(Read(target, body[cursor + 23 : cursor + 23 + length]))
        cursor += 23 + length
    return found


async def serve(anvil: str, users: int, first: int, blocks: int) -> None:
    """Until the process is told to end."""
    rpc = Rpc(anvil)
    crowd = crowd_of(ensure_world().world, rpc, users)
    node = Node(anvil, crowd, first, blocks)
    for number in range(first, first + blocks):
        node.prepared(number)
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/", node.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server  # noqa: SLF001 - aiohttp tells the port nowhere else
    assert isinstance(server, asyncio.Server)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], *(int(word) for word in sys.argv[2:5])))
