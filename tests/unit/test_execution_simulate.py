"""Simulation over nodes of different abilities, and what a receipt means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keeper.chain.refusals import Kind, Refusal, Unanswered
from keeper.errors import BadData, Transient
from keeper.execution.receipt import outcome, parse
from keeper.execution.simulate import Simulator, Trial, funded
from keeper.model import Attempt, AttemptState, Hash, Signed, Simulation, TxKind
from tests.support.execution_chain import EXECUTOR_AT, GAIN, GWEI, ME, Chain, FakeClient, an_order

pytestmark = pytest.mark.unit

HEAD = Chain().head
GONE = bytes.fromhex("1f8eea5b")
WORD = "0x" + GAIN.to_bytes(32, "big").hex()
TRIAL = Trial(b"\x01\x02", 900_000, 50 * GWEI, GWEI)


def simulated(status: str = "0x1", data: str = WORD, **more: Any) -> list[dict[str, Any]]:
    return [{"number": "0x1", "calls": [{"status": status, "returnData": data, "gasUsed": "0x61a80", **more}]}]


class Node(FakeClient):
    """Answers each method by a function of its parameters."""

    def __init__(self, **methods: Callable[[Sequence[Any]], Any]) -> None:
        super().__init__(Chain())
        self.methods = methods
        self.trips: list[list[tuple[str, Sequence[Any]]]] = []

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.trips.append(list(calls))
        answers = []
        for method, params in calls:
            known = self.methods.get(method)
            answer = known(params) if known else refusal(Kind.UNSUPPORTED, "the method does not exist")
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers


def refusal(kind: Kind, reason: str, code: int = -32000, data: bytes | None = None) -> Refusal:
    return Refusal(kind, code, reason, "fake", data)


async def run(node: Node, trials: int = 1, simulator: Simulator | None = None) -> list[Simulation]:
    return await (simulator or Simulator(node, EXECUTOR_AT, ME)).run(HEAD, HEAD.timestamp + 12, [TRIAL] * trials)


async def test_the_request_is_the_exact_transaction_in_the_next_block() -> None:
    """Sender, calldata, gas and fees; the head by hash; number, time and base fee of its child; the overrides."""
    node = Node(eth_simulateV1=lambda _: simulated())
    found = await run(node, 2, Simulator(node, EXECUTOR_AT, ME, funded(ME)))
    assert [(s.ok, s.gain, s.gas_used, s.head) for s in found] == [(True, GAIN, 400_000, HEAD)] * 2
    ((first, second),) = node.trips
    assert first == second
    payload, block = first[1]
    assert block == {"blockHash": HEAD.hash}
    assert payload["validation"] is True
    (inner,) = payload["blockStateCalls"]
    assert inner["blockOverrides"] == {
        "number": hex(HEAD.number + 1),
        "time": hex(HEAD.timestamp + 12),
        "baseFeePerGas": hex(HEAD.next_base_fee()),
    }
    assert list(inner["stateOverrides"]) == [ME]
    (call,) = inner["calls"]
    assert (call["from"], call["to"], call["input"], call["gas"]) == (ME, EXECUTOR_AT, "0x0102", hex(900_000))
    assert (call["maxFeePerGas"], call["maxPriorityFeePerGas"]) == (hex(50 * GWEI), hex(GWEI))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (simulated("0x0", "0x1f8eea5b"), "unknown error 0x1f8eea5b (4 bytes)"),
        (
            simulated("0x0", "0x", error={"code": 3, "message": "execution reverted", "data": "0x1f8eea5b"}),
            "0x1f8eea5b",
        ),
        (simulated("0x0", "0x", error={"message": "out of gas"}), "out of gas"),
        (simulated("0x0", "0x", error={"message": "execution reverted"}), "reverted without a reason"),
        (simulated("0x0", "0x"), "reverted without a reason"),
        (simulated("0x1", "0x"), "no executor answers"),
    ],
)
async def test_failures_have_reasons(answer: Any, expected: str) -> None:
    """Revert data wherever the node puts it, the node's own words without any, and an address without a contract."""
    (found,) = await run(Node(eth_simulateV1=lambda _: answer))
    assert (found.ok, found.gain) == (False, 0)
    assert expected in str(found.revert)


@pytest.mark.parametrize(
    "answer", [None, [], [{}], [{"calls": []}], [{"calls": [{"status": "0x1"}]}], {"calls": 1}, "0x"]
)
async def test_nonsense_is_bad_data(answer: Any) -> None:
    """An answer of another shape is never a result."""
    with pytest.raises(BadData):
        await run(Node(eth_simulateV1=lambda _: answer))


