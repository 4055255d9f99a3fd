"""Why transactions of ours reverted: looked up when they did, and again while nobody can say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from keeper.chain.refusals import Kind, Refusal
from keeper.chain.wire import data_bytes
from keeper.errors import BadData, Transient
from keeper.execution.receipt import Receipt
from keeper.execution.reverts import decode_revert
from keeper.model import Attempt, Hash, Head
from keeper.ports import Client

log = structlog.get_logger(__name__)

# What an attempt's detail begins with while it is being looked up (`strategy.failures.UNEXPLAINED`), and what is said
# in the end. The ages, in blocks since the receipt's, at which it is asked again.
PENDING = "reverted, and no node has said why yet"
NOBODY = "reverted, and no node can say why"
AGES = (1, 2, 4, 8)

Witnesses = Callable[[str, Sequence[Any]], Awaitable[Sequence[Any]]]


class Reasons:
    """Finds out why, by replaying the call on the state before its block and by asking for a trace.

    One that nobody explains stays `PENDING` for a few blocks, because the state or the transaction may only have been
    unknown to the node that was asked, or to all of them for a moment.
    """

    def __init__(self, client: Client, witnesses: Witnesses | None, patience: int) -> None:
        """`witnesses` puts a question to every endpoint, answers or errors; `patience` in blocks ends every search."""
        self._client = client
        self._witnesses = witnesses
        self._last = min(patience - 1, AGES[-1])
        self._asked: dict[Hash, int] = {}  # head number of the latest look

    async def of(self, attempt: Attempt, receipt: Receipt, head: Head) -> str:
        """The reason, in words; begins with `PENDING` while it may still be found."""
        known = attempt.detail if receipt.block_hash == attempt.ended_hash else ""
        if known and not known.startswith(PENDING):
            return known
        age = head.number - receipt.number
        if known and not self._due(receipt, age):
            return known
        self._asked[receipt.tx_hash] = head.number
        reason = await self._replay(receipt, again=bool(known) or age >= self._last)
        if reason is not None:
            if known:
                log.info("revert_explained", attempt=attempt.id, tx=receipt.tx_hash, blocks_later=age, reason=reason)
        elif age >= self._last:
            reason = f"{NOBODY}, asked for {max(age, 0)} blocks"
            log.warning("revert_unexplained", attempt=attempt.id, tx=receipt.tx_hash)
        else:
            return f"{PENDING}: asked again in the next blocks"
        self._asked.pop(receipt.tx_hash, None)
        return reason

    def _due(self, receipt: Receipt, age: int) -> bool:
        asked = self._asked.get(receipt.tx_hash)
        if asked is None or age >= self._last:  # the first look of this process, or the last one
            return True
        before = asked - receipt.number
        return any(before < at <= age for at in AGES)

    async def _replay(self, receipt: Receipt, *, again: bool) -> str | None:
        question: tuple[str, list[Any]] | None = None
        try:
            sent = await self._client.request("eth_getTransactionByHash", [receipt.tx_hash])
            call = {"from": sent["from"], "to": sent["to"], "input": sent["input"], "gas": sent["gas"]}
            question = ("eth_call", [call, hex(receipt.number - 1)])
            await self._client.request(*question)
        except Refusal as refusal:
            if (reason := _told(refusal)) is not None:
                return reason
        except (Transient, BadData, KeyError, TypeError):
            pass
        else:
            return "reverted by what came before it in its block: it would have succeeded on the state before"
        if not again:
            return None
        if self._witnesses is not None and question is not None:
            # A success elsewhere is no explanation: the node that was asked first says that it fails.
            told = [_told(answer) for answer in await self._witnesses(*question) if isinstance(answer, Refusal)]
            if (reason := next((each for each in told if each is not None), None)) is not None:
                return reason
        return await self._trace(receipt)

    async def _trace(self, receipt: Receipt) -> str | None:
        """`debug_traceTransaction` knows the very execution; few public nodes offer it."""
        options = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        try:
            found = await self._client.request("debug_traceTransaction", [receipt.tx_hash, options])
            output = data_bytes(found.get("output"), "return data")
        except (Transient, BadData, AttributeError):
            return None
        return decode_revert(output) if output else None


def _told(refusal: Refusal) -> str | None:
    """What the contract reverted with; None when the refusal is the node's own, or hides it."""
    return decode_revert(refusal.data) if refusal.kind is Kind.REVERT and refusal.data is not None else None
