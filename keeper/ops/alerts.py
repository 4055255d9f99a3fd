"""Alerts as log lines and a counter, without a storm: the same alert again is counted and said at most so often."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keeper.ops.metrics import Metrics

_VARIES = re.compile(r"0x[0-9a-fA-F]+|\d+")
_MOST_KINDS = 1_000

# Events, not states: another one differs in its numbers and is news all the same.
EVENTS = frozenset({"started", "stopped", "liquidation_done", "attempt_failed", "near_liquidation"})
GOOD = frozenset({"started", "stopped", "liquidation_done", "node_back", "market_back", "breaker_closed"})
# What ends what. Once one of a pair is said the other may be said again: the last word must be the present state.
ENDS = {
    "node_back": ("node_lost",),
    "market_back": ("mirror_distrusted", "book_distrusted"),
    "breaker_closed": ("breaker_open",),
}
_OVERRULES = ENDS | {begin: (end,) for end, begins in ENDS.items() for begin in begins}

Deliver = Callable[[str, str, bool], None]  # name, message, severe


@dataclass(slots=True)
class _Said:
    at: float
    suppressed: int = 0


class LogAlerter:
    """Implements `ports.Alerter`. Two alerts are the same when they differ only in numbers, addresses and hashes.

    `deliver` is where what is said goes further, such as `channels.Channels.put`; it must not block or raise.
    """

    def __init__(
        self, log: Any, metrics: Metrics, *, repeat_after: float = 600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.deliver: Deliver | None = None
        self._log = log
        self._metrics = metrics
        self._repeat_after = repeat_after
        self._clock = clock
        self._said: dict[tuple[str, str, bool], _Said] = {}

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        """Say it, unless the same was said less than `repeat_after` seconds ago; then only count it."""
        self._metrics.alerts.labels("severe" if severe else "warning").inc()
        if name in _OVERRULES:
            self._said = {key: said for key, said in self._said.items() if key[0] not in _OVERRULES[name]}
        key = (name, message if name in EVENTS else _VARIES.sub("#", message), severe)
        now = self._clock()
        said = self._said.get(key)
        if said is not None and now - said.at < self._repeat_after:
            said.suppressed += 1
            return
        repeats = {"suppressed": said.suppressed} if said is not None and said.suppressed else {}
        self._said[key] = _Said(now)
        if len(self._said) > _MOST_KINDS:
            oldest = min(self._said, key=lambda kind: self._said[kind].at)
            del self._said[oldest]
        say = self._log.error if severe else self._log.info if name in GOOD else self._log.warning
        say("alert", alert=name, message=message, **repeats)
        if self.deliver is not None:
            again = f" ({said.suppressed} more times since it was last said)" if said is not None and repeats else ""
            self.deliver(name, message + again, severe)
