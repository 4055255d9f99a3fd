"""A position that can be liquidated, or pre-liquidated, with its pairs and in numbers why others are not offered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.maths.wad_ray import WAD
from keeper.model import MAX_UINT256, Account, Address, Head, Skip, SkipReason, Token, label
from keeper.ports import Position
from keeper.protocols.morpho_blue.follower import PreTerms
from keeper.protocols.morpho_blue.market import Params, State
from keeper.protocols.morpho_blue.pair import Moment, MorphoPair, Terms
from keeper.protocols.morpho_blue.rules import incentive, quoted_down, to_assets_up

GAS = 150_000  # the call, its guard and approval; measured on the published bytecode
PRE_GAS = 230_000


@dataclass(frozen=True, slots=True)
class Holding:
    """What one borrower has in a market."""

    shares: int
    collateral: int


@dataclass(frozen=True, slots=True)
class Scene:
    """One market at the moments a position in it is looked at. `price` is the oracle's."""

    book: str
    morpho: Address
    head: Head
    timestamp: int
    params: Params
    loan: Token
    collateral: Token
    now: State
    late: State
    price: int
    pre: tuple[tuple[PreTerms, int | None], ...]  # contracts the borrower lets act, each with its own oracle's price
    native: Address | None


def health(holding: Holding, state: State, price: int, lltv: int) -> tuple[int, int, int]:
    """(collateral worth, debt, health factor) in loan base units and wad, as Morpho._isHealthy weighs them.

    The factor is below one exactly where the contract lets somebody liquidate.
    """
    worth = quoted_down(holding.collateral, price)
    if not holding.shares:
        return worth, 0, MAX_UINT256
    owed = to_assets_up(holding.shares, state.borrow_assets, state.borrow_shares)
    return worth, owed, worth * lltv // WAD * WAD // owed


def account(scene: Scene, borrower: Address, holding: Holding) -> Account:
    """Values are 1e-18 of a whole loan token."""
    worth, owed, factor = health(holding, scene.now, scene.price, scene.params.lltv)
    unit = 10**scene.loan.decimals
    return Account(borrower, factor, worth * WAD // unit, owed * WAD // unit, scene.params.place)


def whole_price(price: int, loan: Token, collateral: Token) -> int:
    """An oracle's price as 1e-18 of a whole loan token per whole collateral token."""
    return int(price * 10**collateral.decimals // 10 ** (18 + loan.decimals))


def native_price(native: Address | None, loan: Token, collateral: Token, price: int) -> int | None:
    """1e-18 of a whole loan token per whole native token, in the markets that have it."""
    if native == loan.address:
        return WAD
    return (whole_price(price, loan, collateral) or None) if native == collateral.address else None


def build_position(scene: Scene, borrower: Address, holding: Holding) -> Position | None:
    """The position at `scene.timestamp`; None when nobody may take any of it there."""
    seen = account(scene, borrower, holding)
    pairs: list[MorphoPair] = []
    refusals: list[Skip] = []
    if seen.health_factor < WAD:
        factor = incentive(scene.params.lltv)
        now, late = (
            Moment(state, scene.price, factor, holding.shares, holding.shares, holding.collateral)
            for state in (scene.now, scene.late)
        )
        _offer(scene, MorphoPair(_terms(scene, scene.price, GAS, None), now, late), pairs, refusals)
    else:
        for terms, price in scene.pre:
            _offer_pre(scene, terms, price, holding, pairs, refusals)
        if not pairs and not refusals:
            return None
    return Position(
        market=label(scene.book, scene.params.place),
        account=seen,
        head=scene.head,
        timestamp=scene.timestamp,
        base_unit=WAD,
        native_price=native_price(scene.native, scene.loan, scene.collateral, scene.price),
        pairs=tuple(pairs),
        refusals=tuple(refusals),
    )


def _terms(scene: Scene, price: int, gas: int, contract: Address | None) -> Terms:
    return Terms(
        scene.morpho,
        scene.params,
        scene.loan,
        scene.collateral,
        whole_price(price, scene.loan, scene.collateral),
        gas,
        contract,
    )


def _offer(scene: Scene, pair: MorphoPair, pairs: list[MorphoPair], refusals: list[Skip]) -> None:
    if pair.feasible:
        pairs.append(pair)
        return
    names = f"{pair.debt.symbol} against {pair.collateral.symbol}"
    numbers = {"shares": pair.now.shares, "collateral": pair.now.collateral}
    refusals.append(Skip(SkipReason.NO_PAIR, f"{names}: too small to liquidate", numbers))


def _offer_pre(
    scene: Scene,
    terms: PreTerms,
    price: int | None,
    holding: Holding,
    pairs: list[MorphoPair],
    refusals: list[Skip],
) -> None:
    """One contract (PreLiquidation.preLiquidate), where the position is between its LLTV and the market's."""
    if not price:
        reason = f"the oracle of pre-liquidation contract {terms.contract} does not answer"
        refusals.append(Skip(SkipReason.MARKET_UNKNOWN, reason))
        return
    moments = [_pre_moment(scene, terms, price, holding, state) for state in (scene.now, scene.late)]
    now, late = moments
    if now is None:
        return
    if late is None:
        reason = f"pre-liquidation by {terms.contract} ends before it could be relied on: Morpho's own is due"
        refusals.append(Skip(SkipReason.NO_PAIR, reason))
        return
    _offer(scene, MorphoPair(_terms(scene, price, PRE_GAS, terms.contract), now, late), pairs, refusals)


def _pre_moment(scene: Scene, terms: PreTerms, price: int, holding: Holding, state: State) -> Moment | None:
    worth = quoted_down(holding.collateral, price)
    owed = to_assets_up(holding.shares, state.borrow_assets, state.borrow_shares)
    lltv = scene.params.lltv
    if not worth * terms.lltv // WAD < owed <= worth * lltv // WAD:
        return None
    ltv = -(-owed * WAD // worth)
    quotient = (ltv - terms.lltv) * WAD // (lltv - terms.lltv)
    factor, close = (_between(ends, quotient) for ends in (terms.incentive, terms.close))
    most = min(holding.shares * close // WAD, holding.shares)
    return Moment(state, price, factor, holding.shares, most, holding.collateral, (scene.price, lltv))


def _between(ends: Sequence[int], quotient: int) -> int:
    return quotient * (ends[1] - ends[0]) // WAD + ends[0]
