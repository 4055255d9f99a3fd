"""What governance and oracles do to a running market reaches the book by itself, on real bytecode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest
from eth_abi.abi import encode

from keeper.abi import interface
from keeper.chain.client import NodeClient
from keeper.devchain.actors import account
from keeper.devchain.artifacts import aave_36, aave_302, own_contracts
from keeper.devchain.deploy import Deployer
from keeper.devchain.lending import Market
from keeper.errors import BadData, ConfigError, Transient
from keeper.model import MAX_UINT256, WAD, ZERO_ADDRESS, Address, Head, Read, SkipReason, Watch, address
from keeper.ports import Client
from keeper.protocols.aave_v3 import AaveV3Book
from tests.support.aave_driver import Driver
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

MARKETS = ["main", "second"]
ETH = 10**18
USDC = 10**6
ANN = account("aave governance Ann")
BOB = account("aave governance Bob")


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


class Meddler:
    """A client that changes some answers, as a lying node or an unusual contract would."""

    def __init__(self, client: NodeClient, change: Callable[[Read, bytes | None], bytes | None]) -> None:
        self._client, self._change = client, change

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        answers = await self._client.read(reads, at)
        return [self._change(read, answer) for read, answer in zip(reads, answers, strict=True)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def selector(contract: str, name: str) -> bytes:
    return interface(contract).functions[name].selector


async def started(fork: Fork, client: Client, which: str) -> Driver:
    market = getattr(fork.world, which)
    driver = Driver(cast(NodeClient, client), fork.rpc, market, fork.world.tokens["WETH"].address)
    await driver.start()
    return driver


def trusted(driver: Driver) -> bool:
    """What the book says of itself now."""
    return driver.book.status.trusted


def constant(fork: Fork, value: int) -> Address:
    """Code that answers every call with one word."""
    where = account(f"constant {value}")
    fork.rpc.request("anvil_setCode", where, "0x60" + f"{value:02x}" + "60005260206000f3")
    return where


@pytest.mark.parametrize("which", MARKETS)
async def test_pause_and_grace(fork: Fork, client: NodeClient, which: str) -> None:
    """A paused reserve and one in its grace period give a refusal with its reason, and the pair comes back in time."""
    market = getattr(fork.world, which)
    driver = await started(fork, client, which)
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 23_000 * USDC})
    fork.actors.set_price("WETH", 2_600 * 10**8)
    fork.actors.set_pause(market, "USDC", paused=True)
    head = await driver.follow()
    position = driver.book.position(ANN, head.timestamp + 12)
    assert position is not None
    assert position.pairs == ()
    assert [(s.reason, "USDC as debt is paused" in s.detail) for s in position.refusals] == [(SkipReason.NO_PAIR, True)]
    grace = 600 if market.revision >= 4 else 0
    fork.actors.set_pause(market, "USDC", paused=False, grace=grace)
    head = await driver.follow()
    if grace:
        position = driver.book.position(ANN, head.timestamp + grace)
        assert position is not None
        assert position.pairs == ()
        assert "grace period for another 1 s" in position.refusals[0].detail
    position = driver.book.position(ANN, head.timestamp + grace + 1)
    assert position is not None
    assert len(position.pairs) == 1
    with fork.actors.block(grace + 1):
        fork.actors.fund(BOB, "USDC", 30_000 * USDC)
        fork.actors.liquidate(market, BOB, ANN, "WETH", "USDC")


@pytest.mark.parametrize("which", MARKETS)
async def test_oracle_changes(fork: Fork, client: NodeClient, which: str) -> None:
    """A new source for an asset, a new aggregator behind a feed and a new oracle show in the next head's prices."""
    market = getattr(fork.world, which)
    driver = await started(fork, client, which)
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 23_000 * USDC})
    fork.actors.set_oracle_source(market, "WETH", fork.actors.new_feed("WETH", 2_500 * 10**8))
    head = await driver.follow()
    assert driver.differences([ANN]) == []
    assert ANN in driver.book.screen(head.timestamp)
    fork.actors.switch_aggregator("USDC", 50_000_000)
    await driver.follow()
    assert driver.differences([ANN]) == []
    other = fork.world.main if which == "second" else None
    if other is not None:  # the other market's oracle knows all of this one's assets
        fork.actors.send(market.admin, market.addresses_provider, "setPriceOracle(address)", other.oracle)
        await driver.follow()
        assert driver.differences([ANN]) == []
        account_now = driver.book.account(ANN, head.timestamp)
        assert account_now is not None
        assert account_now.collateral_value >= 10 * 3_000 * 10**8


