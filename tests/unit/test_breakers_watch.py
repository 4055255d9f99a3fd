"""What is measured beside the loop, and what an unmeasurable thing does: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keeper.assembly import Assembly
from keeper.chain.connection import Stats
from keeper.chain.refusals import Kind, Refusal
from keeper.errors import BadData, Halt, Transient
from keeper.model import FeeQuote, Hash, Head
from keeper.safety import Safety
from keeper.strategy.breakers import ENDPOINTS, HEAD_AGE, RPC, Limits, Trip
from keeper.watch import Watch

pytestmark = pytest.mark.unit

NOW = 1_700_000_000
HEAD = Head(100, Hash("0x" + "01" * 32), Hash("0x" + "02" * 32), NOW - 10, 10**9)


def header(number: int, timestamp: int, mark: int) -> dict[str, Any]:
    word = f"0x{mark:064x}"
    return {
        "number": hex(number), "hash": word, "parentHash": word, "timestamp": hex(timestamp),
        "baseFeePerGas": "0x1", "gasUsed": "0x0", "gasLimit": "0x1",
    }  # fmt: skip


@dataclass
class Node:
    """An endpoint at a height; `fork` marks its blocks from there on."""

    label: str
    number: int = 100
    age: int = 10
    fork: int | None = None
    error: Exception | None = None
    wrong: str = ""

    async def ask(self, calls: Sequence[Any], *, within: float | None = None) -> list[Any]:
        if self.error is not None:
            if isinstance(self.error, Refusal):
                return [self.error]
            raise self.error
        (_, (tag, _)), *_ = calls
        number = self.number if tag == "latest" else int(tag, 16)
        mark = number if self.fork is None or number < self.fork else 10**6 + number
        return [header(number, NOW - self.age, mark)]


@dataclass
class Heard:
    """The part of `Safety` a watch speaks to."""

    limits: Limits = field(default_factory=lambda: Limits(max_height_gap=3, max_head_age=60, rpc_min_calls=10))
    seen: dict[str, Trip | None] = field(default_factory=dict)
    error: Exception | None = None

    async def observe(self, name: str, trip: Trip | None) -> None:
        if self.error is not None:
            raise self.error
        self.seen[name] = trip

    async def look_in_flight(self) -> None:
        pass


class Scene:
    def __init__(self, *nodes: Node) -> None:
        self.now = float(NOW)
        self.stats = Stats()
        self.heard = Heard()
        self.balance: Any = hex(10**18)
        self.vitals = SimpleNamespace(clock=lambda: self.now, head=HEAD)
        self.parts = SimpleNamespace(
            mode="live",
            signers=(SimpleNamespace(address="0x" + "a1" * 20),),
            vitals=self.vitals,
            metrics=SimpleNamespace(signer_balance=SimpleNamespace(set=lambda value: None)),
            fees=SimpleNamespace(quote=self._quote),
            client=SimpleNamespace(
                stats=self.stats,
                pool=SimpleNamespace(endpoints=nodes),
                request=self._request,
                batch=self._batch,
            ),
            config=SimpleNamespace(
                chain=SimpleNamespace(max_head_age=60.0),
                strategy=SimpleNamespace(tip=10**9),
                breakers=SimpleNamespace(agree_depth=2, check_every=0.01),
            ),
        )
        self.watch = Watch(cast(Assembly, self.parts), cast(Safety, self.heard))

    async def _quote(self, head: Head) -> FeeQuote:
        return FeeQuote(head.base_fee, 10**9, data_fee=10**14)

    async def _request(self, method: str, params: Sequence[Any]) -> Any:
        if isinstance(self.balance, Exception):
            raise self.balance
        return self.balance

    async def _batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self._request(method, params) for method, params in calls]

    async def look(self) -> dict[str, Trip | None]:
        self.heard.seen.clear()
        await self.watch.look()
        return self.heard.seen


async def test_nothing_is_judged_before_the_first_head() -> None:
    """A keeper that still reads history has no old head and no signer to worry about."""
    scene = Scene()
    scene.vitals.head = None
    assert await scene.look() == {}


async def test_the_head_ages_by_the_clock() -> None:
    """60 s pass, 61 do not."""
    scene = Scene()
    scene.now = HEAD.timestamp + 60
    assert (await scene.look())[HEAD_AGE] is None
    scene.now += 1
    assert (await scene.look())[HEAD_AGE] is not None


async def test_the_balance_is_read_where_something_is_paid_for() -> None:
    """Live only; a node that does not answer measures nothing, neither fine nor a cause."""
    scene = Scene()
    needed = 5 * (1_000_000 * (HEAD.base_fee + 10**9) + 10**14)
    scene.balance = hex(needed)
    assert (await scene.look())["signer_balance"] is None
    scene.balance = hex(needed - 1)
    assert (await scene.look())["signer_balance"] is not None
    for broken in (Transient("away"), BadData("nonsense"), "0xzz", None):
        scene.balance = broken
        assert "signer_balance" not in await scene.look()
    scene.parts.mode = "dry"
    scene.balance = "0x0"
    assert "signer_balance" not in await scene.look()


@pytest.mark.parametrize(
    ("nodes", "disagree"),
    [
        ((Node("a"), Node("b")), False),
        ((Node("a"), Node("b", 97)), False),
        ((Node("a"), Node("b", 96)), True),
        ((Node("a"), Node("b", 90, age=61)), False),  # it knows itself that it is behind
        ((Node("a"), Node("b", 10**9)), True),  # it lies about the head
        ((Node("a"), Node("b", fork=99)), False),  # the newest blocks may differ for a moment
        ((Node("a"), Node("b", fork=98)), True),
        ((Node("a", 99), Node("b", fork=98)), False),  # at the height both have
        ((Node("a"), Node("b", fork=98, error=Transient("away"))), False),
        ((Node("a"), Node("b", fork=98, error=Refusal(Kind.RATE, -32005, "slow down", "b"))), False),
        ((Node("a"), Node("c"), Node("b", fork=50)), True),
        ((Node("a"), Node("b"), Node("c", fork=1, wrong="another chain")), False),
    ],
)
async def test_endpoints_are_held_against_each_other(nodes: tuple[Node, ...], *, disagree: bool) -> None:
    """Fresh endpoints must be near each other and tell the same block two below the lowest head."""
    seen = await Scene(*nodes).look()
    assert (seen[ENDPOINTS] is not None) == disagree


async def test_one_endpoint_is_never_asked_about_itself() -> None:
    """Nobody to disagree with."""
    assert ENDPOINTS not in await Scene(Node("a", error=AssertionError("asked"))).look()


async def test_the_error_rate_is_that_of_the_last_minute() -> None:
    """Calls before the window do not dilute it, and old errors leave it."""
    scene = Scene()
    entry = scene.stats.of("a", "eth_call")
    entry.calls, entry.errors = 1_000, 900
    assert (await scene.look())[RPC] is None, "nothing has happened since the watch began"
    scene.now += 15
    entry.calls, entry.errors = 1_010, 905
    assert (await scene.look())[RPC] is None
    scene.now += 15
    entry.calls, entry.errors = 1_020, 911
    assert (await scene.look())[RPC] is not None
    scene.now += 60
    entry.calls += 1
    assert (await scene.look())[RPC] is None


async def test_a_watch_that_cannot_write_stops_the_keeper() -> None:
    """A Halt ends the loop at once and comes out of it; leaving without one is quiet."""
    scene = Scene()
    stop = asyncio.Event()
    async with scene.watch.watching(stop):
        await asyncio.sleep(0.05)
    assert not stop.is_set()
    assert HEAD_AGE in scene.heard.seen
    scene.heard.error = Halt("the disk is full")

    async def until_stopped() -> None:
        async with scene.watch.watching(stop), asyncio.timeout(5):
            await stop.wait()

    with pytest.raises(Halt, match="the disk is full"):
        await until_stopped()
