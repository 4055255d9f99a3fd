"""Each breaker opens and closes at its exact boundary."""

from __future__ import annotations

import os
import random

import pytest

from keeper.strategy import breakers
from keeper.strategy.breakers import BPS, BREAKERS, DAY, HEALING, HISTORY, REVERTS, Limits, Panel, Result, Trip, judge
from keeper.strategy.failures import Failure

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
NOW = 1_700_000_000
LIMITS = Limits(
    loss_per_day=1_000,
    gas_per_day=5_000,
    reverts={Failure.LOST_RACE: 4, Failure.NOT_LIQUIDATABLE: 3, Failure.NO_LIQUIDITY: 2, Failure.BUG: 1},
    prediction_error_bps=500,
    prediction_attempts=2,
    balance_attempts=5,
    attempt_gas=1_000,
    max_head_age=60,
    max_height_gap=3,
    rpc_error_bps=5_000,
    rpc_min_calls=10,
    audit_failures=2,
    exposure_per_transaction=100,
    exposure_in_flight=150,
    exposure_per_day=400,
)


def loss(seq: int, net: int, *, age: int = 0, gas: int = 0) -> Result:
    return Result(seq, NOW - age, net, gas)


def mined(seq: int, gain: int = 10_000, predicted: int = 10_000) -> Result:
    return Result(seq, NOW, 1, 0, predicted, gain, mined=True)


def revert(seq: int, failure: Failure) -> Result:
    return Result(seq, NOW, 0, 0, failure=failure)


def names(results: list[Result], marks: dict[str, int] | None = None) -> list[str]:
    return [trip.name for trip in judge(results, marks or {}, LIMITS, NOW)]


def test_every_breaker_has_one_name_and_a_kind() -> None:
    """Names are unique; what heals by itself is measured, never judged from history."""
    assert len(set(BREAKERS)) == len(BREAKERS) == 15
    assert set(BREAKERS) > HEALING
    assert not HEALING & set(HISTORY)


def test_loss_counts_only_what_was_lost() -> None:
    """Exactly the limit is allowed, one wei more is not, and no gain makes up for it."""
    assert names([loss(1, -600), loss(2, -400)]) == []
    assert names([loss(1, -600), loss(2, -401)]) == ["loss_per_day"]
    assert names([loss(1, -600), loss(2, 10**18), loss(3, -401)]) == ["loss_per_day"]
    (trip,) = judge([loss(1, -1_001)], {}, LIMITS, NOW)
    assert trip.numbers == {"value": 1_001, "limit": 1_000}


def test_gas_counts_that_of_every_result() -> None:
    """Successes pay gas too."""
    assert names([loss(1, 0, gas=2_000), loss(2, 5, gas=3_000)]) == []
    assert names([loss(1, 0, gas=2_000), loss(2, 5, gas=3_001)]) == ["gas_per_day"]


def test_a_day_is_the_last_24_hours() -> None:
    """What is a day old no longer counts; a second younger, it does."""
    assert names([loss(1, -1_001, age=DAY)]) == []
    assert names([loss(1, -1_001, age=DAY - 1)]) == ["loss_per_day"]


def test_what_a_person_has_seen_does_not_count() -> None:
    """A mark hides results up to it, for its own breaker only."""
    results = [loss(1, -800, gas=5_001), loss(2, -300)]
    assert names(results, {"loss_per_day": 1}) == ["gas_per_day"]
    assert names(results, {"loss_per_day": 0}) == ["loss_per_day", "gas_per_day"]
    assert names(results, {"loss_per_day": 2, "gas_per_day": 1}) == []


@pytest.mark.parametrize("failure", Failure)
def test_reverts_trip_by_class_when_the_count_is_reached(failure: Failure) -> None:
    """One less does not; another class in between does not start anew; a success does."""
    limit = LIMITS.reverts[failure]
    run = [revert(seq, failure) for seq in range(1, limit + 1)]
    assert REVERTS[failure] not in names(run[:-1])
    assert names(run) == [REVERTS[failure]]
    other = next(one for one in Failure if LIMITS.reverts[one] > 1 and one is not failure)
    between = [*run[:-1], revert(50, other), revert(60, failure)]
    assert REVERTS[failure] in names(between)
    assert REVERTS[failure] not in names([*run[:-1], mined(50), *([revert(60, failure)] if limit > 1 else [])])


