"""What the commands do. Each takes a configuration, builds what it needs, and answers with values to be printed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import click
import structlog

from keeper.assembly import Assembly, assemble, open_signer
from keeper.chain.client import NodeClient
from keeper.chain.heads import Heads
from keeper.chain.until import until
from keeper.checkup import diagnose
from keeper.config import Config
from keeper.demo import perform
from keeper.devchain.serve import serve
from keeper.engine import Engine, Parts
from keeper.errors import ConfigError
from keeper.execution.deploy import deploy as deploy_executor
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.recover import recover
from keeper.execution.submit import DrySubmitter, LiveSubmitter
from keeper.execution.track import Tracker
from keeper.journal.journal import Journal, journal_path
from keeper.journal.queries import AttemptRow, Reader, Since, Summary, attempts, summary
from keeper.kinds import check_words
from keeper.model import Address, FeeQuote, Head, Skip, SkipReason, checksum
from keeper.observer import Telemetry
from keeper.ops.doctor import Report, Result
from keeper.ops.http import Server
from keeper.ops.numbers import ether
from keeper.ops.redact import Redactor
from keeper.ops.signals import stop_event
from keeper.ops.views import DemoView, ExplainView, GateRow, ScanRow, ScanView
from keeper.ports import Book, Submitter

__all__ = ["check_words", "demo", "deploy", "devchain", "doctor", "explain", "report", "run", "scan"]

log = structlog.get_logger("keeper")


async def run(config: Config, redactor: Redactor, *, live: bool, once: bool) -> None:
    """The daemon. Live runs begin with the doctor; a no from it raises CheckFailed before anything is opened."""
    with stop_event() as stop:
        if live:
            (await diagnose(config, live=True)).require()
        async with assemble(config, live=live) as parts, _desk(parts) as (journal, submitter):
            registry = parts.metrics.registry
            server = Server(parts.vitals, registry, redactor, host=config.ops.http_host, port=config.ops.http_port)
            async with server:
                where = "{}:{}".format(*server.address)
                log.info("started", mode=parts.mode, chain=config.chain.id, executor=parts.executor, http=where)
                await _until_stopped(parts, journal, submitter, stop, once=once)
                parts.vitals.stopping = True
                await parts.follower.save()
            log.info("stopped", mode=parts.mode, in_flight=submitter.pending)


async def _until_stopped(
    parts: Assembly, journal: Journal, submitter: Submitter, stop: asyncio.Event, *, once: bool
) -> None:
    starting = asyncio.ensure_future(parts.start())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        head = await starting
        engine = _engine(parts, journal, submitter)
        chain = parts.config.chain
        async with Heads(parts.client, block_time=chain.block_time, poll_interval=chain.poll_interval) as heads:
            log.info("watching", block=head.number, markets=[book.name for book in parts.books])
            if once:
                parts.require_a_market()
                await engine.step(head, stop)
                stop.set()
            await engine.run(until(stop, heads), stop)
            await engine.drain(heads, parts.config.ops.shutdown_grace)
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)


def _engine(parts: Assembly, journal: Journal, submitter: Submitter) -> Engine:
    protocols = {name: market.protocol for name, market in parts.config.markets.items()}
    observer = Telemetry(parts.metrics, parts.vitals, parts.alerter, protocols, submitter, lambda: _provider(parts))
    wired = Parts(
        client=parts.client,
        follower=parts.follower,
        books=parts.books,
        mirrors=[*parts.books, *parts.venues],
        quoter=parts.quoter,
        appraiser=parts.appraiser,
        fees=parts.fees,
        prover=parts.prover,
        submitter=submitter,
        recorder=journal,
        observer=observer,
        clock=lambda: int(time.time()),
    )
    config = parts.config
    return Engine(
        wired,
        block_time=parts.block_time,
        audit_every=config.audit.every,
        audit_sample=config.audit.sample,
    )


def _provider(parts: Assembly) -> str | None:
    """The endpoint that is asked first now; None while none can be."""
    usable = parts.client.pool.candidates()
    return usable[0].label if usable else None


@asynccontextmanager
async def _desk(parts: Assembly) -> AsyncIterator[tuple[Journal, Submitter]]:
    """The journal, reconciled with the chain before anything else, and who takes orders."""
    config = parts.config
    path = journal_path(config.data_dir, config.chain.id, parts.mode)
    journal = await Journal.open(path, config.chain.id, parts.mode)
    try:
        lane = None
        if parts.mode == "live":
            assert parts.signer is not None
            policy = LanePolicy(max_fee=config.strategy.max_gas_price, min_tip=config.strategy.tip)
            lane = Lane(parts.client, journal, parts.signer, policy)
        tracker = Tracker(parts.client, journal, lane)
        found = await recover(journal, tracker, lane, await parts.client.head())
        log.info(
            "reconciled",
            journal=str(path),
            abandoned=len(found.abandoned),
            settled=len(found.settled),
            resumed=len(found.resumed),
            cancelling=len(found.cancelling),
        )
        if lane is None:
            yield journal, DrySubmitter(parts.client, journal, parts.sender)
        else:
            yield journal, LiveSubmitter(journal, lane, tracker)
    finally:
        await journal.close()


async def scan(config: Config, redactor: Redactor) -> ScanView:
    """Every borrower with debt in every market, at the newest block."""
    async with assemble(config, live=False) as parts:
        head = await parts.start()
        parts.require_a_market()
        rows: list[ScanRow] = []
        unknown: dict[str, str] = {}
        for book in parts.books:
            if book.status.trusted or book.read_only:
                rows += [ScanRow(book.name, account, book.base_unit) for account in book.accounts(head.timestamp)]
            if not book.status.trusted:
                unknown[book.name] = book.status.reason
        await parts.follower.save()
    rows.sort(key=lambda row: row.account.health_factor)
    return ScanView(config.chain.id, head, tuple(rows), unknown)


async def explain(config: Config, redactor: Redactor, borrower: Address, market: str | None) -> list[ExplainView]:
    """One borrower in every market that knows it, as the loop would see it now, with every candidate worked out."""
    if market is not None and market not in config.markets:
        known = ", ".join(config.markets)
        raise ConfigError(f"no market is called {market!r}: the configuration has {known}")
    async with assemble(config, live=False) as parts:
        head = await parts.start()
        fees = await parts.fees.quote(head)
        wanted = [book for book in parts.books if market in (None, book.name)]
        found = [await _explain(parts, book, borrower, head, fees) for book in wanted]
        await parts.follower.save()
    return [view for view in found if view is not None]


async def _explain(parts: Assembly, book: Book, borrower: Address, head: Head, fees: FeeQuote) -> ExplainView | None:
    timestamp = head.timestamp + parts.block_time
    account = book.account(borrower, timestamp)
    if account is None:
        return None
    view = ExplainView(parts.config.chain.id, book.name, head, account, book.base_unit, "ETH")
    position = book.position(borrower, timestamp)
    if position is None:
        if not book.status.trusted:
            return replace(view, skip=Skip(SkipReason.MARKET_UNKNOWN, book.status.reason))
        return view
    quoter = parts.quoter(fees, frozenset())
    found = parts.appraiser.consider(book, position, quoter, fees, now=int(time.time()), in_flight=False, thorough=True)
    plan, skip, ran = found.choice.plan, found.skip, None
    if plan is not None and found.liquidation is not None:
        # Simulated even when a gate is closed: the person asked.
        proof = (await parts.prover.prove([(plan, found.liquidation)], head, fees))[0]
        ran, skip = proof.simulation, skip or proof.skip
    gates = tuple(GateRow(gate.name, gate.open, gate.detail, gate.numbers) for gate in found.gates)
    return replace(
        view,
        candidates=found.choice.candidates,
        refusals=position.refusals,
        plan=plan,
        gates=gates,
        simulation=ran,
        skip=skip,
    )


async def doctor(config: Config, redactor: Redactor, *, live: bool, tell: Callable[[Result], None]) -> Report:
    """Every check, told one by one."""
    return await diagnose(config, live=live, tell=tell)


async def deploy(config: Config, redactor: Redactor, *, confirm: Callable[[str], bool]) -> str:
    """Create the executor with the configured signer in every role; a sentence about it, for the configuration."""
    if not config.signer.present:
        raise ConfigError("no key is configured: set signer.keystore (or a private key) before deploying")
    signer = await open_signer(config)
    client = NodeClient.connect([endpoint.reveal() for endpoint in config.chain.endpoints], chain_id=config.chain.id)
    async with client:
        if not confirm(f"Deploy the executor to chain {config.chain.id} from {checksum(signer.address)}?"):
            raise ConfigError("nothing was deployed: answer yes, or pass --yes")
        done = await deploy_executor(
            client,
            signer,
            poll_seconds=min(1.0, config.chain.block_time / 2),
            announce=lambda line: click.echo(line, err=True),
        )
    return (
        f"The executor is at {checksum(done.executor)} (block {done.block}, {ether(done.cost)} of gas)."
        f' Put this into the configuration:\n\n[executor]\naddress = "{checksum(done.executor)}"'
    )


def report(config: Config, *, block: int, at: int, live: bool) -> tuple[Summary, list[AttemptRow]]:
    """What the journal of one mode says since a block or a Unix time."""
    mode = "live" if live else "dry"
    reader = Reader(journal_path(config.data_dir, config.chain.id, mode), config.chain.id, mode)
    since = Since(block, at)
    try:
        return reader.ask(lambda db: summary(db, since)), reader.ask(lambda db: attempts(db, since))
    finally:
        reader.close()


async def devchain(path: Path | None, *, port: int) -> None:
    """The private chain in the foreground until a signal comes; its configuration is written to `path`."""
    config = Path("devchain/devchain.toml") if path is None else path
    ending = threading.Event()
    with stop_event() as stop:
        chain = asyncio.ensure_future(asyncio.to_thread(serve, config, port, say=click.echo, stop=ending))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({chain, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        ending.set()
        await chain


async def demo(path: Path | None) -> DemoView:
    """The daemon through a crash on a private chain; with `path` its configuration, journal and log stay there."""
    directory = None if path is None else path.parent
    return await asyncio.to_thread(perform, directory, say=lambda line: click.echo(line, err=True))
