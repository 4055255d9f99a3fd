"""Absorbs and purchases as planned against those mined through the executor, to the wei."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeper.abi import interface
from keeper.assembly import Assembly, assemble
from keeper.config import load
from keeper.devchain import comet
from keeper.devchain.actors import Actors, Reverted, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.comet import USDC_MARKET, WETH_MARKET, CometMarket, CometSpec
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.execution.compose import compose
from keeper.execution.executor import Settlement, creation_code, encode_execute, executed
from keeper.model import Address, FeeQuote, Handle, Hash, Log, Plan, address
from keeper.ports import Book, Position, Quoter
from keeper.protocols.compound_v3.pair import CometPair
from tests.support.comet_driver import MODEL
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20263"))
COMET = interface("comet")
BENEFICIARY = account("beneficiary")
LENDER = account("comet lender")
RIVAL = account("comet rival")
FEES = FeeQuote(2 * 10**9, 10**8)


def deploy_executor(fork: Fork) -> Address:
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, BENEFICIARY), gas=6_000_000)
    return address(receipts[0]["contractAddress"])


def write_config(fork: Fork, folder: Path, executor: Address, market: CometMarket) -> Path:
    """The private chain's configuration, with the Comet in it and nothing else to liquidate."""
    text = config_text(fork.world, fork.ws, folder, 12, 0, executor)
    path = folder / "keeper.toml"
    path.write_text(text + comet.config_lines(market))
    (folder / "operator.key").write_text(OPERATOR_KEY)
    return path


