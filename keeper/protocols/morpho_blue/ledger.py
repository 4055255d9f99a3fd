"""Who holds what in which market, and whom everybody lets act for them, as the events tell.

Users and entries are numbered in order of appearance. An entry is one (market, user). Everything exact goes through
`Rewind`; what the screen looks at (`ratio` and what is kept per market) is derived and follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.model import Address
from keeper.protocols.columns import Column, WideColumn, wide_sum
from keeper.protocols.groups import Groups
from keeper.protocols.names import numbered
from keeper.rewind import Rewind

# Rounding and virtual shares move a debt by less than four base units; a share is worth at least a millionth of one
# wherever that matters (`screen.debt_per_share`), so that so many shares outweigh it.
SHARES_OF_SLACK = 4 * 10**6
_USERS = 32  # bits of a user's number


class Ledger:
    """The positions of one deployment. Amounts are shares of supply and debt and base units of collateral, exact."""

    def __init__(self, rewind: Rewind) -> None:
        self._rewind = rewind
        self._reset()

    def _reset(self) -> None:
        self.users: dict[Address, int] = {}
        self.names: list[Address] = []
        self.counts = [0, 0]  # users, entries in use
        self.index: dict[int, int] = {}  # (market, user) → entry
        self.allowed: dict[int, int] = {}  # (user, agent) → 1
        self.market = Column(np.int32)
        self._by_market = Groups(self.market)
        self.user = Column(np.int32)
        self.supply = WideColumn()
        self.borrow = WideColumn()
        self.collateral = WideColumn()
        self.pledged: dict[int, int] = {}  # collateral of each market
        self.ratio = Column(
            np.float64
        )  # derived: debt shares per collateral, with slack; 0 where nothing can be seized
        self.top = Column(np.float64)  # derived, per market: the highest ratio, or more
        self.exposed = Column(np.int32)  # derived, per market: entries with a ratio
        self.debtors = [0]  # derived: entries with debt
        self.grants = 0  # changes of `allowed` so far
        self._loose: set[int] = set()  # markets whose `top` may be too high

    def clear(self) -> None:
        """Forget everybody."""
        self._reset()

    def market_created(self, number: int) -> None:
        """Have room for a market."""
        for column in (self.top, self.exposed):
            column.reserve(number + 1)
        self.top.data[number], self.exposed.data[number] = 0.0, 0

    def number(self, name: Address) -> int:
        """The user's number, given out on first sight."""
        found = self.users.get(name)
        if found is not None:
            return found
        number = self.counts[0]
        if number == len(self.names):
            self.names.append(name)
        else:
            self.names[number] = name  # an undone block had given this number to somebody else
        self._rewind.set(self.users, name, number)
        self._rewind.set(self.counts, 0, number + 1)
        return number

    def find(self, market: int, name: Address) -> int | None:
        """The entry of a user in a market."""
        user = self.users.get(name)
        return None if user is None else self.entry_of(market, user)

    def entry(self, market: int, name: Address) -> int:
        """The same, made when there is none."""
        key = market << _USERS | self.number(name)
        found = self.index.get(key)
        if found is not None:
            return found
        entry = self.counts[1]
        for column in (self.market, self.user, self.supply, self.borrow, self.collateral, self.ratio):
            column.reserve(entry + 1)
        self.market[entry], self.user[entry] = market, key & ((1 << _USERS) - 1)
        self.supply[entry] = self.borrow[entry] = self.collateral[entry] = 0
        self.ratio.data[entry] = 0.0
        self._rewind.set(self.counts, 1, entry + 1)
        self._rewind.set(self.index, key, entry)
        return entry

    # ------------------------------------------------------------------------------------------------ changes

    def set_supply(self, entry: int, shares: int) -> None:
        """Replace supply shares."""
        self._rewind.set(self.supply, entry, shares)

    def set_borrow(self, entry: int, shares: int) -> None:
        """Replace debt shares."""
        self.debtors[0] += (shares != 0) - (self.borrow[entry] != 0)
        self._rewind.set(self.borrow, entry, shares)
        self._derive(entry)

    def set_collateral(self, entry: int, amount: int) -> None:
        """Replace collateral."""
        market = self.market[entry]
        change = amount - self.collateral[entry]
        self._rewind.set(self.pledged, market, self.pledged.get(market, 0) + change)
        self._rewind.set(self.collateral, entry, amount)
        self._derive(entry)

    def allow(self, name: Address, agent: Address, *, allowed: bool) -> None:
        """Let `agent` act for somebody, or not."""
        key = self.number(name) << _USERS | self.number(agent)
        self.grants += 1
        if allowed:
            self._rewind.set(self.allowed, key, 1)
        else:
            self._rewind.delete(self.allowed, key)

    def undone(self, restored: list[tuple[object, object]]) -> None:
        """Derive anew what `Rewind.back` touched."""
        self._by_market.cut(self.counts[1])
        touched = {
            key
            for container, key in restored
            if isinstance(key, int) and (container is self.borrow or container is self.collateral)
        }
        self.grants += 1
        for entry in touched:
            self._derive(entry)
        if touched:
            self.debtors[0] = self.count_debtors()

    def _derive(self, entry: int) -> None:
        shares, amount = self.borrow[entry], self.collateral[entry]
        before = float(self.ratio.data[entry])
        after = float(shares + SHARES_OF_SLACK) / float(amount) if shares and amount else 0.0
        market = self.market[entry]
        self.ratio.data[entry] = after
        self.exposed.data[market] += (after > 0) - (before > 0)
        top = float(self.top.data[market])
        if after >= top:
            self.top.data[market] = after
        elif before >= top:
            self._loose.add(market)

    def fill(self, names: list[Address], columns: Mapping[str, NDArray[Any]]) -> None:
        """Take users and entries as they were stored; their markets must be there. Raises KeyError, ValueError."""
        self.names, self.users = names, numbered(names)
        for column in ("market", "user", "supply", "borrow", "collateral"):
            getattr(self, column).load(columns[column])
        entries = len(columns["market"])
        self.counts[:] = [len(names), entries]
        self.ratio.reserve(entries)
        keys = (columns["market"].astype(np.int64) << _USERS) | columns["user"].astype(np.int64)
        self.index = {key: entry for entry, key in enumerate(keys.tolist())}
        self.allowed = dict.fromkeys(columns["allowed"].tolist(), 1)
        shares, amounts = (_approximate(column.live(entries)) for column in (self.borrow, self.collateral))
        seizable = (shares > 0.0) & (amounts > 0.0)
        self.ratio.data[:entries] = np.divide(shares + SHARES_OF_SLACK, amounts, out=np.zeros(entries), where=seizable)
        for market, members in self.groups():
            self.pledged[market] = wide_sum(self.collateral.data.take(members, axis=0))
            self.exposed.data[market] = np.count_nonzero(seizable[members])
            self._loose.add(market)
        self.debtors[0] = self.count_debtors()

    # ------------------------------------------------------------------------------------------------ queries

    def tops(self, markets: int) -> NDArray[np.float64]:
        """The highest ratio in each market."""
        for market in self._loose:
            ratios = self.ratio.data[self.members(market)]
            self.top.data[market] = ratios.max(initial=0.0)
        self._loose.clear()
        return self.top.live(markets)

    def members(self, market: int) -> NDArray[np.int32]:
        """Entries of one market, ascending. A view: valid until the next entry is made."""
        return self._by_market.of(market, self.counts[1])

    def groups(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Every market with entries, and its entries."""
        for market in sorted(self._by_market.values(self.counts[1])):
            members = self.members(market)
            if len(members):
                yield market, members

    def name(self, entry: int) -> Address:
        """Whose entry it is."""
        return self.names[self.user[entry]]

    def entries_of(self, name: Address) -> list[int]:
        """Entries of one user with debt or collateral, oldest first."""
        user = self.users.get(name)
        if user is None:
            return []
        entries = np.flatnonzero(self.user.live(self.counts[1]) == user)
        return [entry for entry in entries.tolist() if self.borrow[entry] or self.collateral[entry]]

    def is_allowed(self, name: Address, agent: Address) -> bool:
        """Whether `agent` may act for a user."""
        user, number = self.users.get(name), self.users.get(agent)
        return user is not None and number is not None and (user << _USERS | number) in self.allowed

    def entry_of(self, market: int, user: int) -> int | None:
        """The entry of a user's number in a market."""
        return self.index.get(market << _USERS | user)

    def clients(self, agent: Address) -> set[int]:
        """Numbers of the users for whom `agent` may act."""
        number, low = self.users.get(agent), (1 << _USERS) - 1
        return set() if number is None else {key >> _USERS for key in self.allowed if key & low == number}

    def with_debt(self) -> NDArray[np.intp]:
        """Entries with debt, in order."""
        live = self.borrow.live(self.counts[1])
        return np.flatnonzero(live[:, 0] | live[:, 1])

    def count_debtors(self) -> int:
        """Entries with debt, counted."""
        live = self.borrow.live(self.counts[1])
        return int(np.count_nonzero(live[:, 0] | live[:, 1]))

    def totals(self) -> dict[int, tuple[int, int]]:
        """Sums of supply and debt shares of every market with entries."""
        return {
            market: (wide_sum(self.supply.data.take(members, axis=0)), wide_sum(self.borrow.data.take(members, axis=0)))
            for market, members in self.groups()
        }


def _approximate(values: NDArray[np.uint64]) -> NDArray[np.float64]:
    """An (n, 2) array of 128-bit numbers as floats, off by two units in the last place at most."""
    result: NDArray[np.float64] = values[:, 0].astype(np.float64) + values[:, 1].astype(np.float64) * 2.0**64
    return result
