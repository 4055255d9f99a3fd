"""A history that was read in part is stored, and gone on with, like a whole one."""

from __future__ import annotations

import pytest

from keeper.errors import BadData
from keeper.maths.wad_ray import RAY
from keeper.model import Address
from keeper.protocols.aave_v3 import AaveV3Book, events
from keeper.protocols.aave_v3.ledger import SUPPLY, slot
from tests.unit.test_aave_follower import A_TOKEN, ANN, BOB, PROVIDER, Silent, log, market

pytestmark = pytest.mark.unit


def half_read() -> AaveV3Book:
    """A book in the middle of its history."""
    book = AaveV3Book("aave", PROVIDER, 1, None, Silent())
    book._market = market()
    book._follower.follow(market(), [3])
    book.replay([log(A_TOKEN, events.MINT, [who, who], 10**18, 0, RAY) for who in (ANN, BOB, ANN)])
    return book


def balances(book: AaveV3Book) -> dict[Address, list[tuple[int, int, int, bool]]]:
    ledger = book._ledger
    return {name: list(ledger.supplies_and_debts(user)) for name, user in ledger.users.items()}


def test_a_history_read_in_part_is_stored() -> None:
    """Before the first head is reached, and read on after a restart."""
    book, again = half_read(), AaveV3Book("aave", PROVIDER, 1, None, Silent())
    again.restore(book.snapshot())
    assert again.history_from == 8
    again._market = market()
    again._follower.follow(market(), [3])
    for each in (book, again):
        each.replay([log(A_TOKEN, events.BURN, [BOB, BOB], 4, 0, RAY)])
    assert balances(again) == balances(book)
    assert again._ledger.total(slot(3, SUPPLY)) == 3 * 10**18 - 4


def test_doubts_survive_a_restart() -> None:
    """A history that does not add up is looked into by whoever goes on with it."""
    book, again = half_read(), AaveV3Book("aave", PROVIDER, 1, None, Silent())
    book.replay([log(A_TOKEN, events.BURN, [BOB, BOB], 10**20, 0, RAY)])
    again.restore(book.snapshot())
    assert again._follower.suspect


def test_what_is_frozen_stays_as_it_was() -> None:
    """While the book goes on."""
    book, again = half_read(), AaveV3Book("aave", PROVIDER, 1, None, Silent())
    before, frozen = balances(book), book.freeze()
    book.replay([log(A_TOKEN, events.MINT, [who, who], 5, 0, RAY) for who in (BOB, Address("0x" + "0e" * 20))])
    again.restore(frozen())
    assert balances(again) == before != balances(book)


def test_a_refused_book_leaves_the_present_one_alone() -> None:
    """Of another deployment: nothing is forgotten for it."""
    book, other = half_read(), AaveV3Book("aave", ANN, 1, None, Silent())
    other.replay([log(A_TOKEN, events.MINT, [BOB, BOB], 1, 0, RAY)])
    before = balances(book)
    with pytest.raises(BadData, match="another deployment"):
        book.restore(other.snapshot())
    assert balances(book) == before
