"""Who liquidated whom: one row per liquidation that the protocols' events told of, and what a report says of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_AMOUNTS = (
    "repaid", "seized", "gross", "gas_used", "gas_price", "coinbase_paid", "coinbase_at_most",
    "plan_gain", "plan_cost", "plan_net",
)  # fmt: skip
_ROWS_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Liquidation:
    """One liquidation. Amounts of tokens in base units, values in wei; None where it is not known.

    `gross` is what the liquidator received less what it repaid, at the book's oracle prices, the protocol's fee already
    taken off. It is before gas, payments, loan fees and slippage, so no rival earned more than `most` says.
    """

    market: str
    borrower: str
    block_number: int
    block_hash: str
    log_index: int
    tx_hash: str
    liquidator: str  # as the event says
    debt: str  # symbol
    collateral: str  # symbol
    repaid: int
    seized: int
    gross: int | None
    reason: str | None  # why it was not ours; None where it was
    detail: str
    tx_index: int | None = None
    sender: str | None = None  # who signed
    target: str | None = None  # whom the transaction called
    gas_used: int | None = None
    gas_price: int | None = None  # effective, per gas
    coinbase_paid: int | None = None  # sent to the block's fee recipient beyond fees, by this transaction
    coinbase_at_most: int | None = None  # by all transactions of the block together
    attempt_id: str | None = None
    our_index: int | None = None  # where that attempt's transaction stands in the same block
    first_seen: int | None = None
    last_seen: int | None = None
    plan_gain: int | None = None
    plan_cost: int | None = None
    plan_net: int | None = None
    late: int | None = None  # blocks by which that attempt came after this one; 0: the same block; below 0: before

    @property
    def ours(self) -> bool:
        """The keeper did it."""
        return self.reason is None

    @property
    def gas_cost(self) -> int | None:
        """Wei paid as gas."""
        return None if self.gas_used is None or self.gas_price is None else self.gas_used * self.gas_price

    @property
    def most(self) -> int | None:
        """The most the liquidator can have earned: gross less gas and what it is known to have paid to the block."""
        if self.gross is None or self.gas_cost is None:
            return None
        return self.gross - self.gas_cost - (self.coinbase_paid or 0)

    def json(self) -> dict[str, Any]:
        """All fields by name; amounts as decimal strings."""
        found = {name: getattr(self, name) for name in self.__slots__}
        found |= {name: None if found[name] is None else str(found[name]) for name in _AMOUNTS}
        return found | {"ours": self.ours, "most": None if self.most is None else str(self.most)}


@dataclass(frozen=True, slots=True)
class Missed:
    """What was not ours for one reason. Sums are over the liquidations where the value is known; wei."""

    reason: str
    count: int
    gross: int
    planned: int  # of them, had a plan of ours
    plan_net: int  # what those plans would have made
    plan_cost: int  # and paid for gas


@dataclass(frozen=True, slots=True)
class Rival:
    """Somebody else who liquidates: the address the protocol dealt with. Sums in wei, over what is known."""

    liquidator: str
    senders: int  # distinct
    count: int
    gross: int
    gas_cost: int
    coinbase_paid: int
    coinbase_unknown: int  # liquidations of which the payment is not known
    most: int  # gross less gas and known payments


@dataclass(frozen=True, slots=True)
class Reverts:
    """Attempts of ours that were mined and failed, and the wei their gas cost."""

    count: int = 0
    cost: int = 0
    by_reason: Mapping[str, int] = field(default_factory=dict)  # decoded reason -> wei


@dataclass(frozen=True, slots=True)
class Competition:
    """Everything that was liquidated while the keeper watched, ours and other people's."""

    captured: int = 0
    captured_gross: int = 0
    missed: tuple[Missed, ...] = ()
    rivals: tuple[Rival, ...] = ()
    reverts: Reverts = Reverts()
    rows: tuple[Liquidation, ...] = ()  # the newest, newest first

    def json(self) -> dict[str, Any]:
        """All fields by name; amounts as decimal strings."""
        return {
            "captured": self.captured,
            "captured_gross": str(self.captured_gross),
            "missed": [_texts(item, ("gross", "plan_net", "plan_cost")) for item in self.missed],
            "rivals": [_texts(item, ("gross", "gas_cost", "coinbase_paid", "most")) for item in self.rivals],
            "reverts": {
                "count": self.reverts.count,
                "cost": str(self.reverts.cost),
                "by_reason": {reason: str(cost) for reason, cost in self.reverts.by_reason.items()},
            },
            "rows": [row.json() for row in self.rows],
        }


def insert(db: sqlite3.Connection, rows: Iterable[Liquidation], at: int) -> list[Liquidation]:
    """Write what is not written yet; returns the new rows, with ours recognised by the attempts' transaction hashes."""
    added = []
    for row in rows:
        known = db.execute(
            "SELECT a.attempt_id FROM transactions a WHERE a.hash = ? AND a.kind = 'execute'", (row.tx_hash,)
        ).fetchone()
        if known is not None:
            row = replace(row, reason=None, detail="", attempt_id=known[0], our_index=row.tx_index)
        values = {name: getattr(row, name) for name in _COLUMNS}
        values |= {name: None if values[name] is None else str(values[name]) for name in _AMOUNTS}
        values |= {"at": at, "ours": int(row.ours)}
        cursor = db.execute(
            f"INSERT OR IGNORE INTO liquidations ({', '.join(values)})"  # noqa: S608  our own column names
            f" VALUES ({', '.join('?' * len(values))})",
            tuple(values.values()),
        )
        if cursor.rowcount:
            added.append(row)
    return added


