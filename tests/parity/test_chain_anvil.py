"""The chain adapter against a real node: every transport, heads, reorganisations, bundled views, limited back-fill."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from web3 import AsyncWeb3

from keeper.chain.checkpoints import Checkpoints
from keeper.chain.client import NodeClient
from keeper.chain.connection import Connection
from keeper.chain.follow import Follower
from keeper.chain.heads import Heads
from keeper.chain.multicall import init_code
from keeper.chain.providers import WebSocket
from keeper.chain.refusals import Kind, Refusal
from keeper.devchain.anvil import Anvil
from keeper.devchain.solc import ROOT, compile_standard
from keeper.errors import BadData, ConfigError, Transient
from keeper.model import Address, Block, Head, Log, Read, Skip, Watch
from tests.chain_fakes import FakeAlerter, fold

pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("chain_anvil")]

SEED = int(os.environ.get("KEEPER_SEED", "20261"))

TOPIC = "0x" + "ab" * 32


def deploy_code(runtime: bytes) -> str:
    """Init code that returns `runtime`."""
    return "0x" + (bytes([0x60, len(runtime), 0x80, 0x60, 0x0B, 0x60, 0, 0x39, 0x60, 0, 0xF3]) + runtime).hex()


# Logs its calldata under a topic that is the first word of it.
RUNTIME = bytes.fromhex("366000600037" + "600035" + "36" + "6000" + "a1" + "00")
# byte 0 of calldata: 0 → return calldata, 1 → revert, 2 → invalid, 3 → return 30,000 bytes, 4 → burn all gas,
# otherwise → return number ++ timestamp
VIEWS = """
// SPDX-License-Identifier: MIT
pragma solidity 0.8.27;
contract Views {
    fallback() external {
        assembly {
            let kind := shr(248, calldataload(0))
            calldatacopy(0, 0, calldatasize())
            if eq(kind, 0) { return(0, calldatasize()) }
            if eq(kind, 1) { revert(0, calldatasize()) }
            if eq(kind, 2) { invalid() }
            if eq(kind, 3) { mstore(0, number()) return(0, 30000) }
            if eq(kind, 4) { for {} 1 {} {} }
            mstore(0, number())
            mstore(32, timestamp())
            return(0, 64)
        }
    }
}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    """One node for this file, with a short block history kept for reorganisations."""
    with Anvil() as running:
        yield running


@pytest.fixture
def chain(node: Anvil) -> Iterator[Anvil]:
    """The node, put back afterwards."""
    snapshot = node.rpc.request("evm_snapshot")
    yield node
    node.rpc.request("evm_revert", snapshot)


def deploy(chain: Anvil, code: str) -> Address:
    sender = chain.rpc.request("eth_accounts")[0]
    transaction = chain.rpc.request("eth_sendTransaction", {"from": sender, "data": code, "gas": hex(3_000_000)})
    chain.rpc.request("evm_mine")
    receipt = chain.rpc.request("eth_getTransactionReceipt", transaction)
    assert receipt["status"] == "0x1"
    return Address(receipt["contractAddress"].lower())


def emit(chain: Anvil, to: Address, count: int) -> None:
    """Queue `count` transactions that each log one event."""
    sender = chain.rpc.request("eth_accounts")[0]
    nonce = int(chain.rpc.request("eth_getTransactionCount", sender, "pending"), 16)
    for index in range(count):
        data = TOPIC + f"{nonce + index:064x}"
        chain.rpc.request(
            "eth_sendTransaction",
            {"from": sender, "to": to, "data": data, "gas": hex(100_000), "nonce": hex(nonce + index)},
        )


def mine(chain: Anvil, blocks: int) -> None:
    chain.rpc.request("anvil_mine", hex(blocks))


def all_logs(chain: Anvil, address: Address) -> list[tuple[int, int, str]]:
    found = chain.rpc.request("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": address})
    return [(int(item["blockNumber"], 16), int(item["logIndex"], 16), item["data"]) for item in found]


def keys(logs: Sequence[Log]) -> list[tuple[int, int, str]]:
    return [(log.block_number, log.log_index, "0x" + log.data.hex()) for log in logs]


