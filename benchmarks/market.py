"""The keeper's own parts on a market of many: cold and warm start, what a block asks of the node, head to signed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak

from benchmarks.crowd import Crowd, who
from benchmarks.measure import Row, Stall, quantile
from benchmarks.node import crowd_of, endow
from keeper.assembly import Assembly, assemble
from keeper.chain.client import Sent
from keeper.chain.connection import Link
from keeper.chain.follow import Follower
from keeper.chain.providers import Call
from keeper.chain.rebuild import Progress
from keeper.config import Config, load
from keeper.devchain.actors import Actors, account
from keeper.devchain.anvil import Anvil
from keeper.devchain.catalogue import MAIN, SPECS
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.devchain.world import World, ensure_world
from keeper.eager import EagerFollower, EagerProver
from keeper.early import engine_for
from keeper.engine import Engine, Parts
from keeper.execution.executor import creation_code
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.submit import LiveSubmitter
from keeper.execution.track import Tracker
from keeper.journal.journal import Journal
from keeper.model import Address, Hash, address
from keeper.observer import Telemetry
from keeper.protocols.aave_v3 import AaveV3Book
from keeper.safety import Safety
from keeper.stops import limits
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.opportunity import Appraiser
from keeper.strategy.turns import Ordering

LIQUIDATABLE = 10
_FALL = 95  # percent of the price that makes them so
_WINDOW = 80  # blocks above the history: more than can be reorganised away


@dataclass(frozen=True, slots=True)
class Stage:
    """A private chain with a crowd on its main market, and the node in front of it."""

    anvil: Anvil
    world: World
    actors: Actors
    crowd: Crowd
    node: str
    executor: Address

    def config(self, folder: Path) -> Config:
        """The daemon's configuration for it, with everything of one run in `folder`."""
        only = replace(self.world, markets={MAIN: self.world.main})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "operator.key").write_text(OPERATOR_KEY)
        (folder / "keeper.toml").write_text(config_text(only, self.node, folder, 12, 0, self.executor))
        endless = {f"KEEPER__{part}__MAX_HEAD_AGE": "1000000h" for part in ("CHAIN", "BREAKERS")}
        return load(folder / "keeper.toml", endless | {"KEEPER__AUDIT__EVERY": "1000000"})


