"""Who borrows from Morpho and from a Comet in the staged crash, beside the borrowers of the two Aave markets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from keeper.devchain.actors import Actors, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.comet import CometMarket, debt_for, deploy_comet, supply, withdraw
from keeper.devchain.morpho import MorphoMarket
from keeper.devchain.morpho_users import MorphoUsers
from keeper.devchain.rpc import Rpc
from keeper.devchain.scenario import CRASH, Expected
from keeper.devchain.world import World
from keeper.model import MAX_UINT256, WAD, Address, label

_TAKE, _NOT_WORTH, _REFUSED, _FINE = Expected.LIQUIDATE, Expected.UNPROFITABLE, Expected.REFUSED, Expected.HEALTHY
_PLACE = 10  # characters of a Morpho market's id that tell it from the others here
_LENDER = account("comet lender")
_LENT = 40_000_000  # whole base tokens


@dataclass(frozen=True, slots=True)
class MorphoBorrower:
    """One position in a Morpho market: collateral in USD before the crash, health in thousandths at its prices."""

    label: str
    pool: str  # collateral and loan token of the market
    collateral: int
    health: int
    expected: Expected
    why: str
    account: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "account", account(f"morpho {self.label}"))

    def known_as(self, world: World) -> str:
        """The market's name in the journal."""
        return label(world.morpho.name, self.market(world).id[:_PLACE])

    def market(self, world: World) -> MorphoMarket:
        """The market it borrows from."""
        return world.morpho.markets[self.pool]

    def supply(self, actors: Actors) -> None:
        """Pledge the collateral."""
        market = self.market(actors.world)
        users = MorphoUsers(actors, actors.world.morpho)
        users.pledge(self.account, market, actors.worth(market.collateral, self.collateral))

    def borrow(self, actors: Actors) -> None:
        """Borrow what makes the health true."""
        market = self.market(actors.world)
        pledged = actors.worth(market.collateral, self.collateral)
        price = CRASH[market.collateral] * 10 ** SPECS[market.loan].decimals * WAD // CRASH[market.loan]
        debt = pledged * price * market.lltv * 1_000 // (10 ** SPECS[market.collateral].decimals * WAD**2 * self.health)
        MorphoUsers(actors, actors.world.morpho).borrow(self.account, market, assets=debt)

    def health_factor(self, rpc: Rpc, world: World) -> int:
        """What may be borrowed over what is owed, as of the market's last booked interest; wad."""
        market = self.market(world)
        users = MorphoUsers(Actors(rpc, world), world.morpho)
        _, shares, pledged = users.position(self.account, market)
        types = ",".join(["uint128"] * 6)
        totals = rpc.view(world.morpho.address, "market(bytes32)", bytes.fromhex(market.id[2:]), returns=types)
        debt = -(-shares * (int(totals[2]) + 1) // (int(totals[3]) + 10**6))
        most = pledged * users.price(market) // 10**36 * market.lltv // WAD
        return most * WAD // debt if debt else MAX_UINT256


@dataclass(frozen=True, slots=True)
class CometBorrower:
    """One account of the Comet: collateral in USD before the crash, health in thousandths after it."""

    label: str
    collateral: Mapping[str, int]
    health: int
    expected: Expected
    why: str
    comet: CometMarket | None = None
    account: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "account", account(f"comet {self.label}"))

    def known_as(self, world: World) -> str:
        """The market's name in the journal."""
        return self._comet.name

    @property
    def _comet(self) -> CometMarket:
        assert self.comet is not None, "the market is deployed when the stage is set"
        return self.comet

    def supply(self, actors: Actors) -> None:
        """Supply the collateral."""
        for symbol, amount in self._supplied(actors).items():
            supply(actors, self._comet, self.account, symbol, amount)

    def borrow(self, actors: Actors) -> None:
        """Borrow what makes the health true."""
        spec = self._comet.spec
        debt = debt_for(spec, self._supplied(actors), self.health, CRASH)
        withdraw(actors, self._comet, self.account, spec.base, debt)

    def _supplied(self, actors: Actors) -> dict[str, int]:
        return {symbol: actors.worth(symbol, usd) for symbol, usd in self.collateral.items()}

    def health_factor(self, rpc: Rpc, world: World) -> int:
        """Collateral against liquidation over debt; wad."""
        comet, spec = self._comet.comet, self._comet.spec
        debt = int(rpc.view(comet, "borrowBalanceOf(address)", self.account))
        weighted = 0
        for item in spec.collaterals:
            token = world.tokens[item.symbol].address
            held = int(
                rpc.view(comet, "userCollateral(address,address)", self.account, token, returns="uint128,uint128")[0]
            )
            price = int(rpc.view(world.feeds[item.symbol].proxy, "latestAnswer()"))
            weighted += held * price * item.liquidate // (10_000 * 10 ** SPECS[item.symbol].decimals)
        base = int(rpc.view(world.feeds[spec.base].proxy, "latestAnswer()"))
        owed = debt * base // 10 ** SPECS[spec.base].decimals
        return weighted * WAD // owed if owed else MAX_UINT256


