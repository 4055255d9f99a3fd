"""What a word in the configuration stands for. Adding a protocol or a venue is adding files and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from keeper.config import Config, Market
from keeper.config import Venue as VenueTable
from keeper.errors import ConfigError
from keeper.model import ZERO_ADDRESS, Address, Head
from keeper.ports import Alerter, Book, Client, FlashSource, Venue
from keeper.protocols.aave_v3 import AaveV3Book, AaveV3Flash
from keeper.protocols.compound_v3 import CometBook
from keeper.protocols.morpho_blue import MorphoBlueBook, MorphoBlueFlash
from keeper.venues.balancer_v2.flash import BalancerV2Flash
from keeper.venues.balancer_v2.venue import BalancerV2
from keeper.venues.router import PoolSource
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.flash import UniswapV3Flash
from keeper.venues.uniswap_v3.venue import UniswapV3
from keeper.venues.uniswap_v4.flash import UniswapV4Flash
from keeper.venues.uniswap_v4.venue import UniswapV4
from keeper.venues.wrappers.erc4626 import Erc4626
from keeper.venues.wrappers.wsteth import WstEth


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every market is told about the process it lives in."""

    executor: Address
    wrapped_native: Address
    alerter: Alerter
    slack_seconds: int  # how late a liquidation may land and still be feasible
    undo_depth: int  # blocks


class TradingVenue(Venue, PoolSource, Protocol):
    """A venue as the composition root needs it: mirrored, tradable, and open to the router."""

    def follow(self, tokens: Iterable[Address]) -> None:
        """Add tokens whose pools matter."""

    @property
    def unsearched(self) -> frozenset[Address]:
        """Those of them whose pools, created before they were added, have yet to be found."""

    async def search(self, client: Client, head: Head) -> None:
        """Find these pools up to `head`, beside whatever else goes on; `refresh` then reads them."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A view that only a contract of the right kind answers: file under ``contracts_abi/``, function, arguments."""

    interface: str
    function: str
    arguments: tuple[int | str, ...]
    kind: str  # in the operator's words


MarketKind = Callable[[str, Market, Surroundings], tuple[Book, tuple[FlashSource, ...]]]
VenueKind = Callable[[str, VenueTable, Surroundings], tuple[TradingVenue, tuple[FlashSource, ...]]]


def _aave_v3(name: str, table: Market, around: Surroundings) -> tuple[Book, tuple[FlashSource, ...]]:
    book = AaveV3Book(
        name,
        table.address,
        table.start_block,
        around.wrapped_native,
        around.alerter,
        slack_seconds=around.slack_seconds,
        undo_depth=around.undo_depth,
    )
    return book, (AaveV3Flash(book, around.executor),)


def _compound_v3(name: str, table: Market, around: Surroundings) -> tuple[Book, tuple[FlashSource, ...]]:
    book = CometBook(
        name,
        table.address,
        table.start_block,
        around.wrapped_native,
        around.executor,
        around.alerter,
        slack_seconds=around.slack_seconds,
        undo_depth=around.undo_depth,
    )
    return book, ()


def _morpho_blue(name: str, table: Market, around: Surroundings) -> tuple[Book, tuple[FlashSource, ...]]:
    book = MorphoBlueBook(
        name,
        table.address,
        table.start_block,
        around.wrapped_native,
        around.alerter,
        factories=table.further,
        slack_seconds=around.slack_seconds,
        undo_depth=around.undo_depth,
    )
    return book, (MorphoBlueFlash(book),)


