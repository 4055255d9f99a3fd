"""Every way the node can misbehave that the keeper is tried with, by name."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.fault_proxy import Channel, Fault, Json

Change = Callable[[random.Random, Json, Json], Json | None]

BOTH, WS, HTTP = ("ws", "http"), ("ws",), ("http",)
SEND = "eth_sendRawTransaction"
BLOCKS = ("eth_getBlockByNumber", "eth_getBlockByHash")
LOGS = ("eth_getLogs",)
CALLS = ("eth_call", "eth_simulateV1")
_GARBAGE = (b"", b"\xff\xfe\x00", b"{", b"null", b"[]", b"42", b'"ok"', b"NaN")


@dataclass(frozen=True)
class Kind:
    """`deceives`: what is answered is consistent, well-formed and wrong: one node alone cannot be found out at once."""

    name: str
    make: Callable[[random.Random], Fault]
    transports: tuple[str, ...] = BOTH
    deceives: bool = False


class _Some(Fault):
    """Disturbs a share of what passes."""

    def __init__(self, rng: random.Random, rate: float = 0.4) -> None:
        self.rng, self.rate = rng, rate

    def hit(self) -> bool:
        struck = self.rng.random() < self.rate
        self.hits += struck
        return struck


# -------------------------------------------------------------------------------------------------- the wire


class _Wire(_Some):
    """Disturbs how whole messages get across."""

    def __init__(self, rng: random.Random, way: str, rate: float = 0.4) -> None:
        super().__init__(rng, rate)
        self.way = way
        self.held: asyncio.Event | None = None

    async def deliver(self, channel: Channel, text: bytes) -> None:
        if not self.hit():
            await channel.send(text)
            return
        match self.way:
            case "drop":
                return
            case "delay":
                await asyncio.sleep(self.rng.choice((0.02, 0.1, 0.6)))
                await channel.send(text)
            case "truncate":
                await channel.send(text[: self.rng.randrange(1, len(text))])
            case "duplicate":
                await channel.send(text)
                await channel.send(text)
            case "reorder":
                await asyncio.sleep(self.rng.random() * 0.05)
                await channel.send(text)
            case "cut_before":
                channel.cut()
            case "cut_after":
                await channel.send(text)
                channel.cut()
            case "cut_mid_frame":
                await channel.begin(text, self.rng.randrange(len(text)))
                channel.cut()
            case "stall_mid_frame":
                await channel.begin(text, self.rng.randrange(len(text)))
                await asyncio.sleep(0.5)
                channel.cut()
            case "slow_loris":
                await channel.begin(text, 1)
                await asyncio.sleep(1.5)
                channel.cut()
            case "huge":
                await channel.send(text[:-1] + b" " * (8 << 20) + text[-1:])
            case "garbage":
                await channel.send(
                    self.rng.choice((b"", b"\xff\xfe\x00", b"{", b"null", b"[]", b"42", b'"ok"', b"NaN"))
                )
            case "html":
                await channel.send(b"<!doctype html><title>Bad gateway</title>")
            case status:
                await channel.send(b'{"error":"slow down"}', int(status), {"Retry-After": "1"})


class _Refuse(_Some):
    def __init__(self, rng: random.Random, cut: bool) -> None:
        super().__init__(rng, 0.7)
        self.cut = cut

    def accept(self, push: bool) -> int:
        return self.rng.choice((429, 502, 503)) if self.hit() else 0

    async def deliver(self, channel: Channel, text: bytes) -> None:
        await channel.send(text)
        if self.cut:
            channel.cut()


class _Deaf(Fault):
    def deaf(self) -> bool:
        self.hits += 1
        return True


# --------------------------------------------------------------------------------------------- single answers


class _Answer(_Some):
    """Changes the answers to some methods."""

    def __init__(self, rng: random.Random, change: Change, methods: tuple[str, ...] = (), rate: float = 0.4) -> None:
        super().__init__(rng, rate)
        self.change, self.methods = change, methods

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if response is None or (self.methods and request["method"] not in self.methods) or not self.hit():
            return response
        return self.change(self.rng, request, copy.deepcopy(response))


class _Batch(_Some):
    def __init__(self, rng: random.Random, change: Callable[[random.Random, list[Json]], Any]) -> None:
        super().__init__(rng, 0.6)
        self.change = change

    def reply(self, replies: list[Json], batch: bool) -> Any:
        whole = super().reply(replies, batch)
        return self.change(self.rng, replies) if batch and self.hit() else whole


def _without(key: str) -> Change:
    return lambda rng, request, response: {k: v for k, v in response.items() if k != key}


def _with(**values: Any) -> Change:
    return lambda rng, request, response: response | values


def _result(change: Callable[[random.Random, Any], Any]) -> Change:
    def apply(rng: random.Random, request: Json, response: Json) -> Json:
        return response | {"result": change(rng, response["result"])} if "result" in response else response

    return apply


def _wrong_type(rng: random.Random, result: Any) -> Any:
    return rng.choice((17, -1, 1.5, True, "0xzz", "hello", [], {}, [None], {"number": 5}, "0x" + "f" * 70, [[[]]]))


def _missing_field(rng: random.Random, result: Any) -> Any:
    target = result[0] if isinstance(result, list) and result else result
    if isinstance(target, dict) and target:
        target.pop(rng.choice(sorted(target)))
    return result


def _null_field(rng: random.Random, result: Any) -> Any:
    target = result[0] if isinstance(result, list) and result else result
    if isinstance(target, dict) and target:
        target[rng.choice(sorted(target))] = rng.choice((None, "0x", "", 7, [], {}))
    return result


def _short_hex(rng: random.Random, result: Any) -> Any:
    return result[: rng.randrange(2, len(result))] if isinstance(result, str) and len(result) > 2 else result


_ERRORS: tuple[Any, ...] = (
    {"code": -32000, "message": "header not found"},
    {"code": -32000, "message": "missing trie node 5a1e (path ) state 0x1 is not available"},
    {"code": -32603, "message": "Internal error"},
    {"code": -32005, "message": "daily request count exceeded, request rate limited"},
    {"code": 429, "message": "Your app has exceeded its compute units per second capacity"},
    {"code": -32601, "message": "the method eth_fooBar does not exist/is not available"},
    {"code": -32602, "message": "invalid argument 0: json: cannot unmarshal"},
    {"code": "-32000", "message": None},
    {"message": {"deep": "nested"}},
    {"code": -32011, "message": "Network error", "data": {"message": "upstream timed out", "data": None}},
    "a plain string",
    ["a", "list"],
    {},
    -1,
)


def _error(rng: random.Random, request: Json, response: Json) -> Json:
    return {"jsonrpc": "2.0", "id": response["id"], "error": rng.choice(_ERRORS)}


def _says(code: int, message: str, data: Any = None) -> Change:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return lambda rng, request, response: {"jsonrpc": "2.0", "id": response["id"], "error": error}


# ---------------------------------------------------------------------------------------------------- blocks


def _block(change: Callable[[random.Random, Json], Json | None], latest_only: bool = True) -> Change:
    def apply(rng: random.Random, request: Json, response: Json) -> Json:
        if latest_only and request["params"][0] != "latest":
            return response
        block = response.get("result")
        return response | {"result": change(rng, dict(block))} if isinstance(block, dict) else response

    return apply


def _invented(rng: random.Random) -> str:
    return "0x" + rng.randbytes(32).hex()


def _future(rng: random.Random, block: Json) -> Json:
    number = int(block["number"], 16) + rng.choice((1, 2, 5, 40, 10_000))
    return block | {"number": hex(number), "hash": _invented(rng), "parentHash": _invented(rng)}


def _sibling(rng: random.Random, block: Json) -> Json:
    return block | {"hash": _invented(rng)}


def _orphan(rng: random.Random, block: Json) -> Json:
    return block | {"parentHash": _invented(rng)}


def _older(rng: random.Random, block: Json) -> Json:
    return block | {"number": hex(max(int(block["number"], 16) - rng.randrange(1, 4), 0))}


def _odd_header(rng: random.Random, block: Json) -> Json:
    key = rng.choice(("timestamp", "baseFeePerGas", "gasUsed", "gasLimit"))
    return block | {key: rng.choice(("0x0", "0x1", "0x" + "f" * 64, "-0x5", "0x"))}


class _Stale(Fault):
    """The head and everything asked of `latest` is that of a few blocks ago: a node that lags and comes back."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.at: str | None = None

    def request(self, request: Json) -> Json | None:
        if request["method"] == "eth_getBlockByNumber" and request["params"][0] == "latest" and self.at is not None:
            self.hits += 1
            return request | {"params": [self.at, False]}
        return request

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if self.at is None and request["method"] == "eth_getBlockByNumber" and response and response.get("result"):
            self.at = response["result"]["number"]
        return response

    def notify(self, notification: Json) -> list[Json]:
        return []


