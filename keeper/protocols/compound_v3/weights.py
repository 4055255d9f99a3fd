"""What the screen sweeps: debts and collateral of everybody as floats, derived from the exact numbers.

An entry is one (user, slot) that has ever weighed anything; a user's entries form a chain, and none is taken back: what
is no longer held weighs nothing. Kind 0, which a sweep leaves out, is nobody's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.columns import Column, chains, grow
from keeper.protocols.groups import Groups
from keeper.protocols.kernels import Entries

SLOTS = 32  # collateral assets a market may ever have had
DEBT = SLOTS  # the slot of what is owed
KINDS = SLOTS + 2
_NONE = -1
_KINDS = np.arange(1, KINDS, dtype=np.int64).reshape(-1, 1)
_SCATTERED = 1 << 14  # entries made since the last time that all were laid side by side, beside an eighth of all


def kind(slot: int) -> int:
    """Which factor turns an entry into value."""
    return slot + 1


class Weights:
    """A `sweep.Swept` whose entries are base units of collateral, and of principal owed in the slot `DEBT`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everybody."""
        self.users = self.entries = 0  # in use
        self._first, self._owing = Column(np.int32), Column(np.int32)
        self._held = Column(np.int32)  # assets somebody has as collateral
        self._owner, self._following = Column(np.int32), Column(np.int32)
        self._kind, self._weight = Column(np.int32), Column(np.float64)
        self._by_kind = Groups(self._kind)
        self._scattered = 0
        self._seats = self._room = 0  # users, and entries, at which a column has to grow
        self._changed: set[int] | None = None  # users since `take_changed`; None: it may be everybody

    def add(self) -> None:
        """One more user, with nothing."""
        user = self.users
        if user >= self._seats:
            self._seats = grow((self._first, self._owing, self._held), user)
        self._first.cells[user], self._owing.cells[user], self._held.cells[user] = _NONE, 0, 0
        self.users = user + 1

    def set(self, user: int, slot: int, weight: float) -> None:
        """Replace what the user has, or owes, in a slot."""
        entry = self._find(user, slot)
        if entry == _NONE:
            if not weight:
                return
            entry = self._make(user, slot)
        change = (weight != 0.0) - (self._weight.cells[entry] != 0.0)
        (self._owing if slot == DEBT else self._held).cells[user] += change
        self._weight.cells[entry] = weight
        if self._changed is not None:
            self._changed.add(user)

    def get(self, user: int, slot: int) -> float:
        """What `set` was given last."""
        entry = self._find(user, slot)
        return 0.0 if entry == _NONE else float(self._weight.cells[entry])

    def _find(self, user: int, slot: int) -> int:
        kinds, following = self._kind.cells, self._following.cells
        entry: int = self._first.cells[user]
        while entry != _NONE and kinds[entry] != kind(slot):
            entry = following[entry]
        return entry

    def _make(self, user: int, slot: int) -> int:
        entry = self.entries
        if entry >= self._room:
            self._room = grow((self._owner, self._following, self._kind, self._weight), entry)
        self._owner.cells[entry], self._kind.cells[entry], self._weight.cells[entry] = user, kind(slot), 0.0
        self._following.cells[entry] = self._first.cells[user]
        self._first.cells[user] = entry
        self.entries, self._scattered = entry + 1, self._scattered + 1
        return entry

    def load(self, users: int, owner: NDArray[np.int64], slot: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        """Replace everything; no weight is zero and no (user, slot) named twice."""
        self.clear()
        self.users, self.entries = users, len(owner)
        self._owing.load(np.bincount(owner[slot == DEBT], minlength=users).astype(np.int32))
        self._held.load(np.bincount(owner[slot != DEBT], minlength=users).astype(np.int32))
        self._owner.load(owner.astype(np.int32))
        self._kind.load((slot + 1).astype(np.int32))
        self._weight.load(weight)
        self._lay()

    # ------------------------------------------------------------------------------------------------- queries

    def owing(self) -> NDArray[np.bool_]:
        """By user who owes."""
        found: NDArray[np.bool_] = self._owing.live(self.users) != 0
        return found

    def pledging(self) -> NDArray[np.bool_]:
        """By user who has collateral."""
        found: NDArray[np.bool_] = self._held.live(self.users) != 0
        return found

    def columns(self) -> Entries:
        if self._scattered > _SCATTERED + self.entries // 8:
            self._lay()
        users, entries = self.users, self.entries
        return Entries(
            self._first.live(users),
            self._following.live(entries),
            self._owner.live(entries),
            self._weight.live(entries),
            self._kind.live(entries),
            self._owing.live(users),
        )

    def take_changed(self) -> NDArray[np.int64] | None:
        changed, self._changed = self._changed, set()
        return None if changed is None else np.array(sorted(changed), np.int64)

    def kinds(self) -> NDArray[np.int64]:
        return _KINDS

    def holders(self, wanted: int) -> NDArray[np.int32]:
        return self._by_kind.of(kind(wanted), self.entries)

    def _lay(self) -> None:
        """Number the entries anew, user by user, which is what makes a sweep as fast as reading them."""
        owner = self._owner.live(self.entries)
        order = np.argsort(owner, kind="stable")
        for column in (self._owner, self._kind, self._weight):
            column.load(column.live(self.entries)[order])
        first, following = chains(self._owner.live(self.entries), self.users)
        self._first.load(first)
        self._following.load(following)
        self._by_kind.clear()
        self._by_kind.extend(self.entries)
        self._scattered = self._seats = self._room = 0
        self._changed = None
