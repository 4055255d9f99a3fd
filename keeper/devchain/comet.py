"""A Comet-like market on the private chain, from a Solidity file that is handed in: no package publishes the original.

The file must contain `CometModel`, `CometModelAssets` and `CometModelProxy` with the constructors used here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from keeper.devchain.actors import Actors
from keeper.devchain.artifacts import Artifact, package_version
from keeper.devchain.catalogue import SPECS
from keeper.devchain.solc import compile_standard
from keeper.devchain.store import digest, stored
from keeper.errors import ConfigError
from keeper.maths.percentage import BPS
from keeper.model import WAD, Address, address

_SETTINGS: dict[str, Any] = {"optimizer": {"enabled": True, "runs": 200}, "evmVersion": "shanghai", "viaIR": True}
_CONTRACTS = ("CometModel", "CometModelAssets", "CometModelProxy")
_YEAR = 365 * 86_400
_DEPLOY_GAS = 8_000_000


@dataclass(frozen=True, slots=True)
class Collateral:
    """A collateral's factors in basis points: for borrowing, against liquidation, and credited when absorbed."""

    symbol: str
    borrow: int
    liquidate: int
    liquidation: int


@dataclass(frozen=True, slots=True)
class CometSpec:
    """A market's parameters. Rates are percent a year; amounts are whole base tokens."""

    base: str
    collaterals: tuple[Collateral, ...]
    supply_rate: tuple[int, int, int, int] = (90, 3, 300, 0)  # kink, slope below, slope above, at no use
    borrow_rate: tuple[int, int, int, int] = (90, 4, 320, 1)
    front_factor: int = 6_000  # bps of the liquidation penalty that buyers get
    borrow_min: int = 100
    target_reserves: int = 5_000_000


USDC_MARKET = CometSpec(
    "USDC",
    (
        Collateral("WETH", 8_250, 8_950, 9_500),
        Collateral("WBTC", 7_000, 7_700, 9_000),
        Collateral("LINK", 6_500, 7_300, 8_500),
        Collateral("wstETH", 8_000, 8_500, 9_200),
    ),
)
WETH_MARKET = CometSpec(
    "WETH",
    (Collateral("wstETH", 8_800, 9_300, 9_750), Collateral("WBTC", 7_800, 8_300, 9_200)),
    borrow_min=1,
    target_reserves=1_000,
)


@dataclass(frozen=True, slots=True)
class CometMarket:
    """A deployed market; tokens are symbols."""

    name: str
    comet: Address
    start_block: int
    spec: CometSpec


