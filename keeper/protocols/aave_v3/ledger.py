"""Who holds what in one market: scaled balances, collateral flags and e-modes, as its events tell.

Users and entries are numbered in order of appearance. An entry is one (user, reserve, side); a user's entries form a
chain (`first`, `following`), so that an entry is found without an index of all of them. Everything exact goes through
`Rewind`; the two columns the screen sweeps (`weight`, `kind`) are derived and follow. `compact` lays a user's entries
side by side, which is what makes a sweep as fast as reading them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keeper.model import Address
from keeper.protocols.columns import Column, WideColumn, chains, grow, wide_sum
from keeper.protocols.groups import Groups
from keeper.protocols.kernels import Entries, balances
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
        self.borrower_count = 0  # derived: users with debt
        self._changed: set[int] | None = None  # users since `take_changed`; None: nobody is known to be the same
        self._by_slot = Groups(self.slot)
        self._seats = self._room = 0  # users, and entries, at which a column has to grow

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
        if number >= self._seats:
            self._seats = grow((self.emode, self.first, self.debts), number)
        self.emode.cells[number], self.first.cells[number], self.debts.cells[number] = 0, _NONE, 0
        if self._changed is not None:
            self._changed.add(number)
        if number == len(self.names):
            self.names.append(name)
        else:
            self.names[number] = name  # an undone block had given this number to somebody else
        self._rewind.set(self.users, name, number)
        self._rewind.set(self.counts, 0, number + 1)
        return number

    def chain(self, user: int) -> Iterator[int]:
        """The user's entries."""
        entry: int = self.first.cells[user]
        while entry != _NONE:
            yield entry
            entry = self.following.cells[entry]

    def find(self, user: int, wanted: int) -> int | None:
        """The user's entry for a slot."""
        slots, following = self.slot.cells, self.following.cells
        entry: int = self.first.cells[user]
        while entry != _NONE:
            if slots[entry] == wanted:
                return entry
            entry = following[entry]
        return None

    def entry(self, user: int, wanted: int) -> int:
        """The user's entry for a slot, made when there is none."""
        found = self.find(user, wanted)
        if found is not None:
            return found
        entry = self.counts[1]
        if entry >= self._room:
            self._room = grow(self._entry_columns(), entry)
        self.owner.cells[entry], self.slot.cells[entry] = user, wanted
        self.following.cells[entry] = self.first.cells[user]
        self.enabled.cells[entry], self.amount[entry] = 0, 0
        self.weight.cells[entry], self.kind.cells[entry] = 0.0, IGNORED
        self._rewind.set(self.counts, 1, entry + 1)
        self._rewind.set(self.first, user, entry)
        return entry

    # ------------------------------------------------------------------------------------------------ changes

    def set_amount(self, entry: int, scaled: int) -> None:
        """Replace a scaled balance."""
        if self.slot.cells[entry] & 1 == DEBT:
            user, debts = self.owner.cells[entry], self.debts.cells
            before = debts[user]
            debts[user] = after = before + (scaled != 0) - (self.amount[entry] != 0)
            self.borrower_count += (after != 0) - (before != 0)
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
        self._by_slot.cut(self.counts[1])
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
            if self._changed is not None:
                self._changed.add(user)
        self.borrower_count = len(self.borrowers())

    def _derive(self, entry: int) -> None:
        """Keep the screen's view: two units off collateral and two on debt outweigh the contract's rounding."""
        amount, where, user = self.amount[entry], self.slot.cells[entry], self.owner.cells[entry]
        if where & 1 == DEBT:
            self.weight.cells[entry] = float(amount + 2) if amount else 0.0
            counts = True
        else:
            self.weight.cells[entry] = float(max(amount - 2, 0))
            counts = self.enabled.cells[entry] != 0
        self.kind.cells[entry] = kind(where, self.emode.cells[user]) if counts else IGNORED
        if self._changed is not None:
            self._changed.add(user)

    # ------------------------------------------------------------------------------------------------ queries

    def supplies_and_debts(self, user: int) -> Iterator[tuple[int, int, int, bool]]:
        """The user's entries as (reserve, side, scaled amount, used as collateral)."""
        for entry in self.chain(user):
            where = self.slot.cells[entry]
            yield where // 2, where % 2, self.amount[entry], self.enabled.cells[entry] != 0

    def borrowers(self) -> NDArray[np.intp]:
        """Numbers of everybody with debt."""
        return np.flatnonzero(self.debts.live(self.counts[0]) > 0)

    def holders(self, wanted: int) -> NDArray[np.int32]:
        """Entries of one slot, ascending. A view: valid until the next entry is made."""
        return self._by_slot.of(wanted, self.counts[1])

    def kinds(self) -> NDArray[np.int64]:
        """By slot the kinds its entries can be of: one for every e-mode that somebody has been in."""
        slots = max(self._by_slot.values(self.counts[1]), default=-1) + 1
        first = np.array([kind(where, 0) for where in range(slots)], np.int64)
        return first.reshape(-1, 1) + np.array(sorted(self.emodes_seen), np.int64)

    def total(self, wanted: int) -> int:
        """Sum of the scaled amounts of one slot, exact."""
        return wide_sum(self.amount.data.take(self.holders(wanted), axis=0))  # several times as fast as by index

    def columns(self) -> Entries:
        """What a sweep reads."""
        users, entries = self.counts
        return Entries(
            self.first.live(users),
            self.following.live(entries),
            self.owner.live(entries),
            self.weight.live(entries),
            self.kind.live(entries),
            self.debts.live(users),
        )

    def balances(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per user Σ weight · factors[kind], in one sweep."""
        return balances(self.columns(), factors)

    def take_changed(self) -> NDArray[np.int64] | None:
        """The users whose entries changed since the last call, ascending; None when it may be everybody."""
        changed, self._changed = self._changed, set()
        if changed is None:
            return None
        return np.array(sorted(user for user in changed if user < self.counts[0]), np.int64)

    # ------------------------------------------------------------------------------------------------- layout

    def compact(self) -> None:
        """Number the entries anew, user by user. Only while nothing can be undone: records name entries."""
        users, entries = self.counts
        owner = self.owner.live(entries)
        if entries and not (owner[1:] >= owner[:-1]).all():
            order = np.argsort(owner, kind="stable")
            for column in (self.owner, self.slot, self.enabled, self.amount, self.weight, self.kind):
                column.load(column.live(entries).take(order, axis=0))
        first, following = chains(self.owner.live(entries), users)
        self.first.load(first)
        self.following.load(following)
        self._changed = None
        self._seats = self._room = 0  # the columns have other sizes now
        self._by_slot.clear()
        self._by_slot.extend(entries)

    def _entry_columns(self) -> tuple[Column, ...]:
        return self.owner, self.slot, self.following, self.enabled, self.amount, self.weight, self.kind
