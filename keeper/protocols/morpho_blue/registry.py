"""All markets of one deployment, numbered in order of creation: parameters, totals, rates."""

from __future__ import annotations

import numpy as np

from keeper.model import ZERO_ADDRESS, Address
from keeper.protocols.columns import Column
from keeper.protocols.morpho_blue.irm import Kind
from keeper.protocols.morpho_blue.market import Params, State
from keeper.rewind import Rewind

_SHORTEST = 10  # characters of a place, 0x included


class Registry:
    """Markets. Everything exact goes through `Rewind`; the float columns the screen sweeps are derived and follow."""

    def __init__(self, rewind: Rewind) -> None:
        self._rewind = rewind
        self._reset()

    def _reset(self) -> None:
        self.count = [0]
        self.numbers: dict[str, int] = {}  # by id
        self.places: dict[str, int] = {}
        self.params: dict[int, Params] = {}
        self.states: dict[int, State] = {}
        self.targets: dict[int, int] = {}  # rate at target of each market's model, where one was told or read
        self.kinds: dict[Address, Kind] = {ZERO_ADDRESS: Kind.NONE}
        self._unread: set[int] = set()  # derived
        self._touched: set[int] = set()  # markets to derive anew
        self.borrowed = Column(np.float64)  # derived, as are the rest
        self.supplied = Column(np.float64)
        self.shares = Column(np.float64)
        self.updated = Column(np.float64)
        self.target = Column(np.float64)
        self.lltv = Column(np.float64)
        self.model = Column(np.int8)  # `Kind`

    def clear(self) -> None:
        """Forget every market; what the rate models are is kept."""
        kinds = self.kinds
        self._reset()
        self.kinds = kinds

    def __len__(self) -> int:
        return self.count[0]

    def create(self, params: Params, timestamp: int) -> int:
        """A new market's number."""
        number = self.count[0]
        columns = (self.borrowed, self.supplied, self.shares, self.updated, self.target, self.lltv, self.model)
        for column in columns:
            column.reserve(number + 1)
        self._rewind.set(self.count, 0, number + 1)
        self._rewind.set(self.numbers, params.id, number)
        self._rewind.set(self.places, params.place, number)
        self._rewind.set(self.params, number, params)
        self._rewind.set(self.states, number, State(updated=timestamp))
        self._touched.add(number)
        return number

    def place(self, market_id: str) -> str:
        """The shortest beginning of a new market's id that no earlier market has for a place."""
        length = _SHORTEST
        while market_id[:length] in self.places:
            length += 1
        return market_id[:length]

    def set_state(self, number: int, state: State) -> None:
        """Replace a market's totals."""
        self._rewind.set(self.states, number, state)
        self._touched.add(number)

    def set_target(self, number: int, rate: int) -> None:
        """Replace the rate at target of a market's model."""
        self._rewind.set(self.targets, number, rate)
        self._touched.add(number)

    def set_kind(self, irm: Address, kind: Kind) -> None:
        """What a rate model is known to be; not a matter of one block, so never undone."""
        self.kinds[irm] = kind
        for number, params in self.params.items():
            if params.irm == irm:
                self._touched.add(number)

    def kind(self, number: int) -> Kind:
        """How a market's rate is known."""
        return self.kinds.get(self.params[number].irm, Kind.UNREAD)

    @property
    def models(self) -> frozenset[Address]:
        """Every rate model of a market."""
        return frozenset(params.irm for params in self.params.values()) - {ZERO_ADDRESS}

    def undone(self, restored: list[tuple[object, object]]) -> None:
        """Derive anew what `Rewind.back` touched."""
        for container, key in restored:
            if isinstance(key, int) and (container is self.states or container is self.targets):
                self._touched.add(key)

    @property
    def unread(self) -> set[int]:
        """Markets of which something has to be read before they can be valued."""
        self.derive()
        return self._unread

    def derive(self) -> None:
        """Bring the screen's view of all markets up to date."""
        for number in self._touched:
            self._derive(number)
        self._touched.clear()

    def _derive(self, number: int) -> None:
        self._unread.discard(number)
        state, params = self.states.get(number), self.params.get(number)
        if state is None or params is None:
            return
        kind = self.kind(number)
        if kind is Kind.UNREAD or (kind is not Kind.NONE and not state.updated):
            self._unread.add(number)
        if kind is Kind.ADAPTIVE and number not in self.targets:
            self._unread.add(number)
        self.borrowed.data[number] = float(state.borrow_assets)
        self.supplied.data[number] = float(state.supply_assets)
        self.shares.data[number] = float(state.borrow_shares)
        self.updated.data[number] = float(state.updated)
        self.target.data[number] = float(self.targets.get(number, 0))
        self.lltv.data[number] = params.lltv / 1e18
        self.model.data[number] = kind
