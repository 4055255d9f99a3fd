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
from keeper.rewind import Rewind

SLOTS = 32  # collateral assets a market may ever have had
_FIRST_CAPACITY = 1024


class Ledger:
    """The accounts of one market. Principals are negative where base is owed; everything is exact base units."""

    def __init__(self, depth: int) -> None:
        self._rewind = Rewind(depth)
        self._depth = depth
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
        self._debts = np.zeros(_FIRST_CAPACITY)  # derived
        self._signs = np.zeros(_FIRST_CAPACITY, np.int8)  # derived, of the principals
        self._amounts = np.zeros((_FIRST_CAPACITY, SLOTS))  # derived

    def user(self, name: Address) -> int:
        """The user's number, given out on first sight."""
        found = self.users.get(name)
        if found is None:
            found = len(self.names)
            self.users[name] = found
            self.names.append(name)
            self.principals.append(0)
            if found == len(self._debts):
                self._debts = np.concatenate([self._debts, np.zeros_like(self._debts)])
                self._signs = np.concatenate([self._signs, np.zeros_like(self._signs)])
                self._amounts = np.concatenate([self._amounts, np.zeros_like(self._amounts)])
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
        self._amounts[user, slot] = float(amount)

    def set_principal(self, user: int, principal: int) -> bool:
        """Take what the contract says; whether that is news."""
        before = self.principals[user]
        self.stale.discard(user)
        if before == principal:
            return False
        self.borrowed += max(-principal, 0) - max(-before, 0)
        self.principals[user] = principal
        self._debts[user] = float(max(-principal, 0))
        self._signs[user] = (principal > 0) - (principal < 0)
        return True

    def back(self, number: int) -> None:
        """Undo every block above `number`; raises BadData when they are no longer known."""
        for container, key in self._rewind.back(number):
            if container is self.held:
                user, slot = divmod(key, SLOTS)
                self._amounts[user, slot] = float(self.held.get(key, 0))
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
        return np.flatnonzero(self._debts[: len(self.names)] > 0)

    def exposed(self) -> list[int]:
        """Whose principal may have moved without any event: who owes, and who owes and supplies nothing but could owe.

        Base that a borrower sends to another by `transfer` is in no log on either side (CometWithExtendedAssetList:
        transferBase emits only what is supplied or withdrawn).
        """
        count = len(self.names)
        signs = self._signs[:count]
        found: list[int] = np.flatnonzero((signs < 0) | ((signs == 0) & self._amounts[:count].any(axis=1))).tolist()
        return found

    def total(self, asset: Address) -> int:
        """Collateral of everybody together."""
        slot = self.slots.get(asset)
        return 0 if slot is None else self.totals.get(slot, 0)

    def worth(self, users: NDArray[np.intp], factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per user Σ collateral · factors[slot]."""
        # All rows are multiplied, since picking the users' first would copy them.
        sums: NDArray[np.float64] = (self._amounts[: len(self.names)] @ factors)[users]
        return sums

    def owed(self, users: NDArray[np.intp]) -> NDArray[np.float64]:
        """Per user the principal owed."""
        return self._debts[users]

    # --------------------------------------------------------------------------------------------------- disk

    def load(self, names: list[Address], principals: list[int], slots: list[Address], held: dict[int, int]) -> None:
        """Replace everything; nobody is stale."""
        self.clear()
        for asset in slots:
            self.slot(asset)
        for name in names:
            self.user(name)
        for user, principal in enumerate(principals):
            self.set_principal(user, principal)
        self.held = dict(held)
        for key, amount in held.items():
            user, slot = divmod(key, SLOTS)
            self.totals[slot] = self.totals.get(slot, 0) + amount
            self._amounts[user, slot] = float(amount)

    def mark(self, users: Iterable[int]) -> None:
        """Make users stale outside any block."""
        self.stale.update(users)
