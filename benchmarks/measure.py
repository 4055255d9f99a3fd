"""How a thing is timed, and how a result is written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_BEAT = 0.002  # seconds between two looks at the loop


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `size` is positions, where they matter; `target` is what is to be reached."""

    part: str
    what: str
    value: float
    unit: str
    baseline: str = ""
    theirs: float | None = None  # in the same unit
    target: str = ""
    reached: bool | None = None
    size: int | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as much the baseline takes."""
        return None if self.theirs is None or not self.value else self.theirs / self.value

    def json(self) -> dict[str, Any]:
        """Every field, and the ratio."""
        return asdict(self) | {"ratio": self.ratio}


def best(work: Callable[[], object], *, runs: int = 5, units: int = 1) -> float:
    """Seconds per unit, the best of `runs`: what others do on the machine only ever adds."""
    found = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - start)
    return found / units


def beside(*works: Callable[[], object], runs: int = 9) -> list[float]:
    """Seconds of each, the best of `runs`, taken in turns: what slows the machine for a while slows all of them."""
    found = [float("inf")] * len(works)
    for _ in range(runs):
        found = [min(least, best(work, runs=1)) for least, work in zip(found, works, strict=True)]
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def resident(pid: int | str = "self") -> int:
    """Resident size of a process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no resident size")


def peak() -> int:
    """The largest resident size this process has had, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no resident size")


@dataclass
class Stall:
    """How long the event loop did not come round.

    `wall` includes what other processes took from this one; `busy` is processor time the loop's own thread used between
    two looks, so that it holds on a busy machine as well.
    """

    wall: float = 0.0
    busy: float = 0.0
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    async def __aenter__(self) -> Stall:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        clock, used = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(_BEAT)
            now, spent = time.perf_counter(), time.thread_time()
            self.wall = max(self.wall, now - clock - _BEAT)
            self.busy = max(self.busy, spent - used)
            clock, used = now, spent
