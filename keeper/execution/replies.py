"""What the answers to a raw transaction mean: each is a state to act on, none an exception."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from keeper.chain.refusals import Refusal
from keeper.errors import KeeperError
from keeper.model import Hash
from keeper.ports import Client


class Reply(Protocol):
    """One endpoint's answer: a hash, or why not."""

    @property
    def hash(self) -> Hash | None: ...
    @property
    def error(self) -> KeeperError | None: ...


class Sender(Client, Protocol):
    """A client that can also hand out signed transactions."""

    async def send_raw(self, raw: bytes) -> Sequence[Reply]:
        """Give `raw` to every usable endpoint, once each; never raises."""


class Reception(StrEnum):
    """What became of a transaction that was handed out."""

    ACCEPTED = "accepted"  # an endpoint took it, or had it already
    UNCERTAIN = "uncertain"  # nobody took it for sure, and nobody ruled it out: it may still be mined
    NONCE_TOO_LOW = "nonce_too_low"  # the nonce is spent: by this transaction or by another one
    UNDERPRICED = "underpriced"  # another transaction at this nonce pays as much, or the pool wants more
    INSUFFICIENT_FUNDS = "insufficient_funds"  # the signer cannot pay for its gas
    REFUSED = "refused"  # invalid for another reason: it would be refused again

    @property
    def refused(self) -> bool:
        """Every endpoint ruled it out."""
        return self not in (Reception.ACCEPTED, Reception.UNCERTAIN)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers of all endpoints as one, and the words of the one that decided."""

    reception: Reception
    detail: str = ""


# First match wins. Sources: geth core/txpool/errors.go and core/error.go, erigon txpool, reth transaction-pool,
# nethermind AcceptTxResult, besu TransactionInvalidReason, anvil eth/error.rs.
_TEXTS = {
    Reception.ACCEPTED: (
        r"already known|alreadyknown|already imported|already exists|known transaction|already in (the )?(mem)?pool|"
        r"same hash was already|duplicate transaction|transaction_already_known"
    ),
    Reception.NONCE_TOO_LOW: (
        r"nonce (is )?too (low|small)|oldnonce|nonce_too_low|nonce below|lower than the current nonce|"
        r"nonce has already been used|invalid (transaction )?nonce.*(low|expected)"
    ),
    Reception.UNDERPRICED: (
        r"underpriced|replacementnotallowed|replacement fee|gas price too low|fee ?too ?low|feetoolowtocompete|"
        r"tip (is )?(too low|below)|below (the )?(configured )?minimum|could not replace existing"
    ),
    Reception.INSUFFICIENT_FUNDS: (
        r"insufficient ?(funds|balance)|upfront.?cost|exceeds (account )?balance|not enough (funds|balance)"
    ),
    Reception.REFUSED: (
        r"max ?fee ?per ?gas less than|fee cap|less than (block )?base fee|intrinsic gas|exceeds.*gas ?limit|"
        r"gas ?limit (is )?too|invalid (sender|signature|chain ?id|transaction)|chain ?id|not supported|oversized|"
        r"max priority fee per gas higher|exceeds the configured cap|sender is not an eoa|nonce too (high|far)|rlp"
    ),
}
_PATTERNS = tuple((reception, re.compile(text, re.IGNORECASE)) for reception, text in _TEXTS.items())


def classify(error: KeeperError) -> Answer:
    """One endpoint's refusal. What is not understood, or was not answered at all, is uncertain."""
    if isinstance(error, Refusal):
        for reception, pattern in _PATTERNS:
            if pattern.search(error.reason):
                return Answer(reception, str(error))
    return Answer(Reception.UNCERTAIN, str(error))


def combine(replies: Sequence[Reply]) -> Answer:
    """All endpoints' answers as one: one acceptance is enough, and a refusal counts only when everybody refused."""
    answers = [classify(reply.error) if reply.error is not None else Answer(Reception.ACCEPTED) for reply in replies]
    order = list(Reception)  # declared from most to least decisive
    return min(
        answers,
        key=lambda answer: order.index(answer.reception),
        default=Answer(Reception.UNCERTAIN, "no endpoint could be used"),
    )
