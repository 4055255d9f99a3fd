"""What is asked behind a pending transaction, of nodes that can, cannot, and answer nonsense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keeper.chain.refusals import Kind, Refusal
from keeper.errors import BadData, Transient
from keeper.execution.feed_graph import touched
from keeper.execution.foresight import Foresight
from keeper.model import Address, Order, Read
from tests.support.execution_chain import ME, Chain, an_order

pytestmark = pytest.mark.unit

HEAD = Chain().head
FIRST = {"from": ME, "to": ME, "input": "0x01"}
ONE, TWO, THREE = (Address("0x" + byte * 20) for byte in ("a1", "a2", "a3"))


class Node:
    """Answers by a function of the method and its parameters."""

    def __init__(self, answer: Callable[[str, Any], Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        self.asked.append(method)
        return self.answer(method, params)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.asked.append("batch")
        return [self.answer(method, params) for method, params in calls]


def refused(kind: Kind) -> Refusal:
    return Refusal(kind, -32000, "no", "here")


def no(kind: Kind) -> Callable[[str, Any], Any]:
    def answer(method: str, params: Any) -> Any:
        raise refused(kind)

    return answer


def ran(*calls: tuple[int, str]) -> Any:
    return [{"calls": [{"status": hex(ok), "returnData": data, "gasUsed": "0x1"} for ok, data in calls]}]


def foresight(answer: Callable[[str, Any], Any]) -> tuple[Foresight, Node]:
    node = Node(answer)
    anything: Any = node
    return Foresight(anything, ME), node


async def test_a_node_that_cannot_is_asked_once() -> None:
    """Not offered: every question is answered with None or with what was given, without another request."""
    seer, node = foresight(no(Kind.UNSUPPORTED))
    orders = [order(1), order(2)]
    assert not await seer.offered(HEAD)
    assert await seer.views(FIRST, [Read(ONE, b"")], HEAD, 1) is None
    assert await seer.standing(FIRST, orders, HEAD, 1) == orders
    assert node.asked == ["eth_simulateV1"]


async def test_a_node_that_fails_decides_nothing() -> None:
    """Any other refusal is one of this head only."""
    seer, node = foresight(no(Kind.BEHIND))
    for _ in range(2):
        with pytest.raises(Transient):
            await seer.offered(HEAD)
    node.answer = lambda method, params: ran((1, "0x"))
    assert await seer.offered(HEAD)


async def test_views_behind_a_transaction() -> None:
    """Outputs in order, None for a view that reverts, and nothing at all when the transaction itself fails."""
    seer, node = foresight(lambda method, params: ran((1, "0x"), (1, "0x07"), (0, "0x")))
    reads = [Read(ONE, b"\1"), Read(TWO, b"\2")]
    assert await seer.views(FIRST, reads, HEAD, 1) == [b"\7", None]
    node.answer = lambda method, params: ran((0, "0x"), (1, "0x07"), (1, "0x08"))
    assert await seer.views(FIRST, reads, HEAD, 1) is None


NONSENSE: list[Any] = [
    None,
    [],
    {},
    "0x",
    [{}],
    [{"calls": None}],
    [{"calls": [{"status": "0x1"}]}],
    ran((1, "0x")),
    ran((1, "0x"), (1, "0x"), (1, "0x")),
    ran((1, "0x"), (1, "zz")),
    [{"calls": [7, 8]}],
]


@pytest.mark.parametrize("answer", NONSENSE, ids=range(len(NONSENSE)))
async def test_nonsense_is_bad_data(answer: Any) -> None:
    """Whatever shape it has."""
    seer, _ = foresight(lambda method, params: answer)
    with pytest.raises(BadData):
        await seer.views(FIRST, [Read(ONE, b"")], HEAD, 1)


def order(number: int) -> Order:
    return an_order(HEAD, number.to_bytes(20, "big"), f"0x{number:064x}")


async def test_orders_that_do_not_stand_together_are_left_out_one_by_one() -> None:
    """2 fails behind 1, and 4 behind 1 and 3: 1, 3 and 5 are kept, in their order."""

    def answer(method: str, params: Any) -> Any:
        calls = params[0]["blockStateCalls"][0]["calls"]
        assert calls[0] == FIRST
        numbers = [int(call["input"][2:42], 16) for call in calls[1:]]
        bad = {n for n in numbers if n in (2, 4) and n != numbers[0]}
        return ran((1, "0x"), *((n not in bad, "0x") for n in numbers))

    seer, node = foresight(answer)
    orders = [order(n) for n in range(1, 6)]
    assert await seer.standing(FIRST, orders, HEAD, 1) == [orders[0], orders[2], orders[4]]
    assert len(node.asked) == 3
    assert await seer.standing(None, orders, HEAD, 1) == orders
    assert await seer.standing(FIRST, orders[1:2], HEAD, 1) == orders[1:2], "one alone was proved already"
    assert len(node.asked) == 3


def listed(*contracts: Address) -> Any:
    return {"accessList": [{"address": contract, "storageKeys": []} for contract in contracts], "gasUsed": "0x1"}


async def test_the_contracts_behind_a_price() -> None:
    """All of them and the source itself; one source that fails does not hide the others."""

    def answer(method: str, params: Any) -> Any:
        source = params[0]["to"]
        if source == TWO:
            raise refused(Kind.REVERT)
        return listed(THREE) if source == ONE else {"error": "execution reverted", "accessList": []}

    node: Any = Node(answer)
    assert await touched(node, [ONE, TWO, THREE], HEAD) == {ONE: {ONE, THREE}}
    cannot: Any = Node(no(Kind.UNSUPPORTED))
    assert await touched(cannot, [ONE], HEAD) == {}
    assert await touched(cannot, [], HEAD) == {}
    away: Any = Node(no(Kind.RATE))
    with pytest.raises(Transient):
        await touched(away, [ONE], HEAD)


@pytest.mark.parametrize(
    "answer", [{}, {"accessList": 7}, {"accessList": [{}]}, {"accessList": [{"address": "0x1"}]}, 7]
)
async def test_an_access_list_that_is_none_is_bad_data(answer: Any) -> None:
    node: Any = Node(lambda method, params: answer)
    with pytest.raises(BadData):
        await touched(node, [ONE], HEAD)