def test_the_order_is_that_of_ends_and_not_of_the_list() -> None:
    """`seq` says what came last."""
    results = [mined(1), revert(2, Failure.NO_LIQUIDITY), revert(3, Failure.NO_LIQUIDITY)]
    random.Random(SEED).shuffle(results)
    assert names(results) == ["reverts_no_liquidity"]


@pytest.mark.parametrize("sign", [1, -1])
def test_prediction_error_wants_a_row_of_attempts(sign: int) -> None:
    """5 % off in either direction is allowed, more is not, and one good prediction ends the row."""
    edge, over = 10_000 + sign * 500, 10_000 + sign * 501
    assert names([mined(1, edge), mined(2, edge)]) == []
    assert names([mined(1, over)]) == []
    assert names([mined(1, over), mined(2, edge)]) == []
    assert names([mined(1, edge), mined(2, over), mined(3, over)]) == ["prediction_error"]
    assert names([mined(1, over), revert(2, Failure.LOST_RACE), mined(3, over)]) == ["prediction_error"]


def test_the_balance_pays_for_a_few_attempts() -> None:
    """5 attempts of 1,000 gas at 7 wei are 35,000 wei."""
    assert breakers.balance(35_000, 7, LIMITS) is None
    assert breakers.balance(35_000 + 5 * 100, 7, LIMITS, 100) is None, "what a roll-up charges for data beside the gas"
    assert breakers.balance(35_000 + 5 * 100 - 1, 7, LIMITS, 100) is not None
    trip = breakers.balance(34_999, 7, LIMITS)
    assert trip is not None
    assert trip.numbers == {"balance": 34_999, "limit": 35_000}


def test_the_head_may_be_so_old() -> None:
    """60 s pass, 61 s do not."""
    assert breakers.head_age(NOW - 60, 1, NOW, LIMITS) is None
    assert breakers.head_age(NOW - 61, 1, NOW, LIMITS) is not None


def test_endpoints_must_be_near_and_tell_one_chain() -> None:
    """Three blocks apart pass, four do not; two hashes at one height never do; one endpoint cannot disagree."""
    same = {"a": "0x1", "b": "0x1"}
    assert breakers.endpoints({"a": 10, "b": 7}, same, 5, LIMITS) is None
    gap = breakers.endpoints({"a": 10, "b": 6}, same, 5, LIMITS)
    assert gap is not None
    assert gap.numbers["gap"] == 4
    assert breakers.endpoints({"a": 10, "b": 10}, {"a": "0x1", "b": "0x2"}, 8, LIMITS) is not None
    assert breakers.endpoints({"a": 10}, {"a": "0x1"}, 8, LIMITS) is None
    assert breakers.endpoints({}, {}, 0, LIMITS) is None


def test_an_rpc_error_rate_needs_enough_calls() -> None:
    """Half of ten may fail, six may not; of nine all may, because that is no rate."""
    assert breakers.rpc_errors(10, 5, LIMITS) is None
    assert breakers.rpc_errors(10, 6, LIMITS) is not None
    assert breakers.rpc_errors(9, 9, LIMITS) is None


def test_audits_trip_when_the_count_is_reached() -> None:
    """One difference passes where two are asked for."""
    assert breakers.audits(1, "off by one wei", LIMITS) is None
    trip = breakers.audits(2, "off by one wei", LIMITS)
    assert trip is not None
    assert "off by one wei" in trip.detail


def test_exposure_has_three_limits_of_which_the_first_speaks() -> None:
    """By transaction, in flight, by day; exactly at each limit passes."""
    assert breakers.exposure("USDC", 100, 50, 300, LIMITS) is None
    for arguments, name in (
        ((101, 0, 0), "exposure_per_transaction"),
        ((100, 51, 0), "exposure_in_flight"),
        ((100, 50, 301), "exposure_per_day"),
        ((101, 500, 500), "exposure_per_transaction"),
    ):
        trip = breakers.exposure("USDC", *arguments, LIMITS)
        assert trip is not None
        assert trip.name == name
        assert "USDC" in trip.detail


