"""Acting before a price lands, when the configuration asks for it: the loop with backruns, and what feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from keeper.assembly import Assembly
from keeper.backrun import BackrunEngine, Backruns
from keeper.chain.mempool import Mempool
from keeper.engine import Engine, Parts
from keeper.errors import KeeperError
from keeper.execution.bundles import PrivateSubmitter
from keeper.execution.mev_share import HintStream
from keeper.execution.oracle_updates import Feeds, Update

log = structlog.get_logger("keeper")


def engine_for(assembly: Assembly, parts: Parts) -> Engine:
    """The plain loop, unless pending updates or hints are followed."""
    config = assembly.config
    every, sample = config.audit.every, config.audit.sample
    if not (config.mempool.enabled or any(relay.stream for relay in config.relays.values())):
        return Engine(parts, block_time=assembly.block_time, audit_every=every, audit_sample=sample)
    backruns = Backruns(
        feeds=Feeds(every=config.mempool.feeds_every),
        client=assembly.client,
        prover=assembly.prover,
        foresight=assembly.foresight,
        submitter=parts.submitter if isinstance(parts.submitter, PrivateSubmitter) else None,
        blocks=config.strategy.inclusion_slack + 1,
    )
    return BackrunEngine(parts, backruns, block_time=assembly.block_time, audit_every=every, audit_sample=sample)


@asynccontextmanager
async def following(assembly: Assembly, engine: Engine) -> AsyncIterator[None]:
    """Pending updates and hints reach the engine while inside; nothing for the plain loop."""
    tasks: list[asyncio.Task[None]] = []
    if isinstance(engine, BackrunEngine):
        config, feeds = assembly.config, engine.feeds
        if config.mempool.enabled:
            tasks.append(_task(engine, pending_updates(Mempool(assembly.client, feeds.wants), feeds)))
        for name, relay in config.relays.items():
            if relay.stream is not None:
                tasks.append(_task(engine, aiter(HintStream(name, relay.stream, feeds))))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pending_updates(mempool: Mempool, feeds: Feeds) -> AsyncIterator[Update]:
    """Those of the pending transactions that post to a feed in use."""
    async for pending in mempool:
        update = feeds.update(pending)
        if update is not None:
            yield update


def _task(engine: BackrunEngine, updates: AsyncIterator[Update]) -> asyncio.Task[None]:
    return asyncio.create_task(_follow(engine, updates))


async def _follow(engine: BackrunEngine, updates: AsyncIterator[Update]) -> None:
    try:
        await engine.follow(updates)
    except KeeperError as error:
        log.error("updates_not_followed", reason=str(error))