@pytest.mark.parametrize("which", MARKETS)
async def test_sentinel(fork: Fork, client: NodeClient, which: str) -> None:
    """A sentinel that forbids closes positions above 0.95, exactly as the pool does, and not those below."""
    market = getattr(fork.world, which)
    driver = await started(fork, client, which)
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 23_000 * USDC})
    sentinel = constant(fork, 0)
    fork.actors.send(market.admin, market.addresses_provider, "setPriceOracleSentinel(address)", sentinel)
    fork.actors.fund(BOB, "USDC", 60_000 * USDC)
    fork.actors.approve(BOB, market.pool, "USDC")
    for price, open_now in ((2_700, False), (2_500, True)):
        fork.actors.set_price("WETH", price * 10**8)
        head = await driver.follow()
        position = driver.book.position(ANN, head.timestamp + 12)
        assert position is not None
        assert bool(position.pairs) is open_now
        if not open_now:
            assert "sentinel" in position.refusals[0].detail
        with fork.actors.block(12, strict=False) as receipts:
            fork.actors.liquidate(market, BOB, ANN, "WETH", "USDC", 5_000 * USDC)
        assert (receipts[-1]["status"] == "0x1") is open_now
    fork.actors.send(market.admin, market.addresses_provider, "setPriceOracleSentinel(address)", constant(fork, 1))
    fork.actors.set_price("WETH", 2_900 * 10**8)
    fork.actors.configure_collateral(market, "WETH", 6_000, 6_200, 10_500)
    head = await driver.follow()
    position = driver.book.position(ANN, head.timestamp + 12)
    assert position is not None
    assert position.pairs


@pytest.mark.parametrize("which", MARKETS)
async def test_drained_collateral(fork: Fork, client: NodeClient, which: str) -> None:
    """Collateral whose underlying is lent out is refused with numbers; received as aTokens it can still be had."""
    market = getattr(fork.world, which)
    driver = await started(fork, client, which)
    fork.actors.open_position(market, ANN, {"LINK": 2_000 * ETH}, {"USDC": 22_000 * USDC})
    await driver.follow()
    link = fork.world.tokens["LINK"].address
    fork.actors.open_position(
        market, BOB, {"WETH": 20_000 * ETH, "WBTC": 1_000 * 10**8}, {"LINK": driver.book.available(link) - 10**15}
    )
    fork.actors.set_price("LINK", 14 * 10**8)
    head = await driver.follow()
    assert driver.book.available(link) == 10**15
    position = driver.book.position(ANN, head.timestamp + 12)
    assert position is not None
    reasons = {skip.reason for skip in position.refusals}
    if position.pairs:  # without a dust rule the little that is there can be bought
        (pair,) = position.pairs
        assert pair.seize(pair.feasible[-1][1]).seized <= 10**15
    else:
        assert reasons == {SkipReason.COLLATERAL_DRAINED}
        assert position.refusals[0].numbers["available"] == 10**15
    debtor = account("aave governance debtor")
    fork.actors.fund(debtor, "USDC", 30_000 * USDC)
    fork.actors.approve(debtor, market.pool, "USDC")
    for receive, status in ((False, "0x0"), (True, "0x1")):
        with fork.actors.block(12, strict=False) as receipts:
            fork.actors.liquidate(market, debtor, ANN, "LINK", "USDC", receive_a_token=receive)
        assert receipts[-1]["status"] == status
    await driver.follow()
    assert driver.differences([ANN, BOB, debtor]) == []


