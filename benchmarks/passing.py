"""What a block asks of the node and of the processor, and how long it takes from a head to a signed transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak

from benchmarks.measure import Row, Stall, quantile
from benchmarks.stage import LIQUIDATABLE, Stage, fallen, set_price
from keeper.assembly import Assembly, assemble
from keeper.chain.client import Sent
from keeper.chain.connection import Link
from keeper.chain.providers import Call
from keeper.devchain.actors import Actors
from keeper.devchain.catalogue import SPECS
from keeper.eager import EagerFollower, EagerProver
from keeper.early import engine_for
from keeper.engine import Engine, Parts
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.submit import LiveSubmitter
from keeper.execution.track import Tracker
from keeper.journal.journal import Journal
from keeper.model import Hash
from keeper.observer import Telemetry
from keeper.safety import Safety
from keeper.stops import limits
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.opportunity import Appraiser
from keeper.strategy.turns import Ordering


class Waiting:
    """A link that tells for how long the node has been waited for, and how often: what is asked together is once."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.label = link.label
        self.seconds = 0.0
        self.rounds = 0
        self._open, self._since = 0, 0.0

    @property
    def push(self) -> bool:
        return self._link.push

    async def call(self, calls: Sequence[Call], *, within: float | None = None) -> list[Any]:
        if self._open == 0:
            self._since = time.perf_counter()
            self.rounds += 1
        self._open += 1
        try:
            return await self._link.call(calls, within=within)
        finally:
            self._open -= 1
            if self._open == 0:
                self.seconds += time.perf_counter() - self._since

    async def subscribe(self, params: Sequence[Any], notify: Any) -> str:
        return await self._link.subscribe(params, notify)

    async def close(self) -> None:
        await self._link.close()


class Sink:
    """The client, except that a raw transaction ends here: when it came is what is measured."""

    def __init__(self, parts: Assembly, waiting: Waiting) -> None:
        self._parts, self._waiting = parts, waiting
        self.sent: list[tuple[float, float, float, int]] = []  # clock, node's time, own processor time, rounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts.client, name)

    async def send_raw(self, raw: bytes) -> list[Sent]:
        """Take note, and answer like a node."""
        self.sent.append(self.now())
        return [Sent("sink", Hash("0x" + keccak(raw).hex()))]

    def now(self) -> tuple[float, float, float, int]:
        return time.perf_counter(), self._waiting.seconds, time.process_time(), self._waiting.rounds


async def _engine(parts: Assembly, sink: Sink, folder: Path, open_: AsyncExitStack) -> Engine:
    """The daemon's loop with a key, a journal and breakers of its own, as `app` wires it."""
    config = parts.config
    journal = await Journal.open(folder / "journal.sqlite3", config.chain.id, "live")
    open_.push_async_callback(journal.close)
    policy = LanePolicy(max_fee=config.strategy.max_gas_price, min_tip=config.strategy.tip)
    (signer,) = parts.signers
    lane = Lane(sink, journal, signer, policy)
    submitter = LiveSubmitter(journal, lane, Tracker(sink, journal, lane, confirmations=config.chain.max_reorg_depth))
    appraiser = Appraiser(
        parts.appraiser.planner,
        parts.appraiser.gates,
        Cooldowns(round(config.strategy.cooldown), parts.appraiser.cooldowns._classify),  # noqa: SLF001 - a fresh one
        tuple(parts.sources.values()),
    )
    safety = Safety(
        journal,
        appraiser.cooldowns,
        limits(config),
        quiet=round(config.breakers.quiet),
        metrics=parts.metrics,
        vitals=parts.vitals,
        alerter=parts.alerter,
        clock=lambda: int(time.time()),
    )
    await safety.open()
    observer = Telemetry(
        parts.metrics,
        parts.vitals,
        parts.alerter,
        {name: table.protocol for name, table in config.markets.items()},
        submitter,
        lambda: "node",
    )
    wired = Parts(
        client=parts.client,
        follower=EagerFollower(parts.follower, parts.fees),
        books=parts.books,
        mirrors=[*parts.books, *parts.venues],
        quoter=parts.quoter,
        appraiser=appraiser,
        fees=parts.fees,
        prover=EagerProver(parts.prover, submitter.lanes),
        submitter=submitter,
        recorder=journal,
        observer=observer,
        safeguards=safety,
        clock=lambda: int(time.time()),
        ordering=Ordering(
            renewals=config.strategy.renewals,
            items=config.strategy.batch_items,
            risk_bps=config.strategy.batch_risk_bps,
            max_repaid=config.strategy.max_exposure,
        ),
    )
    return engine_for(parts, wired)


