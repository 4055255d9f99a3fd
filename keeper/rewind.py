"""Undo records for state that follows a chain, so that blocks can be taken back exactly."""

from __future__ import annotations

from collections import deque
from typing import Any

from keeper.errors import BadData

_MISSING: Any = object()


class Rewind:
    """Remembers what each of the last `depth` blocks overwrote.

    State is changed through `set` and `delete`; `back` restores it. Containers are anything with item assignment
    (dict, list, numpy array). Blocks before the first `begin` are not recorded: a history back-fill costs nothing.
    """

    def __init__(self, depth: int = 128) -> None:
        self._blocks: deque[tuple[int, list[tuple[Any, Any, Any]]]] = deque(maxlen=depth)
        self._open: list[tuple[Any, Any, Any]] | None = None
        self._floor: int | None = None  # the lowest block whose after-state can still be restored

    @property
    def empty(self) -> bool:
        """Nothing is remembered, so nothing can be undone."""
        return not self._blocks

    def begin(self, number: int) -> None:
        """Open block `number`; what is changed from now on belongs to it."""
        self._open = []
        self._blocks.append((number, self._open))
        if self._floor is None or len(self._blocks) == self._blocks.maxlen:
            self._floor = self._blocks[0][0] - 1

    def set(self, container: Any, key: Any, value: Any) -> None:
        """Assign `container[key] = value`, remembering what was there."""
        if self._open is not None:
            old = container.get(key, _MISSING) if isinstance(container, dict) else container[key]
            self._open.append((container, key, old))
        container[key] = value

    def delete(self, container: dict[Any, Any], key: Any) -> None:
        """Remove `key` if present, remembering what was there."""
        if key in container:
            if self._open is not None:
                self._open.append((container, key, container[key]))
            del container[key]

    def back(self, number: int) -> list[tuple[Any, Any]]:
        """Undo every block above `number`; returns the (container, key) pairs restored.

        Raises BadData when the blocks to undo are no longer, or were never, recorded.
        """
        if self._floor is None or number < self._floor:
            known = "there are no undo records" if self._floor is None else f"undo records end at block {self._floor}"
            raise BadData(f"cannot step back to block {number}: {known}")
        restored: list[tuple[Any, Any]] = []
        while self._blocks and self._blocks[-1][0] > number:
            for container, key, old in reversed(self._blocks.pop()[1]):
                if old is _MISSING:
                    del container[key]
                else:
                    container[key] = old
                restored.append((container, key))
        self._open = None
        return restored

    def clear(self) -> None:
        """Forget everything, as after a restore."""
        self._blocks.clear()
        self._open = None
        self._floor = None