class _Older(_Some):
    """`latest` is sometimes a whole and true block of before."""

    def request(self, request: Json) -> Json | None:
        if request["method"] == "eth_getBlockByNumber" and request["params"][0] == "latest":
            self.wanted = self.rng.randrange(1, 4) if self.hit() else 0
            self.seen = getattr(self, "seen", 0)
            if self.wanted and self.seen > 8:
                return request | {"params": [hex(self.seen - self.wanted), False]}
        return request

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if request["method"] == "eth_getBlockByNumber" and response and response.get("result"):
            self.seen = max(getattr(self, "seen", 0), int(response["result"]["number"], 16))
        return response


class _Forked(_Some):
    """Another branch: headers of the same numbers, each with a hash of its own and linked to the one before."""

    def _fake(self, real: str) -> str:
        return "0x" + "f0" + real[4:]

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if request["method"] not in BLOCKS or not response or not isinstance(response.get("result"), dict):
            return response
        block = response["result"]
        self.hits += 1
        return response | {
            "result": block | {"hash": self._fake(block["hash"]), "parentHash": self._fake(block["parentHash"])}
        }

    def notify(self, notification: Json) -> list[Json]:
        return [_announced(notification, lambda b: b | {"hash": self._fake(b["hash"])})]


# -------------------------------------------------------------------------------------------- subscriptions


