"""Addresses on disk: 20 bytes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from keeper.model import Address

_SIZE = 20
# A string for each of a million at the same time would leave its memory in pieces; and for what is done in one call no
# other thread gets its turn.
_AT_ONCE = 1 << 12


def packed(names: Sequence[Address]) -> NDArray[np.uint8]:
    """As rows of bytes."""
    found = np.empty((len(names), _SIZE), np.uint8)
    for start in range(0, len(names), _AT_ONCE):
        text = "".join(names[start : start + _AT_ONCE]).replace("0x", "")
        found[start : start + _AT_ONCE] = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, _SIZE)
    return found


def unpacked(rows: NDArray[Any]) -> list[Address]:
    """The inverse; raises ValueError where rows are of another size."""
    if rows.dtype != np.uint8 or rows.shape[1:] != (_SIZE,):
        raise ValueError(f"addresses of {rows.shape} {rows.dtype}")
    found: list[str] = []
    size = 2 * _SIZE
    for start in range(0, len(rows), _AT_ONCE):
        text = rows[start : start + _AT_ONCE].tobytes().hex()
        found += ["0x" + text[at : at + size] for at in range(0, len(text), size)]
    return cast(list[Address], found)


def numbered(names: Sequence[Address]) -> dict[Address, int]:
    """Every name with its place."""
    found: dict[Address, int] = {}
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        found.update(zip(part, range(start, start + len(part)), strict=True))
    return found
