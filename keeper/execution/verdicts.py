"""What the chain says about the attempts at one nonce. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keeper.execution.receipt import Receipt, outcome
from keeper.model import Attempt, AttemptState, Hash, Head, Signed, Verdict

_S = AttemptState
WITH_RECEIPT = frozenset({_S.MINED, _S.REVERTED, _S.CANCELLED})
OPEN = frozenset({_S.INTENT, _S.SIGNED, _S.SENT})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read about one signer at `head`: the nonces below `count` are spent."""

    head: Head
    count: int
    receipts: Mapping[Hash, Receipt]
    reverts: Mapping[Hash, str]  # why a reverted transaction did, where that is known

    def receipt(self, tx: Signed) -> Receipt | None:
        """The transaction's receipt if it belongs to the chain of `head`, as far as that can be seen."""
        found = self.receipts.get(tx.hash) if tx.hash is not None else None
        if found is None or found.number > self.head.number:
            return None
        if found.number == self.head.number and found.block_hash != self.head.hash:
            return None
        return found


def judge(
    group: Sequence[Attempt], evidence: Evidence, confirmations: int, missing: Callable[[Attempt], bool]
) -> list[Verdict]:
    """Verdicts on the unsettled attempts at one (signer, nonce); none for those that stay as they are.

    `missing(attempt)` says whether the nonce was seen spent without a receipt of ours at an earlier head already: only
    then is it believed that somebody else spent it, because receipts can lag behind the nonce at a node.
    """
    nonce = group[0].nonce
    if evidence.count <= nonce:
        return _unspent(group)
    for attempt in group:
        for tx in attempt.txs:
            receipt = evidence.receipt(tx)
            if receipt is not None:
                closed = evidence.head.number - receipt.number + 1 >= confirmations
                return _spent(group, attempt, tx, receipt, evidence, closed=closed)
    return _spent_elsewhere(group, evidence.head, confirmations, missing)


def _unspent(group: Sequence[Attempt]) -> list[Verdict]:
    """The nonce is free: what was mined has been reorganised away, and what was sent may land (again)."""
    verdicts = [
        Verdict(a.id, _S.SENT, f"block {a.ended_number} was reorganised away") for a in group if a.state in WITH_RECEIPT
    ]
    if verdicts or any(a.state in OPEN for a in group):
        return verdicts
    back = [a for a in group if a.sent_number is not None and a.ended_number is not None]
    return [Verdict(a.id, _S.SENT, f"nonce {a.nonce} is free again after a reorganisation") for a in back[-1:]]


def _spent(
    group: Sequence[Attempt], winner: Attempt, tx: Signed, receipt: Receipt, evidence: Evidence, *, closed: bool
) -> list[Verdict]:
    result = outcome(winner, tx, receipt, evidence.reverts.get(receipt.tx_hash))
    verdicts = []
    detail = result.revert or f"in block {receipt.number}"
    told = (winner.state, winner.ended_hash, winner.detail) == (result.state, receipt.block_hash, detail)
    if closed or not told:
        verdicts.append(Verdict(winner.id, result.state, detail, receipt.number, result, closed))
    for other in group:
        if other is winner:
            continue
        state = _S.REPLACED if other.txs and other.state is not _S.DROPPED else _S.DROPPED
        if closed or other.state is not state:
            detail = f"nonce {winner.nonce} went to {receipt.tx_hash}, a transaction of attempt {winner.id}"
            detail = other.detail if other.state is state else detail
            verdicts.append(Verdict(other.id, state, detail, receipt.number, None, closed))
    return verdicts


def _spent_elsewhere(
    group: Sequence[Attempt], head: Head, confirmations: int, missing: Callable[[Attempt], bool]
) -> list[Verdict]:
    verdicts = []
    for attempt in group:
        if attempt.state in WITH_RECEIPT:
            detail = f"block {attempt.ended_number} was reorganised away"
            verdicts.append(Verdict(attempt.id, _S.SENT, detail))
        elif attempt.state in OPEN:
            if missing(attempt):
                detail = f"nonce {attempt.nonce} was spent by a transaction this keeper did not send"
                verdicts.append(Verdict(attempt.id, _S.DROPPED, detail, head.number))
        elif attempt.ended_number is None:
            verdicts.append(Verdict(attempt.id, attempt.state, attempt.detail, head.number))
        elif head.number - attempt.ended_number + 1 >= confirmations:
            verdicts.append(Verdict(attempt.id, attempt.state, attempt.detail, attempt.ended_number, None, closed=True))
    return verdicts