def _announced(notification: Json, change: Callable[[Json], Any]) -> Json:
    params = notification["params"]
    return notification | {"params": params | {"result": change(params["result"])}}


class _Notify(_Some):
    def __init__(self, rng: random.Random, change: Callable[[random.Random, Json, list[Json]], list[Json]]) -> None:
        super().__init__(rng, 1.0)
        self.change = change
        self.past: list[Json] = []

    def notify(self, notification: Json) -> list[Json]:
        told = self.change(self.rng, notification, self.past)
        self.hits += 1
        self.past.append(notification)
        return told


def _other_subscription(rng: random.Random, n: Json, past: list[Json]) -> list[Json]:
    return [n | {"params": n["params"] | {"subscription": rng.choice((_invented(rng), None, 5, ""))}}]


def _bad_notification(rng: random.Random, n: Json, past: list[Json]) -> list[Json]:
    return [
        rng.choice(
            (
                n | {"params": None},
                n | {"params": []},
                n | {"params": "x"},
                {"jsonrpc": "2.0", "method": "eth_subscription"},
                _announced(n, lambda b: None),
                _announced(n, lambda b: {}),
                _announced(n, lambda b: "0x1"),
                _announced(n, lambda b: b | {"number": None}),
                _announced(n, lambda b: [b]),
            )
        )
    ]


# ------------------------------------------------------------------------------------------------------ logs


def _logs(change: Callable[[random.Random, list[Json]], Any]) -> Change:
    def apply(rng: random.Random, request: Json, response: Json) -> Json:
        found = response.get("result")
        return response | {"result": change(rng, found)} if isinstance(found, list) and found else response

    return apply


def _each(change: Callable[[random.Random, Json], Json]) -> Callable[[random.Random, list[Json]], Any]:
    def apply(rng: random.Random, found: list[Json]) -> list[Json]:
        index = rng.randrange(len(found))
        return [change(rng, dict(entry)) if i == index else entry for i, entry in enumerate(found)]

    return apply


