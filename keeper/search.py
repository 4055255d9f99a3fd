"""Pools of tokens that have come to matter, looked for in the background while those that are known are traded in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from keeper.chain.client import NodeClient
from keeper.errors import BadData, Transient
from keeper.kinds import TradingVenue

log = structlog.get_logger(__name__)


class PoolSearch:
    """At most one search of a venue at a time; one that the node interrupts is begun again by the next `start`."""

    def __init__(
        self, client: NodeClient, venues: Sequence[TradingVenue], distrust: Callable[[str, str], None]
    ) -> None:
        """`distrust` is given the venue that announced nonsense, and why."""
        self._client = client
        self._venues = venues
        self._distrust = distrust
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin to look where there is something to be found; raises what has ended a search for no good reason."""
        if self._failure is not None:
            raise self._failure
        for venue in self._venues:
            if venue.unsearched and venue.name not in self._running:
                self._running[venue.name] = task = asyncio.create_task(self._run(venue), name=venue.name)
                task.add_done_callback(self._ended)

    async def finished(self) -> bool:
        """Wait for what is running; False when nothing was."""
        running = list(self._running.values())
        await asyncio.gather(*running)
        return bool(running)

    async def close(self) -> None:
        """Stop looking; idempotent."""
        for task in (running := list(self._running.values())):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, venue: TradingVenue) -> None:
        tokens = len(venue.unsearched)
        try:
            await venue.search(self._client, await self._client.head())
            log.info("pools_found", venue=venue.name, tokens=tokens)
        except Transient as error:
            log.info("search_interrupted", venue=venue.name, reason=str(error))
        except BadData as error:
            self._distrust(venue.name, str(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task.get_name()]
        if not task.cancelled():
            self._failure = self._failure or task.exception()