async def passes(stage: Stage, folder: Path, *, samples: int) -> list[Row]:
    """Quiet blocks, and blocks that make ten people liquidatable."""
    users, actors = stage.crowd.users, stage.actors
    async with Stall() as stall, assemble(stage.config(folder), live=True) as parts, AsyncExitStack() as open_:
        await parts.start()
        (endpoint,) = parts.client.pool.endpoints
        waiting = Waiting(endpoint.link)
        endpoint.link = waiting
        sink = Sink(parts, waiting)
        engine = await _engine(parts, sink, folder / "quiet", open_)
        await engine.step(await parts.client.head())
        quiet = await _quiet(parts, engine, actors, blocks=20)
        found: list[tuple[float, float, float, int]] = []
        sent = 0
        for sample in range(samples + 1):
            async with AsyncExitStack() as inner:
                engine = await _engine(parts, sink, folder / f"sample {sample}", inner)
                await engine.step(await parts.client.head())  # a running keeper's journal has been asked before
                set_price(actors, fallen("WETH"))
                head = await parts.client.head()
                sink.sent.clear()
                before = sink.now()
                decisions = await engine.step(head)
                assert len(decisions) >= LIQUIDATABLE, decisions
                assert sink.sent, [decision.skip for decision in decisions]
                if sample:  # the first one warms up what a running keeper has warm
                    after = sink.sent[0]
                    clock, node, busy = (after[n] - before[n] for n in range(3))
                    found.append((clock, node, busy, after[3] - before[3]))
                    sent += len(sink.sent)
                set_price(actors, SPECS["WETH"].price)
                await engine.step(await parts.client.head())
    return [*quiet_rows(users, quiet), *_latency_rows(users, found, sent, stall)]


async def _quiet(parts: Assembly, engine: Engine, actors: Actors, *, blocks: int) -> tuple[float, float, float]:
    """Round trips, bytes and own seconds (the median) per block in which nothing happens."""
    trips = size = 0
    spent: list[float] = []
    for _ in range(blocks):
        actors.mine()
        head = await parts.client.head()
        before, bytes_before, used = parts.client.round_trips, _traffic(parts), time.process_time()
        await engine.step(head)
        trips += parts.client.round_trips - before
        size += _traffic(parts) - bytes_before
        spent.append(time.process_time() - used)
    return trips / blocks, size / blocks, quantile(spent, 0.5)


def _traffic(parts: Assembly) -> int:
    return sum(entry.sent + entry.received for entry in parts.client.stats.methods.values())


def quiet_rows(users: int, quiet: tuple[float, float, float]) -> list[Row]:
    """What a block asks of the node while nothing happens."""
    trips, size, spent = quiet
    return [
        Row("RPC", "requests per quiet block", trips, "requests", target="constant, ≤ 4", reached=trips <= 4,
            size=users),
        Row("RPC", "bytes per quiet block", size, "bytes", target="constant", size=users),
        Row("RPC", "own time of a quiet block, p50", spent * 1e3, "ms", size=users),
    ]  # fmt: skip


def _latency_rows(users: int, found: list[tuple[float, float, float, int]], sent: int, stall: Stall) -> list[Row]:
    own = [(clock - node) * 1e3 for clock, node, _, _ in found]
    used = [busy * 1e3 for _, _, busy, _ in found]
    node = quantile([node * 1e3 for _, node, _, _ in found], 0.5)
    trips = max(trip for _, _, _, trip in found)
    note = f"{len(found)} heads; node waited for {node:.1f} ms; {sent / len(found):.1f} sent per head"
    rows = []
    for name, share, most in (("p50", 0.5, 15.0), ("p99", 0.99, 50.0)):
        value = quantile(own, share)
        rows.append(
            Row("head → signed", f"{name}, clock less node", value, "ms", target=f"≤ {most:.0f} ms at 100,000",
                reached=value <= most if users <= 100_000 else None, size=users,
                note=f"{note}; processor time {quantile(used, share):.1f} ms")
        )  # fmt: skip
    rows.append(
        Row("head → signed", "round trips until the first is handed over", trips, "requests", target="2",
            reached=trips <= 2, size=users)
    )  # fmt: skip
    rows.append(
        Row("stall", "quiet blocks and liquidations", stall.busy * 1e3, "ms", target="≤ 50 ms",
            reached=stall.busy <= 0.05, size=users, note=f"{stall.wall * 1e3:.0f} ms on the clock")
    )  # fmt: skip
    return rows
