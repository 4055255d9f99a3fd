"""Growing numpy columns that stay the same object while they grow, so that undo records can point at them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 1024
_LOW = (1 << 64) - 1


class Column:
    """Numbers of one dtype, item by item as Python ints, or as the array `live(n)`."""

    def __init__(self, dtype: Any) -> None:
        self.data: NDArray[Any] = np.zeros(_FIRST_CAPACITY, dtype)

    def __getitem__(self, index: int) -> int:
        return int(self.data[index])

    def __setitem__(self, index: int, value: int) -> None:
        self.data[index] = value

    def live(self, count: int) -> NDArray[Any]:
        """The first `count` items, as a view."""
        return self.data[:count]

    def load(self, values: NDArray[Any]) -> None:
        """Replace everything by `values`."""
        shape = (max(_FIRST_CAPACITY, len(values)), *self.data.shape[1:])
        self.data = np.zeros(shape, self.data.dtype)
        self.data[: len(values)] = values

    def reserve(self, count: int) -> None:
        """Have room for `count` items."""
        if count > len(self.data):
            grown = np.zeros((max(count, len(self.data) * 3 // 2), *self.data.shape[1:]), self.data.dtype)
            grown[: len(self.data)] = self.data
            self.data = grown


class WideColumn(Column):
    """Unsigned integers of up to 128 bits, held as two 64-bit words each."""

    def __init__(self) -> None:
        self.data = np.zeros((_FIRST_CAPACITY, 2), np.uint64)

    def __getitem__(self, index: int) -> int:
        low, high = self.data[index].tolist()
        return int(low) | int(high) << 64

    def __setitem__(self, index: int, value: int) -> None:
        self.data[index, 0] = value & _LOW
        self.data[index, 1] = value >> 64


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
