"""Composed plans against the real Aave: every shape liquidates a real borrower and gains to the wei."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from keeper.abi import interface
from keeper.devchain.actors import Actors, account
from keeper.devchain.calls import calldata
from keeper.devchain.lending import Market
from keeper.model import MAX_UINT256, FlashOffer, Plan, Seizure
from keeper.ports import Liquidation
from keeper.program import Approve, Call, Guard, literal
from tests.parity.test_compose_pools import Desk, desk
from tests.support.bench import Reverted

__all__ = ["desk"]

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20260214"))
BORROWER = account("compose borrower")
LIQUIDATOR = account("compose liquidator")
PREMIUM_BPS = {"aave_v36": 5, "aave_v302": 9}
LIQUIDATION_CALL = "liquidationCall(address,address,address,uint256,bool)"
USD = 40_000


def _endanger(on: Actors, market: Market, debt: str, collateral: str) -> None:
    """Make BORROWER liquidatable as a whole: deep under water, with collateral for all of the debt and the bonus."""
    if debt == collateral:
        # A second collateral falls, because debt and first collateral move together.
        supplied = {collateral: on.worth(collateral, USD), "LINK": on.worth("LINK", USD)}
        on.open_position(market, BORROWER, supplied, {debt: on.worth(debt, USD * 115 // 100)})
        on.set_price("LINK", on.price("LINK") // 4)
    else:
        supplied = {collateral: on.worth(collateral, USD)}
        on.open_position(market, BORROWER, supplied, {debt: on.worth(debt, USD * 5 // 10)})
        on.set_price(collateral, on.price(collateral) * 56 // 100)
    assert on.standing(market, BORROWER).health_factor < 95 * 10**16


def _measured(on: Actors, market: Market, debt: str, collateral: str) -> tuple[int, Seizure]:
    """When the next block will be, and what the whole liquidation moves in it, tried out on a copy of the chain."""
    snapshot = on.rpc.request("evm_snapshot")
    token = on.world.tokens[debt].address
    with on.block(12) as receipts:
        on.fund(LIQUIDATOR, debt, on.worth(debt, 10 * USD))
        on.send(LIQUIDATOR, token, "approve(address,uint256)", market.pool, MAX_UINT256)
        on.liquidate(market, LIQUIDATOR, BORROWER, collateral, debt)
    timestamp = on.now
    topic = interface("aave_pool").topic("LiquidationCall")
    (log,) = [log for receipt in receipts for log in receipt["logs"] if log["topics"][0] == topic]
    assert on.rpc.request("evm_revert", snapshot)
    return timestamp, Seizure(int(log["data"][2:66], 16), int(log["data"][66:130], 16), 0)


def _liquidation(desk: Desk, market: Market, plan: Plan, collateral: str, debt: str) -> Liquidation:
    owed = market.reserves[debt].debt_token
    view = calldata("scaledBalanceOf(address)", BORROWER)
    scaled = desk.on.rpc.view(owed, "scaledBalanceOf(address)", BORROWER)
    tokens = desk.token(collateral).address, desk.token(debt).address
    call = Call(market.pool, calldata(LIQUIDATION_CALL, *tokens, BORROWER, MAX_UINT256, False))
    guard = Guard(owed, view, scaled, MAX_UINT256)
    return Liquidation((guard,), (Approve(tokens[1], market.pool, literal(plan.budget)), call), 0)


def _plan(desk: Desk, shape: int, lender: Market, debt: str, collateral: str, seizure: Seizure) -> Plan:
    """A plan of the shape over random routes, priced by the pools themselves."""
    rng = random.Random(f"{SEED}/{lender.name}/{debt}/{collateral}/{shape}")
    exchange, weth = desk.exchange, "WETH"
    budget = seizure.repaid + (seizure.repaid // 10_000 if shape < 3 else 0)
    # Rounded up on 3.6, half up on 3.0.2.
    bps = PREMIUM_BPS[lender.name]
    premium = -(-budget * bps // 10_000) if lender.name == "aave_v36" else (budget * bps + 5_000) // 10_000
    loan = FlashOffer("aave", lender.pool, desk.token(debt).address, budget, premium, 0)
    legs: dict[str, Any] = {"budget": budget}
    if shape > 1:
        legs["loan"] = loan
    if shape == 4:
        rest = seizure.seized - seizure.repaid - premium
    elif shape == 3:
        rest = seizure.seized
    else:
        buy = exchange.buy(rng, collateral, debt, budget if shape == 1 else budget + premium, 2)
        assert buy is not None
        legs["buy"] = buy
        rest = seizure.seized - buy.amount_in
    with exchange.traded(legs.get("buy")):
        sell = None if collateral == weth else exchange.sell(rng, collateral, weth, rest, 2)
    gain = rest if sell is None else sell.amount_out
    if shape == 3:
        gain -= budget + premium
    elif debt == weth and shape < 3:
        gain += budget - seizure.repaid
    assert gain > 0
    return desk.plan(debt, collateral, seizure, sell=sell, gain=gain, **legs)


@pytest.mark.parametrize("market_name", ["aave_v36", "aave_v302"])
@pytest.mark.parametrize(
    ("debt", "collateral", "shapes"),
    [
        ("USDC", "WETH", (1, 2)),
        ("USDT", "WBTC", (1, 2)),
        ("DAI", "LINK", (1, 2)),
        ("WETH", "LINK", (1, 2, 3)),
        ("WETH", "WETH", (4,)),
        ("USDC", "USDC", (4,)),
    ],
)
def test_every_shape_liquidates_to_the_wei(
    desk: Desk, market_name: str, debt: str, collateral: str, shapes: tuple[int, ...]
) -> None:
    """On both revisions, with Aave's own flash loan and with flash swaps: gain and leftovers as predicted, executor
    empty, no approvals left; and the second execution of the same program ends at its guard."""
    on, market = desk.on, desk.on.world.markets[market_name]
    _endanger(on, market, debt, collateral)
    timestamp, seizure = _measured(on, market, debt, collateral)
    for shape in shapes:
        plan = _plan(desk, shape, market, debt, collateral, seizure)
        liquidation = _liquidation(desk, market, plan, collateral, debt)
        snapshot = on.rpc.request("evm_snapshot")
        desk.run(plan, liquidation, timestamp)
        program = desk.program(plan, liquidation)
        with pytest.raises(Reverted, match=r"^Gone\(\)$"):
            desk.bench.dry(*program.steps, guards=program.guards, sweep=program.sweep)
        assert on.rpc.request("evm_revert", snapshot)
