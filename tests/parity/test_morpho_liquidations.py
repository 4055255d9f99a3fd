"""Predicted Morpho liquidations against mined ones, on its published bytecode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from keeper.abi import interface
from keeper.chain.client import NodeClient
from keeper.devchain.morpho import LIQUIDATE, MorphoMarket
from keeper.model import WAD, Address, FeeQuote, Plan, handle
from keeper.ports import Position
from keeper.protocols.morpho_blue.pair import Call, MorphoPair, Moved
from tests.support.fork import Fork
from tests.support.morpho_driver import MorphoDriver
from tests.support.morpho_random import Crowd

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20272"))
EVENT = interface("morpho_blue").topic("Liquidate")


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


class Court:
    """Liquidates random borrowers of a crowd and holds every prediction against what was mined."""

    def __init__(self, fork: Fork, driver: MorphoDriver, crowd: Crowd) -> None:
        self.fork, self.driver, self.crowd = fork, driver, crowd
        self.tally: Counter[str] = Counter()
        for market in crowd.markets:
            with fork.actors.block():
                fork.actors.fund(crowd.liquidator, market.loan, crowd.worth(market.loan, 50_000_000))
                fork.actors.approve(crowd.liquidator, crowd.morpho.address, market.loan)

    async def weak(self) -> list[str]:
        """Every position liquidatable a little later than now."""
        head = await self.driver.follow()
        book = self.driver.book
        exact = [a.handle for a in book.accounts(head.timestamp + 12) if a.health_factor < WAD]
        assert set(book.screen(head.timestamp + 12)).issuperset(exact), "the screen let a liquidatable position slip"
        return exact

    async def one(self, name: str) -> None:
        """One call, at a chosen second, by an amount that may be right or wrong."""
        dice = self.crowd.random
        head = await self.driver.follow()
        position = self.driver.book.position(name, head.timestamp + dice.choice((1, 12, 12, 40)))
        if position is None or not position.pairs:
            self.tally["refused" if position else "healthy"] += 1
            return
        (pair,) = position.pairs
        assert isinstance(pair, MorphoPair)
        if dice.random() < 0.4:
            self._late(pair, position)
        else:
            await self._exact(pair, position)

    async def _exact(self, pair: MorphoPair, position: Position) -> None:
        """Any call at the predicted second: reverts where None is predicted, moves what is predicted elsewhere."""
        dice, now = self.crowd.random, pair.now
        low, high = pair.feasible[0]
        repay = dice.choice((low, high, dice.randint(low, high)))
        wild = (
            Call(dice.randint(1, now.collateral + 2), 0),
            Call(now.collateral + 1, 0),
            Call(0, dice.randint(1, now.shares + 2)),
            Call(0, now.shares + 1),
            Call(now.collateral, 0),
            Call(0, now.shares),
        )
        call = dice.choice((pair.call(repay), pair.call(repay), *wild))
        predicted = now.run(call)
        receipt = self._send(pair, position, call, position.timestamp)
        if predicted is None:
            # What takes debt for no collateral is not offered, although the contract allows it.
            if receipt["status"] == "0x1":
                assert self._moved(receipt)[2] == 0
            self.tally["reverted as predicted"] += 1
            return
        assert receipt["status"] == "0x1", f"{position.account.handle}: {call} reverted, {predicted}"
        assert self._moved(receipt)[:3] == (predicted.repaid, predicted.shares, predicted.seized)
        left = predicted.shares == now.shares, predicted.seized == now.collateral
        self.tally[{(True, False): "debt gone", (False, True): "collateral gone"}.get(left, "partial")] += 1
        if self._moved(receipt)[4]:
            self.tally["bad debt"] += 1

    def _late(self, pair: MorphoPair, position: Position) -> None:
        """A feasible amount, mined as late as was promised: still accepted, and within its budget."""
        dice = self.crowd.random
        low, high = pair.feasible[0]
        repay = dice.choice((low, high, high, dice.randint(low, high)))
        late = dice.choice((0, 12, 36))
        liquidation = self.driver.book.liquidation(pair, position.account.borrower, repay)
        guard = liquidation.guards[0]
        answer = self.fork.rpc.call(guard.target, guard.data)
        word = int.from_bytes(answer[32 * guard.index : 32 * guard.index + 32], "big")
        assert guard.minimum <= word <= guard.maximum
        receipt = self._send(pair, position, pair.call(repay), position.timestamp + late)
        assert receipt["status"] == "0x1", f"{position.account.handle}: {repay} reverted {late} s late"
        repaid, _, seized, *_ = self._moved(receipt)
        assert repaid <= pair.budget(repay)
        if late == 0:
            assert (repaid, seized) == (pair.seize(repay).repaid, pair.seize(repay).seized)
        if repay == pair.full:
            _, shares, _ = self.crowd.hands.position(position.account.borrower, self._market(pair))
            assert not shares, "a full liquidation left debt behind"
        self.tally[f"{late} s late"] += 1

    def _market(self, pair: MorphoPair) -> MorphoMarket:
        return next(m for m in self.crowd.markets if m.id == pair.terms.params.id)

    def _send(self, pair: MorphoPair, position: Position, call: Call, timestamp: int) -> dict[str, Any]:
        actors, crowd = self.fork.actors, self.crowd
        with actors.block(timestamp - actors.now, strict=False) as receipts:
            actors.send(
                crowd.liquidator,
                crowd.morpho.address,
                LIQUIDATE,
                pair.terms.params.words,
                position.account.borrower,
                call.seized,
                call.shares,
                b"",
            )
        return receipts[-1]

    def _moved(self, receipt: dict[str, Any]) -> tuple[int, ...]:
        """Repaid assets, repaid shares, seized, bad assets, bad shares."""
        (log,) = [log for log in receipt["logs"] if log["topics"][0] == EVENT]
        data = bytes.fromhex(log["data"][2:])
        return tuple(int.from_bytes(data[at : at + 32], "big") for at in range(0, 160, 32))


async def run(fork: Fork, client: NodeClient, *, users: int, calls: int) -> Counter[str]:
    """Rounds of borrowing to the limit, moving prices and liquidating, until `calls` liquidations were tried."""
    print(f"KEEPER_SEED={SEED}")
    driver = MorphoDriver(client, fork.rpc, fork.world.morpho, fork.world.tokens["WETH"].address)
    crowd = Crowd(fork.actors, fork.world.morpho, users, SEED)
    await driver.start()
    crowd.hands.set_fee_recipient(crowd.recipients[0])
    crowd.strangers()
    await driver.follow()
    crowd.settle()
    court = Court(fork, driver, crowd)
    rounds = 0
    while court.tally.total() < calls:
        rounds += 1
        assert rounds < calls, "nobody falls below the threshold"
        crowd.lever(8)
        crowd.step(4)
        crowd.shake(0.3)
        for name in (await court.weak())[:12]:
            await court.one(name)
    await driver.follow()
    assert driver.differences(crowd.everybody) == []
    assert driver.market_differences() == []
    print(f"{rounds} rounds, {dict(court.tally)}")
    return court.tally


async def test_predictions_equal_mined_liquidations(fork: Fork, client: NodeClient) -> None:
    """Repaid assets, shares and collateral of random calls equal the event; reverts are foreseen; full means full."""
    tally = await run(fork, client, users=30, calls=70)
    assert tally["debt gone"]
    assert tally["collateral gone"]
    assert tally["partial"]


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_predictions_equal_mined_liquidations_for_long(fork: Fork, client: NodeClient) -> None:
    """The same for 800 calls on a larger crowd."""
    tally = await run(fork, client, users=120, calls=800)
    assert tally["bad debt"]


async def test_behind_other_plans(fork: Fork, client: NodeClient) -> None:
    """Two borrowers of one market in one block: the second is predicted as the first leaves the market."""
    driver = MorphoDriver(client, fork.rpc, fork.world.morpho, fork.world.tokens["WETH"].address)
    crowd = Crowd(fork.actors, fork.world.morpho, 3, SEED)
    await driver.start()
    market = fork.world.morpho.markets["WETH/USDC"]
    for user, debt in zip(crowd.users, (25_000, 25_700, 24_000), strict=True):
        crowd.hands.open_position(user, market, 10 * 10**18, debt * 10**6)
    court = Court(fork, driver, crowd)
    fork.actors.set_price("WETH", 2_300 * 10**8)
    for repeated in (False, True):
        head = await driver.follow()
        timestamp, place = head.timestamp + 12, market.id[:10]
        plans: list[Plan] = []
        calls: list[tuple[Address, Call, Moved]] = []
        for user in (crowd.users[2], crowd.users[2]) if repeated else crowd.users[:2]:
            position = driver.book.position(handle(user, place), timestamp, plans)
            assert position is not None
            (pair,) = position.pairs
            assert isinstance(pair, MorphoPair)
            low, high = pair.feasible[0]
            repay = (low + high) // 2 if repeated and not plans else high
            calls.append((user, pair.call(repay), pair.moved(repay)))
            plans.append(_plan(position, pair, repay))
        with fork.actors.block(12) as receipts:
            for user, call, _ in calls:
                fork.actors.send(
                    crowd.liquidator,
                    crowd.morpho.address,
                    LIQUIDATE,
                    market.params,
                    user,
                    call.seized,
                    call.shares,
                    b"",
                )
        for receipt, (_, _, moved) in zip(receipts, calls, strict=True):
            assert court._moved(receipt)[:3] == (moved.repaid, moved.shares, moved.seized)
        alone = driver.book.position(handle(crowd.users[1], place), timestamp)
        assert repeated or alone is not None
    stale = replace(plans[0], repay=plans[0].repay // 2)
    assert driver.book.position(handle(crowd.users[2], place), timestamp) is not None
    assert driver.book.position(handle(crowd.users[2], place), timestamp, [stale]) is None, "it is of another state"


def _plan(position: Position, pair: MorphoPair, repay: int) -> Plan:
    return Plan(
        market=position.market,
        borrower=position.account.borrower,
        head=position.head,
        timestamp=position.timestamp,
        debt=pair.debt,
        collateral=pair.collateral,
        repay=repay,
        budget=pair.budget(repay),
        seizure=pair.seize(repay),
        loan=pair.advance(repay),
        buy=None,
        sell=None,
        profit_token=pair.collateral.address,
        gain=0,
        gas=0,
        fees=FeeQuote(0, 0),
        sanity_bound=0,
        health_factor=position.account.health_factor,
    )
