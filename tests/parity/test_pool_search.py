"""A token comes to matter while the keeper runs: its pools are found on the real factories, and nothing waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper.assembly import assemble
from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.config import load
from keeper.devchain.actors import Actors
from keeper.devchain.serve import OPERATOR_KEY, config_text
from keeper.devchain.world import Built
from keeper.kinds import TradingVenue
from keeper.model import Address, FeeQuote
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


async def test_the_keeper_looks_for_the_pools_of_a_token_that_a_market_lists(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is put together: two tokens at the start, all of them later; routes for the others are there soon after."""
    with built.start(impersonate=True) as anvil:
        world, actors = built.world, Actors(anvil.rpc, built.world)
        (tmp_path / "operator.key").write_text(OPERATOR_KEY)
        (tmp_path / "keeper.toml").write_text(config_text(world, anvil.ws, tmp_path, 12, 0, None))
        config = load(tmp_path / "keeper.toml", {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"})
        tokens = {symbol: token.address for symbol, token in world.tokens.items()}
        fees = FeeQuote(10**9, 10**8)
        async with assemble(config, live=False) as parts:
            with monkeypatch.context() as at_first:
                for book in parts.books:
                    at_first.setattr(book, "tokens", tuple)
                await parts.start()
            few = {pool.address for venue in parts.venues for pool in venue.pools()}
            missing = set(tokens.values()) - {config.tokens.wrapped_native, *config.tokens.connectors}
            assert missing
            quoter = parts.quoter(fees, frozenset())
            assert all(quoter.spot(token, config.tokens.wrapped_native) is None for token in missing)
            assert await parts.search.finished()
            actors.mine()
            step = await parts.follower.advance(await parts.client.head())
            assert not step.behind
            quoter = parts.quoter(fees, frozenset())
            assert few < {pool.address for venue in parts.venues for pool in venue.pools()}
            assert any(quoter.spot(token, config.tokens.wrapped_native) is not None for token in missing)
