"""Who holds what in one market: scaled balances, collateral flags and e-modes, as its events tell.

Users and entries are numbered in order of appearance. An entry is one (user, reserve, side); a user's entries form a
chain (`first`, `following`), so that an entry is found without an index of all of them. Everything exact goes through
`Rewind`; the two columns the screen sweeps (`weight`, `kind`) are derived and follow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keeper.model import Address
from keeper.protocols.columns import Column, WideColumn, wide_sum
from keeper.rewind import Rewind

SUPPLY, DEBT = 0, 1
EMODES = 256  # e-mode categories are uint8
IGNORED = 0  # the kind of an entry the screen leaves out
KINDS = 1 + 2 * 128 * EMODES  # reserve ids are below 128
_NONE = -1


def slot(reserve: int, side: int) -> int:
    """One number for a reserve's supply or debt side."""
    return reserve * 2 + side


def kind(entry_slot: int, emode: int) -> int:
    """Which factor turns an entry's scaled amount into value: one per side of a reserve and e-mode of the user."""
    return 1 + entry_slot * EMODES + emode


class Ledger:
    """The positions of one market. Amounts are scaled balances, exact."""

    def __init__(self, rewind: Rewind) -> None:
        self._rewind = rewind
        self._reset()

    def _reset(self) -> None:
        self.users: dict[Address, int] = {}
        self.names: list[Address] = []
        self.counts = [0, 0]  # users, entries in use
        self.emode = Column(np.int16)
        self.first = Column(np.int32)
        self.debts = Column(np.int32)  # derived: debt entries that are not zero
        self.owner = Column(np.int32)
        self.slot = Column(np.int16)
        self.following = Column(np.int32)
        self.enabled = Column(np.uint8)  # used as collateral
        self.amount = WideColumn()
        self.weight = Column(np.float64)  # derived: the amount, shifted against rounding
        self.kind = Column(np.int32)  # derived
        self.emodes_seen: set[int] = {0}

    def clear(self) -> None:
        """Forget everybody."""
        self._reset()

    @property
    def entries(self) -> int:
        """Entries in use."""
        return self.counts[1]

    def user(self, name: Address) -> int:
        """The user's number, given out on first sight."""
        found = self.users.get(name)
        if found is not None:
            return found
        number = self.counts[0]
        for column in (self.emode, self.first, self.debts):
            column.reserve(number + 1)
        self.emode[number], self.first[number], self.debts[number] = 0, _NONE, 0
        if number == len(self.names):
            self.names.append(name)
        else:
            self.names[number] = name  # an undone block had given this number to somebody else
        self._rewind.set(self.users, name, number)
        self._rewind.set(self.counts, 0, number + 1)
        return number

    def chain(self, user: int) -> Iterator[int]:
        """The user's entries."""
        entry = self.first[user]
        while entry != _NONE:
            yield entry
            entry = self.following[entry]

    def find(self, user: int, wanted: int) -> int | None:
        """The user's entry for a slot."""
        slots = self.slot.data
        for entry in self.chain(user):
            if slots[entry] == wanted:
                return entry
        return None

    def entry(self, user: int, wanted: int) -> int:
        """The user's entry for a slot, made when there is none."""
        found = self.find(user, wanted)
        if found is not None:
            return found
        entry = self.counts[1]
        for column in (
            self.owner,
            self.slot,
            self.following,
            self.enabled,
            self.amount,
            self.weight,
            self.kind,
        ):
            column.reserve(entry + 1)
        self.owner[entry], self.slot[entry], self.following[entry] = user, wanted, self.first[user]
        self.enabled[entry], self.amount[entry], self.kind[entry] = 0, 0, IGNORED
        self.weight.data[entry] = 0.0
        self._rewind.set(self.counts, 1, entry + 1)
        self._rewind.set(self.first, user, entry)
        return entry

    # ------------------------------------------------------------------------------------------------ changes

    def set_amount(self, entry: int, scaled: int) -> None:
        """Replace a scaled balance."""
        if self.slot[entry] % 2 == DEBT:
            user = self.owner[entry]
            self.debts[user] += (scaled != 0) - (self.amount[entry] != 0)
        self._rewind.set(self.amount, entry, scaled)
        self._derive(entry)

    def set_enabled(self, user: int, reserve: int, enabled: bool) -> None:
        """Use or stop using a reserve as collateral."""
        entry = self.entry(user, slot(reserve, SUPPLY))
        self._rewind.set(self.enabled, entry, int(enabled))
        self._derive(entry)

    def set_emode(self, user: int, category: int) -> None:
        """Move a user to an e-mode category (0: none)."""
        self._rewind.set(self.emode, user, category)
        self.emodes_seen.add(category)
        for entry in self.chain(user):
            self._derive(entry)

    def undone(self, restored: list[tuple[object, object]]) -> None:
        """Derive anew what `Rewind.back` touched."""
        touched: set[int] = set()
        for container, key in restored:
            if isinstance(key, int) and (container is self.emode or container is self.first):
                touched.add(key)
            elif isinstance(key, int) and (container is self.amount or container is self.enabled):
                touched.add(self.owner[key])
        for user in touched:
            if user >= self.counts[0]:
                continue
            entries = list(self.chain(user))
            self.debts[user] = sum(self.slot[e] % 2 == DEBT and self.amount[e] != 0 for e in entries)
            for entry in entries:
                self._derive(entry)

    def _derive(self, entry: int) -> None:
        """Keep the screen's view: two units off collateral and two on debt outweigh the contract's rounding."""
        amount, where = self.amount[entry], self.slot[entry]
        if where % 2 == DEBT:
            self.weight.data[entry] = float(amount + 2) if amount else 0.0
            counts = True
        else:
            self.weight.data[entry] = float(max(amount - 2, 0))
            counts = bool(self.enabled.data[entry])
        self.kind.data[entry] = kind(where, self.emode[self.owner[entry]]) if counts else IGNORED

    # ------------------------------------------------------------------------------------------------ queries

    def supplies_and_debts(self, user: int) -> Iterator[tuple[int, int, int, bool]]:
        """The user's entries as (reserve, side, scaled amount, used as collateral)."""
        for entry in self.chain(user):
            where = self.slot[entry]
            yield where // 2, where % 2, self.amount[entry], bool(self.enabled.data[entry])

    def borrowers(self) -> NDArray[np.intp]:
        """Numbers of everybody with debt."""
        return np.flatnonzero(self.debts.live(self.counts[0]) > 0)

    def holders(self, wanted: int) -> NDArray[np.intp]:
        """Entries of one slot."""
        return np.flatnonzero(self.slot.live(self.counts[1]) == wanted)

    def total(self, wanted: int) -> int:
        """Sum of the scaled amounts of one slot, exact."""
        return wide_sum(self.amount.data[self.holders(wanted)])

    def balances(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per user Σ weight · factors[kind], in one sweep."""
        users, entries = self.counts
        values = self.weight.live(entries) * factors[self.kind.live(entries)]
        sums: NDArray[np.float64] = np.bincount(self.owner.live(entries), values, users).astype(np.float64, copy=False)
        return sums