def _uniswap_v2(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    fee_bps = 30 if table.fee_bps is None else table.fee_bps
    return UniswapV2(table.address, table.start_block, (), fee_bps, name), ()


def _uniswap_v3(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    venue = UniswapV3(table.address, table.start_block, (), name)
    return venue, (UniswapV3Flash(venue, around.executor),)


def _uniswap_v4(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    venue = UniswapV4(table.address, table.start_block, (), around.executor, around.wrapped_native, name)
    return venue, (UniswapV4Flash(venue, around.executor),)


def _balancer_v2(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    venue = BalancerV2(table.address, table.creators, table.start_block, (), around.executor, name)
    return venue, (BalancerV2Flash(venue, around.executor),)


def _erc4626(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    return Erc4626(name, table.address, around.executor, table.holders), ()


def _wsteth(name: str, table: VenueTable, around: Surroundings) -> tuple[TradingVenue, tuple[FlashSource, ...]]:
    return WstEth(name, table.address, around.executor), ()


PROTOCOLS: dict[str, MarketKind] = {"aave_v3": _aave_v3, "compound_v3": _compound_v3, "morpho_blue": _morpho_blue}
VENUES: dict[str, VenueKind] = {
    "balancer_v2": _balancer_v2,
    "erc4626": _erc4626,
    "uniswap_v2": _uniswap_v2,
    "uniswap_v3": _uniswap_v3,
    "uniswap_v4": _uniswap_v4,
    "wsteth": _wsteth,
}
FEE_CONFIGURED = frozenset({"uniswap_v2"})  # kinds whose pools do not state their fee
FURTHER_CONFIGURED = frozenset({"morpho_blue"})  # kinds with contracts beside the root
CREATORS_CONFIGURED = frozenset({"balancer_v2"})  # kinds whose root knows pools of every sort
HOLDERS_CONFIGURED = frozenset({"erc4626"})  # kinds that may be limited by what somebody holds
PROBES: dict[str, Probe] = {
    "aave_v3": Probe("aave_provider", "getPool", (), "PoolAddressesProvider of Aave V3"),
    "compound_v3": Probe("comet", "baseToken", (), "Comet of Compound V3"),
    "morpho_blue": Probe("morpho_blue", "feeRecipient", (), "Morpho Blue"),
    "balancer_v2": Probe("balancer_vault", "getProtocolFeesCollector", (), "Vault of Balancer V2"),
    "erc4626": Probe("erc4626", "asset", (), "vault of ERC-4626"),
    "uniswap_v2": Probe("uniswap_v2_factory", "allPairsLength", (), "factory of Uniswap V2"),
    "uniswap_v3": Probe("uniswap_v3_factory", "feeAmountTickSpacing", (500,), "factory of Uniswap V3"),
    "uniswap_v4": Probe("uniswap_v4_manager", "protocolFeesAccrued", (ZERO_ADDRESS,), "PoolManager of Uniswap V4"),
    "wsteth": Probe("wsteth", "stETH", (), "wstETH of Lido"),
}


def check_words(config: Config) -> None:
    """Raise ConfigError naming every word that is not in the tables, and every key its kind has no use for."""
    wrong = [
        f"markets.{name}.protocol is {table.protocol!r}, known are {', '.join(sorted(PROTOCOLS))}"
        for name, table in config.markets.items()
        if table.protocol not in PROTOCOLS
    ] + [
        f"venues.{name}.kind is {table.kind!r}, known are {', '.join(sorted(VENUES))}"
        for name, table in config.venues.items()
        if table.kind not in VENUES
    ]
    wrong += [
        f"venues.{name}.fee_bps: pools of this kind state their own fees; remove the key"
        for name, table in config.venues.items()
        if table.kind in VENUES and table.kind not in FEE_CONFIGURED and table.fee_bps is not None
    ]
    wrong += [
        f"venues.{name}.creators: {'name' if table.kind in CREATORS_CONFIGURED else 'this kind has no use for'} "
        "the factories whose pools are traded"
        for name, table in config.venues.items()
        if table.kind in VENUES and (table.kind in CREATORS_CONFIGURED) != bool(table.creators)
    ]
    wrong += [
        f"venues.{name}.holders: this kind is not limited by what anybody holds; remove the key"
        for name, table in config.venues.items()
        if table.kind in VENUES and table.kind not in HOLDERS_CONFIGURED and table.holders
    ]
    wrong += [
        f"markets.{name}.further: markets of this kind have no further contracts; remove the key"
        for name, table in config.markets.items()
        if table.protocol in PROTOCOLS and table.protocol not in FURTHER_CONFIGURED and table.further
    ]
    if wrong:
        raise ConfigError("; ".join(wrong))
