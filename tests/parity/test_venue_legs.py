"""Routes, loans and their gas, run by the executor on the built world's pools."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest

from keeper.devchain.actors import Actors
from keeper.model import Address, Hop, Path, Route
from keeper.program import Amount, Step, Transfer, balance, literal
from keeper.venues.pool import Pool
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import GAS_SWAP as V2_GAS
from keeper.venues.uniswap_v2 import UniswapV2, V2Pool
from keeper.venues.uniswap_v3.flash import GAS_FLASH, UniswapV3Flash
from keeper.venues.uniswap_v3.pool import GAS_SWAP as V3_GAS
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.venue import UniswapV3
from tests.support.bench import OPERATOR, Bench, make_bench
from tests.support.fork import Fork
from tests.support.venue_arena import NodeClient, head_of, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
ROUTED = ("WETH", "USDC", "USDT", "DAI", "WBTC", "wstETH", "LINK")


@dataclass
class Floor:
    """The built world with a funded executor and both venues loaded."""

    on: Actors
    bench: Bench
    venues: dict[str, UniswapV2 | UniswapV3]

    @property
    def v3(self) -> UniswapV3:
        venue = self.venues["uniswap_v3"]
        assert isinstance(venue, UniswapV3)
        return venue

    def token(self, symbol: str) -> Address:
        return self.on.world.tokens[symbol].address

    async def load(self, known: dict[str, bytes]) -> None:
        """Bring both venues to the head; every test's chain starts the same, so only the first reads everything."""
        client, head = NodeClient(self.bench.rpc), head_of(self.bench.rpc)
        for venue in self.venues.values():
            if venue.name in known:
                venue.restore(known[venue.name])
            else:
                await venue.load(client, head)
                known[venue.name] = venue.snapshot()
            venue.observe(head, await client.read(venue.reads(), head))

    def router(self, gas_price: int = 0) -> Router:
        native = self.token("WETH")
        return Router(self.venues.values(), [native, self.token("USDC")], native=native, gas_price=gas_price)

    def gas(self, *steps: Step) -> int:
        """Gas of a mined execution; the chain is put back."""
        snapshot = self.bench.rpc.request("evm_snapshot")
        receipt = self.bench.send(
            OPERATOR, self.bench.executor, self.bench.encode(steps, profit_token=self.bench["token"])
        )
        assert self.bench.rpc.request("evm_revert", snapshot)
        return int(receipt["gasUsed"], 16)

    def sell(self, route: Route) -> tuple[Step, ...]:
        steps: list[Step] = []
        for path in route.paths:
            for position, hop in enumerate(path.hops):
                amount = balance(hop.token_in, self.held(hop.token_in)) if position else literal(hop.amount_in)
                steps += self.venues[hop.venue].exact_in(hop, amount, self.bench.executor)
        return tuple(steps)

    def buy(self, path: Path) -> tuple[Step, ...]:
        def through(position: int, amount: Amount, recipient: Address) -> tuple[Step, ...]:
            hop = path.hops[position]

            def pay(owed: Amount) -> tuple[Step, ...]:
                if position == 0:
                    return (Transfer(hop.token_in, hop.pool, owed),)
                return through(position - 1, owed, hop.pool)

            return self.venues[hop.venue].exact_out(hop, amount, recipient, pay)

        return through(len(path.hops) - 1, literal(path.amount_out), self.bench.executor)

    def compare(self, pool: Pool) -> None:
        """Insist that a pool on chain is as said."""
        view = self.bench.rpc.view
        if isinstance(pool, V2Pool):
            returns = "uint112,uint112,uint32"
            assert view(pool.address, "getReserves()", returns=returns)[:2] == (pool.reserve0, pool.reserve1)
            return
        assert isinstance(pool, V3Pool)
        returns = "uint160,int24,uint16,uint16,uint16,uint8,bool"
        assert view(pool.address, "slot0()", returns=returns)[:2] == (pool.sqrt_price, pool.tick)
        assert view(pool.address, "liquidity()") == pool.liquidity

    def held(self, token: Address) -> int:
        return self.bench.balance(token, self.bench.executor)


@pytest.fixture(scope="module")
def known() -> dict[str, bytes]:
    return {}


@pytest.fixture
async def floor(fork: Fork, known: dict[str, bytes]) -> Floor:
    world = fork.world
    bench = make_bench(fork.rpc, world.tokens["WETH"].address)
    on = Actors(fork.rpc, world)
    with on.block():
        for symbol in ROUTED:
            on.fund(bench.executor, symbol, on.worth(symbol, 20_000_000))
    tokens = [world.tokens[symbol].address for symbol in ROUTED]
    v2 = UniswapV2(world.uniswap.v2_factory, world.uniswap.v2_start_block, tokens)
    v3 = UniswapV3(world.uniswap.v3_factory, world.uniswap.v3_start_block, tokens)
    made = Floor(on, bench, {v2.name: v2, v3.name: v3})
    await made.load(known)
    return made


