"""What the commands do. Each takes a configuration, builds what it needs, and answers with values to be printed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import click
import structlog

from keeper.assembly import Assembly, assemble, lane_policy, open_signers, private_policy, private_relays
from keeper.bulletin import Bulletin, telling
from keeper.chain.client import NodeClient
from keeper.chain.heads import Heads
from keeper.chain.until import until
from keeper.checkup import diagnose
from keeper.config import Config
from keeper.demo import perform
from keeper.devchain.serve import serve
from keeper.eager import EagerFollower, EagerProver
from keeper.early import engine_for, following
from keeper.engine import Engine, Parts
from keeper.errors import CheckFailed, ConfigError, Transient
from keeper.execution.bundles import PrivateLane, PrivateSubmitter
from keeper.execution.deploy import authorise
from keeper.execution.deploy import deploy as deploy_executor
from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.execution.recover import recover
from keeper.execution.submit import DrySubmitter, LiveSubmitter
from keeper.execution.track import Tracker
from keeper.journal.journal import Journal, journal_path
from keeper.journal.queries import AttemptRow, Reader, Since, Summary, attempts, summary
from keeper.kinds import check_words
from keeper.model import Address, FeeQuote, Handle, Head, Skip, SkipReason, checksum, handle, label, market_of
from keeper.observer import Several, Telemetry
from keeper.ops.control import Control, socket_path
from keeper.ops.doctor import Report, Result
from keeper.ops.http import Server
from keeper.ops.numbers import ether
from keeper.ops.redact import Redactor
from keeper.ops.relay_metrics import RelayMetrics
from keeper.ops.signals import stop_event
from keeper.ops.views import DemoView, ExplainView, GateRow, ScanRow, ScanView
from keeper.ports import Book, Job, Submitter
from keeper.replacing import Patience, Replacing
from keeper.safety import Safety
from keeper.stops import limits, recall
from keeper.strategy.turns import Ordering
from keeper.watch import Watch

__all__ = ["check_words", "demo", "deploy", "devchain", "doctor", "explain", "report", "run", "scan"]

log = structlog.get_logger("keeper")

ORDER_SHARE = 8  # of a block time, an eighth at most is spent on the order of its plans
RECORD_GRACE = 5.0  # seconds to write down, when stopping, who else liquidated


async def run(config: Config, redactor: Redactor, *, live: bool, once: bool) -> None:
    """The daemon. Live runs begin with the doctor; a no from it raises CheckFailed before anything is opened."""
    with stop_event() as stop:
        if live:
            (await diagnose(config, live=True)).require()
        async with (
            assemble(config, live=live, watching=True) as parts,
            telling(parts, redactor) as bulletin,
            _desk(parts, redactor) as (journal, submitter),
        ):
            registry = parts.metrics.registry
            server = Server(parts.vitals, registry, redactor, host=config.ops.http_host, port=config.ops.http_port)
            safety = _safety(parts, journal)
            await safety.open()
            control = Control(socket_path(config.data_dir, parts.mode), safety.handlers(), redactor)
            async with server, control:
                where = "{}:{}".format(*server.address)
                log.info("started", mode=parts.mode, chain=config.chain.id, executor=parts.executor, http=where)
                async with parts.rivals.recording(journal, RECORD_GRACE), bulletin.watching():
                    await _until_stopped(parts, journal, submitter, safety, bulletin, stop, once=once)
                parts.vitals.stopping = True
                await parts.follower.save()
            log.info("stopped", mode=parts.mode, in_flight=submitter.pending)


async def _until_stopped(
    parts: Assembly,
    journal: Journal,
    submitter: Submitter,
    safety: Safety,
    bulletin: Bulletin,
    stop: asyncio.Event,
    *,
    once: bool,
) -> None:
    starting = asyncio.ensure_future(parts.start())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        head = await starting
        engine = _engine(parts, journal, submitter, safety, bulletin)
        chain = parts.config.chain
        heads_ = Heads(parts.client, block_time=chain.block_time, poll_interval=chain.poll_interval)
        async with heads_ as heads, Watch(parts, safety).watching(stop), following(parts, engine):
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


def _safety(parts: Assembly, journal: Journal) -> Safety:
    return Safety(
        journal,
        parts.appraiser.cooldowns,
        limits(parts.config),
        quiet=round(parts.config.breakers.quiet),
        metrics=parts.metrics,
        vitals=parts.vitals,
        alerter=parts.alerter,
        clock=lambda: int(time.time()),
    )


def _replacing(parts: Assembly, journal: Journal, submitter: LiveSubmitter, safety: Safety) -> Replacing:
    """The executor's deadline is `inclusion_slack` blocks after the one that was simulated for."""
    slack = parts.config.strategy.inclusion_slack
    patience = Patience(before=max(1, slack), until=slack)

    def count(what: str) -> None:
        parts.metrics.replacements.labels(what).inc()

    return Replacing(journal, submitter.lanes, parts.prover, safety, patience, count)


