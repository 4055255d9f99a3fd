"""What an execution must earn, where it goes, and who may change that; on a private chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keeper.devchain.anvil import Anvil
from keeper.devchain.build_executor import ARTIFACT, build
from keeper.devchain.calls import calldata
from keeper.devchain.rpc import RpcError
from keeper.execution.executor import EXECUTOR, RUNTIME_CODE, state_override
from keeper.model import ZERO_ADDRESS, Address, address
from keeper.program import Call, Guard, Transfer, encode, literal
from tests.support.bench import (
    BENEFICIARY,
    BUILDER,
    ETH,
    FAR,
    LOAN_ID,
    OPERATOR,
    OWNER,
    STRANGER,
    Bench,
    Reverted,
    deploy_executor,
    make_bench,
)

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def _bench() -> Iterator[Bench]:
    with Anvil(impersonate=True) as anvil:
        yield make_bench(anvil.rpc)


@pytest.fixture
def bench(_bench: Bench) -> Iterator[Bench]:
    """The bench, put back after each test."""
    snapshot = _bench.rpc.request("evm_snapshot")
    yield _bench
    assert _bench.rpc.request("evm_revert", snapshot)


def _coin(bench: Bench, who: str) -> int:
    return int(bench.rpc.request("eth_getBalance", who, "latest"), 16)


# --------------------------------------------------------------------------------------------------- artifact


def test_build_is_reproducible() -> None:
    """Compiling the source again gives the committed artifact, byte for byte."""
    assert build() == ARTIFACT.read_text(), "run `python -m keeper.devchain.build_executor` and commit the result"


def test_deployed_code_is_the_artifacts_runtime_code(bench: Bench) -> None:
    """There are no immutables: whatever the constructor was given, the code is the same."""
    other = deploy_executor(bench.rpc, STRANGER, ZERO_ADDRESS, ZERO_ADDRESS)
    for where in (bench.executor, other):
        assert bench.rpc.request("eth_getCode", where, "latest") == "0x" + RUNTIME_CODE.hex()
    assert len(RUNTIME_CODE) < 24_576
    assert bench.rpc.view(other, "beneficiary()", returns="address") == STRANGER
    assert bench.rpc.view(other, "operators(address)", ZERO_ADDRESS, returns="bool") is False


# -------------------------------------------------------------------------------------------------- the floor


def test_floor_is_exact(bench: Bench) -> None:
    """A gain equal to the floor passes, one base unit less reverts."""
    assert bench.dry(bench.earn(1000), min_gain=1000) == 1000
    with pytest.raises(Reverted, match=r"GainTooLow\(1000, 1001\)"):
        bench.dry(bench.earn(1000), min_gain=1001)


def test_what_was_there_before_is_neither_counted_nor_sent(bench: Bench) -> None:
    """Profit tokens already in the executor do not help to reach the floor and stay where they are."""
    bench.tell(bench.weth, "deposit()", value=7 * ETH)
    bench.tell(bench.weth, "transfer(address,uint256)", bench.executor, 7 * ETH)
    with pytest.raises(Reverted, match="GainTooLow"):
        bench.dry(bench.earn(5), min_gain=6)
    assert bench.run(bench.earn(5), min_gain=5).gain == 5
    assert bench.balance(bench.weth, bench.executor) == 7 * ETH
    with pytest.raises(Reverted, match=r"GainTooLow\(0, 0\)"):
        bench.dry(Transfer(bench.weth, STRANGER, literal(1)))


def test_nothing_gained_and_nothing_asked_is_no_failure(bench: Bench) -> None:
    """An execution without gain and without floor ends well and names no recipient."""
    done = bench.run()
    assert (done.gain, done.recipient, done.id) == (0, None, LOAN_ID)


def test_sweep_sends_leftovers_and_refuses_the_profit_token(bench: Bench) -> None:
    """Leftovers of listed tokens go to the beneficiary, missing ones are passed over, the profit token is refused."""
    token, second = address(bench["token"]), address(bench["second"])
    bench.tell(token, "mint(address,uint256)", bench.executor, 11)
    bench.run(bench.bring(token, 4), bench.earn(1), sweep=(token, second))
    assert (bench.balance(token, BENEFICIARY), bench.balance(token, bench.executor)) == (15, 0)
    fields = (LOAN_ID, bench.weth, 0, 0, bench.weth, FAR, [bench.weth])
    with pytest.raises(Reverted, match="BadSettlement"):
        bench.call(OPERATOR, bench.executor, EXECUTOR.encode("execute", fields, [], b""))


@pytest.mark.parametrize("manner", [1, 5])
def test_gain_in_a_token_that_refuses_to_be_sent_reverts(bench: Bench, manner: int) -> None:
    """If the beneficiary cannot be paid the execution did not happen."""
    token = address(bench["token"])
    bring = bench.bring(token, 5)
    spoil = Call(token, calldata("setManner(uint8)", manner))
    with pytest.raises(Reverted, match="TokenRefused"):
        bench.dry(bring, spoil, profit_token=token)


# --------------------------------------------------------------------------------------------------- coinbase


def test_coinbase_is_paid_its_share_of_the_measured_gain(bench: Bench) -> None:
    """The producer gets floor(gain × bps), in coin; the rest reaches the floor or nothing happens."""
    bench.rpc.request("anvil_setCoinbase", BUILDER)
    before = _coin(bench, BUILDER)
    bench.rpc.request("anvil_setNextBlockBaseFeePerGas", "0x0")
    sent = bench.rpc.request(
        "eth_sendTransaction",
        {
            "from": OPERATOR,
            "to": bench.executor,
            "data": "0x" + bench.encode((bench.earn(999),), coinbase_bps=9_000, min_gain=100).hex(),
            "gas": hex(2_000_000),
            "maxFeePerGas": "0x0",
            "maxPriorityFeePerGas": "0x0",
        },
    )
    bench.rpc.request("evm_mine")
    assert bench.rpc.request("eth_getTransactionReceipt", sent)["status"] == "0x1"
    assert _coin(bench, BUILDER) - before == 899
    assert bench.balance(bench.weth, BENEFICIARY) == 100
    with pytest.raises(Reverted, match=r"GainTooLow\(100, 101\)"):
        bench.dry(bench.earn(999), coinbase_bps=9_000, min_gain=101)
    assert bench.dry(bench.earn(999), coinbase_bps=10_000) == 0


@pytest.mark.parametrize("bps", [1, 3_333, 10_000])
def test_event_reports_gain_and_payment(bench: Bench, bps: int) -> None:
    """Gain and coinbase payment in the event add up to what was measured."""
    done = bench.run(bench.earn(10_001), coinbase_bps=bps)
    assert done.coinbase_paid == 10_001 * bps // 10_000
    assert done.gain == 10_001 - done.coinbase_paid


def test_coinbase_that_refuses_or_reenters_ends_the_execution(bench: Bench) -> None:
    """A producer's contract can decline its payment, and gains nothing by calling back during it."""
    bench.rpc.request("anvil_setCoinbase", bench["coinbase"])
    bench.tell(bench["coinbase"], "set(bool,address,bytes)", True, ZERO_ADDRESS, b"")
    with pytest.raises(Reverted, match="CoinbaseRefused"):
        bench.dry(bench.earn(10), coinbase_bps=5_000)
    bench.tell(bench.executor, "setOperator(address,bool)", bench["coinbase"], True)
    for data in (bench.encode(()), b"\x01\x02\x03\x04"):
        bench.tell(bench["coinbase"], "set(bool,address,bytes)", False, bench.executor, data)
        with pytest.raises(Reverted, match="CoinbaseRefused"):
            bench.dry(bench.earn(10), coinbase_bps=5_000)
    bench.tell(bench["coinbase"], "set(bool,address,bytes)", False, ZERO_ADDRESS, b"")
    assert bench.dry(bench.earn(10), coinbase_bps=5_000) == 5


