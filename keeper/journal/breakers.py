"""What breakers remember on disk: which are open, since when history counts, the pause, the quarantines.

Each function takes a connection: `Journal.change` runs it as one transaction, `Journal.ask` when it only reads.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.model import Address

_SINCE = 3  # schema version that brought these tables


@dataclass(frozen=True, slots=True)
class Marks:
    """Up to where each kind of history has been looked at by a person."""

    event: int = 0
    exposure: int = 0
    note: int = 0


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A breaker that is open."""

    name: str
    at: int  # Unix seconds
    detail: str
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ResultRow:
    """An attempt with a receipt, as it stands now. Amounts in wei."""

    event: int  # grows with the order in which ends were found out
    at: int  # Unix seconds at which this end was found out
    attempt_id: str
    market: str
    borrower: Address
    state: str
    net: int
    gas_cost: int
    gain: int
    predicted_gain: int
    revert: str
    others: tuple[tuple[str, Address], ...] = ()

    @property
    def positions(self) -> tuple[tuple[str, Address], ...]:
        """Market and borrower of everything the attempt was to take."""
        return ((self.market, self.borrower), *self.others)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A position left alone until a person has looked."""

    market: str
    borrower: Address
    at: int
    attempt_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything that was stopped when the journal was last written."""

    pause: str | None  # why; None while it is not paused
    open: tuple[OpenRow, ...]
    marks: Mapping[str, Marks]
    quarantines: tuple[Quarantine, ...]


def load(db: sqlite3.Connection) -> Memory:
    """What a starting keeper has to respect; nothing in a journal that an older keeper wrote last."""
    if db.execute("PRAGMA user_version").fetchone()[0] < _SINCE:
        return Memory(None, (), {}, ())
    pause = db.execute("SELECT detail FROM pauses").fetchone()
    rows = db.execute(
        "SELECT name, open_at, detail, numbers, after_event, after_exposure, after_note FROM breakers ORDER BY name"
    ).fetchall()
    return Memory(
        pause=None if pause is None else str(pause[0]),
        open=tuple(
            OpenRow(name, at, detail, {key: int(value) for key, value in json.loads(numbers).items()})
            for name, at, detail, numbers, *_ in rows
            if at is not None
        ),
        marks={row[0]: Marks(*row[4:]) for row in rows},
        quarantines=tuple(
            Quarantine(market, Address(borrower), at, attempt_id, detail)
            for market, borrower, at, attempt_id, detail in db.execute(
                "SELECT market, borrower, at, attempt_id, detail FROM quarantines ORDER BY at, market, borrower"
            )
        ),
    )


def opened(db: sqlite3.Connection, name: str, detail: str, numbers: Mapping[str, int], at: int) -> None:
    """The breaker has tripped."""
    values = json.dumps({key: str(value) for key, value in numbers.items()}, separators=(",", ":"))
    db.execute(
        "INSERT INTO breakers (name, open_at, detail, numbers, after_event, after_exposure, after_note)"
        " VALUES (?1, ?2, ?3, ?4, 0, 0, 0)"
        " ON CONFLICT (name) DO UPDATE SET open_at = ?2, detail = ?3, numbers = ?4",
        (name, at, detail, values),
    )
    _event(db, name, "opened", detail, at)


def healed(db: sqlite3.Connection, name: str, detail: str, at: int) -> None:
    """The breaker has closed by itself; its history goes on counting."""
    db.execute("UPDATE breakers SET open_at = NULL WHERE name = ?", (name,))
    _event(db, name, "healed", detail, at)


def reset(db: sqlite3.Connection, names: Sequence[str], at: int) -> Marks:
    """A person has looked: the breakers are closed and what happened until now is not counted again."""
    marks = Marks(
        _newest(db, "SELECT MAX(id) FROM attempt_events"),
        _newest(db, "SELECT MAX(id) FROM exposures"),
        _newest(db, "SELECT MAX(id) FROM breaker_events"),
    )
    for name in names:
        db.execute(
            "INSERT INTO breakers (name, open_at, detail, numbers, after_event, after_exposure, after_note)"
            " VALUES (?1, NULL, '', '{}', ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET open_at = NULL,"
            " after_event = ?2, after_exposure = ?3, after_note = ?4",
            (name, marks.event, marks.exposure, marks.note),
        )
        _event(db, name, "reset", "", at)
    return marks


def note(db: sqlite3.Connection, name: str, detail: str, at: int) -> None:
    """Something a breaker counts that is written nowhere else."""
    _event(db, name, "noted", detail, at)


def noted(db: sqlite3.Connection, name: str, since: int, after: int) -> int:
    """How many notes of a breaker are younger than Unix time `since` and newer than the mark `after`."""
    return _newest(
        db,
        "SELECT COUNT(*) FROM breaker_events WHERE name = ? AND event = 'noted' AND at > ? AND id > ?",
        (name, since, after),
    )


def pause(db: sqlite3.Connection, detail: str, at: int) -> None:
    """The operator wants nothing sent."""
    db.execute(
        "INSERT INTO pauses (id, at, detail) VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET at = ?1, detail = ?2",
        (at, detail),
    )
    _event(db, "pause", "paused", detail, at)


