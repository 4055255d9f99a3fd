"""What the loop last said about itself. The loop writes, the HTTP server only reads: asking changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from keeper.model import Head


@dataclass(frozen=True, slots=True)
class Health:
    """A probe's answer: yes, unless there are reasons against it."""

    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """No reason speaks against it."""
        return not self.reasons


@dataclass(slots=True)
class MarketVitals:
    """One market as the last pass left it."""

    trusted: bool = False
    reason: str = "not synced yet"
    positions: int = 0
    liquidatable: int = 0


@dataclass(slots=True)
class Vitals:
    """The engine sets the fields as it goes; times are Unix seconds except `beat_at`, which is monotonic."""

    version: str
    mode: str  # dry or live
    chain_id: int
    max_loop_age: float
    max_head_age: float
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    started_at: float = 0.0
    beat_at: float = 0.0
    head: Head | None = None
    provider: str | None = None  # masked label of the endpoint in use; None while there is none
    synced: bool = False
    sync_progress: str = ""  # a sentence while back-filling
    stopping: bool = False
    paused: bool = False
    pause_reason: str = ""
    in_flight: int = 0
    passes: int = 0
    last_pass_at: float | None = None
    markets: dict[str, MarketVitals] = field(default_factory=dict)
    breakers: dict[str, str] = field(default_factory=dict)  # open ones: name -> reason
    quarantined: dict[str, str] = field(default_factory=dict)  # "market borrower" -> reason

    def __post_init__(self) -> None:
        self.started_at = self.clock()
        self.beat_at = self.monotonic()

    def beat(self) -> None:
        """The loop has come round: called at every head, every bit of sync progress and every idle wait."""
        self.beat_at = self.monotonic()

    def live(self) -> Health:
        """Whether the loop still comes round; if not, only a restart helps."""
        age = self.monotonic() - self.beat_at
        if age > self.max_loop_age:
            return Health((f"the loop has not come round for {age:.0f} s (limit {self.max_loop_age:.0f} s)",))
        return Health()

    def ready(self) -> Health:
        """Whether it would act now: connected, head fresh, synced, a market trusted, not paused, no breaker open."""
        reasons = list(self.live().reasons)
        if self.stopping:
            reasons.append("it is shutting down")
        if self.provider is None:
            reasons.append("no endpoint answers")
        if self.head is None:
            reasons.append("no block has been seen yet")
        elif (age := self.clock() - self.head.timestamp) > self.max_head_age:
            reasons.append(f"the newest block {self.head.number} is {age:.0f} s old (limit {self.max_head_age:.0f} s)")
        if not self.synced:
            reasons.append(self.sync_progress or "the history is still being read")
        elif not any(market.trusted for market in self.markets.values()):
            reasons += [f"market {name}: {market.reason}" for name, market in self.markets.items()] or ["no market"]
        if self.paused:
            reasons.append(f"it is paused by the operator: {self.pause_reason}".removesuffix(": "))
        reasons += [f"breaker {name} is open: {reason}" for name, reason in self.breakers.items()]
        return Health(tuple(reasons))

    def status(self) -> dict[str, Any]:
        """Everything above as plain values."""
        head = self.head
        ready, live = self.ready(), self.live()
        return {
            "version": self.version,
            "mode": self.mode,
            "chain_id": self.chain_id,
            "started_at": int(self.started_at),
            "uptime_seconds": int(self.clock() - self.started_at),
            "live": live.ok,
            "ready": ready.ok,
            "reasons": list(ready.reasons),
            "head": None
            if head is None
            else {
                "number": head.number,
                "hash": head.hash,
                "timestamp": head.timestamp,
                "age_seconds": round(self.clock() - head.timestamp, 1),
            },
            "provider": self.provider,
            "synced": self.synced,
            "sync_progress": self.sync_progress,
            "stopping": self.stopping,
            "paused": self.paused,
            "pause_reason": self.pause_reason,
            "in_flight": self.in_flight,
            "passes": self.passes,
            "last_pass_at": None if self.last_pass_at is None else int(self.last_pass_at),
            "markets": {name: asdict(market) for name, market in self.markets.items()},
            "breakers": dict(self.breakers),
            "quarantined": dict(self.quarantined),
        }
