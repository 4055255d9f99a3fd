"""Messages of a node taken apart: what is a reply, what is left as text, and what is nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson
import pytest
from msgspec import Raw

from keeper.chain.connection import Connection
from keeper.chain.providers import Call, Exchange, Http
from keeper.chain.refusals import Kind, Refusal
from keeper.chain.reply import Reply, decode, plain, value
from keeper.errors import BadData

pytestmark = pytest.mark.unit

LOGS: Call = ("eth_getLogs", [{}])
CHAIN: Call = ("eth_chainId", [])
DEEP = b"[" * 150_000 + b"]" * 150_000


def results(message: bytes, *calls: Call) -> list[Any]:
    return Connection("http://node")._results(decode(message), calls)


def test_results_are_plain_and_logs_stay_text() -> None:
    """A batch is answered in the order it was asked in; only logs are left for `wire` to read."""
    answer = [
        {"jsonrpc": "2.0", "id": 8, "result": [{"data": "0x"}]},
        {"jsonrpc": "2.0", "id": 7, "result": "0x1"},
        {"jsonrpc": "2.0", "id": 9, "result": None},
        {"jsonrpc": "2.0", "id": 10, "error": {"code": 3, "message": "execution reverted"}},
    ]
    chain, logs, nothing, reverted = results(orjson.dumps(answer), CHAIN, LOGS, CHAIN, CHAIN)
    assert chain == "0x1"
    assert isinstance(logs, Raw)
    assert bytes(logs) == b'[{"data":"0x"}]'
    assert nothing is None
    assert isinstance(reverted, Refusal)
    assert reverted.kind is Kind.REVERT
    assert plain(decode(orjson.dumps(answer))) == answer
    assert results(b'{"id":1,"result":{"a":[1.5,true]},"error":null}', CHAIN) == [{"a": [1.5, True]}]
    beside = b'{"id":1,"result":7,"other":' + b"[" * 500 + b"]" * 500 + b"}"
    assert results(beside, CHAIN) == [7], "what nobody reads is not built"
    notification = decode(b'{"method":"eth_subscription","params":{"subscription":"0x1","result":{"number":"0x2"}}}')
    assert isinstance(notification, Reply)
    assert value(notification.params) == {"subscription": "0x1", "result": {"number": "0x2"}}


class Canned:
    """A provider that got one message."""

    def __init__(self, message: bytes) -> None:
        self.message = message

    def alive(self) -> bool:
        return True

    async def exchange(self, calls: Sequence[Call], *, batch: bool) -> Exchange:
        return Exchange(decode(self.message), 0, len(self.message))


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("message", [b"null", b"[]", b"42", b'"ok"', b"[null]", b'[{"id":1,"result":1},5]', b"{}"])
def test_what_is_no_reply_is_bad_data(message: bytes, calls: int) -> None:
    """JSON of another kind is not an answer to anything."""
    with pytest.raises(BadData, match=r"JSON-RPC response|neither"):
        results(message, *[CHAIN] * calls)


@pytest.mark.parametrize(
    "message",
    [
        b'[{"id":1,"result":1},{"result":2}]',
        b'[{"id":1,"result":1},{"id":null,"result":2}]',
        b'[{"id":1,"result":1},{"id":{},"result":2}]',
        b'[{"id":1,"result":1},{"id":1,"result":2}]',
        b'[{"id":1,"result":1},{"id":2}]',
    ],
)
def test_a_batch_that_cannot_be_told_apart_is_bad_data(message: bytes) -> None:
    """Without distinct ids nobody knows what was answered."""
    with pytest.raises(BadData):
        results(message, CHAIN, CHAIN)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"<!doctype html>",
        b'{"id":1,"result":[1 2]}',
        b'{"id":1,"result":"0x1"',
        b'{"id":1,"result":1}{}',
        b'{"id":1,"result":NaN}',
        b'{"id":1,"result":"\xff"}',
        b'{"id":1,"result":"\\ud800"}',
        b'{"id":1,"error":"\xff"}',
        b'{"id":1,"result":' + DEEP + b"}",
        b'{"id":1,"error":' + DEEP + b"}",
    ],
)
async def test_what_is_not_json_is_bad_data(message: bytes) -> None:
    """The error says who answered it, however deep the nonsense is nested."""
    connection = Connection("http://node")
    connection._provider = cast(Http, Canned(message))
    with pytest.raises(BadData, match="http://node answered something that is not JSON"):
        await connection.call([CHAIN])
