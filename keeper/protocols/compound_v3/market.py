"""A market's parameters: immutables of the implementation, read anew when the proxy says that it was upgraded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keeper.errors import BadData, ConfigError
from keeper.model import Address, Head, Read, Token, address
from keeper.ports import Client
from keeper.protocols.compound_v3.arithmetic import Curve
from keeper.protocols.compound_v3.contract import COMET, ERC20, MOST_ASSETS, AssetInfo, asset_info, number

PRICE_UNIT = 10**8  # every feed has 8 decimals (Comet's constructor insists)

_NUMBERS = ("baseScale", "numAssets", "storeFrontPriceFactor", "targetReserves")
_CURVE = ("Kink", "PerSecondInterestRateSlopeLow", "PerSecondInterestRateSlopeHigh", "PerSecondInterestRateBase")
_CURVES = tuple(f"{side}{part}" for side in ("supply", "borrow") for part in _CURVE)


@dataclass(frozen=True, slots=True)
class Asset:
    """One collateral asset; factors are wad."""

    offset: int
    token: Token
    feed: Address
    scale: int
    liquidate_factor: int  # of its value, what counts against liquidation
    liquidation_factor: int  # of its value, what an absorbed borrower is credited


@dataclass(frozen=True, slots=True)
class Market:
    """Everything governance decides, at one block."""

    comet: Address
    base: Token
    base_feed: Address
    base_scale: int
    supply_curve: Curve
    borrow_curve: Curve
    front_factor: int  # share of the liquidation penalty that buyers get as a discount, wad
    target_reserves: int  # base units; nothing is for sale while the reserves are at least this
    assets: tuple[Asset, ...]
    partial: bool  # absorbs only what a borrower must lose: rules that are not known here
    by_asset: Mapping[Address, Asset] = field(default_factory=dict)

    @property
    def feeds(self) -> tuple[Address, ...]:
        """The price feeds: the base token's, then every asset's."""
        return (self.base_feed, *(asset.feed for asset in self.assets))


async def read_market(client: Client, head: Head, comet: Address) -> Market:
    """The market at `head`; raises ConfigError when there is none at the address."""
    names = ("baseToken", "baseTokenPriceFeed", *_NUMBERS, *_CURVES)
    reads = [Read(comet, COMET.encode(name)) for name in names] + [Read(comet, COMET.encode("healthFactor", comet))]
    *answers, target = await client.read(reads, head)
    if not answers[0]:
        raise ConfigError(
            f"{comet} does not answer baseToken() at block {head.number}: give the market's Comet proxy on this chain"
        )
    found = {name: COMET.decode(name, answer)[0] for name, answer in zip(names, answers, strict=True)}
    if found["numAssets"] > MOST_ASSETS:
        raise BadData(f"{comet} lists {found['numAssets']} assets, {MOST_ASSETS} are understood")
    rows = await client.read([Read(comet, COMET.encode("getAssetInfo", i)) for i in range(found["numAssets"])], head)
    infos = [asset_info(row) for row in rows]
    base = address(found["baseToken"])
    tokens = await _tokens(client, head, (base, *(info.address for info in infos)))
    assets = tuple(_asset(info, tokens[info.address]) for info in infos)
    curves = [Curve(*(found[f"{side}{part}"] for part in _CURVE)) for side in ("supply", "borrow")]
    return Market(
        comet=comet,
        base=tokens[base],
        base_feed=address(found["baseTokenPriceFeed"]),
        base_scale=found["baseScale"],
        supply_curve=curves[0],
        borrow_curve=curves[1],
        front_factor=found["storeFrontPriceFactor"],
        target_reserves=found["targetReserves"],
        assets=assets,
        partial=number(target) is not None,
        by_asset={asset.token.address: asset for asset in assets},
    )


def _asset(info: AssetInfo, token: Token) -> Asset:
    return Asset(info.offset, token, info.feed, info.scale, info.liquidate_factor, info.liquidation_factor)


async def _tokens(client: Client, head: Head, addresses: tuple[Address, ...]) -> dict[Address, Token]:
    reads = [Read(item, ERC20.encode(name)) for item in addresses for name in ("symbol", "decimals")]
    answers = await client.read(reads, head)
    found = {}
    for item, symbol, decimals in zip(addresses, answers[::2], answers[1::2], strict=True):
        (places,) = ERC20.decode("decimals", decimals)
        found[item] = Token(item, _symbol(symbol) or item[:10], places)
    return found


def _symbol(answer: bytes | None) -> str:
    """As `string` or, for old tokens, `bytes32`; empty when it tells none."""
    if not answer:
        return ""
    if len(answer) == 32:
        return answer.rstrip(b"\0").decode("utf-8", "replace")
    try:
        return str(ERC20.decode("symbol", answer)[0])
    except BadData:
        return ""
