"""The checkpoint file: newest first, few, tied to a chain, and never harmed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from keeper.chain.checkpoints import Checkpoints
from keeper.errors import ConfigError
from keeper.model import Hash

pytestmark = pytest.mark.unit


def block_hash(number: int) -> Hash:
    return Hash(f"0x{number:064x}")


async def filled(path: Path) -> None:
    checkpoints = await Checkpoints.open(path, 1, keep=3)
    for number in range(1, 8):
        await checkpoints.save("aave", number, block_hash(number), bytes([number]) * 3_000)
    await checkpoints.save("uniswap", 9, block_hash(9), b"other")
    await checkpoints.close()


def copied(folder: Path) -> Path:
    left = folder / "left"
    left.mkdir()
    for file in folder.glob("a.sqlite*"):
        shutil.copy(file, left / file.name)
    return left


async def test_the_newest_come_first_and_the_oldest_go(tmp_path: Path) -> None:
    """The last few snapshots per mirror survive a reopening, newest first."""
    path = tmp_path / "folder" / "checkpoints.sqlite"
    await filled(path)
    checkpoints = await Checkpoints.open(path, 1)
    found = [s async for s in checkpoints.load("aave")]
    assert [(s.number, s.hash, s.data) for s in found] == [(n, block_hash(n), bytes([n]) * 3_000) for n in (7, 6, 5)]
    assert [s.number async for s in checkpoints.load("uniswap")] == [9]
    assert [s async for s in checkpoints.load("nobody")] == []
    await checkpoints.forget("aave")
    assert [s async for s in checkpoints.load("aave")] == []
    await checkpoints.close()


async def test_a_crash_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """A copy taken while the file is open, as kill -9 would leave it, holds every finished save."""
    path = tmp_path / "a.sqlite"
    checkpoints = await Checkpoints.open(path, 1)
    await checkpoints.save("aave", 1, block_hash(1), b"x" * 100_000)
    left = copied(tmp_path)
    await checkpoints.close()
    again = await Checkpoints.open(left / "a.sqlite", 1)
    assert [s.number async for s in again.load("aave")] == [1]
    await again.close()


@pytest.mark.parametrize("damage", ["text", "foreign", "truncated", "overwritten", "chain"])
async def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    """Foreign, damaged or of another chain: one sentence that names the file, and not a byte changes."""
    path = tmp_path / "a.sqlite"
    await filled(path)
    chain = 1
    if damage == "text":
        path.write_text("these are somebody's notes, not a database\n" * 200)
    elif damage == "foreign":
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE t (x)")
        other.close()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "overwritten":
        content = bytearray(path.read_bytes())
        content[4_096:12_288] = b"\xa5" * 8_192
        path.write_bytes(content)
    else:
        chain = 5
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        await Checkpoints.open(path, chain)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


async def test_a_damaged_snapshot_is_left_out(tmp_path: Path) -> None:
    """A snapshot whose bytes changed on disk is not handed out; the others are."""
    path = tmp_path / "a.sqlite"
    await filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE snapshot SET data = zeroblob(3000) WHERE number = 7")
    connection.close()
    checkpoints = await Checkpoints.open(path, 1)
    assert [s.number async for s in checkpoints.load("aave")] == [6, 5]
    await checkpoints.close()


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A path below a file cannot be created: one sentence."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be created"):
        await Checkpoints.open(tmp_path / "file" / "a.sqlite", 1)
