"""The executor against strangers, hostile lenders and hostile tokens, on a private chain."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import product
from typing import Any

import pytest

from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.execution.executor import EXECUTOR
from keeper.model import ZERO_ADDRESS, Address
from keeper.program import (
    Approve,
    Call,
    Callback,
    Guard,
    Item,
    Keep,
    Patch,
    Step,
    Transfer,
    balance,
    encode,
    kept,
    literal,
    word,
)
from tests.support.bench import BENEFICIARY, ETH, OPERATOR, OWNER, STRANGER, Bench, Reverted, make_bench

pytestmark = pytest.mark.parity

Mode = IntEnum(
    "Mode",
    "Honest AlteredByte Truncated Extended ForeignProgram Twice Nested OtherSender Silent Swallow PointsOutside "
    "HugeLength HugeOffset Static WithValue Spray WantsAnswer",
    start=0,
)
Manner = IntEnum(
    "Manner",
    "Honest AnswersFalse AnswersNothing AnswersTwo AnswersShort Reverts TakesFee InsistsOnZero KeepsApprovals "
    "CallsBack",
    start=0,
)


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


def _mode(bench: Bench, lender: str, mode: str) -> None:
    bench.tell(bench[lender], "setMode(uint8)", Mode[mode])


def _manner(bench: Bench, token: str, manner: str) -> None:
    bench.tell(bench[token], "setManner(uint8)", Manner[manner])


MARK = Address("0x" + "5c" * 20)  # holds nothing but numbers to be asked for


def _repay(bench: Bench, lender: str, token: Address, amount: int) -> Transfer:
    return Transfer(token, bench[lender], literal(amount))


# ------------------------------------------------------------------------------------------- the honest case


def test_loan_runs_its_program_and_the_gain_goes_to_the_beneficiary(bench: Bench) -> None:
    """An honest loan is served, its words can be read, the gain is measured and sent on, and nothing stays."""
    inner = (bench.earn(5 * ETH), Transfer(bench.weth, bench["lender"], word(1)))
    done = bench.run(bench.lend("lender", bench.weth, 100 * ETH, inner, fee=ETH), min_gain=4 * ETH)
    assert (done.gain, done.coinbase_paid, done.recipient) == (4 * ETH, 0, BENEFICIARY)
    assert bench.balance(bench.weth, BENEFICIARY) == 4 * ETH
    assert bench.balance(bench.weth, bench.executor) == 0


def test_nested_loans_are_a_stack(bench: Bench) -> None:
    """A callback's program may expect callbacks itself, also from the same lender, and each word is its own frame's."""
    deepest = (
        bench.earn(10),
        Transfer(bench.weth, bench["lender"], word(1)),
    )
    middle = (
        bench.lend("lender", bench.weth, 7, deepest, fee=1),
        Transfer(bench.weth, bench["other"], word(1)),
    )
    outer = (
        bench.lend("other", bench.weth, 5, middle, fee=1),
        bench.lend("other", bench.weth, 6, (Transfer(bench.weth, bench["other"], word(0)),)),
        Transfer(bench.weth, bench["lender"], word(1)),
    )
    assert bench.run(bench.lend("lender", bench.weth, 3, outer, fee=1)).gain == 7


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100])
def test_callback_answers_what_it_was_told(bench: Bench, length: int) -> None:
    """The raw answer of a callback is exactly the bytes the step declared, whatever their length."""
    answer = bytes(range(1, length + 1))
    inner = (_repay(bench, "lender", bench.weth, ETH),)
    step = bench.lend("lender", bench.weth, ETH, inner, returns=answer)
    if length == 32:
        _mode(bench, "lender", "WantsAnswer")
        bench.tell(bench["lender"], "setAnswer(bytes32)", answer)
        assert bench.dry(step) == 0
        bench.tell(bench["lender"], "setAnswer(bytes32)", bytes(32))
        with pytest.raises(Reverted, match="not the answer promised"):
            bench.dry(step)
    trace = bench.rpc.request(
        "debug_traceCall",
        {"from": OPERATOR, "to": bench.executor, "data": "0x" + bench.encode((step,)).hex(), "gas": hex(5_000_000)},
        "latest",
        {"tracer": "callTracer"},
    )
    (lent,) = [call for call in trace["calls"] if call["to"] == bench["lender"]]
    (served,) = [call for call in lent["calls"] if call["to"] == bench.executor]
    assert served["output"] == "0x" + answer.hex()


# --------------------------------------------------------------------------------------------------- strangers


@pytest.mark.parametrize(
    ("name", "args", "refusal"),
    [
        ("execute", ((bytes(32), OWNER, 0, 0, OWNER, 2**40, []), [], b""), "NotOperator"),
        ("transferOwnership", (STRANGER,), "NotOwner"),
        ("acceptOwnership", (), "NotPendingOwner"),
        ("setOperator", (STRANGER, True), "NotOwner"),
        ("setBeneficiary", (STRANGER,), "NotOwner"),
        ("pause", (), "NotOperator"),
        ("unpause", (), "NotOwner"),
        ("rescue", (OWNER, 1, STRANGER), "NotOwner"),
    ],
)
def test_stranger_is_refused_everywhere(bench: Bench, name: str, args: tuple[object, ...], refusal: str) -> None:
    """Every state-changing entry names the role it wants when a stranger calls it."""
    with pytest.raises(Reverted, match=refusal):
        bench.call(STRANGER, bench.executor, EXECUTOR.encode(name, *args))


def test_every_entry_is_covered_by_the_test_above() -> None:
    """The contract has no other state-changing function than those tried by the stranger."""
    tried = {"execute", "transferOwnership", "acceptOwnership", "setOperator", "setBeneficiary", "pause", "unpause"}
    views = {"owner", "paused", "pendingOwner", "beneficiary", "operators"}
    assert set(EXECUTOR.functions) == tried | {"rescue"} | views


@pytest.mark.parametrize("who", ["setOperator", "setBeneficiary", "unpause", "rescue", "transferOwnership"])
def test_operator_has_none_of_the_owners_powers(bench: Bench, who: str) -> None:
    """An operator can execute and pause, nothing else."""
    args = {"setOperator": (STRANGER, True), "rescue": (bench.weth, 0, STRANGER), "unpause": ()}.get(who, (STRANGER,))
    with pytest.raises(Reverted, match="NotOwner"):
        bench.call(OPERATOR, bench.executor, EXECUTOR.encode(who, *args))


@pytest.mark.parametrize("sender", [STRANGER, OPERATOR, OWNER])
def test_callbacks_outside_an_execution_are_refused(bench: Bench, sender: str) -> None:
    """No selector, no data and no sender gets into the fallback while nothing runs, nor can anybody send coin."""
    program = encode((Transfer(bench.weth, STRANGER, balance(bench.weth)),))
    for selector in ("uniswapV3SwapCallback(int256,int256,bytes)", "onLoan(uint256,int256,bytes)"):
        with pytest.raises(Reverted, match="UnexpectedCallback"):
            bench.call(sender, bench.executor, calldata(selector, 0, 0, program))
    with pytest.raises(Reverted, match="OutsideExecution"):
        bench.call(sender, bench.executor, b"", value=1)
    with pytest.raises(Reverted):
        bench.call(sender, bench.executor, b"\x01", value=1)


# --------------------------------------------------------------------------------------------- hostile lenders


@pytest.mark.parametrize(
    ("mode", "refusal"),
    [
        ("AlteredByte", "AlteredProgram"),
        ("Truncated", "AlteredProgram"),
        ("Extended", "AlteredProgram"),
        ("ForeignProgram", "AlteredProgram"),
        ("PointsOutside", "AlteredProgram"),
        ("HugeLength", "AlteredProgram"),
        ("HugeOffset", "AlteredProgram"),
        ("Twice", "UnexpectedCallback"),
        ("OtherSender", "UnexpectedCallback"),
        ("Silent", "CallbackMissing"),
        ("Static", "reverted without a reason"),
        ("WithValue", "reverted without a reason"),
    ],
)
def test_hostile_lender_is_refused(bench: Bench, mode: str, refusal: str) -> None:
    """Altering, replaying, redirecting, dropping or staging the callback each end the execution."""
    bench.tell(bench["lender"], "keep(bytes)", encode((Transfer(bench.weth, STRANGER, balance(bench.weth)),)))
    bench.rpc.request("anvil_setBalance", bench["lender"], hex(ETH))
    _mode(bench, "lender", mode)
    step = bench.lend("lender", bench.weth, ETH, (_repay(bench, "lender", bench.weth, ETH),))
    with pytest.raises(Reverted, match=refusal):
        bench.dry(step)
    _mode(bench, "lender", "Honest")
    assert bench.dry(step) == 0, "the same program works with an honest lender"


def test_lender_cannot_call_again_from_inside_its_own_callback(bench: Bench) -> None:
    """While its program runs, the lender may not start it a second time."""
    _mode(bench, "lender", "Nested")
    again = Call(bench["lender"], calldata("again(address)", bench.executor))
    step = bench.lend("lender", bench.weth, ETH, (again, _repay(bench, "lender", bench.weth, ETH)))
    with pytest.raises(Reverted, match="step 0: step 0: UnexpectedCallback"):
        bench.dry(step)


def test_lender_cannot_call_after_its_turn(bench: Bench) -> None:
    """A program kept by the lender is worthless later in the execution and after it."""
    inner = (_repay(bench, "lender", bench.weth, ETH),)
    step = bench.lend("lender", bench.weth, ETH, inner)
    bench.tell(bench["lender"], "keep(bytes)", encode(inner))
    again = Call(bench["lender"], calldata("again(address)", bench.executor))
    with pytest.raises(Reverted, match="step 1: UnexpectedCallback"):
        bench.dry(step, again)
    with pytest.raises(Reverted, match="UnexpectedCallback"):
        bench.call(STRANGER, bench["lender"], calldata("again(address)", bench.executor))


def test_lender_cannot_answer_for_another_while_that_one_is_expected(bench: Bench) -> None:
    """Below the top of the stack nobody is expected, even with the right program."""
    inner = (_repay(bench, "other", bench.weth, ETH),)
    bench.tell(bench["lender"], "keep(bytes)", encode(inner))
    bench.tell(bench["other"], "setAccomplice(address)", bench["lender"])
    _mode(bench, "other", "OtherSender")
    nested = (bench.lend("other", bench.weth, ETH, inner), _repay(bench, "lender", bench.weth, ETH))
    with pytest.raises(Reverted, match="step 0: step 0: UnexpectedCallback"):
        bench.dry(bench.lend("lender", bench.weth, ETH, nested))


def test_hidden_failure_of_a_callback_is_found(bench: Bench) -> None:
    """A lender that swallows the callback's revert leaves the expectation unserved, which ends the execution."""
    _mode(bench, "lender", "Swallow")
    failing = (Transfer(bench.weth, STRANGER, literal(10**30)),)
    with pytest.raises(Reverted, match="CallbackMissing"):
        bench.dry(bench.lend("lender", bench.weth, ETH, failing))


