"""What moves pools: swaps, liquidity, and the arbitrage that brings them back to the feeds' prices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from keeper.devchain.calls import calldata, returned
from keeper.devchain.catalogue import POOLS, SPECS
from keeper.devchain.hand import Hand
from keeper.devchain.uniswap import Pool, positions, sqrt_price
from keeper.model import MAX_UINT256

MIN_SQRT = 4_295_128_739
MAX_SQRT = 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_342
_EVERYTHING = MAX_UINT256 >> 1


class Traders(Hand):
    """Pool operations, all through the chain's own market maker, whose pockets are deep."""

    def pool(self, kind: str, a: str, b: str, fee: int = 3_000) -> Pool:
        """The pool of two symbols, in either order; raises KeyError when there is none."""
        for pool in self.world.uniswap.pools:
            if pool.kind == kind and {pool.token0, pool.token1} == {a, b} and pool.fee == fee:
                return pool
        raise KeyError((kind, a, b, fee))

    def swap(self, pool: Pool, *, zero_for_one: bool, amount: int, limit: int | None = None) -> str:
        """Sell `amount` of the input token; a negative amount buys that much output (V3 only). `limit`: √price X96."""
        if pool.kind == "v3":
            bound = limit if limit is not None else MIN_SQRT + 1 if zero_for_one else MAX_SQRT - 1
            signature = "v3Swap(address,bool,int256,uint160)"
            return self._desk(signature, pool.address, zero_for_one, amount, bound, gas=16_000_000)
        return self._desk(
            "v2Swap(address,bool,uint256,uint256)",
            pool.address,
            zero_for_one,
            amount,
            self._v2_out(pool, zero_for_one=zero_for_one, amount=amount),
        )

    def add_liquidity(self, pool: Pool, lower: int, upper: int, liquidity: int) -> str:
        """Mint a V3 position of the desk."""
        return self._desk("v3Mint(address,int24,int24,uint128)", pool.address, lower, upper, liquidity)

    def remove_liquidity(self, pool: Pool, lower: int, upper: int, liquidity: int) -> str:
        """Burn part of a V3 position of the desk and collect it."""
        return self._desk("v3Burn(address,int24,int24,uint128)", pool.address, lower, upper, liquidity)

    def seeded_positions(self, pool: Pool) -> list[tuple[int, int, int]]:
        """(lower, upper, liquidity) of the positions the chain was built with."""
        number = self.world.uniswap.pools.index(pool)
        return positions(POOLS[number], pool.token0, pool.token1, number)

    def v2_mint(self, pool: Pool, amount0: int, amount1: int) -> str:
        """Add to a pair."""
        return self._desk("v2Mint(address,uint256,uint256)", pool.address, amount0, amount1)

    def v2_burn(self, pool: Pool, shares: int) -> str:
        """Withdraw from a pair."""
        return self._desk("v2Burn(address,uint256)", pool.address, shares)

    def move(self, pool: Pool, prices: Mapping[str, int]) -> None:
        """Trade until the pool shows `prices` (USD with 8 decimals): V3 exactly, V2 within its fee."""
        if pool.kind == "v3":
            target = sqrt_price(pool.token0, pool.token1, prices)
            present = returned(("uint160",), self.rpc.call(pool.address, calldata("slot0()"))[:32])[0]
            if present != target:
                self.swap(pool, zero_for_one=target < present, amount=_EVERYTHING, limit=target)
            return
        reserve0, reserve1 = self.reserves(pool)
        unit0 = prices[pool.token0] * 10 ** SPECS[pool.token1].decimals
        unit1 = prices[pool.token1] * 10 ** SPECS[pool.token0].decimals
        wanted0 = math.isqrt(reserve0 * reserve1 * unit1 // unit0)
        wanted1 = math.isqrt(reserve0 * reserve1 * unit0 // unit1)
        if wanted0 > reserve0 * 10_005 // 10_000:
            self.swap(pool, zero_for_one=True, amount=wanted0 - reserve0)
        elif wanted1 > reserve1 * 10_005 // 10_000:
            self.swap(pool, zero_for_one=False, amount=wanted1 - reserve1)

    def align(self, prices: Mapping[str, int], pools: Iterable[Pool] | None = None) -> None:
        """Move every pool (or the given ones) to `prices`, in one block."""
        with self.block():
            for pool in self.world.uniswap.pools if pools is None else pools:
                self.move(pool, prices)

    def reserves(self, pool: Pool) -> tuple[int, int]:
        """Reserves of a pair."""
        reserve0, reserve1, _ = self.rpc.view(pool.address, "getReserves()", returns="uint112,uint112,uint32")
        return reserve0, reserve1

    def _v2_out(self, pool: Pool, *, zero_for_one: bool, amount: int) -> int:
        """UniswapV2Library.getAmountOut."""
        reserve0, reserve1 = self.reserves(pool)
        before, after = (reserve0, reserve1) if zero_for_one else (reserve1, reserve0)
        return amount * 997 * after // (before * 1_000 + amount * 997)

    def _desk(self, signature: str, *args: object, gas: int = 4_000_000) -> str:
        return self.send(self.world.deployer, self.world.desk, signature, *args, gas=gas)
