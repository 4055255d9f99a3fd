"""What a Comet holds and owes, as absorbs and purchases in one block change it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Self

from keeper.model import Address
from keeper.protocols.compound_v3.arithmetic import present, supply_principal
from keeper.protocols.compound_v3.health import Holding, Valuation


class Till:
    """The totals of one market at one moment. `copy` before trying something out."""

    def __init__(self, valuation: Valuation) -> None:
        self.valuation = valuation
        self._supply, self._borrow = valuation.state.totals.supply, valuation.state.totals.borrow
        self._balance = valuation.state.balance
        self._on_sale = dict(valuation.state.reserves)

    def copy(self) -> Self:
        """One that can be changed without changing this one."""
        other = copy.copy(self)
        other._on_sale = dict(self._on_sale)  # noqa: SLF001 - of its own class
        return other

    @property
    def reserves(self) -> int:
        """Base that is nobody's (Comet.getReserves); may be negative."""
        now = self.valuation
        return self._balance - present(self._supply, now.supply_index) + present(self._borrow, now.borrow_index)

    @property
    def sells(self) -> bool:
        """Whether `buyCollateral` sells: there are fewer reserves than governance wants."""
        return self.reserves < self.valuation.market.target_reserves

    def on_sale(self, asset: Address) -> int | None:
        """Collateral that is nobody's, None where the contract holds less than it owes."""
        return self._on_sale.get(asset)

    def absorb(self, principal: int, holdings: Iterable[Holding]) -> None:
        """Take an account over: its collateral goes on sale, and what is credited beyond its debt is supplied."""
        holdings, now = list(holdings), self.valuation
        credit = now.credit(holdings)
        assert credit is not None, "an account of unknown health is never absorbed"
        self._borrow -= -principal
        self._supply += supply_principal(max(credit - now.owed(principal), 0), now.supply_index)
        for asset, amount in holdings:
            left = self._on_sale.get(asset)
            if left is not None:
                self._on_sale[asset] = left + amount

    def buy(self, asset: Address, base: int, collateral: int) -> None:
        """Sell collateral for base."""
        self._balance += base
        left = self._on_sale.get(asset)
        if left is not None:
            self._on_sale[asset] = left - collateral