def undo(db: sqlite3.Connection, number: int) -> None:
    """Forget what happened above block `number`: it was reorganised away."""
    db.execute("DELETE FROM liquidations WHERE block_number > ?", (number,))


def hashes(db: sqlite3.Connection, attempt_ids: Sequence[str]) -> dict[str, set[str]]:
    """Transaction hashes of attempts."""
    found: dict[str, set[str]] = {}
    for attempt_id in attempt_ids:
        rows = db.execute("SELECT hash FROM transactions WHERE attempt_id = ? AND hash IS NOT NULL", (attempt_id,))
        found[attempt_id] = {row[0] for row in rows}
    return found


def competition(db: sqlite3.Connection, block: int = 0, at: int = 0) -> Competition:
    """Since a block and a Unix time; empty for a journal that an older keeper wrote."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'liquidations'").fetchone() is None:
        return Competition()
    rows = _rows(db, block, at)
    ours = [row for row in rows if row.ours]
    others = [row for row in rows if not row.ours]
    by_reason: dict[str, list[Liquidation]] = {}
    by_rival: dict[str, list[Liquidation]] = {}
    for row in others:
        by_reason.setdefault(row.reason or "", []).append(row)
        by_rival.setdefault(row.liquidator, []).append(row)
    return Competition(
        captured=len(ours),
        captured_gross=sum(row.gross or 0 for row in ours),
        missed=tuple(sorted((_missed(*item) for item in by_reason.items()), key=lambda m: (-m.count, m.reason))),
        rivals=tuple(sorted((_rival(*item) for item in by_rival.items()), key=lambda r: (-r.gross, r.liquidator))),
        reverts=_reverts(db, block, at),
        rows=tuple(rows[:_ROWS_SHOWN]),
    )


def _rows(db: sqlite3.Connection, block: int, at: int) -> list[Liquidation]:
    """Newest first. `late` is of the attempt's receipt; a dry run's could have been mined from the block after its head
    on."""
    cursor = db.cursor()
    cursor.row_factory = sqlite3.Row
    found = cursor.execute(
        f"SELECT {', '.join('l.' + name for name in _COLUMNS)},"  # noqa: S608  our own column names
        " CASE WHEN l.reason = 'dry_run' THEN a.head_number + 1 ELSE o.block_number END - l.block_number AS late"
        " FROM liquidations l LEFT JOIN attempts a ON a.id = l.attempt_id LEFT JOIN outcomes o ON o.attempt_id = a.id"
        " WHERE l.block_number >= ? AND l.at >= ? ORDER BY l.block_number DESC, l.log_index DESC",
        (block, at),
    )
    rows = []
    for row in found:
        named = {name: row[name] for name in (*_COLUMNS, "late")}
        rows.append(Liquidation(**named | {n: None if named[n] is None else int(named[n]) for n in _AMOUNTS}))
    return rows


def _missed(reason: str, rows: Sequence[Liquidation]) -> Missed:
    planned = [row for row in rows if row.plan_net is not None]
    return Missed(
        reason,
        len(rows),
        sum(row.gross or 0 for row in rows),
        len(planned),
        sum(row.plan_net or 0 for row in planned),
        sum(row.plan_cost or 0 for row in planned),
    )


def _rival(liquidator: str, rows: Sequence[Liquidation]) -> Rival:
    # One transaction may liquidate several borrowers, and pays its gas once.
    once = {row.tx_hash: row for row in rows}.values()
    gross = sum(row.gross or 0 for row in rows)
    gas, paid = sum(row.gas_cost or 0 for row in once), sum(row.coinbase_paid or 0 for row in once)
    return Rival(
        liquidator,
        len({row.sender for row in rows if row.sender is not None}),
        len(rows),
        gross,
        gas,
        paid,
        sum(row.coinbase_paid is None for row in once),
        gross - gas - paid,
    )


def _reverts(db: sqlite3.Connection, block: int, at: int) -> Reverts:
    found = db.execute(
        "SELECT o.revert, o.gain, o.net FROM outcomes o JOIN attempts a ON a.id = o.attempt_id"
        " WHERE o.state = 'reverted' AND a.head_number >= ? AND a.created_at >= ?",
        (block, at),
    ).fetchall()
    costs: dict[str, int] = {}
    for revert, gain, net in found:
        costs[revert or "no reason"] = costs.get(revert or "no reason", 0) + int(gain) - int(net)
    return Reverts(len(found), sum(costs.values()), costs)


def _texts(item: Any, amounts: Sequence[str]) -> dict[str, Any]:
    return {name: str(getattr(item, name)) if name in amounts else getattr(item, name) for name in item.__slots__}


_COLUMNS = tuple(name for name in Liquidation.__slots__ if name != "late")
