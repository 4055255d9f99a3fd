"""How a thing is timed, and how a result is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; times in seconds per unit of work."""

    what: str
    ours: float
    baseline: str
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as long the baseline takes."""
        return self.theirs / self.ours

    def json(self) -> dict[str, Any]:
        """what, ours and theirs (seconds), baseline, ratio."""
        return asdict(self) | {"ratio": self.ratio}


def best(work: Callable[[], object], *, runs: int = 5, units: int = 1) -> float:
    """Seconds per unit, the best of `runs`: what others do on the machine only ever adds."""
    found = float("inf")
    for _ in range(runs):
        start = perf_counter()
        work()
        found = min(found, perf_counter() - start)
    return found / units
