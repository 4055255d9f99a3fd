"""Composed programs of every plan shape, traded on real Uniswap pools and borrowed from real lenders."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import pytest

from keeper.devchain.actors import Actors
from keeper.devchain.calls import calldata
from keeper.execution.compose import compose
from keeper.model import (
    Address,
    FeeQuote,
    FlashOffer,
    Hash,
    Head,
    Plan,
    Seizure,
    Token,
)
from keeper.ports import FlashSource, Liquidation, Venue
from keeper.program import Approve, Call, Program, literal
from keeper.protocols.aave_v3.book import AaveV3Book
from keeper.protocols.aave_v3.flash import AaveV3Flash
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.venue import UniswapV3
from tests.support.bench import BENEFICIARY, STRANGER, Bench, make_bench
from tests.support.exchange import V2, V3, Exchange, V3FlashSource
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20260207"))
HEAD = Head(1, Hash("0x" + "01" * 32), Hash("0x" + "00" * 32), 1, 1)
SYMBOLS = ("WETH", "USDC", "USDT", "DAI", "WBTC", "wstETH", "LINK")


class NoAlerts:
    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        raise AssertionError(message)


@dataclass
class Desk:
    """Everything a plan can use on a fork, with an executor that holds nothing."""

    bench: Bench
    exchange: Exchange
    venues: dict[str, Venue]
    sources: dict[str, FlashSource]

    @property
    def on(self) -> Actors:
        return self.exchange.on

    def token(self, symbol: str) -> Token:
        return self.on.world.tokens[symbol]

    def plan(self, debt: str, collateral: str, seizure: Seizure, **legs: Any) -> Plan:
        fields: dict[str, Any] = {"budget": seizure.repaid, "loan": None, "buy": None, "sell": None, "gain": 0} | legs
        return Plan(
            market="toy",
            borrower=STRANGER,
            head=HEAD,
            timestamp=1,
            debt=self.token(debt),
            collateral=self.token(collateral),
            repay=seizure.repaid,
            seizure=seizure,
            profit_token=self.bench.weth,
            gas=0,
            fees=FeeQuote(0, 0),
            sanity_bound=0,
            health_factor=0,
            **fields,
        )

    def program(self, plan: Plan, liquidation: Liquidation) -> Program:
        return compose(plan, liquidation, self.venues, self.sources, self.bench.executor)

    def run(self, plan: Plan, liquidation: Liquidation, timestamp: int | None = None) -> None:
        """Execute, and insist on the predicted gain, the predicted leftovers, and an empty executor."""
        program = self.program(plan, liquidation)
        swept = {token: self.bench.balance(token, BENEFICIARY) for token in program.sweep}
        unspent = 0 if plan.debt.address == plan.collateral.address else plan.budget - plan.seizure.repaid
        if timestamp is not None:
            self.bench.rpc.request("evm_setNextBlockTimestamp", timestamp)
        done = self.bench.run(*program.steps, guards=program.guards, sweep=program.sweep, min_gain=plan.gain)
        assert done.gain == plan.gain
        assert done.recipient == (BENEFICIARY if plan.gain else None)
        for token, before in swept.items():
            expected = unspent if token == plan.debt.address else 0
            assert self.bench.balance(token, BENEFICIARY) - before == expected
        self.empty(program, plan)

    def empty(self, program: Program, plan: Plan) -> None:
        """No balance and no approval of any token of the plan is left."""
        pools = {pool for route in (plan.buy, plan.sell) if route for pool in route.pools}
        spenders = {*pools, self.bench["market"], *(m.pool for m in self.on.world.markets.values())}
        if plan.loan:
            spenders.add(plan.loan.lender)
        for token in {plan.profit_token, *program.sweep}:
            assert self.bench.balance(token, self.bench.executor) == 0
            for spender in spenders:
                assert self.bench.allowance(token, spender) == 0
        assert int(self.bench.rpc.request("eth_getBalance", self.bench.executor, "latest"), 16) == 0


@pytest.fixture
def desk(fork: Fork) -> Desk:
    world = fork.world
    on = Actors(fork.rpc, world)
    bench = make_bench(fork.rpc, world.tokens["WETH"].address)
    addresses = {symbol: token.address for symbol, token in world.tokens.items()}
    with on.block():
        for symbol in SYMBOLS:
            on.fund(bench["market"], symbol, on.worth(symbol, 50_000_000))
    swap = world.uniswap
    tokens = addresses.values()
    book = AaveV3Book("aave", world.main.addresses_provider, 0, None, NoAlerts())
    pools = {pool.address: pool for pool in swap.pools if pool.kind == "v3" and not pool.thin}
    return Desk(
        bench,
        Exchange(on),
        {
            V2: UniswapV2(swap.v2_factory, swap.v2_start_block, tokens),
            V3: UniswapV3(swap.v3_factory, swap.v3_start_block, tokens),
        },
        {"aave": AaveV3Flash(book, bench.executor), "v3_flash": V3FlashSource(bench.executor, pools, addresses)},
    )


def _toy(desk: Desk, plan: Plan) -> Liquidation:
    data = calldata(
        "liquidate(address,address,uint256,uint256)",
        plan.debt.address,
        plan.collateral.address,
        plan.seizure.repaid,
        plan.seizure.seized,
    )
    market = desk.bench["market"]
    return Liquidation((), (Approve(plan.debt.address, market, literal(plan.budget)), Call(market, data)), 0)


def _loan(desk: Desk, rng: random.Random, token: Address, amount: int, busy: frozenset[Address]) -> FlashOffer:
    if rng.random() < 0.5:
        premium = -(-amount * 5 // 10_000)
        return FlashOffer("aave", desk.on.world.main.pool, token, amount, premium, 0)
    offers = [o for o in desk.sources["v3_flash"].offers(token, amount) if o.lender not in busy]
    rich = [o for o in offers if desk.bench.balance(token, o.lender) > amount]
    return rng.choice(rich) if rich else _loan(desk, random.Random(1), token, amount, busy)


def _case(desk: Desk, rng: random.Random, shape: int) -> tuple[Plan, str] | None:
    """A random plan of the given shape, priced by the pools themselves; None when the draw does not fit them."""
    exchange, weth = desk.exchange, "WETH"
    debt = weth if shape == 3 else rng.choice(SYMBOLS)
    collateral = debt if shape == 4 else rng.choice([s for s in SYMBOLS if s != debt])
    repay = desk.on.worth(debt, rng.choice((2_000, 50_000, 400_000))) + rng.randrange(1, 10**5)
    unspent = rng.choice((0, 0, rng.randrange(1, repay // 1000 + 2)))
    most = rng.choice((1, 2, 3))
    label = f"{shape} {collateral}→{debt} ×{most}"

    if shape == 4:
        premium = -(-(repay + unspent) * 5 // 10_000)
        loan = FlashOffer("aave", desk.on.world.main.pool, desk.token(debt).address, repay + unspent, premium, 0)
        rest = repay // 25
        seizure = Seizure(repay, repay + loan.premium + rest, 0)
        sell = None if debt == weth else exchange.sell(rng, debt, weth, rest, most)
        if debt != weth and sell is None:
            return None
        gain = rest if sell is None else sell.amount_out
        return desk.plan(debt, collateral, seizure, budget=repay + unspent, loan=loan, sell=sell, gain=gain), label

    if shape == 3:
        budget = repay + unspent
        sold = desk.on.worth(collateral, 1) * (repay * 3_000 // 10**18) * 108 // 100 + rng.randrange(1, 1000)
        sell = exchange.sell(rng, collateral, weth, sold, most)
        if sell is None:
            return None
        loan = _loan(desk, rng, desk.token(debt).address, budget, sell.pools)
        gain = sell.amount_out - repay - loan.premium
        if gain < 0:
            return None
        plan = desk.plan(debt, collateral, Seizure(repay, sold, 0), budget=budget, loan=loan, sell=sell, gain=gain)
        return plan, label

    budget = repay + unspent
    # In a loan that is paid back from `buy`, the premium is bought too.
    premium_bps = 5 if shape == 2 else 0
    wanted = budget - (-budget * premium_bps // 10_000)
    buy = exchange.buy(rng, collateral, debt, wanted, most)
    if buy is None:
        return None
    legs: dict[str, Any] = {"budget": budget, "buy": buy}
    if shape == 2:
        legs["loan"] = FlashOffer("aave", desk.on.world.main.pool, desk.token(debt).address, budget, wanted - budget, 0)
    rest = rng.choice((0, buy.amount_in // 20, buy.amount_in // 20 + rng.randrange(1, 1000)))
    gain = unspent if debt == weth else 0
    sell = None
    if rest and collateral != weth:
        with exchange.traded(buy):
            sell = exchange.sell(rng, collateral, weth, rest, most)
        if sell is None:
            return None
    gain += sell.amount_out if sell else rest
    seizure = Seizure(repay, buy.amount_in + rest, 0)
    return desk.plan(debt, collateral, seizure, sell=sell, gain=gain, **legs), label


def _random_plans(desk: Desk, seed: int, cases: int) -> None:
    print(f"KEEPER_SEED={seed}, {cases} plans")
    done: dict[int, int] = {1: 0, 2: 0, 3: 0, 4: 0}
    hops, both, number = 0, 0, 0
    while sum(done.values()) < cases:
        rng = random.Random(f"{seed}/{number}")
        number += 1
        assert number < 4 * cases + 40, f"too few draws fit the pools: {done}"
        shape = 1 + number % 4
        drawn = _case(desk, rng, shape)
        if drawn is None:
            continue
        plan, label = drawn
        snapshot = desk.bench.rpc.request("evm_snapshot")
        print(f"case {number - 1}: {label}")
        desk.run(plan, _toy(desk, plan))
        assert desk.bench.rpc.request("evm_revert", snapshot)
        done[shape] += 1
        routes = [route for route in (plan.buy, plan.sell) if route]
        hops += sum(len(path.hops) > 1 for route in routes for path in route.paths)
        both += any({hop.venue for hop in path.hops} == {V2, V3} for route in routes for path in route.paths)
    # All shapes, chains of pools, and chains across both exchanges were really among them.
    assert min(done.values()) >= cases // 8
    assert hops >= cases // 4
    assert both >= cases // 10


def test_random_plans_gain_what_was_predicted(desk: Desk) -> None:
    """Over all four shapes, one to three paths, one and two hops, both exchanges and both kinds of loan, the gain and
    the swept leftovers equal the prediction to the wei, and neither tokens nor approvals are left."""
    _random_plans(desk, SEED, 96)


@pytest.mark.long
def test_random_plans_gain_what_was_predicted_at_length(desk: Desk) -> None:
    """The same over many more plans."""
    _random_plans(desk, SEED + 1, 1_000)
