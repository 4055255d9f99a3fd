"""A market crash with known borrowers: what the demo shows and rehearsals repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keeper.devchain.actors import Actors, account
from keeper.devchain.catalogue import (
    MAIN,
    MAIN_EMODES,
    MAIN_RESERVES,
    POOLS,
    SECOND,
    SECOND_EMODES,
    SECOND_RESERVES,
    SPECS,
    TOKENS,
)
from keeper.devchain.rpc import Rpc
from keeper.devchain.uniswap import positions
from keeper.devchain.world import World
from keeper.model import Address

# USD with 8 decimals. Ether, bitcoin and the long tail fall; staked ether and DAI lose some of their pegs as well.
CRASH: Mapping[str, int] = {spec.symbol: spec.price for spec in TOKENS} | {
    "WETH": 2_460 * 10**8,
    "wstETH": 288_238_000_000,
    "WBTC": 75_600 * 10**8,
    "LINK": 1_420_000_000,
    "CRV": 43_000_000,
    "DAI": 94_000_000,
}
GRACE_SECONDS = 3 * 3_600


class Expected(StrEnum):
    """What a keeper with the default settings should do after the crash."""

    LIQUIDATE = "liquidate"
    UNPROFITABLE = "unprofitable"  # liquidatable, but what is left after costs is below any sensible floor
    BARRED = "barred"  # liquidatable by its health, but the protocol forbids it for now
    REFUSED = "refused"  # liquidatable, at a price of the protocol's that the pools contradict
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Borrower:
    """One staged position: collateral in USD before the crash, debt in shares of what makes `health` true after it."""

    label: str
    market: str
    collateral: Mapping[str, int]
    debt: Mapping[str, int]  # symbol -> percent of the debt's value
    health: int  # health factor after the crash, in thousandths
    expected: Expected
    why: str
    emode: int = 0
    account: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "account", account(f"{self.market} {self.label}"))

    def known_as(self, world: World) -> str:
        """The market's name in the journal."""
        return self.market

    def health_factor(self, rpc: Rpc, world: World) -> int:
        """What the pool says; wad."""
        return Actors(rpc, world).standing(world.markets[self.market], self.account).health_factor


_TAKE, _NOT_WORTH, _BARRED, _FINE = Expected.LIQUIDATE, Expected.UNPROFITABLE, Expected.BARRED, Expected.HEALTHY

BORROWERS = (
    # label, market, collateral, debt, health, expected, why, e-mode
    Borrower("ether whale", MAIN, {"WETH": 12_000_000}, {"USDC": 100}, 985, _TAKE, "half of it, through many pools"),
    Borrower("deep under water", MAIN, {"WETH": 900_000}, {"USDT": 100}, 940, _TAKE, "below 0.95 all may be taken"),
    Borrower("bitcoin", MAIN, {"WBTC": 700_000}, {"USDC": 100}, 970, _TAKE, "one hop or two, whichever pays more"),
    Borrower("tether debt", MAIN, {"WBTC": 90_000}, {"USDT": 100}, 955, _TAKE, "the debt token returns nothing"),
    Borrower("staked ether loop", MAIN, {"wstETH": 1_500_000}, {"WETH": 100}, 985, _TAKE, "e-mode bonus of 1 %", 1),
    Borrower("stablecoin loop", MAIN, {"DAI": 800_000}, {"USDC": 100}, 975, _TAKE, "e-mode bonus of 2 %", 2),
    Borrower(
        "three collaterals", MAIN, {"WETH": 150_000, "WBTC": 120_000, "wstETH": 60_000}, {"USDC": 100}, 975, _TAKE,
        "one of three pairs is best",
    ),
    Borrower(
        "three debts", MAIN, {"WETH": 400_000}, {"USDC": 40, "DAI": 35, "USDT": 25}, 965, _TAKE,
        "the 50 % cap counts the whole position: the largest debt goes whole",
    ),
    Borrower("same asset", MAIN, {"USDC": 150_000, "WBTC": 120_000}, {"USDC": 100}, 985, _TAKE, "needs no swap at all"),
    Borrower("thin market", MAIN, {"CRV": 260_000}, {"USDC": 100}, 960, _TAKE, "the maximum would lose to slippage"),
    Borrower("dust hole", MAIN, {"WETH": 2_600, "WBTC": 3_100}, {"USDC": 100}, 975, _TAKE, "the maximum leaves dust"),
    Borrower("bad debt", MAIN, {"WETH": 40_000}, {"USDC": 100}, 862, _TAKE, "all collateral goes, a deficit remains"),
    Borrower("middling", MAIN, {"WETH": 30_000}, {"DAI": 100}, 945, _TAKE, "an ordinary one"),
    Borrower("small change", MAIN, {"WETH": 60}, {"USDC": 100}, 960, _NOT_WORTH, "the bonus is less than the gas"),
    Borrower("under grace", MAIN, {"LINK": 180_000}, {"USDC": 100}, 960, _BARRED, "grace period of its collateral"),
    Borrower("just healthy", MAIN, {"WETH": 500_000}, {"USDC": 100}, 1_012, _FINE, "survives by a hair"),
    Borrower("careful", MAIN, {"WBTC": 300_000}, {"DAI": 100}, 1_700, _FINE, "far from danger"),
    Borrower("staked whale", SECOND, {"wstETH": 5_000_000}, {"DAI": 100}, 980, _TAKE, "half of this reserve's debt"),
    Borrower("ether", SECOND, {"WETH": 600_000}, {"USDC": 100}, 930, _TAKE, "below 0.95 all may be taken"),
    Borrower("ether loop", SECOND, {"wstETH": 700_000}, {"WETH": 100}, 995, _TAKE, "the older revision's e-mode", 1),
    Borrower(
        "two and two", SECOND, {"WBTC": 160_000, "WETH": 140_000}, {"DAI": 50, "USDC": 50}, 970, _TAKE,
        "one of four pairs is best",
    ),
    Borrower("bitcoin again", SECOND, {"WBTC": 250_000}, {"USDT": 100}, 960, _TAKE, "an ordinary one"),
    Borrower("pennies", SECOND, {"WETH": 90}, {"DAI": 100}, 940, _NOT_WORTH, "the bonus is less than the gas"),
    Borrower("paused", SECOND, {"LINK": 120_000}, {"USDC": 100}, 960, _BARRED, "its collateral is paused"),
    Borrower("calm", SECOND, {"WETH": 200_000}, {"DAI": 100}, 1_030, _FINE, "survives the fall"),
)  # fmt: skip


