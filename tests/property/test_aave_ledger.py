"""The ledger under random changes, undone blocks, growth and storage."""

from __future__ import annotations

import io
import os
import random
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.aave_v3 import snapshot
from keeper.protocols.aave_v3.ledger import DEBT, IGNORED, KINDS, SUPPLY, Ledger, kind, slot
from keeper.protocols.columns import wide_sum
from keeper.rewind import Rewind

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "77"))
RESERVES = 6


def name(number: int) -> Address:
    return Address(f"0x{number:040x}")


def contents(ledger: Ledger) -> dict[Address, tuple[int, dict[tuple[int, int], tuple[int, bool]]]]:
    """Everything exact, by user; entries that say nothing are left out."""
    found = {}
    for user, number in ledger.users.items():
        entries = {(r, s): (a, e) for r, s, a, e in ledger.supplies_and_debts(number) if a or e}
        found[user] = (ledger.emode[number], entries)
    return found


def derived(ledger: Ledger) -> list[tuple[Any, ...]]:
    """What the screen sweeps, as it must be."""
    rows = []
    for entry in range(ledger.entries):
        where, user = ledger.slot[entry], ledger.owner[entry]
        amount = ledger.amount[entry]
        counts = where % 2 == DEBT or ledger.enabled[entry]
        weight = (amount + 2 if amount else 0) if where % 2 == DEBT else max(amount - 2, 0)
        rows.append((float(weight), kind(where, ledger.emode[user]) if counts else IGNORED))
    return rows


def check(ledger: Ledger) -> None:
    users, entries = ledger.counts
    rows = list(zip(ledger.weight.live(entries).tolist(), ledger.kind.live(entries).tolist(), strict=True))
    assert rows == derived(ledger)
    assert len(ledger.users) == users
    for user in range(users):
        owed = [a for _, s, a, _ in ledger.supplies_and_debts(user) if s == DEBT and a]
        assert ledger.debts[user] == len(owed)
        assert ledger.users[ledger.names[user]] == user


def change(ledger: Ledger, dice: random.Random, people: int) -> None:
    user = ledger.user(name(dice.randrange(people)))
    reserve, side = dice.randrange(RESERVES), dice.choice((SUPPLY, DEBT))
    match dice.randrange(4):
        case 0 | 1:
            entry = ledger.entry(user, slot(reserve, side))
            ledger.set_amount(entry, dice.choice((0, 1, dice.getrandbits(40), dice.getrandbits(118))))
        case 2:
            ledger.set_enabled(user, reserve, dice.random() < 0.5)
        case _:
            ledger.set_emode(user, dice.randrange(4))


def test_undoing_blocks_gives_back_what_was() -> None:
    """Whatever blocks did, stepping back gives exactly the state after the block stepped back to, screen included."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    rewind = Rewind(32)
    ledger = Ledger(rewind)
    after = {0: contents(ledger)}
    number = 0
    for _ in range(260):
        if number and dice.random() < 0.15:
            back = max(number - dice.randrange(1, 6), 0)
            ledger.undone(rewind.back(back))
            number = back
            after = {n: state for n, state in after.items() if n <= back}
            assert contents(ledger) == after[back]
            check(ledger)
            continue
        number += 1
        rewind.begin(number)
        for _ in range(dice.randrange(60)):
            change(ledger, dice, 200 + number * 10)
        after[number] = contents(ledger)
    check(ledger)
    assert ledger.entries > 1024  # columns grew on the way


def test_a_stored_ledger_is_the_same_ledger() -> None:
    """Every exact number survives storage, and the screen's columns are rebuilt to within rounding."""
    dice = random.Random(SEED + 1)
    ledger = Ledger(Rewind())
    for _ in range(3_000):
        change(ledger, dice, 700)
    again = Ledger(Rewind())
    snapshot.load(again, snapshot.dump(ledger, {"block": 7}))
    assert contents(again) == contents(ledger)
    assert max(ledger.amount[entry] for entry in range(ledger.entries)) >= 1 << 64
    ledger.compact()  # as it comes from storage
    assert again.first.live(again.counts[0]).tolist() == ledger.first.live(ledger.counts[0]).tolist()
    assert again.following.live(again.entries).tolist() == ledger.following.live(ledger.entries).tolist()
    assert again.kind.live(again.entries).tolist() == ledger.kind.live(ledger.entries).tolist()
    assert again.debts.live(again.counts[0]).tolist() == ledger.debts.live(ledger.counts[0]).tolist()
    np.testing.assert_allclose(again.weight.live(again.entries), ledger.weight.live(ledger.entries), rtol=5e-16)
    for reserve in range(RESERVES):
        for side in (SUPPLY, DEBT):
            exact = sum(ledger.amount[int(e)] for e in ledger.holders(slot(reserve, side)))
            assert ledger.total(slot(reserve, side)) == exact == again.total(slot(reserve, side))
    # It goes on as the original would.
    for each in (ledger, again):
        dice = random.Random(SEED + 2)
        for _ in range(500):
            change(each, dice, 900)
    assert contents(again) == contents(ledger)
    check(ledger)