@contextmanager
def staged(users: int, *, history: bool) -> Iterator[Stage]:
    """`users` made-up people and ten real ones at the edge; with `history` the node serves the logs of everybody."""
    built = ensure_world()
    with built.start(impersonate=True) as anvil:
        rpc, world = anvil.rpc, built.world
        actors = Actors(rpc, world)
        crowd = crowd_of(world, rpc, users)
        endow(rpc, crowd)
        with actors.block() as receipts:
            actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, OPERATOR), gas=6_000_000)
        executor = address(receipts[0]["contractAddress"])
        for number in range(LIQUIDATABLE):
            _at_the_edge(actors, world, number)
        actors.align({symbol: _fallen(symbol) for symbol in SPECS})
        first, blocks = rpc.number() + 1, min(max(users // 400, 8), 2_500) if history else 1
        rpc.request("anvil_mine", hex(blocks + _WINDOW), hex(12))
        words = [anvil.http, str(users), str(first), str(blocks if history else 0)]
        node = subprocess.Popen([sys.executable, "-m", "benchmarks.node", *words], stdout=subprocess.PIPE, text=True)
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            yield Stage(anvil, world, actors, crowd, f"http://127.0.0.1:{port}", executor)
        finally:
            node.terminate()
            node.communicate()


def _fallen(symbol: str) -> int:
    price = SPECS[symbol].price
    return price * _FALL // 100 if symbol == "WETH" else price


def _at_the_edge(actors: Actors, world: World, number: int) -> None:
    """Ether against a stable debt: below one when ether has fallen."""
    debt = ("USDC", "USDT", "DAI")[number % 3]
    dollars = 40_000 + 1_000 * number
    owed = dollars * 83 * _FALL * 1_000 // (100 * 100 * 985)
    actors.open_position(
        world.main,
        account(f"benchmark edge {number}"),
        {"WETH": actors.worth("WETH", dollars)},
        {debt: actors.worth(debt, owed)},
    )


def _set_price(actors: Actors, price: int) -> None:
    with actors.block():
        actors.set_price("WETH", price)


# ------------------------------------------------------------------------------------------------------ starting


def _follower(parts: Assembly, save_seconds: float, tell: Any) -> Follower:
    return Follower(
        parts.client,
        [*parts.books, *parts.venues],
        parts.checkpoints,
        parts.alerter,
        undo=parts.config.chain.max_reorg_depth,
        save_seconds=save_seconds,
        progress=tell,
    )


async def cold_start(stage: Stage, folder: Path) -> list[Row]:
    """From nothing, given up half-way, and gone on with: everybody must be there, to the wei."""
    config, users = stage.config(folder), stage.crowd.users
    seen: list[Progress] = []
    pause = users / 40_000
    begun, used = time.perf_counter(), time.process_time()
    async with Stall() as stall:
        async with assemble(config, live=False) as parts:
            parts.follower = _follower(parts, pause, seen.append)
            starting = asyncio.create_task(parts.start())
            while not starting.done():
                await asyncio.sleep(0.005)
                at = next((step for step in reversed(seen) if step.name == MAIN), None)
                if at is not None and at.percent > 50 and [s.number async for s in parts.checkpoints.load(MAIN)]:
                    starting.cancel()
                    await asyncio.gather(starting, return_exceptions=True)
            cut = starting.cancelled()
        first, halfway = seen[0], next((step for step in reversed(seen) if step.name == MAIN), seen[0])
        seen.clear()
        async with assemble(config, live=False) as parts:
            parts.follower = _follower(parts, 3600.0, seen.append)
            await parts.start()
            again = next((step for step in seen if step.name == MAIN), None)
            await _compare(parts, stage.crowd)
            await parts.follower.save()
    own, wall = time.process_time() - used, time.perf_counter() - begun
    resumed = again.first if again is not None else 0
    whole = cut and resumed > first.first
    logs = 13 * users
    note = (
        f"{logs:,} logs in {wall:.1f} s on the clock; cut at {halfway.percent:.0f} %, told {halfway.eta:.1f} s left, "
        f"went on at block {resumed} of {halfway.first}…{halfway.last}; every balance equal"
    )
    return [
        Row("cold start", "own processor time", own, "s", target="≤ 30 s at 100,000; resumed without loss",
            reached=whole and own <= 30.0 if users <= 100_000 else None, size=users, note=note),
        Row("stall", "cold start, interrupted and resumed", stall.busy * 1e3, "ms", target="≤ 50 ms",
            reached=stall.busy <= 0.05, size=users, note=f"{stall.wall * 1e3:.0f} ms on the clock"),
    ]  # fmt: skip


def _book(parts: Assembly) -> AaveV3Book:
    book = next(book for book in parts.books if book.name == MAIN)
    assert isinstance(book, AaveV3Book)
    return book


async def _compare(parts: Assembly, crowd: Crowd) -> None:
    """Raise AssertionError unless the book has exactly the crowd's balances."""
    book = _book(parts)
    assert book.status.trusted, book.status.reason
    ledger = book._ledger  # noqa: SLF001 - a benchmark may look inside
    for user in range(0, crowd.users, max(crowd.users // 20_000, 1)):
        mine = {(r, s): amount for r, s, amount, _ in ledger.supplies_and_debts(ledger.users[who(user)])}
        theirs = zip(crowd.slots[user].tolist(), crowd.amounts[user].tolist(), strict=True)
        assert mine == {(where // 2, where % 2): amount for where, amount in theirs}, who(user)
        if user % 100 == 0:
            await asyncio.sleep(0)  # what this takes is not the keeper's
    for where in set(crowd.slots[0].tolist()):
        assert ledger.total(where) >= crowd.total(where)
        await asyncio.sleep(0)


async def warm_start(stage: Stage, folder: Path) -> list[Row]:
    """Again, with what the last run left on disk."""
    users = stage.crowd.users
    begun, used = time.perf_counter(), time.process_time()
    async with Stall() as stall, assemble(stage.config(folder), live=False) as parts:
        await parts.start()
        wall, own = time.perf_counter() - begun, time.process_time() - used
        book = _book(parts)
        assert book.status.trusted, book.status.reason
        assert book.borrower_count >= users
    return [
        Row("warm start", "ready after a restart", own, "s", target="≤ 2 s plus catching up, at 100,000",
            reached=own <= 2.0 if users <= 100_000 else None, size=users, note=f"own time; {wall:.2f} s on the clock"),
        Row("stall", "warm start", stall.busy * 1e3, "ms", target="≤ 50 ms", reached=stall.busy <= 0.05, size=users,
            note=f"{stall.wall * 1e3:.0f} ms on the clock"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- passing


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
                _set_price(actors, _fallen("WETH"))
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
                _set_price(actors, SPECS["WETH"].price)
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


def run(users: int, folder: Path, *, samples: int) -> list[Row]:
    """Every part on one stage."""
    with staged(users, history=True) as stage:
        rows = asyncio.run(cold_start(stage, folder))
        rows += asyncio.run(warm_start(stage, folder))
        return rows + asyncio.run(passes(stage, folder, samples=samples))
