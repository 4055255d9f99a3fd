"""The client over fake nodes: failover, guards, pinning, packing and back-fill."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from keeper.chain.client import NodeClient
from keeper.chain.providers import Call
from keeper.chain.refusals import Kind, Refusal, Unanswered
from keeper.errors import BadData, ConfigError, Transient, Unreachable
from keeper.model import Hash, Log, Read, Watch
from tests.chain_fakes import FACTORY, ORACLE, VALUE, FakeChain, FakeNode, child_address, view

pytestmark = pytest.mark.unit

WATCH = Watch(frozenset({FACTORY}), frozenset({VALUE}))


def silent(calls: Sequence[Call]) -> list[Any] | None:
    raise Unanswered("the node is silent")


def world(blocks: int = 5, nodes: int = 2, **options: Any) -> tuple[FakeChain, list[FakeNode], NodeClient]:
    chain = FakeChain()
    for number in range(blocks):
        chain.mine([(FACTORY, VALUE, number.to_bytes(4, "big"))])
    made = [FakeNode(chain, f"node{i}") for i in range(nodes)]
    options = {"attempts": 2, "backoff": 0.0, "rng": random.Random(1), **options}
    return chain, made, NodeClient(made, **options)


async def collect(client: NodeClient, watch: Watch, first: int, last: int) -> list[Log]:
    """All logs, checking that the ranges are contiguous."""
    found: list[Log] = []
    cursor = first
    async for low, high, logs in client.logs(watch, first, last):
        assert low == cursor
        assert high >= low
        assert all(low <= log.block_number <= high for log in logs)
        cursor = high + 1
        found += logs
    assert cursor == last + 1
    return found


# -------------------------------------------------------------------------------------------------- failover


async def test_the_first_healthy_endpoint_is_asked() -> None:
    """Endpoints are asked in configured order; one that fails is left for the next, and comes back after a probe."""
    chain, (one, two), client = world()
    await client.start()
    assert await client.head() == chain.head
    assert not any("latest" in m for m in two.messages[1:])
    one.fault = silent
    assert await client.head() == chain.head
    before = len(one.messages)
    assert await client.head() == chain.head
    assert len(one.messages) == before, "the failed endpoint is not asked again while another one is healthy"
    one.fault = lambda calls: None
    await client.pool.probe()
    asked = len(two.messages)
    await client.head()
    assert len(two.messages) == asked, "after its recovery the preferred endpoint is used again"


async def test_every_failure_of_every_endpoint_ends_in_one_error() -> None:
    """Retries are bounded, and the last error is the one that is raised."""
    _, nodes, client = world()
    for node in nodes:
        node.fault = silent
    with pytest.raises(Unanswered):
        await client.head()
    assert [len(node.messages) for node in nodes] == [2, 2]


async def test_a_nonsense_answer_moves_on_to_the_next_endpoint() -> None:
    """Wrong types are the endpoint's fault; only when all talk nonsense is it raised."""
    chain, (one, two), client = world()
    one.fault = lambda calls: [[] for _ in calls]
    assert await client.head() == chain.head
    two.fault = one.fault
    with pytest.raises(BadData):
        await client.head()


async def test_reverts_and_invalid_requests_are_not_retried() -> None:
    """A deterministic refusal is raised at once, with its data."""
    chain, (one, two), client = world()
    with pytest.raises(Refusal) as caught:
        await client.request("eth_call", [{"to": ORACLE, "data": "0xff"}, hex(chain.head.number)])
    assert caught.value.kind is Kind.REVERT
    assert caught.value.data == b""
    one.fault = lambda calls: [one.refuse(-32602, "missing value for required argument 0")]
    with pytest.raises(Refusal):
        await client.request("eth_foo", [])
    assert (len(one.messages), len(two.messages)) == (2, 0)


async def test_a_method_may_be_known_to_one_endpoint_only() -> None:
    """An unsupported method is tried elsewhere, without a penalty and without another round."""
    _, (one, two), client = world()
    two.fault = lambda calls: ["0x7"] if calls[0][0] == "eth_special" else None
    assert await client.request("eth_special", []) == "0x7"
    two.fault = lambda calls: None
    with pytest.raises(Refusal):
        await client.request("eth_special", [])
    assert (len(one.messages), len(two.messages)) == (2, 2)
    assert all(endpoint.failures == 0 for endpoint in client.pool.endpoints)


