"""Snapshots of the mirrors on disk (SQLite, WAL), each tied to a block hash, so that a restart need not start over."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import structlog

from keeper.errors import ConfigError
from keeper.memory import give_back
from keeper.model import Hash

T = TypeVar("T")
log = structlog.get_logger(__name__)

_APPLICATION = 0x4B435031  # "KCP1" in the file's header: ours, first version
_SCHEMA = """
CREATE TABLE chain (id INTEGER NOT NULL);
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    hash TEXT NOT NULL,
    data BLOB NOT NULL,
    digest BLOB NOT NULL
);
CREATE INDEX snapshot_name ON snapshot (name, id);
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a mirror was after the block `number` with `hash`."""

    name: str
    number: int
    hash: Hash
    data: bytes


class Checkpoints:
    """The last few snapshots of every mirror. All methods run in a thread and may be awaited concurrently."""

    def __init__(self, connection: sqlite3.Connection, path: Path, keep: int) -> None:
        self._connection = connection
        self._path = path
        self._keep = keep
        self._lock = threading.Lock()

    @classmethod
    async def open(cls, path: Path, chain_id: int, *, keep: int = 4) -> Self:
        """Open or create the file. Raises ConfigError, and touches nothing, when it is corrupt or not of this chain."""
        connection = await asyncio.to_thread(_open, path, chain_id)
        return cls(connection, path, keep)

    async def save(self, name: str, number: int, block_hash: Hash, snapshot: bytes | Callable[[], bytes]) -> None:
        """Add a snapshot and drop the oldest beyond the limit. Raises ConfigError when the disk refuses.

        A snapshot that is still to be made up is made up in a thread.
        """
        data = await asyncio.to_thread(snapshot) if callable(snapshot) else snapshot

        def work(connection: sqlite3.Connection) -> None:
            digest = _digest(data)
            with connection:
                connection.execute(
                    "INSERT INTO snapshot (name, number, hash, data, digest) VALUES (?, ?, ?, ?, ?)",
                    (name, number, block_hash, data, digest),
                )
                connection.execute(
                    "DELETE FROM snapshot WHERE name = ?1 AND id NOT IN "
                    "(SELECT id FROM snapshot WHERE name = ?1 ORDER BY id DESC LIMIT ?2)",
                    (name, self._keep),
                )

        await self._run(work)
        await asyncio.to_thread(give_back)

    async def load(self, name: str) -> AsyncGenerator[Snapshot]:
        """The snapshots of `name`, newest first and one at a time; damaged ones are left out with a warning."""

        def numbers(connection: sqlite3.Connection) -> list[int]:
            found = connection.execute("SELECT id FROM snapshot WHERE name = ? ORDER BY id DESC", (name,)).fetchall()
            return [number for (number,) in found]

        for place in await self._run(numbers):
            found = await self._run(partial(_read, name, place))
            if found is not None:
                yield found

    async def forget(self, name: str) -> None:
        """Drop every snapshot of `name`."""

        def work(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("DELETE FROM snapshot WHERE name = ?", (name,))

        await self._run(work)

    async def close(self) -> None:
        """Flush and close; idempotent."""
        await asyncio.to_thread(self._connection.close)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._lock:
                try:
                    return work(self._connection)
                except sqlite3.Error as error:
                    raise ConfigError(
                        f"the checkpoint file {self._path} cannot be used ({error}): check its permissions and free "
                        "space, or move it away to read the history from the chain again"
                    ) from error

        return await asyncio.to_thread(locked)


def _read(name: str, place: int, connection: sqlite3.Connection) -> Snapshot | None:
    row = connection.execute("SELECT number, hash, data, digest FROM snapshot WHERE id = ?", (place,)).fetchone()
    if row is None:
        return None  # it has been dropped since
    number, block_hash, data, digest = row
    if _digest(data) != digest:
        log.warning("checkpoint_damaged", mirror=name, block=number)
        return None
    return Snapshot(name, number, Hash(block_hash), data)


def inspect(path: Path, chain_id: int) -> bool:
    """Whether `path` is a sound checkpoint file (True) or not there yet (False); raises ConfigError, and only reads."""
    try:
        if not path.exists() or path.stat().st_size == 0:
            return False
        _inspect(path, chain_id)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the checkpoint file {path} cannot be used ({error}): move it away") from error
    return True


def _open(path: Path, chain_id: int) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists() or path.stat().st_size == 0
    except OSError as error:
        raise ConfigError(
            f"the checkpoint file {path} cannot be created ({error.strerror}): set data.dir to a folder of this user"
        ) from error
    try:
        if not fresh:
            _inspect(path, chain_id)
        # A statement that is kept keeps its last parameters: here a whole snapshot.
        connection = sqlite3.connect(path, check_same_thread=False, timeout=10.0, cached_statements=0)
        if not fresh and _has_wal(path):
            _check(connection)
        if fresh:
            # Identity goes into the main file before WAL begins, so that it can be read without replaying the WAL.
            connection.executescript(f"PRAGMA application_id = {_APPLICATION};" + _SCHEMA)
            with connection:
                connection.execute("INSERT INTO chain (id) VALUES (?)", (chain_id,))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        raise ConfigError(
            f"the checkpoint file {path} cannot be opened for writing ({error}): check the folder's permissions "
            "and free space"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"the checkpoint file {path} is damaged or not a checkpoint file ({error}): move it away; the history is "
            "then read from the chain again"
        ) from error
    return connection


def _inspect(path: Path, chain_id: int) -> None:
    """Raise ConfigError when the file is not ours or of another chain, sqlite3.Error when damaged; never writes."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise ConfigError(f"{path} is not a checkpoint file of the keeper: choose another path or move it away")
        if not _has_wal(path):  # with one, the main file alone may be half-way through a checkpoint
            _check(connection)
        found = connection.execute("SELECT id FROM chain").fetchone()[0]
        if found != chain_id:
            raise ConfigError(
                f"the checkpoint file {path} belongs to chain {found}, not {chain_id}: choose another data folder"
            )
    finally:
        connection.close()


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def _check(connection: sqlite3.Connection) -> None:
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise sqlite3.DatabaseError(" ".join(str(problem).split()))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