def _shuffled(rng: random.Random, found: list[Json]) -> list[Json]:
    rng.shuffle(found)
    return found


def _with_repeats(rng: random.Random, found: list[Json]) -> list[Json]:
    return [*found, *rng.choices(found, k=3)]


def _some_missing(rng: random.Random, found: list[Json]) -> list[Json]:
    return [entry for entry in found if rng.random() < 0.5]


def _another_block(rng: random.Random, entry: Json) -> Json:
    number = hex(int(entry["blockNumber"], 16) - rng.choice((-1, 1, 30)))
    return entry | {"blockNumber": number, "blockHash": _invented(rng)}


def _strange(rng: random.Random, entry: Json) -> Json:
    return entry | {"address": "0x" + rng.randbytes(20).hex()}


def _mangled(rng: random.Random, entry: Json) -> Json:
    key = rng.choice(("data", "topics", "logIndex", "blockHash", "transactionHash"))
    values: tuple[Any, ...] = ("0x", "0x1", None, [], ["0x00"], 9, "0x" + "0" * 63)
    return entry | {key: rng.choice(values)}


# ------------------------------------------------------------------------------------------ calls and nonces


class _EarlierState(_Some):
    """Views and simulations answered from the state of the block before, whatever block was named."""

    def request(self, request: Json) -> Json | None:
        if request["method"] not in CALLS or not self.hit():
            return request
        params = list(request["params"])
        head = params[1]
        number = getattr(self, "tip", 0)
        if isinstance(head, dict) and number > 2:
            params[1] = hex(number - 1)
        return request | {"params": params}

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if request["method"] in BLOCKS and response and isinstance(response.get("result"), dict):
            self.tip = max(getattr(self, "tip", 0), int(response["result"]["number"], 16))
        return response


def _count(by: int) -> Change:
    return _result(lambda rng, result: hex(max(int(result, 16) + by, 0)))


def _gain_of_dreams(rng: random.Random, request: Json, response: Json) -> Json:
    try:
        call = response["result"][0]["calls"][0]
    except (KeyError, IndexError, TypeError):
        return response
    if call.get("status") == "0x1":
        call["returnData"] = "0x" + (10**24).to_bytes(32, "big").hex()
    return response


# ----------------------------------------------------------------------------------------------------- sends


class _Send(_Some):
    """What is said to a raw transaction, and whether it gets to the node at all."""

    def __init__(self, rng: random.Random, says: Change | None, *, passes: bool, then: str = "") -> None:
        super().__init__(rng, 0.8)
        self.says, self.passes, self.then = says, passes, then
        self.struck = False

    def request(self, request: Json) -> Json | None:
        if request["method"] != SEND:
            return request
        self.struck = self.hit()
        return request if self.passes or not self.struck else None

    def answer(self, request: Json, response: Json | None) -> Json | None:
        if request["method"] != SEND or not self.struck:
            return response
        if self.says is None:
            return None
        return self.says(self.rng, request, response or {"jsonrpc": "2.0", "id": request["id"]})

    async def deliver(self, channel: Channel, text: bytes) -> None:
        if self.then and self.struck:
            self.struck = False
            if self.then == "late":
                await asyncio.sleep(0.6)
            else:
                channel.cut()
                return
        await channel.send(text)