async def test_batches_answer_in_order_or_raise_the_first_error() -> None:
    """`batch` is one round trip; `try_batch` leaves refusals in their places."""
    chain, (one, _), client = world()
    block = hex(chain.head.number)
    good = ("eth_call", [{"to": ORACLE, "data": "0x01"}, block])
    bad = ("eth_call", [{"to": ORACLE, "data": "0xff"}, block])
    answers = await client.batch([good, ("eth_chainId", []), good])
    assert answers[0] == answers[2]
    assert answers[1] == "0x1"
    assert len(one.messages) == 1
    with pytest.raises(Refusal):
        await client.batch([good, bad])
    mixed = await client.try_batch([bad, good])
    assert isinstance(mixed[0], Refusal)
    assert mixed[1] == answers[0]


async def test_a_send_is_made_once_per_endpoint_and_never_again() -> None:
    """`send_raw` reports per endpoint; a send through `request` goes to one endpoint, once, even if it fails."""
    _, (one, two), client = world()
    two.fault = silent
    sent = await client.send_raw(b"\x02raw")
    assert [(s.endpoint, s.hash is not None) for s in sent] == [("node0", True), ("node1", False)]
    assert isinstance(sent[1].error, Unanswered)
    one.fault = silent
    with pytest.raises(Transient):
        await client.request("eth_sendRawTransaction", ["0x02"])
    assert (len(one.messages), len(two.messages)) == (2, 1)


# ---------------------------------------------------------------------------------------------------- guards


async def test_the_wrong_chain_stops_the_start() -> None:
    """An endpoint on another chain is a configuration error that names both chains and the endpoint."""
    _, (_, two), client = world(chain_id=1)
    two.chain = FakeChain(chain_id=5)
    with pytest.raises(ConfigError, match=r"node1 is on chain 5, but chain 1 is expected"):
        await client.start()


async def test_nobody_at_home() -> None:
    """Start needs one endpoint that answers; the error names those that did not."""
    _, (one, two), client = world()
    one.fault = silent
    await client.start()
    two.fault = silent
    client = NodeClient([one, two], attempts=1, backoff=0.0)
    with pytest.raises(Unreachable, match=r"node0.*node1"):
        await client.start()
    with pytest.raises(ConfigError):
        NodeClient([])


async def test_a_lagging_endpoint_is_not_used() -> None:
    """More than `max_lag` blocks behind the best means set aside, until a probe finds it caught up."""
    chain, (one, two), client = world(blocks=10, max_lag=3)
    one.lag = 4
    await client.start()
    assert await client.head() == chain.head
    assert await client.request("eth_chainId", []) == "0x1"
    assert len(one.messages) == 1, "nothing but the probe"
    one.lag = 3
    await client.pool.probe()
    assert (await client.head()).number == chain.head.number - 3
    one.lag = 9  # falls back while in use
    assert await client.head() == chain.head
    assert len(two.messages) > 0


async def test_an_old_head_is_not_used() -> None:
    """A head older than `max_age` is refused, whether there is one endpoint or several."""
    chain, _, client = world(nodes=1, max_age=60.0)
    with pytest.raises(Transient, match="old"):
        await client.head()
    chain.blocks[chain.head.hash] = type(chain.at(5))(
        type(chain.head)(5, chain.head.hash, chain.head.parent_hash, int(time.time()), 10), ()
    )
    assert (await client.head()).number == 5


async def test_headers_are_linked() -> None:
    """Consecutive headers are checked child by parent, and a header is the one that was asked for."""
    chain, (one, two), client = world(blocks=30, batch_size=7)
    assert [h.number for h in await client.headers(3, 25)] == list(range(3, 26))
    assert await client.header(chain.head.hash) == chain.head
    assert await client.header(3) == chain.at(3).head
    with pytest.raises(Transient):
        await client.header(31)
    with pytest.raises(Transient):
        await client.header(Hash("0x" + "12" * 32))
    other = FakeChain(chain_id=2)
    for _ in range(30):
        other.mine()
    original = one._one

    def mixed(method: str, params: Sequence[Any]) -> Any:
        one.chain = other if params[0] == "0xa" else chain
        return original(method, params)

    one._one = mixed  # type: ignore[method-assign]  # a node that changes its mind in the middle
    assert [h.hash for h in await client.headers(8, 12)] == chain.canonical[8:13], "taken from the other endpoint"
    two.fault = silent
    with pytest.raises(Transient):
        await client.headers(8, 12)


# ------------------------------------------------------------------------------------------------------ views


