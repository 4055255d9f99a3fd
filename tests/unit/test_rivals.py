"""Why somebody else had it: what is judged from our decisions, what the node is asked, and what the journal adds up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from keeper.errors import Halt, Transient
from keeper.execution.landed import Inquiry, paid_to
from keeper.journal.journal import Journal
from keeper.journal.queries import Reader, summary
from keeper.journal.rivals import Competition, Liquidation
from keeper.model import (
    WAD,
    Address,
    Attempt,
    AttemptState,
    Block,
    Decision,
    Hash,
    Head,
    LiquidationSeen,
    Log,
    Order,
    Outcome,
    Signed,
    Skip,
    SkipReason,
    Token,
    TxKind,
    Verdict,
    Watch,
)
from keeper.ops import rival_tables
from keeper.ports import Book, Proof, Status, Synced
from keeper.rivals import Rivals
from keeper.strategy.opportunity import Opportunity

pytestmark = pytest.mark.unit

POOL, BORROWER = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)
RIVAL, MINER = Address("0x" + "cc" * 20), Address("0x" + "dd" * 20)
SIGNER, EXECUTOR = Address("0x" + "ee" * 20), Address("0x" + "ff" * 20)
USDC = Token(Address("0x" + "11" * 20), "USDC", 6)
WETH = Token(Address("0x" + "22" * 20), "WETH", 18)
TOPIC = "0x" + "99" * 32
SEED = 20261122


def h(number: int) -> Hash:
    return Hash(f"0x{number:064x}")


def head(number: int) -> Head:
    return Head(number, h(number), h(number - 1), 1_700_000_000 + 12 * number, 10**9, fee_recipient=MINER)


def event(number: int, index: int = 0) -> Log:
    return Log(POOL, (TOPIC,), b"", number, index, h(10_000 + number))


@dataclass
class Market:
    """A book, as far as liquidations go: every log is one of `BORROWER`."""

    name: str = "aave"
    read_only: bool = False
    status: Status = field(default_factory=lambda: Status(trusted=True))

    def liquidation_watch(self) -> Watch:
        return Watch(frozenset({POOL}), frozenset({TOPIC}))

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        return tuple(
            LiquidationSeen(
                "aave", BORROWER, RIVAL, USDC, WETH, 2_000 * 10**6, WAD, log.block_number, log.log_index, log.tx_hash,
                debt_price=10**8, collateral_price=2_100 * 10**8, native_price=2_100 * 10**8,
            )
            for log in logs
        )  # fmt: skip


@dataclass
class Node:
    """Answers whatever is asked about a transaction; `down` are failures before that."""

    down: int = 0
    asked: list[list[str]] = field(default_factory=list)
    trace: Any = None

    async def try_batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.asked.append([method for method, _ in calls])
        if self.down:
            self.down -= 1
            raise Transient("the node is down")
        return [self._answer(method, parameters) for method, parameters in calls]

    def _answer(self, method: str, parameters: Sequence[Any]) -> Any:
        number = self.number
        receipt = {
            "blockHash": h(number), "transactionIndex": "0x0", "from": RIVAL, "to": POOL,
            "gasUsed": hex(400_000), "effectiveGasPrice": hex(3 * 10**9), "transactionHash": h(10_000 + number),
        }  # fmt: skip
        match method:
            case "eth_getBlockByHash" | "eth_getBlockByNumber":
                return {
                    "hash": h(number),
                    "miner": MINER,
                    "transactions": [h(10_000 + number), h(7)],
                    "baseFeePerGas": "0x1",
                }
            case "eth_getTransactionReceipt":
                return receipt
            case "debug_traceTransaction":
                return self.trace or {"type": "CALL", "to": POOL}
            case "eth_getBlockReceipts":
                return [receipt]
        return "0x0"

    number: int = 0


@dataclass
class Stage:
    """The watcher with its journal, and what passes tell it."""

    rivals: Rivals
    journal: Journal
    market: Market
    node: Node
    missed: list[str]

    def pass_at(
        self,
        number: int,
        skip: Skip | None = None,
        attempt: str | None = None,
        *,
        seen: bool = True,
        planned: bool = True,
    ) -> None:
        rivals = self.rivals
        rivals.synced(cast(Synced, SimpleNamespace(head=head(number), behind=frozenset())))
        rivals.surveyed(cast(Book, self.market), ())
        if seen:
            position = SimpleNamespace(head=head(number), account=SimpleNamespace(borrower=BORROWER))
            plan = SimpleNamespace(gain=9 * 10**16, cost=10**16, net=8 * 10**16)
            found = SimpleNamespace(position=position, choice=SimpleNamespace(plan=plan if planned else None))
            decision = Decision("aave", BORROWER, skip=skip, attempt_id=attempt)
            rivals.decided(cast(Opportunity, found), cast(Proof | None, None), decision, "")
        rivals.passed(head(number))

    async def taken(self, number: int) -> Liquidation:
        self.node.number = number
        self.rivals.apply(Block(head(number), (event(number),)))
        await self.rivals._queue.join()
        rows = (await self.told()).rows
        return rows[0]

    async def told(self) -> Competition:
        return (await self.journal.ask(summary)).competition


@asynccontextmanager
async def stage(folder: Path, mode: str = "live") -> AsyncIterator[Stage]:
    market, node, missed = Market(), Node(), list[str]()
    journal = await Journal.open(folder / "journal.sqlite3", 1, mode)
    rivals = Rivals([cast(Book, market)], Inquiry(node), mode, missed.append, pause=0.0)
    try:
        async with rivals.recording(journal, 2):
            yield Stage(rivals, journal, market, node, missed)
    finally:
        await journal.close()


FLOOR = Skip(SkipReason.PROFIT_FLOOR, "0.001 is below 0.01")
WAITING = Skip(SkipReason.IN_FLIGHT, "an attempt is out")


async def test_the_last_reason_is_the_reason(tmp_path: Path) -> None:
    """What was skipped at the last pass was missed for that; since when it had been seen is kept, and what the plan
    would have made."""
    async with stage(tmp_path) as on:
        on.pass_at(1, Skip(SkipReason.GAS_CEILING, "too dear"))
        on.pass_at(2, FLOOR)
        row = await on.taken(3)
        assert (row.reason, row.detail, row.first_seen, row.last_seen) == ("profit_floor", FLOOR.detail, 1, 2)
        assert (row.plan_gain, row.plan_cost, row.plan_net) == (9 * 10**16, 10**16, 8 * 10**16)
        assert (row.sender, row.tx_index, row.gas_cost, row.coinbase_paid) == (RIVAL, 0, 400_000 * 3 * 10**9, 0)
        assert on.missed == ["profit_floor"]
        small = Skip(SkipReason.UNPROFITABLE, "it does not pay", {"gain": 5, "gas_cost": 9, "net": -4, "bonus": 7})
        on.pass_at(4, small, planned=False)
        row = await on.taken(5)
        assert (row.plan_gain, row.plan_cost, row.plan_net) == (5, 9, -4), "the best there was would have lost"


async def test_what_was_healthy_when_last_looked_at_was_not_seen(tmp_path: Path) -> None:
    """A position that recovered, or never was liquidatable at a block we looked at, is not blamed on an old reason."""
    async with stage(tmp_path) as on:
        assert (await on.taken(1)).reason == "not_watching"
        on.pass_at(2, FLOOR)
        on.pass_at(3, seen=False)
        row = await on.taken(5)
        assert (row.reason, row.first_seen) == ("not_seen", None)
        assert "block 3" in row.detail
        assert "2 block(s) later" in row.detail
        on.pass_at(6, FLOOR)
        assert (await on.taken(7)).first_seen == 6


async def test_an_unknown_market_is_the_reason(tmp_path: Path) -> None:
    """While a book is rebuilt, or not at the head, what others take there was missed for that."""
    async with stage(tmp_path) as on:
        on.market.status = Status(trusted=False, reason="it is being rebuilt")
        on.pass_at(1, seen=False)
        row = await on.taken(2)
        assert (row.reason, row.detail) == ("market_unknown", "it is being rebuilt")
        on.market.status = Status(trusted=True)
        on.pass_at(3, seen=False)
        assert (await on.taken(4)).reason == "not_seen"


@pytest.mark.parametrize(("mode", "reason"), [("live", "lost_race"), ("dry", "dry_run")])
async def test_an_attempt_that_is_out_lost_the_race(tmp_path: Path, mode: str, reason: str) -> None:
    """Passes that only wait for an attempt do not hide it; a later reason of another kind does."""
    async with stage(tmp_path, mode) as on:
        on.pass_at(1, attempt="0xa1")
        on.pass_at(2, WAITING)
        row = await on.taken(3)
        assert (row.reason, row.attempt_id, row.first_seen, row.last_seen) == (reason, "0xa1", 1, 2)
        on.pass_at(4, FLOOR)
        row = await on.taken(5)
        assert (row.reason, row.attempt_id) == ("profit_floor", None)


async def attempt(journal: Journal, name: str, nonce: int, tx: Hash) -> Attempt:
    order = Order(name, "aave", BORROWER, EXECUTOR, b"", 1, 1, 1, head(1), 100, 10, 90)
    made = await journal.intend(order, SIGNER, nonce)
    await journal.signed(name, Signed(TxKind.EXECUTE, nonce, tx, b"\x01", 1, 1, 1))
    await journal.sent(name, 1)
    return made


def ended(name: str, state: AttemptState, number: int, tx: Hash) -> Verdict:
    outcome = Outcome(
        name, state, tx, number, 50_000, 2 * 10**9, 0, "lost" if state is AttemptState.REVERTED else None, h(number)
    )
    return Verdict(name, state, "", number, outcome)


async def test_how_late_we_were(tmp_path: Path) -> None:
    """From our attempt's receipt: blocks too late, or places behind in the same block; and what the reverts cost."""
    async with stage(tmp_path) as on:
        await attempt(on.journal, "0xa1", 1, h(7))  # the fake block has h(7) at index 1
        on.pass_at(1, attempt="0xa1")
        row = await on.taken(2)
        assert (row.late, row.our_index) == (None, 1), "no receipt yet"
        await on.journal.record([ended("0xa1", AttemptState.REVERTED, 2, h(7))])
        row = (await on.told()).rows[0]
        assert rival_tables.lateness(row) == "same block, 1 place(s) behind"
        await attempt(on.journal, "0xa2", 2, h(8))
        on.pass_at(3, attempt="0xa2")
        await on.taken(4)
        await on.journal.record([ended("0xa2", AttemptState.REVERTED, 7, h(8))])
        told = await on.told()
        assert rival_tables.lateness(told.rows[0]) == "3 block(s) too late"
        assert (told.reverts.count, told.reverts.cost) == (2, 2 * 50_000 * 2 * 10**9)
        assert dict(told.reverts.by_reason) == {"lost": told.reverts.cost}


