"""The sweep that touches what changed finds whom a sweep over everybody finds, compiled or not."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from keeper.protocols import kernels as loops
from keeper.protocols import sweep as sweep_module
from keeper.protocols.aave_v3.ledger import DEBT, KINDS, SUPPLY, Ledger, kind, slot
from keeper.protocols.kernels import Kernels, NumpyKernels, Sums
from keeper.protocols.sweep import DRIFT, Sweep
from keeper.rewind import Rewind
from tests.property.test_aave_ledger import RESERVES, change, name

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261126"))
SLACK = 40.0
EMODES = range(4)


def compiled() -> Kernels:
    """numba is among the locked requirements, so it is here."""
    found = loops.kernels()
    assert type(found).__name__ == "CompiledKernels"
    return found


class Prices:
    """Factors that drift at every step, jump at some, and vanish at others."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.price = [10 ** dice.uniform(-22, -17) for _ in range(RESERVES)]
        self.index = [1.0] * RESERVES
        self.known = [True] * RESERVES

    def step(self) -> None:
        for reserve in range(RESERVES):
            self.index[reserve] *= 1 + self.dice.random() * DRIFT / 6
            if self.dice.random() < 0.1:
                self.price[reserve] *= self.dice.uniform(0.7, 1.3)
            self.known[reserve] = self.dice.random() < 0.97

    def factors(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found = np.zeros(KINDS)
        for reserve in range(RESERVES):
            price = self.price[reserve] * self.known[reserve]
            for emode in EMODES:
                found[kind(slot(reserve, SUPPLY), emode)] = price * (0.8 + 0.03 * emode)
                found[kind(slot(reserve, DEBT), emode)] = -price * self.index[reserve]
        return found


def everybody(ledger: Ledger, factors: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[int]:
    owing = ledger.debts.live(ledger.counts[0]) > 0
    found: list[int] = np.flatnonzero(owing & (ledger.balances(factors) < SLACK)).tolist()
    return found


@pytest.mark.parametrize("cached", [sweep_module._CACHED, 20])
@pytest.mark.parametrize("make", [NumpyKernels, compiled])
def test_it_finds_whom_a_full_sweep_finds(make: type[Kernels], cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through changes, undone blocks, renumbering, drifting and jumping prices, and prices that go and come back.

    In a book that is small, and in one so large that a price which many depend on makes everybody be swept.
    """
    monkeypatch.setattr(sweep_module, "_CACHED", cached)
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    rewind = Rewind(32)
    ledger = Ledger(rewind)
    sweep, prices = Sweep(ledger, make()), Prices(dice)
    number = floor = found = 0
    for _ in range(300):
        if number > floor and dice.random() < 0.15:
            number = max(number - dice.randrange(1, 6), floor)
            ledger.undone(rewind.back(number))
        elif dice.random() < 0.05:
            rewind.clear()
            ledger.compact()
            floor = number
        else:
            number += 1
            rewind.begin(number)
            for _ in range(dice.randrange(12)):
                change(ledger, dice, 150 + number)
        for _ in range(dice.randrange(3)):
            prices.step()
            factors = prices.factors()
            below = sweep.below(factors, SLACK).tolist()
            assert below == everybody(ledger, factors)
            found += len(below)
    assert found > 1_000


def test_only_the_exposed_are_touched() -> None:
    """Nobody for a block of interest, the holders of one asset after its price moved, the changed after an event."""
    dice = random.Random(SEED + 1)
    ledger = Ledger(Rewind())
    for user in range(2_000):
        for reserve in dice.sample(range(RESERVES), 2):
            ledger.set_amount(ledger.entry(ledger.user(name(user)), slot(reserve, SUPPLY)), 10**18)
            ledger.set_enabled(user, reserve, enabled=True)
        ledger.set_amount(ledger.entry(user, slot(0, DEBT)), 10**17)
    sweep = Sweep(ledger)
    factors = np.zeros(KINDS)
    for reserve in range(RESERVES):
        factors[kind(slot(reserve, SUPPLY), 0)] = 1e-10
        factors[kind(slot(reserve, DEBT), 0)] = -1e-10

    def touched() -> int:
        before = sweep.touched
        assert sweep.below(factors, SLACK).tolist() == everybody(ledger, factors)
        return sweep.touched - before

    assert touched() == 2_000
    factors[kind(slot(0, DEBT), 0)] *= 1 + DRIFT / 2
    assert touched() == 0
    factors[kind(slot(3, SUPPLY), 0)] *= 0.9
    exposed = len(ledger.holders(slot(3, SUPPLY)))
    assert touched() == exposed < 700
    ledger.set_amount(ledger.entry(7, slot(0, DEBT)), 10**20)
    assert touched() == 1
    assert 7 in everybody(ledger, factors)
    factors[kind(slot(0, DEBT), 0)] *= 1 + DRIFT  # now out of its band
    assert touched() == 2_000


def test_where_many_are_exposed_in_a_large_book_everybody_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading on costs less than looking up more than one in 32, and what was swept need not be looked up later."""
    monkeypatch.setattr(sweep_module, "_CACHED", 0)
    ledger = Ledger(Rewind())
    for user in range(3_200):
        ledger.user(name(user))
        for reserve in (0,) + (1,) * (user % 32 == 0):
            ledger.set_amount(ledger.entry(user, slot(reserve, SUPPLY)), 10**18)
            ledger.set_enabled(user, reserve, enabled=True)
    sweep, factors = Sweep(ledger), np.zeros(KINDS)
    factors[kind(slot(0, SUPPLY), 0)] = factors[kind(slot(1, SUPPLY), 0)] = 1e-10
    for expected, moved in ((3_200, ()), (100, (1,)), (3_200, (0,)), (0, ()), (3_200, (0, 1)), (100, (1,))):
        for reserve in moved:
            factors[kind(slot(reserve, SUPPLY), 0)] *= 0.9
        before = sweep.touched
        sweep.below(factors, SLACK)
        assert sweep.touched - before == expected


def test_numpy_and_machine_code_agree_to_the_bit() -> None:
    """All three loops, over chains that are scattered and chains that are side by side."""
    dice = random.Random(SEED + 2)
    ledger = Ledger(Rewind())
    for _ in range(4_000):
        change(ledger, dice, 500)
    factors = Prices(dice).factors()
    for _ in range(2):
        users = ledger.counts[0]
        some = np.array(sorted(dice.sample(range(users), 100)), np.int64)
        chosen = ledger.holders(slot(1, SUPPLY))
        results = []
        for each in (NumpyKernels(), compiled()):
            first, second, third = (Sums(*(np.zeros(users, t) for t in (float, float, bool))) for _ in range(3))
            each.everybody(ledger.columns(), factors, DRIFT, SLACK, first)
            each.some(some, ledger.columns(), factors, DRIFT, SLACK, second)
            done = each.holders(chosen, ledger.columns(), factors, DRIFT, SLACK, third)
            results.append([done, *(a.tolist() for s in (first, second, third) for a in (s.balance, s.debt, s.near))])
        assert results[0] == results[1]
        assert any(results[0][3])
        ledger.compact()


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation that lacks it."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "keeper.protocols.compiled", raising=False)
    loops.kernels.cache_clear()
    yield
    loops.kernels.cache_clear()


@pytest.mark.usefixtures("without_numba")
def test_without_numba_there_is_numpy() -> None:
    """The keeper starts and screens all the same."""
    assert isinstance(loops.kernels(), NumpyKernels)
    ledger = Ledger(Rewind())
    user = ledger.user(name(1))
    ledger.set_amount(ledger.entry(user, slot(0, DEBT)), 10**18)
    factors = np.zeros(KINDS)
    factors[kind(slot(0, DEBT), 0)] = -1e-10
    assert Sweep(ledger).below(factors, SLACK).tolist() == [user]


def test_a_compacted_ledger_is_the_same_ledger() -> None:
    """Entries side by side, everything exact where it was, and lists of holders that know the new numbers."""
    dice = random.Random(SEED + 3)
    ledger = Ledger(Rewind())
    for _ in range(3_000):
        change(ledger, dice, 300)
    users = range(ledger.counts[0])
    before = [sorted(ledger.supplies_and_debts(user)) for user in users]
    totals = [ledger.total(slot(reserve, side)) for reserve in range(RESERVES) for side in (SUPPLY, DEBT)]
    ledger.compact()
    assert [sorted(ledger.supplies_and_debts(user)) for user in users] == before
    assert [ledger.total(slot(reserve, side)) for reserve in range(RESERVES) for side in (SUPPLY, DEBT)] == totals
    assert [list(ledger.chain(user)) for user in users] == [
        np.flatnonzero(ledger.owner.live(ledger.entries) == user).tolist() for user in users
    ]
