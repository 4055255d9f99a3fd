"""Pending feed updates without a chain: decoding, whose feeds they are, raw transactions, hints."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.crypto import keccak

from keeper.abi import interface
from keeper.chain.mempool import Mempool, raw_transaction, read_pending
from keeper.errors import ConfigError, Transient
from keeper.execution.mev_share import read_hint
from keeper.execution.oracle_updates import ANSWER_UPDATED, Feeds, Update, answer_in_log, decode_call
from keeper.model import Address, Hash, Head, Read, address

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
FEED = interface("price_feed")
AGGREGATOR, FORWARDER, STRANGER = (Address("0x" + byte * 20) for byte in ("a1", "f0", "57"))
ASSET, OTHER_ASSET = Address("0x" + "01" * 20), Address("0x" + "02" * 20)
PROXY, ADAPTER, INNER = (Address("0x" + byte * 20) for byte in ("b1", "b2", "b3"))
HASH = Hash("0x" + "cd" * 32)
HEAD = Head(100, Hash("0x" + "11" * 32), Hash("0x" + "10" * 32), 1_700_000_000, 10**9)


def transmit(observed: Sequence[int], name: str = "transmit") -> bytes:
    report = encode(["uint32", "bytes32", "int192[]", "int192"], [7, b"", list(observed), 10**18])
    return FEED.encode(name, [b"\1" * 32, b"\2" * 32, b"\0" * 32], report, [b"\3" * 32], [b"\4" * 32], b"\0" * 32)


def forwarded(inner: bytes, to: Address = AGGREGATOR) -> bytes:
    return FEED.encode("forward", to, inner)


def test_selectors_are_the_ones_on_chain() -> None:
    """transmit, transmitSecondary, forward and the log, as published."""
    selectors = {name: FEED.functions[name].selector.hex() for name in ("transmit", "transmitSecondary", "forward")}
    assert selectors == {"transmit": "b1dc65a4", "transmitSecondary": "ba0cb29e", "forward": "6fadcf72"}
    assert ANSWER_UPDATED.startswith("0x0559884f")


def test_the_answer_is_the_median_as_the_aggregator_takes_it() -> None:
    """1,000 random sorted reports, direct and forwarded, either entry: observations[length / 2]."""
    rng = random.Random(SEED)
    for _ in range(1_000):
        observed = sorted(rng.randrange(1, 10**14) for _ in range(rng.randrange(1, 32)))
        data = transmit(observed, rng.choice(["transmit", "transmitSecondary"]))
        wanted = (AGGREGATOR, observed[len(observed) // 2])
        assert decode_call(AGGREGATOR, data) == wanted
        assert decode_call(FORWARDER, forwarded(data)) == wanted


def test_what_would_revert_or_is_something_else_is_no_update() -> None:
    """Unsorted, empty, negative, cut short at any byte, doubly forwarded, foreign: None, and never an error."""
    good = forwarded(transmit([5, 6, 7]))
    for data in (
        transmit([3, 2]),
        transmit([]),
        transmit([-5, -4]),
        transmit([0]),
        forwarded(good),
        b"",
        b"\xb1\xdc\x65\xa4",
        b"\xa9\x05\x9c\xbb" + bytes(64),
    ):
        assert decode_call(AGGREGATOR, data) is None
    assert all(decode_call(FORWARDER, good[:cut]) is None for cut in range(0, len(good) - 40, 7))
    rng = random.Random(SEED)
    for _ in range(2_000):
        wild = bytearray(good)
        wild[rng.randrange(4, len(wild))] = rng.randrange(256)
        found = decode_call(FORWARDER, bytes(wild))
        assert found is None or found[1] > 0


class FakeNode:
    """Answers views by (target, function)."""

    def __init__(self, answers: Mapping[tuple[Address, str], bytes]) -> None:
        self.answers = dict(answers)
        self.fails = False

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        if self.fails:
            raise Transient("no")
        names = {function.selector: name for name, function in FEED.functions.items()}
        return [self.answers.get((read.to, names[read.data[:4]])) for read in reads]


class FakeBook:
    """Two assets: one priced by a feed, one by an adapter over another feed."""

    name = "market"

    def __init__(self, prices: dict[Address, int | None]) -> None:
        self._prices = prices

    async def price_sources(self, client: Any, head: Head) -> dict[Address, Address]:
        return {ASSET: PROXY, OTHER_ASSET: ADAPTER}

    def prices(self) -> dict[Address, int | None]:
        return self._prices


def word(value: int | Address) -> bytes:
    return (int(value, 16) if isinstance(value, str) else value).to_bytes(32, "big")


def node(adapter_says: int = 100) -> FakeNode:
    return FakeNode(
        {
            (PROXY, "aggregator"): word(AGGREGATOR),
            (PROXY, "latestAnswer"): word(3_000),
            (ADAPTER, "ASSET_TO_USD_AGGREGATOR"): word(INNER),
            (ADAPTER, "latestAnswer"): word(adapter_says),
            (INNER, "latestAnswer"): word(100),
            (INNER, "aggregator"): word(STRANGER),
        }
    )


async def read(feeds: Feeds, client: FakeNode, prices: dict[Address, int | None], head: Head = HEAD) -> None:
    books: Any = [FakeBook(prices)]
    anything: Any = client
    await feeds.read(anything, books, head)


async def test_feeds_are_found_behind_the_books_prices() -> None:
    """The proxy's aggregator; an adapter's too, as long as it passes its feed's answer on unchanged."""
    feeds = Feeds()
    await read(feeds, node(), {ASSET: 3_000, OTHER_ASSET: 100})
    assert feeds.of(AGGREGATOR, "market") == [ASSET]
    assert feeds.of(STRANGER, "market") == [OTHER_ASSET]
    assert feeds.of(AGGREGATOR, "another") == []
    assert feeds.wants(AGGREGATOR, transmit([1]))
    assert feeds.wants(FORWARDER, forwarded(transmit([1])))
    assert not feeds.wants(FORWARDER, forwarded(transmit([1]), PROXY))
    assert not feeds.wants(PROXY, transmit([1]))
    assert not feeds.wants(AGGREGATOR, b"\xa9\x05\x9c\xbb")