def test_a_healing_breaker_closes_after_a_quiet_time_and_no_other_does() -> None:
    """The quiet time begins with the first measurement without cause, and anew with every cause."""
    head, money = Trip("head_age", "old", {}), Trip("loss_per_day", "lost", {})
    panel = Panel(100)
    assert panel.trip(head, NOW)
    assert panel.trip(money, NOW)
    assert panel.reason == "head_age: old; loss_per_day: lost"
    assert not panel.fine("head_age", NOW + 10)
    assert not panel.trip(head, NOW + 50)
    assert not panel.fine("head_age", NOW + 60)
    assert not panel.fine("head_age", NOW + 159)
    assert panel.fine("head_age", NOW + 160)
    assert not panel.fine("loss_per_day", NOW + 10**6)
    assert panel.reason == "loss_per_day: lost"
    assert panel.reset(["head_age", "loss_per_day"]) == ["loss_per_day"]
    assert panel.reason is None


def test_a_clock_put_back_starts_the_quiet_time_anew() -> None:
    """Not after the hour by which it was wrong, but after the quiet time."""
    panel = Panel(100, [(Trip("rpc_errors", "", {}), NOW)])
    assert not panel.fine("rpc_errors", NOW + 3_600)
    assert not panel.fine("rpc_errors", NOW)
    assert not panel.fine("rpc_errors", NOW + 99)
    assert panel.fine("rpc_errors", NOW + 100)


# ------------------------------------------------------------------------------------------ random histories


def recomputed(results: list[Result], marks: dict[str, int], now: int) -> set[str]:
    """The same question by walking backwards, one breaker at a time, in plain words."""
    tripped = set()
    backwards = sorted((r for r in results if r.at > now - DAY), key=lambda r: -r.seq)
    lost = spent = 0
    for result in backwards:
        if result.seq > marks.get("loss_per_day", 0) and result.net < 0:
            lost -= result.net
        if result.seq > marks.get("gas_per_day", 0):
            spent += result.gas_cost
    if lost > LIMITS.loss_per_day:
        tripped.add("loss_per_day")
    if spent > LIMITS.gas_per_day:
        tripped.add("gas_per_day")
    for failure in Failure:
        count, name = 0, f"reverts_{failure.value}"
        for result in backwards:
            if result.mined or result.seq <= marks.get(name, 0):
                break
            count += 1 if result.failure == failure else 0
        if count >= LIMITS.reverts[failure]:
            tripped.add(name)
    row = 0
    for result in backwards:
        if result.seq <= marks.get("prediction_error", 0):
            break
        if result.mined:
            allowed = LIMITS.prediction_error_bps * result.predicted_gain
            if -allowed <= (result.gain - result.predicted_gain) * BPS <= allowed:
                break
            row += 1
    if row >= LIMITS.prediction_attempts:
        tripped.add("prediction_error")
    return tripped


def test_random_histories_trip_exactly_when_recomputed() -> None:
    """After every result of 400 random histories, with random resets, the breakers are those a recount names."""
    print("seed", SEED)
    rng = random.Random(SEED)
    seen: set[str] = set()
    quiet = 0
    for life in range(400):
        usual = list(Failure)[life % len(Failure)]
        results: list[Result] = []
        marks: dict[str, int] = {}
        now = NOW
        for seq in range(1, rng.randint(2, 30)):
            now += rng.choice([0, 12, 600, 20_000, DAY - 1, DAY])
            kind = rng.random()
            failure = rng.choice([*Failure, *[usual] * 8]) if kind < 0.7 else None
            predicted = rng.choice([1_000, 10_000])
            gain = predicted + predicted * rng.choice([-501, -500, 0, 500, 501]) // BPS if kind > 0.75 else 0
            results.append(
                Result(
                    seq,
                    now,
                    rng.choice([-1_001, -500, -1, 0, 700]),
                    rng.choice([0, 1, 2_500, 5_000]),
                    predicted,
                    gain,
                    mined=kind > 0.75,
                    failure=failure,
                )
            )
            if rng.random() < 0.15:
                marks[rng.choice(HISTORY)] = seq - rng.randint(0, 1)
            found = [trip.name for trip in judge(results, marks, LIMITS, now)]
            assert set(found) == recomputed(results, marks, now)
            assert len(set(found)) == len(found)
            seen.update(found)
            quiet += not found
    assert seen == set(HISTORY)
    assert quiet > 100
