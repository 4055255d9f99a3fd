"""What happens to a Comet market: governance, feeds that fail, pauses, silent debt, missing tokens, wrong books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.devchain import comet
from keeper.devchain.actors import account
from keeper.devchain.artifacts import own_contracts
from keeper.devchain.catalogue import SPECS
from keeper.devchain.comet import USDC_MARKET, CometMarket, comet_contracts
from keeper.errors import BadData, ConfigError
from keeper.model import WAD, Address, Read, SkipReason, address
from keeper.ports import Position
from keeper.protocols.compound_v3 import CometBook
from keeper.protocols.compound_v3.contract import COMET
from keeper.protocols.compound_v3.pair import CometPair
from tests.support.comet_driver import MODEL, Alerts, CometDriver
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

ALICE, BOB, CAROL, RIVAL = (account(f"comet {name}") for name in ("alice", "bob", "carol", "rival"))
EXECUTOR = account("executor")
TODAY = {symbol: spec.price for symbol, spec in SPECS.items()}
FALLEN = TODAY | {symbol: TODAY[symbol] * 90 // 100 for symbol in ("WETH", "WBTC", "LINK", "wstETH")}
ETHER = 10**18
USDC = 10**6


@pytest.fixture
async def client(fork: Fork) -> AsyncIterator[NodeClient]:
    async with NodeClient.connect([fork.http]) as connected:
        yield connected


@pytest.fixture
async def driver(fork: Fork, client: NodeClient) -> CometDriver:
    """A market with base to borrow, and two borrowers whom a fall of ten percent makes liquidatable."""
    market = comet.deploy_comet(fork.actors, MODEL)
    comet.supply(fork.actors, market, RIVAL, "USDC", 10_000_000 * USDC)
    comet.open_account(fork.actors, market, ALICE, {"WETH": 40 * ETHER, "LINK": 900 * ETHER}, 990, FALLEN)
    comet.open_account(fork.actors, market, BOB, {"WETH": 25 * ETHER}, 985, FALLEN)
    found = CometDriver(client, fork.rpc, market, fork.world.tokens["WETH"].address, EXECUTOR)
    await found.start()
    return found


def fall(fork: Fork, prices: dict[str, int] = FALLEN) -> None:
    with fork.actors.block():
        for symbol in ("WETH", "WBTC", "LINK", "wstETH"):
            fork.actors.set_price(symbol, prices[symbol])


def position(driver: CometDriver, who: Address, seconds: int = 12) -> Position | None:
    return driver.book.position(who, driver.heads[-1].timestamp + seconds)


def on_sale(driver: CometDriver, found: Position | None) -> list[tuple[str, int, tuple[Address, ...]]]:
    assert found is not None
    pairs = [pair for pair in found.pairs if isinstance(pair, CometPair)]
    return [(pair.collateral.symbol, pair.on_sale, pair.others) for pair in pairs]


async def test_an_absorb_offers_what_the_accounts_and_earlier_ones_leave(fork: Fork, driver: CometDriver) -> None:
    """Each collateral alone and together with smaller holders of it; reserves that are there already come on top."""
    assert position(driver, ALICE) is None
    fall(fork)
    await driver.follow()
    assert set(driver.book.screen(driver.heads[-1].timestamp + 12)) == {ALICE, BOB}
    assert on_sale(driver, position(driver, ALICE)) == [
        ("WETH", 40 * ETHER, ()),
        ("WETH", 65 * ETHER, (BOB,)),
        ("LINK", 900 * ETHER, ()),
    ]
    assert on_sale(driver, position(driver, BOB)) == [("WETH", 25 * ETHER, ())]
    fork.actors.send(RIVAL, driver.market.comet, "absorb(address,address[])", RIVAL, [BOB])
    await driver.follow()
    weth = fork.world.tokens["WETH"].address
    assert set(driver.book.screen(driver.heads[-1].timestamp + 12)) == {ALICE, weth}
    assert position(driver, BOB) is None
    # Whoever buys it all takes the collateral's own position as well.
    assert on_sale(driver, position(driver, ALICE)) == [("WETH", 65 * ETHER, (weth,)), ("LINK", 900 * ETHER, ())]
    assert on_sale(driver, position(driver, weth)) == [("WETH", 25 * ETHER, ())]


async def test_the_front_looks_worse_the_more_is_on_sale(fork: Fork, driver: CometDriver) -> None:
    """Its health factor is below one and falls when another account is absorbed."""
    weth = fork.world.tokens["WETH"].address
    fall(fork)
    fork.actors.send(RIVAL, driver.market.comet, "absorb(address,address[])", RIVAL, [BOB])
    head = await driver.follow()
    before = driver.book.account(weth, head.timestamp)
    fork.actors.send(RIVAL, driver.market.comet, "absorb(address,address[])", RIVAL, [ALICE])
    head = await driver.follow()
    after = driver.book.account(weth, head.timestamp)
    assert before is not None
    assert after is not None
    assert after.health_factor < before.health_factor < WAD
    assert before.collateral_value == 25 * FALLEN["WETH"]
    assert before.debt_value < before.collateral_value
    assert weth not in {a.borrower for a in driver.book.accounts(head.timestamp)}


async def test_debt_that_no_log_tells_of_is_found(fork: Fork, driver: CometDriver) -> None:
    """Base sent from one borrower to another moves two debts and logs nothing; an accrual without a reason tells."""
    comet.open_account(fork.actors, driver.market, CAROL, {"WETH": 40 * ETHER}, 2_000, TODAY)
    await driver.follow()
    with fork.actors.block() as receipts:
        fork.actors.send(CAROL, driver.market.comet, "transfer(address,uint256)", BOB, 1_000 * USDC)
    assert receipts[0]["logs"] == []
    await driver.follow()
    assert driver.differences([BOB, CAROL]) == []
    with fork.actors.block() as receipts:  # in the same block as a logged action of somebody else
        fork.actors.send(RIVAL, driver.market.comet, "withdraw(address,uint256)", token(fork, "USDC"), 5)
        fork.actors.send(CAROL, driver.market.comet, "transfer(address,uint256)", BOB, 1_000 * USDC)
    assert receipts[1]["logs"] == []
    await driver.follow()
    assert driver.differences([BOB, CAROL, RIVAL]) == []


def trusted(driver: CometDriver) -> bool:
    return driver.book.status.trusted


def token(fork: Fork, symbol: str) -> Address:
    return fork.world.tokens[symbol].address


async def test_an_audit_takes_silent_debt_over_and_names_anything_else(fork: Fork, driver: CometDriver) -> None:
    """A principal that moved without a log is no difference; a wrong collateral balance or a wrong total is."""
    book, client = driver.book, driver.client
    ledger, head = book._ledger, driver.heads[-1]
    assert await book.audit(client, head, 10) is None
    right = ledger.principals[ledger.users[ALICE]]
    ledger.set_principal(ledger.users[ALICE], right + 7)
    assert await book.audit(client, head, 10) is None
    assert ledger.principals[ledger.users[ALICE]] == right
    ledger.move(ledger.users[ALICE], token(fork, "WETH"), 1)
    wrong = await book.audit(client, head, 10)
    assert wrong is not None
    assert wrong.reason is SkipReason.MARKET_UNKNOWN
    assert "WETH" in wrong.detail
    ledger.move(ledger.users[ALICE], token(fork, "WETH"), -1)
    ledger.move(ledger.users[ALICE], token(fork, "LINK"), -900 * ETHER)
    ledger.move(ledger.users[BOB], token(fork, "LINK"), 900 * ETHER)  # the total is right
    wrong = await book.audit(client, head, 10)
    assert wrong is not None
    assert "assets" in wrong.detail


async def test_requests_do_not_grow_with_what_happens(fork: Fork, client: NodeClient, driver: CometDriver) -> None:
    """A quiet block takes one round trip, one in which accounts were touched two, however many they were."""
    following = Follower(client, [driver.fresh()], None, Alerts())
    await following.start(await client.head())

    async def trips() -> int:
        return (await following.advance(await client.head())).requests

    fork.actors.mine()
    quiet = await trips()
    comet.supply(fork.actors, driver.market, CAROL, "USDC", 10 * USDC)
    await trips()
    with fork.actors.block():
        fork.actors.send(CAROL, driver.market.comet, "withdraw(address,uint256)", token(fork, "USDC"), 1)
    one = await trips()
    with fork.actors.block():
        for number in range(30):
            to = account(f"comet receiver {number}")
            fork.actors.send(RIVAL, driver.market.comet, "transfer(address,uint256)", to, 5 * USDC)
    many = await trips()
    assert (quiet, one, many) == (1, 2, 2)


async def test_a_feed_that_fails_makes_its_holders_unknown(fork: Fork, driver: CometDriver) -> None:
    """A collateral's feed: who holds it is unknown, others go on. The base token's: nothing is decided at all."""
    fall(fork)
    fork.actors.set_price("LINK", 0)
    head = await driver.follow()
    assert trusted(driver)
    assert driver.book.unknown_assets() == {token(fork, "LINK")}
    assert ALICE in driver.book.screen(head.timestamp)
    assert driver.book.account(ALICE, head.timestamp) is None
    assert position(driver, ALICE) is None
    assert on_sale(driver, position(driver, BOB)) == [("WETH", 25 * ETHER, ())]
    assert ("price_unknown", f"comet: no price feed answers for {token(fork, 'LINK')}") in driver.alerts.seen
    assert driver.differences([ALICE, BOB, RIVAL]) == []
    fork.actors.set_price("LINK", FALLEN["LINK"])
    await driver.follow()
    assert position(driver, ALICE) is not None
    fork.actors.set_price("USDC", 0)
    await driver.follow()
    assert not trusted(driver)
    assert "no price of USDC" in driver.book.status.reason
    assert position(driver, BOB) is None
    fork.actors.set_price("USDC", TODAY["USDC"])
    await driver.follow()
    assert trusted(driver)


@pytest.mark.parametrize(("flag", "reason"), [(3, "absorbing is paused"), (4, "buying collateral is paused")])
async def test_pauses_are_told(fork: Fork, driver: CometDriver, flag: int, reason: str) -> None:
    """Accounts stay visible with the reason; a store front that may not sell offers nothing."""
    fall(fork)
    fork.actors.send(RIVAL, driver.market.comet, "absorb(address,address[])", RIVAL, [BOB])
    flags = [number == flag for number in range(5)]
    fork.actors.send(RIVAL, driver.market.comet, "pause(bool,bool,bool,bool,bool)", *flags)
    head = await driver.follow()
    found = position(driver, ALICE)
    assert found is not None
    assert found.pairs == ()
    assert [refusal.reason for refusal in found.refusals] == [SkipReason.NO_PAIR]
    assert reason in found.refusals[0].detail
    weth = token(fork, "WETH")
    assert (weth in driver.book.screen(head.timestamp + 12)) is (flag == 3)
    assert (position(driver, weth) is None) is (flag == 4)
    fork.actors.send(RIVAL, driver.market.comet, "pause(bool,bool,bool,bool,bool)", *[False] * 5)
    await driver.follow()
    assert len(on_sale(driver, position(driver, ALICE))) == 2


async def test_nothing_is_sold_while_there_are_reserves_enough(fork: Fork, driver: CometDriver) -> None:
    """With reserves at the target the front is closed, unless the absorb itself takes them below it."""
    market = driver.market
    fall(fork)
    fork.actors.fund(market.comet, "USDC", 501_000 * USDC)
    comet.upgrade(fork.actors, MODEL, market, replace(USDC_MARKET, target_reserves=1_000))
    await driver.follow()
    found = position(driver, BOB)
    assert found is not None
    assert found.pairs == ()
    (refusal,) = found.refusals
    assert refusal.reason is SkipReason.NO_PAIR
    assert refusal.numbers["reserves"] > refusal.numbers["target_reserves"] == 1_000 * USDC
    comet.upgrade(fork.actors, MODEL, market, replace(USDC_MARKET, target_reserves=500_000))
    head = await driver.follow()
    before = fork.rpc.view(market.comet, "getReserves()", returns="int256")
    assert before >= 500_000 * USDC
    assert on_sale(driver, position(driver, BOB)) == [("WETH", 25 * ETHER, ())]
    assert driver.book.screen(head.timestamp + 12)
    with fork.actors.block(12):
        fork.actors.send(RIVAL, market.comet, "absorb(address,address[])", RIVAL, [BOB])
        fork.actors.fund(RIVAL, "USDC", 1_000 * USDC)
        fork.actors.approve(RIVAL, market.comet, "USDC")
        signature = "buyCollateral(address,uint256,uint256,address)"
        fork.actors.send(RIVAL, market.comet, signature, token(fork, "WETH"), 1, 1_000 * USDC, RIVAL)


async def test_an_upgrade_is_noticed(fork: Fork, driver: CometDriver) -> None:
    """Factors, discounts and another collateral come with the implementation; a reorganisation takes them back."""
    market, book = driver.market, driver.book
    listed = (*USDC_MARKET.collaterals, comet.Collateral("DAI", 7_000, 7_500, 9_000))
    was = [asset.liquidate_factor for asset in book.market.assets]
    snapshot = fork.rpc.request("evm_snapshot")
    changed = comet.upgrade(fork.actors, MODEL, market, replace(USDC_MARKET, front_factor=10_000, collaterals=listed))
    await driver.follow()
    assert book.market.front_factor == WAD
    assert [asset.token.symbol for asset in book.market.assets][-1] == "DAI"
    comet.open_account(fork.actors, changed, CAROL, {"DAI": 50_000 * ETHER}, 1_200, TODAY)
    await driver.follow()
    assert driver.differences([ALICE, BOB, CAROL, RIVAL]) == []
    assert fork.rpc.request("evm_revert", snapshot)
    fork.actors.mine()
    await driver.follow()
    assert [asset.liquidate_factor for asset in book.market.assets] == was
    assert driver.differences([ALICE, BOB, CAROL, RIVAL]) == []


async def test_unknown_rules_are_only_looked_at(fork: Fork, driver: CometDriver) -> None:
    """An implementation that absorbs accounts in part makes the market read-only, and a person is told once."""
    fall(fork)
    other = comet.deploy_implementation(fork.actors, MODEL, USDC_MARKET, "CometModelPartial")
    fork.actors.send(RIVAL, driver.market.comet, "upgradeTo(address)", other)
    head = await driver.follow()
    assert driver.book.read_only
    assert not trusted(driver)
    assert "read-only" in driver.book.status.reason
    assert BOB in driver.book.screen(head.timestamp + 12)
    fork.actors.send(RIVAL, driver.market.comet, "upgradeTo(address)", other)
    await driver.follow()
    assert [name for name, _ in driver.alerts.seen].count("unknown_rules") == 1


async def test_an_account_that_only_accrual_makes_liquidatable(fork: Fork, driver: CometDriver) -> None:
    """`isLiquidatable` judges by the stored index and says no; the book judges as `absorb` does, which succeeds."""
    debt = comet.open_account(fork.actors, driver.market, CAROL, {"WETH": 10 * ETHER}, 1_100, TODAY)
    head = await driver.follow()
    found = driver.book.account(CAROL, head.timestamp)
    assert found is not None
    rate = fork.rpc.view(driver.market.comet, "getUtilization()", returns="uint256")
    assert rate > 0
    assert debt
    fork.actors.mine(4 * 365 * 86_400)
    head = await driver.follow()
    ripe = driver.book.account(CAROL, head.timestamp)
    assert ripe is not None
    assert ripe.health_factor < found.health_factor
    for _ in range(6):
        if ripe.health_factor < WAD:
            break
        fork.actors.mine(2 * 365 * 86_400)
        head = await driver.follow()
        ripe = driver.book.account(CAROL, head.timestamp)
        assert ripe is not None
    assert ripe.health_factor < WAD
    assert not fork.rpc.view(driver.market.comet, "isLiquidatable(address)", CAROL, returns="bool")
    assert CAROL in driver.book.screen(head.timestamp)
    fork.actors.send(RIVAL, driver.market.comet, "absorb(address,address[])", RIVAL, [CAROL])
    await driver.follow()
    assert driver.differences([ALICE, BOB, CAROL, RIVAL]) == []


async def test_tokens_that_are_missing_are_named(fork: Fork, driver: CometDriver) -> None:
    """When the contract holds less than it owes, nothing of that collateral is offered."""
    fall(fork)
    fork.actors.send(driver.market.comet, token(fork, "LINK"), "transfer(address,uint256)", RIVAL, 10 * ETHER)
    await driver.follow()
    found = position(driver, ALICE)
    assert [symbol for symbol, *_ in on_sale(driver, found)] == ["WETH", "WETH"]
    assert found is not None
    assert [refusal.reason for refusal in found.refusals] == [SkipReason.COLLATERAL_DRAINED]


async def test_dust_is_left_alone(fork: Fork, driver: CometDriver) -> None:
    """A wei given to the contract is no position, and cannot be bought for a whole base unit."""
    fork.actors.fund(driver.market.comet, "WETH", 1)
    fork.actors.fund(driver.market.comet, "LINK", 1_000)
    head = await driver.follow()
    assert driver.book.screen(head.timestamp + 12) == []
    assert position(driver, token(fork, "WETH")) is None
    comet.open_account(fork.actors, driver.market, CAROL, {"WBTC": 10**8}, 990, FALLEN)
    comet.supply(fork.actors, driver.market, CAROL, "LINK", 10)
    fall(fork)
    await driver.follow()
    found = position(driver, CAROL)
    assert found is not None
    assert [pair.collateral.symbol for pair in found.pairs] == ["WBTC"]
    assert [refusal.reason for refusal in found.refusals] == [SkipReason.DUST_HOLE]


async def test_liquidations_of_others_are_seen(fork: Fork, driver: CometDriver) -> None:
    """An absorb pays nothing; a purchase belongs to the collateral, or to whom the same transaction absorbed."""
    market, weth = driver.market, token(fork, "WETH")
    fall(fork)
    await driver.follow()
    fork.actors.fund(RIVAL, "USDC", 5_000 * USDC)
    fork.actors.approve(RIVAL, market.comet, "USDC")
    with fork.actors.block():
        fork.actors.send(RIVAL, market.comet, "absorb(address,address[])", RIVAL, [ALICE, BOB])
        signature = "buyCollateral(address,uint256,uint256,address)"
        fork.actors.send(RIVAL, market.comet, signature, weth, 1, 3_000 * USDC, RIVAL)
    number = fork.rpc.number()
    watch = driver.book.liquidation_watch()
    seen = [
        item
        async for _, _, logs in driver.client.logs(watch, number, number)
        for item in driver.book.liquidations(logs)
    ]
    assert [(s.borrower, s.liquidator, s.repaid) for s in seen] == [
        (ALICE, RIVAL, 0),
        (BOB, RIVAL, 0),
        (weth, RIVAL, 3_000 * USDC),
    ]
    assert seen[2].gross is not None
    assert seen[2].gross > 0
    assert [s.gross for s in seen[:2]] == [0, 0]


async def test_near_lists_who_is_close(fork: Fork, driver: CometDriver) -> None:
    """Healthy accounts under a health factor, the largest debts first."""
    now = driver.heads[-1].timestamp
    factors = {a.borrower: a.health_factor for a in driver.book.accounts(now)}
    limit = max(factors.values()) + 1
    assert [a.borrower for a in driver.book.near(now, limit, 0, 9)] == [ALICE, BOB]
    assert [a.borrower for a in driver.book.near(now, limit, 0, 1)] == [ALICE]
    assert driver.book.near(now, min(factors.values()), 0, 9) == []
    assert [a.borrower for a in driver.book.near(now, limit, 70_000 * 10**8, 9)] == [ALICE]


async def test_history_must_be_whole(fork: Fork, client: NodeClient, driver: CometDriver) -> None:
    """A start block after the first accounts, and an address that is no Comet, are refused by what they lack."""
    late = replace(driver.market, start_block=fork.rpc.number())
    fork.actors.mine()
    other = CometDriver(client, fork.rpc, late, None, EXECUTOR)
    with pytest.raises(BadData, match="borrowers are missing"):
        await other.start()
    nowhere = CometDriver(client, fork.rpc, replace(driver.market, comet=RIVAL), None, EXECUTOR)
    with pytest.raises(ConfigError, match="give the market's Comet proxy"):
        await nowhere.start()


async def test_a_history_read_in_part_is_stored(client: NodeClient, driver: CometDriver) -> None:
    """Stored between two ranges of its history and gone on with, a book ends like one that was never interrupted."""
    head = await client.head()
    logs = [log async for _, _, found in client.logs(driver.book.watch(), 0, head.number) for log in found]
    blocks = sorted({log.block_number for log in logs})
    middle = blocks[len(blocks) // 2]
    half = driver.fresh()
    with pytest.raises(BadData, match="nothing to store"):
        half.snapshot()
    half.replay([log for log in logs if log.block_number <= middle])
    again = driver.fresh()
    again.restore(half.snapshot())
    assert again.history_from == middle + 1
    again.replay([log for log in logs if log.block_number > middle])
    assert again._ledger.users.keys() == driver.book._ledger.users.keys()
    for who, user in driver.book._ledger.users.items():
        other = again._ledger.users[who]
        assert dict(again._ledger.holdings(other)) == dict(driver.book._ledger.holdings(user)), who


async def test_stored_books_are_tied_to_their_deployment(driver: CometDriver) -> None:
    """A damaged snapshot, and one of another market or start block, are refused."""
    stored = driver.book.snapshot()
    with pytest.raises(BadData, match="damaged"):
        driver.fresh().restore(stored[:-1] + bytes([stored[-1] ^ 1]))
    with pytest.raises(BadData, match="another version"):
        driver.fresh().restore(b"nothing")
    other = CometBook("other", RIVAL, driver.market.start_block, None, EXECUTOR, Alerts())
    with pytest.raises(BadData, match="another deployment"):
        other.restore(stored)


async def test_twenty_four_assets(fork: Fork, client: NodeClient) -> None:
    """Offsets from 16 on live in another byte of the account; all of them are counted, absorbed and sold."""
    actors = fork.actors
    kind = own_contracts()["Token"]
    tokens: list[Address] = []
    for number in range(24):
        tokens.append(comet._create(actors, kind, f"Asset {number}", f"A{number}", (6, 8, 18)[number % 3]))
    contracts = comet_contracts(MODEL)
    feed = fork.world.feeds["WETH"].proxy
    factors = [[8 * WAD // 10, 85 * WAD // 100, 93 * WAD // 100]] * 24
    assets = comet._create(actors, contracts["CometModelAssets"], tokens, [feed] * 24, factors)
    usdc = fork.world.tokens["USDC"].address
    rates = [9 * WAD // 10, 10**9, 10**11, 0] * 2
    model = comet._create(
        actors, contracts["CometModel"], usdc, fork.world.feeds["USDC"].proxy, assets, rates, WAD // 2, USDC, 10**15
    )
    proxy = comet._create(actors, contracts["CometModelProxy"], model)
    actors.send(RIVAL, proxy, "initializeStorage()")
    market = CometMarket("wide", proxy, 1, USDC_MARKET)
    comet.supply(actors, market, RIVAL, "USDC", 10_000_000 * USDC)
    held = (0, 7, 15, 16, 17, 23)
    with actors.block():
        for number in held:
            amount = 10 ** (6, 8, 18)[number % 3]
            actors.send(RIVAL, tokens[number], "mint(address,uint256)", ALICE, amount)
            actors.send(ALICE, tokens[number], "approve(address,uint256)", proxy, amount)
            actors.send(ALICE, proxy, "supply(address,uint256)", tokens[number], amount)
    actors.send(ALICE, proxy, "withdraw(address,uint256)", usdc, 14_000 * USDC)
    driver = CometDriver(client, fork.rpc, market, None, EXECUTOR)
    await driver.start()
    assert driver.differences([ALICE, RIVAL]) == []
    assert await driver.book.audit(client, driver.heads[-1], 5) is None
    fall(fork)
    await driver.follow()
    found = position(driver, ALICE)
    assert [symbol for symbol, *_ in on_sale(driver, found)] == [f"A{number}" for number in held]
    actors.send(RIVAL, proxy, "absorb(address,address[])", RIVAL, [ALICE])
    head = await driver.follow()
    assert driver.differences([ALICE, RIVAL]) == []
    assert set(driver.book.screen(head.timestamp + 12)) == {tokens[number] for number in held}


async def test_quotes_equal_the_contracts(fork: Fork, driver: CometDriver) -> None:
    """What a purchase brings equals quoteCollateral for amounts of every size, and one more base unit is too much."""
    fall(fork)
    head = await driver.follow()
    found = position(driver, ALICE)
    assert found is not None
    for pair in found.pairs:
        ((low, high),) = pair.feasible
        assert isinstance(pair, CometPair)
        for repay in {low, high, (low + high) // 2, low + (high - low) // 7}:
            read = Read(driver.market.comet, COMET.encode("quoteCollateral", pair.collateral.address, repay))
            (answer,) = await driver.client.read((read,), head)
            assert COMET.decode("quoteCollateral", answer)[0] == pair.seize(repay).seized
        assert low == 1 or pair.offer.quote(low - 1) == 0
        assert pair.offer.quote(high) <= pair.on_sale


async def test_books_can_be_looked_at_under_other_prices(fork: Fork, driver: CometDriver) -> None:
    """As if a pending update of a feed had been mined: liquidatable there, healthy here."""
    head = driver.heads[-1]
    sources = await driver.book.price_sources(driver.client, head)
    assert sources[token(fork, "WETH")] == fork.world.feeds["WETH"].proxy
    assert sources[token(fork, "USDC")] == fork.world.feeds["USDC"].proxy
    view = driver.book.with_prices({token(fork, "WETH"): FALLEN["WETH"], token(fork, "LINK"): FALLEN["LINK"]})
    assert set(view.screen(head.timestamp + 12)) == {ALICE, BOB}
    assert view.position(BOB, head.timestamp + 12) is not None
    assert driver.book.screen(head.timestamp + 12) == []
    assert address(token(fork, "WETH")) in driver.book.prices()