@pytest.mark.parametrize("which", MARKETS)
@pytest.mark.parametrize("late", [0, 3])
async def test_a_reserve_listed_while_running(fork: Fork, client: NodeClient, which: str, late: int) -> None:
    """A new reserve is followed from its first block on, supplies and flags in that very block included, also when the
    block was noticed later or is taken back."""
    market = getattr(fork.world, which)
    driver = await started(fork, client, which)
    fork.actors.mine()
    await driver.follow()
    before = driver.heads[-1].number
    token = list_reserve(fork, market)
    if late:
        fork.actors.mine(blocks=late)
    await driver.follow()
    assert "NEW" in {t.symbol for t in driver.book.tokens()}
    assert driver.differences([ANN]) == []
    assert driver.book.account(ANN, driver.heads[-1].timestamp) is not None
    assert await driver.book.audit(client, driver.heads[-1], 5) is None
    borrowed = 100 * USDC
    fork.actors.borrow(market, ANN, "USDC", borrowed)
    await driver.follow()
    assert driver.differences([ANN]) == []
    # Undo down to before the listing and do it again, as a reorganisation would.
    newest = driver.heads[-1]
    driver.book.rewind(before)
    driver.heads = [head for head in driver.heads if head.number <= before]
    again = await driver.follow()
    assert again.hash == newest.hash
    assert driver.differences([ANN]) == []
    assert await driver.book.audit(client, again, 5) is None
    # And down to a block after the listing.
    driver.book.rewind(again.number - 1)
    driver.heads.pop()
    await driver.follow()
    assert driver.differences([ANN]) == []
    assert any(name == "reserve_listed" for name, _ in driver.alerts.seen)
    assert token in {t.address for t in driver.book.tokens()}


@pytest.mark.parametrize("which", MARKETS)
async def test_a_node_that_fails_in_the_middle(fork: Fork, client: NodeClient, which: str) -> None:
    """Whichever request of a refresh fails, the book stays dirty, and trying again gives the right state."""
    market = getattr(fork.world, which)
    flaky = Flaky(client)
    driver = Driver(cast(NodeClient, flaky), fork.rpc, market, None)
    await driver.start()
    list_reserve(fork, market)
    head = await client.head()
    missing = await client.headers(driver.heads[-1].number + 1, head.number)
    blocks, _ = await client.pass_batch(missing, driver.book.watch(), (), head)
    for block in blocks:
        driver.book.apply(block)
    driver.heads += missing
    failures = 0
    for after in range(40):
        flaky.left = after
        try:
            await driver.book.refresh(cast(Client, flaky), head)
        except Transient:
            failures += 1
            assert driver.book.dirty
            assert not trusted(driver)
        else:
            break
    assert failures >= 8
    flaky.left = 10**6
    assert not driver.book.dirty
    assert driver.differences([ANN]) == []
    assert driver.state_differences() == []
    assert await driver.book.audit(client, head, 5) is None


class Flaky:
    """A client whose reads and logs fail after a number of them."""

    def __init__(self, client: NodeClient) -> None:
        self._client, self.left = client, 10**6

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Transient("the connection was lost")

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        self._spend()
        return await self._client.read(reads, at)

    def logs(self, watch: Watch, first: int, last: int) -> Any:
        self._spend()
        return self._client.logs(watch, first, last)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.mark.parametrize("when", ["live", "history"])