async def test_routes_trade_what_they_say(floor: Floor) -> None:
    """Random sales and purchases, over one and two hops, split and not, move exactly the amounts of the route."""
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    router = floor.router()
    kinds: set[tuple[bool, int, bool]] = set()
    for _ in range(40):
        sold, bought = rng.sample(ROUTED, 2)
        token_in, token_out = floor.token(sold), floor.token(bought)
        exact_out = rng.random() < 0.5
        usd = int(10 ** rng.uniform(1, 6.5))
        amount = floor.on.worth(bought if exact_out else sold, usd)
        route = (router.buy if exact_out else router.sell)(token_in, token_out, amount)
        assert route is not None
        before = floor.held(token_in), floor.held(token_out)
        steps = tuple(s for path in route.paths for s in floor.buy(path)) if exact_out else floor.sell(route)
        snapshot = floor.bench.rpc.request("evm_snapshot")
        done = floor.bench.run(*steps, profit_token=token_out)
        assert done.gain == route.amount_out
        assert before[0] - floor.held(token_in) == route.amount_in
        assert floor.held(token_out) == before[1]
        after = router.after(route)
        for hop in (hop for path in route.paths for hop in path.hops):
            floor.compare(after.pool(hop.pool, hop.token_in, hop.token_out))
        assert floor.bench.rpc.request("evm_revert", snapshot)
        kinds |= {(exact_out, len(path.hops), len(route.paths) > 1) for path in route.paths}
    assert {kind[:2] for kind in kinds} == {(False, 1), (False, 2), (True, 1), (True, 2)}
    assert any(kind[2] for kind in kinds)


def single(floor: Floor, venue: str, sold: str, bought: str, usd: int, skip: int = 0) -> Route | None:
    """A sale through one pool of one venue; `skip` passes over the first ones."""
    token_in, token_out = floor.token(sold), floor.token(bought)
    found = [p for p in floor.venues[venue].pools() if {p.token0, p.token1} == {token_in, token_out}]
    if len(found) <= skip:
        return None
    pool = found[skip]
    amount = floor.on.worth(sold, usd)
    out = pool.quote_in(pool.token0 == token_in, amount)
    if not out:
        return None
    path = Path((Hop(venue, pool.address, token_in, token_out, amount, out),))
    return Route(token_in, token_out, (path,), pool.gas(pool.token0 == token_in, amount), False)


def test_gas_is_as_estimated(floor: Floor) -> None:
    """A further hop, a crossed tick and a loan cost what the planner is told: at most a fifth more, a third less."""
    base_route = single(floor, "uniswap_v3", "LINK", "WETH", 10)
    assert base_route is not None
    base_steps = floor.sell(base_route)
    base = floor.gas(*base_steps)
    hops: dict[str, list[int]] = {"uniswap_v2": [], "uniswap_v3": []}
    crossing: list[int] = []  # per cent of what is told
    for venue, costs in hops.items():
        for sold, bought in (("WETH", "USDC"), ("USDC", "WETH"), ("WBTC", "WETH"), ("USDT", "USDC"), ("USDC", "DAI")):
            small = single(floor, venue, sold, bought, 10)
            if small is None:
                continue
            cost = floor.gas(*base_steps, *floor.sell(small)) - base
            costs.append(cost)
            large = single(floor, venue, sold, bought, 15_000_000)
            if large is not None and large.gas > small.gas:
                more = floor.gas(*base_steps, *floor.sell(large)) - base - cost
                crossing.append(more * 100 // (large.gas - small.gas))
    flash = UniswapV3Flash(floor.v3, floor.bench.executor)
    loans: list[int] = []
    for symbol in ("WETH", "USDC", "USDT", "WBTC"):
        for offer in flash.offers(floor.token(symbol), floor.on.worth(symbol, 10_000)):
            if offer.lender not in base_route.pools:
                before = floor.held(offer.token)
                assert before > offer.premium
                loans.append(floor.gas(*flash.borrow(offer, base_steps)) - base)
    say(f"hops {hops}, crossing {crossing} %, loans {loans}")
    for measured, told in (
        (hops["uniswap_v2"], V2_GAS),
        (hops["uniswap_v3"], V3_GAS),
        (crossing, 100),
        (loans, GAS_FLASH),
    ):
        assert measured
        assert 0.7 * told < min(measured)
        assert max(measured) < 1.2 * told


def test_loans_cost_their_premium(floor: Floor) -> None:
    """Every offered loan is granted and costs its premium to the wei; nothing is offered beyond what the pool holds."""
    flash = UniswapV3Flash(floor.v3, floor.bench.executor, most=20)
    rng = random.Random(SEED)
    taken = 0
    for symbol in ROUTED:
        token = floor.token(symbol)
        amount = floor.on.worth(symbol, 1_000) + rng.randrange(10**5)
        offers = flash.offers(token, amount)
        assert [offer.premium for offer in offers] == sorted(offer.premium for offer in offers)
        for offer in offers:
            assert offer.locks == {offer.lender}
            before = floor.held(token)
            gift = floor.bench["token"]
            floor.bench.run(*flash.borrow(offer, (floor.bench.bring(gift, 1),)), profit_token=gift)
            assert before - floor.held(token) == offer.premium
            held = floor.v3.balance(offer.lender, token)
            assert offer.lender in {other.lender for other in flash.offers(token, held)}
            assert offer.lender not in {other.lender for other in flash.offers(token, held + 1)}
            taken += 1
    assert taken >= 12
