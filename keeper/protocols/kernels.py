"""The loops over a ledger's columns: in numpy, and the same compiled, which is several times as fast.

Both add a user's entries up in the order of their chain, so that they agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keeper.compiled import ready

Ints = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Entries:
    """A ledger's columns as the loops read them."""

    first: Ints  # int32, by user
    following: Ints  # int32, by entry; -1 ends a chain
    owner: Ints  # int32, by entry
    weight: Floats  # by entry
    kind: Ints  # int32, by entry
    owing: Ints  # int32, by user: debt entries that are not zero


@dataclass(frozen=True, slots=True)
class Sums:
    """What the loops write, by user."""

    balance: Floats  # Σ weight · factor
    debt: Floats  # minus the negative part of it
    near: Flags  # owing, and below `slack` when every factor moves by `drift` to the user's disadvantage


class Kernels(Protocol):
    """Recompute users from scratch with `factors` (by kind)."""

    def everybody(self, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        """All users."""

    def some(self, users: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        """These users (int64)."""

    def holders(self, chosen: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> int:
        """The owners of these entries (int32) that weigh anything; returns how many times somebody was recomputed."""


class NumpyKernels:
    """Every chain at the same time, link by link."""

    def everybody(self, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        self.some(np.arange(len(entries.first)), entries, factors, drift, slack, out)

    def some(self, users: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        balance, debt = np.zeros(len(users)), np.zeros(len(users))
        link = entries.first[users]
        place = np.flatnonzero(link >= 0)
        while place.size:
            at = link[place]
            value = entries.weight[at] * factors[entries.kind[at]]
            balance[place] += value
            debt[place] -= np.minimum(value, 0.0)
            link[place] = entries.following[at]
            place = place[link[place] >= 0]
        out.balance[users], out.debt[users] = balance, debt
        out.near[users] = (entries.owing[users] > 0) & (balance - drift * (balance + 2.0 * debt) < slack)

    def holders(self, chosen: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> int:
        heavy = chosen[(entries.kind[chosen] != 0) & (entries.weight[chosen] != 0.0)]
        self.some(np.unique(entries.owner[heavy]), entries, factors, drift, slack, out)
        return len(heavy)


@cache
def kernels() -> Kernels:
    """The compiled loops where numba is installed. The first call takes seconds when they are not cached on disk."""
    try:
        import_module("numba")
    except ImportError:  # the same loops uncompiled would be slower than numpy
        return NumpyKernels()
    found: Kernels = import_module("keeper.protocols.compiled").CompiledKernels()
    ready()
    return found


def balances(entries: Entries, factors: Floats) -> Floats:
    """Per user Σ weight · factors[kind], in one sweep."""
    users = len(entries.first)
    sums = Sums(np.zeros(users), np.zeros(users), np.zeros(users, np.bool_))
    kernels().everybody(entries, factors, 0.0, 0.0, sums)
    return sums.balance