async def test_ours_is_ours_by_its_transaction(tmp_path: Path) -> None:
    """A liquidation in a transaction that the journal signed is captured, whatever the passes thought; no miss."""
    async with stage(tmp_path) as on:
        await attempt(on.journal, "0xa1", 1, h(10_002))
        on.pass_at(1, attempt="0xa1")
        row = await on.taken(2)
        assert (row.ours, row.attempt_id, row.reason) == (True, "0xa1", None)
        told = await on.told()
        assert (told.captured, told.missed, told.rivals, on.missed) == (1, (), (), [])
        assert told.captured_gross == row.gross


async def test_a_node_that_does_not_answer_costs_only_what_it_knows(tmp_path: Path) -> None:
    """Three tries; then the event alone is written, with nothing made up, and the next block is studied again."""
    async with stage(tmp_path) as on:
        on.pass_at(1, FLOOR)
        on.node.down = 3
        row = await on.taken(2)
        assert (row.reason, row.sender, row.gas_price, row.coinbase_paid, row.most) == (
            "profit_floor",
            None,
            None,
            None,
            None,
        )
        assert row.gross is not None
        assert len(on.node.asked) == 3
        assert rival_tables.payment(row) == "unknown"
        on.pass_at(3, FLOOR)
        assert (await on.taken(4)).sender == RIVAL
        assert all(method != "debug_traceTransaction" for method in on.node.asked[-1]), "extras may have been the cause"
        on.pass_at(5, FLOOR)
        assert (await on.taken(6)).coinbase_paid == 0
        assert "debug_traceTransaction" in on.node.asked[-1], "one failure is no proof"


