"""Logs a market cannot mean, and logs that are not its own."""

from __future__ import annotations

import pytest

from keeper.errors import BadData
from keeper.maths.wad_ray import RAY
from keeper.model import ZERO_ADDRESS, Address, Block, Hash, Head, Log, Token
from keeper.protocols.aave_v3 import AaveV3Book, events
from keeper.protocols.aave_v3.follower import Follower
from keeper.protocols.aave_v3.health import Valuation
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Market, Reserve, State
from keeper.protocols.aave_v3.rules import RULES
from keeper.rewind import Rewind

pytestmark = pytest.mark.unit

PROVIDER = Address("0x" + "01" * 20)
POOL = Address("0x" + "02" * 20)
CONFIGURATOR = Address("0x" + "03" * 20)
ORACLE = Address("0x" + "04" * 20)
ASSET = Address("0x" + "05" * 20)
A_TOKEN = Address("0x" + "06" * 20)
V_TOKEN = Address("0x" + "07" * 20)
ANN = Address("0x" + "0a" * 20)
BOB = Address("0x" + "0b" * 20)
STRANGER = Address("0x" + "0c" * 20)
CONFIG = 8_000 << 16 | 10_500 << 32 | 18 << 48 | 1 << 56


class Silent:
    """An alerter nobody listens to."""

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        """Nothing."""


def market(revision: int = 10) -> Market:
    reserve = Reserve(3, Token(ASSET, "T", 18), A_TOKEN, V_TOKEN, None, CONFIG, 0, 0)
    return Market(POOL, CONFIGURATOR, ORACLE, None, revision, RULES[revision], 5, 10**8, {3: reserve}, {}, {ASSET: 3})


def follower(revision: int = 10) -> tuple[Follower, Ledger]:
    rewind = Rewind()
    ledger = Ledger(rewind)
    found = Follower(ledger, rewind, PROVIDER)
    found.follow(market(revision), [3])
    return found, ledger


def word(value: str | int) -> str:
    return f"0x{int(value, 16) if isinstance(value, str) else value:064x}"


def log(where: Address, topic: str, indexed: list[str | int], *values: int) -> Log:
    data = b"".join(value.to_bytes(32, "big") for value in values)
    return Log(where, (topic, *map(word, indexed)), data, 7, 0, Hash("0x" + "77" * 32))


def test_a_reserve_that_a_node_forgets_is_bad_data_and_no_bug() -> None:
    """Followed and not listed, or listed and never read: the book is unknown, the keeper lives."""
    found, _ = follower()
    with pytest.raises(BadData, match="does not list reserve 4 any more"):
        found.follow(market(), [3, 4])
    valuation = Valuation(market(), {}, {ASSET: 10**8}, 1_000)
    with pytest.raises(BadData, match="reserve 3 is listed"):
        valuation.health([(3, DEBT, 10**18, False)], 0)
    with pytest.raises(BadData, match="reserve 3 is listed"):
        valuation.factors([])


def test_what_others_emit_is_ignored() -> None:
    """The same event from another address, as a shared log filter brings it, changes nothing."""
    found, ledger = follower()
    found.take(log(STRANGER, events.MINT, [ANN, ANN], 10, 0, RAY), 1_000)
    found.take(log(STRANGER, events.EMODE_SET, [ANN], 1), 1_000)
    found.take(log(ORACLE, events.MINT, [ANN, ANN], 10, 0, RAY), 1_000)
    assert ledger.counts == [0, 0]
    assert not found.governed


def test_a_balance_below_zero_is_refused_live() -> None:
    """Burning or sending what was never had means that logs are missing."""
    found, _ = follower()
    found.take(log(A_TOKEN, events.MINT, [ANN, ANN], 10, 0, RAY), 1_000)
    for bad in (
        log(A_TOKEN, events.BURN, [ANN, ANN], 11, 0, RAY),
        log(A_TOKEN, events.TRANSFER, [ANN, BOB], 11, RAY),
        log(V_TOKEN, events.BURN, [ANN, ANN], 1, 0, RAY),
    ):
        with pytest.raises(BadData, match="missing or were misread"):
            found.take(bad, 1_000)


def test_a_balance_below_zero_in_the_history_is_read_later() -> None:
    """Old code may have written its events differently: the balances are then read instead."""
    found, ledger = follower(1)
    found.take(log(A_TOKEN, events.BURN, [ANN, ANN], 11, 0, RAY), None)
    assert found.suspect
    assert [ledger.amount[e] for e in ledger.chain(ledger.users[ANN])] == [0]


