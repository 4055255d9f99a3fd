"""Who may be below the threshold, kept up to date at the cost of what changed.

Every user's balance Σ weight · factor is held for *base* factors. While a factor stays within `DRIFT` of its base, as
accruing interest does for hours, nobody is touched: only the users that such drift could take below the threshold are
summed up anew with the factors of the moment. A factor that leaves this band (a price moved) takes its present value as
base, and the users who hold or owe that asset are summed up anew; so are those whose entries changed. A sum is always
made from scratch, never adjusted, so no rounding accumulates, and the answer is that of a sweep over everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.aave_v3.kernels import Floats, Kernels, Sums, kernels
from keeper.protocols.aave_v3.ledger import DEBT, EMODES, SUPPLY, Ledger, kind, slot
from keeper.protocols.columns import Column

# Wider saves work after small moves and makes more users near; at this width a debt at 10 % a year drifts for 9 hours.
DRIFT = 1e-4
# Rounding in the sums the drift is measured against is far below this share of them (`SCREEN_MARGIN` says why).
_ROUNDING = 1e-9


class Sweep:
    """One ledger's users by their balance. `touched` counts, over its life, how often somebody was summed up anew."""

    def __init__(self, ledger: Ledger, loops: Kernels | None = None) -> None:
        self._ledger = ledger
        self._loops = loops
        self._balance, self._debt, self._near = Column(np.float64), Column(np.float64), Column(np.bool_)
        self._base: Floats = np.zeros(0)
        self._slack = 0.0
        self._reserves: set[int] = set()
        self._emodes: set[int] = {0}
        self._kinds: NDArray[np.int64] = np.zeros((0, 1), np.int64)  # by slot and e-mode
        self._slots: list[int] = []
        self.touched = 0

    def below(self, factors: Floats, slack: float, reserves: Iterable[int]) -> NDArray[np.intp]:
        """The users who owe and whose balance with `factors` is below `slack`, ascending.

        `reserves`: every reserve that has factors; all others are zero.
        """
        ledger = self._ledger
        loops = kernels() if self._loops is None else self._loops
        users = ledger.counts[0]
        sums = self._sums(users)
        entries = ledger.columns()
        self._see(factors, reserves)
        changed = ledger.take_changed()
        width = DRIFT + _ROUNDING
        moved = None if changed is None or slack != self._slack or not len(self._base) else self._moved(factors)
        holders = [] if moved is None else [ledger.holders(where) for where in moved]
        if moved is None or changed is None or sum(map(len, holders)) > users:
            self._base, self._slack = factors.copy(), slack
            loops.everybody(entries, self._base, width, slack, sums)
            self.touched += users
        else:
            for where in moved:
                rows = kind(where, 0) + np.fromiter(self._emodes, np.int64)
                self._base[rows] = factors[rows]
            for chosen in holders:
                self.touched += loops.holders(chosen, entries, self._base, width, slack, sums)
            loops.some(changed, entries, self._base, width, slack, sums)
            self.touched += len(changed)
        near = np.flatnonzero(sums.near)
        now = Sums(np.zeros(users), np.zeros(users), np.zeros(users, np.bool_)) if len(near) else sums
        loops.some(near, entries, factors, 0.0, slack, now)
        return near[now.near[near]] if len(near) else near

    def _sums(self, users: int) -> Sums:
        for column in (self._balance, self._debt, self._near):
            column.reserve(users)
        return Sums(self._balance.live(users), self._debt.live(users), self._near.live(users))

    def _see(self, factors: Floats, reserves: Iterable[int]) -> None:
        """Watch the factors of new reserves and e-modes. Who enters an e-mode has changed, so its base may be given."""
        fresh = self._ledger.emodes_seen - self._emodes
        unseen = set(reserves) - self._reserves
        if not fresh and not unseen and len(self._slots):
            return
        self._reserves |= unseen
        self._emodes |= fresh
        self._slots = [slot(number, side) for number in sorted(self._reserves) for side in (SUPPLY, DEBT)]
        first = np.array([kind(where, 0) for where in self._slots], np.int64).reshape(-1, 1)
        self._kinds = first + np.array(sorted(self._emodes), np.int64)
        if len(self._base):
            for emode in fresh:
                self._base[1 + emode :: EMODES] = factors[1 + emode :: EMODES]

    def _moved(self, factors: Floats) -> list[int]:
        """The slots with a factor out of its band."""
        base, now = self._base[self._kinds], factors[self._kinds]
        out = np.abs(now - base) > DRIFT * np.abs(base)
        return [self._slots[row] for row in np.flatnonzero(out.any(axis=1))]