async def test_a_node_without_simulate_is_asked_otherwise() -> None:
    """eth_call and eth_estimateGas with both overrides; the missing method is not tried a second time."""
    node = Node(eth_call=lambda _: WORD, eth_estimateGas=lambda _: "0x7a120")
    simulator = Simulator(node, EXECUTOR_AT, ME, funded(ME))
    for _ in range(2):
        found = await run(node, 2, simulator)
        assert [(s.ok, s.gain, s.gas_used) for s in found] == [(True, GAIN, 500_000)] * 2
    asked = [method for trip in node.trips for method, _ in trip]
    assert asked.count("eth_simulateV1") == 2  # the first batch of two
    call = next(params for trip in node.trips for method, params in trip if method == "eth_call")
    assert call[1] == {"blockHash": HEAD.hash}
    assert list(call[2]) == [ME]
    assert call[3]["number"] == hex(HEAD.number + 1)


async def test_a_node_without_block_overrides_uses_the_heads_own() -> None:
    """A fourth parameter the node rejects is left out from then on."""

    def answer(value: str) -> Callable[[Sequence[Any]], Any]:
        return lambda params: refusal(Kind.INVALID, "too many arguments", -32602) if len(params) > 3 else value

    node = Node(eth_call=answer(WORD), eth_estimateGas=answer("0x7a120"))
    (found,) = await run(node)
    assert (found.ok, found.gain, found.gas_used) == (True, GAIN, 500_000)


async def test_one_bad_trial_does_not_spoil_the_others() -> None:
    """When a batch is refused for one trial's sake, each is asked for by itself and only that one fails."""
    poor = Trial(b"\xff", 900_000, 50 * GWEI, GWEI)

    def simulate(params: Sequence[Any]) -> Any:
        data = params[0]["blockStateCalls"][0]["calls"][0]["input"]
        return refusal(Kind.OTHER, "insufficient funds for gas", -38014) if data == "0xff" else simulated()

    node = Node(eth_simulateV1=simulate, eth_call=lambda _: refusal(Kind.OTHER, "insufficient funds for gas"))
    simulator = Simulator(node, EXECUTOR_AT, ME)
    found = await simulator.run(HEAD, HEAD.timestamp + 12, [TRIAL, poor, TRIAL])
    assert [s.ok for s in found] == [True, False, True]
    assert "insufficient funds" in str(found[1].revert)


async def test_reverts_without_simulate() -> None:
    """eth_call's revert data is decoded; out of gas is told in the node's words."""
    node = Node(eth_call=lambda _: refusal(Kind.REVERT, "execution reverted", 3, GONE))
    assert "0x1f8eea5b" in str((await run(node))[0].revert)
    node = Node(eth_call=lambda _: refusal(Kind.GAS, "out of gas"))
    assert (await run(node))[0].revert == "out of gas"


@pytest.mark.parametrize(
    "trouble", [refusal(Kind.BEHIND, "header not found"), refusal(Kind.RATE, "slow down"), Unanswered("timeout")]
)
async def test_no_answer_is_no_result(trouble: Transient) -> None:
    """A node that does not know the head, is busy or silent gives no simulation at all."""
    for methods in ({"eth_simulateV1": trouble}, {"eth_call": trouble}):
        node = Node(**{name: (lambda _, answer=answer: answer) for name, answer in methods.items()})
        with pytest.raises(Transient):
            await run(node)


async def test_nothing_to_simulate() -> None:
    """No trials, no request."""
    node = Node()
    assert await run(node, 0) == []
    assert node.trips == []


# ---------------------------------------------------------------------------------------------------- receipts


@pytest.fixture
def mined() -> tuple[Attempt, Signed, dict[str, Any]]:
    """A mined attempt and its raw receipt."""
    chain = Chain()
    order = an_order(chain.head, bytes(20), "0x" + "07" * 32)
    raw = b'{"sender":"%s","kind":"execute","nonce":0,"data":"%s","max_fee":1,"tip":1}' % (
        ME.encode(),
        order.data.hex().encode(),
    )
    said = chain.take(raw)
    assert said.hash is not None
    chain.mine()
    tx = Signed(TxKind.EXECUTE, 0, said.hash, raw, 500_000, 1, 1)
    attempt = Attempt(order.id, "m", order.borrower, ME, 0, AttemptState.SENT, 0, 100, to=EXECUTOR_AT, txs=(tx,))
    return attempt, tx, chain.state.receipts[said.hash]


