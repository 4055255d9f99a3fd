"""The built world with the further venues beside its Uniswap V2 and V3, and liquidations traded through all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keeper.devchain.actors import Actors
from keeper.devchain.balancer import build_balancer
from keeper.devchain.calls import calldata
from keeper.devchain.deploy import Deployer
from keeper.devchain.uniswap import MAX_TICK, sqrt_price
from keeper.devchain.uniswap_v4 import build_uniswap_v4, key_of
from keeper.execution.compose import compose
from keeper.model import (
    MAX_UINT256,
    ZERO_ADDRESS,
    Address,
    FeeQuote,
    FlashOffer,
    Hash,
    Head,
    Plan,
    Route,
    Seizure,
    Token,
    address,
)
from keeper.ports import FlashSource, Liquidation
from keeper.program import Approve, Call, Program, literal
from keeper.venues.balancer_v2.flash import BalancerV2Flash
from keeper.venues.balancer_v2.venue import BalancerV2
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.flash import UniswapV3Flash
from keeper.venues.uniswap_v3.venue import UniswapV3
from keeper.venues.uniswap_v4.flash import UniswapV4Flash
from keeper.venues.uniswap_v4.venue import UniswapV4
from keeper.venues.wrappers.erc4626 import Erc4626
from keeper.venues.wrappers.wsteth import WstEth
from tests.support.bench import BENEFICIARY, STRANGER, Bench, make_bench
from tests.support.fork import Fork
from tests.support.solidity import wrapped_contracts
from tests.support.venue_arena import NodeClient, head_of

SYMBOLS = ("WETH", "USDC", "USDT", "DAI", "WBTC", "LINK")
PROVIDER = address("0x" + "1b" * 20)
HEAD = Head(1, Hash("0x" + "01" * 32), Hash("0x" + "00" * 32), 1, 1)
# Pairs of V4 pools with fee and spacing; ETH is the native coin. USDT is left out because the published test periphery,
# which provides the liquidity, insists on an answer to transferFrom.
V4_POOLS = (
    ("WETH", "USDC", 500, 10),
    ("ETH", "USDC", 3_000, 60),
    ("ETH", "DAI", 500, 10),
    ("ETH", "WBTC", 3_000, 60),
    ("DAI", "USDC", 100, 1),
    ("LINK", "WETH", 3_000, 60),
)
# Weighted pools: percentages, fee (wad), and whether the first or the second generation of factories makes them.
BALANCER_POOLS: tuple[tuple[dict[str, int], int, int], ...] = (
    ({"WETH": 50, "USDC": 50}, 3 * 10**15, 0),
    ({"WBTC": 25, "WETH": 25, "USDC": 25, "DAI": 25}, 10**15, 1),
    ({"LINK": 80, "WETH": 20}, 10**16, 1),
    ({"USDT": 40, "WETH": 35, "WBTC": 25}, 5 * 10**14, 0),
    ({"DAI": 50, "USDC": 50}, 10**14, 1),
)
_DEPTH = 20_000_000  # USD per side of each pool


@dataclass
class VenueFloor:
    """`venues` are loaded at the present head; the executor holds nothing, the toy market is rich."""

    on: Actors
    bench: Bench
    venues: dict[str, Any]
    sources: dict[str, FlashSource]
    extra: dict[str, Token] = field(default_factory=dict)  # tokens that the world does not have

    def token(self, symbol: str) -> Token:
        return self.extra.get(symbol) or self.on.world.tokens[symbol]

    async def load(self, known: dict[str, bytes]) -> None:
        """Every floor starts the same, so only the first reads everything."""
        client, head = NodeClient(self.bench.rpc), head_of(self.bench.rpc)
        for venue in self.venues.values():
            if venue.name in known:
                venue.restore(known[venue.name])
            else:
                await venue.load(client, head)
                known[venue.name] = venue.snapshot()
        for _ in range(2):  # Balancer's fees can be read once it is known where
            await self.observe()

    async def observe(self) -> None:
        client, head = NodeClient(self.bench.rpc), head_of(self.bench.rpc)
        for venue in self.venues.values():
            venue.observe(head, await client.read(venue.reads(), head))

    def router(self, *names: str) -> Router:
        """Over some venues, or over all."""
        chosen = [self.venues[name] for name in names or self.venues]
        connectors = [self.token(symbol).address for symbol in ("WETH", "USDC", *self.extra)]
        return Router(chosen, connectors, native=self.token("WETH").address)

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

    def liquidation(self, plan: Plan) -> Liquidation:
        market, seizure = self.bench["market"], plan.seizure
        tokens = plan.debt.address, plan.collateral.address
        data = calldata("liquidate(address,address,uint256,uint256)", *tokens, seizure.repaid, seizure.seized)
        return Liquidation((), (Approve(plan.debt.address, market, literal(plan.budget)), Call(market, data)), 0)

    def program(self, plan: Plan) -> Program:
        return compose(plan, self.liquidation(plan), self.venues, self.sources, self.bench.executor)

    def run(self, plan: Plan) -> int:
        """Execute with the predicted gain as floor; insist on it, on the leftovers, and on an empty executor: gas."""
        program = self.program(plan)
        swept = {token: self.bench.balance(token, BENEFICIARY) for token in program.sweep}
        unspent = 0 if plan.debt.address == plan.collateral.address else plan.budget - plan.seizure.repaid
        done = self.bench.run(*program.steps, guards=program.guards, sweep=program.sweep, min_gain=plan.gain)
        assert done.gain == plan.gain
        for token, before in swept.items():
            expected = unspent if token == plan.debt.address else 0
            assert self.bench.balance(token, BENEFICIARY) - before == expected, token
        spenders = {hop.pool for r in (plan.buy, plan.sell) if r for path in r.paths for hop in path.hops}
        spenders |= {venue.factory for venue in self.venues.values()} | {self.bench["market"]}
        for token in {plan.profit_token, *program.sweep}:
            assert self.bench.balance(token, self.bench.executor) == 0
            for spender in spenders:
                assert len(spender) != 42 or self.bench.allowance(token, spender) == 0
        assert int(self.bench.rpc.request("eth_getBalance", self.bench.executor, "latest"), 16) == 0
        return 0

    def draw(self, rng: random.Random, shape: int, router: Router, symbols: tuple[str, ...] = SYMBOLS) -> Plan | None:
        """A random plan of one of the four shapes over the router's pools; None when the draw does not fit."""
        weth = "WETH"
        debt = weth if shape == 3 else rng.choice(symbols)
        collateral = debt if shape == 4 else rng.choice([s for s in symbols if s != debt])
        debt_token, collateral_token = self.token(debt).address, self.token(collateral).address
        repay = self.on.worth(debt, rng.choice((2_000, 50_000, 400_000))) + rng.randrange(1, 10**5)
        budget = repay + rng.choice((0, 0, rng.randrange(1, repay // 1_000 + 2)))
        loan = None if shape == 1 else self._loan(rng, debt_token, budget)
        if shape != 1 and loan is None:
            return None
        premium = loan.premium if loan else 0
        locks = loan.locks if loan else frozenset()
        if shape == 4:
            rest = repay // 25
            sell = None if debt == weth else router.sell(debt_token, self.bench.weth, rest)
            if debt != weth and sell is None:
                return None
            gain = rest if sell is None else sell.amount_out
            seizure = Seizure(repay, repay + premium + rest, 0)
            return self.plan(debt, collateral, seizure, budget=budget, loan=loan, sell=sell, gain=gain)
        if shape == 3:
            sold = self.on.worth(collateral, 1) * (repay * 3_000 // 10**18) * 108 // 100 + rng.randrange(1, 1_000)
            sell = router.sell(collateral_token, debt_token, sold, locks)
            gain = -1 if sell is None else sell.amount_out - repay - premium
            if gain < 0:
                return None
            return self.plan(debt, collateral, Seizure(repay, sold, 0), budget=budget, loan=loan, sell=sell, gain=gain)
        buy = lending(router, collateral_token, debt_token, budget + premium, locks, lent=loan is not None)
        if buy is None:
            return None
        rest = rng.choice((0, buy.amount_in // 20, buy.amount_in // 20 + rng.randrange(1, 1_000)))
        gain, sell = (budget - repay if debt == weth else 0), None
        if rest and collateral != weth:
            sell = router.after(buy).sell(collateral_token, self.bench.weth, rest)
            if sell is None:
                return None
        gain += sell.amount_out if sell else rest
        seizure = Seizure(repay, buy.amount_in + rest, 0)
        return self.plan(debt, collateral, seizure, budget=budget, loan=loan, buy=buy, sell=sell, gain=gain)

    def _loan(self, rng: random.Random, token: Address, amount: int) -> FlashOffer | None:
        offers = [offer for source in self.sources.values() for offer in source.offers(token, amount)]
        kinds = sorted({offer.source for offer in offers})
        if not kinds:
            return None
        kind = rng.choice(kinds)
        return rng.choice([offer for offer in offers if offer.source == kind])


def lending(
    router: Router, sold: Address, bought: Address, amount: int, avoid: frozenset[Address], *, lent: bool
) -> Route | None:
    """A purchase; unless the debt asset is lent, through pools that hand it out before they are paid."""
    buy = router.buy(sold, bought, amount, avoid)
    while buy is not None and not lent and buy.prepaid:
        avoid |= buy.prepaid
        buy = router.buy(sold, bought, amount, avoid)
    return buy


async def make_venue_floor(fork: Fork, known: dict[str, bytes]) -> VenueFloor:
    """Deploy the further venues at the world's prices, and mirror all of them."""
    world = fork.world
    on = Actors(fork.rpc, world)
    tokens: Mapping[str, Address] = {symbol: world.tokens[symbol].address for symbol in SYMBOLS}
    bench = make_bench(fork.rpc, tokens["WETH"])
    on.fund_native(PROVIDER, 10**26)
    with on.block():
        for symbol in SYMBOLS:
            on.fund(PROVIDER, symbol, on.worth(symbol, 2_000_000_000))
            on.fund(bench["market"], symbol, on.worth(symbol, 50_000_000))
    by = Deployer(fork.rpc, PROVIDER, 50_000_000)
    venues: dict[str, Any] = {}
    sources: dict[str, FlashSource] = {}
    _with_v4(by, on, tokens, bench.executor, venues, sources)
    _with_balancer(by, on, tokens, bench.executor, venues, sources)
    v2 = UniswapV2(world.uniswap.v2_factory, world.uniswap.v2_start_block, tokens.values())
    v3 = UniswapV3(world.uniswap.v3_factory, world.uniswap.v3_start_block, tokens.values())
    venues |= {v2.name: v2, v3.name: v3}
    sources["uniswap_v3"] = UniswapV3Flash(v3, bench.executor)
    made = VenueFloor(on, bench, venues, sources)
    await made.load(known)
    return made


async def add_vault(floor: VenueFloor) -> None:
    """A vault over USDC whose share stands at an odd rate, held by the toy market and known as vUSDC."""
    by, usdc = Deployer(floor.bench.rpc, PROVIDER, 50_000_000), floor.token("USDC").address
    vault = by.deploy(wrapped_contracts()["OffsetVault"], usdc, 6)
    by.send(usdc, "approve(address,uint256)", vault, MAX_UINT256)
    by.send(vault, "deposit(uint256,address)", floor.on.worth("USDC", 90_000_000), floor.bench["market"])
    by.send(usdc, "transfer(address,uint256)", vault, floor.on.worth("USDC", 7_654_321) + 1)
    by.flush()
    floor.extra["vUSDC"] = Token(vault, "vUSDC", 12)
    venue = Erc4626("vault", vault, floor.bench.executor, (floor.bench["market"],))
    floor.venues[venue.name] = venue
    await venue.load(NodeClient(floor.bench.rpc), head_of(floor.bench.rpc))
    await floor.observe()


async def add_staked(floor: VenueFloor) -> None:
    """stETH and wstETH at an odd rate, the second held by the toy market, and a V2 pair of the first with WETH."""
    rpc, world, weth = floor.bench.rpc, floor.on.world, floor.bench.weth
    by, own = Deployer(rpc, PROVIDER, 50_000_000), wrapped_contracts()
    steth = by.deploy(own["StEth"])
    wsteth = by.deploy(own["WstEth"], steth)
    by.send(steth, "submit(address)", PROVIDER, value=90_000 * 10**18)
    by.send(steth, "rebase(uint256)", 111_222 * 10**18 + 333)
    by.send(steth, "approve(address,uint256)", wsteth, MAX_UINT256)
    by.send(wsteth, "wrap(uint256)", 30_000 * 10**18)
    by.send(wsteth, "transfer(address,uint256)", floor.bench["market"], 20_000 * 10**18)
    by.send(world.uniswap.v2_factory, "createPair(address,address)", steth, weth, gas=6_000_000)
    by.flush()
    pair = rpc.view(world.uniswap.v2_factory, "getPair(address,address)", steth, weth, returns="address")
    for token in (steth, weth):
        by.send(token, "transfer(address,uint256)", pair, 9_000 * 10**18)
    by.send(pair, "mint(address)", PROVIDER)
    by.flush()
    floor.extra |= {"stETH": Token(steth, "stETH", 18), "wstETH*": Token(wsteth, "wstETH*", 18)}
    venue = WstEth("staked", wsteth, floor.bench.executor)
    floor.venues[venue.name] = venue
    floor.venues["uniswap_v2"].follow([steth])
    for known in (venue, floor.venues["uniswap_v2"]):
        await known.load(NodeClient(rpc), head_of(rpc))
    await floor.observe()


def _with_v4(
    by: Deployer,
    on: Actors,
    tokens: Mapping[str, Address],
    executor: Address,
    venues: dict[str, Any],
    sources: dict[str, FlashSource],
) -> None:
    desk = build_uniswap_v4(by, tokens.values())
    known = dict(tokens) | {"ETH": ZERO_ADDRESS}
    for a, b, fee, spacing in V4_POOLS:
        key = key_of(known[a], known[b], fee, spacing)
        first, second = ("WETH" if s == "ETH" else s for s in ((a, b) if known[a] == key.currency0 else (b, a)))
        root = sqrt_price(first, second)
        desk.initialize(key, root)
        amount0, amount1 = on.worth(first, _DEPTH), on.worth(second, _DEPTH)
        liquidity = min(amount0 * root >> 96, (amount1 << 96) // root)
        edge = MAX_TICK // spacing * spacing
        desk.modify(key, -edge, edge, liquidity)
    by.flush()
    venue = UniswapV4(desk.manager, desk.start_block, tokens.values(), executor, tokens["WETH"])
    venues[venue.name] = venue
    sources[venue.name] = UniswapV4Flash(venue, executor)


def _with_balancer(
    by: Deployer,
    on: Actors,
    tokens: Mapping[str, Address],
    executor: Address,
    venues: dict[str, Any],
    sources: dict[str, FlashSource],
) -> None:
    desk = build_balancer(by, tokens.values(), tokens["WETH"])
    for shares, fee, generation in BALANCER_POOLS:
        listed = [tokens[symbol] for symbol in shares]
        amounts = {tokens[symbol]: on.worth(symbol, _DEPTH * share // 50) for symbol, share in shares.items()}
        weights = [share * 10**16 for share in shares.values()]
        desk.create(desk.factories[generation], listed, weights, fee, amounts)
    venue = BalancerV2(desk.vault, desk.factories, desk.start_block, tokens.values(), executor)
    venues[venue.name] = venue
    sources[venue.name] = BalancerV2Flash(venue, executor)