@dataclass(slots=True)
class Court:
    """Takes what a book offers and holds every prediction against what was mined."""

    fork: Fork
    parts: Assembly
    market: CometMarket
    executor: Address
    dice: random.Random
    shapes: Counter[str] = field(default_factory=Counter)
    gas_errors: list[int] = field(default_factory=list)
    done: int = 0

    @property
    def book(self) -> Book:
        return next(book for book in self.parts.books if book.name == self.market.name)

    async def quoter(self) -> tuple[int, Quoter]:
        """The pools and the next block's timestamp, everything at the newest head."""
        head = await self.parts.client.head()
        synced = await self.parts.follower.advance(head)
        assert not synced.behind
        return head.timestamp + 12, self.parts.quoter(FeeQuote(head.next_base_fee(), 10**8), frozenset())

    def plan(self, position: Position | None, quoter: Quoter) -> tuple[Plan, CometPair] | None:
        if position is None:
            return None
        choice = self.parts.appraiser.planner.plan(position, quoter, tuple(self.parts.sources.values()), FEES)
        if choice.plan is None:
            return None
        assert isinstance(choice.pair, CometPair)
        return choice.plan, choice.pair

    async def take_everything(self, most: int) -> None:
        """One after the other, now and then two in one block."""
        for _ in range(most):
            timestamp, quoter = await self.quoter()
            handles = list(self.book.screen(timestamp))
            self.dice.shuffle(handles)
            first = self._first(handles, timestamp, quoter, ())
            if first is None:
                return
            found = [first]
            if self.dice.random() < 0.4:
                plan = first[0]
                for route in (plan.buy, plan.sell):
                    quoter = quoter if route is None else quoter.after(route)
                second = self._first(handles, timestamp, quoter, (plan,))
                found += [] if second is None else [second]
            self._mine(found, timestamp)
        raise AssertionError(f"{most} were taken and still more to do")

    def _first(
        self, handles: Sequence[Handle], timestamp: int, quoter: Quoter, behind: tuple[Plan, ...]
    ) -> tuple[Plan, CometPair] | None:
        for handle in handles:
            found = self.plan(self.book.position(handle, timestamp, behind), quoter)
            if found is not None:
                return found
        return None

    def _mine(self, plans: Sequence[tuple[Plan, CometPair]], timestamp: int) -> None:
        native = self.parts.config.tokens.wrapped_native
        venues = {venue.name: venue for venue in self.parts.venues}
        with self.fork.actors.block(12, strict=False) as receipts:
            for plan, pair in plans:
                liquidation = self.book.liquidation(pair, plan.borrower, plan.repay)
                program = compose(plan, liquidation, venues, self.parts.sources, self.executor)
                # The floor is the prediction itself: one wei less would revert.
                settlement = Settlement(self.done.to_bytes(32, "big"), plan.gain, native, timestamp)
                self.fork.actors.submit(OPERATOR, self.executor, encode_execute(program, settlement), gas=9_000_000)
        assert self.fork.rpc.block("latest")["timestamp"] == hex(timestamp)
        for (plan, pair), receipt in zip(plans, receipts, strict=True):
            self._check(receipt, plan, pair, second=plan is not plans[0][0])

    def _check(self, receipt: dict[str, Any], plan: Plan, pair: CometPair, *, second: bool) -> None:
        front = plan.borrower == plan.collateral.address
        shape = "store front" if front else f"absorbs {len(pair.absorbs)}"
        what = f"{shape} of {plan.borrower}: {plan.repay} {plan.debt.symbol} for {plan.collateral.symbol}"
        assert receipt["status"] == "0x1", f"reverted: {what}"
        logs = [
            Log(
                address(raw["address"]),
                tuple(raw["topics"]),
                bytes.fromhex(raw["data"][2:]),
                int(raw["blockNumber"], 16),
                int(raw["logIndex"], 16),
                Hash(raw["transactionHash"]),
            )
            for raw in receipt["logs"]
        ]
        absorbed = [
            address(COMET.parse("AbsorbDebt", log)["borrower"])
            for log in logs
            if log.topics[0] == COMET.topic("AbsorbDebt")
        ]
        accounts = [name for name in (plan.borrower, *plan.others) if name != plan.collateral.address]
        assert absorbed == accounts, what
        (bought,) = [COMET.parse("BuyCollateral", log) for log in logs if log.topics[0] == COMET.topic("BuyCollateral")]
        assert (bought["baseAmount"], bought["collateralAmount"]) == (plan.seizure.repaid, plan.seizure.seized), what
        outcome = executed(logs, self.executor)
        assert outcome is not None, what
        assert outcome.gain == plan.gain, what
        rpc = self.fork.rpc
        for token in (plan.debt.address, plan.collateral.address, plan.profit_token):
            assert rpc.view(token, "balanceOf(address)", self.executor) == 0, f"{what}: {token} is left behind"
            assert rpc.view(token, "allowance(address,address)", self.executor, self.market.comet) == 0, what
        seen = self.book.liquidations([log for log in logs if log.address == self.market.comet])
        assert {s.borrower for s in seen} == ({plan.borrower} if front else set(accounts)), what
        assert sum(s.repaid for s in seen) == plan.repay, what
        whole = "all" if plan.repay == pair.feasible[-1][1] else "part"
        self.shapes[f"{shape}, {whole}"] += 1
        self.shapes["second in its block"] += second
        self.gas_errors.append(100 * plan.gas // int(receipt["gasUsed"], 16) - 100)
        self.done += 1


def reprice(actors: Actors, prices: dict[str, int]) -> None:
    """Pools and feeds."""
    actors.align(prices)
    with actors.block():
        for symbol, price in prices.items():
            if actors.price(symbol) != price:
                actors.set_price(symbol, price)


def market_day(actors: Actors, market: CometMarket, dice: random.Random, number: int, accounts: int) -> None:
    """Prices go back to where they were, people borrow what a fall will make too much, prices fall."""
    base = {symbol: spec.price for symbol, spec in SPECS.items()}
    reprice(actors, base)
    fallen = dict(base)
    for symbol in ("WETH", "WBTC", "wstETH", "LINK"):
        fallen[symbol] = base[symbol] * dice.randrange(820, 935) // 1000
    if market.spec.base == "WETH":
        fallen["WETH"] = base["WETH"]
    symbols = [item.symbol for item in market.spec.collaterals]
    for index in range(accounts):
        supplied = {}
        for symbol in dice.sample(symbols, dice.choice((1, 1, 1, 2, len(symbols)))):
            usd = int(10 ** dice.uniform(3.4, 5.5))
            supplied[symbol] = actors.worth(symbol, min(usd, 80_000) if symbol == "LINK" else usd)
        user = account(f"{market.name} {number} {index}")
        health = dice.randrange(930, 1_005)
        debt = comet.debt_for(market.spec, supplied, health, fallen)
        if debt < market.spec.borrow_min * 10 ** SPECS[market.spec.base].decimals:
            continue
        try:
            comet.open_account(actors, market, user, supplied, health, fallen)
        except Reverted:
            continue  # too much for the prices before the fall
    reprice(actors, fallen)
    if dice.random() < 0.5:  # somebody else absorbs, and leaves the collateral on sale
        weak = [
            user
            for user in (account(f"{market.name} {number} {index}") for index in range(accounts))
            if actors.rpc.view(market.comet, "isLiquidatable(address)", user, returns="bool")
        ]
        if weak:
            some = dice.sample(weak, dice.randint(1, min(2, len(weak))))
            actors.send(RIVAL, market.comet, "absorb(address,address[])", RIVAL, some)


async def liquidate_many(fork: Fork, folder: Path, spec: CometSpec, *, wanted: int, seed: int) -> Counter[str]:
    dice = random.Random(seed)
    market = comet.deploy_comet(fork.actors, MODEL, spec=spec)
    comet.supply(fork.actors, market, LENDER, spec.base, fork.actors.worth(spec.base, 30_000_000))
    executor = deploy_executor(fork)
    path = write_config(fork, folder, executor, market)
    async with assemble(load(path, {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"}), live=False) as parts:
        await parts.start()
        court = Court(fork, parts, market, executor, dice)
        day = 0
        while court.done < wanted:
            day += 1
            assert day < 80, f"only {court.done} of {wanted} after {day} days"
            market_day(fork.actors, market, dice, day, 8)
            await court.take_everything(40)
    biased = sum(court.gas_errors) / len(court.gas_errors)
    print(
        f"seed {seed}: {court.done} liquidations over {day} days, shapes {dict(court.shapes)}, "
        f"gas estimate off by {biased:+.1f} % on average, {min(court.gas_errors)} to {max(court.gas_errors)}"
    )
    return court.shapes


@pytest.mark.parametrize("spec", [USDC_MARKET, WETH_MARKET], ids=["usdc", "weth"])
async def test_every_plan_moves_exactly_what_it_says(fork: Fork, tmp_path: Path, spec: CometSpec) -> None:
    """Absorbed accounts, base paid, collateral bought and net gain as predicted, to the wei."""
    shapes = await liquidate_many(fork, tmp_path, spec, wanted=15, seed=SEED)
    assert any(shape.startswith("absorbs") for shape in shapes)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_every_plan_moves_exactly_what_it_says_at_length(fork: Fork, tmp_path: Path) -> None:
    """The same for two hundred and more of the dollar market."""
    shapes = await liquidate_many(fork, tmp_path, USDC_MARKET, wanted=220, seed=SEED + 1)
    assert {"store front", "absorbs 1", "absorbs 2"} <= {shape.split(",")[0] for shape in shapes}
    assert shapes["second in its block"]
