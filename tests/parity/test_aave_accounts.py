"""The book against the pool's own account data, on both revisions' bytecode."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.client import NodeClient
from keeper.devchain.actors import Actors, account
from keeper.devchain.world import Built
from keeper.model import WAD
from tests.support.aave_driver import Driver
from tests.support.aave_random import Crowd
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20260"))
MARKETS = ["main", "second"]


@pytest.fixture
def chain(built: Built) -> Iterator[Fork]:
    """The built world on a chain of its own: on a forking anvil 1.7.1, anvil_reorg leaves storage slots behind."""
    with built.start(impersonate=True) as anvil:
        yield Fork(anvil.rpc, anvil.http, anvil.ws, built.world, Actors(anvil.rpc, built.world))


@pytest.fixture
async def client(chain: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([chain.http]) as connected:
        yield connected


def driver(chain: Fork, client: NodeClient, which: str) -> Driver:
    """A book of one of the two markets."""
    return Driver(client, chain.rpc, getattr(chain.world, which), chain.world.tokens["WETH"].address)


async def run(chain: Fork, client: NodeClient, which: str, *, users: int, operations: int, every: int) -> None:
    """Random life with checks `every` so many operations, a reorganisation and a restart among them."""
    print(f"KEEPER_SEED={SEED}")
    following = driver(chain, client, which)
    crowd = Crowd(chain.actors, following.market, users, SEED)
    await following.start()
    crowd.settle()
    rounds = operations // every
    checked = 0
    for number in range(rounds):
        if number % 2:
            crowd.lever(6)
            crowd.shake(0.3)
            await following.follow()
        now = following.heads[-1].timestamp
        crowd.weak = [a.borrower for a in following.book.accounts(now) if a.health_factor < WAD]
        crowd.step(every)
        await following.follow()
        assert following.book.status.trusted, following.book.status
        assert following.differences(crowd.everybody) == []
        assert following.state_differences() == []
        checked += len(crowd.everybody)
        assert await following.book.audit(client, following.heads[-1], 5) is None
        if number % 4 == 2:  # what the last blocks did is taken back
            before = [(r.number, r.hash) for r in following.heads[-3:]]
            chain.rpc.request("anvil_reorg", 2 + number % 3, [])
            await following.follow()
            assert (following.heads[-1].number, following.heads[-1].hash) not in before
            assert following.differences(crowd.everybody) == []
            checked += len(crowd.everybody)
        if number % 5 == 3:  # another process takes over, some blocks later
            stored = following.book.snapshot()
            crowd.step(5)
            book = following.fresh()
            book.restore(stored)
            await following.start(book)
            assert following.differences(crowd.everybody) == []
            checked += len(crowd.everybody)
    print(
        f"{which}: {sum(crowd.tried.values())} operations ({dict(crowd.done)} of {dict(crowd.tried)} took effect), "
        f"{checked} accounts compared over {users} users, {chain.rpc.number()} blocks"
    )
    assert all(crowd.done[name] for name in crowd.tried), "some kind of operation never took effect"


@pytest.mark.parametrize("which", MARKETS)
async def test_accounts_equal_the_pools(chain: Fork, client: NodeClient, which: str) -> None:
    """Health factor, collateral and debt equal getUserAccountData to the wei through a random life, reorganisations
    and restarts."""
    await run(chain, client, which, users=60, operations=600, every=60)


@pytest.mark.parametrize("which", MARKETS)
async def test_indices_rolled_without_an_event(chain: Fork, client: NodeClient, which: str) -> None:
    """Liquidations paid in aTokens move the collateral's indices on 3.6 (not on 3.0.2), and no event says so."""
    following = driver(chain, client, which)
    market, actors = following.market, chain.actors
    borrower, liquidator = account("rolled borrower"), account("rolled liquidator")
    actors.open_position(market, borrower, {"WETH": 10 * 10**18}, {"USDC": 23_000 * 10**6})
    await following.start()
    actors.set_price("WETH", 2_400 * 10**8)
    actors.fund(liquidator, "USDC", 30_000 * 10**6)
    actors.approve(liquidator, market.pool, "USDC")
    actors.mine(60 * 86_400)
    await following.follow()
    before = following.book._follower.states[following.book.market.by_asset[chain.world.tokens["WETH"].address]]
    actors.liquidate(market, liquidator, borrower, "WETH", "USDC", 3_000 * 10**6, receive_a_token=True)
    await following.follow()
    assert following.state_differences() == []
    after = following.book._follower.states[following.book.market.by_asset[chain.world.tokens["WETH"].address]]
    assert (after.supply_index > before.supply_index) is (market.revision >= 9)
    assert following.differences([borrower, liquidator, market.treasury]) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", MARKETS)
async def test_accounts_equal_the_pools_for_long(chain: Fork, client: NodeClient, which: str) -> None:
    """The same with 300 users and 3,000 operations."""
    await run(chain, client, which, users=300, operations=3_000, every=60)