def test_plain_call_is_no_invitation(bench: Bench) -> None:
    """A counterparty called without an expectation cannot call back at all."""
    inner = (_repay(bench, "lender", bench.weth, ETH),)
    step = bench.lend("lender", bench.weth, ETH, inner)
    with pytest.raises(Reverted, match="UnexpectedCallback"):
        bench.dry(Call(step.target, step.data))


def test_lender_that_wants_more_than_agreed_hits_the_floor(bench: Bench) -> None:
    """What a lender asks for is paid out of the gain at most: below the floor everything is undone."""
    inner = (bench.earn(ETH), Transfer(bench.weth, bench["lender"], word(1)))
    step = bench.lend("lender", bench.weth, ETH, inner, fee=ETH // 2)
    assert bench.dry(step, min_gain=ETH // 2) == ETH // 2
    with pytest.raises(Reverted, match=f"GainTooLow\\({ETH // 2}, {ETH // 2 + 1}\\)"):
        bench.dry(step, min_gain=ETH // 2 + 1)


@pytest.mark.parametrize("entry", ["execute", "fallback", "coin"])
def test_nobody_reenters(bench: Bench, entry: str) -> None:
    """Not even an operator contract called by the program can start a second execution inside the first."""
    sound = bench.encode(())
    data = {"execute": sound, "fallback": b"\x12\x34\x56\x78", "coin": b""}[entry]
    calls = Call(bench["referee"], calldata("all(address,bytes[])", bench.executor, [data]))
    if entry == "coin":
        assert bench.dry(calls) == 0, "a call without value and data is an unwrapping of nothing"
        return
    refusal = {"execute": "Reentered", "fallback": "UnexpectedCallback"}[entry]
    with pytest.raises(Reverted, match=refusal):
        bench.dry(calls)
    inner = (calls, _repay(bench, "lender", bench.weth, ETH))
    with pytest.raises(Reverted, match=refusal):
        bench.dry(bench.lend("lender", bench.weth, ETH, inner))


# ---------------------------------------------------------------------------------------------- hostile tokens


@pytest.mark.parametrize("step", ["transfer", "approve"])
@pytest.mark.parametrize("manner", ["AnswersFalse", "AnswersTwo", "AnswersShort", "Reverts"])
def test_token_that_refuses_ends_the_execution(bench: Bench, manner: str, step: str) -> None:
    """Anything but nothing or `true` from transfer or approve is a refusal, named with the step."""
    token = bench["token"]
    amount = literal(1)
    what = Transfer(token, STRANGER, amount) if step == "transfer" else Approve(token, STRANGER, amount)
    before = Transfer(bench["second"], STRANGER, literal(0))
    bench.tell(token, "mint(address,uint256)", bench.executor, 1)
    assert bench.dry(before, what) == 0
    _manner(bench, "token", manner)
    with pytest.raises(Reverted, match=f"step 1: TokenRefused\\({token}\\)"):
        bench.dry(before, what)


def test_token_that_answers_nothing_is_accepted(bench: Bench) -> None:
    """Tokens from before the standard settled (USDT) work, in the program, as gain and in the sweep."""
    token, second = bench["token"], bench["second"]
    for name in ("token", "second"):
        bench.tell(bench[name], "mint(address,uint256)", bench.executor, 5)
        _manner(bench, name, "AnswersNothing")
    bring = bench.bring(token, 3)
    steps = (bring, Approve(token, STRANGER, literal(2)), Transfer(second, STRANGER, literal(2)))
    done = bench.run(*steps, profit_token=token, sweep=(second,))
    assert (done.gain, bench.balance(token, BENEFICIARY), bench.balance(token, bench.executor)) == (3, 3, 5)
    assert (bench.balance(second, STRANGER), bench.balance(second, BENEFICIARY)) == (2, 3)


def test_fee_on_transfer_cannot_fake_a_gain(bench: Bench) -> None:
    """The gain is what arrived, not what was declared."""
    token = bench["token"]
    _manner(bench, "token", "TakesFee")
    bring = bench.bring(token, 1000)
    assert bench.dry(bring, profit_token=token, min_gain=990) == 990
    with pytest.raises(Reverted, match="GainTooLow\\(990, 1000\\)"):
        bench.dry(bring, profit_token=token, min_gain=1000)
    loan = bench.lend("lender", token, 1000, (Transfer(token, bench["lender"], literal(1000)),))
    with pytest.raises(Reverted, match=r"token says no|balance|loan not repaid|TokenRefused"):
        bench.dry(loan, profit_token=token)


@pytest.mark.parametrize(("step", "inside"), list(product(["transfer", "approve"], [False, True])))
def test_token_that_reenters_is_refused(bench: Bench, step: str, inside: bool) -> None:
    """A token that calls execute or the fallback while it is moved or approved gets nowhere."""
    token = bench["token"]
    bench.tell(token, "mint(address,uint256)", bench.executor, 1)
    what = Transfer(token, STRANGER, literal(1)) if step == "transfer" else Approve(token, STRANGER, literal(1))
    inner = (what, _repay(bench, "lender", bench.weth, ETH))
    steps = bench.lend("lender", bench.weth, ETH, inner) if inside else what
    bench.tell(bench.executor, "setOperator(address,bool)", token, True)
    stray = calldata("onLoan(uint256,int256,bytes)", 1, 1, encode(inner))
    for data, refusal in ((bench.encode(()), "Reentered"), (stray, "UnexpectedCallback")):
        bench.tell(token, "setPayload(address,bytes)", bench.executor, data)
        with pytest.raises(Reverted, match=refusal):
            bench.dry(steps)
    _manner(bench, "token", "Honest")
    assert bench.dry(steps) == 0


def test_token_cannot_take_a_turn_that_belongs_to_the_lender(bench: Bench) -> None:
    """While a lender is expected, the token it moves first is not it, even with the right program."""
    token = bench["token"]
    inner = (_repay(bench, "lender", token, ETH),)
    stray = calldata("onLoan(uint256,int256,bytes)", 1, 1, encode(inner))
    bench.tell(token, "setPayload(address,bytes)", bench.executor, stray)
    with pytest.raises(Reverted, match="UnexpectedCallback"):
        bench.dry(bench.lend("lender", token, ETH, inner))


# ---------------------------------------------------------------------------------------------------- approvals


@pytest.mark.parametrize("manner", ["Honest", "AnswersNothing", "InsistsOnZero"])
def test_no_approval_survives_an_execution(bench: Bench, manner: str) -> None:
    """Whatever a program approves and does not use is taken back, also twice over and inside callbacks."""
    token = bench["token"]
    _manner(bench, "token", manner)
    inner = (Approve(token, bench["other"], literal(9)), _repay(bench, "lender", bench.weth, ETH))
    bench.run(
        Approve(token, STRANGER, literal(5)),
        Approve(token, STRANGER, literal(7)),
        Approve(bench["second"], STRANGER, literal(2**256 - 1)),
        bench.lend("lender", bench.weth, ETH, inner),
    )
    assert bench.allowance(token, STRANGER) == 0
    assert bench.allowance(token, bench["other"]) == 0
    assert bench.allowance(bench["second"], STRANGER) == 0


def test_token_that_keeps_an_approval_ends_the_execution(bench: Bench) -> None:
    """If the token will not let go of an approval, nothing of the execution stands."""
    _manner(bench, "token", "KeepsApprovals")
    assert bench.dry(Approve(bench["token"], STRANGER, literal(0))) == 0
    with pytest.raises(Reverted, match="ApprovalStands"):
        bench.dry(Approve(bench["token"], STRANGER, literal(1)))


# ------------------------------------------------------------------------------------------------- bad programs


def test_calls_never_target_the_executor(bench: Bench) -> None:
    """No step may name the executor itself as target or token."""
    itself = bench.executor
    for step in (
        Call(itself, EXECUTOR.encode("pause")),
        Approve(itself, STRANGER, literal(1)),
        Transfer(itself, STRANGER, literal(1)),
    ):
        with pytest.raises(Reverted, match="step 0: SelfCall"):
            bench.dry(step)


def test_calls_need_code(bench: Bench) -> None:
    """A call to an address without code does not pass for a success."""
    for step in (
        Call(STRANGER, b"1234"),
        Approve(STRANGER, OWNER, literal(1)),
        Transfer(ZERO_ADDRESS, OWNER, literal(1)),
    ):
        with pytest.raises(Reverted, match="step 1: NoCode"):
            bench.dry(bench.earn(1), step)


def test_failing_step_is_named_with_the_inner_reason(bench: Bench) -> None:
    """The revert names the step, level by level, and what the callee said."""
    inner = (bench.earn(1), Transfer(bench["token"], STRANGER, literal(1)))
    with pytest.raises(Reverted, match=rf"^step 1: step 1: TokenRefused\({bench['token']}\): 'balance'$"):
        bench.dry(bench.earn(1), bench.lend("lender", bench.weth, 1, inner))


def test_words_exist_only_in_callbacks(bench: Bench) -> None:
    """A callback word is refused at the top level and beyond the callback's end."""
    with pytest.raises(Reverted, match="step 0: NoSuchWord\\(0\\)"):
        bench.dry(Transfer(bench.weth, STRANGER, word(0)))
    served = bench.lend("lender", bench.weth, 1, (_repay(bench, "lender", bench.weth, 1),))
    with pytest.raises(Reverted, match=r"step 1: NoSuchWord\(0\)"):
        bench.dry(served, Transfer(bench.weth, STRANGER, word(0)))
    for index in (50, 255):
        with pytest.raises(Reverted, match=f"step 0: step 0: NoSuchWord\\({index}\\)"):
            bench.dry(bench.lend("lender", bench.weth, 1, (Transfer(bench.weth, STRANGER, word(index)),)))


def test_balance_source_keeps_what_it_is_told_to(bench: Bench) -> None:
    """`balance(token, keep)` leaves `keep` behind and refuses when there is less."""
    token = bench["token"]
    bench.tell(token, "mint(address,uint256)", bench.executor, 10)
    bench.run(Transfer(token, STRANGER, balance(token, keep=4)))
    assert (bench.balance(token, STRANGER), bench.balance(token, bench.executor)) == (6, 4)
    with pytest.raises(Reverted, match=f"BalanceTooLow\\({token}, 4, 5\\)"):
        bench.dry(Transfer(token, STRANGER, balance(token, keep=5)))


def test_kept_words_are_read_whole_and_by_halves(bench: Bench) -> None:
    """What a call answers is there for later steps, also from inside a callback, until its key is used again."""
    first, second, key = bench["token"], bench["second"], b"k" * 32
    packed = (-5 % 2**128) << 128 | 7
    bench.tell(first, "mint(address,uint256)", MARK, packed)
    asked = Call(first, calldata("balanceOf(address)", MARK)), Keep(key)
    bench.tell(second, "mint(address,uint256)", bench.executor, 100)
    repay = _repay(bench, "lender", bench.weth, 1)
    inside = bench.lend("lender", bench.weth, 1, (Transfer(second, STRANGER, kept(key, 1)), repay))
    bench.run(*asked, inside, Transfer(second, STRANGER, kept(key, 2)))
    assert bench.balance(second, STRANGER) == 12
    other = Call(second, calldata("balanceOf(address)", STRANGER))
    bench.run(*asked, other, Keep(key), Transfer(second, STRANGER, kept(key)))
    assert bench.balance(second, STRANGER) == 24
    # Another key knows nothing of it, nor does another execution.
    bench.run(*asked, Transfer(second, STRANGER, kept(b"q" * 32)))
    bench.run(Transfer(second, STRANGER, kept(key)))
    assert bench.balance(second, STRANGER) == 24


def test_keeping_needs_a_word_that_was_answered(bench: Bench) -> None:
    """A call that answers nothing, or too little, leaves nothing to keep."""
    asked = Call(bench.weth, calldata("balanceOf(address)", STRANGER))
    silent = Call(bench.weth, calldata("withdraw(uint256)", 0))
    for step, word_ in ((silent, 0), (asked, 1), (asked, 255)):
        with pytest.raises(Reverted, match=f"step 1: NoSuchWord\\({word_}\\)"):
            bench.dry(step, Keep(bytes(32), word_))


@pytest.mark.parametrize(
    "slot", [0, 1, 1 << 16, (1 << 16) + 1, (1 << 16) + 2, 1 << 128, (1 << 128) + 1, (1 << 128) + 2]
)
def test_no_key_reaches_what_guards_an_execution(bench: Bench, slot: int) -> None:
    """Keys that equal the slots of lock, expectation and approvals change none of them."""
    key, token = slot.to_bytes(32, "big"), bench["token"]
    bench.tell(token, "mint(address,uint256)", MARK, int(bench["lender"], 16))
    keep = Call(token, calldata("balanceOf(address)", MARK)), Keep(key)
    inner = (Approve(token, STRANGER, literal(7)), *keep, _repay(bench, "lender", bench.weth, 1))
    loan = bench.lend("lender", bench.weth, 1, inner)
    bench.run(*keep, loan, *keep, loan, *keep)
    assert bench.allowance(token, STRANGER) == 0
    _mode(bench, "lender", "Twice")
    with pytest.raises(Reverted, match="UnexpectedCallback"):
        bench.dry(*keep, loan)


def test_coin_goes_along_where_it_is_told_to(bench: Bench) -> None:
    """Unwrapped coin can be sent with a call, up to what there is, and never to nobody or to the executor itself."""
    bench.tell(bench.weth, "deposit()", value=5)
    bench.tell(bench.weth, "transfer(address,uint256)", bench.executor, 5)
    unwrap = Call(bench.weth, calldata("withdraw(uint256)", 5))
    wrap = calldata("deposit()")
    bench.run(unwrap, Call(bench.weth, wrap, value=literal(5)))
    assert bench.balance(bench.weth, bench.executor) == 5
    with pytest.raises(Reverted, match="step 1"):
        bench.dry(unwrap, Call(bench.weth, wrap, value=literal(6)))
    with pytest.raises(Reverted, match="step 1: NoCode"):
        bench.dry(unwrap, Call(STRANGER, b"", value=literal(5)))
    with pytest.raises(Reverted, match="step 1: SelfCall"):
        bench.dry(unwrap, Call(bench.executor, b"", value=literal(5)))


@pytest.mark.parametrize(
    "program",
    [
        b"\x00",
        b"\x01\x00\x00\x01",
        b"\x04\x00\x00\x00",
        b"\x02\x00\x00\x05hello",
        b"\xff" * 40,
        b"\x01",
        b"\x05\x00\x00\x20" + bytes(32),
    ],
)
def test_malformed_program_is_refused(bench: Bench, program: bytes) -> None:
    """Bytes that are no program revert; they are never run in part and forgotten."""
    fields: tuple[Any, ...] = (bytes(32), bench.weth, 0, 0, bench.weth, 2**40, [])
    with pytest.raises(Reverted, match=r"BadProgram|NoCode"):
        bench.call(OPERATOR, bench.executor, EXECUTOR.encode("execute", fields, [], program))


@pytest.mark.parametrize("offset", [5, 32, 36, 2**24 - 2])
def test_patch_outside_the_data_is_refused(bench: Bench, offset: int) -> None:
    """The contract itself refuses to write beyond a call's data, whatever wrote the program."""
    data = calldata("balanceOf(address)", STRANGER)
    program = bytearray(encode((Call(bench.weth, data, (Patch(4, literal(1)),)),)))
    fields: tuple[Any, ...] = (bytes(32), bench.weth, 0, 0, bench.weth, 2**40, [])
    bench.call(OPERATOR, bench.executor, EXECUTOR.encode("execute", fields, [], bytes(program)))
    program[4 + 41 : 4 + 44] = offset.to_bytes(3, "big")
    with pytest.raises(Reverted, match="step 0: BadProgram"):
        bench.call(OPERATOR, bench.executor, EXECUTOR.encode("execute", fields, [], bytes(program)))


def test_expectation_needs_a_program_in_the_callback(bench: Bench) -> None:
    """A callback shorter than the argument position it should carry is refused, not read past its end."""
    step = bench.lend("lender", bench.weth, 1, (_repay(bench, "lender", bench.weth, 1),))
    beyond = Call(step.target, step.data, callback=Callback(bench["lender"], 200))
    with pytest.raises(Reverted, match="AlteredProgram"):
        bench.dry(beyond)
    other = Call(step.target, step.data, callback=Callback(bench["lender"], 0))
    with pytest.raises(Reverted, match="AlteredProgram"):
        bench.dry(other)


# -------------------------------------------------------------------------------------------------------- items


def _guard(bench: Bench, minimum: int = 0, maximum: int = 2**256 - 1, index: int = 0) -> Guard:
    """Looks at how much WETH the beneficiary has."""
    return Guard(bench.weth, calldata("balanceOf(address)", BENEFICIARY), minimum, maximum, index)


def _item(bench: Bench, *steps: Step, growth: int = 0, guard: Guard | None = None) -> Item:
    return Item(guard or _guard(bench), bench.weth, growth, steps)


def test_an_item_that_is_gone_is_left_out_and_the_rest_runs(bench: Bench) -> None:
    """Each guard speaks for its own item only; the gain is that of those that ran."""
    here, gone = _item(bench, bench.earn(5), growth=5), _item(bench, bench.earn(7), growth=7, guard=_guard(bench, 1))
    short = _item(bench, bench.earn(11), guard=_guard(bench, index=1))
    assert bench.run(here, gone, short, here, min_gain=10).gain == 10
    bench.tell(bench.weth, "deposit()", sender=OWNER, value=1)
    bench.tell(bench.weth, "transfer(address,uint256)", BENEFICIARY, 1)
    assert bench.dry(here, gone, short, here) == 17


def test_a_view_that_fails_leaves_its_item_out(bench: Bench) -> None:
    """It vouches for nothing: as in a guard of the whole, where it ends everything."""
    failing = Guard(bench.weth, calldata("transferFrom(address,address,uint256)", STRANGER, OWNER, ETH), 0, 2**256 - 1)
    silent = Guard(bench["lender"], calldata("keep(bytes)", b""), 0, 2**256 - 1)
    for guard in (failing, silent):
        assert bench.dry(_item(bench, bench.earn(3), guard=guard), _item(bench, bench.earn(4))) == 4


def test_an_item_that_brings_too_little_takes_everything_down(bench: Bench) -> None:
    """What an item loses is not made good by another; the reason names the item."""
    good, bad = _item(bench, bench.earn(ETH), growth=ETH), _item(bench, bench.earn(5), growth=6)
    with pytest.raises(Reverted, match=r"^step 1: GrowthTooLow\(5, 6\)$"):
        bench.dry(good, bad)
    bench.run(bench.earn(9), min_gain=0)
    loss = _item(bench, Transfer(bench.weth, STRANGER, literal(2)), growth=1)
    with pytest.raises(Reverted, match=r"^step 1: GrowthTooLow\(0, 1\)$"):
        bench.dry(bench.earn(9), loss)
    assert bench.dry(bench.earn(9), _item(bench, Transfer(bench.weth, STRANGER, literal(2)))) == 7


def test_the_floor_on_the_whole_stands_when_every_item_is_gone(bench: Bench) -> None:
    """Nothing was done, so nothing was gained."""
    gone = _item(bench, bench.earn(ETH), guard=_guard(bench, 2**255))
    with pytest.raises(Reverted, match=r"^GainTooLow\(0, 1\)$"):
        bench.dry(gone, gone, min_gain=1)


def test_a_failing_step_of_an_item_is_named_with_its_item(bench: Bench) -> None:
    """Also in items within items, and where the step fails inside a callback."""
    bad = Transfer(bench["token"], STRANGER, literal(1))
    with pytest.raises(Reverted, match=r"^step 1: step 2: TokenRefused"):
        bench.dry(bench.earn(1), _item(bench, bench.earn(1), bench.earn(1), bad))
    with pytest.raises(Reverted, match=r"^step 0: step 1: step 0: TokenRefused"):
        bench.dry(_item(bench, bench.earn(1), _item(bench, bad)))
    loan = bench.lend("lender", bench.weth, 5, (_item(bench, bad), _repay(bench, "lender", bench.weth, 5)))
    with pytest.raises(Reverted, match=r"^step 1: step 0: step 0: step 0: TokenRefused"):
        bench.dry(bench.earn(1), _item(bench, loan))


def test_items_borrow_and_are_run_inside_callbacks(bench: Bench) -> None:
    """An item expects callbacks like any program, and one left out inside a callback leaves the loan to be repaid."""
    loan = bench.lend("lender", bench.weth, 5, (bench.earn(2), Transfer(bench.weth, bench["lender"], word(1))), fee=1)
    assert bench.run(_item(bench, loan, growth=1)).gain == 1
    gone = _item(bench, bench.earn(9), guard=_guard(bench, 2**255))
    inner = (gone, _item(bench, bench.earn(3)), Transfer(bench.weth, bench["lender"], word(1)))
    assert bench.run(bench.lend("lender", bench.weth, 5, inner, fee=1)).gain == 2


def test_no_approval_given_in_an_item_outlives_the_execution(bench: Bench) -> None:
    """They are revoked like all others."""
    bench.run(_item(bench, Approve(bench.weth, STRANGER, literal(ETH)), bench.earn(1)))
    assert bench.allowance(bench.weth, STRANGER) == 0


def test_an_item_looks_at_no_contract_that_is_none_and_never_at_the_executor(bench: Bench) -> None:
    """As any step."""
    view = calldata("balanceOf(address)", BENEFICIARY)
    for target, error in ((bench.executor, "SelfCall"), (STRANGER, "NoCode")):
        guard = Guard(target, view, 0, 2**256 - 1)
        with pytest.raises(Reverted, match=f"^step 0: {error}"):
            bench.dry(_item(bench, bench.earn(1), guard=guard))
        with pytest.raises(Reverted, match=f"^step 0: {error}"):
            bench.dry(Item(_guard(bench), target, 0, (bench.earn(1),)))


def test_an_item_cut_short_is_no_program(bench: Bench) -> None:
    """Every truncation of an encoded item is refused, by the item or by the program inside it that it cuts short."""
    whole = encode((_item(bench, bench.earn(1), growth=1),))
    body = whole[4:]
    for size in (20, 40, 100, 138, 139, 160, len(body) - 1):
        cut = bytes([4]) + size.to_bytes(3, "big") + body[:size]
        with pytest.raises(Reverted, match=r"^(step 0: ){1,2}(BadProgram|GrowthTooLow)|^GainTooLow"):
            bench.call(OPERATOR, bench.executor, _raw_execution(bench, cut))


def _raw_execution(bench: Bench, program: bytes) -> bytes:
    settlement: tuple[object, ...] = (bytes(32), bench.weth, 1, 0, bench.weth, 2**40, [])
    return EXECUTOR.encode("execute", settlement, [], program)