async def test_blocks_without_liquidations_cost_nothing_and_others_one_request(tmp_path: Path) -> None:
    """The node is asked once per block with liquidations, however many there are in it, and else never."""
    async with stage(tmp_path) as on:
        on.pass_at(1, FLOOR)
        for number in range(2, 12):
            on.rivals.apply(Block(head(number), ()))
        on.node.number = 12
        same = [structs.replace(event(12, index), tx_hash=h(10_012)) for index in range(40)]
        on.rivals.apply(Block(head(12), tuple(same)))
        await on.rivals._queue.join()
        assert len(on.node.asked) == 1
        assert len((await on.told()).rows) == 40


async def test_reorganised_liquidations_are_forgotten_and_told_once(tmp_path: Path) -> None:
    """What a rewind undoes leaves the journal; what is applied again is there once, also after a replay."""
    async with stage(tmp_path) as on:
        on.pass_at(1, FLOOR)
        await on.taken(2)
        await on.taken(3)
        on.rivals.rewind(2)
        await on.rivals._queue.join()
        assert [row.block_number for row in (await on.told()).rows] == [2]
        on.rivals.replay([event(2)])
        await on.rivals._queue.join()
        (row,) = (await on.told()).rows
        assert row.reason == "profit_floor", "a replay after a crash does not overwrite what was known"


