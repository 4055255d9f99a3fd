"""The newest head, as it arrives: by subscription where the transport can, by polling where it cannot."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Self

import structlog

from keeper.chain import wire
from keeper.chain.client import NodeClient
from keeper.chain.pool import Endpoint
from keeper.chain.refusals import Kind, Refusal
from keeper.errors import BadData, ConfigError, Transient
from keeper.model import Head

log = structlog.get_logger(__name__)

_SILENCE = 2.5  # block times without a head before the node is asked


class Heads:
    """An async iterator over heads with one slot: whoever is slow sees only the newest.

    Every head differs from the one before; numbers may repeat or step back when the chain is reorganised. Use as an
    async context manager.
    """

    def __init__(
        self,
        client: NodeClient,
        *,
        block_time: float = 12.0,
        poll_interval: float = 1.0,
        probe_interval: float = 15.0,
        least_silence: float = 2.0,
    ) -> None:
        """All times in seconds. Endpoints are judged anew every `probe_interval` when there are several.

        `least_silence` is what a subscription may be silent for on any chain: where blocks come several a second, a
        network delivers them in bursts.
        """
        self.latest: Head | None = None
        self.last_seen: float | None = None  # Unix time at which `latest` arrived
        self._client = client
        self._source = ""
        self._silence = max(block_time * _SILENCE, least_silence)
        self._poll_interval = poll_interval
        self._probe_interval = probe_interval
        self._slot: Head | None = None
        self._filled = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run())]
        self._tasks[0].add_done_callback(self._ended)
        if len(self._client.pool.endpoints) > 1:
            self._tasks.append(asyncio.create_task(self._probe()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Head:
        """The newest head not yet seen by the caller; waits for as long as no endpoint can be used."""
        while self._slot is None:
            if self._failure is not None:
                raise self._failure
            self._filled.clear()
            await self._filled.wait()
        head, self._slot = self._slot, None
        return head

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                endpoint = await self._ask()
                if endpoint.link.push:
                    await self._listen(endpoint)
                else:
                    await asyncio.sleep(self._poll_interval)
                pause = 0.1
            except (Transient, BadData, ConfigError) as error:  # the last: a reconnect that ended on another chain
                log.info("head_unavailable", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whoever waits for a head is told of a failure nobody foresaw, instead of waiting for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._filled.set()

    async def _ask(self) -> Endpoint:
        """Publish the newest header of the best endpoint."""

        async def work(endpoint: Endpoint) -> Endpoint:
            raw = (await endpoint.ask([("eth_getBlockByNumber", ["latest", False])]))[0]
            if isinstance(raw, Refusal):
                raise raw
            self._publish(endpoint, wire.head(raw))
            return endpoint

        return await self._client.pool.run(work)

    async def _listen(self, endpoint: Endpoint) -> None:
        """Publish what `endpoint` announces, until it goes silent, is lost, or is no longer the best."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        try:
            subscription = await endpoint.link.subscribe(["newHeads"], queue.put_nowait)
        except Refusal as error:
            if error.kind is not Kind.UNSUPPORTED:
                raise
            await asyncio.sleep(self._poll_interval)
            return
        try:
            await self._ask()  # what came between the last answer and the subscription
            while self._client.pool.candidates()[:1] == [endpoint]:
                try:
                    async with asyncio.timeout(self._silence):
                        raw = await queue.get()
                except TimeoutError:
                    before = self.latest
                    await self._ask()
                    if self.latest is not before:
                        log.warning("subscription_silent", endpoint=endpoint.label, seconds=self._silence)
                        return
                    continue
                if raw is None:
                    raise Transient(f"the connection to {endpoint.label} was lost")
                while not queue.empty():  # only the newest matters
                    newer = queue.get_nowait()
                    if newer is None:
                        break
                    raw = newer
                self._publish(endpoint, wire.head(raw))
        finally:
            if endpoint.link.push:
                await self._unsubscribe(endpoint, subscription)

    async def _unsubscribe(self, endpoint: Endpoint, subscription: str) -> None:
        with suppress(Transient, BadData, ConfigError):  # it may have ended with its connection
            await endpoint.ask([("eth_unsubscribe", [subscription])], within=2.0)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._probe_interval)
            await self._client.pool.probe()

    def _publish(self, endpoint: Endpoint, head: Head) -> None:
        self._client.pool.check_head(endpoint, head)
        latest = self.latest
        if latest is not None:
            if head.hash == latest.hash:
                return
            # After a failover the other node may be a block or two behind: that is not a reorganisation.
            if endpoint.label != self._source and head.number <= latest.number:
                return
        self._source = endpoint.label
        self.latest = self._slot = head
        self.last_seen = time.time()
        self._filled.set()