async def test_stable_debt_is_left_alone(fork: Fork, client: NodeClient, when: str) -> None:
    """On 3.0.2 a user with stable debt is unknown, whether seen live or in the history, until it is repaid."""
    market = fork.world.second
    driver = Driver(client, fork.rpc, market, None)
    if when == "live":
        await driver.start()
    usdc = fork.world.tokens["USDC"].address
    fork.actors.govern(market, "setReserveStableRateBorrowing(address,bool)", usdc, True)
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"DAI": 1_000 * ETH})
    fork.actors.open_position(market, BOB, {"WETH": 10 * ETH}, {"DAI": 1_000 * ETH})
    fork.actors.send(ANN, market.pool, "borrow(address,uint256,uint256,uint16,address)", usdc, 5_000 * USDC, 1, 0, ANN)
    if when == "history":
        await driver.start()
    head = await driver.follow()
    assert driver.book.account(ANN, head.timestamp) is None
    assert driver.book.position(ANN, head.timestamp) is None
    assert driver.differences([BOB]) == []
    assert "stable_debt" in {name for name, _ in driver.alerts.seen}
    assert await driver.book.audit(client, head, 10) is None
    again = driver.fresh()
    again.restore(driver.book.snapshot())
    await driver.start(again)
    assert driver.book.account(ANN, head.timestamp) is None
    fork.actors.fund(ANN, "USDC", 6_000 * USDC)
    fork.actors.approve(ANN, market.pool, "USDC")
    fork.actors.send(ANN, market.pool, "repay(address,uint256,uint256,address)", usdc, MAX_UINT256, 1, ANN)
    await driver.follow()
    assert driver.differences([ANN, BOB]) == []


