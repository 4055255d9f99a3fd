"""The staged crash does what its labels say, judged by the contracts alone."""

from __future__ import annotations

import pytest

from keeper.devchain.actors import Actors, Reverted, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.rpc import RpcError
from keeper.devchain.scenario import BORROWERS, CRASH, Borrower, Expected, crash, stage
from keeper.devchain.uniswap import Pool
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

LIQUIDATOR = account("naive liquidator")
FLOOR = 25 * 10**8  # USD: 0.01 ether


def _usd(symbol: str, amount: int) -> int:
    return int(amount * CRASH[symbol] // 10 ** SPECS[symbol].decimals)


def _out(actors: Actors, pool: Pool, sold: str, amount: int) -> int:
    """What one pool gives, asked of the chain (QuoterV2) or by the pair's formula; 0 when it cannot."""
    bought = pool.token1 if sold == pool.token0 else pool.token0
    if pool.kind == "v2":
        return actors._v2_out(pool, zero_for_one=sold == pool.token0, amount=amount)
    tokens = actors.world.tokens
    try:
        return int(
            actors.rpc.view(
                actors.world.uniswap.quoter,
                "quoteExactInputSingle((address,address,uint256,uint24,uint160))",
                (tokens[sold].address, tokens[bought].address, amount, pool.fee, 0),
                returns="uint256,uint160,uint32,uint256",
            )[0]
        )
    except RpcError:
        return 0


def _sell(actors: Actors, sold: str, bought: str, amount: int, *, hops: bool = True) -> int:
    """A crude seller: the best of single pools, of an even split over all, and of going through WETH or USDC."""
    if sold == bought:
        return amount
    pools = [p for p in actors.world.uniswap.pools if {p.token0, p.token1} == {sold, bought}]
    best = max((_out(actors, pool, sold, amount) for pool in pools), default=0)
    if pools:
        best = max(best, sum(_out(actors, pool, sold, amount // len(pools)) for pool in pools))
    if hops:
        for middle in {"WETH", "USDC"} - {sold, bought}:
            half_way = _sell(actors, sold, middle, amount, hops=False)
            best = max(best, _sell(actors, middle, bought, half_way, hops=False) if half_way else 0)
    return best


def _gain(actors: Actors, borrower: Borrower, collateral: str, debt: str, amount: int) -> int | None:
    """USD (8 decimals) a naive liquidation of one pair would leave, or None when it reverts. Leaves no trace."""
    market = actors.world.markets[borrower.market]
    snapshot = actors.rpc.request("evm_snapshot")
    try:
        actors.fund(LIQUIDATOR, debt, amount)
        before = actors.balance(LIQUIDATOR, debt)
        actors.liquidate(market, LIQUIDATOR, borrower.account, collateral, debt, amount)
        spent = before - actors.balance(LIQUIDATOR, debt)
        if collateral == debt:
            return -_usd(debt, spent)
        seized = actors.balance(LIQUIDATOR, collateral)
        return _usd(debt, _sell(actors, collateral, debt, seized) - spent - spent // 1_000)
    except Reverted:
        return None
    finally:
        actors.rpc.request("evm_revert", snapshot)
        actors._paid.clear()


def _owed(actors: Actors, borrower: Borrower, debt: str) -> int:
    token = actors.world.markets[borrower.market].reserves[debt].debt_token
    return int(actors.rpc.view(token, "balanceOf(address)", borrower.account))


def _best(actors: Actors, borrower: Borrower) -> int:
    """The best naive gain over pairs and a few amounts, stopping at the first above the floor."""
    best = -(10**18)
    for collateral in borrower.collateral:
        for debt in borrower.debt:
            owed = _owed(actors, borrower, debt) * 101 // 100
            for part in (100, 50, 25, 10, 5):
                gain = _gain(actors, borrower, collateral, debt, owed * part // 100)
                best = best if gain is None else max(best, gain)
                if best > FLOOR:
                    return best
    return best


def test_the_crash_does_what_the_labels_say(fork: Fork) -> None:
    """Before: all healthy. After: health factors as designed, every borrower marked so is liquidatable at a profit by
    a naive liquidator, the small ones are not, and the barred ones revert."""
    actors = fork.actors
    stage(fork.world, fork.rpc)
    markets = fork.world.markets
    assert all(actors.standing(markets[b.market], b.account).health_factor > 1.01 * 10**18 for b in BORROWERS)
    crash(fork.world, fork.rpc)
    found: dict[str, tuple[Expected, int]] = {}
    for borrower in BORROWERS:
        health = actors.standing(markets[borrower.market], borrower.account).health_factor
        assert health == pytest.approx(borrower.health * 10**15, rel=5e-4), borrower.label
        if borrower.expected is Expected.HEALTHY:
            continue
        assert health < 10**18
        gain = _best(actors, borrower)
        found[borrower.label] = (borrower.expected, gain)
    gains = {label: gain // 10**8 for label, (kind, gain) in found.items() if kind is Expected.LIQUIDATE}
    # A pair of one asset pays nothing back to the naive: it holds what it seized instead of selling it.
    gains.pop("same asset")
    assert all(gain >= 25 for gain in gains.values()), gains
    for label, (kind, gain) in found.items():
        if kind is Expected.BARRED:
            assert gain == -(10**18), label
        if kind is Expected.UNPROFITABLE:
            assert gain < 10 * 10**8, label


def test_taking_the_maximum_is_a_mistake_where_the_labels_say_so(fork: Fork) -> None:
    """The thin market's maximum loses money while a part of it earns; the dust hole's maximum reverts."""
    actors = fork.actors
    stage(fork.world, fork.rpc)
    crash(fork.world, fork.rpc)
    thin = next(b for b in BORROWERS if b.label == "thin market")
    most = _gain(actors, thin, "CRV", "USDC", 10**12)
    assert most is not None
    assert most < 0
    part = _gain(actors, thin, "CRV", "USDC", 4_000 * 10**6)
    assert part is not None
    assert part > FLOOR
    hole = next(b for b in BORROWERS if b.label == "dust hole")
    for collateral in hole.collateral:
        assert _gain(actors, hole, collateral, "USDC", _owed(actors, hole, "USDC") * 2) is None


def test_pools_follow_the_crash(fork: Fork) -> None:
    """After the crash V3 pools stand exactly at the feeds' prices with working liquidity there."""
    stage(fork.world, fork.rpc)
    before = {pool.address: fork.rpc.view(pool.address, "liquidity()") for pool in _v3(fork)}
    crash(fork.world, fork.rpc)
    actors = fork.actors
    assert {symbol: actors.price(symbol) for symbol in CRASH} == dict(CRASH)
    for pool in _v3(fork):
        assert fork.rpc.view(pool.address, "liquidity()") * 3 > before[pool.address], pool
    sold = _sell(actors, "WETH", "USDC", 100 * 10**18)
    assert _usd("USDC", sold) > _usd("WETH", 100 * 10**18) * 997 // 1_000


def _v3(fork: Fork) -> list[Pool]:
    return [pool for pool in fork.world.uniswap.pools if pool.kind == "v3"]
