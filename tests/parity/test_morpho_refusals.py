"""Morpho markets that must not be touched, each with its own reason, and the others that must not suffer for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.assembly import Assembly, assemble
from keeper.devchain.actors import account
from keeper.devchain.artifacts import own_contracts
from keeper.devchain.morpho import MorphoMarket, market_of
from keeper.devchain.morpho_users import MorphoUsers
from keeper.devchain.serve import OPERATOR
from keeper.execution.executor import Settlement, encode_execute
from keeper.model import FeeQuote, SkipReason, address, handle
from keeper.program import Program
from keeper.protocols.morpho_blue import MorphoBlueBook, MorphoBlueFlash
from keeper.protocols.morpho_blue.flash import GAS
from keeper.strategy.opportunity import Opportunity
from tests.parity.test_morpho_mined import configured, deploy
from tests.support.fork import Fork
from tests.support.morpho_random import Crowd
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

FEES = FeeQuote(2 * 10**9, 10**8)
HUNGRY = 30


class Desk:
    """The keeper's own parts on a fork, and somebody's positions in two markets."""

    def __init__(self, fork: Fork, parts: Assembly) -> None:
        self.fork, self.parts = fork, parts
        self.users = MorphoUsers(fork.actors, fork.world.morpho)
        self.book = next(book for book in parts.books if isinstance(book, MorphoBlueBook))

    def market(self, name: str) -> MorphoMarket:
        return self.fork.world.morpho.markets[name]

    async def look(self, user: str, market: MorphoMarket) -> Opportunity | None:
        """The opportunity a pass would see; None when the position is not looked into."""
        head = await self.parts.client.head()
        synced = await self.parts.follower.advance(head)
        assert not synced.behind
        timestamp = head.timestamp + 12
        name = handle(account(user), market.id[:10])
        if name not in self.book.screen(timestamp):
            return None
        position = self.book.position(name, timestamp)
        if position is None:
            return None
        quoter = self.parts.quoter(FeeQuote(head.next_base_fee(), 10**8), frozenset())
        consider = self.parts.appraiser.consider
        return consider(self.book, position, quoter, FEES, now=head.timestamp, in_flight=lambda _: False)


@pytest.fixture
async def desk(fork: Fork, tmp_path: Path) -> AsyncIterator[Desk]:
    async with assemble(configured(fork, tmp_path, deploy(fork)), live=False) as parts:
        await parts.start()
        yield Desk(fork, parts)


async def test_a_frozen_oracle_is_refused_by_name(desk: Desk) -> None:
    """An oracle that stands below the pools makes a healthy loan look like profit: `oracle_gap` says no, only there."""
    frozen, sound = desk.market("WETH/USDC"), desk.market("WBTC/USDC")
    desk.users.open_position(account("frozen"), frozen, 10 * 10**18, 24_000 * 10**6)
    desk.users.open_position(account("sound"), sound, 10**8, 77_000 * 10**6)
    assert await desk.look("frozen", frozen) is None
    desk.users.fix_price(frozen, desk.users.price(frozen) * 90 // 100)
    prices = {symbol: desk.fork.actors.price(symbol) for symbol in desk.fork.world.feeds}
    prices["WBTC"] = prices["WBTC"] * 98 // 100
    desk.fork.actors.set_price("WBTC", prices["WBTC"])
    desk.fork.actors.align(prices)

    seen = await desk.look("frozen", frozen)
    assert seen is not None
    assert seen.choice.plan is not None
    assert seen.choice.plan.net > 10**17, "without the gate it would have been taken"
    closed = {gate.name for gate in seen.gates if not gate.open}
    assert "oracle_gap" in closed
    assert seen.skip is not None
    assert seen.skip.reason is SkipReason.ORACLE_GAP
    assert seen.skip.numbers["gap_bps_debt"] > 1_000

    other = await desk.look("sound", sound)
    assert other is not None
    assert other.skip is None, other.skip

    # Frozen above the pools it liquidates nobody, however far they fall: what the contract refuses is not looked into.
    desk.users.fix_price(frozen, desk.users.price(frozen) * 100 // 90)
    desk.fork.actors.align(prices | {"WETH": prices["WETH"] * 70 // 100})
    assert await desk.look("frozen", frozen) is None


async def test_a_broken_oracle_bars_its_market_alone(desk: Desk) -> None:
    """A market whose oracle reverts is unknown and says so; its neighbours go on, and it comes back with its oracle."""
    broken, sound = desk.market("WETH/USDC"), desk.market("WBTC/USDC")
    desk.users.open_position(account("broken"), broken, 10 * 10**18, 25_500 * 10**6)
    desk.users.open_position(account("sound"), sound, 10**8, 77_000 * 10**6)
    desk.users.fix_price(broken, 0)
    prices = {symbol: desk.fork.actors.price(symbol) for symbol in desk.fork.world.feeds}
    prices |= {"WBTC": prices["WBTC"] * 98 // 100, "WETH": prices["WETH"] * 98 // 100}
    for symbol in ("WBTC", "WETH"):
        desk.fork.actors.set_price(symbol, prices[symbol])
    desk.fork.actors.align(prices)
    assert await desk.look("broken", broken) is None
    assert desk.book.status.trusted
    timestamp = desk.fork.actors.now + 12
    assert desk.book.account(handle(account("broken"), broken.id[:10]), timestamp) is None
    assert list(desk.book.unknown_markets().values()) == ["its oracle has no price"]
    other = await desk.look("sound", sound)
    assert other is not None
    assert other.skip is None, other.skip
    desk.users.follow_feeds(broken)
    mended = await desk.look("broken", broken)
    assert mended is not None
    assert mended.skip is None, mended.skip
    assert not desk.book.unknown_markets()


async def test_dust_and_collateral_without_a_route(desk: Desk) -> None:
    """What does not pay for its gas, and what nobody buys, are skipped under those names."""
    market = desk.market("WETH/USDC")
    desk.users.open_position(account("dust"), market, 10**15, 2_570_000)
    crowd = Crowd(desk.fork.actors, desk.fork.world.morpho, 1, 1)
    token = crowd.deploy(own_contracts()["Token"].creation({}, "Nobody's", "NOB", 18))
    feeds = desk.fork.world.feeds
    oracle = crowd.deploy(
        own_contracts()["MorphoOracle"].creation(
            {}, *(feeds[symbol].proxy for symbol in ("WETH", "USDC")), 18, 6, crowd.morpho.owner
        )
    )
    lonely = _market_on(desk, token, oracle)
    desk.users.create(lonely)
    desk.users.supply(account("lender"), lonely, 100_000 * 10**6)
    user, morpho = account("lonely"), crowd.morpho.address
    desk.fork.actors.send(crowd.morpho.owner, token, "mint(address,uint256)", user, 10**19)
    desk.fork.actors.send(user, token, "approve(address,uint256)", morpho, 10**19)
    signature = "supplyCollateral((address,address,address,address,uint256),uint256,address,bytes)"
    desk.fork.actors.send(user, morpho, signature, lonely.params, 10**19, user, b"")
    desk.users.borrow(user, lonely, assets=25_700 * 10**6)
    prices = {symbol: desk.fork.actors.price(symbol) for symbol in feeds}
    prices["WETH"] = prices["WETH"] * 98 // 100
    desk.fork.actors.set_price("WETH", prices["WETH"])
    desk.fork.actors.align(prices)
    dust = await desk.look("dust", market)
    assert dust is not None
    assert dust.skip is not None
    assert dust.skip.reason is SkipReason.UNPROFITABLE
    stuck = await desk.look("lonely", lonely)
    assert stuck is not None
    assert stuck.skip is not None
    assert stuck.skip.reason is SkipReason.NO_ROUTE


async def test_a_crowd_of_hungry_oracles_starves_nobody(desk: Desk) -> None:
    """Anybody may make markets whose oracles eat all gas: they are unknown, and all other prices still come."""
    crowd = Crowd(desk.fork.actors, desk.fork.world.morpho, 1, 1)
    world, rpc, sound, user = desk.fork.world, desk.fork.rpc, desk.market("WETH/USDC"), account("sound")
    names = ("HungryOracle", "GreedyOracle")
    made = [crowd.deploy(compiled_contracts()[name].creation({})) for name in names]
    hungry, greedy, honest = (rpc.request("eth_getCode", oracle, "latest") for oracle in (*made, sound.oracle))
    tokens = {symbol: token.address for symbol, token in world.tokens.items()}
    lender, thief = account("hungry lender"), account("hungry borrower")
    # Borrowing needs a price: the oracles are honest until the loans are made.
    oracles = [account(f"oracle {number}") for number in range(HUNGRY)]
    markets = [market_of("WETH", "USDC", tokens, oracle, sound.irm, sound.lltv) for oracle in oracles]
    for oracle in oracles:
        rpc.request("anvil_setCode", oracle, honest)
    desk.users.supply(lender, sound, 1)
    desk.users.pledge(thief, sound, 10**18)
    for start in range(0, HUNGRY, 10):
        with desk.fork.actors.block():
            for market in markets[start : start + 10]:
                desk.users.create(market)
                desk.users.supply(lender, market, 10**6)
                desk.users.pledge(thief, market, 10**16)
                desk.users.borrow(thief, market, assets=10**6)
    for number, oracle in enumerate(oracles):
        rpc.request("anvil_setCode", oracle, greedy if number % 10 == 9 else hungry)
    desk.users.open_position(user, sound, 10 * 10**18, 25_500 * 10**6)
    prices = {symbol: desk.fork.actors.price(symbol) for symbol in world.feeds}
    prices["WETH"] = prices["WETH"] * 98 // 100
    desk.fork.actors.set_price("WETH", prices["WETH"])
    desk.fork.actors.align(prices)
    seen = await desk.look("sound", sound)
    assert seen is not None
    assert seen.skip is None, seen.skip
    assert len(desk.book.unknown_markets()) == HUNGRY


def _market_on(desk: Desk, token: str, oracle: str) -> MorphoMarket:
    usdc = desk.fork.world.tokens["USDC"].address
    tokens = {"NOB": address(token), "USDC": usdc}
    found = market_of("NOB", "USDC", tokens, address(oracle), desk.fork.world.morpho.irm, 86 * 10**16)
    return replace(found, collateral="WETH")


async def test_the_free_flash_loan(desk: Desk) -> None:
    """What is offered is what Morpho holds, it costs nothing, takes about its gas, and not one unit more is offered."""
    flash = next(source for source in desk.parts.sources.values() if isinstance(source, MorphoBlueFlash))
    executor, rpc, morpho = desk.parts.executor, desk.fork.rpc, desk.fork.world.morpho.address
    await desk.look("nobody", desk.market("WETH/USDC"))
    for symbol, token in desk.fork.world.tokens.items():
        held = rpc.view(token.address, "balanceOf(address)", morpho)
        assert desk.book.held(token.address) == held, symbol
        assert flash.offers(token.address, held + 1) == ()
        if not held:
            continue
        (offer,) = flash.offers(token.address, held)
        assert (offer.amount, offer.premium) == (held, 0)
        program = Program((), flash.borrow(offer, ()), desk.fork.world.tokens["WETH"].address)
        weth = desk.fork.world.tokens["WETH"].address
        with desk.fork.actors.block(12, strict=False) as receipts:
            data = encode_execute(program, Settlement(bytes(32), 0, weth, 2**40))
            desk.fork.actors.submit(OPERATOR, executor, data)
        assert receipts[-1]["status"] == "0x1", symbol
        assert rpc.view(token.address, "allowance(address,address)", executor, morpho) == 0
        assert abs(int(receipts[-1]["gasUsed"], 16) - 21_000 - 16 * 700 - offer.gas) < 40_000, symbol
        assert offer.gas == GAS
    assert flash.offers(account("no token"), 1) == ()
