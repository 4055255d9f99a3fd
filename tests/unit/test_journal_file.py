"""The journal's file: whose it is, what is refused, and that a refusal leaves it alone."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keeper.errors import ConfigError, Halt
from keeper.execution.lane import Lane
from keeper.journal import Journal, file, journal_path, queries
from tests.support.execution_chain import ME, Chain, FakeClient, FakeSigner, an_order

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
NOBODY = 65534


@pytest.fixture
async def written(tmp_path: Path) -> Path:
    """A closed live journal of chain 1 with something in it."""
    path = tmp_path / "journal.sqlite3"
    journal = await Journal.open(path, 1, "live")
    chain = Chain()
    for number in range(20):
        await journal.intend(an_order(chain.head, bytes(20), f"0x{number:064x}"), ME, number)
    await journal.close()
    return path


def sentence(error: pytest.ExceptionInfo[ConfigError], path: Path) -> str:
    """The message, which must be one sentence that names the file."""
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"}


async def refused(path: Path, chain_id: int = 1, mode: str = "live") -> str:
    """Opening fails, reading fails, and the file is byte for byte what it was, with nothing new beside it."""
    before = contents(path.parent)
    with pytest.raises(ConfigError) as error:
        await Journal.open(path, chain_id, mode)
    with pytest.raises(ConfigError):
        queries.Reader(path, chain_id, mode)
    assert contents(path.parent) == before
    return sentence(error, path)


async def test_reopening_finds_everything(written: Path) -> None:
    """What was committed is there after closing and opening again, for this user only."""
    journal = await Journal.open(written, 1, "live")
    assert len(await journal.unsettled()) == 20
    await journal.close()
    assert stat.S_IMODE(os.stat(written).st_mode) == 0o600  # noqa: PTH116  the Path form is banned in async functions


async def test_settings_that_make_it_durable(written: Path) -> None:
    """Write-ahead log, fsync at every commit, foreign keys on."""
    journal = await Journal.open(written, 1, "live")

    def read(db: sqlite3.Connection) -> list[object]:
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")]

    assert await journal.ask(read) == ["wal", 2, 1]
    await journal.close()


async def test_another_chain_or_mode_is_refused(written: Path) -> None:
    """A journal serves one chain and one mode."""
    assert "chain 1 and not to chain 10" in await refused(written, chain_id=10)
    assert "written by a live run and this is a dry run" in await refused(written, mode="dry")
    assert journal_path(Path("d"), 1, "dry") != journal_path(Path("d"), 1, "live")


async def test_a_newer_schema_is_refused(written: Path) -> None:
    """A file of a newer keeper is left to that keeper."""
    with closing(sqlite3.connect(written)) as db:
        db.execute("PRAGMA user_version = 999")
    assert "schema 999" in await refused(written)


async def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """Text, random bytes and another program's database are not touched."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but precious to somebody\n" * 10)
    assert "not a keeper journal" in await refused(text)
    other = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE attempts (id TEXT)")
        db.execute("PRAGMA application_id = 77")
        db.commit()
    assert "another program" in await refused(other)
    rng = random.Random(SEED)
    noise = tmp_path / "noise"
    for length in (1, 15, 16, 99, 100, 4096, 20_000):
        noise.write_bytes(rng.randbytes(length))
        await refused(noise)
    directory = tmp_path / "folder"
    directory.mkdir()
    with pytest.raises(ConfigError, match="not a file"):
        await Journal.open(directory, 1, "live")