def test_an_upgrade_makes_balances_suspect_only_when_there_are_some() -> None:
    """The first implementation of a proxy is no upgrade of anything."""
    found, _ = follower()
    found.take(log(POOL, events.UPGRADED, [STRANGER]), None)
    assert found.governed
    assert not found.suspect
    found.take(log(A_TOKEN, events.MINT, [ANN, ANN], 10, 0, RAY), None)
    found.take(log(V_TOKEN, events.UPGRADED, [STRANGER]), None)
    assert found.suspect


@pytest.mark.parametrize(
    "bad",
    [
        log(A_TOKEN, events.MINT, [ANN, ANN], 10, 0),
        log(A_TOKEN, events.MINT, [ANN], 10, 0, RAY),
        log(A_TOKEN, events.TRANSFER, [ANN, BOB], 1),
        log(POOL, events.RESERVE_DATA, [ASSET], 1, 2, 3, 4),
        log(POOL, events.COLLATERAL_ON, [ASSET]),
        log(POOL, events.EMODE_SET, [ANN]),
        log(POOL, events.LIQUIDATION, [ASSET, ASSET, ANN], 1, 2, 3),
    ],
)
def test_a_log_of_another_shape_is_refused(bad: Log) -> None:
    """Events of the market's own contracts that have too few words are not understood."""
    found, _ = follower()
    with pytest.raises(BadData):
        found.take(bad, 1_000)


def test_an_aave_transfer_moves_scaled_units() -> None:
    """BalanceTransfer names scaled amounts: they move as they are, also to oneself."""
    found, ledger = follower()
    found.take(log(A_TOKEN, events.MINT, [ANN, ANN], 150, 0, RAY * 3 // 2), 1_000)
    found.take(log(A_TOKEN, events.TRANSFER, [ANN, BOB], 40, RAY * 3 // 2), 1_000)
    found.take(log(A_TOKEN, events.TRANSFER, [BOB, BOB], 15, RAY * 3 // 2), 1_000)
    amounts = {name: [ledger.amount[e] for e in ledger.chain(n)] for name, n in ledger.users.items()}
    assert amounts == {ANN: [60], BOB: [40]}
    assert ledger.total(slot(3, SUPPLY)) == 100
    assert ledger.total(slot(3, DEBT)) == 0


def test_reserve_data_of_the_past_does_not_replace_newer() -> None:
    """State read at a later head stays when an older block's logs come in."""
    found, _ = follower()
    found.states[3] = State(2 * RAY, 0, 2 * RAY, 0, 5_000)
    found.take(log(POOL, events.RESERVE_DATA, [ASSET], 1, 2, 3, RAY, RAY), 4_000)
    assert found.states[3].updated == 5_000
    found.take(log(POOL, events.RESERVE_DATA, [ASSET], 1, 2, 3, RAY, RAY), 6_000)
    assert found.states[3] == State(RAY, 1, RAY, 3, 6_000)


def test_flags_of_unlisted_reserves_are_ignored() -> None:
    """The pool skips them too."""
    found, ledger = follower()
    found.take(log(POOL, events.COLLATERAL_ON, [STRANGER, ANN]), 1_000)
    assert ledger.counts == [0, 0]
    found.take(log(POOL, events.COLLATERAL_ON, [ASSET, ANN]), 1_000)
    assert list(ledger.supplies_and_debts(0)) == [(3, SUPPLY, 0, True)]


def test_a_book_that_knows_nothing_decides_nothing() -> None:
    """Before first contact there is nobody, nothing to read, and no trust."""
    book = AaveV3Book("aave", PROVIDER, 100, None, Silent())
    assert not book.status.trusted
    assert book.dirty
    assert book.history_from == 100
    assert book.screen(1) == []
    assert list(book.accounts(1)) == []
    assert book.account(ANN, 1) is None
    assert book.position(ANN, 1) is None
    assert book.reads() == ()
    assert book.tokens() == ()
    assert book.watch().addresses == {PROVIDER}
    with pytest.raises(BadData, match="not loaded"):
        book.market  # noqa: B018 - the access raises
    with pytest.raises(BadData, match="nothing to store"):
        book.snapshot()
    with pytest.raises(BadData):
        book.restore(b"not a book")


def test_blocks_come_in_order() -> None:
    """A block that is not newer than the last is a mistake of the caller, not state."""
    book = AaveV3Book("aave", PROVIDER, 100, None, Silent())
    head = Head(101, Hash("0x01"), Hash("0x00"), 1_000, 0)
    book.apply(Block(head, ()))
    with pytest.raises(BadData, match="at block 101"):
        book.apply(Block(head, ()))
    book.rewind(100)
    book.apply(Block(head, ()))
    with pytest.raises(BadData, match="cannot step back"):
        book.rewind(50)
    assert book.history_from == 102
    assert ZERO_ADDRESS not in book.watch().addresses