def test_coinbase_is_paid_from_the_wrapped_native_token_only(bench: Bench) -> None:
    """Any other profit token with a coinbase share, and a share above the whole, are refused by the contract too."""
    token = address(bench["token"])
    bring = (bench.bring(token, 5),)
    for profit, bps in ((token, 1), (bench.weth, 10_001)):
        fields: tuple[Any, ...] = (LOAN_ID, profit, 0, bps, bench.weth, FAR, [])
        with pytest.raises(Reverted, match="BadSettlement"):
            bench.call(OPERATOR, bench.executor, EXECUTOR.encode("execute", fields, [], encode(bring)))


# ------------------------------------------------------------------------------------- guards, deadline, pause


def _guard(bench: Bench, minimum: int, maximum: int, index: int = 0, data: bytes | None = None) -> Guard:
    view = calldata("balanceOf(address)", bench["market"]) if data is None else data
    return Guard(bench.weth, view, minimum, maximum, index)


def test_guards_decide_before_anything_else(bench: Bench) -> None:
    """Inside the range the program runs; outside it, or when the view fails or says too little, it is Gone."""
    held = bench.balance(bench.weth, bench["market"])
    for passing in (_guard(bench, held, held), _guard(bench, 0, held), _guard(bench, held, 2**256 - 1)):
        assert bench.dry(bench.earn(3), guards=(passing,)) == 3
    bad = (
        _guard(bench, held + 1, 2**256 - 1),
        _guard(bench, 0, held - 1),
        _guard(bench, 0, 2**256 - 1, index=1),
        _guard(bench, 0, 2**256 - 1, index=2**255),
        Guard(bench["market"], b"\x01\x02\x03\x04", 0, 2**256 - 1),
        Guard(STRANGER, b"", 0, 2**256 - 1),
    )
    for guard in bad:
        with pytest.raises(Reverted, match=r"^Gone\(\)$"):
            bench.dry(bench.earn(3), guards=(_guard(bench, held, held), guard))


