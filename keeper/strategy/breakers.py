"""When to stop sending altogether: limits over what happened, and which breakers are open. Pure, integers only.

A value exactly at its limit passes; a count trips when it is reached. Amounts are wei, times Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keeper.strategy.failures import Failure
from keeper.strategy.value import native

BPS = 10_000
DAY = 86_400  # seconds; every "per day" is the last 24 hours

LOSS, GAS, PREDICTION = "loss_per_day", "gas_per_day", "prediction_error"
REVERTS = {failure: f"reverts_{failure}" for failure in Failure}
BALANCE, HEAD_AGE, ENDPOINTS, RPC = "signer_balance", "head_age", "endpoints_disagree", "rpc_errors"
AUDIT = "self_audit"
EXPOSURE_DAY, EXPOSURE_IN_FLIGHT = "exposure_per_day", "exposure_in_flight"
EXPOSURE_TRANSACTION = "exposure_per_transaction"

HISTORY = (LOSS, GAS, PREDICTION, *REVERTS.values())  # judged from attempts that have ended
HEALING = frozenset({BALANCE, HEAD_AGE, ENDPOINTS, RPC, EXPOSURE_IN_FLIGHT})  # close by themselves once it is quiet
BREAKERS = (
    *HISTORY, AUDIT, EXPOSURE_TRANSACTION, EXPOSURE_IN_FLIGHT, EXPOSURE_DAY, BALANCE, HEAD_AGE, ENDPOINTS, RPC,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still normal; the meaning of each is in the configuration's help."""

    loss_per_day: int = 5 * 10**17
    gas_per_day: int = 10**18
    reverts: Mapping[Failure, int] = field(default_factory=lambda: dict.fromkeys(Failure, 10))
    prediction_error_bps: int = 500
    prediction_attempts: int = 3
    balance_attempts: int = 5
    attempt_gas: int = 1_000_000
    max_head_age: int = 300
    max_height_gap: int = 10
    rpc_error_bps: int = 5_000
    rpc_min_calls: int = 20
    audit_failures: int = 1
    exposure_per_transaction: int = 10_000 * 10**18
    exposure_in_flight: int = 20_000 * 10**18
    exposure_per_day: int = 100_000 * 10**18


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt that ended with a receipt. `seq` grows with the order in which ends were found out."""

    seq: int
    at: int
    net: int
    gas_cost: int
    predicted_gain: int = 0
    gain: int = 0
    mined: bool = False
    failure: Failure | None = None  # of a revert


@dataclass(frozen=True, slots=True)
class Trip:
    """A breaker that has to open, with the sentence and the numbers of it."""

    name: str
    detail: str
    numbers: Mapping[str, int]


# ------------------------------------------------------------------------------------- what has been done so far


def judge(results: Sequence[Result], marks: Mapping[str, int], limits: Limits, now: int) -> list[Trip]:
    """Breakers that the day's results trip, in the order of `HISTORY`.

    Of each breaker only results with `seq` above its mark count: a person has seen the others.
    """
    recent = sorted((r for r in results if now - r.at < DAY), key=lambda r: r.seq)
    trips = []
    for name in HISTORY:
        counted = [r for r in recent if r.seq > marks.get(name, 0)]
        if (trip := _judge(name, counted, limits)) is not None:
            trips.append(trip)
    return trips


def _judge(name: str, results: Sequence[Result], limits: Limits) -> Trip | None:
    if name == LOSS:
        # Gains do not pay for losses: a good morning must not hide a bleeding afternoon.
        lost = -sum(min(r.net, 0) for r in results)
        text = f"attempts lost {native(lost)} native in 24 hours; {native(limits.loss_per_day)} is allowed"
        return _over(name, lost, limits.loss_per_day, text)
    if name == GAS:
        spent = sum(r.gas_cost for r in results)
        text = f"gas cost {native(spent)} native in 24 hours; {native(limits.gas_per_day)} is allowed"
        return _over(name, spent, limits.gas_per_day, text)
    if name == PREDICTION:
        return _prediction(results, limits)
    return next(
        (_reverts(failure, results, limits.reverts[failure]) for failure in Failure if REVERTS[failure] == name), None
    )


def _prediction(results: Sequence[Result], limits: Limits) -> Trip | None:
    """The newest attempts that were mined, all of them off by more than the limit in either direction."""
    mined = [r for r in results if r.mined][-limits.prediction_attempts :]
    off = [
        r for r in mined if abs(r.gain - r.predicted_gain) * BPS > limits.prediction_error_bps * abs(r.predicted_gain)
    ]
    if len(off) < limits.prediction_attempts:
        return None
    worst = max(_error_bps(r) for r in off)
    text = (
        f"the last {len(off)} mined attempts all earned more than {limits.prediction_error_bps} bps off what was"
        f" simulated, the worst {worst} bps"
    )
    numbers = {"attempts": len(off), "worst_bps": worst, "limit_bps": limits.prediction_error_bps}
    return Trip(PREDICTION, text, numbers)


def _error_bps(result: Result) -> int:
    return abs(result.gain - result.predicted_gain) * BPS // max(abs(result.predicted_gain), 1)


def _reverts(failure: Failure, results: Sequence[Result], limit: int) -> Trip | None:
    """Reverts of one class since the last attempt that was mined; other classes in between do not start anew."""
    count = 0
    for result in results:
        count = 0 if result.mined else count + (result.failure is failure)
    if count < limit:
        return None
    text = f"{count} attempts reverted as {failure} without a success in between; {limit} in a row stop sending"
    return Trip(REVERTS[failure], text, {"count": count, "limit": limit})


# ---------------------------------------------------------------------------------------------- what is true now


def balance(held: int, price: int, limits: Limits, data_fee: int = 0) -> Trip | None:
    """The signer's native balance against a few attempts at `price` wei per gas, and `data_fee` wei beside it each."""
    needed = limits.balance_attempts * (limits.attempt_gas * price + data_fee)
    if held >= needed:
        return None
    text = (
        f"the signer holds {native(held)} native; {limits.balance_attempts} attempts of {limits.attempt_gas} gas cost"
        f" {native(needed)} now: send it some"
    )
    return Trip(BALANCE, text, {"balance": held, "limit": needed})