def _engine(parts: Assembly, journal: Journal, submitter: Submitter, safety: Safety, bulletin: Bulletin) -> Engine:
    protocols = {name: market.protocol for name, market in parts.config.markets.items()}
    observer = Telemetry(parts.metrics, parts.vitals, parts.alerter, protocols, submitter, lambda: _provider(parts))
    wired = Parts(
        client=parts.client,
        follower=EagerFollower(parts.follower, parts.fees),
        books=parts.books,
        mirrors=[*parts.books, *parts.venues],
        quoter=parts.quoter,
        appraiser=parts.appraiser,
        fees=parts.fees,
        prover=EagerProver(parts.prover, submitter.lanes) if isinstance(submitter, LiveSubmitter) else parts.prover,
        submitter=submitter,
        recorder=journal,
        observer=Several(observer, parts.rivals, bulletin),
        safeguards=safety,
        clock=lambda: int(time.time()),
        ordering=Ordering(
            renewals=parts.config.strategy.renewals,
            seconds=min(parts.config.strategy.renewal_time, parts.config.chain.block_time / ORDER_SHARE),
            items=parts.config.strategy.batch_items,
            risk_bps=parts.config.strategy.batch_risk_bps,
            max_repaid=parts.config.strategy.max_exposure,
        ),
        review=_replacing(parts, journal, submitter, safety).review if isinstance(submitter, LiveSubmitter) else None,
    )
    return engine_for(parts, wired)


def _provider(parts: Assembly) -> str | None:
    """The endpoint that is asked first now; None while none can be."""
    usable = parts.client.pool.candidates()
    return usable[0].label if usable else None


@asynccontextmanager
async def _desk(parts: Assembly, redactor: Redactor | None = None) -> AsyncIterator[tuple[Journal, Submitter]]:
    """The journal, reconciled with the chain before anything else, and who takes orders."""
    config = parts.config
    path = journal_path(config.data_dir, config.chain.id, parts.mode)
    redactor = redactor or Redactor(config.secrets())
    journal = await Journal.open(path, config.chain.id, parts.mode, mask=redactor.text)
    open_ = AsyncExitStack()
    open_.push_async_callback(journal.close)
    async with open_:
        lanes: Lanes | None = None
        if parts.mode == "live":
            policy = lane_policy(config)
            if config.relays:
                if config.private.signing_key is None:
                    hint = "set private.signing_key: relays give a known key a better place"
                    log.warning("relay_key_random", hint=hint)
                tally, private = RelayMetrics(parts.metrics.registry, config.relays), private_policy(config)
                relays = await open_.enter_async_context(private_relays(config, tally))
                keys = [PrivateLane(parts.client, journal, s, relays, policy, private) for s in parts.signers]
                lanes = Lanes(journal, keys)
            else:
                lanes = Lanes(journal, [Lane(parts.client, journal, signer, policy) for signer in parts.signers])
        depth = config.chain.max_reorg_depth
        tracker = Tracker(parts.client, journal, lanes, confirmations=depth, witnesses=parts.client.each)
        found = await recover(journal, tracker, lanes, await parts.client.head())
        log.info(
            "reconciled",
            journal=str(path),
            abandoned=len(found.abandoned),
            settled=len(found.settled),
            resumed=len(found.resumed),
            cancelling=len(found.cancelling),
        )
        if lanes is None:
            yield journal, DrySubmitter(parts.client, journal, parts.sender, keeps_order=not config.relays)
        else:
            kind = PrivateSubmitter if config.relays else LiveSubmitter
            yield journal, kind(journal, lanes, tracker)


async def scan(config: Config, redactor: Redactor) -> ScanView:
    """Every borrower with debt in every market, at the newest block."""
    async with assemble(config, live=False) as parts:
        head = await parts.start()
        parts.require_a_market()
        rows: list[ScanRow] = []
        unknown: dict[str, str] = {}
        for book in parts.books:
            if book.status.trusted or book.read_only:
                rows += [
                    ScanRow(label(book.name, account.place), account, book.base_unit)
                    for account in book.accounts(head.timestamp)
                ]
            if not book.status.trusted:
                unknown[book.name] = book.status.reason
        await parts.follower.save()
    rows.sort(key=lambda row: row.account.health_factor)
    return ScanView(config.chain.id, head, tuple(rows), unknown)


