"""The journal as the keeper writes it: SQLite in one thread of its own, durable at every return."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from keeper.errors import ConfigError, Halt
from keeper.journal import attempts, file, rivals
from keeper.journal.decisions import Decisions
from keeper.model import Address, Attempt, Decision, Head, Order, Signed, Skip, Verdict

T = TypeVar("T")
Mask = Callable[[str], str]


def journal_path(directory: Path, chain_id: int, mode: str) -> Path:
    """Where the journal of one chain and mode lives.

    Dry and live runs write separate files: a prediction can then never be summed up as money, a dry run may run beside
    a live one, and its file may be deleted without a thought.
    """
    return directory / f"journal-{chain_id}-{mode}.sqlite3"


class Journal:
    """The durable record of decisions, attempts and outcomes (`ports.Ledger`).

    One thread owns the connection and runs each method as one transaction, committed before the method returns: a
    killed process loses nothing. It is then on disk as well (fsync), unless it is not `lasting`: that the nonce is
    pinned or that something was sent says nothing that a signature, which is on disk before anything is sent, does not
    say too. Such a change is on disk with the next one that is. Any failure to write raises `Halt`: what cannot be
    written must not be sent.
    """

    def __init__(
        self, path: Path, lock: file.Lock, pool: ThreadPoolExecutor, clock: Callable[[], int], mask: Mask
    ) -> None:
        self.path = path
        self._mask = mask
        self._lock = lock
        self._pool = pool
        self._clock = clock
        self._db: sqlite3.Connection
        self._changes = 0  # that may concern attempts, counted before and after each
        self._known: dict[object, tuple[int, Any]] = {}  # answers about attempts, each with the count at its time
        self._decisions: Decisions

    @classmethod
    async def open(
        cls,
        path: Path,
        chain_id: int,
        mode: str,
        clock: Callable[[], int] = lambda: int(time.time()),
        mask: Mask = str,
    ) -> Journal:
        """Open for writing, creating the file if there is none; `mode` is ``dry`` or ``live``.

        `mask` takes secrets out of what others said and is written down: a node may repeat the key it was called with.

        Raises ConfigError, leaving the file as it is, when it is foreign, damaged, of another chain or mode, of a
        newer schema, being written to by another process, or cannot be opened.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                pool, cls._open, path, chain_id, mode, pool, clock, mask
            )
        except BaseException:
            pool.shutdown(wait=False)
            raise

    @classmethod
    def _open(
        cls,
        path: Path,
        chain_id: int,
        mode: str,
        pool: ThreadPoolExecutor,
        clock: Callable[[], int],
        mask: Mask,
    ) -> Journal:
        file.check(path, chain_id, mode)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = file.Lock(path)
        except OSError as error:
            raise ConfigError(
                f"journal {path} cannot be created ({error}): choose a directory this user can write to"
            ) from error
        try:
            file.check(path, chain_id, mode)  # again: it may have been created before we had the lock
            journal = cls(path, lock, pool, clock, mask)
            journal._db = file.connect(path, chain_id, mode)
            journal._decisions = Decisions(journal._db)
        except BaseException:
            lock.release()
            raise
        return journal

    async def close(self) -> None:
        """Write what is still in memory, fold the log into the file and let others write."""
        try:
            await self._write(lambda at: self._decisions.flush())
            await self._run(lambda: self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        finally:
            await self._run(self._db.close)
            self._pool.shutdown()
            self._lock.release()

    async def record_pass(self, head: Head, decisions: Sequence[Decision]) -> None:
        """Every liquidatable position of the pass at `head`; raises ValueError when one of them appears twice."""
        masked = [d if d.skip is None else replace(d, skip=self._hide(d.skip)) for d in decisions]
        await self._write(lambda at: self._decisions.record(head, masked, at), of_attempts=False)

    async def intend(self, order: Order, signer: Address, nonce: int) -> Attempt:
        """Pin `nonce` for `order`."""
        return await self._write(lambda at: attempts.insert(self._db, order, signer, nonce, at), lasting=False)

    async def signed(self, attempt_id: str, tx: Signed) -> None:
        """Keep a signed transaction of the attempt."""
        await self._write(lambda at: attempts.add_signed(self._db, attempt_id, tx, at))

    async def resimulated(self, order: Order) -> None:
        """A newer simulation replaces what was predicted for the attempt."""
        await self._write(lambda at: attempts.repredict(self._db, order))

    async def sent(self, attempt_id: str, number: int) -> None:
        """An endpoint took the newest transaction at head `number`."""
        await self._write(lambda at: attempts.mark_sent(self._db, attempt_id, number, at), lasting=False)

    async def record(self, verdicts: Sequence[Verdict]) -> None:
        """Apply what the chain says about attempts, all or none."""
        masked = [self._hide_in(verdict) for verdict in verdicts]
        if masked:
            await self._write(lambda at: attempts.apply(self._db, masked, at))

    def _hide(self, skip: Skip) -> Skip:
        return replace(skip, detail=self._mask(skip.detail))

    def _hide_in(self, verdict: Verdict) -> Verdict:
        outcome = verdict.outcome
        if outcome is not None and outcome.revert is not None:
            outcome = replace(outcome, revert=self._mask(outcome.revert))
        return replace(verdict, detail=self._mask(verdict.detail), outcome=outcome)

    async def spent(self, signer: Address) -> int:
        """Nonces of the signer below this are spent for good, by attempts that are closed; 0 when none is known."""
        return await self._remembered(signer, lambda db: attempts.spent(db, signer))

    async def unsettled(self) -> list[Attempt]:
        """Attempts not closed yet, by signer and nonce."""
        return list(await self._remembered("unsettled", attempts.unsettled))

    async def _remembered(self, key: object, query: Callable[[sqlite3.Connection], T]) -> T:
        """Nobody else writes: the answer is the same until an attempt changes."""
        if key not in self._known or self._known[key][0] != self._changes:
            before = self._changes
            self._known[key] = (before, await self.ask(query))
        found: T = self._known[key][1]
        return found

    async def record_liquidations(self, rows: Sequence[rivals.Liquidation]) -> list[rivals.Liquidation]:
        """Keep who liquidated whom; returns the rows that were new, with ours recognised."""
        return await self._write(lambda at: rivals.insert(self._db, rows, at), of_attempts=False)

    async def undo_liquidations(self, number: int) -> None:
        """Forget liquidations above block `number`, which were reorganised away."""
        await self._write(lambda at: rivals.undo(self._db, number), of_attempts=False)

    async def attempt_hashes(self, attempt_ids: Sequence[str]) -> dict[str, set[str]]:
        """Hashes of the transactions signed for attempts."""
        return await self.ask(lambda db: rivals.hashes(db, attempt_ids))

    async def ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of `keeper.journal.queries` on the running keeper's own connection."""
        return await self._run(lambda: query(self._db))

    async def change(self, work: Callable[[sqlite3.Connection, int], T], *, lasting: bool = True) -> T:
        """Run a function of `keeper.journal.breakers` as one transaction; it is given the connection and Unix time."""
        return await self._write(lambda at: work(self._db, at), lasting=lasting, of_attempts=False)

    async def _write(self, change: Callable[[int], T], *, lasting: bool = True, of_attempts: bool = True) -> T:
        def transaction() -> T:
            # https://www.sqlite.org/pragma.html#pragma_synchronous: with NORMAL a write-ahead log is not synced.
            self._db.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = change(self._clock())
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back on a full disk
                    self._db.execute("ROLLBACK")
                raise
            return result

        self._changes += of_attempts
        try:
            return await self._run(transaction)
        finally:
            self._changes += of_attempts

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except sqlite3.Error as error:
            raise Halt(
                f"journal {self.path} cannot be written or read ({error}): nothing is sent until its disk has space, "
                "is writable and sound, and the keeper is restarted"
            ) from error
