"""The executor contract as Python sees it: its artifact, calldata, storage and events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from keeper.abi import Interface
from keeper.errors import BadData
from keeper.execution.reverts import decode_revert
from keeper.model import Address, Hash, Log, address
from keeper.program import Program, encode

__all__ = [
    "CREATION_CODE",
    "EXECUTOR",
    "MAX_BPS",
    "RUNTIME_CODE",
    "RUNTIME_HASH",
    "Executed",
    "Settlement",
    "creation_code",
    "decode_revert",
    "encode_execute",
    "executed",
    "gain_from_receipt",
    "state_override",
]

_ARTIFACT: dict[str, Any] = json.loads(resources.files("contracts_abi").joinpath("executor.json").read_text())

EXECUTOR = Interface(_ARTIFACT["abi"])
CREATION_CODE = bytes.fromhex(_ARTIFACT["bytecode"][2:])
RUNTIME_CODE = bytes.fromhex(_ARTIFACT["runtime"][2:])
RUNTIME_HASH = "0x" + keccak(RUNTIME_CODE).hex()
MAX_BPS = 10_000

_SLOTS: dict[str, int] = {name: item["slot"] for name, item in _ARTIFACT["storage"].items()}
_TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()


@dataclass(frozen=True, slots=True)
class Settlement:
    """The floor of one execution and what may be spent on landing it.

    `min_gain` is base units of the program's profit token, after the coinbase payment; `coinbase_bps` the share of the
    measured gain paid to ``block.coinbase`` (only when the profit token is `wrapped_native`); `deadline` the last block
    timestamp at which it may run.
    """

    id: bytes  # 32 bytes, echoed in the event
    min_gain: int
    wrapped_native: Address
    deadline: int
    coinbase_bps: int = 0


@dataclass(frozen=True, slots=True)
class Executed:
    """The executor's own account of one execution, from its event, and who was sent the gain."""

    id: bytes
    profit_token: Address
    gain: int  # base units, after the coinbase payment
    coinbase_paid: int  # wei
    recipient: Address | None  # None when there was no gain to send


def creation_code(owner: Address, operator: Address, beneficiary: Address) -> bytes:
    """Init code with its constructor's arguments."""
    return CREATION_CODE + abi_encode(["address"] * 3, [owner, operator, beneficiary])


def encode_execute(program: Program, settlement: Settlement) -> bytes:
    """Calldata of ``execute``; raises ValueError when a field does not fit or contradicts another."""
    if len(settlement.id) != 32:
        raise ValueError(f"a settlement id has 32 bytes, not {len(settlement.id)}")
    if not 0 <= settlement.coinbase_bps <= MAX_BPS:
        raise ValueError(f"a coinbase share of {settlement.coinbase_bps} bps is not between 0 and {MAX_BPS}")
    if settlement.coinbase_bps and program.profit_token != settlement.wrapped_native:
        raise ValueError("the coinbase can be paid only from the wrapped native token, which is not the profit token")
    if program.profit_token in program.sweep:
        raise ValueError("the profit token cannot be swept: what was there before the execution stays")
    return EXECUTOR.encode(
        "execute",
        (
            settlement.id,
            program.profit_token,
            settlement.min_gain,
            settlement.coinbase_bps,
            settlement.wrapped_native,
            settlement.deadline,
            list(program.sweep),
        ),
        [(guard.target, guard.index, guard.minimum, guard.maximum, guard.data) for guard in program.guards],
        encode(program.steps),
    )


def state_override(
    executor: Address, owner: Address, operator: Address, beneficiary: Address | None = None
) -> dict[str, dict[str, Any]]:
    """The third argument of ``eth_call`` that puts a working executor at `executor`, where there may be none.

    It is unpaused, belongs to `owner`, lets `operator` execute, and pays `beneficiary` (the owner unless given). Other
    storage and balances there stay as they are.
    """
    operators = keccak(abi_encode(["address", "uint256"], [operator, _SLOTS["operators"]]))
    words = {
        _SLOTS["owner"].to_bytes(32, "big"): _word(owner),  # `paused` shares the slot and becomes false
        _SLOTS["beneficiary"].to_bytes(32, "big"): _word(beneficiary or owner),
        operators: (1).to_bytes(32, "big"),
    }
    return {
        executor: {
            "code": "0x" + RUNTIME_CODE.hex(),
            "stateDiff": {"0x" + slot.hex(): "0x" + value.hex() for slot, value in words.items()},
        }
    }


def executed(logs: Sequence[Log], executor: Address) -> Executed | None:
    """What one transaction's logs say about its execution; None when the executor logged none.

    The gain counts only if the token itself logged sending exactly that much away from the executor. Raises BadData
    when it did not, or when there are several executions.
    """
    topic = EXECUTOR.topic("Executed")
    found = [log for log in logs if log.address == executor and log.topics and log.topics[0] == topic]
    if not found:
        return None
    if len(found) > 1:
        raise BadData(f"transaction {found[0].tx_hash} holds {len(found)} executions of {executor}, not one")
    fields = EXECUTOR.parse("Executed", found[0])
    token, gain = address(fields["profitToken"]), int(fields["gain"])
    recipient = _recipient(logs, found[0], executor, token, gain) if gain else None
    return Executed(fields["id"], token, gain, int(fields["coinbasePaid"]), recipient)


def gain_from_receipt(logs: Sequence[Mapping[str, Any]], executor: Address) -> Executed | None:
    """`executed` for the ``logs`` of a raw JSON-RPC receipt."""
    return executed([_log(raw) for raw in logs], executor)


def _recipient(logs: Sequence[Log], event: Log, executor: Address, token: Address, gain: int) -> Address:
    sender = "0x" + _word(executor).hex()
    for log in reversed(logs):
        if (
            log.log_index < event.log_index
            and log.address == token
            and len(log.topics) == 3
            and log.topics[:2] == (_TRANSFER, sender)
            and int.from_bytes(log.data, "big") == gain
        ):
            return address("0x" + log.topics[2][26:])
    raise BadData(f"the executor {executor} reports a gain of {gain} in {event.tx_hash} that {token} did not log")


def _log(raw: Mapping[str, Any]) -> Log:
    try:
        return Log(
            address=address(raw["address"]),
            topics=tuple(str(topic).lower() for topic in raw["topics"]),
            data=bytes.fromhex(raw["data"][2:]),
            block_number=int(raw["blockNumber"], 16),
            log_index=int(raw["logIndex"], 16),
            tx_hash=Hash(str(raw["transactionHash"]).lower()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"a log of the receipt cannot be read: {error!r}") from error


def _word(value: Address) -> bytes:
    return bytes.fromhex(value[2:]).rjust(32, b"\0")
