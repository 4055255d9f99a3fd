"""What Prometheus sees. All names start with ``keeper_``; every label value exists from the start, at zero."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from keeper.chain.connection import Stats
from keeper.model import WAD, Head, MissReason, SkipReason

STAGES = ("pass",)
CYCLE_RESULTS = ("ok", "error")
SIMULATIONS = ("ok", "reverted", "short")
TRANSACTIONS = ("sent", "mined", "reverted", "replaced", "dropped", "cancelled")
REPLACEMENTS = ("sped_up", "cancelled", "left")
METHODS = ("eth_call", "eth_getLogs", "eth_getBlockByHash", "eth_getBlockByNumber", "eth_sendRawTransaction", "batch")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BLOCKS = (1, 2, 3, 4, 5, 7, 10, 15, 25, 50)
_ERROR = (-0.5, -0.1, -0.01, -0.001, 0.0, 0.001, 0.01, 0.1, 0.5)


class Metrics:
    """All metrics of one process, in the registry it is given.

    `markets` maps a market's name to its protocol; `gates`, `breakers` and `providers` are the names that may occur.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        version: str,
        mode: str,
        markets: Mapping[str, str],
        gates: Sequence[str] = (),
        breakers: Sequence[str] = (),
        providers: Sequence[str] = (),
        stats: Stats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry
        self._providers = tuple(providers)
        self._head_timestamp = clock()  # until the first head, the age of the process: an alert must see it grow
        protocols = sorted(set(markets.values()))

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"keeper_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"keeper_{name}", text, labels, registry=registry)

        build = gauge("build_info", "Always 1; version and mode are in the labels.", ["version", "mode"])
        build.labels(version=version, mode=mode).set(1)
        self.head_block = gauge("head_block", "Number of the newest block seen.")
        self.head_age = gauge("head_age_seconds", "Age of the newest block seen, by its own timestamp.")
        self.head_age.set_function(lambda: clock() - self._head_timestamp)
        self.cycle_seconds = Histogram(
            "keeper_cycle_seconds", "Time spent per pass, by stage.", ["stage"], registry=registry, buckets=_SECONDS
        )
        self.cycles = counter("cycles_total", "Passes by result.", ["result"])
        self.last_success = gauge("last_success_timestamp_seconds", "Unix time of the last complete pass.")
        self.queue_lag = gauge("queue_lag_seconds", "From a block's timestamp to the start of its pass.")
        self.positions_tracked = gauge("positions_tracked", "Borrowers with debt.", ["market"])
        self.positions_liquidatable = gauge(
            "positions_liquidatable", "Positions below a health factor of 1.", ["market"]
        )
        self.market_trusted = gauge("market_trusted", "1 while a market may be acted on.", ["market"])
        self.audits = counter("audits_total", "Books compared with the protocol's own view.", ["market", "result"])
        self.reorgs = counter("reorgs_total", "Reorganisations undone.")
        self.opportunities = counter("opportunities_total", "Liquidatable positions that got a plan.", ["protocol"])
        self.skips = counter("skips_total", "Liquidatable positions left alone, per pass.", ["protocol", "reason"])
        self.gate_open = gauge("gate_open", "1 while a gate let the last plan pass, 0 while it was closed.", ["gate"])
        self.simulations = counter("simulations_total", "Simulations by result.", ["result"])
        self.transactions = counter("transactions_total", "Attempts by what became of them.", ["result"])
        self.replacements = counter(
            "replacements_total",
            "Attempts looked at again while out, by what was done (left: per head).",
            ["result"],
        )
        self.inclusion_blocks = Histogram(
            "keeper_inclusion_blocks", "Blocks from sending to inclusion.", registry=registry, buckets=_BLOCKS
        )
        self.prediction_error = Histogram(
            "keeper_prediction_error_ratio",
            "Realised over predicted gain, less 1.",
            ["stage"],
            registry=registry,
            buckets=_ERROR,
        )
        self.profit_eth = counter("profit_eth_total", "Net profit of attempts that earned, in the native token.")
        self.loss_eth = counter("loss_eth_total", "Net loss of attempts that lost, in the native token.")
        self.gas_spent = counter("gas_spent_eth_total", "Gas paid by settled attempts, in the native token.")
        self.missed = counter("missed_total", "Positions that somebody else liquidated, by our reason.", ["reason"])
        self.signer_balance = gauge("signer_balance_eth", "Native balance of the signer.")
        self.breaker_open = gauge("breaker_open", "1 while a breaker stops all sending.", ["reason"])
        self.paused = gauge("paused", "1 while an operator has paused sending.")
        self.rpc_active = gauge("rpc_active", "1 for the endpoint in use.", ["provider"])
        self.notify_errors = counter("notify_errors_total", "Alerts that could not be delivered.")
        self.alerts = counter("alerts_total", "Alerts raised, repeats included.", ["severity"])

        for family, values in (
            (self.cycle_seconds, STAGES),
            (self.cycles, CYCLE_RESULTS),
            (self.simulations, SIMULATIONS),
            (self.transactions, TRANSACTIONS),
            (self.replacements, REPLACEMENTS),
            (self.prediction_error, ("simulated", "mined")),
            (self.opportunities, protocols),
            (self.positions_tracked, markets),
            (self.positions_liquidatable, markets),
            (self.market_trusted, markets),
            (self.gate_open, gates),
            (self.breaker_open, breakers),
            (self.rpc_active, providers),
            (self.missed, (*SkipReason, *MissReason)),
            (self.alerts, ("warning", "severe")),
        ):
            for value in values:
                family.labels(value)
        for gate in gates:
            self.gate_open.labels(gate).set(1)
        for protocol in protocols:
            for reason in SkipReason:
                self.skips.labels(protocol, reason)
        for market in markets:
            for result in ("ok", "different", "error"):
                self.audits.labels(market, result)
        if stats is not None:
            registry.register(RpcCollector(stats, providers))

    def head(self, head: Head) -> None:
        """A new newest block."""
        self._head_timestamp = float(head.timestamp)
        self.head_block.set(head.number)

    def provider(self, used: str | None) -> None:
        """Which endpoint is asked first; None while there is none."""
        for name in self._providers:
            self.rpc_active.labels(name).set(int(name == used))

    def settled(self, net: int, gas_cost: int) -> None:
        """An attempt with a receipt: `net` and `gas_cost` in wei."""
        (self.profit_eth if net >= 0 else self.loss_eth).inc(abs(net) / WAD)
        self.gas_spent.inc(gas_cost / WAD)

    def predicted(self, stage: str, predicted: int, actual: int) -> None:
        """How far a ``simulated`` or ``mined`` gain was from the one predicted before it, both in wei."""
        if predicted > 0:
            self.prediction_error.labels(stage).observe(actual / predicted - 1)

    def gates(self, results: Mapping[str, bool]) -> None:
        """Which gates were open for the last plan."""
        for name, passed in results.items():
            self.gate_open.labels(name).set(int(passed))


