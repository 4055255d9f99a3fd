"""The book against the model's own views: principals, balances, indices, reserves and who is liquidatable."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.client import NodeClient
from keeper.devchain.actors import Actors, account
from keeper.devchain.comet import USDC_MARKET, WETH_MARKET, CometSpec, deploy_comet
from keeper.devchain.world import Built
from keeper.model import WAD
from tests.support.comet_driver import MODEL, CometDriver
from tests.support.comet_random import CometCrowd
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20262"))
MARKETS = {"usdc": USDC_MARKET, "weth": WETH_MARKET}
EXECUTOR = account("executor")


@pytest.fixture
def chain(built: Built) -> Iterator[Fork]:
    """The built world on a chain of its own: on a forking anvil 1.7.1, anvil_reorg leaves storage slots behind."""
    with built.start(impersonate=True) as anvil:
        yield Fork(anvil.rpc, anvil.http, anvil.ws, built.world, Actors(anvil.rpc, built.world))


@pytest.fixture
async def client(chain: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([chain.http]) as connected:
        yield connected


def driver(chain: Fork, client: NodeClient, spec: CometSpec) -> CometDriver:
    """A fresh market and a book of it."""
    market = deploy_comet(chain.actors, MODEL, spec=spec)
    return CometDriver(client, chain.rpc, market, chain.world.tokens["WETH"].address, EXECUTOR)


async def run(chain: Fork, client: NodeClient, which: str, *, users: int, operations: int, every: int) -> None:
    """Random life with checks `every` so many operations; upgrades, reorganisations and restarts among them."""
    print(f"KEEPER_SEED={SEED}")
    following = driver(chain, client, MARKETS[which])
    crowd = CometCrowd(chain.actors, following.market, users, SEED)
    await following.start()
    crowd.settle()
    checked = absorbable = 0
    for number in range(operations // every):
        if number % 2:
            crowd.lever(12)
            crowd.shake(0.3)
        if number % 5 == 4:
            crowd.govern()
        await following.follow()
        now = following.heads[-1].timestamp
        crowd.weak = [a.borrower for a in following.book.accounts(now) if a.health_factor < WAD]
        absorbable += len(crowd.weak)
        assert set(crowd.weak) <= set(following.book.screen(now)), "the screen let a liquidatable account slip"
        if number % 2:
            crowd.reopen()
            await following.follow()
        for _ in crowd.blocks(every):
            if crowd.random.random() < 0.8:  # otherwise the book is given several blocks at once
                await following.follow()
        await following.follow()
        assert following.book.status.trusted, following.book.status
        assert following.differences(crowd.everybody) == []
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
        f"{checked} accounts compared over {users} users, {absorbable} found liquidatable, {chain.rpc.number()} blocks"
    )
    assert all(crowd.done[name] for name in crowd.tried), "some kind of operation never took effect"
    assert absorbable


@pytest.mark.parametrize("which", MARKETS)
async def test_accounts_equal_the_contracts(chain: Fork, client: NodeClient, which: str) -> None:
    """Principals, debts, supplies, collateral, reserves and verdicts through a random life, to the wei."""
    await run(chain, client, which, users=40, operations=300, every=60)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", MARKETS)
async def test_accounts_equal_the_contracts_for_long(chain: Fork, client: NodeClient, which: str) -> None:
    """The same with 250 users and 2,500 operations."""
    await run(chain, client, which, users=250, operations=2_500, every=50)