async def test_a_flood_is_dropped_and_never_waits(tmp_path: Path) -> None:
    """A task that does not keep up loses blocks, says so, and holds up neither the mirror nor the end of the keeper."""
    market = Market()
    rivals = Rivals([cast(Book, market)], Inquiry(Node()), "live", lambda reason: None, pause=0.0)
    for number in range(1, 3_000):
        rivals.apply(Block(head(number), (event(number),)))
    assert rivals._queue.qsize() == 1_000

    class Broken:
        async def record_liquidations(self, rows: Sequence[Liquidation]) -> list[Liquidation]:
            raise Halt("the disk is full")

        async def undo_liquidations(self, number: int) -> None: ...

        async def attempt_hashes(self, attempt_ids: Sequence[str]) -> dict[str, set[str]]:
            return {}

    async with asyncio.timeout(5):
        async with rivals.recording(Broken(), 0.1):
            await asyncio.sleep(0)


def test_a_trace_tells_what_really_reached_the_block() -> None:
    """Reverted frames, delegate calls and other recipients do not count; nested and self-destructed value does."""
    to = {"type": "CALL", "to": MINER.upper().replace("0X", "0x"), "value": "0x5"}
    frame = {
        "type": "CALL", "to": POOL, "value": "0x64",
        "calls": [
            to,
            {"type": "CALL", "to": POOL, "error": "execution reverted", "calls": [to]},
            {"type": "DELEGATECALL", "to": MINER, "value": "0x7"},
            {"type": "CALL", "to": RIVAL, "calls": [{"type": "SELFDESTRUCT", "to": MINER, "value": "0x2"}]},
        ],
    }  # fmt: skip
    assert paid_to(MINER, frame) == 7
    assert paid_to(MINER, {"type": "CALL", "to": MINER, "value": "0x3"}) == 3