def list_reserve(fork: Fork, market: Market) -> Address:
    """List a token; Ann's supply of it, and its flag, are in the block that configures it."""
    actors, admin = fork.actors, market.admin
    on = Deployer(fork.rpc, admin, 60_000_000)
    token = on.deploy(own_contracts()["Token"], "New token", "NEW", 18)
    on.send(token, "mint(address,uint256)", ANN, 1_000 * ETH)
    feed = on.deploy(own_contracts()["FeedAggregator"], 8, "NEW / USD", 5 * 10**8)
    if market.revision >= 10:
        code = aave_36()
        a_token = on.deploy(code["ATokenInstance"], market.pool, ZERO_ADDRESS, market.treasury)
        debt = on.deploy(code["VariableDebtTokenInstance"], market.pool, ZERO_ADDRESS)
        signature = "initReserves((address,address,address,string,string,string,string,bytes,bytes)[])"
        rates = encode(["uint16", "uint32", "uint32", "uint32"], [8_000, 0, 400, 30_000])
        entry: tuple[Any, ...] = (a_token, debt, token, "aNEW", "aNEW", "dNEW", "dNEW", b"", rates)
    else:
        a_token = on.deploy(aave_302("protocol/tokenization/AToken"), market.pool)
        stable = on.deploy(aave_302("protocol/tokenization/StableDebtToken"), market.pool)
        debt = on.deploy(aave_302("protocol/tokenization/VariableDebtToken"), market.pool)
        ray = 10**27
        rates_at = on.deploy(
            aave_302("protocol/pool/DefaultReserveInterestRateStrategy"),
            market.addresses_provider,
            *(8 * ray // 10, 0, 4 * ray // 100, 3 * ray, 0, 0, 0, 0, 0),
        )
        signature = (
            "initReserves((address,address,address,uint8,address,address,address,address,string,string,string,string,"
            "string,string,bytes)[])"
        )
        names = ("aNEW", "aNEW", "dNEW", "dNEW", "sNEW", "sNEW")
        entry = (a_token, stable, debt, 18, rates_at, token, market.treasury, ZERO_ADDRESS, *names, b"")
    on.flush()
    on.send(market.oracle, "setAssetSources(address[],address[])", [token], [feed])
    on.flush()
    actors.send(ANN, token, "approve(address,uint256)", market.pool, MAX_UINT256)
    with actors.block():
        actors.send(admin, market.configurator, signature, [entry], gas=12_000_000)
        parameters = (token, 5_000, 6_000, 10_800)
        actors.send(
            admin, market.configurator, "configureReserveAsCollateral(address,uint256,uint256,uint256)", *parameters
        )
        actors.send(ANN, market.pool, "supply(address,uint256,address,uint16)", token, 900 * ETH, ANN, 0)
    return address(token)


@pytest.mark.parametrize("which", MARKETS)
async def test_an_unknown_revision_is_read_only(fork: Fork, client: NodeClient, which: str) -> None:
    """A pool upgraded to a revision without rules is shown but not trusted, with one alert; knowing it again heals."""
    revision = 0

    def change(read: Read, answer: bytes | None) -> bytes | None:
        if revision and read.data[:4] == selector("aave_pool", "POOL_REVISION"):
            return revision.to_bytes(32, "big")
        return answer

    driver = await started(fork, cast(Client, Meddler(client, change)), which)
    market = driver.market
    assert trusted(driver)
    revision = 99
    fork.actors.set_flash_premium(market, 7)  # any governance event
    await driver.follow()
    assert driver.book.read_only
    assert not trusted(driver)
    assert "revision 99" in driver.book.status.reason
    fork.actors.set_flash_premium(market, 8)
    await driver.follow()
    assert [name for name, _ in driver.alerts.seen] == ["unknown_revision"]
    revision = 0
    fork.actors.set_flash_premium(market, 9)
    await driver.follow()
    assert trusted(driver)
    assert not driver.book.read_only


@pytest.mark.parametrize("which", MARKETS)
@pytest.mark.parametrize("how", ["zero", "revert"])
async def test_an_asset_without_a_price(fork: Fork, client: NodeClient, which: str, how: str) -> None:
    """Whoever holds or owes it is unknown, never healthy nor liquidatable; everybody else is as before."""
    market = getattr(fork.world, which)
    bad = fork.world.tokens["LINK"].address
    broken = False
    prices = selector("aave_oracle", "getAssetsPrices")

    def change(read: Read, answer: bytes | None) -> bytes | None:
        if not broken or answer is None or read.to != market.oracle:
            return answer
        if read.data[:4] == prices and how == "revert":
            return None
        if read.data[:4] == prices:
            position = read.data[4 + 64 :].find(bytes.fromhex(bad[2:])) // 32
            return answer[: 64 + 32 * position] + bytes(32) + answer[96 + 32 * position :]
        if read.data[-20:] == bytes.fromhex(bad[2:]):
            return None if how == "revert" else bytes(32)
        return answer

    driver = await started(fork, cast(Client, Meddler(client, change)), which)
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 23_000 * USDC})
    fork.actors.open_position(market, BOB, {"LINK": 1_000 * ETH, "WETH": ETH}, {"USDC": 9_000 * USDC})
    fork.actors.set_price("WETH", 2_000 * 10**8)
    broken = True
    head = await driver.follow()
    later = head.timestamp + 12
    assert trusted(driver)
    assert driver.book.unknown_assets() == {bad}
    assert driver.book.account(BOB, later) is None
    assert driver.book.position(BOB, later) is None
    ann = driver.book.account(ANN, later)
    assert ann is not None
    assert ann.health_factor < WAD
    assert driver.book.position(ANN, later) is not None
    assert BOB not in {a.borrower for a in driver.book.accounts(later)}
    fork.actors.mine()
    await driver.follow()
    assert [name for name, _ in driver.alerts.seen] == ["price_unknown"]
    broken = False
    fork.actors.mine()
    head = await driver.follow()
    assert driver.differences([ANN, BOB]) == []


async def test_an_audit_finds_a_difference(fork: Fork, client: NodeClient) -> None:
    """A wrong balance, and a wrong flag that leaves every total right, are both found; a reload heals."""
    market = fork.world.main
    driver = await started(fork, client, "main")
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 20_000 * USDC})
    head = await driver.follow()
    assert await driver.book.audit(client, head, 10) is None
    ledger = driver.book._ledger
    ann = ledger.users[ANN]
    ledger.set_enabled(ann, driver.book.market.by_asset[fork.world.tokens["WETH"].address], False)
    found = await driver.book.audit(client, head, 10)
    assert found is not None
    assert ANN in found.detail
    entry = next(iter(ledger.chain(ann)))
    ledger.set_amount(entry, ledger.amount[entry] + 1)
    found = await driver.book.audit(client, head, 10)
    assert found is not None
    assert "differs from the chain" in found.detail
    driver.book.distrust(found.detail)
    assert not trusted(driver)
    await driver.start()
    assert trusted(driver)
    assert driver.differences([ANN]) == []
    assert await driver.book.audit(client, driver.heads[-1], 10) is None