def some_reads(count: int) -> list[Read]:
    reads = [Read(child_address(i), bytes([i % 250, i // 250]) + b"x" * (i % 50)) for i in range(count)]
    reads[count // 2] = Read(ORACLE, b"\xff")  # reverts
    return reads


@pytest.mark.parametrize("deployless", [True, False])
@pytest.mark.parametrize("by_hash", [True, False])
@pytest.mark.parametrize("views_most", [10_000, 37])
async def test_views_are_the_same_however_the_node_takes_them(deployless: bool, by_hash: bool, views_most: int) -> None:
    """Bundled or not, by hash or by verified number, in large or small bundles: the answers are the same."""
    chain, (one, _), client = world(nodes=2)
    one.deployless, one.by_hash, one.views_most = deployless, by_hash, views_most
    reads = some_reads(300)
    expected = [view(chain.head, read) for read in reads]
    assert await client.read(reads, chain.head) == expected
    learned = len(one.messages)
    assert await client.read(reads, chain.head) == expected
    if deployless and views_most > 300:
        assert len(one.messages) == learned + 1, "one round trip once the node is known"
    assert await client.read([], chain.head) == []


async def test_large_answers_and_large_arguments() -> None:
    """Views too long for a bundle, in either direction, are asked alone; repeated views are made once."""
    chain, (one, _), client = world()
    huge_answer = Read(ORACLE, b"\xee" + (30_000).to_bytes(3, "big"))
    huge_argument = Read(ORACLE, b"\x01" * 60_000)
    medium = [Read(ORACLE, b"\xee" + (9_000).to_bytes(3, "big") + bytes([i])) for i in range(8)]
    reads = [huge_answer, *medium, huge_argument, *medium, Read(ORACLE, b"small")]
    assert await client.read(reads, chain.head) == [view(chain.head, read) for read in reads]
    calls = len(one.messages[-1])
    one.messages.clear()
    await client.read(reads, chain.head)
    assert len(one.messages) == 1, "sizes are learned"
    assert len(one.messages[0]) >= calls


async def test_views_are_pinned_to_the_hash() -> None:
    """A block that is no longer canonical answers nothing, by hash as well as by number."""
    for by_hash in (True, False):
        chain, (one, _), client = world(nodes=2)
        one.by_hash = by_hash
        old = chain.head
        await client.read(some_reads(5), old)
        chain.drop(1)
        chain.mine()
        with pytest.raises(Transient):
            await client.read(some_reads(5), old)


async def test_a_pass_is_one_round_trip() -> None:
    """The logs of a block and all views come in one message."""
    chain, (one, _), client = world()
    reads = some_reads(200)
    blocks, answers = await client.pass_batch([chain.head], WATCH, reads, chain.head)
    assert len(one.messages) == 1
    assert blocks == [chain.at(5)]
    assert answers == [view(chain.head, read) for read in reads]
    assert client.round_trips == 1


async def test_a_filter_with_too_many_addresses_is_split() -> None:
    """Long address lists are divided until the node takes them, and the logs are complete."""
    chain = FakeChain()
    many = [child_address(i) for i in range(1, 120)]
    for _ in range(3):
        chain.mine([(address, VALUE, b"") for address in many])
    node = FakeNode(chain)

    def limited(condition: dict[str, Any], logs: list[Any]) -> Any:
        return logs if len(condition["address"]) <= 20 else node.refuse(-32602, "too many addresses, maximum is 20")

    node.log_fault = limited
    client = NodeClient([node], attempts=6, backoff=0.0)
    watch = Watch(frozenset(many), frozenset({VALUE}))
    blocks, _ = await client.pass_batch([chain.head], watch, [], chain.head)
    assert blocks == [chain.at(3)]
    client = NodeClient([node], attempts=6, backoff=0.0)
    found = await collect(client, watch, 1, 3)
    assert found == [log for block in chain.branch() for log in block.logs]


# --------------------------------------------------------------------------------------------------- back-fill


def limited_to(node: FakeNode, most_blocks: int, most_logs: int, message: str) -> None:
    def limit(condition: dict[str, Any], logs: list[Any]) -> Any:
        span = int(condition["toBlock"], 16) - int(condition["fromBlock"], 16) + 1
        return node.refuse(-32005, message) if span > most_blocks or len(logs) > most_logs else logs

    node.log_fault = limit


@pytest.mark.parametrize("most_blocks", [1, 7, 100, 10_000])
@pytest.mark.parametrize("most_logs", [1, 50])
async def test_ranges_adapt_and_cover_everything(most_blocks: int, most_logs: int) -> None:
    """Whatever range or result limit a node has, every block is covered once and every log is there."""
    chain, (one, two), client = world(blocks=400)
    for node in (one, two):
        limited_to(node, most_blocks, most_logs, "query returned more than 10000 results")
    found = await collect(client, WATCH, 1, 400)
    assert found == [log for block in chain.branch() for log in block.logs]
    if min(most_blocks, most_logs) == 50:
        assert len(one.messages) < 40, "ranges grow back towards the limit"


async def test_history_is_handed_on_while_it_is_read() -> None:
    """The first logs are there after a few requests, and what was not wanted yet is not piled up."""
    chain = FakeChain()
    for _ in range(2_000):
        chain.mine([(FACTORY, VALUE, b"")])
    node = FakeNode(chain)
    served: list[int] = []

    def limit(condition: dict[str, Any], logs: list[Any]) -> Any:
        if len(logs) > 10:
            return node.refuse(-32005, "query returned more than 10 results")
        served.append(len(logs))
        return logs

    node.log_fault = limit
    ranges = NodeClient([node], backoff=0.0).logs(WATCH, 1, 2_000)
    taken = 0
    async for low, high, logs in ranges:
        taken += len(logs)
        assert (low, taken) == (high + 1 - len(logs), high)
        for _ in range(50):
            await asyncio.sleep(0)  # time for as much as is asked for ahead
        assert 0 <= sum(served) - taken <= 40
    assert taken == 2_000


async def test_others_have_their_turn_while_a_large_answer_is_taken_apart() -> None:
    """An answer of any size is worked on in pieces; the loop comes round between them."""
    chain = FakeChain()
    chain.mine([(FACTORY, VALUE, b"")] * 12_345)
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    assert len(await collect(NodeClient([FakeNode(chain)]), WATCH, 1, 1)) == 12_345
    beating.cancel()
    assert turns >= 12


async def test_the_range_grows_again_after_a_dense_stretch() -> None:
    """One dense stretch does not keep the ranges small for the rest of the history."""
    chain = FakeChain()
    for number in range(1, 3_001):
        chain.mine([(FACTORY, VALUE, b"")] * (40 if 500 <= number < 520 else 0))
    node = FakeNode(chain)
    limited_to(node, 10_000, 100, "query returned more than 10000 results")
    client = NodeClient([node], backoff=0.0, log_range=500)
    assert len(await collect(client, WATCH, 1, 3_000)) == 800
    assert client.pool.endpoints[0].span > 8
    assert len(node.messages) < 350


async def test_a_node_behind_the_range_is_not_believed() -> None:
    """A node without the range's last block would silently answer fewer logs; another one is asked, or it fails."""
    chain, (one, two), client = world(blocks=50)
    one.lag = 10
    assert len(await collect(client, WATCH, 1, 50)) == 50
    two.lag = 10
    with pytest.raises(Transient):
        await collect(client, WATCH, 1, 50)
    assert chain.head.number == 50


async def test_an_answer_cut_at_a_round_number_is_asked_again() -> None:
    """A proxy that cuts answers at 1,000 entries loses nothing."""
    chain = FakeChain()
    for _ in range(100):
        chain.mine([(FACTORY, VALUE, b"")] * 30)
    node = FakeNode(chain)
    node.log_fault = lambda condition, logs: logs[:1_000]
    assert len(await collect(NodeClient([node]), WATCH, 1, 100)) == 3_000


async def test_failures_in_the_middle_are_retried_and_then_raised() -> None:
    """An interrupted range is asked again; when it cannot be had, the iteration ends with an error, not a gap."""
    chain, (one, two), client = world(blocks=300, log_range=20)
    count = 0

    def flaky(calls: Sequence[Call]) -> list[Any] | None:
        nonlocal count
        count += 1
        return silent(calls) if count % 3 == 0 else None

    one.fault = flaky
    assert len(await collect(client, WATCH, 1, 300)) == 300
    one.fault = two.fault = lambda calls: silent(calls) if "0xc8" in str(calls) else None
    with pytest.raises(Transient):
        await collect(client, WATCH, 1, 300)
    assert chain.head.number == 300


async def test_a_block_that_cannot_be_had_is_named() -> None:
    """When even one block is too much, the error says which."""
    _, (one, two), client = world(blocks=30)
    for node in (one, two):
        limited_to(node, 0, 0, "query returned more than 10000 results")
    with pytest.raises(Refusal, match="single block 1"):
        await collect(client, WATCH, 1, 30)