def test_gross_is_exact_and_rounded_down() -> None:
    """Against fractions, over random amounts, prices and decimals."""
    from fractions import Fraction

    rng = random.Random(SEED)
    for _ in range(500):
        debt, collateral = Token(POOL, "D", rng.randrange(0, 19)), Token(POOL, "C", rng.randrange(0, 19))
        repaid, seized = rng.randrange(10**24), rng.randrange(10**24)
        dp, cp, np = (rng.randrange(1, 10**13) for _ in range(3))
        seen = LiquidationSeen("m", POOL, POOL, debt, collateral, repaid, seized, 1, 0, h(1), dp, cp, np)
        exact = (Fraction(seized * cp, 10**collateral.decimals) - Fraction(repaid * dp, 10**debt.decimals)) * WAD / np
        assert seen.gross == exact.numerator // exact.denominator
    assert replace(seen, native_price=None).gross is None


async def test_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    """Two hundred random rows: each sum of the report equals the rows', gas and payments counted once a transaction."""
    rng = random.Random(SEED)
    rows = []
    for index in range(200):
        tx = rng.randrange(120)
        facts = random.Random(tx)
        known = facts.random() < 0.8
        rows.append(
            Liquidation(
                "aave", f"0x{rng.randrange(30):040x}", 100 + tx, h(tx), index, h(tx), f"0x{facts.randrange(4):040x}",
                "USDC", "WETH", 1, 2, rng.randrange(10**18) if rng.random() < 0.9 else None,
                rng.choice(["profit_floor", "not_seen"]), "",
                gas_used=facts.randrange(10**6) if known else None,
                gas_price=facts.randrange(10**10) if known else None,
                coinbase_paid=facts.randrange(10**17) if known and facts.random() < 0.5 else None,
                sender=f"0x{facts.randrange(9):040x}" if known else None,
                plan_net=rng.randrange(10**17) if rng.random() < 0.5 else None,
            )
        )  # fmt: skip
    path = tmp_path / "journal.sqlite3"
    journal = await Journal.open(path, 1, "live")
    added = await journal.record_liquidations(rows)
    again = await journal.record_liquidations(rows)
    assert (len(added), again) == (200, [])
    await journal.close()
    reader = Reader(path, 1, "live")
    told = reader.ask(summary).competition
    reader.close()
    print(f"seed {SEED}")
    assert sum(item.count for item in told.missed) == 200
    for missed in told.missed:
        mine = [row for row in rows if row.reason == missed.reason]
        assert missed.gross == sum(row.gross or 0 for row in mine)
        assert (missed.planned, missed.plan_net) == (
            sum(row.plan_net is not None for row in mine),
            sum(row.plan_net or 0 for row in mine),
        )
    for rival in told.rivals:
        mine = [row for row in rows if row.liquidator == rival.liquidator]
        once = {row.tx_hash: row for row in mine}.values()
        assert rival.gas_cost == sum((row.gas_used or 0) * (row.gas_price or 0) for row in once)
        assert rival.coinbase_paid == sum(row.coinbase_paid or 0 for row in once)
        assert rival.coinbase_unknown == sum(row.coinbase_paid is None for row in once)
        assert rival.most == rival.gross - rival.gas_cost - rival.coinbase_paid
    assert [row.late for row in told.rows] == [None] * 200


async def test_a_journal_of_an_older_keeper_has_no_competition(tmp_path: Path) -> None:
    """The report of a journal that was written before liquidations were kept is the report without them."""
    path = tmp_path / "journal.sqlite3"
    journal = await Journal.open(path, 1, "live")

    def forget(db: Any) -> None:
        db.execute("DROP TABLE liquidations")

    drop: Callable[[Any], None] = forget
    await journal.ask(drop)
    await journal.close()
    reader = Reader(path, 1, "live")
    assert reader.ask(summary).competition == Competition()
    reader.close()
