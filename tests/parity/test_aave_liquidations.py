"""Predicted liquidations against mined ones, on both revisions' bytecode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keeper.abi import interface
from keeper.chain.client import NodeClient
from keeper.model import MAX_UINT256, WAD, Address
from keeper.ports import Position
from keeper.protocols.aave_v3.pair import GAS_AROUND, AavePair, Result
from tests.support.aave_driver import Driver
from tests.support.aave_random import Crowd
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261"))
MARKETS = ["main", "second"]
CALL = interface("aave_pool").topic("LiquidationCall")
TRANSFER = interface("erc20").topic("Transfer")


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


class Court:
    """Liquidates random borrowers of a crowd and holds every prediction against what was mined."""

    def __init__(self, fork: Fork, driver: Driver, crowd: Crowd) -> None:
        self.fork, self.driver, self.crowd = fork, driver, crowd
        self.tally: Counter[str] = Counter()
        actors, market = fork.actors, crowd.market
        for symbol in crowd.symbols:
            with actors.block():
                actors.fund(crowd.liquidator, symbol, crowd.worth(symbol, 50_000_000))
                actors.approve(crowd.liquidator, market.pool, symbol)

    async def weak(self) -> list[Address]:
        """Everybody liquidatable a little later than now."""
        head = await self.driver.follow()
        book = self.driver.book
        screened = set(book.screen(head.timestamp + 12))
        exact = [a.borrower for a in book.accounts(head.timestamp + 12) if a.health_factor < WAD]
        assert screened.issuperset(exact), "the screen let a liquidatable borrower slip"
        return exact

    async def one(self, borrower: Address) -> None:
        """One call, at a chosen second, by an amount that may be right or wrong."""
        dice = self.crowd.random
        head = await self.driver.follow()
        timestamp = head.timestamp + dice.choice((1, 12, 12, 40))
        position = self.driver.book.position(borrower, timestamp)
        if position is None or not position.pairs:
            self.tally["refused" if position else "healthy"] += 1
            return
        pair = dice.choice(position.pairs)
        assert isinstance(pair, AavePair)
        if dice.random() < 0.4:
            await self._late(pair, position, borrower)
        else:
            self._exact(pair, position, borrower)

    def _exact(self, pair: AavePair, position: Position, borrower: Address) -> None:
        """Any amount at the predicted second: reverts where None is predicted, moves what is predicted elsewhere."""
        dice = self.crowd.random
        edges = [edge + by for interval in pair.feasible for edge in interval for by in (-1, 0, 1)]
        cap = pair._now.cap
        cover = dice.choice((MAX_UINT256, dice.choice(edges), dice.randint(1, cap + cap // 10), cap, pair._now.debt))
        if cover in edges and pair.full is not None and dice.random() < 0.5:
            cover = pair.cover(pair.full)
        receive = dice.random() < 0.3
        predicted = pair._now.call(max(cover, 0), receive_a_token=receive)
        receipt = self._call(pair, borrower, cover, position.timestamp, receive=receive)
        if predicted is None:
            assert receipt["status"] == "0x0", f"{borrower}: {cover} was mined and should have reverted"
            self.tally["reverted as predicted"] += 1
            return
        assert receipt["status"] == "0x1", f"{borrower}: {cover} of {pair.debt.symbol} reverted, {predicted}"
        self._compare(pair, borrower, predicted, receipt, receive=receive)
        self.tally[predicted.ending.value] += 1

    async def _late(self, pair: AavePair, position: Position, borrower: Address) -> None:
        """A feasible amount, mined as late as was promised: still accepted, and within its budget."""
        dice = self.crowd.random
        low, high = dice.choice(pair.feasible)
        repay = dice.choice((low, high, high, dice.randint(low, high)))
        late = dice.choice((0, 12, 36))
        if late == 0:
            seizure = pair.seize(repay)
        liquidation = self.driver.book.liquidation(pair, borrower, repay)
        guard = liquidation.guards[0]
        scaled = self.fork.rpc.call(guard.target, guard.data)
        assert guard.minimum <= int.from_bytes(scaled, "big") <= guard.maximum
        receipt = self._call(pair, borrower, pair.cover(repay), position.timestamp + late, receive=False)
        assert receipt["status"] == "0x1", f"{borrower}: {repay} of {pair.debt.symbol} reverted {late} s late"
        repaid, taken = self._moved(receipt)
        assert repaid <= pair.budget(repay)
        if late == 0:
            assert (repaid, taken) == (seizure.repaid, seizure.seized)
        self.tally[f"{late} s late"] += 1
        used = int(receipt["gasUsed"], 16)
        expected = liquidation.gas - GAS_AROUND
        assert abs(used - expected) < used * 0.3, f"{used} gas used, {expected} expected"

    def _call(self, pair: AavePair, borrower: Address, cover: int, timestamp: int, *, receive: bool) -> dict[str, Any]:
        actors, crowd = self.fork.actors, self.crowd
        with actors.block(timestamp - actors.now, strict=False) as receipts:
            actors.send(
                crowd.liquidator,
                crowd.market.pool,
                "liquidationCall(address,address,address,uint256,bool)",
                pair.collateral.address,
                pair.debt.address,
                borrower,
                max(cover, 0),
                receive,
            )
        return receipts[-1]

    def _moved(self, receipt: dict[str, Any]) -> tuple[int, int]:
        (log,) = [log for log in receipt["logs"] if log["topics"][0] == CALL]
        data = bytes.fromhex(log["data"][2:])
        return int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big")

    def _compare(
        self, pair: AavePair, borrower: Address, predicted: Result, receipt: dict[str, Any], *, receive: bool
    ) -> None:
        """The event, the protocol's fee, and the collateral that really arrived."""
        market, symbol = self.crowd.market, self.fork.world.symbol(pair.collateral.address)
        received = pair._now.received(predicted.collateral)
        assert self._moved(receipt) == (predicted.repaid, received)
        a_token = market.reserves[symbol].a_token
        fees, arrived = 0, 0
        for log in receipt["logs"]:
            if log["topics"][0] != TRANSFER:
                continue
            source, target = (topic[26:] for topic in log["topics"][1:3])
            if log["address"] == a_token and target == market.treasury[2:] and source == borrower[2:]:
                fees += int(log["data"], 16)
            if log["address"] == pair.collateral.address and target == self.crowd.liquidator[2:]:
                arrived += int(log["data"], 16)
        assert fees == predicted.fee
        if not receive:
            assert arrived == received


