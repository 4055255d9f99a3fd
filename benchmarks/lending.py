"""The screens of a Comet and of Morpho, beside copying the columns they read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Row, beside
from keeper.protocols.compound_v3.weights import DEBT, KINDS, Weights, kind
from keeper.protocols.kernels import Floats, balances
from keeper.protocols.morpho_blue import screen
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.sweep import Sweep
from keeper.rewind import Rewind

ASSETS = 24  # the most a Comet can have
HELD = 4  # of them, by everybody
MARKETS = 500
SLACK = 50.0  # base currency


def run(size: int) -> list[Row]:
    """Both, with `size` borrowers each."""
    return [*comet(size), *morpho(size)]


def comet(users: int) -> list[Row]:
    """Everybody holds four of 24 assets and owes; a price, a block's interest, and a hundred accounts changed."""
    weights, dice = Weights(), np.random.default_rng(1)
    slots = np.argsort(dice.random((users, ASSETS)), axis=1)[:, :HELD]
    owner = np.repeat(np.arange(users), HELD + 1)
    slot = np.concatenate([slots, np.full((users, 1), DEBT)], axis=1).reshape(-1)
    weights.load(users, owner, slot, np.where(slot == DEBT, 1.0, dice.uniform(1.0, 2.0, len(slot))) * 1e18)
    factors = np.full(KINDS, 1e-8)
    factors[kind(DEBT)] *= -0.1
    interest, price = factors.copy(), factors.copy()
    interest[kind(DEBT)] *= 1.0 + 1e-8
    price[kind(0)] *= 0.99
    sweep, columns = Sweep(weights), weights.columns()

    def turns(choice: list[Floats], changed: int = 0) -> Callable[[], object]:
        def work() -> object:
            choice.reverse()
            for user in range(changed):
                weights.set(user, DEBT, 1e18)
            return sweep.below(choice[0], SLACK)

        return work

    def copy() -> object:
        return columns.weight.copy(), columns.owner.copy(), columns.kind.copy()

    def full() -> object:
        return balances(columns, factors)

    sweep.below(factors, SLACK)
    full_time, copy_time = beside(full, copy)
    rows = [_row(f"all accounts of a Comet, {len(owner):,} entries", full_time, copy_time, users, "≤ 5 ms at 100,000",
                 full_time <= 5e-3 if users == 100_000 else None)]  # fmt: skip
    for what, work in (
        ("Comet: a feed moved", turns([factors, price])),
        ("Comet: interest and 100 accounts changed", turns([factors, interest], min(users, 100))),
    ):
        work()
        work()
        before = sweep.touched
        work()
        touched = sweep.touched - before
        took, copy_time = beside(work, copy, runs=10)
        rows.append(_row(what, took, copy_time, users, "", None, f"{touched:,} of {users:,} summed up"))
    return rows


def morpho(positions: int) -> list[Row]:
    """Markets from very large to very small; nobody near, and somebody in a market of every tenth position."""
    ledger, dice = Ledger(Rewind()), np.random.default_rng(2)
    for number in range(MARKETS):
        ledger.market_created(number)
    shares = 1.0 / np.arange(1, MARKETS + 1)

    def wide(low: float, high: float) -> NDArray[np.uint64]:
        return np.stack([dice.uniform(low, high, positions).astype(np.uint64), np.zeros(positions, np.uint64)], axis=1)

    columns: dict[str, NDArray[Any]] = {
        "market": dice.choice(MARKETS, positions, p=shares / shares.sum()).astype(np.int32),
        "user": np.arange(positions, dtype=np.int32),
        "supply": wide(0.0, 1.0),
        "borrow": wide(1e17, 5e17),
        "collateral": wide(8e17, 1e18),
        "allowed": np.zeros(0, np.int64),
    }
    ledger.fill([], columns)
    ratios, markets = ledger.ratio.live(positions), ledger.market.live(positions)
    quiet = np.full(MARKETS, 10.0)
    stirred = quiet.copy()
    stirred[1] = stirred[40:60] = 0.6

    def copy() -> object:
        return ratios.copy(), markets.copy()

    looked = sum(len(ledger.members(market)) for market in (1, *range(40, 60)))
    rows = []
    for what, levels, note in (
        (f"Morpho: nobody near, {MARKETS} markets", quiet, ""),
        ("Morpho: somebody near in 21 markets", stirred, f"{looked:,} of {positions:,} positions looked at"),
    ):
        took, copy_time = beside(partial(screen.above, ledger, levels), copy)
        rows.append(_row(what, took, copy_time, positions, "", None, note))
    return rows


def _row(what: str, took: float, copied: float, size: int, target: str, reached: bool | None, note: str = "") -> Row:
    return Row("screen", what, took * 1e3, "ms", "numpy copies its columns", copied * 1e3, target, reached, size, note)
