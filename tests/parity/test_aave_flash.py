"""The flash loan and a whole liquidation through the executor, on both revisions' bytecode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from keeper.chain.client import NodeClient
from keeper.devchain.actors import account
from keeper.execution.executor import Executed, Settlement, creation_code, encode_execute, gain_from_receipt
from keeper.model import Address, address
from keeper.program import Guard, Program, Step
from keeper.protocols.aave_v3 import AaveV3Flash
from keeper.protocols.aave_v3.flash import GAS
from tests.support.aave_driver import Driver
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

MARKETS = ["main", "second"]
ETH = 10**18
BENEFICIARY = account("aave flash beneficiary")


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


@pytest.fixture
def executor(fork: Fork) -> Address:
    """An executor that the deployer owns and operates."""
    who = fork.world.deployer
    sent = fork.actors.submit(who, None, creation_code(who, who, BENEFICIARY), gas=8_000_000)
    return address(fork.rpc.request("eth_getTransactionReceipt", sent)["contractAddress"])


def execute(
    fork: Fork, executor: Address, guards: tuple[Guard, ...], steps: tuple[Step, ...], floor: int, gains: str = "WETH"
) -> dict[str, Any]:
    """Run a program in a block 12 seconds after the head."""
    weth = fork.world.tokens["WETH"].address
    program = Program(guards, steps, fork.world.tokens[gains].address)
    data = encode_execute(program, Settlement(bytes(32), floor, weth, 2**40))
    with fork.actors.block(12, strict=False) as receipts:
        fork.actors.submit(fork.world.deployer, executor, data)
    return receipts[-1]


def outcome(receipt: dict[str, Any], executor: Address) -> Executed:
    assert receipt["status"] == "0x1"
    done = gain_from_receipt(receipt["logs"], executor)
    assert done is not None
    return done


@pytest.mark.parametrize("which", MARKETS)
async def test_a_loan_costs_its_premium(fork: Fork, client: NodeClient, executor: Address, which: str) -> None:
    """What is offered can be borrowed: at the offer's premium, about the offer's gas, up to the offer's depth."""
    driver = Driver(client, fork.rpc, getattr(fork.world, which), None)
    await driver.start()
    flash, weth = AaveV3Flash(driver.book, executor), fork.world.tokens["WETH"].address
    depth = driver.book.available(weth)
    assert depth > 1_000 * ETH
    for amount in (1, 123_456_789, 77 * ETH + 1, depth):
        (offer,) = flash.offers(weth, amount)
        fork.actors.fund(executor, "WETH", offer.premium)
        assert fork.rpc.view(weth, "balanceOf(address)", executor) == offer.premium
        receipt = execute(fork, executor, (), flash.borrow(offer, ()), 0, gains="DAI")
        assert receipt["status"] == "0x1", amount
        assert fork.rpc.view(weth, "balanceOf(address)", executor) == 0
        assert fork.rpc.view(weth, "allowance(address,address)", executor, driver.market.pool) == 0
        bare = 21_000 + 16 * 900  # the transaction and its calldata
        assert abs(int(receipt["gasUsed"], 16) - bare - offer.gas) < 60_000
        await driver.follow()
    assert offer.gas == GAS
    assert flash.offers(weth, driver.book.available(weth) + 1) == ()
    assert flash.offers(BENEFICIARY, 1) == ()


@pytest.mark.parametrize("which", MARKETS)
async def test_only_open_reserves_lend(fork: Fork, client: NodeClient, which: str) -> None:
    """A paused reserve and one closed to flash loans offer nothing, from the very next block."""
    market = getattr(fork.world, which)
    driver = Driver(client, fork.rpc, market, None)
    await driver.start()
    flash = AaveV3Flash(driver.book, BENEFICIARY)
    for symbol in ("DAI", "USDC"):
        token = fork.world.tokens[symbol].address
        assert flash.offers(token, 10**6)
        if symbol == "DAI":
            fork.actors.set_pause(market, symbol, paused=True)
        else:
            fork.actors.set_flash_enabled(market, symbol, enabled=False)
        await driver.follow()
        assert flash.offers(token, 10**6) == ()
    fork.actors.set_flash_premium(market, 31)
    await driver.follow()
    (offer,) = flash.offers(fork.world.tokens["WETH"].address, 10_000)
    assert offer.premium == 31


@pytest.mark.parametrize("which", MARKETS)
async def test_a_flash_funded_liquidation(fork: Fork, client: NodeClient, executor: Address, which: str) -> None:
    """Loan, liquidation and repayment in one execution gain exactly seized − repaid − premium, and leave nothing."""
    market, borrower = getattr(fork.world, which), account("aave flash borrower")
    weth = fork.world.tokens["WETH"].address
    driver = Driver(client, fork.rpc, market, weth)
    await driver.start()
    fork.actors.open_position(market, borrower, {"WETH": 10 * ETH}, {"WETH": 79 * ETH // 10})
    fork.actors.configure_collateral(market, "WETH", 7_000, 7_600, 10_500)
    flash = AaveV3Flash(driver.book, executor)

    async def prepare() -> tuple[tuple[Guard, ...], tuple[Step, ...], int]:
        """Guards, steps and exact gain for the next block."""
        head = await driver.follow()
        position = driver.book.position(borrower, head.timestamp + 12)
        assert position is not None
        (pair,) = position.pairs
        repay = pair.feasible[-1][1]
        seizure, liquidation = pair.seize(repay), driver.book.liquidation(pair, borrower, repay)
        (offer,) = flash.offers(weth, pair.budget(repay))
        gain = seizure.seized - seizure.repaid - offer.premium
        return liquidation.guards, flash.borrow(offer, liquidation.steps), gain

    guards, steps, gain = await prepare()
    assert execute(fork, executor, guards, steps, gain + 1)["status"] == "0x0"
    guards, steps, gain = await prepare()
    done = outcome(execute(fork, executor, guards, steps, gain), executor)
    assert done.gain == gain > 0
    assert fork.rpc.view(weth, "balanceOf(address)", executor) == 0
    assert fork.rpc.view(weth, "allowance(address,address)", executor, market.pool) == 0
    gone = execute(fork, executor, guards, steps, 0)
    assert gone["status"] == "0x0"
    assert int(gone["gasUsed"], 16) < 90_000  # the guard ends it early