async def test_an_adapter_that_says_something_else_is_left_out_with_its_reason() -> None:
    """A cap that bites, a price that is not the feed's, a source without a feed: skipped, the reason kept."""
    feeds = Feeds()
    await read(feeds, node(adapter_says=97), {ASSET: 3_001, OTHER_ASSET: 97})
    assert feeds.assets == {}
    assert set(feeds.skipped) == {("market", ASSET), ("market", OTHER_ASSET)}
    assert "not its feed's answer" in feeds.skipped["market", ASSET]
    await read(feeds, FakeNode({}), {ASSET: 3_000, OTHER_ASSET: 97})
    assert "names no feed" in feeds.skipped["market", ASSET]


async def test_a_switched_aggregator_is_noticed_in_time() -> None:
    """A proxy's switch emits nothing: it is read anew after `every` blocks; a failed read keeps what was known."""
    feeds, client = Feeds(every=50), node()
    assert feeds.due(HEAD)
    await read(feeds, client, {ASSET: 3_000, OTHER_ASSET: 100})
    assert not feeds.due(Head(149, *_rest()))
    assert feeds.due(Head(150, *_rest()))
    client.fails = True
    with pytest.raises(Transient):
        await read(feeds, client, {ASSET: 3_000, OTHER_ASSET: 100})
    assert AGGREGATOR in feeds.assets
    client.fails = False
    client.answers[PROXY, "aggregator"] = word(FORWARDER)
    await read(feeds, client, {ASSET: 3_000, OTHER_ASSET: 100}, Head(150, *_rest()))
    assert AGGREGATOR not in feeds.assets
    assert feeds.of(FORWARDER, "market") == [ASSET]


def _rest() -> tuple[Hash, Hash, int, int]:
    return HEAD.hash, HEAD.parent_hash, HEAD.timestamp, HEAD.base_fee


