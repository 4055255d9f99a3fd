"""Memory that is not needed any more, returned to the system: what the C library and the linker would keep resident.

Everything here does nothing where the system has no such call.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

_MMAP_THRESHOLD = -3  # of mallopt(3)
_DONTNEED = 4  # of madvise(2)
_APART = 1 << 20  # bytes
_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")


def large_blocks_apart() -> None:
    """Give every block of a megabyte or more its own mapping, which goes back to the system once it is freed.

    Left to itself glibc raises that limit to the largest block freed so far, up to 32 MB: the arrays of a large book
    then come from the heaps, where any small block behind them holds their memory for ever.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _APART)


def give_back() -> None:
    """Return freed memory to the system: a large snapshot's copies would stay resident."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def unload(library: str) -> None:
    """Drop the pages of a shared library that are as they are in its file; what is used again is read from there."""
    with suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in _unchanged(library, Path("/proc/self/smaps").read_text()):
            madvise(start, end - start, _DONTNEED)


def _unchanged(library: str, text: str) -> list[tuple[int, int]]:
    """The areas of a file whose name begins with `library` that are not writable and have no page of their own."""
    found: list[tuple[int, int]] = []
    start, end, ours = 0, 0, False
    for line in text.splitlines():
        area = _AREA.match(line)
        if area is not None:
            start, end = int(area[1], 16), int(area[2], 16)
            ours = "w" not in area[3] and Path(area[4]).name.startswith(library)
        elif ours and line.startswith("Anonymous:") and line.split()[1] == "0":
            found.append((start, end))
    return found
