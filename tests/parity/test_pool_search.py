"""A token comes to matter while the keeper runs: its pools are found on the real factories, and nothing waits."""

from __future__ import annotations

import pytest

from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.devchain.actors import Actors
from keeper.devchain.world import Built
from keeper.kinds import TradingVenue
from keeper.model import Address
from keeper.search import PoolSearch
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.venue import UniswapV3

pytestmark = pytest.mark.parity


class Alerts:
    """Nothing is to be told here."""

    def alert(self, key: str, text: str, *, severe: bool = False) -> None:
        raise AssertionError(f"{key}: {text}")


async def test_a_new_token_is_traded_in_without_a_pause(built: Built) -> None:
    """Every pass finds the old pools at its head; with the search done, the new ones quote what a fresh load does."""
    with built.start(impersonate=True) as anvil:
        world = built.world
        actors = Actors(anvil.rpc, world)
        tokens = {symbol: token.address for symbol, token in world.tokens.items()}
        few, every = [tokens["WETH"], tokens["USDC"]], list(tokens.values())
        pools = world.uniswap

        def venues(known: list[Address]) -> list[TradingVenue]:
            return [
                UniswapV2(pools.v2_factory, pools.v2_start_block, known),
                UniswapV3(pools.v3_factory, pools.v3_start_block, known),
            ]

        mine = venues(few)
        async with NodeClient.connect([anvil.ws], chain_id=world.chain_id) as client:
            follower = Follower(client, mine, None, Alerts())
            search = PoolSearch(client, mine, follower.distrust)
            await follower.start(await client.head())
            await follower.rebuilt()
            before = {pool.address for venue in mine for pool in venue.pools()}
            assert before
            search.start()
            assert not await search.finished()  # nothing is missing
            for venue in mine:
                venue.follow(every)
            search.start()
            search.start()  # one at a time
            for _ in range(3):
                actors.mine()
                step = await follower.advance(await client.head())
                assert not step.behind
                assert before <= {pool.address for venue in mine for pool in venue.pools()}
            await search.finished()
            actors.mine()
            head = (await follower.advance(await client.head())).head
            found = {pool.address for venue in mine for pool in venue.pools()}
            assert found > before
            fresh = venues(every)
            for venue in fresh:
                await venue.load(client, head)
            assert found == {pool.address for venue in fresh for pool in venue.pools()}
            ours, theirs = (Router(known, [tokens["WETH"]]) for known in (mine, fresh))
            for symbol in ("DAI", "USDT", "WBTC"):
                amount = actors.worth(symbol, 5_000)
                assert ours.sell(tokens[symbol], tokens["USDC"], amount) is not None
                assert ours.sell(tokens[symbol], tokens["USDC"], amount) == theirs.sell(
                    tokens[symbol], tokens["USDC"], amount
                )
            await search.close()
            await follower.close()
