"""The built world is what it says it is."""

from __future__ import annotations

import time

import pytest
from eth_utils.crypto import keccak

from keeper.devchain.actors import Reverted, account
from keeper.devchain.artifacts import uniswap_v2, uniswap_v3
from keeper.devchain.calls import calldata, topic
from keeper.devchain.catalogue import (
    MAIN,
    MAIN_EMODES,
    MAIN_FLASH_PREMIUM,
    MAIN_RESERVES,
    PROTOCOL_FEE,
    SECOND_EMODES,
    SECOND_FLASH_PREMIUM,
    SECOND_RESERVES,
    SPECS,
)
from keeper.devchain.rpc import Rpc
from keeper.devchain.uniswap import sqrt_price
from keeper.devchain.world import Built, World, ensure_world
from keeper.model import MAX_UINT256, address
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

_V2_INIT = "96e8ac4277198ff8b6f785478aa9a39f403cb768dd02cbee326c3e7da348845f"
_V3_INIT = "e34f199b19b2b4f47f68442619d555527d244f78a3297ea89325f843f87b8b54"


def test_markets_run_the_promised_revisions(fork: Fork) -> None:
    """Both pools answer with their revision, found from the addresses provider alone."""
    assert [market.revision for market in fork.world.markets.values()] == [10, 1]
    for market in fork.world.markets.values():
        pool = fork.rpc.view(market.addresses_provider, "getPool()", returns="address")
        assert pool == market.pool
        assert fork.rpc.view(pool, "POOL_REVISION()") == market.revision
        assert fork.rpc.view(market.addresses_provider, "getPriceOracle()", returns="address") == market.oracle


def test_reserves_carry_the_catalogues_parameters(fork: Fork) -> None:
    """LTV, threshold, bonus, protocol fee, flash switch and decimals read back from each pool as written."""
    for market, reserves in ((fork.world.main, MAIN_RESERVES), (fork.world.second, SECOND_RESERVES)):
        assert len(reserves) >= 6
        assert set(market.reserves) == {spec.symbol for spec in reserves}
        for spec in reserves:
            token = fork.world.tokens[spec.symbol]
            bits = fork.rpc.view(market.pool, "getConfiguration(address)", token.address)
            read = (bits & 0xFFFF, bits >> 16 & 0xFFFF, bits >> 32 & 0xFFFF, bits >> 48 & 0xFF, bits >> 152 & 0xFFFF)
            assert read == (spec.ltv, spec.threshold, spec.bonus, token.decimals, PROTOCOL_FEE), spec.symbol
            assert bits >> 56 & 1  # active
            assert bits >> 58 & 1  # borrowing
            assert bits >> 63 & 1  # flash loans
            assert not bits >> 60 & 1  # paused
            assert fork.rpc.view(market.oracle, "getAssetPrice(address)", token.address) == SPECS[spec.symbol].price


def test_emodes_and_flash_premiums(fork: Fork) -> None:
    """Both revisions know their e-modes and charge their flash premium."""
    main, second = fork.world.main, fork.world.second
    for mode in MAIN_EMODES:
        signature = "getEModeCategoryCollateralConfig(uint8)"
        read = fork.rpc.view(main.pool, signature, mode.number, returns="uint16,uint16,uint16")
        assert read == (mode.ltv, mode.threshold, mode.bonus)
        bitmap = fork.rpc.view(main.pool, "getEModeCategoryCollateralBitmap(uint8)", mode.number, returns="uint128")
        assert bitmap.bit_count() == len(mode.collateral)
    for mode in SECOND_EMODES:
        signature = "getEModeCategoryData(uint8)"
        read = fork.rpc.view(second.pool, signature, mode.number, returns="(uint16,uint16,uint16,address,string)")
        assert read[:3] == (mode.ltv, mode.threshold, mode.bonus)
    assert fork.rpc.view(main.pool, "FLASHLOAN_PREMIUM_TOTAL()") == MAIN_FLASH_PREMIUM
    assert fork.rpc.view(second.pool, "FLASHLOAN_PREMIUM_TOTAL()") == SECOND_FLASH_PREMIUM


