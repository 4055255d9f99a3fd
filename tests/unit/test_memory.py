"""What is not needed any more goes back to the system, and what was dropped is there again when it is used."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from keeper.memory import _unchanged
from keeper.model import Address
from keeper.protocols.names import numbered, packed, unpacked

pytestmark = pytest.mark.unit

_RESIDENT = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
"""


def ran(script: str) -> str:
    """What a fresh process prints; these things are matters of a whole process."""
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_a_large_block_goes_back_though_a_small_one_lies_behind_it() -> None:
    """Also after a larger one was freed, from which on the C library would by itself take such blocks from its heap."""
    script = f"""{_RESIDENT}
from keeper.memory import large_blocks_apart
large_blocks_apart()
first = bytearray(b"1" * (30 << 20))
del first
large, small = [], []
for _ in range(8):
    large.append(bytearray(b"1") * (8 << 20))
    small.append(bytearray(b"1") * 100_000)
before = resident()
large.clear()
print(before - resident())
"""
    assert int(ran(script)) > 60 << 20


def test_the_compiler_is_dropped_and_still_there() -> None:
    """Loading the loops leaves next to nothing of its library resident; compiling something new works all the same."""
    script = """
import re
from pathlib import Path

def pages():
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-", line):
            ours = "libllvmlite" in line
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found

from keeper.protocols.kernels import kernels
loops = kernels()
assert type(loops).__name__ == "CompiledKernels"
before = pages()
import numba
print(before, numba.njit("int64(int64)")(lambda number: number * 7)(6), pages())
"""
    before, answer, after = map(int, ran(script).split())
    assert before < 16_000  # kB, of some 85,000 that are mapped at some time
    assert answer == 42
    assert after > before


def test_only_pages_as_they_are_in_the_file_are_dropped() -> None:
    """Neither what can be written, nor what the linker has changed, nor another file, nor what has no file."""
    text = "\n".join(
        f"{start:x}-{start + 0x1000:x} {rights} 00000000 fe:01 123  {path}\nRss: 4 kB\nAnonymous:      {own} kB"
        for start, rights, path, own in (
            (0x1000, "r-xp", "/somewhere/libone.so.3", 0),
            (0x2000, "r--p", "/somewhere/libone.so.3", 4),
            (0x3000, "rw-p", "/somewhere/libone.so.3", 0),
            (0x4000, "r-xp", "/somewhere/libother.so", 0),
            (0x5000, "r--p", "", 0),
            (0x6000, "r--p", "/somewhere/else with a space/libone.so", 0),
        )
    )
    assert _unchanged("libone", text) == [(0x1000, 0x2000), (0x6000, 0x7000)]


@pytest.mark.parametrize("count", [0, 1, 4_095, 4_096, 4_097, 9_000])
def test_names_survive_being_packed(count: int) -> None:
    """In pieces and whole; also those that end in the digit a name begins with."""
    dice = random.Random(count)
    names = [Address(f"0x{dice.getrandbits(156):039x}{dice.choice('00f')}") for _ in range(count)]
    rows = packed(names)
    assert rows.tobytes() == b"".join(bytes.fromhex(name[2:]) for name in names)
    assert unpacked(rows) == names
    assert numbered(names) == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize("rows", [np.zeros((3, 19), np.uint8), np.zeros(60, np.uint8), np.zeros((3, 20), np.int32)])
def test_rows_that_are_no_names_are_refused(rows: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    """A stored book of another shape must not become other names."""
    with pytest.raises(ValueError, match="addresses"):
        unpacked(rows)
