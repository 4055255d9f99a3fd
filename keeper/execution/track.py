"""Following what was sent: at every head, what the chain says about each unsettled attempt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from keeper.chain.wire import quantity
from keeper.execution.lane import Lane, counts_request
from keeper.execution.lanes import Lanes
from keeper.execution.reasons import Reasons, Witnesses
from keeper.execution.receipt import Receipt, parse
from keeper.execution.verdicts import OPEN, Evidence, judge
from keeper.model import Address, Attempt, AttemptState, Hash, Head, TxKind, Verdict
from keeper.ports import Client, Ledger


class Tracker:
    """Settles attempts against the chain. One round trip per head and signer while something is unsettled, else none.

    An attempt with a signature stays unsettled until its nonce is spent under `confirmations` blocks: until then a
    reorganisation puts it back to `SENT`, and whatever takes the nonce is found out.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        lane: Lane | Lanes | None,
        confirmations: int = 12,
        witnesses: Witnesses | None = None,
    ) -> None:
        """Without a lane it only watches. `witnesses` puts a question to every endpoint, answers or errors."""
        self._client = client
        self._ledger = ledger
        self._lane = lane
        self._confirmations = confirmations
        self._reasons = Reasons(client, witnesses, confirmations)
        self._missing: dict[str, int] = {}  # attempt -> head at which its nonce was first spent without a receipt

    async def settle(self, head: Head, *, act: bool = True) -> list[Verdict]:
        """Bring the ledger up to `head` and, with `act`, tend what is still open. Returns what changed.

        Raises Transient when the node does not know `head` (any more); the ledger is then as it was.
        """
        attempts = await self._ledger.unsettled()
        changed: list[Verdict] = []
        for signer, mine in groupby(attempts, key=lambda attempt: attempt.signer):
            changed += await self._settle(signer, list(mine), head)
        if changed:
            await self._ledger.record(changed)
            attempts = await self._ledger.unsettled()
        still = {attempt.id for attempt in attempts}
        self._missing = {key: seen for key, seen in self._missing.items() if key in still}
        if act and self._lane is not None:
            undone = {verdict.attempt_id for verdict in changed if verdict.state is AttemptState.SENT}
            outdated = superseded(attempts)
            for attempt in attempts:
                lane = self._lane.of(attempt.signer)
                if lane is not None and attempt.state in OPEN and not self.is_missing(attempt.id):
                    wanted = attempt.id not in outdated
                    await lane.tend(attempt, head, wanted=wanted, now=attempt.id in undone)
            for lane in self._lane.every:
                await lane.fill_gap(head)
        return changed

    def is_missing(self, attempt_id: str) -> bool:
        """The attempt's nonce was spent at the latest head, but by none of its transactions as far as the node says."""
        return attempt_id in self._missing

    async def _settle(self, signer: Address, attempts: list[Attempt], head: Head) -> list[Verdict]:
        hashes = [tx.hash for attempt in attempts for tx in attempt.txs if tx.hash is not None]
        answers = await self._client.batch(
            [*counts_request(signer, head), *(("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes)]
        )
        latest, pending = (quantity(answer, "a transaction count") for answer in answers[:2])
        if self._lane is not None and (lane := self._lane.of(signer)) is not None:
            lane.observe(head, latest, pending)
        receipts = {receipt.tx_hash: receipt for receipt in map(parse, answers[2:]) if receipt is not None}
        evidence = Evidence(head, latest, receipts, await self._reverts(attempts, receipts, head))
        verdicts: list[Verdict] = []
        for nonce, group in groupby(attempts, key=lambda attempt: attempt.nonce):
            members = list(group)
            found = judge(members, evidence, self._confirmations, lambda attempt: self._miss(attempt, head))
            verdicts += found
            if latest <= nonce or any(verdict.outcome for verdict in found):
                for member in members:
                    self._missing.pop(member.id, None)
        return verdicts

    def _miss(self, attempt: Attempt, head: Head) -> bool:
        return self._missing.setdefault(attempt.id, head.number) < head.number

    async def _reverts(self, attempts: list[Attempt], receipts: dict[Hash, Receipt], head: Head) -> dict[Hash, str]:
        """Why reverted liquidations did, as far as that is known at `head`."""
        found: dict[Hash, str] = {}
        for attempt in attempts:
            for tx in attempt.txs:
                receipt = receipts.get(tx.hash) if tx.hash is not None else None
                if receipt is not None and not receipt.succeeded and tx.kind is not TxKind.CANCEL:
                    found[receipt.tx_hash] = await self._reasons.of(attempt, receipt, head)
        return found


def superseded(attempts: Sequence[Attempt]) -> set[str]:
    """Open attempts on a position that has a newer open one: a reorganisation brought them back. Only one is wanted."""
    newest: dict[tuple[str, Address], Attempt] = {}
    outdated: set[str] = set()
    for attempt in sorted((a for a in attempts if a.state in OPEN), key=lambda a: (a.head_number, a.nonce)):
        for key in attempt.positions:
            if key in newest:
                outdated.add(newest[key].id)
            newest[key] = attempt
    return outdated
