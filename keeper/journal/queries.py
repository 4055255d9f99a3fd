"""What a person asks the journal: how often, why not, what was earned, how good the predictions were.

Each function takes a connection: `Journal.ask` runs it in the keeper itself, `Reader` beside or without one.
JSON forms carry amounts as decimal strings of base units; blocks, nonces, counts and Unix times as numbers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from keeper.errors import ConfigError
from keeper.journal import file
from keeper.journal.rivals import Competition, competition

T = TypeVar("T")
_OTHERS_SINCE = 4  # schema version in which an attempt may have several positions


@dataclass(frozen=True, slots=True)
class Since:
    """Where a report starts: a block number, a Unix time, both, or neither (everything)."""

    block: int = 0
    at: int = 0


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A run of passes in which a position ended the same way; `passes` counts them."""

    market: str
    borrower: str
    reason: str | None  # None for an attempt
    attempt_id: str | None
    detail: str
    numbers: Mapping[str, int]
    first_block: int
    last_block: int
    first_at: int
    last_at: int
    passes: int

    def json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self) | {"numbers": {name: str(value) for name, value in self.numbers.items()}}


@dataclass(frozen=True, slots=True)
class EventRow:
    """One step of an attempt."""

    at: int
    before: str | None
    after: str
    tx_hash: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt and, once it has a receipt, what came of it. Amounts in wei, gas in units."""

    id: str
    market: str
    borrower: str
    signer: str
    nonce: int
    executor: str
    state: str
    closed: bool
    detail: str
    created_at: int
    head_number: int
    tx_hash: str | None  # of the receipt, else of the newest transaction
    plan: Mapping[str, Any]
    predicted_gain: int
    predicted_gas: int
    predicted_net: int
    block_number: int | None
    gas_used: int | None
    gas_price: int | None
    gain: int | None
    net: int | None
    revert: str | None
    others: tuple[tuple[str, str], ...] = ()  # further positions that it takes: market and borrower

    def json(self) -> dict[str, Any]:
        """All fields by name; amounts and gas as decimal strings."""
        amounts = ("predicted_gain", "predicted_gas", "predicted_net", "gas_used", "gas_price", "gain", "net")
        found = asdict(self)
        return found | {name: None if found[name] is None else str(found[name]) for name in amounts}


@dataclass(frozen=True, slots=True)
class Errors:
    """Realised less predicted over `count` attempts with a receipt that succeeded."""

    count: int
    total: int
    mean_absolute: int  # rounded down
    max_absolute: int

    def json(self) -> dict[str, Any]:
        """All fields by name; amounts as decimal strings."""
        return {
            "count": self.count,
            "total": str(self.total),
            "mean_absolute": str(self.mean_absolute),
            "max_absolute": str(self.max_absolute),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """The morning's answer. `gain`, `gas_cost` and `net` are realised wei, reverted attempts' gas included."""

    chain_id: int
    mode: str
    first_block: int | None
    last_block: int | None
    passes: int  # by whole hours
    positions: int  # distinct liquidatable positions
    skips: Mapping[str, int]  # reason -> passes
    skipped_positions: Mapping[str, int]  # reason -> distinct positions
    attempts: Mapping[str, int]  # state -> attempts
    gain: int
    gas_cost: int
    net: int
    predicted_net: int  # of the attempts with a receipt
    dry_net: int  # predicted by attempts a dry run did not send
    gain_error: Errors  # wei
    gas_error: Errors  # units
    competition: Competition = field(default_factory=Competition)

    def json(self) -> dict[str, Any]:
        """All fields by name; amounts as decimal strings."""
        amounts = ("gain", "gas_cost", "net", "predicted_net", "dry_net")
        return (
            asdict(self)
            | {name: str(getattr(self, name)) for name in amounts}
            | {"gain_error": self.gain_error.json(), "gas_error": self.gas_error.json()}
            | {"competition": self.competition.json()}
        )


class Reader:
    """A journal opened for reading only, also while a keeper writes to it."""

    def __init__(self, path: Path, chain_id: int | None = None, mode: str | None = None) -> None:
        """Raises ConfigError when there is no journal at `path` or it is not the one expected."""
        if not file.check(path, chain_id, mode):
            raise ConfigError(f"journal {path} does not exist yet: run the keeper first, or check the data directory")
        self._path = path
        self._db = file.connect_read_only(path)

    def ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run one of this module's functions on one consistent state of the file."""
        try:
            self._db.execute("BEGIN")
            try:
                return query(self._db)
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"journal {self._path} cannot be read ({error}): check its disk and permissions"
            ) from error
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"journal {self._path} is damaged ({error!r}): restore it from a backup") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def summary(db: sqlite3.Connection, since: Since = Since()) -> Summary:
    """Counts and totals since a block or time."""
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    first, last, passes = db.execute(
        "SELECT min(first_block), max(last_block), coalesce(sum(passes), 0) FROM passes"
        " WHERE last_block >= ? AND (hour + 1) * 3600 > ?",
        (since.block, since.at),
    ).fetchone()
    range_ = "last_block >= ? AND last_at >= ?"
    skips = db.execute(
        "SELECT reason, sum(passes), count(DISTINCT market || ' ' || borrower) FROM decisions"  # noqa: S608  constant
        f" WHERE reason IS NOT NULL AND {range_} GROUP BY reason ORDER BY 2 DESC, 1",
        (since.block, since.at),
    ).fetchall()
    positions = db.execute(
        f"SELECT count(DISTINCT market || ' ' || borrower) FROM decisions WHERE {range_}",  # noqa: S608  constant
        (since.block, since.at),
    ).fetchone()[0]
    found = attempts(db, since)
    with_receipt = [row for row in found if row.gain is not None]
    mined = [row for row in with_receipt if row.state == "mined"]
    states: dict[str, int] = {}
    for row in found:
        states[row.state] = states.get(row.state, 0) + 1
    return Summary(
        chain_id=int(meta["chain_id"]),
        mode=meta["mode"],
        first_block=first,
        last_block=last,
        passes=passes,
        positions=positions,
        skips={reason: count for reason, count, _ in skips},
        skipped_positions={reason: count for reason, _, count in skips},
        attempts=states,
        gain=sum(row.gain or 0 for row in with_receipt),
        gas_cost=sum((row.gain or 0) - (row.net or 0) for row in with_receipt),  # data fees too
        net=sum(row.net or 0 for row in with_receipt),
        predicted_net=sum(row.predicted_net for row in with_receipt),
        dry_net=sum(row.predicted_net for row in found) if meta["mode"] == "dry" else 0,
        gain_error=_errors([(row.gain or 0) - row.predicted_gain for row in mined]),
        gas_error=_errors([(row.gas_used or 0) - row.predicted_gas for row in mined]),
        competition=competition(db, since.block, since.at),
    )