def head_age(timestamp: int, number: int, now: int, limits: Limits) -> Trip | None:
    """The newest block's own time against the clock."""
    age = now - timestamp
    return _over(
        HEAD_AGE, age, limits.max_head_age, f"head {number} is {age} s old; {limits.max_head_age} s are allowed"
    )


def endpoints(heads: Mapping[str, int], hashes: Mapping[str, str], height: int, limits: Limits) -> Trip | None:
    """Whether endpoints tell of one chain: `heads` are their newest numbers, `hashes` theirs of block `height`."""
    gap = max(heads.values(), default=0) - min(heads.values(), default=0)
    if gap > limits.max_height_gap:
        behind, ahead = min(heads, key=lambda label: heads[label]), max(heads, key=lambda label: heads[label])
        text = (
            f"{ahead} is at block {heads[ahead]} and {behind} at {heads[behind]}, {gap} apart though both are fresh;"
            f" {limits.max_height_gap} is allowed"
        )
        return Trip(ENDPOINTS, text, {"gap": gap, "limit": limits.max_height_gap})
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{label} says {block[:10]}…" for label, block in sorted(hashes.items()))
        return Trip(ENDPOINTS, f"endpoints disagree about block {height}: {told}", {"block": height})
    return None


def rpc_errors(calls: int, errors: int, limits: Limits) -> Trip | None:
    """Calls without a usable answer as a share of all, once there are enough calls to speak of a rate."""
    if calls < limits.rpc_min_calls or errors * BPS <= limits.rpc_error_bps * calls:
        return None
    text = f"{errors} of the last {calls} RPC calls failed; {limits.rpc_error_bps} bps are allowed"
    return Trip(RPC, text, {"errors": errors, "calls": calls, "limit_bps": limits.rpc_error_bps})


def audits(failures: int, detail: str, limits: Limits) -> Trip | None:
    """Differences found by the self-audit in a day."""
    if failures < limits.audit_failures:
        return None
    text = f"the book differed from the protocol's own view in {failures} audits within 24 hours, last: {detail}"
    return Trip(AUDIT, text, {"failures": failures, "limit": limits.audit_failures})


def exposure(symbol: str, value: int, in_flight: int, day: int, limits: Limits) -> Trip | None:
    """An order that repays `value` of an asset, beside `in_flight` and `day` of the same before it."""
    for name, total, limit, what in (
        (EXPOSURE_TRANSACTION, value, limits.exposure_per_transaction, "in one transaction"),
        (EXPOSURE_IN_FLIGHT, in_flight + value, limits.exposure_in_flight, "in flight"),
        (EXPOSURE_DAY, day + value, limits.exposure_per_day, "in 24 hours"),
    ):
        text = f"the next order would bring {symbol} to {native(total)} native {what}; {native(limit)} is allowed"
        if (trip := _over(name, total, limit, text)) is not None:
            return trip
    return None


def _over(name: str, value: int, limit: int, text: str) -> Trip | None:
    return Trip(name, text, {"value": value, "limit": limit}) if value > limit else None


# ------------------------------------------------------------------------------------------------- what is open


@dataclass(slots=True)
class Open:
    """An open breaker. `fine_since`: when what opened it was first seen to be over."""

    trip: Trip
    at: int
    fine_since: int | None = None


class Panel:
    """Which breakers are open. One in `HEALING` closes after `quiet` seconds of being fine, the others by `reset`."""

    def __init__(self, quiet: int, open_: Iterable[tuple[Trip, int]] = ()) -> None:
        self._quiet = quiet
        self._open = {trip.name: Open(trip, at) for trip, at in open_}

    @property
    def open(self) -> Mapping[str, Open]:
        """The open ones by name."""
        return self._open

    @property
    def reason(self) -> str | None:
        """Why nothing may be sent; None when all are closed."""
        return "; ".join(f"{name}: {one.trip.detail}" for name, one in self._open.items()) or None

    def trip(self, trip: Trip, now: int) -> bool:
        """Open one; False when it was open already, whose quiet time then starts anew."""
        known = self._open.get(trip.name)
        if known is not None:
            known.fine_since = None
            return False
        self._open[trip.name] = Open(trip, now)
        return True

    def fine(self, name: str, now: int) -> bool:
        """What `name` watches is within its limit now; True when that closes it."""
        known = self._open.get(name)
        if known is None or name not in HEALING:
            return False
        if known.fine_since is None or now < known.fine_since:  # the latter: the clock was put back
            known.fine_since = now
        if now - known.fine_since < self._quiet:
            return False
        del self._open[name]
        return True

    def reset(self, names: Iterable[str]) -> list[str]:
        """A person has looked: close these; the names of those that were open."""
        return [name for name in names if self._open.pop(name, None) is not None]