class Slip:
    """A node that answers one view from another block's state, `times` times."""

    def __init__(self, client: NodeClient, times: int) -> None:
        self.client, self.times = client, times

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        answers = await self.client.read(reads, at)
        for place, answer in enumerate(answers):
            if self.times and answer is not None and len(answer) == 6 * 32:  # getUserAccountData
                self.times -= 1
                answers[place] = (int.from_bytes(answer, "big") ^ 1).to_bytes(len(answer), "big")
                break
        return answers


@pytest.mark.parametrize(("times", "believed"), [(1, False), (2, True)])
async def test_an_audit_believes_what_is_said_twice(
    fork: Fork, client: NodeClient, times: int, *, believed: bool
) -> None:
    """One wrong answer is the node's slip; the same difference again is the book's."""
    driver = await started(fork, client, "main")
    fork.actors.open_position(fork.world.main, ANN, {"WETH": 10 * ETH}, {"USDC": 20_000 * USDC})
    head = await driver.follow()
    found = await driver.book.audit(cast(Client, Slip(client, times)), head, 10)
    assert (found is not None) is believed


async def test_an_upgrade_reads_balances_anew(fork: Fork, client: NodeClient) -> None:
    """After a token's code changed, what its events may have meant is settled by reading the balances."""
    market = fork.world.main
    driver = await started(fork, client, "main")
    fork.actors.open_position(market, ANN, {"WETH": 10 * ETH}, {"USDC": 20_000 * USDC})
    await driver.follow()
    ledger = driver.book._ledger
    entry = next(iter(ledger.chain(ledger.users[ANN])))
    ledger.set_amount(entry, ledger.amount[entry] - 1)
    on = Deployer(fork.rpc, market.admin, 60_000_000)
    libraries = {n: on.deploy(aave_36()[n]) for n in ("BorrowLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic")}
    libraries["FlashLoanLogic"] = on.deploy(aave_36()["FlashLoanLogic"], libraries=libraries)
    on.flush()
    rates = fork.rpc.view(market.pool, "RESERVE_INTEREST_RATE_STRATEGY()", returns="address")
    implementation = on.deploy(aave_36()["PoolInstance"], market.addresses_provider, rates, libraries=libraries)
    on.flush()
    # The same revision may not be initialised twice: let the proxy forget that it was.
    fork.rpc.request("anvil_setStorageAt", market.pool, "0x" + 64 * "0", "0x" + 64 * "0")
    fork.actors.send(market.admin, market.addresses_provider, "setPoolImpl(address)", implementation)
    await driver.follow()
    assert driver.differences([ANN]) == []
    assert "book_repaired" in {name for name, _ in driver.alerts.seen}


async def test_an_address_without_a_market(fork: Fork, client: NodeClient) -> None:
    """An address that is no provider ends in one sentence that names it."""
    book = AaveV3Book("nowhere", ANN, 0, None, Driver(client, fork.rpc, fork.world.main, None).alerts)
    with pytest.raises(ConfigError, match=ANN):
        await book.load(client, await client.head())


async def test_a_snapshot_of_another_market(fork: Fork, client: NodeClient) -> None:
    """A stored book of one deployment is not taken for another's."""
    main = await started(fork, client, "main")
    stored = main.book.snapshot()
    second = Driver(client, fork.rpc, fork.world.second, None)
    with pytest.raises(BadData, match="another deployment"):
        second.book.restore(stored)
