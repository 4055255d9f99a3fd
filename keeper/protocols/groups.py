"""Which items of a column have which value, brought up to date when asked: a list per value, not a search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.columns import Column

_NOBODY = np.zeros(0, np.int32)


class Groups:
    """Items by their value in `column`, which for an item once listed must not change."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._lists: dict[int, Column] = {}
        self._sizes: dict[int, int] = {}  # items in each of them
        self._known = 0  # items listed

    def of(self, value: int, count: int) -> NDArray[np.int32]:
        """The items below `count` with this value, ascending. A view: valid until the next item is listed."""
        self.extend(count)
        column = self._lists.get(value)
        return _NOBODY if column is None else column.live(self._sizes[value])

    def values(self, count: int) -> list[int]:
        """Every value that an item below `count` has, or one taken back had."""
        self.extend(count)
        return list(self._lists)

    def extend(self, count: int) -> None:
        """List the items up to `count` that are not listed yet."""
        start = self._known
        if start >= count:
            return
        values = self._column.data[start:count]
        if int(values.max()) < 1 << 15:
            values = values.astype(np.int16)  # which are sorted without comparing
        order = np.argsort(values, kind="stable")
        found, starts = np.unique(values[order], return_index=True)
        for value, part in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            column = self._lists.setdefault(value, Column(np.int32, 8))
            known = self._sizes.get(value, 0)
            column.reserve(known + len(part))
            column.data[known : known + len(part)] = part + start
            self._sizes[value] = known + len(part)
        self._known = count

    def cut(self, count: int) -> None:
        """After the items from `count` on were taken back."""
        if count < self._known:
            for value, column in self._lists.items():
                self._sizes[value] = int(np.searchsorted(column.live(self._sizes[value]), count))
            self._known = count

    def clear(self) -> None:
        """After items were numbered anew."""
        self._lists, self._sizes, self._known = {}, {}, 0
