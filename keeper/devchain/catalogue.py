"""The numbers of the private chain: tokens, prices, risk parameters and pools, of mainnet's order of magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GENESIS = 1_767_225_600  # 2026-01-01T00:00:00Z: a fixed birthday makes every build the same chain
BASE_FEE = 2 * 10**9  # wei per gas
USD = 10**8  # the oracle's base unit

MAIN = "aave_v36"
SECOND = "aave_v302"


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """`price` in USD with 8 decimals, `kind` the contract behind it."""

    symbol: str
    name: str
    decimals: int
    price: int
    kind: Literal["weth", "plain", "silent"] = "plain"


TOKENS = (
    TokenSpec("WETH", "Wrapped Ether", 18, 3_000 * USD, "weth"),
    TokenSpec("USDC", "USD Coin", 6, 99_990_000),
    TokenSpec("USDT", "Tether USD", 6, 100_010_000, "silent"),
    TokenSpec("DAI", "Dai Stablecoin", 18, 99_980_000),
    TokenSpec("WBTC", "Wrapped BTC", 8, 90_000 * USD),
    TokenSpec("wstETH", "Wrapped staked Ether", 18, 366_150_000_000),
    TokenSpec("LINK", "Chainlink Token", 18, 18 * USD),
    TokenSpec("CRV", "Curve DAO Token", 18, 62_000_000),
)
SPECS = {spec.symbol: spec for spec in TOKENS}


@dataclass(frozen=True, slots=True)
class ReserveSpec:
    """Risk parameters in basis points (`bonus` as the contract stores it: 10500 is 5 %); `supply` in whole tokens."""

    symbol: str
    ltv: int
    threshold: int
    bonus: int
    supply: int
    borrow: int  # whole tokens owed by the standing borrower, so that interest accrues
    optimal: int = 9_000
    base: int = 0
    slope1: int = 550
    slope2: int = 6_000
    factor: int = 1_500


@dataclass(frozen=True, slots=True)
class EModeSpec:
    """An efficiency mode; parameters in basis points."""

    number: int
    label: str
    ltv: int
    threshold: int
    bonus: int
    collateral: tuple[str, ...]
    borrowable: tuple[str, ...]


PROTOCOL_FEE = 1_000  # share of the liquidation bonus, bps

MAIN_RESERVES = (
    ReserveSpec("WETH", 8_050, 8_300, 10_500, 60_000, 30_000, 9_000, 0, 270, 8_000),
    ReserveSpec("USDC", 7_500, 7_800, 10_450, 300_000_000, 180_000_000, 9_200, 0, 550, 6_000, 1_000),
    ReserveSpec("USDT", 7_500, 7_800, 10_450, 300_000_000, 200_000_000, 9_200, 0, 550, 3_500, 1_000),
    ReserveSpec("DAI", 6_300, 7_700, 10_500, 100_000_000, 45_000_000, 9_200, 0, 550, 7_500, 2_500),
    ReserveSpec("WBTC", 7_300, 7_800, 10_500, 3_000, 200, 8_000, 0, 400, 30_000, 5_000),
    ReserveSpec("wstETH", 7_850, 8_100, 10_600, 40_000, 900, 8_000, 0, 450, 8_500, 500),
    ReserveSpec("LINK", 6_600, 7_100, 10_700, 2_000_000, 100_000, 4_500, 0, 700, 30_000, 2_000),
    ReserveSpec("CRV", 3_500, 4_100, 10_830, 20_000_000, 1_000_000, 7_000, 300, 1_400, 30_000, 3_500),
)
MAIN_EMODES = (
    EModeSpec(1, "ETH correlated", 9_300, 9_500, 10_100, ("WETH", "wstETH"), ("WETH",)),
    EModeSpec(2, "Stablecoins", 9_000, 9_300, 10_200, ("USDC", "USDT", "DAI"), ("USDC", "USDT", "DAI")),
)
MAIN_FLASH_PREMIUM = 5  # bps

SECOND_RESERVES = (
    ReserveSpec("DAI", 7_700, 8_000, 10_450, 80_000_000, 50_000_000, 8_000, 50, 400, 7_500, 1_000),
    ReserveSpec("WETH", 8_200, 8_300, 10_500, 30_000, 15_000, 9_000, 0, 250, 8_000),
    ReserveSpec("wstETH", 7_900, 8_000, 10_700, 20_000, 500, 4_500, 25, 450, 8_500),
    ReserveSpec("WBTC", 7_400, 7_500, 10_625, 1_500, 100, 4_500, 0, 700, 30_000, 2_000),
    ReserveSpec("USDC", 7_600, 7_800, 10_450, 100_000_000, 60_000_000, 9_000, 0, 400, 6_000),
    ReserveSpec("USDT", 7_500, 7_800, 10_450, 60_000_000, 36_000_000, 9_000, 0, 400, 7_500),
    ReserveSpec("LINK", 6_500, 6_800, 10_750, 500_000, 20_000, 4_500, 0, 700, 30_000, 2_000),
)
SECOND_EMODES = (EModeSpec(1, "ETH", 9_000, 9_300, 10_100, ("WETH", "wstETH"), ("WETH", "wstETH")),)
SECOND_FLASH_PREMIUM = 9  # bps


@dataclass(frozen=True, slots=True)
class MorphoSpec:
    """A Morpho Blue market: `lltv` in basis points, `supply` and `borrow` in whole loan tokens."""

    collateral: str
    loan: str
    lltv: int
    supply: int
    borrow: int  # by the standing borrower, whose collateral is beyond any crash

    @property
    def name(self) -> str:
        """Collateral and loan token, as the market is usually called."""
        return f"{self.collateral}/{self.loan}"


MORPHO_LLTVS = (3_850, 6_250, 7_700, 8_600, 9_150, 9_450, 9_650)
MORPHO_MARKETS = (
    MorphoSpec("WETH", "USDC", 8_600, 60_000_000, 50_000_000),
    MorphoSpec("WBTC", "USDC", 8_600, 80_000_000, 71_000_000),
    MorphoSpec("wstETH", "USDC", 8_600, 30_000_000, 24_000_000),
    MorphoSpec("wstETH", "WETH", 9_450, 20_000, 18_400),
    MorphoSpec("WBTC", "USDT", 8_600, 20_000_000, 15_000_000),
    MorphoSpec("LINK", "DAI", 7_700, 5_000_000, 2_000_000),
    MorphoSpec("WETH", "WBTC", 9_150, 300, 200),
    MorphoSpec("CRV", "USDC", 6_250, 2_000_000, 500_000),
)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool and its seeded value: `full` and `narrow` in USD per side, over the whole range and in `ranges` positions.

    `span` is the widest distance of a narrow position's edge from the present price, in basis points of price.
    """

    kind: Literal["v2", "v3"]
    tokens: tuple[str, str]
    full: int
    fee: int = 3_000
    narrow: int = 0
    ranges: int = 0
    span: int = 3_000


