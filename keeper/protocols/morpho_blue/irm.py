"""Morpho's AdaptiveCurveIrm: its arithmetic, and how a contract is told to be one. Rates are wads per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from keeper.abi import interface
from keeper.errors import BadData
from keeper.maths.interest import SECONDS_PER_YEAR
from keeper.maths.wad_ray import WAD
from keeper.model import Address, Read, address
from keeper.protocols.morpho_blue.market import Params, State

IRM = interface("morpho_irm")

STEEPNESS = 4 * WAD
SPEED = 50 * WAD // SECONDS_PER_YEAR
TARGET = 9 * WAD // 10
INITIAL = 4 * WAD // 100 // SECONDS_PER_YEAR
LEAST = WAD // 1_000 // SECONDS_PER_YEAR
MOST = 2 * WAD // SECONDS_PER_YEAR
LN_2 = 693_147_180_559_945_309
LN_WEI = -41_446_531_673_892_822_312
EXP_LIMIT = 93_859_467_695_000_404_319
EXP_AT_LIMIT = 57_716_089_161_558_943_949_701_069_502_944_508_345_128_422_502_756_744_429_568


class Kind(IntEnum):
    """How a market's borrow rate is known."""

    NONE = 0  # there is no model: no interest
    ADAPTIVE = 1  # computed here
    ASKED = 2  # `borrowRateView` is read at every head
    UNREAD = 3  # not looked at yet


@dataclass(frozen=True, slots=True)
class Rate:
    """The average rate since the last accrual, and the rate at target the model would keep."""

    average: int
    at_target: int


def adaptive_rate(state: State, at_target: int, timestamp: int) -> Rate:
    """`AdaptiveCurveIrm.borrowRateView` at `timestamp`; `at_target` is the stored rate, 0 before the first accrual."""
    utilization = state.borrow_assets * WAD // state.supply_assets if state.supply_assets else 0
    norm = WAD - TARGET if utilization > TARGET else TARGET
    error = _to_zero(utilization - TARGET, WAD, norm)
    average = end = at_target
    if at_target == 0:
        average = end = INITIAL
    else:
        adaptation = _to_zero(SPEED, error, WAD) * (timestamp - state.updated)
        if adaptation:
            end = _moved(at_target, adaptation)
            middle = _moved(at_target, _to_zero(adaptation, 1, 2))
            average = (at_target + end + 2 * middle) // 4
    slope = WAD - WAD * WAD // STEEPNESS if error < 0 else STEEPNESS - WAD
    return Rate(_to_zero(_to_zero(slope, error, WAD) + WAD, average, WAD), end)


def exponential(x: int) -> int:
    """ExpLib.wExp: 2^q · (1 + r + r²/2) with x = q·ln 2 + r, |r| ≤ ln 2 / 2."""
    if x < LN_WEI:
        return 0
    if x >= EXP_LIMIT:
        return EXP_AT_LIMIT
    half = LN_2 // 2
    powers = _to_zero(x + (half if x >= 0 else -half), 1, LN_2)
    rest = x - powers * LN_2
    factor = WAD + rest + rest * rest // WAD // 2
    return factor << powers if powers >= 0 else factor >> -powers


def _moved(at_target: int, adaptation: int) -> int:
    return min(max(_to_zero(at_target, exponential(adaptation), WAD), LEAST), MOST)


def _to_zero(a: int, b: int, divisor: int) -> int:
    """a·b / divisor rounded towards zero, as Solidity divides; `divisor` is positive."""
    product = a * b
    return product // divisor if product >= 0 else -(-product // divisor)


# ------------------------------------------------------------------------------------------------- recognition

# Utilisation in percent and seconds since the last accrual: both branches of the curve, the kink, the ends, and
# adaptations small enough to round to nothing, of several powers of two, and beyond both limits of the rate.
_STATES = tuple(
    (percent, seconds) for percent in (0, 37, 89, 90, 93, 100) for seconds in (0, 12, 86_400, 30 * 86_400, 400 * 86_400)
)
_SUPPLY = 10**24


def rate_read(irm: Address, params: Params, state: State) -> Read:
    """The view of what a market pays since its last accrual."""
    return Read(irm, IRM.encode("borrowRateView", params.words, state.words))


def target_read(irm: Address, params: Params) -> Read:
    """The view of the stored rate at target."""
    return Read(irm, IRM.encode("rateAtTarget", params.key))


def probes(irm: Address, params: Params, now: int) -> tuple[Read, ...]:
    """Views whose answers tell an AdaptiveCurveIrm from anything else; `now` is the time they are made at."""
    asked = [rate_read(irm, params, state) for state in _probed(now)]
    return (Read(irm, IRM.encode("MORPHO")), target_read(irm, params), *asked)


def recognised(morpho: Address, answers: Sequence[bytes | None], now: int) -> bool:
    """Whether a contract that gave `answers` to `probes` computes what is computed here."""
    try:
        owner = address(IRM.decode("MORPHO", answers[0])[0])
        (at_target,) = IRM.decode("rateAtTarget", answers[1])
        rates = [IRM.decode("borrowRateView", answer)[0] for answer in answers[2:]]
    except BadData:
        return False
    mine = [adaptive_rate(state, at_target, now).average for state in _probed(now)] if at_target > 0 else []
    return owner == morpho and rates == mine


def _probed(now: int) -> list[State]:
    return [
        State(_SUPPLY, _SUPPLY * 10**6, _SUPPLY * percent // 100, _SUPPLY * 10**4 * percent, now - seconds, 0)
        for percent, seconds in _STATES
    ]
