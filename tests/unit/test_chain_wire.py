"""Raw answers to values, and the dialects in which nodes refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from msgspec import Raw

from keeper.chain import wire
from keeper.chain.connection import masked
from keeper.chain.multicall import AGAIN, Packer, capacity, pack, request_size, unpack
from keeper.chain.refusals import Kind, classify, refusal, suggested_last
from keeper.errors import BadData, Transient
from keeper.model import Address, Block, Hash, Read, Watch
from tests.chain_fakes import FACTORY, VALUE, FakeChain, child_address, raw_head, raw_log

pytestmark = pytest.mark.unit

WATCH = Watch(frozenset({FACTORY}), frozenset({VALUE}))


def sample(blocks: int = 3) -> tuple[list[Block], list[dict[str, Any]]]:
    chain = FakeChain()
    for number in range(blocks):
        chain.mine([(FACTORY, VALUE, bytes([number, i])) for i in range(2)])
    made = chain.branch()[1:]
    return made, [raw_log(block, log) for block in made for log in block.logs]


def text(raw: Any) -> Raw:
    return Raw(orjson.dumps(raw))


def plain(raw: Any) -> Any:
    return raw


FORMS = pytest.mark.parametrize("form", [plain, text], ids=["plain", "text"])
Form = Callable[[Any], Any]


@FORMS
def test_logs_survive_the_wire(form: Form) -> None:
    """What a node sends is what the model holds, in chain order."""
    blocks, raw = sample()
    expected = [log for block in blocks for log in block.logs]
    assert wire.logs(form(raw), WATCH, 1, 3) == expected
    more = [{**item, "blockTimestamp": "0x1", "transactionIndex": "0x0", "removed": None} for item in raw]
    assert wire.logs(form(more), WATCH, 1, 3) == expected


@FORMS
def test_logs_are_put_in_order_and_duplicates_dropped(form: Form) -> None:
    """A shuffled answer with repetitions means the same as an orderly one."""
    blocks, raw = sample()
    expected = [log for block in blocks for log in block.logs]
    assert wire.logs(form([*reversed(raw), raw[0], raw[3]]), WATCH, 1, 3) == expected
    shouted = [
        {
            **item,
            **{key: _shout(item[key]) for key in ("address", "data")},
            "topics": [_shout(t) for t in item["topics"]],
        }
        for item in raw
    ]
    assert wire.logs(form(shouted), WATCH, 1, 3) == expected


def _shout(word: str) -> str:
    return word.upper().replace("0X", "0x")


def test_an_answer_in_parts_is_the_answer() -> None:
    """However an answer is cut, disorder, repetitions and contradictions across the cut are seen."""
    blocks, raw = sample()
    mixed = [raw[2], raw[3], raw[0], raw[5], raw[0], raw[1], raw[4]]
    for cut in range(len(mixed) + 1):
        logs = wire.Logs(WATCH, 1, 3)
        logs.take(wire.entries(mixed[:cut]))
        logs.take(wire.entries(mixed[cut:]))
        assert logs.all() == [log for block in blocks for log in block.logs]
        logs = wire.Logs(WATCH, 1, 3)
        logs.take(wire.entries(raw[: cut % 6 + 1]))
        with pytest.raises(BadData, match="two different logs"):
            logs.take(wire.entries([{**raw[cut % 6], "data": "0x99"}]))
        logs = wire.Logs(WATCH, 1, 3)
        logs.take(wire.entries(raw[:1]))
        with pytest.raises(Transient, match="reorganised"):
            logs.take(wire.entries([{**raw[1], "blockHash": "0x" + "77" * 32}]))


@FORMS
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"removed": True}, BadData),
        ({"removed": "yes"}, BadData),
        ({"address": child_address(7)}, BadData),
        ({"address": None}, BadData),
        ({"topics": ["0x" + "99" * 32]}, BadData),
        ({"topics": [child_address(7), VALUE]}, BadData),
        ({"topics": []}, BadData),
        ({"topics": None}, BadData),
        ({"topics": VALUE}, BadData),
        ({"topics": [VALUE, 7]}, BadData),
        ({"blockNumber": "0x9"}, BadData),
        ({"blockNumber": "0x0"}, BadData),
        ({"blockNumber": None}, BadData),
        ({"blockNumber": 1}, BadData),
        ({"data": 7}, BadData),
        ({"data": "0xzz"}, BadData),
        ({"data": "0x123"}, BadData),
        ({"data": "0x12 34"}, BadData),
        ({"data": "0x12\u0663"}, BadData),
        ({"data": None}, BadData),
        ({"logIndex": "one"}, BadData),
        ({"logIndex": ["0x1"]}, BadData),
        ({"transactionHash": None}, BadData),
        ({"blockHash": {}}, BadData),
        ({"blockHash": "0x" + "77" * 32}, Transient),
        ({"data": "0x1234"}, BadData),  # another log in the place of the first
    ],
)
def test_a_log_that_cannot_be_right_is_rejected(form: Form, change: dict[str, Any], error: type[Exception]) -> None:
    """A log nobody asked for, removed, malformed, contradictory, or of a block that changed meanwhile is not taken."""
    _, raw = sample(1)
    with pytest.raises(error):
        wire.logs(form([*raw, {**raw[0], **change}]), WATCH, 1, 1)


@FORMS
@pytest.mark.parametrize(
    "key", ["address", "topics", "data", "blockNumber", "blockHash", "logIndex", "transactionHash"]
)
def test_a_log_that_lacks_something_is_rejected(form: Form, key: str) -> None:
    """Every field that is used must be there."""
    _, raw = sample(1)
    with pytest.raises(BadData, match="malformed log"):
        wire.logs(form([*raw, {name: value for name, value in raw[1].items() if name != key}]), WATCH, 1, 1)


@FORMS
def test_logs_of_another_block_hash_are_not_taken(form: Form) -> None:
    """Asked by hash, answered from elsewhere: the block was reorganised."""
    _, raw = sample(1)
    with pytest.raises(Transient, match="reorganised"):
        wire.logs(form(raw), WATCH, 1, 1, {1: Hash("0x" + "55" * 32)})
    answers: tuple[Any, ...] = (None, {}, "0x", 7, [None], ["x"], [[]], {"0": raw[0]})
    for nonsense in answers:
        with pytest.raises(BadData):
            wire.logs(form(nonsense), WATCH, 1, 1)


@pytest.mark.parametrize(
    "answer", [b"", b"[", b"[{]", b'[{"address":"\xff"}]', b'[{"x":' + b"[" * 150_000 + b"]" * 150_000 + b"}]"]
)
def test_logs_that_are_not_even_json_are_bad_data(answer: bytes) -> None:
    """Broken text, broken characters and bottomless nesting end in the error that has the market distrusted."""
    with pytest.raises(BadData, match="malformed log"):
        wire.logs(Raw(answer), WATCH, 1, 1)


def test_headers() -> None:
    """A header is read exactly; a missing block is transient, nonsense is not."""
    head = FakeChain().mine()
    assert wire.head(raw_head(head)) == head
    without_fee = {k: v for k, v in raw_head(head).items() if k != "baseFeePerGas"}
    assert wire.head(without_fee).base_fee == 0
    with pytest.raises(Transient, match="block 7"):
        wire.head(None, "block 7")
    for change in ({"hash": "0x12"}, {"number": 12}, {"timestamp": "soon"}, {"gasLimit": None}, {"parentHash": None}):
        with pytest.raises(BadData):
            wire.head({**raw_head(head), **change})
    with pytest.raises(BadData):
        wire.head("0x1")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        # range limits
        (-32005, "query returned more than 10000 results", Kind.RANGE),  # geth-based gateways, Infura
        (
            -32602,
            "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
            Kind.RANGE,
        ),
        (-32600, "You can make eth_getLogs requests with up to a 500 block range.", Kind.RANGE),  # Alchemy
        (-32614, "eth_getLogs is limited to a 10,000 range", Kind.RANGE),  # QuickNode
        (-32000, "exceed maximum block range: 5000", Kind.RANGE),  # BSC
        (-32602, "query exceeds max results 20000, retry with the range 100-200", Kind.RANGE),  # reth
        (-32602, "query exceeds max block range 100000", Kind.RANGE),  # reth
        (-32000, "block range is too wide", Kind.RANGE),  # Ankr
        (-32000, "Block range limit exceeded", Kind.RANGE),  # Chainstack
        (-32047, "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800", Kind.RANGE),
        (-32012, "requested range too large", Kind.RANGE),
        (-32000, "logs matched by query exceeds limit of 10000", Kind.RANGE),  # Polygon, erigon
        (-32000, "query timeout exceeded", Kind.RANGE),  # Alchemy, geth
        (-32000, "eth_getLogs: too many addresses, maximum is 1000", Kind.RANGE),
        (-32600, "batch limit 1000 exceeded", Kind.RANGE),  # erigon
        (-32600, "batch too large", Kind.RANGE),  # geth
        (-32008, "Response is too big", Kind.RANGE),  # jsonrpsee (reth)
        (-32003, "response too large", Kind.RANGE),  # geth
        # rates
        (429, "Your app has exceeded its compute units per second capacity.", Kind.RATE),  # Alchemy
        (-32005, "daily request count exceeded, request rate limited", Kind.RATE),  # Infura
        (-32007, "50/second request limit reached - reduce calls per second", Kind.RATE),  # QuickNode
        (-32005, "limit exceeded", Kind.RATE),
        (-32090, "Too many requests, reason: call rate limit exhausted", Kind.RATE),
        # unknown blocks and states
        (-32000, "header not found", Kind.BEHIND),  # geth
        (-32001, "Resource not found", Kind.BEHIND),  # anvil
        (-32000, "hash 0x12 is not currently canonical", Kind.BEHIND),  # geth
        (-32000, "missing trie node 0xabc (path ) state 0xabc is not available", Kind.BEHIND),
        (-32000, "unknown block", Kind.BEHIND),
        (-32000, "block not found: 0x12", Kind.BEHIND),  # erigon, reth
        (-32002, "No state available for block 0x12", Kind.BEHIND),  # nethermind
        (-32000, "historical state 0xabc is not available", Kind.BEHIND),
        (-32000, "cannot query unfinalized data: block is after latest block", Kind.BEHIND),
        # the call itself
        (3, "execution reverted: 32", Kind.REVERT),
        (-32000, "execution reverted", Kind.REVERT),
        (-32015, "VM execution error. Reverted 0x08c379a0", Kind.REVERT),  # parity, nethermind
        (-32603, "EVM error InvalidFEOpcode", Kind.REVERT),  # anvil
        (-32000, "invalid opcode: INVALID", Kind.REVERT),  # geth
        (-32000, "out of gas", Kind.GAS),
        (-32603, "EVM error MemoryOOG", Kind.GAS),
        (-32603, "EVM error OutOfGas", Kind.GAS),  # anvil
        (-32000, "gas required exceeds allowance (50000000)", Kind.GAS),
        (-32603, "EVM error CreateContractSizeLimit", Kind.GAS),  # anvil
        (-32000, "max initcode size exceeded: code size 60000, limit 49152", Kind.GAS),  # geth
        (-32000, "execution aborted (timeout = 5s)", Kind.GAS),  # geth
        # the rest
        (-32601, "the method eth_simulateV1 does not exist/is not available", Kind.UNSUPPORTED),
        (-32601, "Method not found", Kind.UNSUPPORTED),
        (-32602, "data did not match any variant of untagged enum EthRpcCall", Kind.UNSUPPORTED),  # anvil, WebSocket
        (-32602, "missing value for required argument 0", Kind.INVALID),
        (-32000, "nonce too low", Kind.OTHER),
        (-32603, "Internal error", Kind.OTHER),
    ],
)
def test_refusals_are_understood_in_every_dialect(code: int, text: str, kind: Kind) -> None:
    """The texts of the common nodes and providers lead to the right reaction."""
    assert classify(code, text) is kind


def test_refusals_carry_revert_data_however_it_is_wrapped() -> None:
    """Revert data is found plain, prefixed with a word, and nested by a proxy."""
    data = "0x08c379a0"
    for error in (
        {"code": 3, "message": "execution reverted", "data": data},
        {"code": -32015, "message": "VM execution error.", "data": "Reverted " + data},
        {"code": -32603, "message": "internal", "data": {"message": "execution reverted", "data": data}},
    ):
        found = refusal(error, "node")
        assert (found.kind, found.data) == (Kind.REVERT, bytes.fromhex(data[2:]))
    assert refusal("boom", "node").kind is Kind.OTHER
    assert len(refusal({"code": 1, "message": "x" * 10_000}, "node").reason) <= 300


def test_the_range_a_node_proposes_is_taken() -> None:
    """Proposals are read in hex and decimal, and ignored when they do not begin where we are."""
    alchemy = "Based on your parameters and the response size limit, this block range should work: [0x64, 0xc8]"
    infura = "query returned more than 10000 results. Try with this block range [0x64, 0xC8]."
    assert suggested_last(alchemy, 100) == suggested_last(infura, 100) == 200
    assert suggested_last("query exceeds max results 20000, retry with the range 100-200", 100) == 200
    assert suggested_last(alchemy, 99) is None
    assert suggested_last("block range is too wide", 100) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host.example:8545/v3/0123456789abcdef?key=secret", "https://host.example:8545/…"),
        ("wss://host.example", "wss://host.example"),
        ("http://127.0.0.1:8545/", "http://127.0.0.1:8545"),
        ("/var/run/geth.ipc", "/var/run/geth.ipc"),
        ("http://[half", "an unreadable URL"),
    ],
)
def test_urls_are_masked(url: str, shown: str) -> None:
    """Credentials, paths and queries of a URL are never shown."""
    assert masked(url) == shown


def test_bundles_respect_both_limits() -> None:
    """No bundle exceeds the init code limit, nor what its answers are known to need; every view is in one bundle."""
    packer = Packer()
    reads = [Read(FACTORY, bytes([1, 2, 3, i % 7]) * (1 + i % 40)) for i in range(2_000)]
    packer.learn(reads[0], 4_000)
    bundles = packer.bundles(reads, 500)
    assert [index for bundle in bundles for index in bundle] == list(range(len(reads)))
    for bundle in bundles:
        assert len(pack([reads[i] for i in bundle])) <= 49_152
        assert sum(request_size(reads[i]) for i in bundle) <= capacity()
        assert sum(4_000 for i in bundle if reads[i].data[:4] == reads[0].data[:4]) <= 24_576
        assert len(bundle) <= 500


def test_bundled_answers_are_taken_apart() -> None:
    """Answered, reverted and open items are told apart; anything else is nonsense."""
    answer = b"\0" + b"\1\0\0\2ab" + b"\0\0\0\0" + b"\2\0\0\0" + b"\1\0\0\0"
    assert unpack(answer, 4) == [b"ab", None, AGAIN, b""]
    for broken in (b"", answer[:-1], answer + b"x", b"\1" + answer[1:], b"\0\3\0\0\0"):
        with pytest.raises(BadData):
            unpack(broken, 4 if broken != b"\0\3\0\0\0" else 1)


def test_a_filter_names_addresses_topics_and_indexed_words() -> None:
    """The filter is sorted, and an empty set of words is a wildcard."""
    words = frozenset({"0x02", "0x01"})
    watch = Watch(frozenset({FACTORY}), frozenset({VALUE}), (frozenset(), words))
    assert wire.log_filter(watch, [Address(FACTORY)]) == {
        "address": [FACTORY],
        "topics": [[VALUE], None, ["0x01", "0x02"]],
    }