async def explain(config: Config, redactor: Redactor, borrower: Address, market: str | None) -> list[ExplainView]:
    """One borrower in every market that knows it, as the loop would see it now, with every candidate worked out."""
    if market is not None and market_of(market) not in config.markets:
        known = ", ".join(config.markets)
        raise ConfigError(f"no market is called {market!r}: the configuration has {known}")
    async with assemble(config, live=False) as parts:
        head = await parts.start()
        fees = await parts.fees.quote(head)
        books = [book for book in parts.books if market is None or market_of(market) == book.name]
        stopped = await asyncio.to_thread(recall, config, parts.appraiser.cooldowns)
        found = [
            await _explain(parts, book, position, head, fees, stopped)
            for book in books
            for position in book.handles(borrower)
            if market in (None, book.name) or position == handle(borrower, str(market).partition("/")[2])
        ]
        await parts.follower.save()
    return [view for view in found if view is not None]


async def _explain(
    parts: Assembly, book: Book, one: Handle, head: Head, fees: FeeQuote, stopped: tuple[bool, str | None]
) -> ExplainView | None:
    """`stopped`: whether the keeper is paused, and why its breakers are open."""
    timestamp = head.timestamp + parts.block_time
    account = book.account(one, timestamp)
    if account is None:
        return None
    market = label(book.name, account.place)
    view = ExplainView(parts.config.chain.id, market, head, account, book.base_unit, "ETH")
    position = book.position(one, timestamp)
    if position is None:
        if not book.status.trusted:
            return replace(view, skip=Skip(SkipReason.MARKET_UNKNOWN, book.status.reason))
        return view
    quoter = parts.quoter(fees, frozenset())
    now, (paused, breaker) = int(time.time()), stopped
    found = parts.appraiser.consider(
        book, position, quoter, fees, now=now, in_flight=lambda _: False, paused=paused, breaker=breaker, thorough=True
    )
    plan, skip, ran = found.choice.plan, found.skip, None
    if plan is not None and found.liquidation is not None:
        # Simulated even when a gate is closed: the person asked.
        proof = (await parts.prover.prove([Job(((plan, found.liquidation),))], head, fees))[0]
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


async def doctor(
    config: Config, redactor: Redactor, *, live: bool, notify: bool, tell: Callable[[Result], None]
) -> Report:
    """Every check, told one by one; with `notify` the alert channels get a test message."""
    return await diagnose(config, live=live, notify=notify, tell=tell)


async def deploy(config: Config, redactor: Redactor, *, confirm: Callable[[str], bool]) -> str:
    """Create the executor with the first key in every role and every other key as operator; a sentence about it."""
    if not config.signer.present:
        raise ConfigError("no key is configured: set signer.keystore (or a private key) before deploying")
    client = NodeClient.connect([endpoint.reveal() for endpoint in config.chain.endpoints], chain_id=config.chain.id)
    poll = min(1.0, config.chain.block_time / 2)

    def announce(line: str) -> None:
        click.echo(line, err=True)

    async with client, open_signers(config) as (signer, *others):
        if not confirm(f"Deploy the executor to chain {config.chain.id} from {checksum(signer.address)}?"):
            raise ConfigError("nothing was deployed: answer yes, or pass --yes")
        done = await deploy_executor(client, signer, poll_seconds=poll, announce=announce)
        where = checksum(done.executor)
        announce(f"the executor is at {where}")
        keys = [other.address for other in others]
        try:
            await authorise(client, signer, done.executor, keys, poll_seconds=poll, announce=announce)
        except (CheckFailed, ConfigError, Transient) as error:
            raise CheckFailed(
                f"the executor is at {where}, but not every key may use it yet: {error}. Set executor.address and "
                "let its owner call setOperator for the keys that `keeper doctor` names"
            ) from error
    obeys = ", ".join(checksum(address) for address in (signer.address, *keys))
    return (
        f"The executor is at {where} (block {done.block}, {ether(done.cost)} of gas) and obeys {obeys}."
        f' Put this into the configuration:\n\n[executor]\naddress = "{where}"'
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


async def devchain(path: Path | None, *, port: int, comet_model: Path | None) -> None:
    """The private chain in the foreground until a signal comes; its configuration is written to `path`."""
    config = Path("devchain/devchain.toml") if path is None else path
    ending = threading.Event()
    with stop_event() as stop:
        running = asyncio.to_thread(serve, config, port, comet_model=comet_model, say=click.echo, stop=ending)
        chain = asyncio.ensure_future(running)
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({chain, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        ending.set()
        await chain


async def demo(path: Path | None, *, comet_model: Path | None) -> DemoView:
    """The daemon through a crash on a private chain; with `path` its configuration, journal and log stay there."""
    directory = None if path is None else path.parent

    def say(line: str) -> None:
        click.echo(line, err=True)

    return await asyncio.to_thread(perform, directory, comet_model=comet_model, say=say)