class Digest:
    """A mirror that keeps one digest per block, so that stepping back is exact."""

    name = "digest"
    history_from: int | None = 0
    dirty = False

    def __init__(self, address: Address) -> None:
        self.address = address
        self.states: dict[int, str] = {}
        self.base = ""
        self.number = -1
        self.observed: tuple[Head, int] | None = None

    def watch(self) -> Watch:
        return Watch(frozenset({self.address}), frozenset({TOPIC}))

    def reads(self) -> tuple[Read, ...]:
        return (Read(self.address, b""),)

    @property
    def state(self) -> str:
        return self.states[max(self.states)] if self.states else self.base

    def apply(self, block: Block) -> None:
        state = self.state
        for log in block.logs:
            state = fold(state, log)
        self.states[block.head.number] = state

    def replay(self, logs: Sequence[Log]) -> None:
        for log in logs:
            self.base = fold(self.base, log)

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        assert len(answers) == 1
        self.observed = (head, len(answers))

    async def refresh(self, client: Any, head: Head) -> None: ...

    async def audit(self, client: Any, head: Head, sample: int) -> Skip | None:
        return None

    def rewind(self, number: int) -> None:
        for later in [n for n in self.states if n > number]:
            del self.states[later]

    async def load(self, client: Any, head: Head) -> None:
        self.states, self.base = {}, ""

    def distrust(self, reason: str) -> None: ...

    def snapshot(self) -> bytes:
        return self.state.encode()

    def restore(self, data: bytes) -> None:
        self.states, self.base = {}, data.decode()


async def replayed(client: NodeClient, address: Address) -> str:
    """The digest of a from-scratch replay of the canonical chain."""
    head = await client.head()
    state = ""
    async for _, _, logs in client.logs(Watch(frozenset({address}), frozenset({TOPIC})), 0, head.number):
        for log in logs:
            state = fold(state, log)
    return state


# ----------------------------------------------------------------------------------------------- transports


async def test_the_committed_init_code_is_what_the_source_compiles_to() -> None:
    """`contracts_abi/multicall.json` is reproduced from `multicall.sol` with the pinned compiler."""
    artifact = json.loads(await asyncio.to_thread((ROOT / "contracts_abi/multicall.json").read_text))
    source = await asyncio.to_thread((ROOT / "contracts_abi/multicall.sol").read_text)
    settings = {**artifact["settings"], "outputSelection": {"*": {"*": ["evm.bytecode.object"]}}}
    request = {"language": "Solidity", "sources": {"multicall.sol": {"content": source}}, "settings": settings}
    answer = await asyncio.to_thread(compile_standard, request)
    code = answer["contracts"]["multicall.sol"]["Multicall"]["evm"]["bytecode"]["object"]
    assert artifact["bytecode"] == "0x" + code
    assert init_code() == bytes.fromhex(code)


async def test_every_transport_says_the_same(tmp_path: Path) -> None:
    """WebSocket, HTTP and IPC answer requests, batches and many of both at once."""
    with Anvil() as chain, tempfile.TemporaryDirectory() as folder:
        mine(chain, 3)
        ipc = Path(folder) / "a.ipc"
        heads = []
        async with relay(chain, ipc) as path:
            for url in (chain.ws, chain.http, path):
                async with NodeClient.connect([url], chain_id=31337) as client:
                    heads.append(await client.head())
                    many = await asyncio.gather(
                        *(client.batch([("eth_chainId", []), ("eth_blockNumber", [])]) for _ in range(30)),
                        *(client.request("eth_blockNumber", []) for _ in range(30)),
                    )
                    assert many == [["0x7a69", "0x3"]] * 30 + ["0x3"] * 30
                    with pytest.raises(Refusal) as caught:
                        await client.request("eth_noSuchMethod", [])
                    assert caught.value.kind is Kind.UNSUPPORTED
                    stats = client.stats.methods[client.pool.endpoints[0].label, "eth_blockNumber"]
                    assert stats.requests == 30
                    assert min(stats.sent, stats.received, stats.seconds) > 0
        assert heads[0] == heads[1] == heads[2]


