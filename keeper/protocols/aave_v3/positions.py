"""A liquidatable borrower's pairs, and in numbers why other pairs are not offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.maths.percentage import BPS
from keeper.model import WAD, Account, Address, Head, Skip, SkipReason
from keeper.ports import Position
from keeper.protocols.aave_v3.health import Entry, Health, Valuation
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY
from keeper.protocols.aave_v3.market import Reserve
from keeper.protocols.aave_v3.pair import AavePair, Moment, Quote, Terms, gas_model
from keeper.protocols.aave_v3.rules import MIN_LEFTOVER, SENTINEL_BYPASS


@dataclass(frozen=True, slots=True)
class Scene:
    """The market at the moments a position is looked at."""

    market: str
    head: Head
    now: Valuation
    at_head: Valuation
    late: Valuation
    available: Mapping[int, int]  # underlying that can leave a reserve
    liquidations_allowed: bool | None  # what the sentinel says; None: there is none, or it has no say
    native: Address | None


def build_position(scene: Scene, borrower: Address, entries: Sequence[Entry], emode: int) -> Position | None:
    """The position at `scene.now`; None when it is not liquidatable there, or unknown."""
    now = scene.now
    healths = [view.health(entries, emode) for view in (now, scene.at_head, scene.late)]
    health, at_head, late = healths
    if health is None or at_head is None or late is None or health.factor >= WAD:
        return None
    debts = [e for e in entries if e[1] == DEBT and e[2] and e[0] in now.market.reserves]
    collaterals = [e for e in entries if e[1] == SUPPLY and e[3] and e[2] and e[0] in now.market.reserves]
    refusals: list[Skip] = []
    pairs: list[AavePair] = []
    sentinel = _sentinel(scene, health)
    if sentinel is not None:
        refusals.append(sentinel)
    else:
        open_debts = [e for e in debts if _open(scene, e, "debt", refusals)]
        open_collaterals = [
            e for e in collaterals if _open(scene, e, "collateral", refusals) and _seizable(now, e, emode, refusals)
        ]
        for debt in open_debts:
            for collateral in open_collaterals:
                found = _pair(scene, debt, collateral, emode, (health, at_head, late), (len(debts), len(collaterals)))
                if isinstance(found, Skip):
                    refusals.append(found)
                else:
                    pairs.append(found)
    return Position(
        market=scene.market,
        account=Account(borrower, health.factor, health.collateral, health.debt),
        head=scene.head,
        timestamp=now.timestamp,
        base_unit=now.market.base_unit,
        native_price=now.native_price(scene.native),
        pairs=tuple(pairs),
        refusals=tuple(refusals),
    )


def _sentinel(scene: Scene, health: Health) -> Skip | None:
    if scene.liquidations_allowed is not False or health.factor < SENTINEL_BYPASS:
        return None
    return Skip(
        SkipReason.NO_PAIR,
        f"the price oracle sentinel forbids liquidations above a health factor of 0.95 (now {health.factor / WAD:.4f})",
        {"health_factor": health.factor},
    )


def _open(scene: Scene, entry: Entry, role: str, refusals: list[Skip]) -> bool:
    """Neither inactive, paused nor in its grace period (ValidationLogic.validateLiquidationCall)."""
    reserve = scene.now.market.reserves[entry[0]]
    why = ""
    if not reserve.active:
        why = "is inactive"
    elif reserve.paused:
        why = "is paused"
    elif scene.now.market.rules.grace_period and reserve.grace_until >= scene.now.timestamp:
        why = f"is in its grace period for another {reserve.grace_until - scene.now.timestamp + 1} s"
    if why:
        refusals.append(
            Skip(
                SkipReason.NO_PAIR,
                f"{reserve.token.symbol} as {role} {why}",
                {"grace_until": reserve.grace_until, "timestamp": scene.now.timestamp},
            )
        )
    return not why


def _seizable(now: Valuation, entry: Entry, emode: int, refusals: list[Skip]) -> bool:
    reserve = now.market.reserves[entry[0]]
    bonus = now.bonus(reserve, emode)
    needs = now.market.rules.needs_reserve_threshold and reserve.threshold == 0
    if bonus >= BPS and not needs:
        return True
    refusals.append(
        Skip(
            SkipReason.NO_PAIR,
            f"{reserve.token.symbol} is no collateral for this borrower "
            f"(threshold {now.threshold(reserve, emode)} bps, bonus {bonus} bps)",
            {"threshold": now.threshold(reserve, emode), "bonus": bonus},
        )
    )
    return False


def _pair(
    scene: Scene,
    debt: Entry,
    collateral: Entry,
    emode: int,
    healths: tuple[Health, Health, Health],
    counts: tuple[int, int],
) -> AavePair | Skip:
    now = scene.now
    owed, held = now.market.reserves[debt[0]], now.market.reserves[collateral[0]]
    prices = now.seizure_price(owed, emode, DEBT), now.seizure_price(held, emode, SUPPLY)
    if prices[0] is None or prices[1] is None:
        return Skip(SkipReason.MARKET_UNKNOWN, f"no price for {owed.token.symbol} or {held.token.symbol}")
    terms = Terms(
        rules=now.market.rules,
        debt=owed.token,
        collateral=held.token,
        debt_price=prices[0],
        collateral_price=prices[1],
        debt_unit=owed.unit,
        collateral_unit=held.unit,
        bonus=now.bonus(held, emode),
        fee=held.protocol_fee,
        scaled_debt=debt[2],
        scaled_collateral=collateral[2],
    )
    quote, at_head, late = (
        Quote(terms, Moment(view.indices(owed.id)[1], view.indices(held.id)[0], health.debt, health.factor))
        for view, health in zip((now, scene.at_head, scene.late), healths, strict=True)
    )
    gas = gas_model(now.market.rules, *counts, same_asset=owed.id == held.id)
    available = scene.available.get(held.id, 0)
    pair = AavePair(quote, at_head, late, available, gas)
    return pair if pair.feasible else _refused(pair, quote, held, available)


def _refused(pair: AavePair, quote: Quote, held: Reserve, available: int) -> Skip:
    names = f"{pair.debt.symbol} against {pair.collateral.symbol}"
    numbers = {"debt": quote.debt, "collateral": quote.collateral, "cap": quote.cap, "available": available}
    if quote.call(quote.cap) is not None and quote.received(quote.asked(quote.smallest())) > available:
        return Skip(
            SkipReason.COLLATERAL_DRAINED,
            f"{names}: only {available} base units of {held.token.symbol} can leave the reserve",
            numbers,
        )
    if available < quote.collateral and quote.call(quote.cap) is not None:
        return Skip(
            SkipReason.COLLATERAL_DRAINED,
            f"{names}: {available} base units of {held.token.symbol} can leave the reserve, too few for any repay "
            "that leaves no dust",
            numbers,
        )
    if pair.terms.rules.must_not_leave_dust:
        return Skip(
            SkipReason.DUST_HOLE,
            f"{names}: every repay up to {quote.cap} base units would leave less than "
            f"{MIN_LEFTOVER} of base currency on one side",
            numbers,
        )
    return Skip(SkipReason.NO_PAIR, f"{names}: too small to liquidate", numbers)