def body_of(fields: dict[str, Any], key: str) -> tuple[dict[str, Any], bytes]:
    """A node's transaction object for a signed transaction, and its raw bytes."""
    signed = Account.sign_transaction(fields, key)
    body: dict[str, Any] = {name: hex(value) if isinstance(value, int) else value for name, value in fields.items()}
    body["input"] = "0x" + bytes(body.pop("data")).hex()
    body["from"] = Account.from_key(key).address
    body |= {"r": hex(signed.r), "s": hex(signed.s), "v": hex(signed.v), "hash": "0x" + bytes(signed.hash).hex()}
    body.setdefault("type", "0x0")
    return body | {"blockNumber": None}, bytes(signed.raw_transaction)


def test_raw_transactions_are_rebuilt_byte_for_byte() -> None:
    """300 random signed transactions of types 0, 1 and 2, as eth_account encodes them."""
    rng = random.Random(SEED)
    for number in range(300):
        fields: dict[str, Any] = {
            "nonce": rng.choice([0, 1, 127, 128, 70_000]),
            "to": Account.from_key("0x" + "09" * 32).address,
            "value": rng.choice([0, 1, 10**18]),
            "data": rng.randbytes(rng.choice([0, 1, 4, 55, 56, 300])),
            "gas": rng.randrange(21_000, 10**6),
            "chainId": rng.choice([1, 31337]),
        }
        if number % 3 == 0:
            fields |= {"gasPrice": rng.randrange(1, 10**12)}
        else:
            keys = ["0x" + rng.randbytes(32).hex() for _ in range(rng.randrange(3))]
            entry = {"address": "0x" + rng.randbytes(20).hex(), "storageKeys": keys}
            fields |= {"accessList": [entry] * rng.randrange(3), "type": 1 + number % 2}
            if fields["type"] == 1:
                fields |= {"gasPrice": rng.randrange(1, 10**12)}
            else:
                fields |= {"maxFeePerGas": rng.randrange(10**9, 10**12), "maxPriorityFeePerGas": rng.randrange(10**9)}
        body, raw = body_of(fields, "0x" + rng.randbytes(32).hex())
        assert raw_transaction(body) == raw
        pending = read_pending(body, lambda to, data: True)
        assert pending is not None
        assert (pending.raw, pending.hash) == (raw, "0x" + keccak(raw).hex())
        assert (pending.data, pending.nonce) == (fields["data"], fields["nonce"])


def test_a_body_that_does_not_add_up_has_no_raw_bytes() -> None:
    """A node that alters a field, a blob transaction, a mined one, nonsense: no raw bytes, or nothing at all."""
    fields = {"nonce": 1, "to": Account.from_key("0x" + "09" * 32).address, "value": 0, "data": b"", "gas": 21_000}
    body, _ = body_of({**fields, "chainId": 1, "gasPrice": 10**9}, "0x" + "08" * 32)
    altered = read_pending({**body, "gas": "0x5209"}, lambda to, data: True)
    assert altered is not None
    assert altered.raw is None
    assert raw_transaction({**body, "type": "0x3"}) is None
    nonsense: list[Any] = [
        None,
        "0x12",
        [],
        {},
        {**body, "blockNumber": "0x1"},
        {**body, "to": None},
        {**body, "to": "0x12"},
        {**body, "input": 5},
        {**body, "nonce": "x"},
        {**body, "hash": "0x1"},
    ]
    assert all(read_pending(item, lambda to, data: True) is None for item in nonsense)
    assert read_pending(body, lambda to, data: False) is None


