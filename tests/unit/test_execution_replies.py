"""Answers to raw transactions: every node's words become one of six states."""

from __future__ import annotations

import pytest

from keeper.chain.refusals import Unanswered
from keeper.errors import BadData, KeeperError
from keeper.execution.replies import Reception, classify, combine
from keeper.model import Hash
from tests.support.execution_chain import Said, refuse

pytestmark = pytest.mark.unit

R = Reception
HASH = Hash("0x" + "11" * 32)


@pytest.mark.parametrize(
    ("reception", "text"),
    [
        (R.ACCEPTED, "already known"),  # geth, reth
        (R.ACCEPTED, "transaction already imported"),  # anvil
        (R.ACCEPTED, "AlreadyKnown"),  # nethermind
        (R.ACCEPTED, "Known transaction"),  # besu
        (R.ACCEPTED, "existing tx with same hash: transaction already in mempool"),
        (R.NONCE_TOO_LOW, "nonce too low"),
        (R.NONCE_TOO_LOW, "nonce too low: next nonce 5, tx nonce 4"),
        (R.NONCE_TOO_LOW, "OldNonce, Current nonce: 5, nonce of rejected tx: 4"),
        (R.NONCE_TOO_LOW, "Nonce too low"),
        (R.UNDERPRICED, "replacement transaction underpriced"),
        (R.UNDERPRICED, "transaction underpriced: tip needed 1, tip permitted 0"),
        (R.UNDERPRICED, "ReplacementNotAllowed"),
        (R.UNDERPRICED, "FeeTooLow, MaxFeePerGas too low"),
        (R.UNDERPRICED, "Gas price too low"),
        (R.INSUFFICIENT_FUNDS, "insufficient funds for gas * price + value: balance 1, tx cost 2"),
        (R.INSUFFICIENT_FUNDS, "Insufficient funds for gas * price + value"),
        (R.INSUFFICIENT_FUNDS, "InsufficientFunds, Account balance: 1"),
        (R.INSUFFICIENT_FUNDS, "Upfront cost exceeds account balance"),
        (R.REFUSED, "max fee per gas less than block base fee"),
        (R.REFUSED, "intrinsic gas too low"),
        (R.REFUSED, "exceeds block gas limit"),
        (R.REFUSED, "invalid sender"),
        (R.REFUSED, "invalid chain id for signer: have 1 want 2"),
        (R.REFUSED, "oversized data: transaction size 200000, limit 131072"),
        (R.REFUSED, "max priority fee per gas higher than max fee per gas"),
        (R.REFUSED, "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)"),
        (R.UNCERTAIN, "internal error"),
        (R.UNCERTAIN, "header not found"),
        (R.UNCERTAIN, "rate limit exceeded"),
        (R.UNCERTAIN, ""),
    ],
)
def test_one_answer(reception: Reception, text: str) -> None:
    """What is understood is named; what is not may have been taken."""
    assert classify(refuse(text)).reception is reception


@pytest.mark.parametrize("error", [Unanswered("timeout"), BadData("nonsense: insufficient funds")])
def test_no_answer_is_uncertain(error: KeeperError) -> None:
    """A timeout or an unreadable answer rules nothing out, whatever its text."""
    assert classify(error).reception is R.UNCERTAIN


def test_several_endpoints() -> None:
    """One acceptance is enough; a refusal counts only when nobody may have taken it; nobody asked is uncertain."""
    low, poor, lost = (
        Said(None, refuse("nonce too low")),
        Said(None, refuse("insufficient funds")),
        Said(None, Unanswered("-")),
    )
    assert combine([low, Said(HASH), lost]).reception is R.ACCEPTED
    assert combine([poor, Said(None, refuse("already known"))]).reception is R.ACCEPTED
    assert combine([low, lost, poor]).reception is R.UNCERTAIN
    assert combine([poor, low]).reception is R.NONCE_TOO_LOW
    assert combine([poor]).reception is R.INSUFFICIENT_FUNDS
    assert combine([]).reception is R.UNCERTAIN
    assert [r.refused for r in R] == [False, False, True, True, True, True]