class _Reconnected(_Some):
    """The connection is lost and ends at a node of another chain for a while: a balancer with a wrong member."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, 0.3)

    def answer(self, request: Json, response: Json | None) -> Json | None:
        return response | {"result": "0x1"} if response and request["method"] == "eth_chainId" else response

    async def deliver(self, channel: Channel, text: bytes) -> None:
        await channel.send(text)
        if self.hit():
            channel.cut()


def _hash_of(rng: random.Random, request: Json, response: Json) -> Json:
    from eth_utils.crypto import keccak

    return response | {"result": "0x" + keccak(hexstr=request["params"][0]).hex()}


def _wire(name: str, way: str, transports: tuple[str, ...] = BOTH, rate: float = 0.4) -> Kind:
    return Kind(name, lambda rng: _Wire(rng, way, rate), transports)


def _answers(name: str, change: Change, methods: tuple[str, ...] = (), rate: float = 0.4, **more: Any) -> Kind:
    return Kind(name, lambda rng: _Answer(rng, change, methods, rate), **more)


def _tells(name: str, change: Callable[[random.Random, Json, list[Json]], list[Json]]) -> Kind:
    return Kind(name, lambda rng: _Notify(rng, change), WS)


KINDS: tuple[Kind, ...] = (
    # the wire
    _wire("answers dropped", "drop"),
    _wire("answers delayed", "delay"),
    _wire("answers truncated", "truncate"),
    _wire("answers duplicated", "duplicate", WS),
    _wire("answers reordered", "reorder"),
    _wire("connection cut before the answer", "cut_before"),
    _wire("connection cut after the answer", "cut_after", WS),
    _wire("connection cut mid-frame", "cut_mid_frame"),
    _wire("stalled mid-frame", "stall_mid_frame"),
    _wire("slow loris", "slow_loris", rate=0.2),
    _wire("huge answers", "huge", rate=0.2),
    _wire("garbage", "garbage"),
    _wire("HTML page", "html"),
    _wire("HTTP 429", "429", HTTP),
    _wire("HTTP 503", "503", HTTP),
    _wire("HTTP 401", "401", HTTP),
    Kind("connections refused", lambda rng: _Refuse(rng, cut=True)),
    Kind("half-open connection", lambda rng: _Deaf()),
    # the envelope
    _answers("wrong id", lambda rng, q, r: r | {"id": rng.randrange(10**6, 10**7)}),
    _answers("id of another type", lambda rng, q, r: r | {"id": rng.choice((None, "x", 1.5, [], {}))}),
    _answers("missing id", _without("id")),
    _answers("neither result nor error", _without("result")),
    _answers("result and error", _with(error={"code": -32000, "message": "and yet"})),
    _answers("null results", _with(result=None)),
    _answers("wrong types", _result(_wrong_type)),
    _answers("missing fields", _result(_missing_field)),
    _answers("null fields", _result(_null_field)),
    _answers("hex cut short", _result(_short_hex)),
    _answers("error dialects", _error),
    Kind("batch partial", lambda rng: _Batch(rng, lambda rng, r: r[: rng.randrange(len(r))])),
    Kind("batch out of order", lambda rng: _Batch(rng, lambda rng, r: rng.sample(r, len(r)))),
    Kind("batch is no list", lambda rng: _Batch(rng, lambda rng, r: r[0])),
    Kind("batch with a repeat", lambda rng: _Batch(rng, lambda rng, r: [*r[:-1], r[0]])),
    Kind("batch with strangers", lambda rng: _Batch(rng, lambda rng, r: [*r, {"jsonrpc": "2.0", "id": 10**9}])),
    Kind(
        "batch refused",
        lambda rng: _Batch(rng, lambda rng, r: {"jsonrpc": "2.0", "id": None, "error": rng.choice(_ERRORS)}),
    ),
    # heads
    Kind("head stuck", _Stale),
    Kind("head steps back", _Older, HTTP),
    _answers("head from the future", _block(_future), BLOCKS, transports=HTTP),
    _answers("head with another hash", _block(_sibling), BLOCKS, transports=HTTP),
    _answers("head with another parent", _block(_orphan), BLOCKS, transports=HTTP),
    _answers("head with an older number", _block(_older), BLOCKS, transports=HTTP),
    _answers("head unknown", _block(lambda rng, block: None), BLOCKS, transports=HTTP),
    _answers("blocks unknown", _block(lambda rng, block: None, latest_only=False), BLOCKS),
    _answers("blocks of another number", _block(_older, latest_only=False), BLOCKS),
    _answers("odd headers", _block(_odd_header), BLOCKS, deceives=True),
    Kind("forked headers", _Forked),
    # subscriptions
    _tells("silent subscription", lambda rng, n, past: []),
    _tells("heads announced twice", lambda rng, n, past: [n, n, n]),
    _tells("heads out of order", lambda rng, n, past: [n, *rng.sample(past[-5:], min(len(past), 3))]),
    _tells("heads announced late", lambda rng, n, past: past[-1:]),
    _tells("subscription ids confused", _other_subscription),
    _tells("notifications malformed", _bad_notification),
    _tells("heads with another hash announced", lambda rng, n, past: [_announced(n, lambda b: _sibling(rng, b))]),
    _tells("heads from the future announced", lambda rng, n, past: [_announced(n, lambda b: _future(rng, b))]),
    # logs
    _answers("logs missing", _logs(lambda rng, found: []), LOGS, rate=0.6, deceives=True),
    _answers("some logs missing", _logs(_some_missing), LOGS, rate=0.6, deceives=True),
    _answers("logs duplicated", _logs(_with_repeats), LOGS),
    _answers("logs shuffled", _logs(_shuffled), LOGS),
    _answers("logs of another block", _logs(_each(_another_block)), LOGS),
    _answers("logs of strangers", _logs(_each(_strange)), LOGS),
    _answers("logs removed", _logs(_each(lambda rng, entry: entry | {"removed": True})), LOGS),
    _answers("logs mangled", _logs(_each(_mangled)), LOGS, deceives=True),
    _answers("logs null", _with(result=None), LOGS),
    _answers("log range refused", _says(-32005, "query returned more than 10000 results"), LOGS),
    _answers("log filter refused", _says(-32602, "too many addresses in the filter"), LOGS),
    # views and simulations
    Kind("views of another block", lambda rng: _EarlierState(rng, 0.5), deceives=True),
    _answers("views revert", _says(3, "execution reverted", "0x"), CALLS, deceives=True),
    _answers("views out of gas", _says(-32000, "out of gas"), CALLS, deceives=True),
    _answers("views empty", _result(lambda rng, result: "0x" if isinstance(result, str) else []), CALLS, deceives=True),
    _answers("simulation unknown", _says(-32601, "the method eth_simulateV1 does not exist"), ("eth_simulateV1",)),
    _answers("simulation of dreams", _gain_of_dreams, ("eth_simulateV1",), rate=0.7, deceives=True),
    _answers("fee history unusable", _result(_wrong_type), ("eth_feeHistory",), rate=0.7),
    Kind("wrong chain id after a reconnect", _Reconnected),
    # nonces, receipts, sends
    _answers("nonce too low", _count(-1), ("eth_getTransactionCount",)),
    _answers("nonce too high", _count(1), ("eth_getTransactionCount",)),
    _answers("nonce refused", _says(-32000, "missing trie node"), ("eth_getTransactionCount",)),
    _answers("receipts vanish", _with(result=None), ("eth_getTransactionReceipt",), rate=0.7),
    _answers("receipts malformed", _result(_missing_field), ("eth_getTransactionReceipt",), rate=0.7),
    Kind("send: already known", lambda rng: _Send(rng, _says(-32000, "already known"), passes=True)),
    Kind("send: nonce too low, though taken", lambda rng: _Send(rng, _says(-32000, "nonce too low"), passes=True)),
    Kind("send: underpriced, though taken", lambda rng: _Send(rng, _says(-32000, "underpriced"), passes=True)),
    Kind("send: underpriced", lambda rng: _Send(rng, _says(-32000, "transaction underpriced"), passes=False)),
    Kind("send: nonce too low", lambda rng: _Send(rng, _says(-32000, "nonce too low"), passes=False)),
    Kind("send: internal error", lambda rng: _Send(rng, _says(-32603, "Internal error"), passes=False)),
    Kind("send: taken and lost", lambda rng: _Send(rng, _hash_of, passes=False)),
    Kind("send: silence after taking it", lambda rng: _Send(rng, None, passes=True)),
    Kind("send: late answer", lambda rng: _Send(rng, _hash_of, passes=True, then="late")),
    Kind("send: connection lost after taking it", lambda rng: _Send(rng, _hash_of, passes=True, then="cut")),
    Kind("send: rate limited, though taken", lambda rng: _Send(rng, _says(-32005, "rate limit"), passes=True)),
)