def unpause(db: sqlite3.Connection, at: int) -> None:
    """The operator lets it send again."""
    if db.execute("DELETE FROM pauses").rowcount:
        _event(db, "pause", "resumed", "", at)


def quarantine(db: sqlite3.Connection, found: Quarantine) -> None:
    """Leave a position alone until `release`."""
    db.execute(
        "INSERT OR REPLACE INTO quarantines (market, borrower, at, attempt_id, detail) VALUES (?, ?, ?, ?, ?)",
        (found.market, found.borrower, found.at, found.attempt_id, found.detail),
    )
    _event(db, f"{found.market} {found.borrower}", "quarantined", found.detail, found.at)


def release(db: sqlite3.Connection, borrowers: Sequence[Address] | None) -> None:
    """Lift the quarantine of these borrowers in every market; None: of all."""
    if borrowers is None:
        db.execute("DELETE FROM quarantines")
        return
    db.executemany("DELETE FROM quarantines WHERE borrower = ?", [(borrower,) for borrower in borrowers])


def results(db: sqlite3.Connection, since: int) -> list[ResultRow]:
    """Attempts with a receipt whose end was found out after Unix time `since`, in that order.

    The event that brought an attempt to its state tells when: a later confirmation writes the outcome again, unchanged.
    """
    rows = db.execute(
        "SELECT * FROM (SELECT (SELECT MAX(e.id) FROM attempt_events e WHERE e.attempt_id = a.id"
        " AND e.to_state = o.state) AS event, a.id, a.market, a.borrower, o.state, o.net,"
        " o.gain, a.predicted_gain, COALESCE(o.revert, a.detail), a.others FROM outcomes o"
        " JOIN attempts a ON a.id = o.attempt_id"
        " WHERE o.at > ?1) AS r JOIN attempt_events e ON e.id = r.event WHERE e.at > ?1 ORDER BY r.event",
        (since,),
    )
    return [
        ResultRow(
            event=event,
            at=at,
            attempt_id=attempt_id,
            market=market,
            borrower=Address(borrower),
            state=state,
            net=int(net),
            gas_cost=int(gain) - int(net),  # with what was charged for data beside the gas
            gain=int(gain),
            predicted_gain=int(predicted),
            revert=revert,
            others=tuple((other, Address(who)) for other, who in json.loads(others)),
        )
        for event, attempt_id, market, borrower, state, net, gain, predicted, revert, others, _, _, at, *_
        in rows
    ]  # fmt: skip


def expose(db: sqlite3.Connection, attempt_id: str, asset: Address, value: int, at: int) -> None:
    """An order that repays `value` wei worth of `asset` is about to be sent."""
    db.execute(
        "INSERT OR REPLACE INTO exposures (attempt_id, at, asset, value) VALUES (?, ?, ?, ?)",
        (attempt_id, at, asset, str(value)),
    )


def in_flight(db: sqlite3.Connection, asset: Address) -> int:
    """Wei worth of `asset` in attempts that may still be mined."""
    return _sum(
        db,
        "SELECT x.value FROM exposures x JOIN attempts a ON a.id = x.attempt_id"
        " WHERE x.asset = ? AND a.state IN ('intent', 'signed', 'sent')",
        (asset,),
    )


def most_in_flight(db: sqlite3.Connection) -> int:
    """Wei worth of the asset of which most is in attempts that may still be mined."""
    assets = db.execute(
        "SELECT DISTINCT x.asset FROM exposures x JOIN attempts a ON a.id = x.attempt_id"
        " WHERE a.state IN ('intent', 'signed', 'sent')"
    ).fetchall()
    return max((in_flight(db, asset) for (asset,) in assets), default=0)


def exposed(db: sqlite3.Connection, asset: Address, since: int, after: int) -> int:
    """Wei worth of `asset` repaid, or on its way, by orders after Unix time `since` and the mark `after`.

    Attempts that came to nothing do not count, but for those of a dry run, which all come to nothing.
    """
    return _sum(
        db,
        "SELECT x.value FROM exposures x JOIN attempts a ON a.id = x.attempt_id WHERE x.asset = ? AND x.at > ?"
        " AND x.id > ? AND (a.state NOT IN ('reverted', 'cancelled', 'replaced', 'dropped')"
        " OR (SELECT m.value FROM meta m WHERE m.key = 'mode') = 'dry')",
        (asset, since, after),
    )


def _sum(db: sqlite3.Connection, query: str, values: Sequence[str | int]) -> int:
    return sum(int(row[0]) for row in db.execute(query, tuple(values)))


def _newest(db: sqlite3.Connection, query: str, values: Sequence[str | int] = ()) -> int:
    return int(db.execute(query, tuple(values)).fetchone()[0] or 0)


def _event(db: sqlite3.Connection, name: str, event: str, detail: str, at: int) -> None:
    db.execute("INSERT INTO breaker_events (at, name, event, detail) VALUES (?, ?, ?, ?)", (at, name, event, detail))