def test_interest_accrues_and_flash_depth_is_there(fork: Fork) -> None:
    """The standing borrower makes every reserve's index grow, and every reserve has millions left to lend."""
    signature, hours = "getReserveNormalizedVariableDebt(address)", 3_600
    for market in fork.world.markets.values():
        tokens = {symbol: fork.world.tokens[symbol].address for symbol in market.reserves}
        before = {symbol: fork.rpc.view(market.pool, signature, token) for symbol, token in tokens.items()}
        fork.actors.mine(hours)
        for symbol, token in tokens.items():
            assert fork.rpc.view(market.pool, signature, token) > before[symbol], symbol
            idle = fork.actors.balance(market.reserves[symbol].a_token, symbol)
            assert idle * SPECS[symbol].price // 10 ** (SPECS[symbol].decimals + 8) > 5_000_000, symbol


def test_pool_code_is_mainnets(fork: Fork) -> None:
    """Pair and pool creation code have the hashes deployed on mainnet, and pools sit at their CREATE2 addresses."""
    assert keccak(uniswap_v2("UniswapV2Pair").creation({})).hex() == _V2_INIT
    assert keccak(bytes.fromhex(uniswap_v3("UniswapV3Pool").code)).hex() == _V3_INIT
    uniswap = fork.world.uniswap
    for pool in uniswap.pools:
        a, b = (bytes.fromhex(fork.world.tokens[s].address[2:]) for s in (pool.token0, pool.token1))
        assert a < b
        if pool.kind == "v2":
            factory, salt, init = uniswap.v2_factory, keccak(a + b), _V2_INIT
        else:
            words = a.rjust(32, b"\0") + b.rjust(32, b"\0") + pool.fee.to_bytes(32, "big")
            factory, salt, init = uniswap.v3_factory, keccak(words), _V3_INIT
        made = keccak(b"\xff" + bytes.fromhex(factory[2:]) + salt + bytes.fromhex(init))[12:]
        assert address(made) == pool.address


def test_pools_stand_at_the_feeds_prices(fork: Fork) -> None:
    """V3 pools at exactly the feeds' √price, pairs within a basis point, several tiers, ticks on both sides."""
    fees = set()
    for pool in fork.world.uniswap.pools:
        if pool.kind == "v3":
            slot0 = fork.rpc.call(pool.address, calldata("slot0()"))
            assert int.from_bytes(slot0[:32], "big") == sqrt_price(pool.token0, pool.token1)
            assert fork.rpc.view(pool.address, "liquidity()") > 0
            fees.add(pool.fee)
        else:
            reserve0, reserve1 = fork.actors.reserves(pool)
            values = [
                reserve * SPECS[s].price * 10**18 // 10 ** SPECS[s].decimals
                for reserve, s in ((reserve0, pool.token0), (reserve1, pool.token1))
            ]
            assert abs(values[0] - values[1]) * 10_000 < values[0]
    assert fees == {100, 500, 3_000, 10_000}
    assert [pool.thin for pool in fork.world.uniswap.pools].count(True) == 1
    assert {fork.world.tokens["WETH"].address < fork.world.tokens[s].address for s in ("USDC", "USDT")} == {True, False}


def test_quoter_and_swap_agree(fork: Fork) -> None:
    """QuoterV2 promises what the pool then pays, in both directions."""
    pool = fork.actors.pool("v3", "WETH", "USDC", 500)
    for zero_for_one, amount in ((True, 250_000 * 10**6), (False, 80 * 10**18)):
        names = (pool.token0, pool.token1) if zero_for_one else (pool.token1, pool.token0)
        sold, bought = names
        quoted = fork.rpc.view(
            fork.world.uniswap.quoter,
            "quoteExactInputSingle((address,address,uint256,uint24,uint160))",
            (fork.world.tokens[sold].address, fork.world.tokens[bought].address, amount, pool.fee, 0),
            returns="uint256,uint160,uint32,uint256",
        )[0]
        before = fork.actors.balance(fork.world.desk, bought)
        fork.actors.swap(pool, zero_for_one=zero_for_one, amount=amount)
        assert fork.actors.balance(fork.world.desk, bought) - before == quoted


