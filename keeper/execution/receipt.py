"""From a receipt to an outcome: what was gained at the address that receives it, and what the gas really cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeper.chain.wire import hash32, quantity
from keeper.errors import BadData
from keeper.execution.executor import gain_from_receipt
from keeper.model import Address, Attempt, AttemptState, Hash, Outcome, Signed, TxKind


@dataclass(frozen=True, slots=True)
class Receipt:
    """The part of a receipt the keeper reads; `gas_price` is the effective one, in wei."""

    tx_hash: Hash
    number: int
    block_hash: Hash
    succeeded: bool
    gas_used: int
    gas_price: int
    logs: tuple[Mapping[str, Any], ...]
    data_fee: int = 0  # wei charged beside the gas (OP stack: `l1Fee`)


def parse(raw: Any) -> Receipt | None:
    """A raw ``eth_getTransactionReceipt`` answer; None while there is none, BadData on another shape."""
    if raw is None:
        return None
    try:
        return Receipt(
            tx_hash=hash32(raw["transactionHash"], "a transaction hash"),
            number=quantity(raw["blockNumber"], "a block number"),
            block_hash=hash32(raw["blockHash"], "a block hash"),
            succeeded=quantity(raw["status"], "a status") == 1,
            gas_used=quantity(raw["gasUsed"], "gas used"),
            gas_price=quantity(raw["effectiveGasPrice"], "a gas price"),
            logs=tuple(raw["logs"]),
            data_fee=quantity(raw["l1Fee"], "a data fee") if raw.get("l1Fee") is not None else 0,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadData(f"the node's receipt cannot be read ({error!r}): use another endpoint") from error


def outcome(attempt: Attempt, tx: Signed, receipt: Receipt, revert: str | None = None) -> Outcome:
    """What `receipt` of the attempt's transaction `tx` means.

    The gain counts only when the profit token itself logged sending it out of the executor; a success without that is
    an outcome with gain 0 and the contradiction in `revert`.
    """
    gain, reported = 0, None
    if tx.kind is TxKind.CANCEL:
        state = AttemptState.CANCELLED
    elif not receipt.succeeded:
        state = AttemptState.REVERTED
    else:
        state = AttemptState.MINED
        gain, reported, revert = _gain(attempt.to, attempt.id, receipt)
    return Outcome(
        attempt_id=attempt.id,
        state=state,
        tx_hash=receipt.tx_hash,
        block_number=receipt.number,
        gas_used=receipt.gas_used,
        gas_price=receipt.gas_price,
        gain=gain,
        revert=revert,
        block_hash=receipt.block_hash,
        reported_gain=reported,
        data_fee=receipt.data_fee,
    )


def _gain(executor: Address, attempt_id: str, receipt: Receipt) -> tuple[int, int | None, str | None]:
    try:
        found = gain_from_receipt(receipt.logs, executor)
    except BadData as error:
        return 0, None, str(error)
    if found is None:
        return 0, None, f"the transaction succeeded but {executor} reports no execution: is that the executor?"
    if "0x" + found.id.hex() != attempt_id:
        return 0, found.gain, f"the executor reports execution 0x{found.id.hex()} instead of this attempt's"
    return found.gain, found.gain, None