POOLS = (
    PoolSpec("v3", ("WETH", "USDC"), 6_000_000, 500, 45_000_000, 48),
    PoolSpec("v3", ("WETH", "USDC"), 8_000_000, 3_000, 20_000_000, 16),
    PoolSpec("v3", ("WETH", "USDC"), 200_000, 100, 1_000_000, 12, 1_000),
    PoolSpec("v3", ("WETH", "USDT"), 5_000_000, 500, 20_000_000, 24),
    PoolSpec("v3", ("WETH", "USDT"), 6_000_000, 3_000, 12_000_000, 12),
    PoolSpec("v3", ("WETH", "DAI"), 3_000_000, 3_000, 6_000_000, 10),
    PoolSpec("v3", ("USDC", "USDT"), 1_000_000, 100, 30_000_000, 16, 60),
    PoolSpec("v3", ("DAI", "USDC"), 1_000_000, 100, 25_000_000, 16, 60),
    PoolSpec("v3", ("WBTC", "WETH"), 6_000_000, 500, 20_000_000, 20),
    PoolSpec("v3", ("WBTC", "WETH"), 8_000_000, 3_000, 30_000_000, 14),
    PoolSpec("v3", ("WBTC", "USDC"), 4_000_000, 3_000, 8_000_000, 10),
    PoolSpec("v3", ("wstETH", "WETH"), 2_000_000, 100, 15_000_000, 16, 200),
    PoolSpec("v3", ("LINK", "WETH"), 4_000_000, 3_000, 6_000_000, 12),
    PoolSpec("v3", ("CRV", "WETH"), 60_000, 10_000, 40_000, 4, 4_000),  # the thin market
    PoolSpec("v2", ("WETH", "USDC"), 10_000_000),
    PoolSpec("v2", ("WETH", "USDT"), 8_000_000),
    PoolSpec("v2", ("DAI", "WETH"), 5_000_000),
    PoolSpec("v2", ("WBTC", "WETH"), 3_000_000),
    PoolSpec("v2", ("LINK", "WETH"), 1_000_000),
)