def test_feeds_behave_like_chainlinks(fork: Fork) -> None:
    """Rounds carry their phase, logs come from the aggregator, and a switch changes the answer without a log."""
    actors, feed = fork.actors, fork.world.feeds["LINK"]
    actors.set_price("LINK", 17 * 10**8)
    receipt = fork.rpc.request("eth_getBlockReceipts", "latest")[0]
    wanted = topic("AnswerUpdated(int256,uint256,uint256)")
    log = next(log for log in receipt["logs"] if log["topics"][0] == wanted)
    assert log["address"] == feed.aggregator
    assert int(log["topics"][1], 16) == 17 * 10**8
    types = "uint80,int256,uint256,uint256,uint80"
    round_id, answer, _, updated, answered_in = fork.rpc.view(feed.proxy, "latestRoundData()", returns=types)
    assert (round_id, answer, updated) == ((1 << 64) + 2, 17 * 10**8, actors.now)
    assert answered_in == round_id
    assert fork.rpc.view(feed.proxy, "getRoundData(uint80)", (1 << 64) + 1, returns=types)[1] == SPECS["LINK"].price

    fresh = actors.switch_aggregator("LINK", 16 * 10**8)
    assert fork.rpc.request("eth_getBlockReceipts", "latest")[0]["logs"] == []
    assert fork.rpc.view(feed.proxy, "aggregator()", returns="address") == fresh
    assert fork.rpc.view(feed.proxy, "phaseId()", returns="uint16") == 2
    assert actors.price("LINK") == 16 * 10**8
    assert fork.rpc.view(feed.proxy, "latestRound()") == (2 << 64) + 1
    assert fork.rpc.view(feed.proxy, "getAnswer(uint256)", (1 << 64) + 2, returns="int256") == 17 * 10**8
    token = fork.world.tokens["LINK"].address
    assert fork.rpc.view(fork.world.main.oracle, "getAssetPrice(address)", token) == 16 * 10**8


def test_the_silent_token_has_usdts_manners(fork: Fork) -> None:
    """transfer and approve return nothing, and a standing approval can only be changed to zero."""
    token, me = fork.world.tokens["USDT"].address, account("silent")
    fork.actors.fund(me, "USDT", 100)
    assert fork.rpc.call(token, calldata("transfer(address,uint256)", account("x"), 1), sender=me) == b""
    assert fork.rpc.call(token, calldata("approve(address,uint256)", account("x"), 1), sender=me) == b""
    fork.actors.send(me, token, "approve(address,uint256)", account("x"), 5)
    with pytest.raises(Reverted):
        fork.actors.send(me, token, "approve(address,uint256)", account("x"), 6)
    fork.actors.send(me, token, "approve(address,uint256)", account("x"), 0)
    fork.actors.send(me, token, "approve(address,uint256)", account("x"), 6)