MORPHO_BORROWERS = (
    # label, market, collateral, health, expected, why
    MorphoBorrower("blue ether whale", "WETH/USDC", 4_000_000, 985, _TAKE, "all of it, paid inside Morpho's callback"),
    MorphoBorrower("blue bitcoin", "WBTC/USDC", 900_000, 975, _TAKE, "collateral first, no loan"),
    MorphoBorrower("blue staked loop", "wstETH/WETH", 1_200_000, 990, _TAKE, "a thin bonus on a deep pool"),
    MorphoBorrower("blue bitcoin for tether", "WBTC/USDT", 150_000, 960, _TAKE, "the debt token returns nothing"),
    MorphoBorrower("blue bad debt", "WETH/USDC", 60_000, 862, _TAKE, "all collateral goes, the lenders bear the rest"),
    MorphoBorrower("blue frozen oracle", "LINK/DAI", 90_000, 1_060, _REFUSED, "its oracle stands far below the pools"),
    MorphoBorrower("blue dust", "WETH/USDC", 40, 960, _NOT_WORTH, "the bonus is less than the gas"),
    MorphoBorrower("blue calm", "wstETH/USDC", 300_000, 1_150, _FINE, "survives the fall"),
)
COMET_BORROWERS = (
    # label, collateral, health, expected, why
    CometBorrower("comet ether", {"WETH": 800_000}, 970, _TAKE, "absorbed, its ether bought at a discount and sold"),
    CometBorrower("comet two assets", {"WBTC": 160_000, "WETH": 90_000}, 975, _TAKE, "what is left is bought next"),
    CometBorrower("comet bitcoin", {"WBTC": 300_000}, 960, _TAKE, "absorbed together where that pays"),
    CometBorrower("comet calm", {"WETH": 300_000}, 1_080, _FINE, "survives the fall"),
)
Member = MorphoBorrower | CometBorrower
FROZEN = ("LINK/DAI", 75)  # a market whose oracle stops at so many percent of the price after the crash


def stage_others(actors: Actors, model: Path | None) -> tuple[tuple[Member, ...], CometMarket | None]:
    """Open the positions; the Comet is deployed first, from the Solidity file `model`, and left out without one.

    In few blocks: at the time of day each of them takes a second.
    """
    members: tuple[Member, ...] = MORPHO_BORROWERS
    comet = None if model is None else deploy_comet(actors, model)
    if comet is not None:
        members += tuple(replace(borrower, comet=comet) for borrower in COMET_BORROWERS)
    with actors.block():
        if comet is not None:
            supply(actors, comet, _LENDER, comet.spec.base, _LENT * 10 ** SPECS[comet.spec.base].decimals)
        for member in members:
            member.supply(actors)
    with actors.block():
        for member in members:
            member.borrow(actors)
    return members, comet


def freeze(actors: Actors) -> None:
    """Stop one Morpho oracle far below what the pools pay: a profit on paper that nobody should believe."""
    name, percent = FROZEN
    users, market = MorphoUsers(actors, actors.world.morpho), actors.world.morpho.markets[name]
    price = CRASH[market.collateral] * 10 ** (36 + SPECS[market.loan].decimals) // CRASH[market.loan]
    users.fix_price(market, price * percent // (100 * 10 ** SPECS[market.collateral].decimals))