def test_guard_reads_the_word_it_is_told(bench: Bench) -> None:
    """`index` picks the word of an answer of several words."""
    # Lender.kept() answers (offset, length): 0x20 and the number of bytes it keeps.
    bench.tell(bench["lender"], "keep(bytes)", b"x" * 17)
    for index, value in ((0, 32), (1, 17)):
        right = Guard(bench["lender"], calldata("kept()"), value, value, index)
        wrong = Guard(bench["lender"], calldata("kept()"), value + 1, value + 1, index)
        assert bench.dry(guards=(right,)) == 0
        with pytest.raises(Reverted, match="Gone"):
            bench.dry(guards=(wrong,))


def test_early_exit_is_cheap(bench: Bench) -> None:
    """When the position is gone the execution itself costs under 12,000 gas, the guard's cold view (5,000) included.

    The transaction then costs what its calldata costs (EIP-7623's floor), which the packed program keeps small.
    """
    steps = (bench.lend("lender", bench.weth, ETH, tuple(bench.earn(1) for _ in range(4))),)
    data = bench.encode(steps, guards=(_guard(bench, 0, 0),))
    zeros = data.count(0)
    floor = 21_000 + 10 * zeros + 40 * (len(data) - zeros)
    transaction = {"from": OPERATOR, "to": bench.executor, "data": "0x" + data.hex(), "gas": hex(1_000_000)}
    sent = bench.rpc.request("eth_sendTransaction", transaction)
    bench.rpc.request("evm_mine")
    receipt = bench.rpc.request("eth_getTransactionReceipt", sent)
    assert (receipt["status"], int(receipt["gasUsed"], 16)) == ("0x0", floor)

    through = calldata("all(address,bytes[])", bench.executor, [data])
    outer = {"from": OPERATOR, "to": bench["referee"], "data": "0x" + through.hex(), "gas": hex(1_000_000)}
    trace = bench.rpc.request("debug_traceCall", outer, "latest", {"tracer": "callTracer"})
    spent = int(trace["calls"][0]["gasUsed"], 16)
    assert spent < 12_000, spent


def test_deadline_is_the_last_second(bench: Bench) -> None:
    """At the deadline it runs, a second later it has expired."""
    now = int(bench.rpc.block()["timestamp"], 16)
    assert bench.dry(bench.earn(1), deadline=now) == 1
    with pytest.raises(Reverted, match="Expired"):
        bench.dry(bench.earn(1), deadline=now - 1)


def test_pause_stops_everybody_and_only_the_owner_ends_it(bench: Bench) -> None:
    """Operator or owner may pause; while paused not even the owner executes; only the owner unpauses."""
    for who in (OPERATOR, OWNER):
        bench.tell(bench.executor, "pause()", sender=who)
        for sender in (OPERATOR, OWNER):
            with pytest.raises(Reverted, match="ExecutionPaused"):
                bench.dry(bench.earn(1), sender=sender)
        with pytest.raises(Reverted, match="NotOwner"):
            bench.tell(bench.executor, "unpause()", sender=OPERATOR)
        bench.tell(bench.executor, "unpause()")
        assert bench.dry(bench.earn(1), sender=OWNER) == 1
    assert bench.rpc.view(bench.executor, "owner()", returns="address") == OWNER, "pausing leaves its neighbour alone"


# ---------------------------------------------------------------------------------------------- administration


def test_ownership_moves_in_two_steps(bench: Bench) -> None:
    """The offered owner must accept; until then nothing changes; afterwards the old one is a stranger."""
    new = STRANGER
    bench.tell(bench.executor, "transferOwnership(address)", new)
    assert bench.rpc.view(bench.executor, "owner()", returns="address") == OWNER
    with pytest.raises(Reverted, match="NotPendingOwner"):
        bench.tell(bench.executor, "acceptOwnership()", sender=OPERATOR)
    bench.tell(bench.executor, "acceptOwnership()", sender=new)
    assert bench.rpc.view(bench.executor, "owner()", returns="address") == new
    assert bench.rpc.view(bench.executor, "pendingOwner()", returns="address") == ZERO_ADDRESS
    with pytest.raises(Reverted, match="NotOwner"):
        bench.tell(bench.executor, "setBeneficiary(address)", OWNER)
    with pytest.raises(Reverted, match="NotPendingOwner"):
        bench.tell(bench.executor, "acceptOwnership()", sender=new)


