"""The journal's file: whose it is, whether it is whole, who writes to it, and which schema it has."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from keeper.errors import ConfigError

APPLICATION_ID = 0x4B454550  # "KEEP", at byte 68 of the file
_MAGIC = b"SQLite format 3\x00"
_HEADER = 100


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered schema step."""

    version: int
    sql: str


def migrations() -> list[Migration]:
    """The packaged steps ``NNNN_name.sql`` in order; their numbers have no gap."""
    folder = resources.files("keeper.journal").joinpath("migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    steps = [Migration(int(name[:4]), folder.joinpath(name).read_text()) for name in names]
    assert [step.version for step in steps] == list(range(1, len(steps) + 1)), names
    return steps


def statements(script: str) -> list[str]:
    """A script's statements, so that they can run inside one transaction (`executescript` would commit)."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    assert not pending.strip(), pending
    return found


class Lock:
    """The right to write to one journal, held until `release` or the death of the process."""

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + ".lock")
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise ConfigError(
                f"journal {path} is already written to by process {holder}: stop that keeper first, "
                "or give this one a journal of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others write."""
        os.close(self._fd)


def check(path: Path, chain_id: int | None, mode: str | None) -> bool:
    """Whether `path` is a usable journal (True) or does not exist yet (False); the file is only read.

    `None` for chain or mode accepts any. Raises ConfigError for a file that is foreign, corrupt, of another chain or
    mode, or written by a newer version.
    """
    try:
        header = _header(path)
        if header is None:
            return False
        _check_header(path, header)
        with closing(connect_read_only(path)) as db:
            _check_content(path, db, chain_id, mode)
    except (OSError, sqlite3.OperationalError) as error:
        raise ConfigError(f"journal {path} cannot be read ({error}): check the path and its permissions") from error
    except (sqlite3.DatabaseError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise _corrupt(path, str(error)) from error
    return True


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, also beside a running keeper.

    Without a log and its index no process has the file open, and `immutable` leaves no files behind.
    """
    in_use = _has_wal(path) or path.with_name(path.name + "-shm").exists()
    options = "mode=ro" if in_use else "mode=ro&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}", uri=True, isolation_level=None, check_same_thread=False
    )


def connect(path: Path, chain_id: int, mode: str) -> sqlite3.Connection:
    """Open for writing, creating and migrating as needed. The caller holds the lock and has called `check`."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _migrate(db, chain_id, mode)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA busy_timeout = 5000")
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"journal {path} cannot be opened for writing ({error}): check the directory's permissions and free space"
        ) from error
    return db


def _migrate(db: sqlite3.Connection, chain_id: int, mode: str) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for step in migrations()[version:]:
        # With the identity in the first transaction, a file either is empty or says whose it is.
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(step.sql):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {step.version}")
            if step.version == 1:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                identity = [("chain_id", str(chain_id)), ("mode", mode)]
                db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", identity)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise


def _header(path: Path) -> bytes | None:
    if not path.exists():
        return None
    if not path.is_file():
        raise ConfigError(f"journal {path} is not a file: choose another path")
    with path.open("rb") as stream:
        header = stream.read(_HEADER)
    if not header:
        if _has_wal(path):
            raise _corrupt(path, "it is empty but has a write-ahead log")
        return None  # a keeper was killed while it created the file, or an operator touched it
    return header


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def _check_header(path: Path, header: bytes) -> None:
    if not header.startswith(_MAGIC):
        raise ConfigError(f"journal {path} is not a keeper journal: choose another path, or restore it from a backup")
    if len(header) < _HEADER:
        raise _corrupt(path, f"it is cut off after {len(header)} bytes")
    found = int.from_bytes(header[68:72], "big")
    if found != APPLICATION_ID:
        raise ConfigError(f"journal {path} is a database of another program (id {found:#x}): choose another path")
    # https://www.sqlite.org/fileformat.html, 1.3: page size at 16 (1 means 65,536), pages at 28. quick_check does not
    # miss pages that hold nothing yet.
    size = (int.from_bytes(header[16:18], "big") or 1) * int.from_bytes(header[28:32], "big")
    if not _has_wal(path) and path.stat().st_size != size:
        raise _corrupt(path, f"it has {path.stat().st_size} bytes where its header says {size}")


def _check_content(path: Path, db: sqlite3.Connection, chain_id: int | None, mode: str | None) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    newest = migrations()[-1].version
    if version > newest:
        raise ConfigError(
            f"journal {path} has schema {version} but this keeper knows {newest}: run the newer keeper that wrote it"
        )
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _corrupt(path, verdict.splitlines()[-1])
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if chain_id is not None and meta.get("chain_id") != str(chain_id):
        raise ConfigError(
            f"journal {path} belongs to chain {meta.get('chain_id')} and not to chain {chain_id}: "
            "give each chain a journal of its own"
        )
    if mode is not None and meta.get("mode") != mode:
        raise ConfigError(
            f"journal {path} was written by a {meta.get('mode')} run and this is a {mode} run: "
            "give each mode a journal of its own"
        )


def _corrupt(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"journal {path} is damaged ({why}): restore it from a backup, or, once no transaction of the signer is "
        "pending, move it away and start with a new one"
    )
