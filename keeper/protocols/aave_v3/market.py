"""A market's parameters as its contracts state them at one block, read with a handful of batched requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keeper.abi import Interface, interface
from keeper.errors import BadData, ConfigError
from keeper.model import ZERO_ADDRESS, Address, Head, Read, Token, address
from keeper.ports import Client
from keeper.protocols.aave_v3.rules import NEWEST, RULES, Rules

PROVIDER = interface("aave_provider")
POOL = interface("aave_pool")
ORACLE = interface("aave_oracle")
TOKEN = interface("aave_token")
STABLE = interface("aave_stable_debt_token")
ERC20 = interface("erc20")

_ALL_CATEGORIES = range(1, 256)


@dataclass(frozen=True, slots=True)
class Reserve:
    """One listed asset. `config` is the packed word of ReserveConfiguration; times are Unix seconds."""

    id: int
    token: Token
    a_token: Address
    v_token: Address
    stable_token: Address | None
    config: int
    grace_until: int
    stable_supply: int

    def _bits(self, first: int, width: int) -> int:
        return self.config >> first & (1 << width) - 1

    @property
    def threshold(self) -> int:
        """Liquidation threshold outside e-modes, bps."""
        return self._bits(16, 16)

    @property
    def bonus(self) -> int:
        """Liquidation bonus outside e-modes, bps (10,500 = 5 %)."""
        return self._bits(32, 16)

    @property
    def unit(self) -> int:
        """Base units of one whole token, by the reserve's own decimals."""
        return int(10 ** self._bits(48, 8))

    @property
    def active(self) -> bool:
        return bool(self._bits(56, 1))

    @property
    def paused(self) -> bool:
        return bool(self._bits(60, 1))

    @property
    def flash_enabled(self) -> bool:
        return bool(self._bits(63, 1))

    @property
    def protocol_fee(self) -> int:
        """Share of the bonus that goes to the protocol, bps."""
        return self._bits(152, 16)

    @property
    def emode_category(self) -> int:
        """The one e-mode category of the asset (until 3.1)."""
        return self._bits(168, 8)

    @property
    def virtual(self) -> bool:
        """Its underlying is accounted for (3.1 to 3.3 know an exception: GHO)."""
        return bool(self._bits(252, 1))


@dataclass(frozen=True, slots=True)
class Category:
    """An efficiency mode: which reserves count as its collateral, and how."""

    id: int
    threshold: int  # bps
    bonus: int  # bps
    collaterals: int  # bitmap by reserve id
    price_source: Address | None


@dataclass(frozen=True, slots=True)
class State:
    """What moves with every action on a reserve: indices and rates in ray, at `updated`."""

    supply_index: int
    supply_rate: int
    debt_index: int
    debt_rate: int
    updated: int


