"""The last step of a pass: send an order, or write down that it would have been sent."""

from __future__ import annotations

import asyncio

from keeper.chain.wire import quantity
from keeper.execution.lane import Lane, Sending, new_attempt_id
from keeper.execution.lanes import Lanes
from keeper.execution.replies import Reception
from keeper.execution.track import Tracker
from keeper.execution.verdicts import OPEN
from keeper.model import Address, AttemptState, Head, Order, Signed, TxKind, Verdict
from keeper.ports import Client, Ledger

__all__ = ["DRY", "DrySubmitter", "LiveSubmitter", "new_attempt_id"]

DRY = "dry run: nothing was signed or sent"


class LiveSubmitter:
    """Sends through the owner of a key."""

    def __init__(self, ledger: Ledger, lane: Lane | Lanes, tracker: Tracker) -> None:
        self._ledger = ledger
        self._lane = lane
        self._tracker = tracker
        self._open: dict[tuple[str, Address], str] = {}

    @property
    def lanes(self) -> Lane | Lanes:
        """The owners of the keys."""
        return self._lane

    @property
    def pending(self) -> int:
        """Attempts that may still be mined, as of the latest `settle` or `submit`."""
        return len(set(self._open.values()))

    @property
    def keeps_order(self) -> bool:
        """Orders of one chain go through one key, whose nonces are mined in order."""
        return True

    async def settle(self, head: Head) -> list[Verdict]:
        """Settle what was sent, then rebroadcast or cancel what needs it."""
        changed = await self._tracker.settle(head)
        await self._look()
        return changed

    def in_flight(self, market: str, borrower: Address, head: Head) -> str | None:
        """An attempt that is neither mined nor given up, as of the latest `settle` or `submit`."""
        return self._open.get((market, borrower))

    async def submit(self, order: Order) -> Sending:
        """Sign and send at the next free nonce."""
        try:
            return await self._lane.submit(order)
        finally:
            await self._look()

    async def _look(self) -> None:
        attempts = await self._ledger.unsettled()
        self._open = {key: a.id for a in attempts if a.state in OPEN for key in a.positions}


class DrySubmitter:
    """Takes the same orders, keeps the same records, and has nothing it could sign or send with.

    Nobody mines what is not sent, so the same position would be ordered again at every head: it counts as in flight for
    `hold` blocks instead.
    """

    def __init__(
        self, client: Client, ledger: Ledger, sender: Address, hold: int = 50, *, keeps_order: bool = True
    ) -> None:
        """`keeps_order` as the submitter has it that would send."""
        self.keeps_order = keeps_order
        self._client = client
        self._ledger = ledger
        self._sender = sender
        self._hold = hold
        self._turn = asyncio.Lock()
        self._ordered: dict[tuple[str, Address], tuple[int, str]] = {}

    @property
    def pending(self) -> int:
        """Nothing that was never sent can be mined."""
        return 0

    async def settle(self, head: Head) -> list[Verdict]:
        """Forget positions whose time is up; nothing was sent that could have been mined."""
        self._ordered = {
            key: (number, attempt_id)
            for key, (number, attempt_id) in self._ordered.items()
            if head.number - number < self._hold
        }
        return []

    def in_flight(self, market: str, borrower: Address, head: Head) -> str | None:
        """The attempt that would be on its way now."""
        number, attempt_id = self._ordered.get((market, borrower), (0, None))
        return attempt_id if head.number - number < self._hold else None

    async def submit(self, order: Order) -> Sending:
        """Write down the order, with the calldata in place of a signed transaction, and close it."""
        async with self._turn:
            count = await self._client.request(
                "eth_getTransactionCount", [self._sender, {"blockHash": order.head.hash}]
            )
            nonce = quantity(count, "a transaction count")
            attempt = await self._ledger.intend(order, self._sender, nonce)
            tx = Signed(TxKind.EXECUTE, nonce, None, order.data, order.gas_limit, order.max_fee, order.tip)
            await self._ledger.signed(attempt.id, tx)
            await self._ledger.record([Verdict(attempt.id, AttemptState.DROPPED, DRY, closed=True)])
            self._ordered |= dict.fromkeys(order.positions, (order.head.number, attempt.id))
            return Sending(attempt.id, nonce, Reception.ACCEPTED, DRY)