def stage(world: World, rpc: Rpc, *, wall_clock: bool = False) -> tuple[Borrower, ...]:
    """Open every position on both markets and place the liquidity that waits at lower prices.

    Afterwards everybody is healthy; `crash` changes that. Mines about ten blocks, at the time of day with `wall_clock`.
    """
    actors = Actors(rpc, world, wall_clock=wall_clock)
    specs = [(spec, pool) for spec, pool in zip(POOLS, world.uniswap.pools, strict=True) if spec.kind == "v3"]
    for start in range(0, len(specs), 3):
        with actors.block():
            for number, (spec, pool) in enumerate(specs[start : start + 3], start):
                for lower, upper, liquidity in positions(spec, pool.token0, pool.token1, 1_000 + number, CRASH)[1:]:
                    actors.add_liquidity(pool, lower, upper, liquidity)
    for some in (BORROWERS[: len(BORROWERS) // 2], BORROWERS[len(BORROWERS) // 2 :]):
        with actors.block():
            for borrower in some:
                _open(actors, borrower)
    actors.set_pause(world.main, "LINK", paused=True)
    with actors.block():
        actors.set_pause(world.main, "LINK", paused=False, grace=GRACE_SECONDS)
        actors.set_pause(world.second, "LINK", paused=True)
    return BORROWERS


def crash(world: World, rpc: Rpc, *, wall_clock: bool = False) -> Mapping[str, int]:
    """Two blocks: trading takes every pool to the new prices, then the feeds follow. Returns the new prices."""
    actors = Actors(rpc, world, wall_clock=wall_clock)
    actors.align(CRASH)
    with actors.block():
        for symbol, price in CRASH.items():
            if actors.price(symbol) != price:
                actors.set_price(symbol, price)
    return CRASH


def _open(actors: Actors, borrower: Borrower) -> None:
    market, who = actors.world.markets[borrower.market], borrower.account
    for symbol, usd in borrower.collateral.items():
        amount = actors.worth(symbol, usd)
        actors.fund(who, symbol, amount)
        actors.supply(market, who, symbol, amount)
    if borrower.emode:
        actors.set_emode(market, who, borrower.emode)
    for symbol, amount in debts(borrower).items():
        actors.borrow(market, who, symbol, amount)


def debts(borrower: Borrower) -> dict[str, int]:
    """Base units of each debt that give the wanted health factor at the crash's prices."""
    weighted = 0
    for symbol, usd in borrower.collateral.items():
        after = usd * CRASH[symbol] * 10**8 // SPECS[symbol].price
        weighted += after * _threshold(borrower, symbol)
    total = weighted * 1_000 // (borrower.health * 10_000)
    return {
        symbol: total * percent // 100 * 10 ** SPECS[symbol].decimals // CRASH[symbol]
        for symbol, percent in borrower.debt.items()
    }


def _threshold(borrower: Borrower, symbol: str) -> int:
    modes, reserves = (MAIN_EMODES, MAIN_RESERVES) if borrower.market == MAIN else (SECOND_EMODES, SECOND_RESERVES)
    for mode in modes:
        if mode.number == borrower.emode and symbol in mode.collateral:
            return mode.threshold
    return next(reserve.threshold for reserve in reserves if reserve.symbol == symbol)