@dataclass(frozen=True, slots=True)
class Market:
    """Everything governance decides, at one block."""

    pool: Address
    configurator: Address
    oracle: Address
    sentinel: Address | None
    revision: int
    rules: Rules
    premium: int  # flash loans, bps
    base_unit: int
    reserves: Mapping[int, Reserve]
    categories: Mapping[int, Category]
    by_asset: Mapping[Address, int] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Its rules are in the table."""
        return self.revision in RULES


@dataclass(frozen=True, slots=True)
class Reading:
    """A market and the moving state that came with it."""

    market: Market
    states: Mapping[int, State]
    available: Mapping[int, int]  # underlying that can leave, base units


class _Batch:
    """Views collected first and read in one request, each with the function that takes its answer."""

    def __init__(self, client: Client, head: Head) -> None:
        self._client, self._head = client, head
        self._reads: list[Read] = []

    def add(self, to: Address, contract: Interface, name: str, *args: Any) -> int:
        self._reads.append(Read(to, contract.encode(name, *args)))
        return len(self._reads) - 1

    async def run(self) -> Sequence[bytes | None]:
        if not self._reads:
            return []
        return await self._client.read(tuple(self._reads), self._head)


async def locate(client: Client, head: Head, provider: Address) -> tuple[Address, Address, Address, Address | None]:
    """Pool, configurator, oracle and sentinel; raises ConfigError when there is no provider at the address."""
    batch = _Batch(client, head)
    names = ("getPool", "getPoolConfigurator", "getPriceOracle", "getPriceOracleSentinel")
    for name in names:
        batch.add(provider, PROVIDER, name)
    answers = await batch.run()
    if not answers[0]:
        raise ConfigError(
            f"{provider} does not answer getPool() at block {head.number}: "
            "give the market's PoolAddressesProvider on this chain"
        )
    pool, configurator, oracle, sentinel = (
        address(PROVIDER.decode(name, answer)[0]) for name, answer in zip(names, answers, strict=True)
    )
    return pool, configurator, oracle, None if sentinel == ZERO_ADDRESS else sentinel


async def read_market(client: Client, head: Head, provider: Address, categories: Iterable[int] | None) -> Reading:
    """The market at `head`. `categories` limits which e-modes are looked at (None: all 255)."""
    pool, configurator, oracle, sentinel = await locate(client, head, provider)
    batch = _Batch(client, head)
    for name in ("POOL_REVISION", "getReservesList", "FLASHLOAN_PREMIUM_TOTAL"):
        batch.add(pool, POOL, name)
    batch.add(oracle, ORACLE, "BASE_CURRENCY_UNIT")
    answers = await batch.run()
    (revision,) = POOL.decode("POOL_REVISION", answers[0])
    assets = [address(item) for item in POOL.decode("getReservesList", answers[1])[0]]
    (premium,) = POOL.decode("FLASHLOAN_PREMIUM_TOTAL", answers[2])
    (base_unit,) = ORACLE.decode("BASE_CURRENCY_UNIT", answers[3])
    rules = RULES.get(revision, NEWEST)
    # A revision without rules may lack a view: then only what cannot be shown without it is missing.
    strict = revision in RULES
    reserves, states = await _read_reserves(client, head, pool, assets, rules, strict=strict)
    found = await _read_categories(client, head, pool, rules, reserves, categories, strict=strict)
    market = Market(
        pool,
        configurator,
        oracle,
        sentinel,
        revision,
        rules,
        premium,
        base_unit,
        reserves,
        found,
        {reserve.token.address: reserve.id for reserve in reserves.values()},
    )
    answers = await client.read(tuple(available_read(market, i) for i in reserves), head) if reserves else []
    available = {i: available_answer(answer) or 0 for i, answer in zip(reserves, answers, strict=True)}
    return Reading(market, states, available)


async def _read_reserves(
    client: Client, head: Head, pool: Address, assets: Sequence[Address], rules: Rules, *, strict: bool
) -> tuple[dict[int, Reserve], dict[int, State]]:
    batch = _Batch(client, head)
    for asset in assets:
        batch.add(pool, POOL, "getReserveData", asset)
        batch.add(asset, ERC20, "symbol")
        if rules.grace_period:
            batch.add(pool, POOL, "getLiquidationGracePeriod", asset)
    answers = iter(await batch.run())
    rows = []
    for asset in assets:
        data = POOL.decode("getReserveData", next(answers))
        symbol = symbol_of(next(answers)) or asset[:10]
        until = next(answers) if rules.grace_period else None
        missing = not rules.grace_period or (until is None and not strict)
        grace = 0 if missing else POOL.decode("getLiquidationGracePeriod", until)[0]
        rows.append((asset, data, symbol, int(grace)))
    # A stable debt token that is no token (3.2 and later leave zero or a stub) answers nothing and is ignored.
    stable = {row[0]: address(row[1][9]) for row in rows}
    supplies = await client.read(tuple(Read(s, STABLE.encode("totalSupply")) for s in stable.values()), head)
    reserves: dict[int, Reserve] = {}
    states: dict[int, State] = {}
    for (asset, data, symbol, grace), supply in zip(rows, supplies, strict=True):
        config, supply_index, supply_rate, debt_index, debt_rate, _, updated, number = data[:8]
        total = int.from_bytes(supply, "big") if supply else None
        reserves[number] = Reserve(
            id=number,
            token=Token(asset, symbol, config >> 48 & 0xFF),
            a_token=address(data[8]),
            v_token=address(data[10]),
            stable_token=None if total is None else stable[asset],
            config=config,
            grace_until=grace,
            stable_supply=total or 0,
        )
        states[number] = State(supply_index, supply_rate, debt_index, debt_rate, updated)
    return reserves, states


async def _read_categories(
    client: Client,
    head: Head,
    pool: Address,
    rules: Rules,
    reserves: Mapping[int, Reserve],
    wanted: Iterable[int] | None,
    *,
    strict: bool,
) -> dict[int, Category]:
    ids = sorted(_ALL_CATEGORIES if wanted is None else set(wanted) - {0})
    name = "getEModeCategoryCollateralConfig" if rules.liquid_emodes else "getEModeCategoryData"
    batch = _Batch(client, head)
    for number in ids:
        batch.add(pool, POOL, name, number)
    found: dict[int, Category] = {}
    for number, answer in zip(ids, await batch.run(), strict=True):
        if answer is None and not strict:
            continue
        if rules.liquid_emodes:
            _, threshold, bonus = POOL.decode(name, answer)
            source = ZERO_ADDRESS
        else:
            _, threshold, bonus, source, _ = POOL.decode(name, answer)[0]
        members = sum(1 << r.id for r in reserves.values() if r.emode_category == number)
        price_source = address(source)
        found[number] = Category(
            number, threshold, bonus, members, None if price_source == ZERO_ADDRESS else price_source
        )
    used = {n: c for n, c in found.items() if c.threshold or c.bonus}
    if rules.liquid_emodes and used:
        batch = _Batch(client, head)
        for number in used:
            batch.add(pool, POOL, "getEModeCategoryCollateralBitmap", number)
        for (number, category), answer in zip(used.items(), await batch.run(), strict=True):
            (bitmap,) = POOL.decode("getEModeCategoryCollateralBitmap", answer)
            found[number] = Category(number, category.threshold, category.bonus, bitmap, None)
    return {n: found[n] for n in used}


def available_read(market: Market, reserve: int) -> Read:
    """The view that tells how much underlying can leave a reserve."""
    listed = market.reserves[reserve]
    if market.rules.virtual_balance:
        return Read(market.pool, POOL.encode("getVirtualUnderlyingBalance", listed.token.address))
    return Read(listed.token.address, ERC20.encode("balanceOf", listed.a_token))


def available_answer(answer: bytes | None) -> int | None:
    """Base units, or None when the view did not answer."""
    return int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else None


def symbol_of(answer: bytes | None) -> str:
    """A token's symbol as `string` or, for old tokens, `bytes32`; empty when it tells none."""
    if not answer:
        return ""
    if len(answer) == 32:
        return answer.rstrip(b"\0").decode("utf-8", "replace")
    try:
        return str(ERC20.decode("symbol", answer)[0])
    except BadData:
        return ""


def price_keys(market: Market) -> tuple[Address, ...]:
    """What the oracle is asked for: every reserve's asset, then every e-mode price source."""
    keys = [reserve.token.address for reserve in market.reserves.values()]
    if market.rules.emode_price_source:
        keys += sorted({c.price_source for c in market.categories.values() if c.price_source} - set(keys))
    return tuple(keys)
