"""Decisions on disk: one row per run of equal consecutive skips, one per attempt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from keeper.model import Address, Decision, Head, Skip

# A market can hold thousands of positions that are never worth taking. Their unchanged skips are counted in memory and
# written every so many passes: a kill -9 loses some of those repeats, never a decision that was new.
WRITE_AT_ONCE = 200
WRITE_EVERY = 32

_Key = tuple[str, Address]


@dataclass(slots=True)
class _Run:
    """The open row of a position that was skipped in the latest pass."""

    id: int
    reason: str
    passes: int
    block: int
    at: int
    skip: Skip | None  # None: nothing to add to what is on disk


class Decisions:
    """Writes what each pass decided. Runs in the journal's thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._runs: dict[_Key, _Run] = {}
        self._since_flush = 0
        last = db.execute("SELECT last_block FROM passes ORDER BY hour DESC LIMIT 1").fetchone()
        if last is not None:
            rows = db.execute(
                "SELECT id, market, borrower, reason, passes, last_block, last_at FROM decisions"
                " WHERE last_block = ? AND reason IS NOT NULL ORDER BY id",
                last,
            )
            for row_id, market, borrower, reason, passes, block, at in rows:
                self._runs[market, Address(borrower)] = _Run(row_id, reason, passes, block, at, None)

    def record(self, head: Head, decisions: Sequence[Decision], at: int) -> None:
        """Write the pass. The caller has opened a transaction. Raises ValueError when a position is decided twice."""
        _check(decisions)
        runs: dict[_Key, _Run] = {}
        attempted = 0
        for decision in decisions:
            key = (decision.market, decision.borrower)
            if decision.skip is None:
                attempted += 1
                self._insert(decision, None, head, at)
                continue
            run = self._runs.pop(key, None)
            if run is not None and run.reason == decision.skip.reason:
                run.passes += 1
                run.block, run.at, run.skip = head.number, at, decision.skip
                runs[key] = run
            else:
                if run is not None:
                    self._write([run])
                row_id = self._insert(decision, decision.skip, head, at)
                runs[key] = _Run(row_id, decision.skip.reason, 1, head.number, at, None)
        self._write(list(self._runs.values()))  # positions that are no longer liquidatable
        self._runs = runs
        self._since_flush += 1
        if len(runs) <= WRITE_AT_ONCE or self._since_flush >= WRITE_EVERY:
            self.flush()
        self._count(head, len(decisions), attempted, at)

    def flush(self) -> None:
        """Write every repeat still in memory, inside the caller's transaction."""
        self._write(list(self._runs.values()))
        self._since_flush = 0

    def _write(self, runs: list[_Run]) -> None:
        rows = [
            (run.passes, run.block, run.at, run.skip.detail, _numbers(run.skip), run.id)
            for run in runs
            if run.skip is not None
        ]
        self._db.executemany(
            "UPDATE decisions SET passes = ?, last_block = ?, last_at = ?, detail = ?, numbers = ? WHERE id = ?", rows
        )
        for run in runs:
            run.skip = None

    def _insert(self, decision: Decision, skip: Skip | None, head: Head, at: int) -> int:
        cursor = self._db.execute(
            "INSERT INTO decisions (market, borrower, reason, attempt_id, detail, numbers,"
            " first_block, last_block, first_at, last_at, passes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
            (
                decision.market,
                decision.borrower,
                str(skip.reason) if skip else None,
                decision.attempt_id,
                skip.detail if skip else "",
                _numbers(skip) if skip else "{}",
                head.number,
                head.number,
                at,
                at,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _count(self, head: Head, liquidatable: int, attempted: int, at: int) -> None:
        self._db.execute(
            "INSERT INTO passes (hour, passes, first_block, last_block, liquidatable, skipped, attempted)"
            " VALUES (?1, 1, ?2, ?2, ?3, ?4, ?5) ON CONFLICT (hour) DO UPDATE SET passes = passes + 1,"
            " last_block = ?2, liquidatable = liquidatable + ?3, skipped = skipped + ?4, attempted = attempted + ?5",
            (at // 3600, head.number, liquidatable, liquidatable - attempted, attempted),
        )


def _check(decisions: Sequence[Decision]) -> None:
    seen: set[_Key] = set()
    for decision in decisions:
        key = (decision.market, decision.borrower)
        if key in seen or (decision.skip is None) == (decision.attempt_id is None):
            raise ValueError(f"position {decision.borrower} in {decision.market} must end a pass exactly once")
        seen.add(key)


def _numbers(skip: Skip) -> str:
    return json.dumps({name: str(value) for name, value in skip.numbers.items()}, separators=(",", ":"))