class RpcCollector(Collector):
    """The connection's own counters, read when Prometheus asks: the chain layer knows nothing of metrics."""

    def __init__(self, stats: Stats, providers: Iterable[str] = ()) -> None:
        self._stats = stats
        for provider in providers:
            for method in METHODS:
                stats.of(provider, method)

    def collect(self) -> Iterator[Metric]:
        """One sample per endpoint and method seen."""
        labels = ["provider", "method"]
        requests = CounterMetricFamily("keeper_rpc_requests_total", "JSON-RPC round trips.", labels=labels)
        calls = CounterMetricFamily("keeper_rpc_calls_total", "JSON-RPC calls in them.", labels=labels)
        errors = CounterMetricFamily("keeper_rpc_errors_total", "Those without a usable answer.", labels=labels)
        seconds = CounterMetricFamily("keeper_rpc_seconds_total", "Time spent waiting for answers.", labels=labels)
        size = CounterMetricFamily("keeper_rpc_bytes_total", "Bytes by direction.", labels=[*labels, "direction"])
        for key, entry in list(self._stats.methods.items()):
            requests.add_metric(key, entry.requests)
            calls.add_metric(key, entry.calls)
            errors.add_metric(key, entry.errors)
            seconds.add_metric(key, entry.seconds)
            size.add_metric([*key, "sent"], entry.sent)
            size.add_metric([*key, "received"], entry.received)
        yield from (requests, calls, errors, seconds, size)
