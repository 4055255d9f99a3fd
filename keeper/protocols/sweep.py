"""Who may be below the threshold, kept up to date at the cost of what changed.

Every user's balance Σ weight · factor is held for *base* factors. While a factor stays within `DRIFT` of its base, as
accruing interest does for hours, nobody is touched: only the users that such drift could take below the threshold are
summed up anew with the factors of the moment. A factor that leaves this band (a price moved) takes its present value as
base, and the users who hold or owe that asset are summed up anew; so are those whose entries changed. A sum is always
made from scratch, never adjusted, so no rounding accumulates, and the answer is that of a sweep over everybody.

Users here and there cost a wait for memory each where a sweep over everybody reads ahead: when more than one in
`_STRIDE` would have to be looked up, in a book too large for the processor's cache, everybody is summed up instead.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.columns import Column
from keeper.protocols.kernels import Entries, Floats, Kernels, Sums, kernels

# Wider saves work after small moves and makes more users near; at this width a debt at 10 % a year drifts for 9 hours.
DRIFT = 1e-4
# Rounding in the sums the drift is measured against is far below this share of them (`SCREEN_MARGIN` says why).
_ROUNDING = 1e-9
_STRIDE = 32  # how many users are read in a row in the time in which one is looked up, measured with five entries each
_CACHED = 3 << 14  # so many are looked up in any case: in a book of a hundred thousand that is as quick


class Swept(Protocol):
    """What a ledger shows of itself."""

    def columns(self) -> Entries:
        """Every entry, by user; what may lay them out anew and so change everybody."""

    def take_changed(self) -> NDArray[np.int64] | None:
        """The users whose entries changed since the last call, ascending; None when it may be everybody."""

    def kinds(self) -> NDArray[np.int64]:
        """By slot the kinds its entries can be of, as (slots, kinds of one)."""

    def holders(self, wanted: int) -> NDArray[np.int32]:
        """Entries of one slot, ascending."""


class Sweep:
    """One ledger's users by their balance. `touched` counts, over its life, how often somebody was summed up anew."""

    def __init__(self, ledger: Swept, loops: Kernels | None = None) -> None:
        self._ledger = ledger
        self._loops = loops
        self._balance, self._debt, self._near = Column(np.float64), Column(np.float64), Column(np.bool_)
        self._base: Floats = np.zeros(0)
        self._slack = 0.0
        self.touched = 0

    def below(self, factors: Floats, slack: float) -> NDArray[np.intp]:
        """The users who owe and whose balance with `factors` (by kind) is below `slack`, ascending."""
        ledger = self._ledger
        loops = kernels() if self._loops is None else self._loops
        entries = ledger.columns()
        users = len(entries.first)
        sums = self._sums(users)
        changed = ledger.take_changed()
        width = DRIFT + _ROUNDING
        kinds = ledger.kinds()
        moved = None if changed is None or slack != self._slack or not len(self._base) else self._moved(factors, kinds)
        holders = [] if moved is None else [ledger.holders(where) for where in moved]
        if moved is None or changed is None or sum(map(len, holders)) > min(users, users // _STRIDE + _CACHED):
            self._base, self._slack = factors.copy(), slack
            loops.everybody(entries, self._base, width, slack, sums)
            self.touched += users
        else:
            rows = kinds[moved]
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

    def _moved(self, factors: Floats, kinds: NDArray[np.int64]) -> list[int]:
        """The slots with a factor out of its band."""
        base, now = self._base[kinds], factors[kinds]
        out = np.abs(now - base) > DRIFT * np.abs(base)
        found: list[int] = np.flatnonzero(out.any(axis=1)).tolist()
        return found
