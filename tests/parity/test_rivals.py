"""Who else liquidated, on a real chain: rivals come first, in the same block and after, and the report is true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keeper import app
from keeper.assembly import Assembly, assemble
from keeper.bulletin import Bulletin
from keeper.chain.client import NodeClient
from keeper.chain.refusals import Kind, Refusal
from keeper.config import load
from keeper.devchain.actors import account
from keeper.devchain.calls import calldata
from keeper.devchain.lending import Market
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.engine import Engine
from keeper.execution.executor import creation_code
from keeper.execution.landed import Inquiry
from keeper.journal.journal import Journal
from keeper.journal.queries import Summary, summary
from keeper.journal.rivals import Liquidation
from keeper.model import MAX_UINT256, WAD, Address, Hash, address
from keeper.ops import rival_tables, tables
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

RIVAL = account("rival")
TIP = 60 * 10**9
PAYMENT = 5 * 10**16


@dataclass
class Scene:
    """The keeper without its clock: a pass is made when the test says so."""

    fork: Fork
    parts: Assembly
    journal: Journal
    engine: Engine

    @property
    def market(self) -> Market:
        return self.fork.world.main

    async def step(self) -> None:
        await self.engine.step(await self.parts.client.head())
        await self.parts.rivals._queue.join()

    async def told(self) -> Summary:
        return await self.journal.ask(summary)

    async def row(self, borrower: Address) -> Liquidation:
        found = [row for row in (await self.told()).competition.rows if row.borrower == borrower]
        assert len(found) == 1, found
        return found[0]

    def borrower(self, label: str, symbol: str, usd: int) -> Address:
        """Somebody who has borrowed nearly all that may be borrowed."""
        user, actors = account(label), self.fork.actors
        with actors.block():
            amount = actors.worth(symbol, usd)
            actors.fund(user, symbol, amount)
            actors.supply(self.market, user, symbol, amount)
        free = actors.standing(self.market, user).available * 97 // 100
        actors.borrow(self.market, user, "USDC", free // 100)
        return user

    def fall(self, symbol: str, permille: int) -> None:
        """Pools first, then the feed."""
        actors = self.fork.actors
        price = actors.price(symbol) * permille // 1000
        actors.align({name: actors.price(name) for name in self.fork.world.tokens} | {symbol: price})
        actors.set_price(symbol, price)

    def take(self, borrower: Address, symbol: str, *, tip: int = 10**8, through: Address | None = None) -> str:
        """The rival liquidates, or has its contract do it and pay the block."""
        collateral, debt = (self.fork.world.tokens[name].address for name in (symbol, "USDC"))
        signature = "liquidationCall(address,address,address,uint256,bool)"
        data = calldata(signature, collateral, debt, borrower, MAX_UINT256, False)
        sent: str = self.fork.rpc.request(
            "eth_sendTransaction",
            {
                "from": RIVAL,
                "to": through or self.market.pool,
                "data": "0x" + data.hex(),
                "value": hex(PAYMENT if through else 0),
                "gas": hex(2_000_000),
                "maxFeePerGas": hex(200 * 10**9),
                "maxPriorityFeePerGas": hex(tip),
            },
        )
        return sent

    def prepare_rival(self) -> Address:
        """Money for the rival and for its contract, which forwards a call and pays what it was sent to the block."""
        actors, contract = self.fork.actors, account("rival's contract")
        for user in (RIVAL, contract):
            actors.fund_native(user, 1_000 * 10**18)
            actors.fund(user, "USDC", actors.worth("USDC", 2_000_000))
            actors.approve(user, self.market.pool, "USDC")
        code = "365f5f375f5f365f5f73" + self.market.pool[2:] + "5af115602e575f5f5f5f34415af150005b5f5ffd"
        self.fork.rpc.request("anvil_setCode", contract, "0x" + code)
        return contract


@asynccontextmanager
async def scene(
    fork: Fork, folder: Path, *, live: bool, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Scene]:
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, OPERATOR), gas=6_000_000)
    path = folder / "keeper.toml"
    path.write_text(config_text(fork.world, fork.ws, folder, 12, 0, address(receipts[0]["contractAddress"])))
    (folder / "operator.key").write_text(OPERATOR_KEY)
    config = load(path, {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h", **(environ or {})})
    async with (
        assemble(config, live=live, watching=True) as parts,
        app._desk(parts) as (journal, submitter),
        parts.rivals.recording(journal, 5),
    ):
        safety = app._safety(parts, journal)
        await safety.open()
        bulletin = Bulletin(parts.alerter, (), config.alerts, mode=parts.mode)
        engine = app._engine(parts, journal, submitter, safety, bulletin)
        await parts.start()
        yield Scene(fork, parts, journal, engine)


def mined(fork: Fork, tx_hash: str) -> dict[str, Any]:
    receipt: dict[str, Any] = fork.rpc.request("eth_getTransactionReceipt", tx_hash)
    assert receipt["status"] == "0x1"
    return receipt


def check_landing(row: Liquidation, receipt: dict[str, Any]) -> None:
    assert row.tx_hash == receipt["transactionHash"]
    assert (row.block_hash, row.block_number) == (receipt["blockHash"], int(receipt["blockNumber"], 16))
    assert row.tx_index == int(receipt["transactionIndex"], 16)
    assert (row.sender, row.target) == (receipt["from"], receipt["to"])
    assert (row.gas_used, row.gas_price) == (int(receipt["gasUsed"], 16), int(receipt["effectiveGasPrice"], 16))


async def test_live_every_liquidation_is_told_truly(fork: Fork, tmp_path: Path) -> None:
    """A rival ahead of us in the block, one that takes what we would not, one that takes it before it can be seen and
    pays the block, and a liquidation of our own: each is written down with who, where, price, payment and reason."""
    async with scene(fork, tmp_path, live=True) as on:
        contract = on.prepare_rival()
        raced, small = on.borrower("raced", "WETH", 400_000), on.borrower("small", "WETH", 60)
        ours, unseen = on.borrower("ours", "WBTC", 400_000), on.borrower("unseen", "wstETH", 300_000)
        await on.step()

        on.fall("WETH", 920)
        seen_at = fork.rpc.number()
        with fork.actors.block():
            first = on.take(raced, "WETH", tip=TIP)  # anvil mines in the order of arrival
            await on.step()  # sends for `raced`, leaves `small`
            last = on.take(small, "WETH")
        await on.step()
        row, receipt = await on.row(raced), mined(fork, first)
        check_landing(row, receipt)
        assert (row.reason, row.late, row.tx_index, row.our_index) == ("lost_race", 0, 0, 1)
        assert (row.first_seen, row.last_seen, row.liquidator) == (seen_at, seen_at, RIVAL)
        assert row.coinbase_paid == 0
        assert row.plan_net is not None
        assert row.plan_gain is not None
        assert row.gross is not None
        assert 0 < row.plan_net < row.plan_gain < row.gross, "we had to trade for it, the rival held the debt token"
        assert rival_tables.lateness(row) == "same block, 1 place(s) behind"
        row = await on.row(small)
        check_landing(row, mined(fork, last))
        assert row.reason in ("unprofitable", "profit_floor")
        assert row.attempt_id is None

        price = fork.actors.price("wstETH") * 920 // 1000
        with fork.actors.block():
            fork.actors.set_price("wstETH", price)
            paying = on.take(unseen, "wstETH", through=contract)
        await on.step()
        row, receipt = await on.row(unseen), mined(fork, paying)
        check_landing(row, receipt)
        assert (row.reason, row.first_seen, row.plan_net) == ("not_seen", None, None)
        assert (row.liquidator, row.sender, row.target) == (contract, RIVAL, contract)
        assert row.coinbase_paid == PAYMENT
        assert row.most == (row.gross or 0) - (row.gas_cost or 0) - PAYMENT

        on.fall("WBTC", 890)
        with fork.actors.block():
            await on.step()
            behind = on.take(ours, "WBTC")
        await on.step()
        assert fork.rpc.request("eth_getTransactionReceipt", behind)["status"] == "0x0"
        row = await on.row(ours)  # one row: who came after us liquidated nobody
        assert row.ours
        assert (row.sender, row.target, row.liquidator) == (OPERATOR, on.parts.executor, on.parts.executor)
        assert row.attempt_id is not None

        found = await on.told()
        told = found.competition
        assert told.captured == 1
        assert {item.reason: item.count for item in told.missed} == {
            "lost_race": 1,
            row_reason(told.rows): 1,
            "not_seen": 1,
        }
        assert {item.liquidator for item in told.rivals} == {RIVAL, contract}
        assert (told.reverts.count, found.attempts) == (1, {"reverted": 1, "mined": 1})
        reverted = next(item for item in (await on.journal.ask(_attempts)) if item[0] == "reverted")
        assert told.reverts.cost == reverted[1] * reverted[2] > 0
        assert on.parts.metrics.registry.get_sample_value("keeper_missed_total", {"reason": "lost_race"}) == 1
        out = tables.console()
        with out.capture() as text:
            out.print(tables.report(found, []))
        assert "1 reverted attempts cost" in text.get()
        assert "same block, 1 place(s) behind" in text.get()
        assert found.json()["competition"]["captured"] == 1


def row_reason(rows: Sequence[Liquidation]) -> str:
    return next(row.reason for row in rows if row.borrower == account("small") and row.reason is not None)


def _attempts(db: Any) -> list[tuple[str, int, int]]:
    rows = db.execute("SELECT state, gas_used, gas_price FROM outcomes").fetchall()
    return [(state, int(used), int(price)) for state, used, price in rows]


async def test_a_dry_run_says_what_it_would_have_had_and_forgets_what_was_undone(fork: Fork, tmp_path: Path) -> None:
    """The plan it would have sent stands beside what the rival got, two blocks later than it could have been ours; when
    the rival's block is reorganised away so is the row; a restart finds what happened meanwhile."""
    async with scene(fork, tmp_path, live=False) as on:
        on.prepare_rival()
        prize, later = on.borrower("prize", "WETH", 400_000), on.borrower("later", "WBTC", 200_000)
        await on.step()
        on.fall("WETH", 920)
        await on.step()
        fork.actors.mine(blocks=2)
        await on.step()
        with fork.actors.block():
            on.take(prize, "WETH")
        await on.step()
        row = await on.row(prize)
        assert (row.reason, row.late) == ("dry_run", -2)
        assert rival_tables.lateness(row) == "up to 2 block(s) earlier"
        assert (row.plan_net or 0) > 0
        told = (await on.told()).competition
        assert [(item.reason, item.count, item.planned, item.plan_net) for item in told.missed] == [
            ("dry_run", 1, 1, row.plan_net)
        ]
        fork.rpc.request("anvil_reorg", 1, [])
        fork.actors.mine()
        await on.step()
        assert (await on.told()).competition.rows == ()
        await on.parts.follower.save()
    with fork.actors.block():
        fork.actors.set_price("WBTC", fork.actors.price("WBTC") * 890 // 1000)
        last = on.take(later, "WBTC")
    mined(fork, last)
    fork.actors.mine(blocks=70)
    config = load(tmp_path / "keeper.toml", {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"})
    async with assemble(config, live=False, watching=True) as parts, app._desk(parts) as (journal, _):
        async with parts.rivals.recording(journal, 5):
            await parts.start()
        rows = (await journal.ask(summary)).competition.rows
        assert [(row.borrower, row.reason, row.sender) for row in rows] == [(later, "not_watching", RIVAL)]


class Untraced:
    """A node that does not trace."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self.asked: list[list[str]] = []

    async def try_batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.asked.append([method for method, _ in calls])
        plain = await self._client.try_batch([call for call in calls if not call[0].startswith("debug_")])
        answers = iter(plain)
        refusal = Refusal(Kind.UNSUPPORTED, -32601, "method not found", "node")
        return [refusal if method.startswith("debug_") else next(answers) for method, _ in calls]


async def test_without_traces_the_balance_bounds_the_payment(fork: Fork, tmp_path: Path) -> None:
    """Plain JSON-RPC: the block's surplus over its fees bounds what one transaction paid, nothing is claimed beyond;
    one batched request each, and the node is not asked twice for what it does not have."""
    async with scene(fork, tmp_path, live=False) as on:
        contract = on.prepare_rival()
        first, second = on.borrower("first", "WETH", 300_000), on.borrower("second", "WETH", 300_000)
        fork.rpc.request("anvil_setCoinbase", account("builder"))
        fork.actors.set_price("WETH", fork.actors.price("WETH") * 920 // 1000)
        node = Untraced(on.parts.client)
        inquiry = Inquiry(node)
        for borrower, through, most in ((first, contract, PAYMENT), (second, None, 0)):
            with fork.actors.block():
                sent = on.take(borrower, "WETH", through=through)
            head = await on.parts.client.head()
            assert head.fee_recipient == account("builder")
            landed = await inquiry.ask(head.number, head.hash, head.fee_recipient, [Hash(sent)])
            found = landed.transactions[Hash(sent)]
            # A surplus of nothing is exact; any other is only a bound.
            assert (found.coinbase_paid, found.coinbase_at_most) == ((0, None) if most == 0 else (None, most))
        assert ["debug_traceTransaction" in methods for methods in node.asked] == [True, False]
        earlier = fork.rpc.request("eth_getBlockByNumber", hex(head.number - 1), False)["transactions"]
        exact = await Inquiry(on.parts.client).ask(head.number - 1, None, None, [Hash(earlier[0])])
        assert [item.coinbase_paid for item in exact.transactions.values()] == [PAYMENT]


async def test_those_near_liquidation_are_the_ones_the_protocol_says(fork: Fork, tmp_path: Path) -> None:
    """Against every borrower's exact account: the healthy ones below the limit and above the size, largest first."""
    async with scene(fork, tmp_path, live=False) as on:
        for number, (symbol, usd) in enumerate(
            [
                ("WETH", 900_000),
                ("WETH", 40_000),
                ("WBTC", 300_000),
                ("wstETH", 120_000),
                ("wstETH", 700),
                ("WBTC", 5_000),
            ]
        ):
            on.borrower(f"near {number}", symbol, usd)
        fork.actors.set_price("WETH", fork.actors.price("WETH") * 920 // 1000)
        await on.step()
        book = next(book for book in on.parts.books if book.name == on.market.name)
        now = (await on.parts.client.head()).timestamp
        everybody = sorted(book.accounts(now), key=lambda account: -account.debt_value)
        assert min(account.health_factor for account in everybody) < WAD
        for below in (101 * 10**16, 107 * 10**16, 12 * 10**17, 3 * 10**18):
            for size in (0, 10_000 * 10**8, 100_000 * 10**8):
                expected = [a for a in everybody if WAD <= a.health_factor < below and a.debt_value >= size]
                assert book.near(now, below, size, 100) == expected
                assert book.near(now, below, size, 2) == expected[:2]
        assert len(book.near(now, 3 * 10**18, 0, 100)) == 4
