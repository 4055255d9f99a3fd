"""The executor's calldata, its events and its reverts, without a chain."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper.errors import BadData
from keeper.execution.executor import EXECUTOR, Settlement, encode_execute, gain_from_receipt, state_override
from keeper.execution.reverts import decode_revert
from keeper.model import Address
from keeper.program import Guard, Program, Transfer, literal
from keeper.program import encode as encode_program

pytestmark = pytest.mark.unit

EXECUTOR_AT = Address("0x" + "ee" * 20)
WETH = Address("0x" + "3e" * 20)
OTHER = Address("0x" + "0f" * 20)
ID = bytes(range(32))
STEPS = (Transfer(WETH, OTHER, literal(1)),)
SETTLEMENT = Settlement(ID, 5, WETH, 99, 250)


def error(signature: str, *args: object) -> bytes:
    types = [t for t in signature.partition("(")[2][:-1].split(",") if t]
    return keccak(text=signature)[:4] + encode(types, args)


def step(index: int, reason: bytes) -> bytes:
    return error("StepFailed(uint256,bytes)", index, reason)


# --------------------------------------------------------------------------------------------------- calldata


def test_calldata_carries_everything() -> None:
    """Every field of settlement and program arrives in `execute`'s arguments."""
    guard = Guard(OTHER, b"\x01\x02", 3, 4, 1)
    data = encode_execute(Program((guard,), STEPS, WETH, (OTHER,)), SETTLEMENT)
    function = EXECUTOR.functions["execute"]
    assert data[:4] == function.selector
    settlement, guards, program = decode(list(function.inputs), data[4:])
    assert settlement == (ID, WETH, 5, 250, WETH, 99, (OTHER,))
    assert guards == ((OTHER, 1, 3, 4, b"\x01\x02"),)
    assert program == encode_program(STEPS)


@pytest.mark.parametrize(
    ("program", "settlement", "words"),
    [
        (Program((), STEPS, WETH), Settlement(b"short", 0, WETH, 1), "32 bytes"),
        (Program((), STEPS, WETH), Settlement(ID, 0, WETH, 1, 10_001), "10000"),
        (Program((), STEPS, WETH), Settlement(ID, 0, WETH, 1, -1), "between 0 and"),
        (Program((), STEPS, OTHER), Settlement(ID, 0, WETH, 1, 1), "wrapped native"),
        (Program((), STEPS, WETH, (OTHER, WETH)), Settlement(ID, 0, WETH, 1), "swept"),
    ],
)
def test_contradictions_are_refused(program: Program, settlement: Settlement, words: str) -> None:
    """What the contract would revert on is refused before it costs anything."""
    with pytest.raises(ValueError, match=words):
        encode_execute(program, settlement)


def test_state_override_uses_the_documented_slots() -> None:
    """Owner in slot 0 (unpaused), beneficiary in slot 2, the operator in the mapping of slot 3."""
    operator = Address("0x" + "0b" * 20)
    fields = state_override(EXECUTOR_AT, OTHER, operator)[EXECUTOR_AT]
    mapped = "0x" + keccak(encode(["address", "uint256"], [operator, 3])).hex()
    one, owner = f"0x{1:064x}", "0x" + OTHER[2:].rjust(64, "0")
    assert fields["stateDiff"] == {f"0x{0:064x}": owner, f"0x{2:064x}": owner, mapped: one}


# ----------------------------------------------------------------------------------------------------- events


def _receipt(gain: int = 7, sent: int | None = 7, executions: int = 1) -> list[dict[str, Any]]:
    def log(index: int, where: str, topics: list[str], data: bytes) -> dict[str, Any]:
        return {
            "address": where,
            "topics": topics,
            "data": "0x" + data.hex(),
            "blockNumber": "0x10",
            "logIndex": hex(index),
            "transactionHash": "0x" + "7a" * 32,
        }

    def word(value: str) -> str:
        return "0x" + value[2:].rjust(64, "0")

    moved = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
    logs = [log(0, WETH, [moved, word(OTHER), word(EXECUTOR_AT)], encode(["uint256"], [gain]))]
    if sent is not None:
        logs.append(log(1, WETH, [moved, word(EXECUTOR_AT), word(OTHER)], encode(["uint256"], [sent])))
    event = [EXECUTOR.topic("Executed"), "0x" + ID.hex(), word(WETH)]
    logs += [log(2 + n, EXECUTOR_AT, event, encode(["uint256"] * 2, [gain, 3])) for n in range(executions)]
    return logs


