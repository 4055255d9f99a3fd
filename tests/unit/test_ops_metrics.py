"""Metrics, probes, alerts, signals and numbers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from keeper.chain.connection import Stats
from keeper.model import MAX_UINT256, WAD, Address, Hash, Head, SkipReason, Token
from keeper.ops import numbers
from keeper.ops.alerts import LogAlerter
from keeper.ops.metrics import METHODS, REPLACEMENTS, Metrics
from keeper.ops.signals import stop_event
from keeper.ops.vitals import MarketVitals, Vitals

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
HEAD = Head(100, Hash("0x" + "01" * 32), Hash("0x" + "02" * 32), 1_000, 10**9)

PACKAGE = Path(__file__).resolve().parents[2] / "keeper"

# The names dashboards and alert rules are written against.
NAMES = [
    "build_info",
    "head_block",
    "head_age_seconds",
    "cycle_seconds",
    "cycles_total",
    "last_success_timestamp_seconds",
    "positions_tracked",
    "positions_liquidatable",
    "opportunities_total",
    "skips_total",
    "gate_open",
    "simulations_total",
    "transactions_total",
    "replacements_total",
    "inclusion_blocks",
    "profit_eth_total",
    "loss_eth_total",
    "gas_spent_eth_total",
    "rpc_requests_total",
    "rpc_calls_total",
    "rpc_errors_total",
    "rpc_seconds_total",
    "rpc_bytes_total",
    "rpc_active",
    "queue_lag_seconds",
    "prediction_error_ratio",
    "market_trusted",
    "audits_total",
    "reorgs_total",
    "alerts_total",
]


class Clock:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, stats: Stats | None = None) -> Metrics:
    return Metrics(
        CollectorRegistry(),
        version="1.2.3",
        mode="dry",
        markets={"core": "aave_v3", "spark": "aave_v3"},
        gates=("profit_floor",),
        providers=("wss://a",),
        stats=stats if stats is not None else Stats(),
        clock=clock or Clock(),
    )


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_named_metric_exists_from_the_start() -> None:
    """All names are exposed, with the prefix, before anything has happened."""
    names = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name, _ in samples(make())}
    assert {f"keeper_{name}" for name in NAMES} <= names
    assert all(name.startswith("keeper_") for name in names)


def test_every_label_value_exists_at_zero() -> None:
    """rate() and absent() work on the first day: each reason, gate, result and method has a series."""
    found = samples(make())
    for reason in SkipReason:
        assert found["keeper_skips_total", (("protocol", "aave_v3"), ("reason", str(reason)))] == 0
    for method in METHODS:
        assert found["keeper_rpc_requests_total", (("method", method), ("provider", "wss://a"))] == 0
    assert found["keeper_gate_open", (("gate", "profit_floor"),)] == 1
    assert found["keeper_transactions_total", (("result", "reverted"),)] == 0
    assert all(found["keeper_replacements_total", (("result", what),)] == 0 for what in REPLACEMENTS)
    assert found["keeper_build_info", (("mode", "dry"), ("version", "1.2.3"))] == 1


def test_head_age_grows_by_itself() -> None:
    """The age is computed when asked, also before the first block, so that an alert sees a stalled chain."""
    clock = Clock(1_000.0)
    metrics = make(clock)
    clock.now = 1_030.0
    assert samples(metrics)["keeper_head_age_seconds", ()] == 30.0
    metrics.head(HEAD)
    clock.now = 1_007.0
    assert samples(metrics)["keeper_head_age_seconds", ()] == 7.0
    assert samples(metrics)["keeper_head_block", ()] == 100


def test_the_endpoint_in_use_is_marked() -> None:
    """One endpoint is active, or none."""
    metrics = make()
    metrics.provider("wss://a")
    assert samples(metrics)["keeper_rpc_active", (("provider", "wss://a"),)] == 1
    metrics.provider(None)
    assert samples(metrics)["keeper_rpc_active", (("provider", "wss://a"),)] == 0


def test_every_metric_is_fed() -> None:
    """What is advertised is written by somebody: a flat line must mean that all is well."""
    texts = [path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "metrics.py"]
    inner = (PACKAGE / "ops" / "metrics.py").read_text()
    for name in (n for n, v in vars(make()).items() if isinstance(v, Counter | Gauge | Histogram)):
        fed = any(re.search(rf"metrics\.{name}\b", text) for text in texts)
        assert fed or len(re.findall(rf"self\.{name}\b", inner)) > 1 + inner.count(f"(self.{name},"), name


def test_money() -> None:
    """Profit and loss are separate counters, gas is counted on both; errors of predictions are relative."""
    metrics = make()
    metrics.settled(2 * WAD, WAD // 2)
    metrics.settled(-WAD, WAD // 4)
    metrics.predicted("mined", 100, 101)
    metrics.predicted("mined", 0, 5)
    found = samples(metrics)
    assert found["keeper_profit_eth_total", ()] == 2
    assert found["keeper_loss_eth_total", ()] == 1
    assert found["keeper_gas_spent_eth_total", ()] == 0.75
    assert found["keeper_prediction_error_ratio_count", (("stage", "mined"),)] == 1


def test_rpc_counters_come_from_the_connection() -> None:
    """What the connection counted is what Prometheus reads, at the moment it asks."""
    stats = Stats()
    metrics = make(stats=stats)
    entry = stats.of("wss://a", "eth_call")
    entry.requests, entry.calls, entry.errors, entry.seconds, entry.sent, entry.received = 3, 4, 1, 0.5, 10, 20
    found = samples(metrics)
    labels = (("method", "eth_call"), ("provider", "wss://a"))
    assert found["keeper_rpc_requests_total", labels] == 3
    assert found["keeper_rpc_errors_total", labels] == 1
    assert found["keeper_rpc_bytes_total", (("direction", "received"), *labels)] == 20


def test_two_processes_worth_of_metrics_do_not_collide() -> None:
    """Nothing is registered globally: two sets live in one process."""
    first, second = make(), make()
    first.cycles.labels("ok").inc()
    assert samples(second)["keeper_cycles_total", (("result", "ok"),)] == 0


# -------------------------------------------------------------------------------------------------- vitals


def vitals(clock: Clock, monotonic: Clock) -> Vitals:
    return Vitals("1", "dry", 1, max_loop_age=60, max_head_age=30, clock=clock, monotonic=monotonic)


def test_live_follows_the_loop() -> None:
    """Alive while the loop comes round; the reason names the age and the limit."""
    monotonic = Clock(0.0)
    probe = vitals(Clock(), monotonic)
    assert probe.live().ok
    monotonic.now = 61.0
    assert probe.live().reasons == ("the loop has not come round for 61 s (limit 60 s)",)
    probe.beat()
    assert probe.live().ok


def test_ready_names_everything_that_is_missing() -> None:
    """Each condition of readiness is a reason of its own while it does not hold."""
    clock = Clock(1_010.0)
    probe = vitals(clock, Clock(0.0))
    assert probe.ready().reasons == (
        "no endpoint answers",
        "no block has been seen yet",
        "the history is still being read",
    )
    probe.provider, probe.head, probe.synced = "wss://a", HEAD, True
    probe.markets["core"] = MarketVitals(trusted=False, reason="audit found a difference")
    assert probe.ready().reasons == ("market core: audit found a difference",)
    probe.markets["spark"] = MarketVitals(trusted=True, reason="")
    assert probe.ready().ok
    clock.now = 1_031.0
    assert probe.ready().reasons == ("the newest block 100 is 31 s old (limit 30 s)",)
    clock.now = 1_010.0
    probe.breakers["reverts"] = "three in a row"
    assert probe.ready().reasons == ("breaker reverts is open: three in a row",)
    probe.breakers.clear()
    probe.stopping = True
    assert not probe.ready().ok


def test_asking_changes_nothing() -> None:
    """Any number of probes gives the same answers and the same state."""
    probe = vitals(Clock(), Clock(0.0))
    first = [json.dumps([probe.live().ok, probe.ready().reasons, probe.status()]) for _ in range(3)]
    assert len(set(first)) == 1


# -------------------------------------------------------------------------------------------------- alerts


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", fields))


def test_the_same_alert_is_said_once_and_counted() -> None:
    """Alerts that differ in numbers only are one; after a while it is said again with the count in between."""
    log, metrics, clock = Log(), make(), Clock(0.0)
    alerter = LogAlerter(log, metrics, repeat_after=600, clock=clock)
    for block in range(5):
        alerter.alert("stale", f"block {block} at 0xab{block} is old")
    alerter.alert("stale", "another sentence")
    assert [fields["message"] for _, fields in log.lines] == ["block 0 at 0xab0 is old", "another sentence"]
    clock.now = 601.0
    alerter.alert("stale", "block 9 at 0xab9 is old")
    assert log.lines[-1][1]["suppressed"] == 4
    assert samples(metrics)["keeper_alerts_total", (("severity", "warning"),)] == 7


def test_severe_alerts_are_errors() -> None:
    """Severity decides the level, and a severe alert is not hidden by a mild one of the same words."""
    log, metrics = Log(), make()
    alerter = LogAlerter(log, metrics, clock=Clock(0.0))
    alerter.alert("journal", "cannot write")
    alerter.alert("journal", "cannot write", severe=True)
    assert [level for level, _ in log.lines] == ["warning", "error"]


# ------------------------------------------------------------------------------------------------- signals


async def test_the_first_signal_sets_the_event_and_the_second_is_the_systems() -> None:
    """SIGTERM and SIGINT set the event; afterwards, and on leaving, the handlers are as before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with stop_event() as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), number)
            await asyncio.wait_for(stop.wait(), 5)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with stop_event():
        pass
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_cut_never_rounded_up() -> None:
    """A health factor just below one does not read as one; a small gain does not read as more."""
    assert numbers.health(WAD - 1) == "0.9999"
    assert numbers.health(MAX_UINT256) == "no debt"
    assert numbers.ether(-1) == "-0.000000 ETH"
    assert numbers.ether(1_234 * WAD + 5 * 10**17) == "1,234.500000 ETH"
    assert numbers.gwei(31_567_000_000) == "31.56 gwei"
    assert numbers.bps(12_345) == "123.45 %"
    assert numbers.amount(1, Token(Address("0x" + "11" * 20), "WETH", 18)) == "0.000000000000000001 WETH"
    assert numbers.amount(0, Token(Address("0x" + "11" * 20), "WETH", 18)) == "0 WETH"


@pytest.mark.parametrize("seed", [SEED])
def test_units_agree_with_fractions(seed: int) -> None:
    """Cutting off is exact for any value, scale and number of places; `significant` never exceeds the value."""
    rng = random.Random(seed)
    for _ in range(2_000):
        value = rng.randrange(-(10**40), 10**40) >> rng.randrange(130)
        scale, places = 10 ** rng.randrange(0, 28), rng.randrange(0, 8)
        exact = Fraction(abs(value), scale)
        shown = Fraction(numbers.units(value, scale, places).replace(",", ""))
        assert abs(shown) == Fraction(exact * 10**places // 1, 10**places)
        assert (shown < 0) == (value < 0 and shown != 0)
        short = abs(Fraction(numbers.significant(value, scale, 6).replace(",", "")))
        assert short <= exact
        assert exact - short <= exact / 10**5