async def test_a_damaged_file_is_refused(written: Path, tmp_path: Path) -> None:
    """Cut off anywhere, or with pages overwritten, it is named as damaged and kept."""
    whole = contents(written.parent)[written.name]
    target = tmp_path / "damaged" / "journal.sqlite3"
    target.parent.mkdir()
    for keep in (50, 100, 1000, 4096, 8192, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        target.write_bytes(whole[:keep])
        assert "damaged" in await refused(target), keep
    rng = random.Random(SEED)
    for page in range(1, len(whole) // 4096):
        spoiled = bytearray(whole)
        spoiled[page * 4096 : (page + 1) * 4096] = rng.randbytes(4096)
        target.write_bytes(spoiled)
        assert "damaged" in await refused(target), page


def ask(path: Path) -> str:
    """What a report says about a file: "fine", or the refusal."""
    try:
        reader = queries.Reader(path, 1, "live")
        try:
            reader.ask(queries.summary)
            reader.ask(queries.attempts)
        finally:
            reader.close()
    except ConfigError as error:
        return str(error)
    return "fine"


def test_random_damage_never_ends_in_a_traceback(written: Path, tmp_path: Path) -> None:
    """300 files with random bytes flipped either can be read or are refused in one sentence that names them."""
    whole = written.read_bytes()
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    target = tmp_path / "flipped.sqlite3"
    said = []
    for _ in range(300):
        spoiled = bytearray(whole)
        for _ in range(rng.choice((1, 4, 64))):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        target.write_bytes(spoiled)
        said.append(ask(target))
    assert all(text == "fine" or str(target) in text for text in said)
    assert 0 < said.count("fine") < 300


async def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    """A keeper killed while creating its file leaves nothing or an empty file: the next one simply starts."""
    path = tmp_path / "new" / "journal.sqlite3"
    with pytest.raises(ConfigError, match="does not exist yet"):
        queries.Reader(path)
    path.parent.mkdir()
    path.touch()
    journal = await Journal.open(path, 1, "live")
    assert await journal.unsettled() == []
    await journal.close()
    orphan = tmp_path / "orphan.sqlite3"
    orphan.touch()
    (tmp_path / "orphan.sqlite3-wal").write_bytes(b"x" * 100)
    assert "damaged" in await refused(orphan)


async def test_one_writer(written: Path) -> None:
    """A second writer is refused with the first one's pid; readers are welcome; closing lets the next one in."""
    first = await Journal.open(written, 1, "live")
    with pytest.raises(ConfigError, match=f"already written to by process {os.getpid()}"):
        await Journal.open(written, 1, "live")
    await first.intend(an_order(Chain().head, bytes(20), "0x" + "ff" * 32), ME, 99)
    reader = queries.Reader(written, 1, "live")
    assert len(reader.ask(queries.attempts)) == 21
    reader.close()
    await first.close()
    second = await Journal.open(written, 1, "live")
    await second.close()


async def test_reading_leaves_nothing_behind(written: Path) -> None:
    """A report on a closed journal creates no file and changes none."""
    before = {path.name: path.read_bytes() for path in written.parent.iterdir()}
    reader = queries.Reader(written)
    assert reader.ask(queries.summary).attempts == {"intent": 20}
    reader.close()
    assert {path.name: path.read_bytes() for path in written.parent.iterdir()} == before


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder nobody may write to, and no right to do so all the same (root becomes somebody else)."""
    folder = Path(tempfile.mkdtemp(prefix="keeper-journal-"))
    root = os.geteuid() == 0
    folder.chmod(0o555)
    if root:
        os.seteuid(NOBODY)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def test_a_folder_without_write_permission(unprivileged: Path) -> None:
    """No journal can be created there, and the message says so."""
    path = unprivileged / "journal.sqlite3"
    with pytest.raises(ConfigError) as error:
        await Journal.open(path, 1, "live")
    assert "cannot be created" in sentence(error, path)
    with pytest.raises(ConfigError):
        await Journal.open(Path("/dev/null/journal.sqlite3"), 1, "live")


async def test_a_full_disk_stops_the_sending(tmp_path: Path) -> None:
    """What cannot be written is not sent; with space again the same journal goes on."""
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    chain = Chain()
    client = FakeClient(chain)
    lane = Lane(client, journal, FakeSigner())

    def limit(db: sqlite3.Connection, pages: int) -> None:
        db.execute(f"PRAGMA max_page_count = {pages}")

    used: int = await journal.ask(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await journal.ask(lambda db: limit(db, used))

    async def send_many() -> None:
        for number in range(100):
            await lane.submit(an_order(chain.head, bytes([number]) * 20, f"0x{number:064x}"))

    with pytest.raises(Halt, match=r"full.*nothing is sent"):
        await send_many()
    sent = len(chain.handed_out)
    await journal.ask(lambda db: limit(db, 10**6))
    known = {tx.hash for attempt in await journal.unsettled() for tx in attempt.txs}
    assert set(chain.handed_out) <= known
    await lane.submit(an_order(chain.head, b"\xff" * 20, "0x" + "ff" * 32))
    assert len(chain.handed_out) == sent + 1
    await journal.close()


def test_migrations_are_packaged_and_numbered() -> None:
    """The schema's steps are found inside the package, numbered from 1 without a gap."""
    steps = file.migrations()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert len(file.statements(steps[0].sql)) > 10


async def test_a_failed_migration_leaves_no_half_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails in the middle is undone as a whole."""
    path = tmp_path / "journal.sqlite3"
    good = file.migrations()
    broken = [*good, file.Migration(len(good) + 1, "CREATE TABLE half (id);\nCREATE TABLE attempts (id);\n")]
    await (await Journal.open(path, 1, "live")).close()
    monkeypatch.setattr(file, "migrations", lambda: broken)
    with pytest.raises(ConfigError, match="cannot be opened for writing"):
        await Journal.open(path, 1, "live")
    monkeypatch.setattr(file, "migrations", lambda: good)
    journal = await Journal.open(path, 1, "live")
    tables = await journal.ask(lambda db: {row[0] for row in db.execute("SELECT name FROM sqlite_master")})
    assert "half" not in tables
    await journal.close()


async def test_exposures_survive_the_step_that_lets_an_order_have_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their numbers, which breakers have marks of; attempts of before have one position."""
    steps = file.migrations()
    path = tmp_path / "journal.sqlite3"
    with monkeypatch.context() as patch:
        patch.setattr(file, "migrations", lambda: steps[:3])
        old = await Journal.open(path, 1, "live")
        await old.change(lambda db, at: db.execute("INSERT INTO exposures VALUES (7, 'a', 1, 'token', '12')"))
        await old.close()
    new = await Journal.open(path, 1, "live")
    assert await new.ask(lambda db: db.execute("SELECT * FROM exposures").fetchall()) == [(7, "a", 1, "token", "12")]
    await new.change(lambda db, at: db.execute("INSERT INTO exposures VALUES (8, 'a', 1, 'other', '12')"))
    await new.close()