def decisions(
    db: sqlite3.Connection,
    since: Since = Since(),
    borrower: str | None = None,
    limit: int = 1000,
) -> list[DecisionRow]:
    """How positions ended their passes, newest first; `borrower` (lower case) narrows it to one."""
    rows = db.execute(
        "SELECT market, borrower, reason, attempt_id, detail, numbers, first_block, last_block, first_at, last_at,"
        " passes FROM decisions WHERE last_block >= ? AND last_at >= ? AND (? IS NULL OR borrower = ?)"
        " ORDER BY last_block DESC, id DESC LIMIT ?",
        (since.block, since.at, borrower, borrower, limit),
    )
    return [_decision(*row) for row in rows]


def attempts(
    db: sqlite3.Connection,
    since: Since = Since(),
    borrower: str | None = None,
    limit: int = -1,
) -> list[AttemptRow]:
    """Attempts and their outcomes, newest first. The limit −1 means all."""
    cursor = db.cursor()
    cursor.row_factory = sqlite3.Row
    known = db.execute("PRAGMA user_version").fetchone()[0] >= _OTHERS_SINCE
    others = "a.others" if known else "'[]'"
    rows = cursor.execute(
        "SELECT a.id, a.market, a.borrower, a.signer, a.nonce, a.executor, a.state, a.closed_at IS NOT NULL AS closed,"  # noqa: S608  a constant
        " a.detail, a.created_at, a.head_number, coalesce(o.tx_hash, (SELECT hash FROM transactions t"
        " WHERE t.attempt_id = a.id ORDER BY t.id DESC LIMIT 1)) AS tx_hash, a.plan,"
        " a.predicted_gain, a.predicted_gas, a.predicted_net, o.block_number, o.gas_used, o.gas_price, o.gain,"
        f" o.net, o.revert, {others} AS others FROM attempts a LEFT JOIN outcomes o ON o.attempt_id = a.id"
        f" WHERE a.head_number >= ?1 AND a.created_at >= ?2 AND (?3 IS NULL OR a.borrower = ?3 OR instr({others}, ?3))"
        " ORDER BY a.created_at DESC, a.head_number DESC, a.nonce DESC, a.id LIMIT ?4",
        (since.block, since.at, borrower, limit),
    )
    return [_attempt(row) for row in rows]


def events(db: sqlite3.Connection, attempt_id: str) -> list[EventRow]:
    """Every step of one attempt, oldest first."""
    rows = db.execute(
        "SELECT at, from_state, to_state, tx_hash, detail FROM attempt_events WHERE attempt_id = ? ORDER BY id",
        (attempt_id,),
    )
    return [EventRow(*row) for row in rows]


def _decision(
    market: str, borrower: str, reason: str, attempt_id: str, detail: str, numbers: str, *rest: int
) -> DecisionRow:
    first_block, last_block, first_at, last_at, passes = rest
    values = {name: int(value) for name, value in json.loads(numbers).items()}
    return DecisionRow(
        market, borrower, reason, attempt_id, detail, values, first_block, last_block, first_at, last_at, passes
    )


def _attempt(row: sqlite3.Row) -> AttemptRow:
    named = {name: row[name] for name in row.keys()}  # noqa: SIM118  iterating a Row gives its values
    for name in ("predicted_gain", "predicted_gas", "predicted_net", "gas_used", "gas_price", "gain", "net"):
        named[name] = None if named[name] is None else int(named[name])
    return AttemptRow(
        **named
        | {"closed": bool(named["closed"]), "plan": json.loads(named["plan"]), "others": _pairs(named["others"])}
    )


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((market, borrower) for market, borrower in json.loads(text))


def _errors(values: list[int]) -> Errors:
    absolute = [abs(value) for value in values]
    return Errors(
        len(values), sum(values), sum(absolute) // len(absolute) if absolute else 0, max(absolute) if absolute else 0
    )
