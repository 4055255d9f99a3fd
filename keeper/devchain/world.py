"""The private chain's contents: built once from the real packages, then loaded from the cache."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from keeper.devchain.aave36 import build_aave36
from keeper.devchain.aave302 import build_aave302
from keeper.devchain.anvil import BLOCK_GAS_LIMIT, CHAIN_ID, Anvil, find_anvil
from keeper.devchain.artifacts import CONTRACTS, aave_302, own_contracts, package_version
from keeper.devchain.catalogue import (
    BASE_FEE,
    GENESIS,
    MAIN,
    MAIN_RESERVES,
    MORPHO_MARKETS,
    SECOND,
    SECOND_RESERVES,
    TOKENS,
    ReserveSpec,
    TokenSpec,
)
from keeper.devchain.deploy import Deployer
from keeper.devchain.lending import Market, ReserveTokens
from keeper.devchain.morpho import BORROW, SUPPLY, SUPPLY_COLLATERAL, Morpho, MorphoMarket, build_morpho
from keeper.devchain.store import digest, stored
from keeper.devchain.uniswap import Pool, Uniswap, build_uniswap, dollars
from keeper.model import Address, Token, address

_PACKAGES = (
    "@aave-dao/aave-v3-origin",
    "@aave/core-v3",
    "@bgd-labs/solidity-utils",
    "@morpho-org/morpho-blue",
    "@morpho-org/morpho-blue-bundlers",
    "@openzeppelin/contracts",
    "@openzeppelin/contracts-upgradeable",
    "@uniswap/v2-core",
    "@uniswap/v3-core",
    "@uniswap/v3-periphery",
    "solc",
    "solc-0.8.19",
)
# Every file whose text decides what the built chain contains.
_SOURCES = (
    "aave302",
    "aave36",
    "anvil",
    "artifacts",
    "calls",
    "catalogue",
    "deploy",
    "lending",
    "morpho",
    "uniswap",
    "world",
)
_BUILD_GAS = 60_000_000
_ETH = 10**18

# Chosen so that token addresses sort as on mainnet: WETH is token1 beside USDC, DAI and WBTC, token0 beside USDT.
DEPLOYER = address("0x" + "de" * 18 + "019f")
TREASURY = address("0x" + "7e" * 20)
STANDING_SUPPLIER = address("0x" + "5a" * 20)
STANDING_BORROWER = address("0x" + "5b" * 20)


@dataclass(frozen=True, slots=True)
class Feed:
    """A Chainlink-like feed: what consumers read, and who emitted the logs when the chain was built."""

    proxy: Address
    aggregator: Address


@dataclass(frozen=True, slots=True)
class World:
    """Addresses of everything on the chain. Tokens, feeds and reserves are looked up by symbol."""

    chain_id: int
    deployer: Address
    desk: Address
    tokens: Mapping[str, Token]
    feeds: Mapping[str, Feed]
    markets: Mapping[str, Market]
    uniswap: Uniswap
    morpho: Morpho
    height: int
    timestamp: int

    @property
    def main(self) -> Market:
        """The V3.6 market."""
        return self.markets[MAIN]

    @property
    def second(self) -> Market:
        """The V3.0.2 market."""
        return self.markets[SECOND]

    def symbol(self, token: str) -> str:
        """The symbol of a token's address; raises KeyError for a stranger."""
        return {known.address: symbol for symbol, known in self.tokens.items()}[address(token)]

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        uniswap = raw["uniswap"]
        uniswap["pools"] = tuple(Pool(**pool) for pool in uniswap["pools"])
        return cls(
            **raw
            | {
                "tokens": {s: Token(**token) for s, token in raw["tokens"].items()},
                "feeds": {s: Feed(**feed) for s, feed in raw["feeds"].items()},
                "markets": {name: _market(market) for name, market in raw["markets"].items()},
                "uniswap": Uniswap(**uniswap),
                "morpho": _morpho(raw["morpho"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Built:
    """A finished world on disk."""

    world: World
    state: Path

    def start(self, **options: Any) -> Anvil:
        """An anvil (not yet entered) that will carry this world; options as `Anvil` takes them."""
        return Anvil(chain_id=self.world.chain_id, load_state=self.state, **options)


def ensure_world() -> Built:
    """The built world, from the cache or made now (about 20 s when nothing is compiled yet).

    Raises ConfigError when a package, node, anvil or the cache is missing, BuildFailed when a step reverts.
    """
    directory = stored(f"world/{_key()}", _build)
    return Built(World.from_json((directory / "world.json").read_text()), directory / "state.json")


def _key() -> str:
    here = Path(__file__).resolve().parent
    texts = [(here / f"{name}.py").read_text() for name in _SOURCES]
    texts += [path.read_text() for path in sorted(CONTRACTS.glob("*.sol"))]
    binary = Path(find_anvil()).resolve()
    return digest([[package_version(p) for p in _PACKAGES], texts, binary.stat().st_size])


def _build(directory: Path) -> None:
    with Anvil(timestamp=GENESIS, base_fee=BASE_FEE, gas_limit=BLOCK_GAS_LIMIT, impersonate=True) as anvil:
        rpc = anvil.rpc
        for who in (DEPLOYER, STANDING_SUPPLIER, STANDING_BORROWER):
            rpc.request("anvil_setBalance", who, hex(10**9 * _ETH))
        on = Deployer(rpc, DEPLOYER, _BUILD_GAS)
        tokens, feeds = _tokens_and_feeds(on)
        desk = on.deploy(own_contracts()["Desk"])
        for spec in TOKENS:
            _give(on, spec, tokens[spec.symbol], desk, dollars(spec.symbol, 50_000_000_000))
        proxies = {symbol: feed.proxy for symbol, feed in feeds.items()}
        main = build_aave36(on, MAIN, tokens, proxies, TREASURY)
        second = build_aave302(on, SECOND, tokens, proxies, TREASURY)
        uniswap = build_uniswap(on, tokens, desk)
        _seed(on, main, MAIN_RESERVES, tokens)
        _seed(on, second, SECOND_RESERVES, tokens)
        morpho = build_morpho(on, tokens, proxies)
        _seed_morpho(on, morpho, tokens)
        head = rpc.block()
        world = World(
            chain_id=CHAIN_ID,
            deployer=DEPLOYER,
            desk=desk,
            tokens={s.symbol: Token(tokens[s.symbol], s.symbol, s.decimals) for s in TOKENS},
            feeds=feeds,
            markets={MAIN: main, SECOND: second},
            uniswap=uniswap,
            morpho=morpho,
            height=int(head["number"], 16),
            timestamp=int(head["timestamp"], 16),
        )
        state = rpc.request("anvil_dumpState")
    (directory / "state.json").write_bytes(gzip.decompress(bytes.fromhex(state[2:])))
    (directory / "world.json").write_text(world.to_json())


def _tokens_and_feeds(on: Deployer) -> tuple[dict[str, Address], dict[str, Feed]]:
    own = own_contracts()
    tokens: dict[str, Address] = {}
    feeds: dict[str, Feed] = {}
    for spec in TOKENS:
        if spec.kind == "weth":
            tokens[spec.symbol] = on.deploy(aave_302("dependencies/weth/WETH9"))
        else:
            kind = own["SilentToken" if spec.kind == "silent" else "Token"]
            tokens[spec.symbol] = on.deploy(kind, spec.name, spec.symbol, spec.decimals)
        aggregator = on.deploy(own["FeedAggregator"], 8, f"{spec.symbol} / USD", spec.price)
        feeds[spec.symbol] = Feed(on.deploy(own["FeedProxy"], aggregator), aggregator)
    return tokens, feeds


def _give(on: Deployer, spec: TokenSpec, token: Address, to: Address, amount: int) -> None:
    if spec.kind == "weth":
        on.send(token, "deposit()", value=amount)
        on.send(token, "transfer(address,uint256)", to, amount)
    else:
        on.send(token, "mint(address,uint256)", to, amount)


def _seed(on: Deployer, market: Market, reserves: tuple[ReserveSpec, ...], tokens: Mapping[str, Address]) -> None:
    """Deep supply, and one standing borrower of part of it whose collateral is beyond any crash."""
    specs = {spec.symbol: spec for spec in TOKENS}
    for who, plan in (
        (STANDING_SUPPLIER, [(r.symbol, r.supply) for r in reserves]),
        (STANDING_BORROWER, [("WBTC", 60_000)]),
    ):
        for symbol, whole in plan:
            amount = whole * 10 ** specs[symbol].decimals
            _give(on, specs[symbol], tokens[symbol], who, amount)
        on.flush()
        acting = Deployer(on.rpc, who, _BUILD_GAS)
        for symbol, whole in plan:
            amount = whole * 10 ** specs[symbol].decimals
            acting.send(tokens[symbol], "approve(address,uint256)", market.pool, amount)
            acting.send(market.pool, "supply(address,uint256,address,uint16)", tokens[symbol], amount, who, 0)
        if who == STANDING_BORROWER:
            for reserve in reserves:
                amount = reserve.borrow * 10 ** specs[reserve.symbol].decimals
                signature = "borrow(address,uint256,uint256,uint16,address)"
                acting.send(market.pool, signature, tokens[reserve.symbol], amount, 2, 0, who)
        acting.flush()
        on.resume()


def _seed_morpho(on: Deployer, morpho: Morpho, tokens: Mapping[str, Address]) -> None:
    """Supply every market, and let the standing borrower owe a part of it."""
    specs = {spec.symbol: spec for spec in TOKENS}
    for spec in MORPHO_MARKETS:
        supplied = spec.supply * 10 ** specs[spec.loan].decimals
        worth = 20 * spec.borrow * specs[spec.loan].price // specs[spec.collateral].price + 1
        pledged = worth * 10 ** specs[spec.collateral].decimals
        _give(on, specs[spec.loan], tokens[spec.loan], STANDING_SUPPLIER, supplied)
        _give(on, specs[spec.collateral], tokens[spec.collateral], STANDING_BORROWER, pledged)
        on.flush()
        params = morpho.markets[spec.name].params
        acting = Deployer(on.rpc, STANDING_SUPPLIER, _BUILD_GAS)
        # The silent token wants its allowance taken back before it is changed.
        for amount in (0, supplied):
            acting.send(tokens[spec.loan], "approve(address,uint256)", morpho.address, amount)
        acting.send(morpho.address, SUPPLY, params, supplied, 0, STANDING_SUPPLIER, b"")
        acting.flush()
        acting = Deployer(on.rpc, STANDING_BORROWER, _BUILD_GAS)
        for amount in (0, pledged):
            acting.send(tokens[spec.collateral], "approve(address,uint256)", morpho.address, amount)
        acting.send(morpho.address, SUPPLY_COLLATERAL, params, pledged, STANDING_BORROWER, b"")
        owed = spec.borrow * 10 ** specs[spec.loan].decimals
        acting.send(morpho.address, BORROW, params, owed, 0, STANDING_BORROWER, STANDING_BORROWER)
        acting.flush()
        on.resume()


def _morpho(raw: dict[str, Any]) -> Morpho:
    return Morpho(**raw | {"markets": {name: MorphoMarket(**market) for name, market in raw["markets"].items()}})


def _market(raw: dict[str, Any]) -> Market:
    return Market(**raw | {"reserves": {s: ReserveTokens(**tokens) for s, tokens in raw["reserves"].items()}})
