"""The ledger against a naive one that copies everything before every block, through random undoing and storing."""

from __future__ import annotations

import os
import random

import pytest
from eth_abi.abi import encode

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.compound_v3 import snapshot
from keeper.protocols.compound_v3.contract import user_basic
from keeper.protocols.compound_v3.ledger import Ledger
from keeper.protocols.compound_v3.weights import DEBT, SLOTS

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "4714"))
DEPTH = 12


def name(number: int) -> Address:
    return Address(f"0x{number:040x}")


ASSETS = [name(900 + number) for number in range(5)]


def view(ledger: Ledger) -> dict[Address, dict[Address, int]]:
    """Everybody's collateral."""
    found = {who: dict(ledger.holdings(user)) for who, user in ledger.users.items()}
    return {who: held for who, held in found.items() if held}


def derived(ledger: Ledger) -> None:
    """The columns of the screen say what the exact numbers say."""
    for who, user in ledger.users.items():
        held = dict(ledger.holdings(user))
        for asset, slot in ledger.slots.items():
            assert ledger.weights.get(user, slot) == float(held.get(asset, 0)), who
        owed = max(-ledger.principals[user], 0)
        assert ledger.weights.get(user, DEBT) == float(owed)
    for asset in ASSETS:
        assert ledger.total(asset) == sum(held.get(asset, 0) for held in view(ledger).values())
    assert ledger.borrowed == sum(max(-p, 0) for p in ledger.principals)
    exposed = {
        user
        for user, principal in enumerate(ledger.principals)
        if principal < 0 or (principal == 0 and ledger.names[user] in view(ledger))
    }
    assert ledger.exposed().tolist() == sorted(exposed)


def test_undoing_and_storing_bring_back_what_was() -> None:
    """Collateral is restored exactly; whose principal moved in an undone block is stale; a snapshot is the same."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    ledger = Ledger(DEPTH)
    history: list[tuple[int, dict[Address, dict[Address, int]]]] = [(0, {})]
    named: dict[int, set[int]] = {}
    number = since = 0
    for _ in range(400):
        number, since = number + 1, since + 1
        ledger.begin(number)
        named[number] = set()
        for _ in range(dice.randrange(5)):
            user = ledger.user(name(dice.randrange(1, 60)))
            if dice.random() < 0.4:
                ledger.name(user)
                named[number].add(user)
            else:
                asset = dice.choice(ASSETS)
                held = dict(ledger.holdings(user)).get(asset, 0)
                ledger.move(user, asset, dice.choice((10 ** dice.randrange(24), -held, -(held // 3))))
        for user in list(ledger.stale):
            ledger.set_principal(user, dice.choice((0, 1, -1)) * dice.randrange(1, 2**100))
        history.append((number, view(ledger)))
        derived(ledger)
        if dice.random() < 0.15:
            back = dice.randint(1, min(DEPTH - 1, since))
            since = 0
            stale = set().union(*(named.pop(n) for n in range(number - back + 1, number + 1)))
            del history[-back:]
            number = history[-1][0]
            ledger.back(number)
            assert view(ledger) == history[-1][1]
            assert ledger.stale == stale
            derived(ledger)
        if dice.random() < 0.1:
            data = snapshot.dump(ledger, {"block": number})
            other = Ledger(DEPTH)
            snapshot.load(other, data)
            assert (view(other), other.principals, other.stale) == (view(ledger), ledger.principals, ledger.stale)
            derived(other)
    assert len(ledger.users) > 50


def test_what_cannot_be_is_refused() -> None:
    """A balance below zero, and more assets than there is room for, mean that events are missing or not understood."""
    ledger = Ledger(DEPTH)
    user = ledger.user(name(1))
    with pytest.raises(BadData, match="events are missing"):
        ledger.move(user, ASSETS[0], -1)
    for number in range(SLOTS - 1):
        ledger.move(user, name(2_000 + number), 1)
    with pytest.raises(BadData, match="collateral assets"):
        ledger.move(user, name(3_000), 1)


def test_an_account_is_read_as_the_abi_says() -> None:
    """Every word at its ends and in between; what does not fit its type, or is of another length, is refused."""
    dice = random.Random(SEED + 1)
    types = ["int104", "uint64", "uint64", "uint16", "uint8"]
    limits = [1 << 103, 1 << 64, 1 << 64, 1 << 16, 1 << 8]
    for _ in range(2_000):
        values = [dice.choice((0, 1, limit - 1, dice.randrange(limit))) for limit in limits]
        values[0] = dice.choice((values[0], -values[0], -limits[0]))
        assert user_basic(encode(types, values)) == (values[0], values[3] | values[4] << 16)
        place = dice.randrange(5)
        values[place] = dice.choice((limits[place], (1 << 255) - 1, dice.randrange(limits[place], 1 << 255)))
        with pytest.raises(BadData):
            user_basic(b"".join((value % (1 << 256)).to_bytes(32, "big") for value in values))
    for answer in (None, b"", bytes(159)):
        with pytest.raises(BadData):
            user_basic(answer)