@asynccontextmanager
async def relay(chain: Anvil, path: Path) -> AsyncIterator[str]:
    """An IPC socket in front of the node: one JSON value per line, as geth speaks it."""
    async with aiohttp.ClientSession() as session:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for line in reader:
                async with session.post(chain.http, data=line, headers={"Content-Type": "application/json"}) as answer:
                    writer.write(await answer.read() + b"\n")
                await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(serve, path, limit=1 << 24)
        async with server:
            yield str(path)


async def test_the_provider_serves_async_web3(chain: Anvil) -> None:
    """The socket provider is web3's own with another listener: AsyncWeb3 works on it, batches included."""
    provider = WebSocket(chain.ws)
    await provider.connect()
    try:
        w3 = AsyncWeb3(provider)
        assert await w3.eth.chain_id == 31337
        block = await w3.eth.get_block("latest")
        assert block["number"] == int(chain.rpc.request("eth_blockNumber"), 16)
    finally:
        await provider.disconnect()


async def test_answers_above_a_megabyte_arrive(chain: Anvil) -> None:
    """A WebSocket answer larger than the library's default limit does not close the connection."""
    views = deploy(chain, compiled_views())
    async with NodeClient.connect([chain.ws]) as client:
        head = await client.head()
        reads = [Read(views, b"\3" + bytes([i])) for i in range(40)]
        answers = await client.read(reads, head)
        assert [len(answer or b"") for answer in answers] == [30_000] * 40


async def test_a_node_on_another_chain_is_refused(chain: Anvil) -> None:
    """The chain id is checked when a connection opens, whichever transport."""
    for url in (chain.ws, chain.http):
        client = NodeClient.connect([url], chain_id=1)
        with pytest.raises(ConfigError, match="31337"):
            await client.start()
        await client.close()


async def test_a_restarted_node_is_reconnected_to() -> None:
    """When the node goes away the error is transient, and when it is back the same client works."""
    with Anvil() as first:
        port = first.port
        connection = Connection(first.ws, chain_id=31337, timeout=5)
        client = NodeClient([connection], attempts=2, backoff=0.01, cool_down=0.0)
        await client.start()
        assert await client.request("eth_blockNumber", []) == "0x0"
    with pytest.raises(Transient):
        await client.request("eth_blockNumber", [])
    with Anvil(port=port):
        assert await client.request("eth_blockNumber", []) == "0x0"
        await client.close()
        await client.close()


# ------------------------------------------------------------------------------------------------------ views


def compiled_views() -> str:
    settings = {
        "optimizer": {"enabled": True, "runs": 1},
        "evmVersion": "london",
        "outputSelection": {"*": {"*": ["evm.bytecode.object"]}},
    }
    request = {"language": "Solidity", "sources": {"v.sol": {"content": VIEWS}}, "settings": settings}
    code: str = compile_standard(request)["contracts"]["v.sol"]["Views"]["evm"]["bytecode"]["object"]
    return "0x" + code


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_bundled_views_equal_single_calls(chain: Anvil, transport: str) -> None:
    """Random mixes of answers, reverts, invalid opcodes, huge answers and gas burners equal one eth_call each."""
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    views = deploy(chain, compiled_views())
    mine(chain, 5)
    async with NodeClient.connect([getattr(chain, transport)]) as client:
        head = await client.head()
        compared = 0
        for kinds in ([0, 1, 5], [0, 0, 0, 1, 2, 5], [0, 0, 0, 0, 0, 0, 0, 3, 5], [*([0] * 60), 4]):
            reads = []
            for _ in range(150):
                target = views if rng.random() < 0.95 else Address("0x" + rng.randbytes(20).hex())
                reads.append(Read(target, bytes([rng.choice(kinds)]) + rng.randbytes(rng.choice((0, 3, 31, 67, 400)))))
            singles = [
                ("eth_call", [{"to": r.to, "data": "0x" + r.data.hex()}, {"blockHash": head.hash}]) for r in reads
            ]
            expected = [
                None if isinstance(item, Refusal) else bytes.fromhex(item[2:])
                for item in await client.try_batch(singles)
            ]
            assert await client.read(reads, head) == expected
            compared += len(reads)
        assert compared == 600


