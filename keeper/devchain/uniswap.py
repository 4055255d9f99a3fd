"""Uniswap V2 and V3 from the published bytecode, with liquidity placed around the feeds' prices."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from keeper.devchain.artifacts import uniswap_v2, uniswap_v3
from keeper.devchain.catalogue import POOLS, SPECS, PoolSpec
from keeper.devchain.deploy import Deployer
from keeper.model import ZERO_ADDRESS, Address, address

SPACING = {100: 1, 500: 10, 3_000: 60, 10_000: 200}
MAX_TICK = 887_272
_Q96 = 2**96


@dataclass(frozen=True, slots=True)
class Pool:
    """A deployed pool; `token0` and `token1` are symbols in the pool's own order, `fee` is in hundredths of a bp."""

    kind: Literal["v2", "v3"]
    address: Address
    token0: str
    token1: str
    fee: int
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Uniswap:
    """Both exchanges. The start blocks are those of the factories."""

    v2_factory: Address
    v2_start_block: int
    v3_factory: Address
    v3_start_block: int
    swap_router: Address
    quoter: Address
    tick_lens: Address
    pools: tuple[Pool, ...]


def build_uniswap(on: Deployer, tokens: Mapping[str, Address], desk: Address) -> Uniswap:
    """Deploy the factories and every pool of the catalogue; raises BuildFailed when a step reverts."""
    start = on.rpc.number() + 1
    v2 = on.deploy(uniswap_v2("UniswapV2Factory"), on.sender)
    v3 = on.deploy(uniswap_v3("UniswapV3Factory"))
    on.send(v3, "enableFeeAmount(uint24,int24)", 100, 1)
    router = on.deploy(uniswap_v3("SwapRouter", "v3-periphery"), v3, tokens["WETH"])
    quoter = on.deploy(uniswap_v3("lens/QuoterV2", "v3-periphery"), v3, tokens["WETH"])
    lens = on.deploy(uniswap_v3("lens/TickLens", "v3-periphery"))
    ordered = [_ordered(spec, tokens) for spec in POOLS]
    for spec, (a, b) in zip(POOLS, ordered, strict=True):
        if spec.kind == "v2":
            on.send(v2, "createPair(address,address)", tokens[a], tokens[b], gas=6_000_000)
        else:
            on.send(v3, "createPool(address,address,uint24)", tokens[a], tokens[b], spec.fee, gas=8_000_000)
    on.flush()
    pools = []
    for number, (spec, (a, b)) in enumerate(zip(POOLS, ordered, strict=True)):
        if spec.kind == "v2":
            found = on.rpc.view(v2, "getPair(address,address)", tokens[a], tokens[b], returns="address")
            on.send(desk, "v2Mint(address,uint256,uint256)", found, dollars(a, spec.full), dollars(b, spec.full))
        else:
            signature = "getPool(address,address,uint24)"
            found = on.rpc.view(v3, signature, tokens[a], tokens[b], spec.fee, returns="address")
            on.send(found, "initialize(uint160)", sqrt_price(a, b))
            for lower, upper, liquidity in positions(spec, a, b, number):
                on.send(desk, "v3Mint(address,int24,int24,uint128)", found, lower, upper, liquidity)
        assert found != ZERO_ADDRESS
        pools.append(Pool(spec.kind, address(found), a, b, spec.fee, spec.full < 100_000))
    # A protocol share changes what the pool keeps, not what it pays: quotes must not notice it.
    on.send(pools[1].address, "setFeeProtocol(uint8,uint8)", 6, 6)
    on.flush()
    return Uniswap(v2, start, v3, start, router, quoter, lens, tuple(pools))


def dollars(symbol: str, usd: int, prices: Mapping[str, int] | None = None) -> int:
    """Base units of a token worth so many dollars, rounded down."""
    spec = SPECS[symbol]
    price = spec.price if prices is None else prices[symbol]
    return int(usd * 10**8 * 10**spec.decimals // price)


def sqrt_price(token0: str, token1: str, prices: Mapping[str, int] | None = None) -> int:
    """√(token1 per token0) as X96 at the feeds' prices, rounded down."""
    a, b = SPECS[token0], SPECS[token1]
    price0 = a.price if prices is None else prices[token0]
    price1 = b.price if prices is None else prices[token1]
    return math.isqrt((price0 * 10**b.decimals << 192) // (price1 * 10**a.decimals))


def positions(
    spec: PoolSpec, token0: str, token1: str, seed: int, prices: Mapping[str, int] | None = None
) -> list[tuple[int, int, int]]:
    """(lower tick, upper tick, liquidity): one over the whole range, then narrow ones drawn around the price."""
    rng = random.Random(seed)  # noqa: S311 - where liquidity is placed is no secret and must be repeatable
    spacing = SPACING[spec.fee]
    root = sqrt_price(token0, token1, prices)
    tick = math.floor(2 * math.log(root / _Q96) / math.log(1.0001))
    edge = MAX_TICK // spacing * spacing
    amounts = dollars(token0, spec.full, prices), dollars(token1, spec.full, prices)
    found = [(-edge, edge, min(amounts[0] * root // _Q96, amounts[1] * _Q96 // root))]
    if not spec.ranges:
        return found
    share = (
        dollars(token0, spec.narrow, prices) / spec.ranges,
        dollars(token1, spec.narrow, prices) / spec.ranges,
    )
    for _ in range(spec.ranges):
        width = spec.span * (0.05 + 0.95 * rng.random() ** 2)
        low, high = tick - width * rng.uniform(0.3, 1), tick + width * rng.uniform(0.3, 1)
        if rng.random() < 0.2:  # some stand wholly on one side, so that swaps run out of one step into the next
            shift = width * rng.choice((-1.2, 1.2))
            low, high = low + shift, high + shift
        lower = math.floor(low / spacing) * spacing
        upper = max(math.ceil(high / spacing) * spacing, lower + spacing)
        found.append((lower, upper, _liquidity(root / _Q96, lower, upper, share)))
    return found


def _liquidity(root: float, lower: int, upper: int, amounts: tuple[float, float]) -> int:
    """Liquidity of a position worth about `amounts`; floats do, the chain keeps the exact result."""
    low, high = 1.0001 ** (lower / 2), 1.0001 ** (upper / 2)
    if root <= low:
        return int(amounts[0] / (1 / low - 1 / high))
    if root >= high:
        return int(amounts[1] / (high - low))
    return int(min(amounts[0] / (1 / root - 1 / high), amounts[1] / (root - low)))


def _ordered(spec: PoolSpec, tokens: Mapping[str, Address]) -> tuple[str, str]:
    a, b = spec.tokens
    return (a, b) if tokens[a] < tokens[b] else (b, a)
