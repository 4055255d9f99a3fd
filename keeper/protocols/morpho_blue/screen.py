"""All markets at one moment in floats: which may hold somebody liquidatable. Floats screen; integers decide.

A position is liquidatable when shares · debt per share > collateral · credit, so within one market when its debt shares
per collateral exceed credit / (debt per share). The ledger keeps that ratio, and the highest of each market: a market
is looked into only when its highest is above the line, so that the work does not grow with the number of positions.

Floats are off by 2^-50 per step. The contract's rates are whole numbers of 1e-18 per second, which the floats here are
not: off by less than ten of them, over `elapsed` seconds that is `RATE_ERROR · elapsed` of the debt. Where its
exponential jumps (it is put together from pieces) both sides are taken. All this moves the line down, never up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.morpho_blue import irm
from keeper.protocols.morpho_blue.irm import Kind
from keeper.protocols.morpho_blue.ledger import SHARES_OF_SLACK, Ledger
from keeper.protocols.morpho_blue.registry import Registry
from keeper.protocols.morpho_blue.views import Views

Floats = NDArray[np.float64]

MARGIN = 1e-9
RATE_ERROR = 1e-17
_LEAST_DEBT_PER_SHARE = 4.0 / SHARES_OF_SLACK
_STRIDE = 4  # positions that are read in a row in the time in which one of a market is looked up
_LN_2 = irm.LN_2 / 1e18
_JUMP = 1e-9  # distance from a jump of the exponential within which both sides are taken


def debt_per_share(registry: Registry, views: Views, timestamp: int) -> Floats:
    """Base units of debt per share at `timestamp`, never too low; NaN where the rate is not known."""
    registry.derive()
    count = len(registry)
    kinds = registry.model.live(count)
    borrowed, shares = registry.borrowed.live(count), registry.shares.live(count)
    elapsed = np.maximum(timestamp - registry.updated.live(count), 0.0)
    adaptive = _adaptive_rates(registry, elapsed)
    rates = np.where(kinds == Kind.ADAPTIVE, adaptive, np.where(kinds == Kind.NONE, 0.0, views.rate.live(count)))
    rates[kinds == Kind.UNREAD] = np.nan
    x = rates / 1e18 * elapsed
    growth = 1.0 + x + x * x / 2.0 + x * x * x / 6.0
    growth = np.where(kinds == Kind.NONE, 1.0, growth * (1.0 + MARGIN) + RATE_ERROR * elapsed)
    exact: Floats = (borrowed * growth + 1.0) / (shares + 1e6)
    return np.maximum(exact, _LEAST_DEBT_PER_SHARE)


def lines(registry: Registry, views: Views, timestamp: int) -> Floats:
    """Debt shares per collateral from which on a position of each market may be liquidatable; NaN where unknown."""
    count = len(registry)
    debts = debt_per_share(registry, views, timestamp)
    result: Floats = views.price.live(count) / 1e36 * registry.lltv.live(count) / debts * (1.0 - MARGIN)
    return result


def above(ledger: Ledger, levels: Floats) -> list[int]:
    """Entries whose ratio is not below the level of their market."""
    tops, entries = ledger.tops(len(levels)), ledger.counts[1]
    markets = np.flatnonzero((tops >= levels) & (tops > 0.0)).tolist()
    members = [ledger.members(market) for market in markets]
    if sum(map(len, members)) > entries // _STRIDE:
        ratios = ledger.ratio.live(entries)
        everywhere: list[int] = np.flatnonzero(
            (ratios >= levels[ledger.market.live(entries)]) & (ratios > 0.0)
        ).tolist()
        return everywhere
    found: list[int] = []
    for market, mine in zip(markets, members, strict=True):
        ratios = ledger.ratio.data[mine]
        found += mine[(ratios >= levels[market]) & (ratios > 0.0)].tolist()
    return sorted(found)


def _adaptive_rates(registry: Registry, elapsed: Floats) -> Floats:
    """AdaptiveCurveIrm's average rate, as `irm.adaptive_rate`, never too low."""
    count = len(registry)
    supplied, borrowed = registry.supplied.live(count), registry.borrowed.live(count)
    utilization = np.divide(borrowed, supplied, out=np.zeros(count), where=supplied > 0.0)
    error = utilization - irm.TARGET / 1e18
    error = np.where(error > 0.0, error / (1.0 - irm.TARGET / 1e18), error / (irm.TARGET / 1e18))
    start = registry.target.live(count)
    first = start == 0.0
    adaptation = irm.SPEED / 1e18 * error * elapsed
    end, middle = _moved(start, adaptation), _moved(start, adaptation / 2.0)
    average = np.where(first, float(irm.INITIAL), (start + end + 2.0 * middle) / 4.0)
    steepness = irm.STEEPNESS / 1e18
    slope = np.where(error < 0.0, 1.0 - 1.0 / steepness, steepness - 1.0)
    result: Floats = (slope * error + 1.0) * average
    return result


def _moved(start: Floats, adaptation: Floats) -> Floats:
    sides = [_exponential(adaptation + by) for by in (-_JUMP, _JUMP)]
    return np.clip(start * np.maximum(*sides), float(irm.LEAST), float(irm.MOST))


def _exponential(x: Floats) -> Floats:
    x = np.clip(x, -41.0, 93.0)
    powers = np.trunc((x + np.copysign(_LN_2 / 2.0, x)) / _LN_2)
    rest = x - powers * _LN_2
    result: Floats = np.ldexp(1.0 + rest + rest * rest / 2.0, powers.astype(np.int32))
    return result
