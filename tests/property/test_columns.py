"""Lists of items by value, and chains of entries side by side, against looking through everything."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from keeper.protocols.columns import Column, WideColumn, chains, grow
from keeper.protocols.compound_v3.weights import SLOTS, Weights
from keeper.protocols.groups import Groups

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261127"))


@pytest.mark.parametrize("highest", [5, 40_000, 2_000_000_000])
def test_every_item_is_in_the_list_of_its_value(highest: int) -> None:
    """Through growing, items taken back and made anew with other values, and everything numbered anew."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    column = Column(np.int32)
    groups = Groups(column)
    values: list[int] = []
    some = [0, highest, *(dice.randrange(highest) for _ in range(4))]
    for _ in range(400):
        act = dice.random()
        if act < 0.15 and values:
            del values[dice.randrange(len(values)) :]
            groups.cut(len(values))
        elif act < 0.17:
            dice.shuffle(values)
            column.load(np.array(values, np.int32))
            groups.clear()
        for _ in range(dice.randrange(60)):
            column.reserve(len(values) + 1)
            values.append(dice.choice(some))
            column.cells[len(values) - 1] = values[-1]
        for value in dice.sample(some, 2):
            assert groups.of(value, len(values)).tolist() == [i for i, each in enumerate(values) if each == value]
        assert set(values) <= set(groups.values(len(values))) <= set(some)
        assert groups.of(highest + 1, len(values)).tolist() == []


def test_chains_lead_through_the_entries_of_everybody() -> None:
    """Also of users who have none, first, last and between."""
    dice = random.Random(SEED + 1)
    for users in (0, 1, 2, 50):
        for _ in range(50):
            owner = sorted(dice.randrange(users) for _ in range(dice.randrange(80))) if users else []
            first, following = chains(np.array(owner, np.int32), users)
            assert (len(first), len(following)) == (users, len(owner))
            for user in range(users):
                found, entry = [], int(first[user])
                while entry != -1:
                    found.append(entry)
                    entry = int(following[entry])
                assert found == [e for e, who in enumerate(owner) if who == user]


def test_columns_grow_one_at_a_time_and_in_time() -> None:
    """There is room for every item; no two columns are copied for the same one once they are large; all is kept."""
    columns = [Column(np.int32), Column(np.int16), Column(np.float64), WideColumn()]
    room, together = 0, 0
    for count in range(40_000):
        if count >= room:
            before = [len(column.data) for column in columns]
            room = grow(columns, count)
            copied = sum(len(column.data) > size for column, size in zip(columns, before, strict=True))
            together = max(together, copied)
            assert room > count
        for column in columns:
            column[count] = count % 30_000
    assert together == 1
    assert all(column[count] == count % 30_000 for column in columns for count in range(0, 40_000, 777))


def test_weights_laid_out_anew_go_on_growing() -> None:
    """Whenever that happens, there is room for every user and every entry that follows, and nothing is lost."""
    dice = random.Random(SEED)
    weights, plain = Weights(), dict[tuple[int, int], float]()
    for user in range(30_000):
        weights.add()
        for where in {dice.randrange(SLOTS + 1), dice.randrange(SLOTS + 1)}:
            plain[user, where] = dice.random()
            weights.set(user, where, plain[user, where])
        if user % 997 == 0:
            assert len(weights.columns().first) == user + 1
    assert weights.take_changed() is None
    assert all(weights.get(user, where) == weight for (user, where), weight in plain.items())
