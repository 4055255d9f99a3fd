"""Why a position gets no plan, with the numbers that decided it."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.model import Seizure, Skip, SkipReason, Token
from keeper.ports import Pair, Position
from keeper.strategy.options import BPS, Option
from keeper.strategy.shapes import Terms, Trial
from keeper.strategy.value import native, spot_value, wei_value_up

MEANING = {
    SkipReason.NO_ROUTE: "no pools take the collateral at any accepted amount",
    SkipReason.NO_FLASH_SOURCE: "nobody lends the debt asset at any accepted amount",
    SkipReason.DUST_HOLE: "the dust rule leaves no accepted amount",
}


def no_pair(position: Position) -> Skip:
    """Nothing is offered for liquidation: the refusals say why, the most telling of them first."""
    if not position.refusals:
        return Skip(SkipReason.NO_PAIR, "The market offers no pair of debt and collateral to liquidate.")
    reasons = {refusal.reason for refusal in position.refusals}
    reason = reasons.pop() if len(reasons) == 1 else SkipReason.NO_PAIR
    detail = f"None of {len(position.refusals)} pairs can be liquidated: " + "; ".join(
        refusal.detail.rstrip(".") for refusal in position.refusals
    )
    numbers = {key: value for refusal in reversed(position.refusals) for key, value in refusal.numbers.items()}
    return Skip(reason, detail + ".", {**numbers, "pairs_refused": len(position.refusals)})


def impossible(blocked: Sequence[tuple[Pair, SkipReason]]) -> Skip:
    """No pair can be traded or funded at any amount."""
    reasons = [reason for _, reason in blocked]
    reason = next((known for known in MEANING if known in reasons), SkipReason.NO_PAIR)
    detail = "; ".join(f"{name(pair)}: {MEANING.get(why, why.value)}" for pair, why in blocked)
    return Skip(reason, detail + ".", {f"pairs_{why.value}": reasons.count(why) for why in dict.fromkeys(reasons)})


def unprofitable(position: Position, terms: Terms, option: Option, pairs: int) -> Skip:
    """The best amount does not pay for its gas, and what ate the bonus. All numbers in wei.

    bonus − protocol_fee − premium − unspent − impact − gas_cost = net, where impact also holds pool fees and any
    difference between market and pool prices.
    """
    trial = option.trial
    if trial is None:
        return _not_worth_trying(position, terms, option, pairs)
    numbers = breakdown(position, terms, option.pair, trial)
    text = f"The best of {pairs} pairs, {name(option.pair)} by {option.funding}, nets {native(trial.net)}"
    if "bonus" in numbers:
        text += (
            f": bonus {native(numbers['bonus'])} less impact {native(numbers['impact'])}, premium"
            f" {native(numbers['premium'])}, protocol fee {native(numbers['protocol_fee'])}, unspent budget"
            f" {native(numbers['unspent'])} and gas {native(numbers['gas_cost'])}"
        )
    return Skip(SkipReason.UNPROFITABLE, f"{text} (in the native token).", numbers)


def breakdown(position: Position, terms: Terms, pair: Pair, trial: Trial) -> dict[str, int]:
    """Where the bonus of a trial went, in wei; only gain, gas and net where the assets cannot be valued."""
    numbers = {"gain": trial.gain, "gas_cost": trial.cost, "net": trial.net, "gas": trial.gas}
    unspent = 0 if trial.buy is None or pair.debt.address == terms.profit else trial.budget - trial.seizure.repaid

    def worth(token: Token, price: int, amount: int) -> int | None:
        return wei_value_up(position, terms.quoter, terms.profit, token, price, amount)

    bonus = bonus_value_up(position, terms, pair, trial.seizure)
    fee = worth(pair.collateral, pair.collateral_price, trial.seizure.protocol_fee)
    premium = worth(pair.debt, pair.debt_price, trial.loan.premium if trial.loan else 0)
    left = worth(pair.debt, pair.debt_price, unspent)
    if bonus is None or fee is None or premium is None or left is None:
        return numbers
    impact = bonus - fee - premium - left - trial.gain
    return {"bonus": bonus, "protocol_fee": fee, "premium": premium, "unspent": left, "impact": impact, **numbers}


def bonus_value_up(position: Position, terms: Terms, pair: Pair, seizure: Seizure) -> int | None:
    """Bonus × repaid in wei, rounded up: the most a true liquidation can earn. None where neither prices nor pools say.

    At the market's prices when it lists the native token; else at the pools' price of the debt asset, and where that
    has no pool at their price of the collateral, of which bonus / (1 + bonus) is bonus.
    """
    quoter, profit = terms.quoter, terms.profit
    repaid = wei_value_up(position, quoter, profit, pair.debt, pair.debt_price, seizure.repaid)
    if repaid is not None:
        return -(-repaid * pair.bonus_bps // BPS)
    seized = spot_value(quoter, pair.collateral.address, profit, seizure.seized + seizure.protocol_fee)
    return None if seized is None else -(-(seized + 1) * pair.bonus_bps // (BPS + pair.bonus_bps))


def name(pair: Pair) -> str:
    """A pair for a person."""
    return f"{pair.debt.symbol} debt against {pair.collateral.symbol}"


def _not_worth_trying(position: Position, terms: Terms, option: Option, pairs: int) -> Skip:
    pair = option.pair
    numbers = {"gas_cost": option.floor_cost}
    bonus = bonus_value_up(position, terms, pair, pair.seize(pair.feasible[-1][1]))
    if bonus is not None:
        numbers["bonus"] = bonus
    text = f"The best of {pairs} pairs, {name(pair)} by {option.funding}, cannot pay for"
    text += f" {native(option.floor_cost)} of gas before any trade"
    if option.curve.ceiling is not None:
        numbers["net"] = option.curve.ceiling
        text += f": at most {native(option.curve.ceiling + option.floor_cost)} is left at pool prices without impact"
    return Skip(SkipReason.UNPROFITABLE, f"{text} (in the native token).", numbers)