@pytest.mark.parametrize("name", ["main", "second"])
def test_a_borrowers_life(fork: Fork, name: str) -> None:
    """Supply, e-mode, borrow, toggle, transfer, repay, withdraw and a liquidation work on both revisions."""
    actors = fork.actors
    market = fork.world.main if name == "main" else fork.world.second
    user, friend, liquidator = account("user"), account("friend"), account("liquidator")
    actors.open_position(market, user, {"wstETH": 10 * 10**18, "USDC": 10**9}, {"WETH": 9 * 10**18}, emode=1)
    assert actors.standing(market, user).debt > 0
    actors.use_as_collateral(market, user, "USDC", enabled=False)
    actors.transfer_a_token(market, user, friend, "USDC", 4 * 10**8)
    actors.withdraw(market, user, "USDC", MAX_UINT256)
    assert 5.9e8 < actors.balance(user, "USDC") < 6.1e8
    actors.fund(user, "WETH", 10**18)
    actors.repay(market, user, "WETH", 10**18)
    debt = actors.standing(market, user).debt
    with pytest.raises(Reverted):
        actors.borrow(market, user, "WETH", 10**21)
    actors.set_price("wstETH", SPECS["wstETH"].price * 68 // 100)
    assert actors.standing(market, user).health_factor < 10**18
    actors.fund(liquidator, "WETH", 100 * 10**18)
    actors.liquidate(market, liquidator, user, "wstETH", "WETH")
    assert actors.balance(liquidator, "wstETH") > 0
    assert actors.standing(market, user).debt < debt


def test_governance_reaches_the_pool(fork: Fork) -> None:
    """Each governance helper changes what the pool reports, on each revision that knows it."""
    actors, token = fork.actors, fork.world.tokens["WBTC"].address
    for market in fork.world.markets.values():
        actors.configure_collateral(market, "WBTC", 5_000, 6_000, 11_000)
        actors.set_emode_category(market, 7, 8_000, 8_500, 10_300)
        actors.set_emode_collateral(market, "WBTC", 7, enabled=True)
        actors.set_protocol_fee(market, "WBTC", 2_000)
        actors.set_flash_premium(market, 11)
        actors.set_flash_enabled(market, "WBTC", enabled=False)
        actors.set_frozen(market, "WBTC", frozen=True)
        actors.set_pause(market, "WBTC", paused=True)
        bits = fork.rpc.view(market.pool, "getConfiguration(address)", token)
        assert (bits >> 16 & 0xFFFF, bits >> 32 & 0xFFFF, bits >> 152 & 0xFFFF) == (6_000, 11_000, 2_000)
        assert (bits >> 57 & 1, bits >> 60 & 1, bits >> 63 & 1) == (1, 1, 0)
        assert market.revision != 1 or bits >> 168 & 0xFF == 7
        assert fork.rpc.view(market.pool, "FLASHLOAN_PREMIUM_TOTAL()") == 11
        actors.set_oracle_source(market, "WBTC", actors.new_feed("WBTC", 12_345 * 10**8))
        assert fork.rpc.view(market.oracle, "getAssetPrice(address)", token) == 12_345 * 10**8
    actors.set_pause(fork.world.main, "WBTC", paused=False, grace=600)
    until = fork.rpc.view(fork.world.main.pool, "getLiquidationGracePeriod(address)", token)
    assert until == actors.now + 600


def test_a_sentinel_bars_liquidations_until_its_grace_is_over(fork: Fork) -> None:
    """With the sequencer down, or up for less than the grace period, a position at 0.97 cannot be liquidated."""
    actors = fork.actors
    for market in fork.world.markets.values():
        user, liquidator = account(f"user {market.name}"), account(f"liquidator {market.name}")
        price = actors.price("WETH")
        supplied, borrowed = actors.worth("WETH", 300_000), actors.worth("USDC", 225_000)
        actors.open_position(market, user, {"WETH": supplied}, {"USDC": borrowed})
        actors.set_price("WETH", price * 875 // 1_000)
        assert 0.95e18 < actors.standing(market, user).health_factor < 10**18
        actors.fund(liquidator, "USDC", 10**12)
        sequencer = actors.install_sentinel(market, 600)
        actors.set_sequencer(market, sequencer, down=True, since=actors.now)
        with pytest.raises(Reverted):
            actors.liquidate(market, liquidator, user, "WETH", "USDC")
        actors.set_sequencer(market, sequencer, down=False, since=actors.now)
        with pytest.raises(Reverted):
            actors.liquidate(market, liquidator, user, "WETH", "USDC")
        actors.mine(700)
        actors.liquidate(market, liquidator, user, "WETH", "USDC")


def test_the_second_start_is_fast_and_complete(built: Built) -> None:
    """From the cache: chain up and answering within five seconds, old logs and the world's description included."""
    began = time.monotonic()
    again = ensure_world()
    with again.start() as running:
        logs = running.rpc.request("eth_getLogs", {"fromBlock": "0x1", "toBlock": "latest"})
        head = running.rpc.block()
    assert time.monotonic() - began < 5
    assert again.world == built.world
    assert World.from_json(built.world.to_json()) == built.world
    assert (int(head["number"], 16), int(head["timestamp"], 16)) == (built.world.height, built.world.timestamp)
    assert len(logs) > 1_000
    assert {int(log["blockNumber"], 16) for log in logs} <= set(range(1, built.world.height + 1))
    first = min(
        int(log["blockNumber"], 16) for log in logs if log["address"] == built.world.markets[MAIN].addresses_provider
    )
    assert first >= built.world.markets[MAIN].start_block


@pytest.mark.mainnet
def test_mainnet_core_market_is_found(mainnet_fork: Rpc) -> None:
    """On a fork of mainnet the provider in config/ethereum.toml leads to the published pool."""
    provider = "0x2f39d218133afab8f2b819b1066c7e434ad94e9e"
    pool = mainnet_fork.view(provider, "getPool()", returns="address")
    assert pool == "0x87870bca3f3fd6335c3f4ce8392d69350b4fa4e2"
    assert mainnet_fork.view(pool, "POOL_REVISION()") >= 4