async def run(fork: Fork, client: NodeClient, which: str, *, users: int, calls: int) -> Counter[str]:
    """Rounds of borrowing to the limit, moving prices and liquidating, until `calls` liquidations were tried."""
    print(f"KEEPER_SEED={SEED}")
    market = getattr(fork.world, which)
    driver = Driver(client, fork.rpc, market, fork.world.tokens["WETH"].address)
    crowd = Crowd(fork.actors, market, users, SEED)
    await driver.start()
    crowd.settle()
    court = Court(fork, driver, crowd)
    rounds = 0
    while court.tally.total() < calls:
        rounds += 1
        assert rounds < calls, "nobody falls below the threshold"
        if crowd.random.random() < 0.5:
            crowd.reopen()
        crowd.lever(8)
        crowd.step(4)
        crowd.shake(0.3)
        for borrower in (await court.weak())[:12]:
            await court.one(borrower)
    await driver.follow()
    assert driver.differences(crowd.everybody) == []
    print(f"{which}: {rounds} rounds, {dict(court.tally)}")
    return court.tally


@pytest.mark.parametrize("which", MARKETS)
async def test_predictions_equal_mined_liquidations(fork: Fork, client: NodeClient, which: str) -> None:
    """Repaid, seized and fee of random liquidations equal the event and the balances; reverts are foreseen."""
    tally = await run(fork, client, which, users=40, calls=100)
    assert tally["debt gone"] + tally["collateral gone"] >= 5
    assert tally["partial"] >= 5


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", MARKETS)
async def test_predictions_equal_mined_liquidations_for_long(fork: Fork, client: NodeClient, which: str) -> None:
    """The same for 600 calls on a larger crowd."""
    await run(fork, client, which, users=120, calls=600)
