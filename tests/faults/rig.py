"""A live keeper in this process, its node behind the fault proxy, and what it must never do."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from keeper.app import _desk
from keeper.assembly import Assembly, assemble
from keeper.chain.client import NodeClient
from keeper.chain.follow import Advance
from keeper.chain.heads import Heads
from keeper.chain.until import until
from keeper.chain.wire import data_bytes
from keeper.config import load
from keeper.devchain.actors import Actors, Reverted, account
from keeper.devchain.anvil import Anvil
from keeper.devchain.catalogue import SPECS
from keeper.devchain.lending import Market
from keeper.devchain.rpc import Rpc, RpcError
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.devchain.uniswap import Pool
from keeper.devchain.world import Built, World
from keeper.engine import Engine, Parts
from keeper.errors import KeeperError
from keeper.execution.executor import creation_code
from keeper.journal.journal import Journal
from keeper.journal.queries import AttemptRow, attempts
from keeper.model import Address, Decision, Head, Order, Skip, Verdict, address
from keeper.ports import Book, Proof, Sent, Submitter, Synced
from keeper.protocols.aave_v3 import AaveV3Book
from keeper.strategy.opportunity import Opportunity
from tests.support.fault_proxy import Fault, FaultProxy

ACCOUNT = ("uint256",) * 6
TIMEOUT = 0.4  # seconds the keeper waits for an answer
PATIENCE = 20.0  # seconds within which it must have recovered
SLOT0 = "uint160,int24,uint16,uint16,uint16,uint8,bool"


@dataclass
class Watcher:
    """An `engine.Observer` that remembers what the checks need."""

    passed_at: Head | None = None
    behind: frozenset[str] = frozenset()
    passes: int = 0
    applied: int = 0  # blocks, less those undone
    interrupted_by: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)  # heads passed, in order

    def synced(self, step: Synced) -> None:
        self.behind = step.behind
        assert isinstance(step, Advance)
        self.applied += step.applied - step.undone

    def settled(self, verdict: Verdict) -> None: ...

    def audited(self, market: str, difference: Skip | None) -> None:
        if difference is not None:
            self.differences.append(difference.detail)

    def surveyed(self, book: Book, found: object) -> None: ...

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None: ...

    def passed(self, head: Head) -> None:
        self.passed_at = head
        self.passes += 1
        self.seen.append(head.number)

    def interrupted(self, head: Head, error: KeeperError) -> None:
        self.interrupted_by.append(f"{head.number}: {error}")


@dataclass
class Desk:
    """The real submitter, with every order held against the real chain at the moment it is given."""

    inner: Submitter
    rig: Rig
    orders: list[Order] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)

    @property
    def pending(self) -> int:
        return self.inner.pending

    @property
    def keeps_order(self) -> bool:
        return self.inner.keeps_order

    async def settle(self, head: Head) -> Sequence[Verdict]:
        return await self.inner.settle(head)

    def in_flight(self, market: str, borrower: Address, head: Head) -> str | None:
        return self.inner.in_flight(market, borrower, head)

    async def submit(self, order: Order) -> Sent:
        self.orders.append(order)
        wrong = self.rig.untruth(order)
        if wrong:
            self.untrue.append(wrong)
        for market, borrower in order.positions:
            assert self.inner.in_flight(market, borrower, order.head) is None, "the same position twice"
        return await self.inner.submit(order)


class Unguarded:
    """`ports.Safeguards` that stop nothing: the faults are to be met by what is behind them."""

    paused = False
    breaker: str | None = None

    async def settled(self, verdicts: Sequence[Verdict]) -> None: ...

    async def audited(self, mirror: str, difference: Skip | None) -> None: ...

    @asynccontextmanager
    async def sending(self, order: Order, repaid: object) -> AsyncIterator[Skip | None]:
        yield None


class Rig:
    """`mine` and `trade` act on the chain directly; the keeper sees it through `proxy` alone."""

    def __init__(self, anvil: Anvil, world: World, proxy: FaultProxy, parts: Assembly, seed: int) -> None:
        self.anvil, self.world, self.proxy, self.parts = anvil, world, proxy, parts
        self.rng = random.Random(seed)
        self.truth = Rpc(anvil.http)
        self.actors = Actors(anvil.rpc, world)
        self.watcher = Watcher()
        self.users: dict[str, set[Address]] = {name: set() for name in world.markets}
        self.first_nonce = self.nonce()
        self.journal: Journal
        self.desk: Desk
        self.task: asyncio.Task[None]
        self._number = 0

    def nonce(self) -> int:
        return int(self.truth.request("eth_getTransactionCount", OPERATOR, "latest"), 16)

    def head(self) -> tuple[int, str]:
        block = self.truth.block()
        return int(block["number"], 16), block["hash"]

    # ------------------------------------------------------------------------------------------------ traffic

    def borrower(self, market: Market | None = None) -> Address:
        """Somebody with ether as collateral and as much USDC debt as is allowed."""
        market = market or self.rng.choice([*self.world.markets.values()])
        self._number += 1
        user = account(f"faults {self._number}")
        self.users[market.name].add(user)
        usd = self.rng.randrange(20_000, 60_000)
        with self.actors.block(strict=False):
            amount = self.actors.worth("WETH", usd)
            self.actors.fund(user, "WETH", amount)
            self.actors.supply(market, user, "WETH", amount)
        free = self.actors.standing(market, user).available // 10**8
        with self.actors.block(strict=False):
            self.actors.borrow(market, user, "USDC", self.actors.worth("USDC", free * 995 // 1_000))
        return user

    def fall(self, percent: int) -> None:
        """Ether's feed falls, before the next block is mined."""
        self.actors.set_price("WETH", SPECS["WETH"].price * (100 - percent) // 100)

    def trade(self) -> None:
        """One block of what others do, with or without a price that moves."""
        rng, actors = self.rng, self.actors
        pool = rng.choice([p for p in self.world.uniswap.pools if not p.thin])
        with actors.block(strict=False):
            side = rng.random() < 0.5
            symbol = pool.token0 if side else pool.token1
            amount = actors.worth(symbol, rng.randrange(500, 20_000))
            actors.swap(pool, zero_for_one=side, amount=amount)
            if pool.kind == "v3" and rng.random() < 0.5:
                lower, upper, liquidity = rng.choice(actors.seeded_positions(pool))
                actors.add_liquidity(pool, lower, upper, max(liquidity // 1_000, 1))
            if rng.random() < 0.5:
                market = rng.choice([*self.world.markets.values()])
                user = account(f"supplier {rng.randrange(5)}")
                actors.fund(user, "USDC", 10**9)
                actors.supply(market, user, "USDC", 10**9)
                self.users[market.name].add(user)

    async def breathe(self, seconds: float) -> None:
        """Until the keeper has passed the head, but no longer than `seconds`."""
        number, _ = self.head()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.005)
            if self.watcher.passed_at is not None and self.watcher.passed_at.number >= number:
                return

    # ----------------------------------------------------------------------------------------------- the checks

    async def recovered(self, what: str) -> float:
        """Seconds until a pass is complete at the chain's head with nothing behind and nothing unknown."""
        began = time.monotonic()
        mined = began
        while time.monotonic() - began < PATIENCE:
            self.alive(what)
            number, found = self.head()
            at = self.watcher.passed_at
            if at is not None and (at.number, at.hash) == (number, found) and self.whole():
                return time.monotonic() - began
            if time.monotonic() - mined > 0.3:
                self.actors.mine(strict=False)
                mined = time.monotonic()
            await asyncio.sleep(0.01)
        at = self.watcher.passed_at
        unknown = [(b.name, b.status.reason) for b in self.parts.books if not b.status.trusted]
        raise AssertionError(
            f"{what}: not recovered after {PATIENCE:.0f} s: head {self.head()}, last pass at {at}, behind "
            f"{sorted(self.watcher.behind)}, unknown {unknown}, last: {self.watcher.interrupted_by[-3:]}"
        )

    def whole(self) -> bool:
        trusted = all(book.status.trusted for book in self.parts.books)
        pools = all(not venue.dirty and venue.pools() for venue in self.parts.venues)
        priced = not any(book.unknown_assets() for book in self.parts.books if isinstance(book, AaveV3Book))
        return trusted and pools and priced and not self.watcher.behind

    def alive(self, what: str) -> None:
        """The engine's task has not ended."""
        if self.task.done():
            error = self.task.exception() if not self.task.cancelled() else None
            frames = traceback.extract_tb(error.__traceback__)[-2:] if error is not None else []
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            raise AssertionError(f"{what}: the keeper died of {type(error).__name__}: {error} ({where})") from error

    def untruth(self, order: Order) -> str:
        """Why this order should not have been given, judged by the real chain; empty when it is right."""
        try:
            block = self.truth.request("eth_getBlockByHash", order.head.hash, False)
        except RpcError:
            block = None
        if block is None or int(block["number"], 16) != order.head.number:
            return f"order for a block that is not there: {order.head}"
        market = self.world.markets[order.market]
        view = self.truth.view(
            market.pool, "getUserAccountData(address)", order.borrower, returns=",".join(ACCOUNT), at=order.head.number
        )
        book = next(book for book in self.parts.books if book.name == order.market)
        mine = book.account(order.borrower, order.head.timestamp)
        if mine is None or (mine.collateral_value, mine.debt_value, mine.health_factor) != (view[0], view[1], view[5]):
            return f"order for {order.borrower} from a wrong book: {mine} instead of {view}"
        call = {"from": OPERATOR, "to": order.to, "data": "0x" + order.data.hex(), "gas": hex(order.gas_limit)}
        when = {"time": hex(order.head.timestamp + 12), "number": hex(order.head.number + 1)}
        try:
            gain = data_bytes(self.truth.request("eth_call", call, hex(order.head.number), {}, when), "a gain")
        except RpcError as error:
            return f"order that does not pass at its own block: {error.message[:100]}"
        return "" if int.from_bytes(gain[:32], "big") >= order.predicted_net else "order that earns less than predicted"

    def differences(self) -> list[str]:
        """Where the mirrors are not what the chain says: every user of the pool markets, every pool."""
        at = self.watcher.passed_at
        assert at is not None
        found = []
        for book in self.parts.books:
            market = self.world.markets.get(book.name)
            if market is None:  # of another protocol: see `exact`
                continue
            names = sorted(self.users[book.name] | {a.borrower for a in book.accounts(at.timestamp)})
            calls = [(market.pool, "getUserAccountData(address)", (name,), ACCOUNT) for name in names]
            for name, theirs in zip(names, self.truth.views(calls, at=at.number), strict=True):
                mine = book.account(name, at.timestamp)
                have = None if mine is None else (mine.collateral_value, mine.debt_value, mine.health_factor)
                want = None if theirs is None else (theirs[0], theirs[1], theirs[5])
                if have != want and not (have is None and want == (0, 0, 2**256 - 1)):
                    found.append(f"{book.name} {name}: {have} instead of {want}")
        states = {pool.address: pool for venue in self.parts.venues for pool in venue.pools()}
        for pool in self.world.uniswap.pools:
            found += self._pool_differs(pool, states.get(pool.address))
        return found

    async def exact(self, what: str) -> None:
        """No difference; a second look, because the first may fall into the middle of a pass on a late answer."""
        for _ in range(3):
            if not (found := self.differences() or await self._audited()):
                return
            self.actors.mine(strict=False)
            await self.recovered(what)
        raise AssertionError(f"{what}: {found[:3]}")

    async def _audited(self) -> list[str]:
        """Where the books of other protocols are not what the real chain says."""
        at = self.watcher.passed_at
        assert at is not None
        found: list[str] = []
        async with NodeClient.connect([self.anvil.http], chain_id=self.world.chain_id) as truth:
            for book in self.parts.books:
                if book.name not in self.world.markets:
                    difference = await book.audit(truth, at, 1_000)
                    found += [difference.detail] if difference is not None else []
        return found

    def _pool_differs(self, pool: Pool, mine: object) -> list[str]:
        if pool.kind == "v2":
            want: object = self.actors.reserves(pool)
            have: object = (getattr(mine, "reserve0", None), getattr(mine, "reserve1", None))
        else:
            price, tick, *_ = self.truth.view(pool.address, "slot0()", returns=SLOT0)
            want = (price, tick, self.truth.view(pool.address, "liquidity()", returns="uint128"))
            have = (getattr(mine, "sqrt_price", None), getattr(mine, "tick", None), getattr(mine, "liquidity", None))
        return [] if have == want else [f"{pool.kind} {pool.token0}/{pool.token1}/{pool.fee}: {have} instead of {want}"]

    async def attempts(self) -> list[AttemptRow]:
        return await self.journal.ask(attempts)

    async def bookkeeping(self) -> list[str]:
        """Where journal and chain disagree, once nothing is pending."""
        wrong: list[str] = []
        spent: dict[int, str] = {}
        for row in await self.attempts():
            if row.state in ("intent", "signed", "sent"):
                wrong.append(f"attempt {row.id} is still {row.state}: {row.detail}")
            if row.state not in ("mined", "reverted", "cancelled"):
                continue
            receipt = self.truth.request("eth_getTransactionReceipt", row.tx_hash)
            if receipt is None or receipt["status"] != ("0x0" if row.state == "reverted" else "0x1"):
                wrong.append(f"attempt {row.id} is {row.state}, but the chain says {receipt and receipt['status']}")
            elif int(receipt["gasUsed"], 16) != row.gas_used:
                wrong.append(f"attempt {row.id}: gas {row.gas_used} instead of {receipt['gasUsed']}")
            if row.nonce in spent:
                wrong.append(f"nonce {row.nonce} belongs to two attempts")
            spent[row.nonce] = row.id
        expected = set(range(self.first_nonce, self.nonce()))
        if set(spent) != expected:
            wrong.append(f"nonces {sorted(spent)} are in the journal, {sorted(expected)} on the chain")
        return wrong

    async def quiet(self, what: str) -> None:
        """Mine until nothing is pending."""
        for _ in range(60):
            if not self.desk.pending and not await self._open():
                return
            self.actors.mine(strict=False)
            await self.recovered(what)
        rows = [row for row in await self.attempts() if row.state in ("intent", "signed", "sent")]
        raise AssertionError(f"{what}: attempts without an end: {rows}")

    async def _open(self) -> bool:
        return any(row.state in ("intent", "signed", "sent") for row in await self.attempts())


@asynccontextmanager
async def rig(
    built: Built, folder: Path, transport: str, seed: int, *, tune: Callable[[str], str] = lambda text: text
) -> AsyncIterator[Rig]:
    """The built world with a deployed executor, and a live keeper that follows it through a proxy."""
    with built.start(impersonate=True) as anvil:
        async with FaultProxy(anvil.http) as proxy:
            actors = Actors(anvil.rpc, built.world)
            with actors.block() as receipts:
                actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, OPERATOR), gas=6_000_000)
            executor = address(receipts[0]["contractAddress"])
            path = folder / "keeper.toml"
            text = config_text(built.world, anvil.ws, folder, 12, 0, executor)
            path.write_text(tune(text.replace(anvil.ws, getattr(proxy, transport))))
            (folder / "operator.key").write_text(OPERATOR_KEY)
            environment = {
                "KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h",
                "KEEPER__CHAIN__REQUEST_TIMEOUT": f"{round(TIMEOUT * 1000)}ms",
                "KEEPER__STRATEGY__MAX_ORACLE_GAP_BPS": "2000",
                "KEEPER__STRATEGY__PROFIT_SANITY_BPS": "100000",
                "KEEPER__DATA__SNAPSHOT_EVERY": "20",
            }
            async with assemble(load(path, environment), live=True) as parts:
                pool = parts.client.pool
                pool._backoff, pool._cool_down, pool._cool_down_most = 0.005, 0.01, 0.05
                made = Rig(anvil, built.world, proxy, parts, seed)
                await parts.start()
                async with _desk(parts) as (journal, submitter):
                    made.journal, made.desk = journal, Desk(submitter, made)
                    async with running(made):
                        try:
                            yield made
                        finally:
                            proxy.fault = Fault()
                            made.truth.close()


@asynccontextmanager
async def running(made: Rig) -> AsyncIterator[None]:
    """The engine, at work on whatever heads arrive."""
    parts = made.parts
    wired = Parts(
        client=parts.client,
        follower=parts.follower,
        books=parts.books,
        mirrors=[*parts.books, *parts.venues],
        quoter=parts.quoter,
        appraiser=parts.appraiser,
        fees=parts.fees,
        prover=parts.prover,
        submitter=made.desk,
        recorder=made.journal,
        observer=made.watcher,
        safeguards=Unguarded(),
        clock=lambda: made.watcher.passed_at.timestamp if made.watcher.passed_at else 0,
    )
    engine = Engine(wired, block_time=12, audit_every=3, audit_sample=1_000)
    stop = asyncio.Event()
    async with Heads(parts.client, block_time=0.1, poll_interval=0.02, least_silence=0.0) as heads:
        made.task = asyncio.create_task(engine.run(until(stop, heads), stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait([made.task], timeout=5)


__all__ = ["Reverted", "Rig", "rig"]