def test_gain_is_read_from_the_receipt() -> None:
    """Id, token, gain, payment and recipient come from the logs."""
    done = gain_from_receipt(_receipt(), EXECUTOR_AT)
    assert done is not None
    assert (done.id, done.profit_token, done.gain, done.coinbase_paid, done.recipient) == (ID, WETH, 7, 3, OTHER)


def test_checksummed_addresses_are_understood() -> None:
    """Nodes answer addresses in any case."""
    logs = [log | {"address": "0x" + log["address"][2:].upper()} for log in _receipt()]
    assert gain_from_receipt(logs, EXECUTOR_AT) is not None


def test_no_execution_is_none() -> None:
    """A receipt without the event, or with somebody else's, has no gain."""
    assert gain_from_receipt([], EXECUTOR_AT) is None
    assert gain_from_receipt(_receipt(), OTHER) is None


def test_no_gain_needs_no_transfer() -> None:
    """An execution that earned nothing sent nothing."""
    done = gain_from_receipt(_receipt(gain=0, sent=None), EXECUTOR_AT)
    assert done is not None
    assert (done.gain, done.recipient) == (0, None)


@pytest.mark.parametrize("logs", [_receipt(sent=None), _receipt(sent=6), _receipt(executions=2), [{"address": "0x1"}]])
def test_receipt_that_contradicts_itself_is_bad_data(logs: list[dict[str, Any]]) -> None:
    """A gain the token did not log, two executions, and a malformed log are not believed."""
    with pytest.raises(BadData):
        gain_from_receipt(logs, EXECUTOR_AT)


# ----------------------------------------------------------------------------------------------------- reverts


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "reverted without a reason"),
        (error("Gone()"), "Gone()"),
        (error("GainTooLow(uint256,uint256)", 1, 2), "GainTooLow(1, 2)"),
        (error("Error(string)", "UniswapV2: K"), "'UniswapV2: K'"),
        (error("Error(string)", "45"), "HealthFactorNotBelowThreshold() [Aave 45]"),
        (error("Error(string)", "103"), "MustNotLeaveDust() [Aave 103]"),
        (error("MustNotLeaveDust()"), "MustNotLeaveDust()"),
        (error("HealthFactorNotBelowThreshold()"), "HealthFactorNotBelowThreshold()"),
        (error("SelfLiquidation()"), "SelfLiquidation()"),
        (error("Panic(uint256)", 0x11), "panic 0x11 (arithmetic overflow)"),
        (error("Panic(uint256)", 0x99), "panic 0x99 (unknown)"),
        (step(3, b""), "step 3: reverted without a reason"),
        (step(0, step(2, error("MustNotLeaveDust()"))), "step 0: step 2: MustNotLeaveDust()"),
        (
            step(1, error("TokenRefused(address,bytes)", WETH, bytes(32))),
            f"step 1: TokenRefused({WETH}): answered false",
        ),
        (
            error("TokenRefused(address,bytes)", WETH, error("Error(string)", "paused")),
            f"TokenRefused({WETH}): 'paused'",
        ),
        (error("Error(string)", "a\x1b[31m\n"), "'a?[31m?'"),
        (bytes.fromhex("deadbeef") + bytes(32), "unknown error 0xdeadbeef (36 bytes)"),
        (error("GainTooLow(uint256,uint256)", 1, 2)[:40], "unknown error"),
        (error("Error(string)", "x")[:30], "unknown error 0x08c379a0 (30 bytes)"),
        (b"\x01", "unknown error 0x01 (1 bytes)"),
    ],
)
def test_reverts_in_words(data: bytes, words: str) -> None:
    """Own, nested, Solidity's and Aave's errors of both eras are named; the rest is described."""
    assert decode_revert(data).startswith(words)


def test_every_error_of_the_contract_is_known() -> None:
    """No error the executor can raise comes out as unknown."""
    abi = json.loads(resources.files("contracts_abi").joinpath("executor.json").read_text())["abi"]
    errors = [entry for entry in abi if entry["type"] == "error"]
    assert len(errors) > 20
    for entry in errors:
        types = [item["type"] for item in entry["inputs"]]
        values = [{"address": WETH, "uint256": 1, "bytes": error("Gone()")}[kind] for kind in types]
        words = decode_revert(error(f"{entry['name']}({','.join(types)})", *values))
        assert words.startswith("step 1: Gone()" if entry["name"] == "StepFailed" else entry["name"])


def test_endless_nesting_ends() -> None:
    """Revert data a hostile contract nested without end is cut, not followed for ever."""
    data = error("Gone()")
    for _ in range(200):
        data = step(0, data)
    assert decode_revert(data) == "step 0: " * 32 + "…"