def test_offer_of_ownership_can_be_withdrawn(bench: Bench) -> None:
    """Offering to nobody takes the offer back."""
    bench.tell(bench.executor, "transferOwnership(address)", STRANGER)
    bench.tell(bench.executor, "transferOwnership(address)", ZERO_ADDRESS)
    with pytest.raises(Reverted, match="NotPendingOwner"):
        bench.tell(bench.executor, "acceptOwnership()", sender=STRANGER)


def test_operators_come_and_go(bench: Bench) -> None:
    """A named operator may execute until it is removed; the owner always may."""
    bench.tell(bench.executor, "setOperator(address,bool)", STRANGER, True)
    assert bench.dry(bench.earn(1), sender=STRANGER) == 1
    bench.tell(bench.executor, "setOperator(address,bool)", STRANGER, False)
    with pytest.raises(Reverted, match="NotOperator"):
        bench.dry(bench.earn(1), sender=STRANGER)
    assert bench.dry(bench.earn(1), sender=OWNER) == 1


def test_beneficiary_is_the_owners_choice(bench: Bench) -> None:
    """Gains follow the beneficiary, who is never nobody."""
    bench.tell(bench.executor, "setBeneficiary(address)", STRANGER)
    assert bench.run(bench.earn(9)).recipient == STRANGER
    with pytest.raises(Reverted, match="ZeroAddress"):
        bench.tell(bench.executor, "setBeneficiary(address)", ZERO_ADDRESS)


def test_rescue_of_tokens_and_coin(bench: Bench) -> None:
    """The owner can take out any token and any coin; a refusing token or recipient is an error, not a silence."""
    token = address(bench["token"])
    bench.tell(token, "mint(address,uint256)", bench.executor, 10)
    bench.rpc.request("anvil_setBalance", bench.executor, hex(ETH))
    bench.tell(bench.executor, "rescue(address,uint256,address)", token, 4, STRANGER)
    assert bench.balance(token, STRANGER) == 4
    before = _coin(bench, BENEFICIARY)
    bench.tell(bench.executor, "rescue(address,uint256,address)", ZERO_ADDRESS, ETH, BENEFICIARY)
    assert (_coin(bench, BENEFICIARY) - before, _coin(bench, bench.executor)) == (ETH, 0)
    for what, amount, to in ((token, 7, STRANGER), (ZERO_ADDRESS, 1, STRANGER), (STRANGER, 0, OWNER)):
        with pytest.raises(Reverted, match="RescueFailed"):
            bench.tell(bench.executor, "rescue(address,uint256,address)", what, amount, to)
    with pytest.raises(Reverted, match="ZeroAddress"):
        bench.tell(bench.executor, "rescue(address,uint256,address)", token, 1, ZERO_ADDRESS)


def test_constructor_insists_on_an_owner(bench: Bench) -> None:
    """An executor nobody owns cannot be deployed."""
    with pytest.raises((AssertionError, RpcError)):
        deploy_executor(bench.rpc, ZERO_ADDRESS)


# ------------------------------------------------------------------------------------------------- undeployed


@pytest.mark.parametrize("beneficiary", [None, STRANGER])
def test_state_override_makes_an_executor_where_there_is_none(bench: Bench, beneficiary: Address | None) -> None:
    """With code and storage injected, the same calldata runs at an empty address, for the same roles only."""
    nowhere = address("0x" + "ee" * 20)
    bench.rpc.request("anvil_setBalance", nowhere, hex(ETH))
    override = state_override(nowhere, OWNER, STRANGER, beneficiary)
    give = calldata("forward(address,bytes)", bench.weth, calldata("transfer(address,uint256)", nowhere, 12))
    data = "0x" + bench.encode((Call(bench["giver"], give),), min_gain=12).hex()

    def call(sender: str) -> str:
        answer: str = bench.rpc.request("eth_call", {"from": sender, "to": nowhere, "data": data}, "latest", override)
        return answer

    assert int(call(STRANGER), 16) == 12
    assert int(call(OWNER), 16) == 12
    with pytest.raises(RpcError):
        call(OPERATOR)
    simulated = bench.rpc.request(
        "eth_simulateV1",
        {
            "blockStateCalls": [
                {
                    "stateOverrides": override,
                    "calls": [
                        {"from": STRANGER, "to": nowhere, "data": data},
                        {
                            "to": bench.weth,
                            "data": "0x" + calldata("balanceOf(address)", beneficiary or OWNER).hex(),
                        },
                    ],
                }
            ]
        },
        "latest",
    )
    assert int(simulated[0]["calls"][1]["returnData"], 16) >= 12