@cache
def comet_contracts(model: Path) -> Mapping[str, Artifact]:
    """The contracts of the file, compiled once and cached; raises ConfigError when it is missing or lacks one."""
    try:
        text = model.read_text()
    except OSError as error:
        raise ConfigError(f"the model of Comet {model} cannot be read ({error.strerror}): give its path") from error

    def build(directory: Path) -> None:
        selection = {"outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}}}
        request = {"language": "Solidity", "sources": {"model": {"content": text}}, "settings": _SETTINGS | selection}
        found = compile_standard(request)["contracts"]["model"]
        (directory / "artifacts.json").write_text(json.dumps(found))

    key = digest([package_version("solc"), text, _SETTINGS])
    raw = json.loads((stored(f"compiled/comet-{key}", build) / "artifacts.json").read_text())
    missing = [name for name in _CONTRACTS if name not in raw]
    if missing:
        raise ConfigError(f"{model} has no contract {missing[0]}: give the model of Comet")
    return {name: Artifact(name, raw[name]["evm"]["bytecode"]["object"], (), _arguments(raw[name])) for name in raw}


def deploy_comet(actors: Actors, model: Path, name: str = "comet", spec: CometSpec = USDC_MARKET) -> CometMarket:
    """Deploy a market over the chain's own tokens and feeds, empty; mines four blocks."""
    start = actors.rpc.number() + 1
    implementation = deploy_implementation(actors, model, spec)
    comet = _create(actors, comet_contracts(model)["CometModelProxy"], implementation)
    actors.send(actors.world.deployer, comet, "initializeStorage()")
    return CometMarket(name, comet, start, spec)


def deploy_implementation(actors: Actors, model: Path, spec: CometSpec, contract: str = "CometModel") -> Address:
    """The code and parameters a proxy can be upgraded to; `contract` has the constructor of `CometModel`."""
    world, contracts = actors.world, comet_contracts(model)
    assets = _create(
        actors,
        contracts["CometModelAssets"],
        [world.tokens[item.symbol].address for item in spec.collaterals],
        [world.feeds[item.symbol].proxy for item in spec.collaterals],
        [[_wad(item.borrow), _wad(item.liquidate), _wad(item.liquidation)] for item in spec.collaterals],
    )
    unit = 10 ** SPECS[spec.base].decimals
    return _create(
        actors,
        contracts[contract],
        world.tokens[spec.base].address,
        world.feeds[spec.base].proxy,
        assets,
        [*_rates(spec.supply_rate), *_rates(spec.borrow_rate)],
        _wad(spec.front_factor),
        spec.borrow_min * unit,
        spec.target_reserves * unit,
    )


def upgrade(actors: Actors, model: Path, market: CometMarket, spec: CometSpec) -> CometMarket:
    """Have governance change the parameters; returns the market as it is then."""
    implementation = deploy_implementation(actors, model, spec)
    actors.send(actors.world.deployer, market.comet, "upgradeTo(address)", implementation)
    return CometMarket(market.name, market.comet, market.start_block, spec)


def supply(actors: Actors, market: CometMarket, user: Address, symbol: str, amount: int) -> None:
    """Fund the user and supply: collateral, or base that earns interest or repays."""
    actors.fund(user, symbol, amount)
    actors.approve(user, market.comet, symbol)
    actors.send(user, market.comet, "supply(address,uint256)", actors.world.tokens[symbol].address, amount)


def withdraw(actors: Actors, market: CometMarket, user: Address, symbol: str, amount: int) -> None:
    """Withdraw collateral or base; base beyond what is supplied is borrowed."""
    actors.send(user, market.comet, "withdraw(address,uint256)", actors.world.tokens[symbol].address, amount)


def config_lines(market: CometMarket) -> str:
    """The market's table in the daemon's configuration."""
    return (
        f'\n[markets.{market.name}]\nprotocol = "compound_v3"\naddress = "{market.comet}"\n'
        f"start_block = {market.start_block}\n"
    )


def open_account(
    actors: Actors,
    market: CometMarket,
    user: Address,
    supplied: Mapping[str, int],
    health: int,
    prices: Mapping[str, int],
) -> int:
    """Supply collateral (base units) and borrow what makes the health factor `health` thousandths at `prices`.

    With the prices that feeds are going to fall to, that is an account which the fall makes liquidatable. Returns the
    debt. Raises `Reverted` where the present prices do not allow it.
    """
    debt = debt_for(market.spec, supplied, health, prices)
    with actors.block():
        for symbol, amount in supplied.items():
            supply(actors, market, user, symbol, amount)
    withdraw(actors, market, user, market.spec.base, debt)
    return debt


def debt_for(spec: CometSpec, supplied: Mapping[str, int], health: int, prices: Mapping[str, int]) -> int:
    """Base units of debt that give the health factor `health`, in thousandths, at `prices` (USD with 8 decimals)."""
    factors = {item.symbol: item.liquidate for item in spec.collaterals}
    weighted = sum(
        amount * prices[symbol] * factors[symbol] // (BPS * 10 ** SPECS[symbol].decimals)
        for symbol, amount in supplied.items()
    )
    unit: int = 10 ** SPECS[spec.base].decimals
    debt: int = weighted * 1_000 * unit // (health * prices[spec.base])
    return debt


def _create(actors: Actors, artifact: Artifact, *args: Any) -> Address:
    with actors.block() as receipts:
        actors.submit(actors.world.deployer, None, artifact.creation({}, *args), gas=_DEPLOY_GAS, what=artifact.name)
    return address(receipts[-1]["contractAddress"])


def _rates(yearly: tuple[int, int, int, int]) -> list[int]:
    """Kink, and slopes and base per second, wad."""
    kink, *rates = yearly
    return [kink * WAD // 100, *(rate * WAD // 100 // _YEAR for rate in rates)]


def _wad(bps: int) -> int:
    return bps * WAD // BPS


def _arguments(made: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(i["type"] for entry in made["abi"] if entry["type"] == "constructor" for i in entry["inputs"])
