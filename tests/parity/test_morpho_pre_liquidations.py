"""Pre-liquidation contracts of a model factory on the real Morpho: found, used where authorised, exact to the wei."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keeper.abi import interface
from keeper.chain.client import NodeClient
from keeper.devchain.actors import account
from keeper.devchain.morpho import MorphoMarket
from keeper.devchain.serve import OPERATOR
from keeper.execution.executor import Settlement, encode_execute, executed
from keeper.model import WAD, Address, address, handle
from keeper.ports import Position
from keeper.program import Program
from keeper.protocols.morpho_blue.events import CREATE_PRE_LIQUIDATION, PRE_LIQUIDATE
from keeper.protocols.morpho_blue.pair import Call, MorphoPair
from tests.parity.test_morpho_mined import _log, deploy
from tests.support.fork import Fork
from tests.support.morpho_driver import MorphoDriver
from tests.support.morpho_random import Crowd
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20274"))
CREATE = "createPreLiquidation(bytes32,(uint256,uint256,uint256,uint256,uint256,address))"
PRE_LIQUIDATE_CALL = "preLiquidate(address,uint256,uint256,bytes)"


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


class Bench:
    """A factory, contracts for some markets, and borrowers of whom some have authorised them."""

    def __init__(self, fork: Fork, client: NodeClient, users: int) -> None:
        self.fork = fork
        self.crowd = Crowd(fork.actors, fork.world.morpho, users, SEED)
        code = compiled_contracts()["PreLiquidationFactory"].creation({}, self.crowd.morpho.address)
        self.factory = self.crowd.deploy(code)
        native = fork.world.tokens["WETH"].address
        self.driver = MorphoDriver(client, fork.rpc, fork.world.morpho, native, [self.factory])
        self.contracts: dict[Address, MorphoMarket] = {}
        self.tally: Counter[str] = Counter()

    def create(self, market: MorphoMarket, lltv: int, close: tuple[int, int], bonus: tuple[int, int]) -> Address:
        """A contract; its parameters in basis points."""
        words = [value * 10**14 for value in (lltv, *close, *(10_000 + b for b in bonus))]
        sent = self.fork.actors.send(
            OPERATOR, self.factory, CREATE, bytes.fromhex(market.id[2:]), (*words, market.oracle), gas=8_000_000
        )
        receipt = self.fork.rpc.request("eth_getTransactionReceipt", sent)
        (log,) = [log for log in receipt["logs"] if log["topics"][0] == CREATE_PRE_LIQUIDATION]
        made = address("0x" + log["topics"][1][26:])
        self.contracts[made] = market
        return made

    def fund(self) -> None:
        """Give the liquidator what it will need."""
        for contract, market in self.contracts.items():
            with self.fork.actors.block():
                self.fork.actors.fund(self.crowd.liquidator, market.loan, self.crowd.worth(market.loan, 5_000_000))
                self.fork.actors.approve(self.crowd.liquidator, contract, market.loan)

    def send(self, pair: MorphoPair, position: Position, call: Call, timestamp: int) -> dict[str, Any]:
        """One call by the liquidator."""
        actors, contract = self.fork.actors, pair.terms.contract
        assert contract is not None
        with actors.block(timestamp - actors.now, strict=False) as receipts:
            borrower = position.account.borrower
            actors.send(self.crowd.liquidator, contract, PRE_LIQUIDATE_CALL, borrower, call.seized, call.shares, b"")
        return receipts[-1]


async def run(fork: Fork, client: NodeClient, *, users: int, calls: int) -> Counter[str]:
    """Rounds of borrowing into the band between both LLTVs, and pre-liquidating there."""
    print(f"KEEPER_SEED={SEED}")
    bench = Bench(fork, client, users)
    crowd, dice, driver, actors = bench.crowd, bench.crowd.random, bench.driver, fork.actors
    markets = [fork.world.morpho.markets[name] for name in ("WETH/USDC", "WBTC/USDC", "wstETH/WETH")]
    await driver.start()
    for market in markets:
        lltv, room = market.lltv // 10**14, 10_000 * WAD // market.lltv - 10_000
        bench.create(market, lltv - 400, (1_000, 4_000), (100, min(room, 400)))
        bench.create(market, lltv - 200, (8_000, 20_000), (150, min(room, 300)))
    bench.fund()
    await driver.follow()
    while bench.tally.total() - bench.tally["no pair"] < calls:
        crowd.users = [account(f"pre-liquidated {SEED} {bench.tally.total()} {i}") for i in range(users)]
        chosen = {user: dice.choice(list(bench.contracts)) for user in crowd.users}
        with actors.block(strict=False):
            for user, contract in chosen.items():
                market, dollars = bench.contracts[contract], dice.uniform(200, 90_000)
                pledged = crowd.worth(market.collateral, dollars)
                crowd.hands.pledge(user, market, pledged)
                share = dice.uniform(market.lltv / WAD - 0.05, market.lltv / WAD - 0.0005)
                crowd.hands.borrow(user, market, assets=crowd.worth(market.loan, dollars * share))
                if dice.random() < 0.85:
                    crowd.hands.authorize(user, contract, allowed=True)
        head = await driver.follow()
        names = driver.book.screen(head.timestamp + 12)
        exact = [a.handle for a in driver.book.accounts(head.timestamp + 12)]
        assert {name for name in exact if driver.book.position(name, head.timestamp + 12)} <= set(names)
        for user, contract in chosen.items():
            await one(bench, user, bench.contracts[contract])
        if dice.random() < 0.3:
            driver.book.restore(driver.book.snapshot())
            await driver.start()
            actors.mine(dice.choice((3_600, 86_400)))
    await driver.follow()
    assert driver.differences(crowd.everybody) == []
    print(dict(bench.tally))
    return bench.tally


async def one(bench: Bench, user: Address, market: MorphoMarket) -> None:
    """One borrower: the pairs offered are those authorised and in their band, and do what they say."""
    dice, book = bench.crowd.random, bench.driver.book
    head = await bench.driver.follow()
    position = book.position(handle(user, market.id[:10]), head.timestamp + dice.choice((1, 12)))
    if position is None or not position.pairs:
        bench.tally["no pair"] += 1
        return
    pair = dice.choice(position.pairs)
    assert isinstance(pair, MorphoPair)
    if pair.terms.contract is None:
        bench.tally["Morpho's own"] += 1
        return
    assert position.account.health_factor >= WAD
    low, high = pair.feasible[0]
    repay = dice.choice((low, high, high, dice.randint(low, high)))
    now, late = pair.now, dice.choice((0, 0, 0, 12, 36))
    most = Call(0, now.most)
    wild = (most, Call(0, now.most + 1), Call(now.collateral, 0))
    call = pair.call(repay) if late else dice.choice((pair.call(repay), *wild))
    predicted = now.run(call)
    receipt = bench.send(pair, position, call, position.timestamp + late)
    if predicted is None:
        assert receipt["status"] == "0x0", f"{call} was mined"
        bench.tally["reverted as predicted"] += 1
        return
    assert receipt["status"] == "0x1", f"{user}: {call} reverted {late} s late, {predicted} of {pair.feasible}"
    (log,) = [log for log in receipt["logs"] if log["topics"][0] == PRE_LIQUIDATE]
    repaid, shares, seized = (int(log["data"][2 + 64 * i : 66 + 64 * i], 16) for i in range(3))
    if late:
        assert repaid <= pair.budget(repay)
        bench.tally[f"{late} s late"] += 1
    else:
        assert (repaid, shares, seized) == (predicted.repaid, predicted.shares, predicted.seized)
        bench.tally["all of it" if shares == now.shares else "partial"] += 1
    (seen,) = book.liquidations([_log(raw) for raw in receipt["logs"]])
    assert (seen.borrower, seen.repaid, seen.seized) == (user, repaid, seized)
    assert seen.market == position.market


async def test_predictions_equal_mined_pre_liquidations(fork: Fork, client: NodeClient) -> None:
    """Repaid assets, shares and collateral equal the event, reverts are foreseen, and late ones stay within budget."""
    tally = await run(fork, client, users=9, calls=70)
    assert tally["partial"]
    assert tally["all of it"]
    assert tally["reverted as predicted"]


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_predictions_equal_mined_pre_liquidations_for_long(fork: Fork, client: NodeClient) -> None:
    """The same for 400 calls."""
    await run(fork, client, users=12, calls=400)


async def test_through_the_executor_and_only_while_authorised(fork: Fork, client: NodeClient) -> None:
    """The contract's own callback pays for it, as predicted. Without authorisation there is no position."""
    bench = Bench(fork, client, 1)
    executor, market, user = deploy(fork), fork.world.morpho.markets["WETH/USDC"], account("pre")
    await bench.driver.start()
    contract = bench.create(market, 8_000, (3_000, 10_000), (100, 400))
    bench.crowd.hands.open_position(user, market, 10 * 10**18, 25_000 * 10**6)
    name = handle(user, market.id[:10])
    head = await bench.driver.follow()
    assert bench.driver.book.position(name, head.timestamp + 12) is None
    bench.crowd.hands.authorize(user, contract, allowed=True)
    head = await bench.driver.follow()
    assert name in bench.driver.book.screen(head.timestamp + 12)
    position = bench.driver.book.position(name, head.timestamp + 12)
    assert position is not None
    (pair,) = position.pairs
    fork.actors.fund(executor, "USDC", pair.budget(pair.feasible[-1][1]) * 2)
    bench.crowd.hands.accrue(user, market)
    head = await bench.driver.follow()
    position = bench.driver.book.position(name, head.timestamp + 12)
    assert position is not None
    (pair,) = position.pairs
    repay = pair.feasible[-1][1]
    seizure, liquidation = pair.seize(repay), bench.driver.book.liquidation(pair, user, repay)
    assert liquidation.around is not None
    weth = fork.world.tokens["WETH"].address
    program = Program(liquidation.guards, liquidation.around(()), weth)
    settlement = Settlement(bytes(32), seizure.seized, weth, 2**40)
    with fork.actors.block(12, strict=False) as receipts:
        fork.actors.submit(OPERATOR, executor, encode_execute(program, settlement))
    assert receipts[-1]["status"] == "0x1"
    logs = [_log(raw) for raw in receipts[-1]["logs"]]
    (event,) = [log for log in logs if log.topics[0] == PRE_LIQUIDATE]
    told = interface("morpho_pre_liquidation").parse("PreLiquidate", event)
    assert (told["repaidAssets"], told["seizedAssets"]) == (seizure.repaid, seizure.seized)
    outcome = executed(logs, executor)
    assert outcome is not None
    assert outcome.gain == seizure.seized
    used = int(receipts[-1]["gasUsed"], 16)
    assert abs(used - 21_000 - 16 * 1_600 - liquidation.gas) < 60_000, used
    bench.crowd.hands.authorize(user, contract, allowed=False)
    head = await bench.driver.follow()
    assert bench.driver.book.position(name, head.timestamp + 12) is None