async def test_views_are_made_at_the_block_of_the_head(chain: Anvil) -> None:
    """A view at an older head sees that block's number and time, in a bundle as alone, while the chain goes on."""
    views = deploy(chain, compiled_views())
    async with NodeClient.connect([chain.ws]) as client:
        head = await client.head()
        mine(chain, 4)
        for count in (1, 40):
            answers = await client.read([Read(views, b"\5" + bytes([i])) for i in range(count)], head)
            for answer in answers:
                assert answer is not None
                assert int.from_bytes(answer[:32], "big") == head.number
                assert int.from_bytes(answer[32:], "big") == head.timestamp


# ------------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_heads_arrive(chain: Anvil, transport: str) -> None:
    """Every block mined is seen, with the header the node shows for it."""
    async with (
        NodeClient.connect([getattr(chain, transport)]) as client,
        Heads(client, poll_interval=0.02) as heads,
        asyncio.timeout(20),
    ):
        first = await anext(heads)
        for step in range(1, 6):
            await asyncio.to_thread(mine, chain, 1)
            head = await anext(heads)
            assert head.number == first.number + step
            assert head == await client.header(head.hash)


async def test_heads_survive_a_restart_of_the_node() -> None:
    """When the node comes back, heads come again without anybody's help."""
    with Anvil() as first:
        port, url = first.port, first.ws
        client = NodeClient.connect([url], timeout=5, attempts=1, cool_down=0.05)
        await client.start()
        heads = Heads(client)
        await heads.__aenter__()
        async with asyncio.timeout(10):
            assert (await anext(heads)).number == 0
    with Anvil(port=port) as second:
        mine(second, 2)
        async with asyncio.timeout(30):
            while (await anext(heads)).number != 2:
                pass
        await heads.__aexit__()
        await client.close()


# --------------------------------------------------------------------------------------------------- following


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_reorganisations_are_undone(chain: Anvil, tmp_path: Path, transport: str) -> None:
    """After anvil_reorg of depth 1 to 32 the mirror equals a replay of the new chain."""
    emitter = deploy(chain, deploy_code(RUNTIME))
    for _ in range(40):
        emit(chain, emitter, 2)
        mine(chain, 1)
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 31337)
    async with NodeClient.connect([getattr(chain, transport)]) as client:
        mirror = Digest(emitter)
        alerter = FakeAlerter()
        follower = Follower(client, [mirror], checkpoints, alerter, undo=40)
        advance = await follower.start(await client.head())
        assert advance.behind == frozenset()
        assert mirror.state == await replayed(client, emitter) != ""
        deepest = 0
        for depth in (1, 2, 3, 5, 8, 13, 21, 32):
            emit(chain, emitter, 1)
            mine(chain, 1)
            advance = await follower.advance(await client.head())
            assert (advance.applied, advance.undone) == (1, 0)
            assert advance.requests == 1
            before = mirror.state
            chain.rpc.request("anvil_reorg", depth, [])
            advance = await follower.advance(await client.head())
            # A block made anew can be the very block that was there: empty, on the same parent, at the same time.
            assert 1 <= advance.undone <= depth
            deepest = max(deepest, advance.undone)
            assert mirror.state == await replayed(client, emitter) != before
            emit(chain, emitter, 3)
            mine(chain, 3)
            advance = await follower.advance(await client.head())
            assert (advance.applied, advance.undone, advance.behind) == (3, 0, frozenset())
            assert mirror.state == await replayed(client, emitter)
        assert deepest > 20
        assert alerter.alerts == []
        await follower.save()

        again = Digest(emitter)
        other = Follower(client, [again], checkpoints, alerter, undo=40)
        await other.start(await client.head())
        assert again.state == mirror.state
    await checkpoints.close()


# --------------------------------------------------------------------------------------------------- back-fill


class Limits:
    """What the proxy in front of the node refuses."""

    def __init__(self, rng: random.Random, blocks: int, logs: int) -> None:
        self.rng = rng
        self.blocks = blocks
        self.logs = logs
        self.trouble = 0.0  # share of messages that are refused or damaged
        self.largest = 0
        self.refused = 0
        self.messages = 0


