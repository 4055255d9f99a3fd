"""Who owes and holds what in one market: principals as read from the contract, collateral as its events tell.

Users and collateral assets are numbered in order of appearance and keep their number, also when the block in which they
appeared is undone. Collateral goes through `Rewind`. Principals are not in the events: whoever is named in one is
*stale* until read, and whoever was named in an undone block is stale again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.columns import Column
from keeper.protocols.compound_v3.weights import DEBT, SLOTS, Weights
from keeper.protocols.names import numbered
from keeper.rewind import Rewind


class Ledger:
    """The accounts of one market. Principals are negative where base is owed; everything is exact base units."""

    def __init__(self, depth: int) -> None:
        self._rewind = Rewind(depth)
        self._depth = depth
        self.weights = Weights()  # derived
        self.clear()

    def clear(self) -> None:
        """Forget everybody."""
        self._rewind.clear()
        self.users: dict[Address, int] = {}
        self.names: list[Address] = []
        self.slots: dict[Address, int] = {}
        self.principals: list[int] = []
        self.held: dict[int, int] = {}  # user · SLOTS + slot → amount, never zero
        self.totals: dict[int, int] = {}  # slot → Σ of what is held
        self.stale: set[int] = set()
        self._named: deque[tuple[int, set[int]]] = deque(maxlen=self._depth)
        self.borrowed = 0  # Σ of what is owed, principal
        self.weights.clear()
        self._supplies = Column(np.bool_)  # derived: whose principal is positive

    def user(self, name: Address) -> int:
        """The user's number, given out on first sight."""
        found = self.users.get(name)
        if found is None:
            found = len(self.names)
            self.users[name] = found
            self.names.append(name)
            self.principals.append(0)
            self.weights.add()
            self._supplies.reserve(found + 1)
        return found

    def slot(self, asset: Address) -> int:
        """The asset's number; raises BadData when there are more than can be kept."""
        found = self.slots.setdefault(asset, len(self.slots))
        if found >= SLOTS:
            raise BadData(f"more than {SLOTS} collateral assets have appeared, the last of them {asset}")
        return found

    # ------------------------------------------------------------------------------------------------- changes

    def begin(self, number: int) -> None:
        """What is changed from now on belongs to block `number`."""
        self._rewind.begin(number)
        self._named.append((number, set()))

    def name(self, user: int) -> None:
        """The user's principal has moved."""
        self.stale.add(user)
        if self._named:
            self._named[-1][1].add(user)

    def move(self, user: int, asset: Address, by: int) -> None:
        """Change a collateral balance; raises BadData when it would fall below zero."""
        slot = self.slot(asset)
        key = user * SLOTS + slot
        amount = self.held.get(key, 0) + by
        if amount < 0:
            raise BadData(f"{self.names[user]} would hold {amount} of {asset}: events are missing")
        if amount:
            self._rewind.set(self.held, key, amount)
        else:
            self._rewind.delete(self.held, key)
        self._rewind.set(self.totals, slot, self.totals.get(slot, 0) + by)
        self.weights.set(user, slot, float(amount))

    def set_principal(self, user: int, principal: int) -> bool:
        """Take what the contract says; whether that is news."""
        before = self.principals[user]
        self.stale.discard(user)
        if before == principal:
            return False
        self.borrowed += max(-principal, 0) - max(-before, 0)
        self.principals[user] = principal
        self.weights.set(user, DEBT, float(max(-principal, 0)))
        self._supplies.cells[user] = principal > 0
        return True

    def back(self, number: int) -> None:
        """Undo every block above `number`; raises BadData when they are no longer known."""
        for container, key in self._rewind.back(number):
            if container is self.held:
                user, slot = divmod(key, SLOTS)
                self.weights.set(user, slot, float(self.held.get(key, 0)))
        while self._named and self._named[-1][0] > number:
            self.stale |= self._named.pop()[1]

    # ------------------------------------------------------------------------------------------------- queries

    def holdings(self, user: int) -> Iterator[tuple[Address, int]]:
        """(asset, amount) of everything the user has as collateral."""
        for asset, slot in self.slots.items():
            amount = self.held.get(user * SLOTS + slot)
            if amount:
                yield asset, amount

    def borrowers(self) -> NDArray[np.intp]:
        """Numbers of everybody who owes."""
        return np.flatnonzero(self.weights.owing())

    def exposed(self) -> NDArray[np.intp]:
        """Whose principal may have moved without any event: who owes, and who owes and supplies nothing but could owe.

        Base that a borrower sends to another by `transfer` is in no log on either side (CometWithExtendedAssetList:
        transferBase emits only what is supplied or withdrawn).
        """
        supplies = self._supplies.live(len(self.names))
        return np.flatnonzero(self.weights.owing() | (self.weights.pledging() & ~supplies))

    def total(self, asset: Address) -> int:
        """Collateral of everybody together."""
        slot = self.slots.get(asset)
        return 0 if slot is None else self.totals.get(slot, 0)

    # --------------------------------------------------------------------------------------------------- disk

    def load(self, names: list[Address], principals: list[int], slots: list[Address], held: dict[int, int]) -> None:
        """Replace everything; nobody is stale."""
        self.clear()
        for asset in slots:
            self.slot(asset)
        self.names, self.users = names, numbered(names)
        self.principals, self.held = principals, held
        for key, amount in held.items():
            slot = key % SLOTS
            self.totals[slot] = self.totals.get(slot, 0) + amount
        owed = np.maximum(-np.fromiter(map(float, principals), np.float64, len(principals)), 0.0)
        owing = np.flatnonzero(owed)
        self.borrowed = sum(-principals[user] for user in owing.tolist())
        self._supplies.load(np.fromiter((principal > 0 for principal in principals), np.bool_, len(principals)))
        keys = np.fromiter(held, np.int64, len(held))
        self.weights.load(
            len(names),
            np.concatenate([keys // SLOTS, owing]),
            np.concatenate([keys % SLOTS, np.full(len(owing), DEBT)]),
            np.concatenate([np.fromiter(map(float, held.values()), np.float64, len(held)), owed[owing]]),
        )

    def mark(self, users: Iterable[int]) -> None:
        """Make users stale outside any block."""
        self.stale.update(users)