def test_a_ledger_laid_out_anew_goes_on_growing() -> None:
    """Its columns have other sizes then: whenever that happens, there is room for every entry that follows."""
    dice = random.Random(SEED + 6)
    ledger, plain = Ledger(Rewind()), Ledger(Rewind())
    for number in range(6_000):
        name, where, amount = Address(f"0x{number:040x}"), slot(dice.randrange(RESERVES), SUPPLY), dice.getrandbits(70)
        for each in (ledger, plain):
            each.set_amount(each.entry(each.user(name), where), amount)
        if number % 449 == 448:
            ledger.compact()
    assert contents(ledger) == contents(plain)
    check(ledger)


def test_what_an_earlier_keeper_stored_is_read() -> None:
    """Whole amounts beside the chains, which nobody needs: everybody's history would have to be read again."""
    dice = random.Random(SEED + 4)
    ledger = Ledger(Rewind())
    for _ in range(500):
        change(ledger, dice, 100)
    users, entries = ledger.counts
    buffer = io.BytesIO()
    np.savez(
        buffer,
        meta=np.frombuffer(b'{"block": 7}', np.uint8),
        names=np.frombuffer(bytes.fromhex("".join(name[2:] for name in ledger.names)), np.uint8).reshape(-1, 20),
        **{name: getattr(ledger, name).live(users) for name in ("emode", "first")},
        **{name: getattr(ledger, name).live(entries) for name in ("owner", "slot", "following", "enabled", "amount")},
    )
    body = buffer.getvalue()
    again = Ledger(Rewind())
    assert snapshot.load(again, b"keeper/aave_v3/1" + blake2b(body, digest_size=16).digest() + body) == {"block": 7}
    assert contents(again) == contents(ledger)


def test_an_empty_ledger_is_stored() -> None:
    """Nobody is a valid state."""
    again = Ledger(Rewind())
    snapshot.load(again, snapshot.dump(Ledger(Rewind()), {"block": 0}))
    assert again.counts == [0, 0]


def test_damaged_bytes_are_refused() -> None:
    """Any flipped byte, any truncation and foreign files end in BadData, never in a wrong ledger."""
    dice = random.Random(SEED + 3)
    ledger = Ledger(Rewind())
    for _ in range(200):
        change(ledger, dice, 50)
    data = snapshot.dump(ledger, {"block": 7})
    for _ in range(200):
        position = dice.randrange(len(data))
        broken = data[:position] + bytes([data[position] ^ (1 << dice.randrange(8))]) + data[position + 1 :]
        with pytest.raises(BadData):
            snapshot.load(Ledger(Rewind()), broken)
    for length in (0, 3, len(data) // 2, len(data) - 1):
        with pytest.raises(BadData):
            snapshot.load(Ledger(Rewind()), data[:length])


def test_wide_sums_do_not_overflow() -> None:
    """Sums beyond 64 and 128 bits are exact."""
    numbers = [2**128 - 1, 2**64 - 1, 2**64, 1, 2**127] * 400
    words = np.array([[n & (2**64 - 1), n >> 64] for n in numbers], np.uint64)
    assert wide_sum(words) == sum(numbers)


def test_kinds_are_distinct() -> None:
    """Every side of every reserve in every e-mode has a factor of its own."""
    seen = {kind(slot(r, s), e) for r in range(128) for s in (SUPPLY, DEBT) for e in (0, 1, 254, 255)}
    assert len(seen) == 128 * 2 * 4
    assert IGNORED not in seen
    assert max(seen) < KINDS
