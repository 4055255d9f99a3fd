"""The Morpho book against the contract's own positions, markets and accruals, on its published bytecode."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.client import NodeClient
from keeper.devchain.actors import Actors
from keeper.devchain.world import Built
from keeper.model import WAD
from keeper.protocols.morpho_blue.irm import Kind
from tests.support.fork import Fork
from tests.support.morpho_driver import MorphoDriver
from tests.support.morpho_random import Crowd

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20271"))


@pytest.fixture
def chain(built: Built) -> Iterator[Fork]:
    """The built world on a chain of its own: on a forking anvil 1.7.1, anvil_reorg leaves storage slots behind."""
    with built.start(impersonate=True) as anvil:
        yield Fork(anvil.rpc, anvil.http, anvil.ws, built.world, Actors(anvil.rpc, built.world))


@pytest.fixture
async def client(chain: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([chain.http]) as connected:
        yield connected


class Examination:
    """A crowd's life, and every comparison with the chain."""

    def __init__(self, chain: Fork, following: MorphoDriver, crowd: Crowd) -> None:
        self.chain, self.following, self.crowd = chain, following, crowd
        self.compared = self.predicted = 0

    def check(self) -> None:
        """Positions, totals and authorisations are the contract's; the screen passes everybody it must."""
        following, crowd, book = self.following, self.crowd, self.following.book
        assert book.status.trusted, book.status
        assert following.market_differences() == []
        assert following.differences(crowd.everybody) == []
        self.compared += len(crowd.everybody) * len(crowd.markets)
        asked = [(user, agent) for user in crowd.users for agent in crowd.agents]
        calls = [(crowd.morpho.address, "isAuthorized(address,address)", pair, ("bool",)) for pair in asked]
        for pair, answer in zip(asked, self.chain.rpc.views(calls), strict=True):
            assert answer is not None
            assert answer[0] == book._ledger.is_allowed(*pair), pair
        for later in (0, 12, 86_400, 400 * 86_400):
            timestamp = following.heads[-1].timestamp + later
            weak = {a.handle for a in book.accounts(timestamp) if a.health_factor < WAD}
            assert weak <= set(book.screen(timestamp)), f"the screen let a liquidatable position slip {later} s later"

    async def accrue(self) -> None:
        """What every market is expected to be at the next block's time is what it is once everybody accrues there."""
        following, crowd, actors = self.following, self.crowd, self.chain.actors
        timestamp = actors.now + crowd.random.choice((1, 12, 3_600, 40 * 86_400))
        expected = {market.id: following.book.expected(market.id, timestamp) for market in crowd.markets}
        with actors.block(timestamp - actors.now):
            for market in crowd.markets:
                crowd.hands.accrue(crowd.users[0], market)
        await following.follow()
        for market in crowd.markets:
            state = expected[market.id]
            assert state is not None
            stored = following.stored(market.id)
            assert stored.words[:4] == state.words[:4], f"{market.collateral}/{market.loan}"
            self.predicted += 1


async def run(chain: Fork, client: NodeClient, *, users: int, operations: int, every: int) -> None:
    """Random life with checks `every` so many operations, reorganisations and restarts among them."""
    print(f"KEEPER_SEED={SEED}")
    following = MorphoDriver(client, chain.rpc, chain.world.morpho, chain.world.tokens["WETH"].address)
    crowd = Crowd(chain.actors, chain.world.morpho, users, SEED)
    await following.start()
    crowd.hands.set_fee_recipient(crowd.recipients[0])
    crowd.strangers()
    await following.follow()
    examination = Examination(chain, following, crowd)
    crowd.settle()
    by_place = {following.book._registry.params[n].place: n for n in following.book._registry.params}
    for number in range(operations // every):
        if number % 2:
            crowd.lever(6)
            crowd.shake(0.3)
            await following.follow()
        now = following.heads[-1].timestamp
        crowd.weak = [
            (a.borrower, crowd.markets[by_place[a.place]])
            for a in following.book.accounts(now)
            if a.health_factor < WAD
        ]
        crowd.step(every)
        await following.follow()
        examination.check()
        await examination.accrue()
        assert await following.book.audit(client, following.heads[-1], 10) is None
        if number % 4 == 2:  # what the last blocks did is taken back
            before = [(r.number, r.hash) for r in following.heads[-3:]]
            chain.rpc.request("anvil_reorg", 2 + number % 3, [])
            await following.follow()
            assert (following.heads[-1].number, following.heads[-1].hash) not in before
            examination.check()
        if number % 5 == 3:  # another process takes over, some blocks later
            stored = following.book.snapshot()
            crowd.step(5)
            book = following.fresh()
            book.restore(stored)
            await following.start(book)
            examination.check()
    kinds = {following.book._registry.kind(n) for n in following.book._registry.params}
    print(
        f"{sum(crowd.tried.values())} operations ({dict(crowd.done)} of {dict(crowd.tried)} took effect) by {users} "
        f"users in {len(crowd.markets)} markets, {chain.rpc.number()} blocks; {examination.compared} positions and "
        f"{examination.predicted} accruals compared"
    )
    assert kinds == {Kind.NONE, Kind.ADAPTIVE, Kind.ASKED}
    assert all(crowd.done[name] for name in crowd.tried), "some kind of operation never took effect"


async def test_positions_and_markets_equal_the_contracts(chain: Fork, client: NodeClient) -> None:
    """Positions, totals and accrued interest equal the contract's to the wei through a random life, reorganisations and
    restarts, whatever the rate model."""
    await run(chain, client, users=30, operations=300, every=50)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_positions_and_markets_equal_the_contracts_for_long(chain: Fork, client: NodeClient) -> None:
    """The same with 250 users and 3,000 operations."""
    await run(chain, client, users=250, operations=3_000, every=60)