@asynccontextmanager
async def proxy(chain: Anvil, limits: Limits) -> AsyncIterator[str]:
    """A provider's gateway: limits ranges and results, throttles, times out, and damages answers."""

    def too_large(call: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] != "eth_getLogs" or "fromBlock" not in call["params"][0]:
            return None
        span = int(call["params"][0]["toBlock"], 16) - int(call["params"][0]["fromBlock"], 16) + 1
        if span > limits.blocks:
            text = f"eth_getLogs is limited to a {limits.blocks:,} range"
        elif len(answer["result"]) > limits.logs:
            text = f"query returned more than {limits.logs} results"
        else:
            limits.largest = max(limits.largest, span)
            return None
        limits.refused += 1
        return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": -32005, "message": text}}

    async with aiohttp.ClientSession() as session:

        async def handle(request: web.Request) -> web.Response:
            limits.messages += 1
            body = await request.json()
            if limits.rng.random() < limits.trouble:
                kind = limits.rng.randrange(4)
                if kind == 0:
                    return web.json_response({"error": {"code": 429, "message": "Too many requests"}}, status=429)
                if kind == 1:
                    return web.Response(status=503, text="upstream is away")
                if kind == 2:
                    return web.Response(status=413, text="payload too large")
            else:
                kind = -1
            async with session.post(chain.http, json=body) as upstream:
                answer = await upstream.json()
            if kind == 3:
                text = json.dumps(answer)
                return web.Response(text=text[: len(text) // 2], content_type="application/json")
            if isinstance(body, list):
                answers = [too_large(c, a) or a for c, a in zip(body, answer, strict=True)]
                limits.rng.shuffle(answers)  # the order in a batch is free
                return web.json_response(answers)
            return web.json_response(too_large(body, answer) or answer)

        application = web.Application()
        application.router.add_post("/", handle)
        server = TestServer(application)
        await server.start_server()
        try:
            yield str(server.make_url("/"))
        finally:
            await server.close()


@pytest.mark.parametrize(("blocks", "logs", "trouble"), [(10_000, 10_000, 0.0), (37, 10_000, 0.0), (500, 25, 0.25)])
async def test_a_back_fill_through_a_mean_gateway_loses_nothing(
    chain: Anvil, blocks: int, logs: int, trouble: float
) -> None:
    """Range limits, result limits, 429, 503, 413 and cut answers: each log arrives once, in order, from every block."""
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    emitter = deploy(chain, deploy_code(RUNTIME))
    for _ in range(12):
        mine(chain, rng.randrange(1, 60))
        emit(chain, emitter, rng.randrange(1, 20))
        mine(chain, 1)
    limits = Limits(rng, blocks, logs)
    async with proxy(chain, limits) as url:
        client = NodeClient.connect([url], attempts=8, backoff=0.001, cool_down=0.001, log_range=1_000)
        await client.start()
        limits.trouble = trouble
        watch = Watch(frozenset({emitter}), frozenset({TOPIC}))
        head = int(chain.rpc.request("eth_blockNumber"), 16)
        found: list[Log] = []
        cursor = 0
        async for low, high, part in client.logs(watch, 0, head):
            assert low == cursor
            cursor = high + 1
            found += part
        assert cursor == head + 1
        assert keys(found) == all_logs(chain, emitter)
        assert 0 < limits.largest <= blocks
        assert (limits.refused > 0) == (blocks < 1_000)
        await client.close()


async def test_failures_over_http_are_named(chain: Anvil) -> None:
    """A throttled, absent or babbling gateway raises Transient or BadData, nothing else, and no secret is shown."""
    limits = Limits(random.Random(SEED), 1_000, 1_000)
    async with proxy(chain, limits) as url:
        secret = url.replace("http://", "http://user:hunter2@") + "?key=hunter2"
        connection = Connection(secret, timeout=2)
        limits.trouble = 1.0
        kinds = set()
        for _ in range(40):
            with pytest.raises((Transient, BadData)) as caught:
                await connection.call([("eth_blockNumber", [])])
            kinds.add(f"{caught.type.__name__} {getattr(caught.value, 'kind', '')}".strip())
            assert "hunter2" not in str(caught.value)
        assert kinds == {"Refusal rate", "Refusal range", "Unanswered", "BadData"}
        await connection.close()
    gone = Connection(secret, timeout=2)
    with pytest.raises(Transient) as away:
        await gone.call([("eth_blockNumber", [])])
    assert "hunter2" not in str(away.value)
    await gone.close()
