"""The choice of debt, collateral, amount, funding and routes that earns most for one position.

Pure: a `Position`, the pools' state behind a `Quoter`, flash sources and a fee quote go in, a `Decision` comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.model import Address, Candidate, FeeQuote, Plan, Skip, SkipReason
from keeper.ports import FlashSource, Pair, Position, Quoter
from keeper.strategy import verdict
from keeper.strategy.funding import Market
from keeper.strategy.memo import Memo
from keeper.strategy.options import Option, Options
from keeper.strategy.shapes import Terms, Trial
from keeper.strategy.sizing import maximise
from keeper.strategy.value import native

RECIPES = 3  # how often an option's purchase is reconsidered in view of its sale
CONTENDERS = 3  # for how many options that is done
CLOSE = 32  # provided they are within a thirty-second of the best


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """How plans are made."""

    profit_token: Address  # the wrapped native token; its base unit is the wei
    base_gas: int = 0  # gas of an execution on top of what liquidation, loan and routes say of themselves
    warm_hop_gas: int = 25_000  # what a hop saves by trading tokens that the execution has touched before
    flash_swaps: bool = True  # whether a buying route may be its own loan
    spot_slack_bps: int = 200  # how much better than the deepest path a path may be; only decides what is tried
    tolerance_bps: int = 4  # how much of the best net the search may leave
    max_trials: int = 160  # amounts tried per position, after which the best so far is taken


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, or why there is none: exactly one of `plan` and `skip` is set, and `pair` with `plan`."""

    plan: Plan | None
    skip: Skip | None
    candidates: tuple[Candidate, ...]  # one per pair and funding, best first
    pair: Pair | None = None


class Planner:
    """Plans for one chain; holds settings only."""

    def __init__(self, settings: PlannerSettings) -> None:
        self.settings = settings

    def plan(
        self,
        position: Position,
        quoter: Quoter,
        sources: Sequence[FlashSource],
        fees: FeeQuote,
        *,
        thorough: bool = False,
    ) -> Decision:
        """The most profitable liquidation of `position`, net of price impact, premium, protocol fee and gas.

        Shapes that cannot beat a flash swap are left out, and what cannot beat the best is not tried, unless
        `thorough` asks for every candidate's own best: for a person, several times slower, with the same choice.
        """
        settings = self.settings
        if not position.pairs:
            return Decision(None, verdict.no_pair(position), ())
        terms = Terms(
            Memo.of(quoter),
            settings.profit_token,
            fees.price,
            settings.base_gas,
            settings.warm_hop_gas,
            data_fee=fees.data_fee,
        )
        builder = Options(terms, Market(sources), settings.flash_swaps, settings.spot_slack_bps, thorough)
        options: list[Option] = []
        blocked: list[tuple[Pair, SkipReason]] = []
        for pair in position.pairs:
            found = builder.of(pair) if pair.feasible else []
            options += found
            if not found:
                blocked.append((pair, SkipReason.NO_FLASH_SOURCE if pair.feasible else SkipReason.DUST_HOLE))
        self._search(builder, options, thorough=thorough)
        options.sort(key=_merit, reverse=True)
        candidates = tuple(_candidate(option) for option in options) + tuple(_refused(*entry) for entry in blocked)
        best = options[0] if options else None
        if best is not None and best.trial is not None and best.trial.net > 0:
            return Decision(_plan(position, terms, best.pair, best.trial, fees), None, candidates, best.pair)
        if best is not None and (best.trial is not None or best.refusal is None):
            return Decision(None, verdict.unprofitable(position, terms, best, len(position.pairs)), candidates)
        blocked += [(option.pair, option.refusal) for option in options if option.refusal is not None]
        return Decision(None, verdict.impossible(blocked), candidates)

    def _search(self, builder: Options, options: list[Option], *, thorough: bool) -> None:
        """Bring the best option, or with `thorough` every option, to its best amount."""

        def search(some: Sequence[Option]) -> None:
            settings = self.settings
            maximise([o.curve for o in some], tolerance_bps=settings.tolerance_bps, limit=settings.max_trials)

        if thorough:
            for option in options:
                if not option.curve.finished:
                    option.curve.advance()
                search([option])
        search(options)
        more = [loan for option in options if _hopeful(option, options) for loan in builder.instead(option)]
        if more:
            options += more
            search(options)
        ranked = sorted((option for option in options if option.trial is not None), key=_merit, reverse=True)
        for option in ranked if thorough else ranked[:CONTENDERS]:
            best = option
            for _ in range(RECIPES):
                if not (thorough or _contends(best, options)):
                    break
                other = builder.minding_the_sale(best)
                if other is None:
                    break
                search([best, other])
                if _merit(other) <= _merit(best):
                    break
                best = other
            options[options.index(option)] = best


def _contends(option: Option, options: Sequence[Option]) -> bool:
    """Whether the option is so close to the best that minding its sale could make it the best."""
    most = max(other.trial.net for other in options if other.trial is not None)
    return option.trial is not None and option.trial.net * CLOSE >= most * (CLOSE - 1)


def _hopeful(option: Option, options: Sequence[Option]) -> bool:
    """Whether the pair may earn something, and more than the best so far, in another way."""
    best = max((other.trial.net for other in options if other.trial is not None), default=0)
    ceiling = option.curve.ceiling
    return ceiling is None or ceiling > max(best, 0)


def _merit(option: Option) -> tuple[int, int]:
    """Order of candidates: what was possible, then what was not worth trying, then what was impossible."""
    if option.trial is not None:
        return (2, option.trial.net)
    if option.refusal is None:
        return (1, option.curve.ceiling or 0)
    return (0, 0)


def _plan(position: Position, terms: Terms, pair: Pair, trial: Trial, fees: FeeQuote) -> Plan:
    return Plan(
        market=position.market,
        borrower=position.account.borrower,
        head=position.head,
        timestamp=position.timestamp,
        debt=pair.debt,
        collateral=pair.collateral,
        repay=trial.repay,
        budget=trial.budget,
        seizure=trial.seizure,
        loan=trial.loan,
        buy=trial.buy,
        sell=trial.sell,
        profit_token=terms.profit,
        gain=trial.gain,
        gas=trial.gas,
        fees=fees,
        sanity_bound=verdict.bonus_value_up(position, terms, pair, trial.seizure) or 0,
        health_factor=position.account.health_factor,
        others=pair.others,
    )


def _candidate(option: Option) -> Candidate:
    pair, trial = option.pair, option.trial
    if trial is None:
        if option.refusal is not None:
            note = verdict.MEANING.get(option.refusal, option.refusal.value)
        else:
            most = "an unknown amount" if option.curve.ceiling is None else f"{native(option.curve.ceiling)} native"
            note = f"not tried: nets at most {most} at pool prices without impact"
        return Candidate(pair.debt, pair.collateral, 0, 0, option.funding, 0, 0, 0, note)
    seizure, note = trial.seizure, f"best of {option.curve.tried} amounts"
    return Candidate(
        pair.debt, pair.collateral, trial.repay, seizure.seized, option.funding, trial.gain, trial.gas, trial.net, note
    )


def _refused(pair: Pair, reason: SkipReason) -> Candidate:
    note = verdict.MEANING.get(reason, reason.value)
    return Candidate(pair.debt, pair.collateral, 0, 0, "none", 0, 0, 0, note)
