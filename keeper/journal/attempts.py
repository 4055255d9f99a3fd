"""Attempts on disk: the state machine, its events, the signed transactions, and what came of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from keeper.errors import Halt
from keeper.model import Address, Attempt, AttemptState, Hash, Order, Outcome, Signed, TxKind, Verdict

_S = AttemptState
_ENDS = frozenset({_S.MINED, _S.REVERTED, _S.REPLACED, _S.DROPPED, _S.CANCELLED})

# From SIGNED every end can follow: a process killed between sending and writing that it sent leaves SIGNED behind.
# From an end, only what a reorganisation (or a receipt that arrives late) can bring, and only until it is closed.
TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    _S.INTENT: frozenset({_S.SIGNED, _S.DROPPED}),
    _S.SIGNED: _ENDS | {_S.SENT},
    _S.SENT: _ENDS,
    **{end: (_ENDS - {end}) | {_S.SENT} for end in _ENDS},
}

# Of the attempts at one nonce at most one may be in these; must equal the index `attempts_one_per_nonce`.
OCCUPYING = frozenset({_S.INTENT, _S.SIGNED, _S.SENT, _S.MINED, _S.REVERTED, _S.CANCELLED})


def insert(db: sqlite3.Connection, order: Order, signer: Address, nonce: int, at: int) -> Attempt:
    """A new attempt in `INTENT`; raises Halt when another one already occupies the nonce."""
    attempt = Attempt(
        id=order.id,
        market=order.market,
        borrower=order.borrower,
        signer=signer,
        nonce=nonce,
        state=_S.INTENT,
        created_at=at,
        head_number=order.head.number,
        to=order.to,
        predicted_gain=order.predicted_gain,
        predicted_gas=order.predicted_gas,
        predicted_net=order.predicted_net,
        others=order.others,
    )
    try:
        db.execute(
            "INSERT INTO attempts (id, market, borrower, signer, nonce, executor, state, detail, created_at,"
            " head_number, head_hash, predicted_gain, predicted_gas, predicted_net, plan, others)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                order.id,
                order.market,
                order.borrower,
                signer,
                nonce,
                order.to,
                str(_S.INTENT),
                at,
                order.head.number,
                order.head.hash,
                str(order.predicted_gain),
                str(order.predicted_gas),
                str(order.predicted_net),
                json.dumps(order.plan, separators=(",", ":")),
                _others(order),
            ),
        )
    except sqlite3.IntegrityError as error:
        raise Halt(
            f"attempt {order.id} at nonce {nonce} of {signer} is not written: another attempt holds that nonce or id; "
            "make sure one keeper alone uses this key, then restart it"
        ) from error
    _event(db, order.id, None, _S.INTENT, None, "", at)
    return attempt


def add_signed(db: sqlite3.Connection, attempt_id: str, tx: Signed, at: int) -> None:
    """Keep a signed transaction; the first one moves the attempt to `SIGNED`."""
    state, nonce = _state(db, attempt_id)
    if tx.nonce != nonce or state.final:
        raise Halt(
            f"attempt {attempt_id} is {state} at nonce {nonce}: a transaction at nonce {tx.nonce} does not belong to "
            "it; report this as a defect of the keeper"
        )
    db.execute(
        "INSERT INTO transactions (attempt_id, kind, nonce, hash, raw, gas_limit, max_fee, tip, signed_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (attempt_id, str(tx.kind), nonce, tx.hash, tx.raw, str(tx.gas_limit), str(tx.max_fee), str(tx.tip), at),
    )
    if state is _S.INTENT:
        db.execute("UPDATE attempts SET state = ? WHERE id = ?", (str(_S.SIGNED), attempt_id))
        _event(db, attempt_id, state, _S.SIGNED, tx.hash, str(tx.kind), at)
    else:
        _event(db, attempt_id, state, state, tx.hash, f"{tx.kind} signed for the same nonce", at)


def repredict(db: sqlite3.Connection, order: Order) -> None:
    """What is predicted for an open attempt, by a newer simulation. Its head number and positions stay the first one's.

    A position that the newest transaction leaves out may still be taken by an older one of the attempt.
    """
    state, _ = _state(db, order.id)
    if state.final:
        raise Halt(f"attempt {order.id} is {state} and cannot be planned anew: report this as a defect of the keeper")
    db.execute(
        "UPDATE attempts SET predicted_gain = ?, predicted_gas = ?, predicted_net = ?, plan = ? WHERE id = ?",
        (
            str(order.predicted_gain),
            str(order.predicted_gas),
            str(order.predicted_net),
            json.dumps(order.plan, separators=(",", ":")),
            order.id,
        ),
    )


def mark_sent(db: sqlite3.Connection, attempt_id: str, number: int, at: int) -> None:
    """The newest transaction has been taken by an endpoint at head `number`."""
    state, _ = _state(db, attempt_id)
    row = db.execute(
        "SELECT id, hash, sent_at FROM transactions WHERE attempt_id = ? ORDER BY id DESC LIMIT 1", (attempt_id,)
    ).fetchone()
    if row is None or state not in (_S.SIGNED, _S.SENT):
        raise Halt(f"attempt {attempt_id} is {state} and cannot have been sent: report this as a defect of the keeper")
    db.execute("UPDATE attempts SET state = ?, sent_number = ? WHERE id = ?", (str(_S.SENT), number, attempt_id))
    if row[2] is None:
        db.execute("UPDATE transactions SET sent_at = ? WHERE id = ?", (at, row[0]))
        _event(db, attempt_id, state, _S.SENT, row[1], "", at)


def apply(db: sqlite3.Connection, verdicts: Sequence[Verdict], at: int) -> None:
    """Move attempts to what the chain says. Those that give a nonce up go first, so that another can take it."""
    for verdict in sorted(verdicts, key=lambda v: v.state in OCCUPYING):
        state, _ = _state(db, verdict.attempt_id)
        if verdict.state is not state and verdict.state not in TRANSITIONS[state]:
            raise Halt(
                f"attempt {verdict.attempt_id} cannot go from {state} to {verdict.state}: "
                "report this as a defect of the keeper"
            )
        outcome = verdict.outcome
        db.execute(
            "UPDATE attempts SET state = ?, detail = ?, ended_number = ?, ended_hash = ?, closed_at = ? WHERE id = ?",
            (
                str(verdict.state),
                verdict.detail,
                verdict.number,
                outcome.block_hash if outcome else None,
                at if verdict.closed else None,
                verdict.attempt_id,
            ),
        )
        if verdict.state is not state:
            tx_hash = outcome.tx_hash if outcome else None
            _event(db, verdict.attempt_id, state, verdict.state, tx_hash, verdict.detail, at)
        _put_outcome(db, verdict.attempt_id, outcome, at)


def spent(db: sqlite3.Connection, signer: Address) -> int:
    """One more than the highest nonce that a closed attempt of the signer has spent; 0 without one."""
    row = db.execute(
        "SELECT MAX(nonce) + 1 FROM attempts WHERE signer = ? AND closed_at IS NOT NULL"
        " AND state IN ('mined', 'reverted', 'cancelled')",
        (signer,),
    ).fetchone()
    return int(row[0] or 0)


def unsettled(db: sqlite3.Connection) -> list[Attempt]:
    """Attempts not closed yet with their transactions, by signer and nonce."""
    return load(db, "closed_at IS NULL ORDER BY signer, nonce, created_at, id", ())


def load(db: sqlite3.Connection, where: str, values: Iterable[str | int]) -> list[Attempt]:
    """Attempts selected by a constant SQL condition."""
    rows = db.execute(
        "SELECT id, market, borrower, signer, nonce, state, created_at, head_number, executor, sent_number,"  # noqa: S608  only constants of this package are passed as `where`
        f" ended_number, ended_hash, detail, predicted_gain, predicted_gas, predicted_net, others"
        f" FROM attempts WHERE {where}",
        tuple(values),
    ).fetchall()
    try:
        return [_attempt(db, row) for row in rows]
    except ValueError as error:
        raise Halt(f"an attempt in the journal cannot be read ({error}): restore the journal from a backup") from error


def _attempt(db: sqlite3.Connection, row: tuple[Any, ...]) -> Attempt:
    return Attempt(
        id=row[0],
        market=row[1],
        borrower=Address(row[2]),
        signer=Address(row[3]),
        nonce=row[4],
        state=AttemptState(row[5]),
        created_at=row[6],
        head_number=row[7],
        to=Address(row[8]),
        txs=_transactions(db, row[0]),
        sent_number=row[9],
        ended_number=row[10],
        ended_hash=Hash(row[11]) if row[11] else None,
        detail=row[12],
        predicted_gain=int(row[13]),
        predicted_gas=int(row[14]),
        predicted_net=int(row[15]),
        others=tuple((market, Address(borrower)) for market, borrower in json.loads(row[16])),
    )


def _others(order: Order) -> str:
    return json.dumps(order.others, separators=(",", ":"))


def _transactions(db: sqlite3.Connection, attempt_id: str) -> tuple[Signed, ...]:
    rows = db.execute(
        "SELECT kind, nonce, hash, raw, gas_limit, max_fee, tip FROM transactions WHERE attempt_id = ? ORDER BY id",
        (attempt_id,),
    )
    return tuple(
        Signed(TxKind(kind), nonce, Hash(tx_hash) if tx_hash else None, raw, int(gas), int(max_fee), int(tip))
        for kind, nonce, tx_hash, raw, gas, max_fee, tip in rows
    )


def _state(db: sqlite3.Connection, attempt_id: str) -> tuple[AttemptState, int]:
    row = db.execute("SELECT state, nonce, closed_at FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
    if row is None or row[2] is not None:
        known = "unknown to the journal" if row is None else f"closed as {row[0]}"
        raise Halt(f"attempt {attempt_id} is {known} and cannot change: report this as a defect of the keeper")
    return AttemptState(row[0]), row[1]


def _event(
    db: sqlite3.Connection,
    attempt_id: str,
    before: AttemptState | None,
    after: AttemptState,
    tx_hash: str | None,
    detail: str,
    at: int,
) -> None:
    db.execute(
        "INSERT INTO attempt_events (attempt_id, at, from_state, to_state, tx_hash, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (attempt_id, at, str(before) if before else None, str(after), tx_hash, detail),
    )


def _put_outcome(db: sqlite3.Connection, attempt_id: str, outcome: Outcome | None, at: int) -> None:
    db.execute("DELETE FROM outcomes WHERE attempt_id = ?", (attempt_id,))
    if outcome is None:
        return
    gain, gas = db.execute("SELECT predicted_gain, predicted_gas FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
    db.execute(
        "INSERT INTO outcomes (attempt_id, at, state, tx_hash, block_number, block_hash, gas_used, gas_price, gain,"
        " reported_gain, net, revert, gain_error, gas_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            attempt_id,
            at,
            str(outcome.state),
            outcome.tx_hash,
            outcome.block_number,
            outcome.block_hash,
            str(outcome.gas_used),
            str(outcome.gas_price),
            str(outcome.gain),
            None if outcome.reported_gain is None else str(outcome.reported_gain),
            str(outcome.net),
            outcome.revert,
            str(outcome.gain - int(gain)),
            str(outcome.gas_used - int(gas)),
        ),
    )