def test_hints_name_an_update_only_if_they_show_it() -> None:
    """By calldata or by log, for feeds in use; anything else, however broken, is nothing."""
    feeds = Feeds(assets={AGGREGATOR: [("market", ASSET)]})
    call = {"to": FORWARDER, "callData": "0x" + forwarded(transmit([5, 6, 9])).hex(), "functionSelector": "0x6fadcf72"}
    assert read_hint({"hash": HASH, "txs": [call]}, feeds) == Update(AGGREGATOR, 6, HASH, None)
    entry = {"address": AGGREGATOR.upper().replace("0X", "0x"), "topics": [ANSWER_UPDATED, "0x" + "00" * 31 + "2a"]}
    assert read_hint({"hash": HASH, "txs": None, "logs": [entry]}, feeds) == Update(AGGREGATOR, 42, HASH, None)
    nothing: list[dict[str, Any]] = [
        {},
        {"hash": HASH},
        {"hash": "0x12", "logs": [entry]},
        {"hash": HASH, "logs": [{**entry, "address": STRANGER}]},
        {"hash": HASH, "logs": [{**entry, "topics": []}]},
        {"hash": HASH, "logs": [{**entry, "topics": [ANSWER_UPDATED, "0x" + "ff" * 32]}]},
        {"hash": HASH, "logs": "x"},
        {"hash": HASH, "txs": [{"to": FORWARDER, "functionSelector": "0x6fadcf72"}]},
        {"hash": HASH, "txs": [{}]},
    ]
    assert [read_hint(hint, feeds) for hint in nothing] == [None] * len(nothing)
    assert answer_in_log([ANSWER_UPDATED, "0x" + "zz" * 32]) is None


class FakeLink:
    """A node that announces what it is told to, in whole bodies or by hash."""

    push = True

    def __init__(self, *, bodies: bool) -> None:
        self.bodies = bodies
        self.notify: Callable[[Any], None] | None = None
        self.subscriptions = 0

    async def subscribe(self, params: Sequence[Any], notify: Callable[[Any], None]) -> str:
        self.subscriptions += 1
        self.notify = notify
        return "0x1"


class FakeEndpoint:
    """What the mempool uses of an endpoint."""

    label = "fake"

    def __init__(self, link: FakeLink, known: dict[str, Any]) -> None:
        self.link = link
        self.known = known

    async def ask(self, calls: Sequence[Any], *, within: float | None = None) -> list[Any]:
        return [self.known.get(params[0]) for method, params in calls]


class FakeClient:
    """What the mempool uses of a client."""

    def __init__(self, endpoints: list[FakeEndpoint]) -> None:
        self.pool = self
        self.endpoints = endpoints

    def candidates(self) -> list[FakeEndpoint]:
        return self.endpoints


@pytest.mark.parametrize("whole", [True, False])
async def test_pending_transactions_come_whole_or_by_hash_and_survive_a_lost_socket(whole: bool) -> None:
    """What is announced and wanted is yielded, once; after the connection is lost the subscription is made anew."""
    fields = {"nonce": 1, "to": Account.from_key("0x" + "09" * 32).address, "value": 0, "gas": 21_000, "chainId": 1}
    made = [body_of({**fields, "data": bytes([n]), "gasPrice": 10**9}, "0x" + "08" * 32)[0] for n in range(4)]
    link = FakeLink(bodies=whole)
    client: Any = FakeClient([FakeEndpoint(link, {body["hash"]: body for body in made})])
    mempool = Mempool(client, lambda to, data: data != b"\2", retry=0.01)
    seen: list[bytes] = []

    async def collect() -> None:
        async for pending in mempool:
            seen.append(pending.data)

    task = asyncio.create_task(collect())
    try:
        for number, body in enumerate(made):
            for _ in range(200):
                if link.notify is not None and link.subscriptions > (number > 2):
                    break
                await asyncio.sleep(0.005)
            assert link.notify is not None
            link.notify(body if whole else body["hash"])
            await asyncio.sleep(0.01)
            if number == 2:
                link.notify(None)
        await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == [b"\0", b"\1", b"\3"]
    assert link.subscriptions == 2


async def test_without_a_subscribing_endpoint_it_says_what_to_add() -> None:
    """HTTP endpoints announce nothing: a ConfigError names what is needed."""
    client: Any = FakeClient([])
    with pytest.raises(ConfigError, match="wss://"):
        await anext(aiter(Mempool(client, lambda to, data: True)))


def test_addresses_in_calldata_are_normalised() -> None:
    """The aggregator inside a forward is the lower-case address everything else uses."""
    assert decode_call(FORWARDER, forwarded(transmit([4]))) == (address(AGGREGATOR.upper().replace("0X", "0x")), 4)
