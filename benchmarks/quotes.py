"""Exact Uniswap V3 quotes, beside QuoterV2 on the same pools."""

from __future__ import annotations

import asyncio
from random import Random

from benchmarks.measure import Row, best
from keeper.chain.client import NodeClient
from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.devchain.world import World
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.venue import UniswapV3

QUOTE = "quoteExactInputSingle((address,address,uint256,uint24,uint160))"


async def _pools(anvil: Anvil, world: World) -> list[V3Pool]:
    tokens = [token.address for token in world.tokens.values()]
    venue = UniswapV3(world.uniswap.v3_factory, world.uniswap.v3_start_block, tokens)
    async with NodeClient.connect([anvil.ws], chain_id=world.chain_id) as client:
        await venue.load(client, await client.head())
    return venue.pools()


def run(anvil: Anvil, world: World) -> list[Row]:
    """Small and large trades in the pool with the most initialised ticks."""
    pool = max(asyncio.run(_pools(anvil, world)), key=lambda pool: len(pool.ticks.ticks))
    dice = Random(1)
    rows = []
    for label, share in (("small", 10**6), ("deep", 8)):
        depth = pool.depth(True)  # noqa: FBT003 - token0 for token1
        amounts = [max(1, int(depth / share) + dice.randrange(1_000)) for _ in range(200)]
        out = pool.quote_in(True, amounts[0])  # noqa: FBT003 - as above
        asked: list[tuple[str, list[object]]] = [
            (
                "eth_call",
                [
                    {
                        "to": world.uniswap.quoter,
                        "data": "0x" + calldata(QUOTE, (pool.token0, pool.token1, amount, pool.fee, 0)).hex(),
                    },
                    "latest",
                ],
            )
            for amount in amounts[:40]
        ]
        theirs = anvil.rpc.batch(asked[:1])[0]
        assert int(theirs[2:66], 16) == out, "the quote is not the pool's"

        def ours(amounts: list[int] = amounts) -> object:
            return [pool.quote_in(True, amount) for amount in amounts]  # noqa: FBT003 - as above

        def node(asked: list[tuple[str, list[object]]] = asked) -> object:
            return anvil.rpc.batch(asked)

        rows.append(
            Row(
                f"quote exact-in, {label}, {len(pool.ticks.ticks)} ticks",
                best(ours, units=len(amounts)),
                "QuoterV2 by eth_call, batched",
                best(node, units=len(asked)),
            )
        )
    return rows
