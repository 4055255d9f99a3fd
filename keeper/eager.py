"""What can be asked of the node at the same time is: a pass waits for it twice, not four times."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from keeper.errors import BadData, Transient
from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.model import FeeQuote, Head
from keeper.ports import Fees, Following, Job, Proof, Prover, Synced


class EagerFollower:
    """`ports.Following` that has the fees of a head asked for while the mirrors move there.

    The answer is kept by `fees`; what goes wrong with it is met again, and raised, when the fees are needed.
    """

    def __init__(self, follower: Following, fees: Fees) -> None:
        self._follower = follower
        self._fees = fees

    async def advance(self, head: Head) -> Synced:
        asking = asyncio.create_task(self._ask(head))
        try:
            return await self._follower.advance(head)
        except BaseException:
            asking.cancel()
            raise
        finally:
            await asyncio.gather(asking, return_exceptions=True)

    def distrust(self, name: str, reason: str) -> None:
        self._follower.distrust(name, reason)

    async def _ask(self, head: Head) -> None:
        with suppress(Transient, BadData):
            await self._fees.quote(head)


class EagerProver:
    """`ports.Prover` that has the keys' nonces read while the transactions are simulated."""

    def __init__(self, prover: Prover, lanes: Lane | Lanes) -> None:
        self._prover = prover
        self._lanes = lanes

    async def prove(self, jobs: Sequence[Job], head: Head, fees: FeeQuote) -> list[Proof]:
        if not jobs:
            return []
        reading = [asyncio.create_task(self._read(lane, head)) for lane in self._lanes.every]
        try:
            return await self._prover.prove(jobs, head, fees)
        except BaseException:
            for task in reading:
                task.cancel()
            raise
        finally:
            await asyncio.gather(*reading, return_exceptions=True)

    @staticmethod
    async def _read(lane: Lane, head: Head) -> None:
        with suppress(Transient, BadData):  # asked again by whoever needs the nonce
            await lane.prepare(head)