def test_the_gain_is_what_the_token_moved(mined: tuple[Attempt, Signed, dict[str, Any]]) -> None:
    """The executor's event and the profit token's transfer agree: that is the gain, and gas is at its real price."""
    attempt, tx, raw = mined
    receipt = parse(raw)
    assert receipt is not None
    found = outcome(attempt, tx, receipt)
    assert (found.state, found.gain, found.reported_gain) == (AttemptState.MINED, GAIN, GAIN)
    assert found.net == GAIN - 400_000 * 11 * GWEI
    assert found.block_hash == receipt.block_hash


def test_a_gain_that_cannot_be_shown_is_none(mined: tuple[Attempt, Signed, dict[str, Any]]) -> None:
    """Without the transfer, without the event, or with another execution's id the gain is 0 and the reason is kept."""
    attempt, tx, raw = mined
    transfer, event = raw["logs"]
    other = {**event, "topics": [event["topics"][0], "0x" + "08" * 32, event["topics"][2]]}
    for logs, words in (
        ([event], "did not log"),
        ([], "no execution"),
        ([transfer], "no execution"),
        ([transfer, other], "instead of"),
    ):
        receipt = parse({**raw, "logs": logs})
        assert receipt is not None
        found = outcome(attempt, tx, receipt)
        assert (found.state, found.gain) == (AttemptState.MINED, 0)
        assert words in str(found.revert)


def test_cancelled_and_reverted(mined: tuple[Attempt, Signed, dict[str, Any]]) -> None:
    """A cancellation is cancelled whatever its logs; a failed liquidation is reverted, with the reason given."""
    attempt, tx, raw = mined
    receipt = parse(raw)
    failed = parse({**raw, "status": "0x0", "logs": []})
    assert receipt is not None
    assert failed is not None
    cancel = Signed(TxKind.CANCEL, 0, tx.hash, b"", 21_000, 1, 1)
    assert (outcome(attempt, cancel, receipt).state, outcome(attempt, cancel, receipt).gain) == (
        AttemptState.CANCELLED,
        0,
    )
    reverted = outcome(attempt, tx, failed, "Gone()")
    assert (reverted.state, reverted.gain, reverted.revert) == (AttemptState.REVERTED, 0, "Gone()")


@pytest.mark.parametrize(
    "field", ["transactionHash", "blockNumber", "blockHash", "status", "gasUsed", "effectiveGasPrice", "logs"]
)
def test_an_unreadable_receipt_is_bad_data(mined: tuple[Attempt, Signed, dict[str, Any]], field: str) -> None:
    """A receipt with a missing or senseless field is not believed; none at all is simply none."""
    raw = mined[2]
    for value in (None, 7):
        with pytest.raises(BadData):
            parse({**raw, field: value})
    with pytest.raises(BadData):
        parse({name: value for name, value in raw.items() if name != field})
    assert parse(None) is None
    assert Hash(raw["blockHash"])


async def in_order(node: Node, *sizes: int) -> list[list[Simulation | None]]:
    chains = [[TRIAL] * size for size in sizes]
    return await Simulator(node, EXECUTOR_AT, ME).in_order(HEAD, HEAD.timestamp + 12, chains)


async def test_a_chain_is_one_block_and_all_chains_one_round_trip() -> None:
    """Its calls in order, each with its own result; one that fails leaves the others to be judged for themselves."""
    ok, bad = simulated()[0]["calls"][0], simulated("0x0", "0x" + GONE.hex())[0]["calls"][0]

    def answer(params: Sequence[Any]) -> Any:
        calls = params[0]["blockStateCalls"][0]["calls"]
        return [{"number": "0x1", "calls": [ok] if len(calls) == 1 else [bad, *[ok] * (len(calls) - 1)]}]

    node = Node(eth_simulateV1=answer)
    found = await in_order(node, 1, 3)
    assert [[ran.ok for ran in chain if ran is not None] for chain in found] == [[True], [False, True, True]]
    assert len(node.trips) == 1
    with pytest.raises(BadData, match="1 of 2 calls"):
        await in_order(Node(eth_simulateV1=lambda _: simulated()), 2)


async def test_without_simulate_only_the_first_of_a_chain_is_run() -> None:
    """Nothing else that a node offers runs two transactions in one block."""
    node = Node(eth_call=lambda _: WORD, eth_estimateGas=lambda _: "0x7a120")
    found = await in_order(node, 2, 1)
    assert [[ran is not None and ran.ok for ran in chain] for chain in found] == [[True, False], [True]]
