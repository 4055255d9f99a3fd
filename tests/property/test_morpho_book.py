"""A Morpho book under made-up lives: undone blocks, storage, and the screen against the exact health of everybody."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from keeper.errors import BadData
from keeper.maths.wad_ray import WAD
from keeper.model import MAX_UINT256, Block
from keeper.protocols.morpho_blue import MorphoBlueBook, screen
from keeper.protocols.morpho_blue.events import MORPHO
from keeper.protocols.morpho_blue.irm import LEAST, MOST, Kind, adaptive_rate
from keeper.protocols.morpho_blue.ledger import SHARES_OF_SLACK
from keeper.protocols.morpho_blue.market import State
from tests.support.morpho_logs import IRM, STRANGE, Life, acquaint, new_book, topic, word

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "78"))


def contents(book: MorphoBlueBook) -> dict[str, Any]:
    """Everything exact; entries that say nothing are left out."""
    registry, ledger = book._registry, book._ledger
    positions = {}
    for entry in range(ledger.counts[1]):
        amounts = (ledger.supply[entry], ledger.borrow[entry], ledger.collateral[entry])
        if any(amounts):
            positions[registry.params[ledger.market[entry]].id, ledger.name(entry)] = amounts
    low = (1 << 32) - 1
    return {
        "positions": positions,
        "markets": {p.id: (p, registry.states[n], registry.targets.get(n)) for n, p in registry.params.items()},
        "allowed": {(ledger.names[key >> 32], ledger.names[key & low]) for key in ledger.allowed},
        "contracts": dict(book._follower.contracts),
        "recipient": dict(book._follower.recipient),
        "pledged": {registry.params[n].id: amount for n, amount in ledger.pledged.items() if amount},
    }


def check_derived(book: MorphoBlueBook) -> None:
    """What the screen looks at is what it must be."""
    ledger, markets = book._ledger, len(book._registry)
    tops, exposed, debtors = [0.0] * markets, [0] * markets, 0
    for entry in range(ledger.counts[1]):
        shares, amount = ledger.borrow[entry], ledger.collateral[entry]
        ratio = (shares + SHARES_OF_SLACK) / amount if shares and amount else 0.0
        assert float(ledger.ratio.data[entry]) == pytest.approx(ratio, rel=1e-12)
        tops[ledger.market[entry]] = max(tops[ledger.market[entry]], float(ledger.ratio.data[entry]))
        exposed[ledger.market[entry]] += ratio > 0
        debtors += shares > 0
    assert ledger.tops(markets).tolist() == tops
    assert ledger.exposed.live(markets).tolist() == exposed
    assert book.borrower_count == debtors
    assert book.exposed() == tuple(number for number, count in enumerate(exposed) if count)


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_what_is_undone_was_never_there(seed: int) -> None:
    """After any steps back the book is what a new one makes of the blocks that are left; so is a stored one."""
    print(f"KEEPER_SEED={seed}")
    book = new_book(undo_depth=400)
    life = Life(book, seed, 25)
    acquaint(book, life)
    blocks: list[Block] = []
    rng = random.Random(seed)
    frozen, then = book.freeze(), contents(book)
    for turn in range(260):
        for _ in range(rng.choice((0, 1, 1))):
            life.act()
        blocks.append(life.block(fork=turn % 7))
        book.apply(blocks[-1])
        if rng.random() < 0.06:
            back = rng.randrange(1, min(len(blocks), 30) + 1)
            blocks = blocks[:-back] or blocks[:1]
            life.number = blocks[-1].head.number + 1
            book.rewind(blocks[-1].head.number)
        if turn % 20 == 10:
            frozen, then = book.freeze(), contents(book)
        if turn % 20 == 19:
            fresh = new_book()
            acquaint(fresh, life)
            for block in blocks:
                fresh.apply(block)
            assert contents(book) == contents(fresh)
            check_derived(book)
            stored = new_book()
            stored.restore(frozen())
            assert contents(stored) == then
            stored.restore(book.snapshot())
            assert contents(stored) == contents(fresh)
            check_derived(stored)
    assert len(contents(book)["positions"]) > 2
    with pytest.raises(BadData, match="undo records end"):
        book.rewind(1)


def test_a_damaged_snapshot_is_refused() -> None:
    """Any changed byte, a foreign book, other factories: BadData, and the book is as it was."""
    book = new_book()
    life = Life(book, SEED, 10)
    acquaint(book, life)
    for _ in range(60):
        life.act()
        book.apply(life.block())
    data = book.snapshot()
    before = contents(book)
    rng = random.Random(SEED)
    for _ in range(40):
        broken = bytearray(data)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        with pytest.raises(BadData):
            book.restore(bytes(broken))
    other = MorphoBlueBook("morpho", IRM, 1, None, book._alerter)
    with pytest.raises(BadData, match="another deployment"):
        other.restore(data)
    plain = MorphoBlueBook("morpho", book.address, 1, None, book._alerter)
    with pytest.raises(BadData, match="factories"):
        plain.restore(data)
    assert contents(book) == before


def test_logs_that_do_not_add_up_are_refused() -> None:
    """More withdrawn than there was, an unknown market, a log of another shape: BadData."""
    for name, topics, data in (
        ("WithdrawCollateral", 2, word(1, 10**30)),
        ("Withdraw", 2, word(1, 1, 10**40)),
        ("Repay", 2, word(1, 10**40)),
        ("SupplyCollateral", 2, word(1) + b"\0"),
        ("SupplyCollateral", 1, word(1)),
        ("Liquidate", 2, word(0, 0, 10**40, 0, 0)),
    ):
        book = new_book()
        life = Life(book, SEED, 3)
        acquaint(book, life)
        market = life.create()
        book.apply(life.block())
        life.emit(MORPHO.topic(name), [market, *("0x" + "00" * 32,) * topics], data)
        with pytest.raises(BadData):
            book.apply(life.block())
    life.emit(MORPHO.topic("SupplyCollateral"), ["0x" + "ab" * 32, *("0x" + "00" * 32,) * 2], word(1))
    with pytest.raises(BadData, match="start_block"):
        new_book().apply(life.block())


@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
def test_the_screen_never_lets_anybody_slip(seed: int) -> None:
    """Whoever is exactly liquidatable is screened, over all rate models and times, with prices at the very edge."""
    rng = random.Random(seed)
    book = new_book()
    life = Life(book, seed, 80)
    acquaint(book, life)
    for _ in range(900):
        life.act()
        book.apply(life.block())
    registry, ledger = book._registry, book._ledger
    for number in range(len(registry)):
        state, dust = registry.states[number], rng.random() < 0.2
        supplied = max(state.supply_assets, state.borrow_assets * rng.randrange(100, 300) // 100)
        shares = state.borrow_shares // 10**5 if dust else state.borrow_shares
        registry.set_state(
            number,
            replace(state, supply_assets=supplied, borrow_shares=shares, updated=life.timestamp - rng.randrange(10**7)),
        )
        registry.set_target(number, rng.choice((LEAST, MOST, rng.randrange(LEAST, MOST))))
    head = life.head(life.number)
    screened = exact = 0
    for later in (0, 12, 3_600, 86_400, 10**6, 3 * 10**7):
        timestamp = head.timestamp + later
        prices: dict[str, int] = {}
        book.observe(head, [word(10**9)] * len(book.reads()))
        for number in book.exposed():
            members = [e for e in ledger.members(number).tolist() if ledger.borrow[e] and ledger.collateral[e]]
            chosen = rng.choice(members)
            state_ = book._accrue(number, timestamp)
            assert state_ is not None
            shares, held = ledger.borrow[chosen], ledger.collateral[chosen]
            owed = -(-shares * (state_[0].borrow_assets + 1) // (state_[0].borrow_shares + 10**6))
            edge = owed * WAD * 10**36 // (held * registry.params[number].lltv)
            prices[registry.params[number].oracle] = max(edge + rng.randrange(-2, 3), 1)
        answers = [word(prices.get(read.to, 10**9)) for read in book.reads()]
        book.observe(head, answers)
        names = set(book.screen(timestamp))
        # Debt without collateral cannot come about on the chain, and there would be nothing to seize.
        seizable = {book._handle(e) for e in ledger.with_debt().tolist() if ledger.collateral[e]}
        weak = {a.handle for a in book.accounts(timestamp) if a.health_factor < WAD} & seizable
        assert weak <= names
        screened, exact = screened + len(names), exact + len(weak)
        near = book.near(timestamp, 12 * WAD // 10, 0, 10_000)
        wanted = {a.handle for a in book.accounts(timestamp) if WAD <= a.health_factor < 12 * WAD // 10}
        assert {a.handle for a in near} == wanted
        assert [a.debt_value for a in near] == sorted((a.debt_value for a in near), reverse=True)
    assert exact > 20
    assert screened < exact * 2 + 200


@pytest.mark.parametrize("stride", [1, 4, 1 << 40])
def test_looking_up_and_reading_on_find_the_same(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Market by market or all positions in one go: exactly the positions that are not below their market's line."""
    monkeypatch.setattr(screen, "_STRIDE", stride)
    dice = random.Random(SEED + 9)
    book = new_book()
    life = Life(book, SEED + 9, 40)
    acquaint(book, life)
    for _ in range(300):
        life.act()
        book.apply(life.block())
    ledger, markets = book._ledger, len(book._registry)
    seen = 0
    for share in (0.0, 0.1, 0.3, 1.0):
        for _ in range(60):
            levels = np.array([t * dice.random() for t in ledger.tops(markets).tolist()])
            levels[[dice.random() >= share for _ in range(markets)]] = np.inf
            levels[dice.randrange(markets)] = np.nan  # a market of which nothing is known
            expected = [
                entry
                for entry in range(ledger.counts[1])
                if ledger.ratio.data[entry] > 0 and ledger.ratio.data[entry] >= levels[ledger.market[entry]]
            ]
            assert screen.above(ledger, levels) == expected
            seen += len(expected)
    assert seen > 200


