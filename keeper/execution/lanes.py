"""Several keys side by side: each order goes to the one with the least to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import structlog

from keeper.errors import ConfigError
from keeper.execution.lane import Lane, Sending
from keeper.execution.replies import Reception
from keeper.execution.verdicts import OPEN
from keeper.model import Address, Order
from keeper.ports import Ledger

log = structlog.get_logger(__name__)

REST = 20  # blocks for which a key that cannot pay is asked last


class Lanes:
    """Independent lanes over one ledger. A nonce that is stuck in one holds nothing up in another.

    Positions are kept apart by the ledger, not by the lane: whoever submits asks `LiveSubmitter.in_flight` first, which
    knows the open attempts of every key.
    """

    def __init__(self, ledger: Ledger, lanes: Sequence[Lane]) -> None:
        """Raises ConfigError when two lanes have the same key: nobody would own its nonces then."""
        if not lanes:
            raise ConfigError("there is no key to send with: configure a signer")
        twice = [owner for owner, count in Counter(lane.address for lane in lanes).items() if count > 1]
        if twice:
            raise ConfigError(f"the key of {twice[0]} is configured twice: give each signer a key of its own")
        self._ledger = ledger
        self._resting: dict[Address, int] = {}  # key that could not pay -> head number until which it is asked last
        self._chains: dict[str, tuple[int, Lane]] = {}  # head number, and who has the orders of the chain
        self.every = tuple(lanes)

    def of(self, signer: Address) -> Lane | None:
        """The lane that owns this address; None when no lane does."""
        return next((lane for lane in self.every if lane.address == signer), None)

    async def choose(self, number: int) -> Lane:
        """The lane with the fewest open attempts, the first of equals; one that could not pay lately comes last."""
        busy = Counter(attempt.signer for attempt in await self._ledger.unsettled() if attempt.state in OPEN)
        return min(self.every, key=lambda lane: (number < self._resting.get(lane.address, 0), busy[lane.address]))

    async def submit(self, order: Order) -> Sending:
        """Through the chosen lane, the same for all orders of a chain. Raises as `Lane.submit`."""
        number = order.head.number
        self._chains = {key: found for key, found in self._chains.items() if found[0] == number}
        lane = await self.choose(number)
        if order.chain:
            _, lane = self._chains.setdefault(order.chain, (number, lane))
        sending = await lane.submit(order)
        if sending.reception is Reception.INSUFFICIENT_FUNDS:
            self._resting[lane.address] = number + REST
            log.warning("signer_cannot_pay", signer=lane.address, detail=sending.detail)
        return sending
