"""Growing numpy columns that stay the same object while they grow, so that undo records can point at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 1024
_LOW = (1 << 64) - 1
_EARLY = 64  # the first of seven columns grows with seven sixty-fourths of its room left


class Column:
    """Numbers of one dtype, item by item as Python ints, or as the array `live(n)`.

    `cells` are the same numbers where single ones are wanted often: some five times as fast as an array's items.
    """

    def __init__(self, dtype: Any, capacity: int = _FIRST_CAPACITY) -> None:
        self._use(np.zeros(capacity, dtype))

    def _use(self, data: NDArray[Any]) -> None:
        self.data = data
        flat: Any = data.reshape(-1)
        self.cells: Any = memoryview(flat)

    def __getitem__(self, index: int) -> int:
        return int(self.cells[index])

    def __setitem__(self, index: int, value: int) -> None:
        self.cells[index] = value

    def live(self, count: int) -> NDArray[Any]:
        """The first `count` items, as a view."""
        return self.data[:count]

    def load(self, values: NDArray[Any]) -> None:
        """Replace everything by `values`, with room for as many again: what is not used takes no memory."""
        shape = (max(_FIRST_CAPACITY, 2 * len(values)), *self.data.shape[1:])
        data = np.zeros(shape, self.data.dtype)
        data[: len(values)] = values
        self._use(data)

    def reserve(self, count: int) -> None:
        """Have room for `count` items."""
        if count > len(self.data):
            grown = np.zeros((max(count, len(self.data) * 2), *self.data.shape[1:]), self.data.dtype)
            grown[: len(self.data)] = self.data
            self._use(grown)


class WideColumn(Column):
    """Unsigned integers of up to 128 bits, held as two 64-bit words each."""

    def __init__(self) -> None:
        self._use(np.zeros((_FIRST_CAPACITY, 2), np.uint64))

    def __getitem__(self, index: int) -> int:
        place = index * 2
        return int(self.cells[place] | self.cells[place + 1] << 64)

    def __setitem__(self, index: int, value: int) -> None:
        place = index * 2
        self.cells[place] = value & _LOW
        self.cells[place + 1] = value >> 64


def grow(columns: Sequence[Column], count: int) -> int:
    """Have room for one more than `count` items in all columns; at how many to ask again.

    One column at a time has its room doubled, well before it is needed: to copy all of a large book at once would hold
    everything up.
    """
    while True:
        room = min(len(column.data) for column in columns)
        small = [column for column in columns if len(column.data) == room]
        due = room - room * len(small) // _EARLY
        if count < due:
            return due
        small[0].reserve(room + 1)


def chains(owner: NDArray[np.int32], users: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Of entries laid side by side, by `owner` ascending: each user's first, and what follows each; -1 for none."""
    held = np.bincount(owner, minlength=users)
    ends = np.cumsum(held)
    following = np.arange(1, len(owner) + 1, dtype=np.int32)
    following[ends[held > 0] - 1] = -1
    return np.where(held > 0, ends - held, -1).astype(np.int32), following


def wide_sum(values: NDArray[np.uint64]) -> int:
    """Exact sum of an (n, 2) array of 128-bit numbers, n below 2^32."""
    half = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    total = 0
    for word in (0, 1):
        column = values[:, word]
        total += int((column & half).sum()) << (64 * word)
        total += int((column >> shift).sum()) << (64 * word + 32)
    return total