def test_quiet_markets_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody is near the line no position is looked at, block after block, however many there are."""
    book = new_book()
    life = Life(book, SEED, 60)
    acquaint(book, life)
    for _ in range(500):
        life.act()
        book.apply(life.block())
    registry, ledger = book._registry, book._ledger
    for number in range(len(registry)):
        registry.set_state(number, replace(registry.states[number], updated=life.timestamp))
    head = life.head(life.number)
    book.observe(head, [word((1 << 190) if len(read.data) == 4 else 10**9) for read in book.reads()])
    assert book.screen(head.timestamp) == []

    def looked(market: int) -> None:
        raise AssertionError(f"market {market} was looked into")

    monkeypatch.setattr(ledger, "members", looked)
    for _ in range(20):
        user, number = life.users[0], next(iter(book.exposed()))
        life.emit(MORPHO.topic("SupplyCollateral"), [registry.params[number].id, *(topic(user),) * 2], word(10**6))
        book.apply(life.block())
        head = life.head(life.number)
        assert book.screen(head.timestamp) == []


def test_a_market_without_an_answer_is_unknown_alone() -> None:
    """A price or a rate that did not come takes its own market out of everything, and is told once."""
    book = new_book()
    life = Life(book, SEED + 5, 30)
    acquaint(book, life)
    for model in (IRM, STRANGE):
        life.create(model)
    book.apply(life.block())
    for _ in range(300):
        life.act()
        book.apply(life.block())
    head = life.head(life.number)
    registry = book._registry
    for number in range(len(registry)):
        registry.set_state(number, replace(registry.states[number], updated=life.timestamp))
    book.observe(head, [word(10**9)] * len(book.reads()))
    everybody = {a.handle for a in book.accounts(head.timestamp)}
    asked = [n for n in book.exposed() if registry.kind(n) is Kind.ASKED]
    silent = {next(n for n in book.exposed() if n not in asked), asked[0]}
    answers: list[bytes | None] = []
    for read in book.reads():
        oracle = any(registry.params[n].oracle == read.to for n in silent - set(asked))
        answers.append(None if oracle else word(10**9))
    rates = [read for read in book.reads() if len(read.data) > 4]
    answers[book.reads().index(rates[0])] = None
    book.observe(head, answers)
    places = {registry.params[n].place for n in silent}
    assert {registry.params[n].place for n in book.unknown_markets()} == places
    assert {a.handle for a in book.accounts(head.timestamp)} == {
        h for h in everybody if h.partition("/")[2] not in places
    }
    told = [message for name, message in book._alerter.seen if name == "price_unknown"]  # type: ignore[attr-defined]
    assert len(told) == 1
    book.observe(head, answers)
    assert [name for name, _ in book._alerter.seen].count("price_unknown") == 1  # type: ignore[attr-defined]
    assert book.status.trusted


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_the_floats_of_a_rate_are_never_below_the_contracts(seed: int) -> None:
    """`screen.debt_per_share` against exact accruals: never less, and more by less than its margins say."""
    rng = random.Random(seed)
    book = new_book()
    life = Life(book, seed, 2)
    acquaint(book, life)
    for _ in range(200):
        life.create()
    book.apply(life.block())
    registry, now = book._registry, life.timestamp
    for number in range(200):
        supply = rng.randrange(10**6, 10**26)
        borrow = min(supply, supply * rng.randrange(0, 1_001) // 1_000)
        state = State(supply, supply * 10**6, borrow, borrow * 10**6, now - rng.choice((0, 12, 10**4, 10**6, 10**8)), 0)
        registry.set_state(number, state)
        registry.set_target(number, rng.choice((0, LEAST, MOST, rng.randrange(LEAST, MOST))))
    book.observe(life.head(life.number), [])
    floats = screen.debt_per_share(registry, book._views, now).tolist()
    for number in range(200):
        state = registry.states[number]
        rate = adaptive_rate(state, registry.targets[number], now)
        assert 0 <= rate.average < MAX_UINT256
        found = book._accrue(number, now)
        assert found is not None
        exact = (found[0].borrow_assets + 1) / (found[0].borrow_shares + 10**6)
        assert exact * (1 - 1e-12) <= floats[number]
        assert floats[number] <= max(exact * 1.02, 1e-6)
