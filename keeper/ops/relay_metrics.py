"""What each private relay was asked, what it answered, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

ANSWERS = ("accepted", "declined", "unanswered", "unreadable", "simulated_failure")


class RelayMetrics:
    """Implements `execution.relays.Tally`; every relay has every result from the start, at zero."""

    def __init__(self, registry: CollectorRegistry, relays: Iterable[str]) -> None:
        self._requests = Counter(
            "keeper_relay_requests_total", "Requests to private relays.", ["relay"], registry=registry
        )
        self._answers = Counter(
            "keeper_relay_answers_total", "Their answers by result.", ["relay", "result"], registry=registry
        )
        self._included = Counter(
            "keeper_relay_included_total",
            "Attempts mined that the relay had accepted; which of several landed one is not known.",
            ["relay"],
            registry=registry,
        )
        for relay in relays:
            self._requests.labels(relay)
            self._included.labels(relay)
            for result in ANSWERS:
                self._answers.labels(relay, result)

    def asked(self, relay: str) -> None:
        """A request has left."""
        self._requests.labels(relay).inc()

    def answered(self, relay: str, result: str) -> None:
        """One of `ANSWERS` came of it."""
        self._answers.labels(relay, result).inc()

    def included(self, relay: str) -> None:
        """An attempt that the relay had accepted was mined."""
        self._included.labels(relay).inc()
