"""Which positions may be pre-liquidated by which contracts: those whose owners have let them act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from keeper.model import Address
from keeper.protocols.morpho_blue.follower import PreTerms
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.morpho_blue.screen import MARGIN
from keeper.protocols.morpho_blue.views import Views

_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Every (entry, contract) with an authorisation, side by side; `contract` counts in `used`."""

    used: Mapping[Address, PreTerms] = field(default_factory=dict)
    entry: NDArray[np.int64] = field(default_factory=lambda: _NOTHING)
    contract: NDArray[np.int64] = field(default_factory=lambda: _NOTHING)

    def above(self, ledger: Ledger, views: Views, debt_per_share: NDArray[np.float64]) -> list[int]:
        """Entries that may be above a contract's own LLTV, at its own oracle's price."""
        if not len(self.entry):
            return []
        levels = np.full(len(self.used), np.nan)
        for number, terms in enumerate(self.used.values()):
            price = views.prices.get(terms.oracle)
            if price:
                credit = price / 1e36 * terms.lltv / 1e18
                levels[number] = credit / float(debt_per_share[terms.market]) * (1.0 - MARGIN)
        ratios = ledger.ratio.data[self.entry]
        found: list[int] = self.entry[(ratios >= levels[self.contract]) & (ratios > 0.0)].tolist()
        return found


def prepare(contracts: Mapping[Address, PreTerms], ledger: Ledger) -> Prepared:
    """Look up the authorisations of every contract. Costs their number, not that of the positions."""
    used: dict[Address, PreTerms] = {}
    entries: list[int] = []
    owners: list[int] = []
    for terms in contracts.values():
        found = [ledger.entry_of(terms.market, user) for user in ledger.clients(terms.contract)]
        mine = [entry for entry in found if entry is not None]
        if mine:
            entries += mine
            owners += [len(used)] * len(mine)
            used[terms.contract] = terms
    return Prepared(used, np.array(entries, np.int64), np.array(owners, np.int64))
