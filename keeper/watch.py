"""What is measured beside the loop: balance, age of the head, what endpoints say about it, and how often RPC fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from keeper.assembly import Assembly
from keeper.chain import wire
from keeper.chain.pool import Endpoint
from keeper.chain.refusals import Refusal
from keeper.errors import BadData, Transient
from keeper.model import WAD, Head
from keeper.safety import Safety
from keeper.strategy import breakers

_RATE_WINDOW = 60  # seconds over which RPC errors are a rate
_PATIENCE = 10.0  # seconds for one endpoint's answer


class Watch:
    """Looks every so often, off the loop's way. What cannot be measured is neither fine nor a cause."""

    def __init__(self, parts: Assembly, safety: Safety) -> None:
        self._parts = parts
        self._safety = safety
        self._clock = parts.vitals.clock
        self._rpc: deque[tuple[float, int, int]] = deque()  # when, calls and errors until then

    @asynccontextmanager
    async def watching(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Look while inside. When looking fails for good (no journal), `stop` is set and it raises."""
        task = asyncio.create_task(self._run())
        task.add_done_callback(lambda done: None if done.cancelled() else stop.set())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._parts.config.breakers.check_every)

    async def look(self) -> None:
        """Everything once. Raises Halt when the journal cannot be written."""
        head, safety = self._parts.vitals.head, self._safety
        if head is None:  # not watching yet
            return
        now = round(self._clock())
        await safety.observe(breakers.HEAD_AGE, breakers.head_age(head.timestamp, head.number, now, safety.limits))
        await self._look_at_rpc()
        await safety.look_in_flight()
        for look in (self._look_at_balance, self._look_at_endpoints):
            with suppress(Transient, BadData):
                await look(head)

    async def _look_at_rpc(self) -> None:
        entries = list(self._parts.client.stats.methods.values())
        now = self._clock()
        calls, errors = sum(entry.calls for entry in entries), sum(entry.errors for entry in entries)
        self._rpc.append((now, calls, errors))
        while len(self._rpc) > 2 and now - self._rpc[1][0] >= _RATE_WINDOW:
            self._rpc.popleft()
        _, calls_then, errors_then = self._rpc[0]
        trip = breakers.rpc_errors(calls - calls_then, errors - errors_then, self._safety.limits)
        await self._safety.observe(breakers.RPC, trip)

    async def _look_at_balance(self, head: Head) -> None:
        """Only where something is paid for: a live run."""
        parts = self._parts
        if parts.mode != "live" or not parts.signers:
            return
        calls = [("eth_getBalance", [signer.address, "latest"]) for signer in parts.signers]
        # An order may go to any of the keys, so the poorest counts.
        held = min(wire.quantity(answer, "a balance") for answer in await parts.client.batch(calls))
        parts.metrics.signer_balance.set(held / WAD)
        fees = await parts.fees.quote(head)
        trip = breakers.balance(held, fees.price, self._safety.limits, fees.data_fee)
        await self._safety.observe(breakers.BALANCE, trip)

    async def _look_at_endpoints(self, head: Head) -> None:
        """Only where there are several. One that knows it is behind (its head is old) has no say."""
        parts, limits = self._parts, self._safety.limits
        usable = [endpoint for endpoint in parts.client.pool.endpoints if not endpoint.wrong]
        if len(usable) < 2:
            return
        newest = await asyncio.gather(*(_block(endpoint, "latest") for endpoint in usable))
        oldest = self._clock() - parts.config.chain.max_head_age
        fresh = [(e, found) for e, found in zip(usable, newest, strict=True) if found and found.timestamp >= oldest]
        heads = {endpoint.label: found.number for endpoint, found in fresh}
        height = max(min(heads.values(), default=0) - parts.config.breakers.agree_depth, 0)
        told = await asyncio.gather(*(_block(endpoint, hex(height)) for endpoint, _ in fresh))
        hashes = {e.label: found.hash for (e, _), found in zip(fresh, told, strict=True) if found}
        await self._safety.observe(breakers.ENDPOINTS, breakers.endpoints(heads, hashes, height, limits))


async def _block(endpoint: Endpoint, tag: str) -> Head | None:
    """One endpoint's block; None when it does not say."""
    try:
        answer = (await endpoint.ask([("eth_getBlockByNumber", [tag, False])], within=_PATIENCE))[0]
        return None if isinstance(answer, Refusal) else wire.head(answer)
    except (Transient, BadData):
        return None
