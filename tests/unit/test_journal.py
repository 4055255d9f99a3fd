"""What the journal writes: attempts with their states, decisions without repetition, amounts of any size."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from keeper.errors import Halt
from keeper.execution.lane import PRIVATE
from keeper.journal import Journal, attempts, queries
from keeper.journal import breakers as memory
from keeper.journal import decisions as decisions_module
from keeper.journal.attempts import OCCUPYING, TRANSITIONS
from keeper.model import (
    MAX_UINT256,
    Address,
    AttemptState,
    Decision,
    Hash,
    Head,
    Outcome,
    Signed,
    Skip,
    SkipReason,
    TxKind,
    Verdict,
)
from keeper.ops.redact import Redactor
from tests.support.execution_chain import ME, Chain, an_order

pytestmark = pytest.mark.unit

S = AttemptState
ID = "0x" + "01" * 32
HEAD = Chain().head
NATIVE = Address("0x" + "ee" * 20)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    ticks = itertools.count(1_700_000_000)
    opened = await Journal.open(tmp_path / "journal.sqlite3", 1, "live", lambda: next(ticks))
    yield opened
    await opened.close()


def a_tx(nonce: int = 0, kind: TxKind = TxKind.EXECUTE, mark: int = 1) -> Signed:
    return Signed(kind, nonce, Hash(f"0x{mark:064x}"), bytes([mark % 256]), 500_000, 50 * 10**9, 10**9)


def an_outcome(
    state: AttemptState = S.MINED, attempt_id: str = ID, gain: int = 10**17, gas_price: int = 11 * 10**9
) -> Outcome:
    tx_hash, block_hash = Hash("0x" + "01" * 32), Hash("0x" + "bb" * 32)
    return Outcome(attempt_id, state, tx_hash, 105, 400_000, gas_price, gain, block_hash=block_hash)


async def sent(journal: Journal, attempt_id: str = ID, nonce: int = 0) -> None:
    await journal.intend(an_order(HEAD, bytes(20), attempt_id), ME, nonce)
    await journal.signed(attempt_id, a_tx(nonce, mark=int(attempt_id, 16) % 10**9 + nonce))
    await journal.sent(attempt_id, HEAD.number)


async def test_the_life_of_an_attempt(journal: Journal) -> None:
    """Each step is one event with its time, and the attempt carries what the next step needs."""
    await sent(journal)
    (attempt,) = await journal.unsettled()
    assert (attempt.state, attempt.nonce, len(attempt.txs)) == (S.SENT, 0, 1)
    assert attempt.sent_number == HEAD.number
    await journal.record([Verdict(ID, S.MINED, "in block 105", 105, an_outcome())])
    (attempt,) = await journal.unsettled()
    assert (attempt.state, attempt.ended_number, attempt.ended_hash) == (S.MINED, 105, "0x" + "bb" * 32)
    await journal.record([Verdict(ID, S.MINED, "in block 105", 105, an_outcome(), closed=True)])
    assert await journal.unsettled() == []
    events = await journal.ask(lambda db: queries.events(db, ID))
    assert [(event.before, event.after) for event in events] == [
        (None, "intent"),
        ("intent", "signed"),
        ("signed", "sent"),
        ("sent", "mined"),
    ]
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_everything_is_on_disk_before_a_signature_can_be_sent(journal: Journal) -> None:
    """What is committed without fsync is followed by a commit with it, but for the word that something was sent."""
    said: list[str] = []
    await journal.ask(lambda db: db.set_trace_callback(said.append))
    commits: list[tuple[str, bool]] = []

    async def step(name: str, work: Awaitable[object]) -> None:
        said.clear()
        await work
        modes = [text for text in said if "synchronous" in text or text == "COMMIT"]
        assert modes.pop() == "COMMIT"
        commits.append((name, modes == ["PRAGMA synchronous = FULL"]))

    def note(db: sqlite3.Connection, at: int) -> None:
        memory.expose(db, ID, NATIVE, 1, at)

    await step("exposure", journal.change(note, lasting=False))
    await step("intent", journal.intend(an_order(HEAD, bytes(20), ID), ME, 0))
    await step("signature", journal.signed(ID, a_tx()))
    await step("sent", journal.sent(ID, HEAD.number))
    await step("end", journal.record([Verdict(ID, S.DROPPED, "gone", closed=True)]))
    await step("change", journal.change(note))
    lasting = {name for name, synced in commits if synced}
    assert lasting == {"signature", "end", "change"}


async def test_what_is_being_written_is_not_remembered_otherwise(journal: Journal) -> None:
    """Whoever asks while a change is on its way is told of the state after it."""
    assert await journal.unsettled() == []
    writing = asyncio.create_task(journal.intend(an_order(HEAD, bytes(20), ID), ME, 0))
    await asyncio.sleep(0)
    assert [attempt.id for attempt in await journal.unsettled()] == [ID]
    await writing


async def test_what_is_remembered_is_what_is_on_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unsettled attempts are asked for once between changes, also when others ask and write at the same time."""
    dice, known = Random(1), [f"0x{number:064x}" for number in range(1, 9)]

    async def live(nonce: int) -> None:
        await journal.intend(an_order(HEAD, bytes(20), known[nonce]), ME, nonce)
        await asyncio.sleep(dice.random() / 1_000)
        await journal.signed(known[nonce], a_tx(nonce, mark=nonce + 1))
        assert any(attempt.id == known[nonce] and attempt.txs for attempt in await journal.unsettled())
        await journal.sent(known[nonce], HEAD.number)
        if nonce % 2:
            mined = an_outcome(attempt_id=known[nonce])
            await journal.record([Verdict(known[nonce], S.MINED, "in block 105", 105, mined, closed=True)])

    async def watch() -> None:
        for _ in range(40):
            await journal.unsettled()
            await asyncio.sleep(dice.random() / 2_000)

    assert await journal.unsettled() == []
    await asyncio.gather(watch(), watch(), *(live(nonce) for nonce in range(8)))
    assert [attempt.nonce for attempt in await journal.unsettled()] == [0, 2, 4, 6]
    assert await journal.unsettled() == await journal.ask(attempts.unsettled)
    assert await journal.spent(ME) == await journal.ask(lambda db: attempts.spent(db, ME))
    asked: list[object] = []
    monkeypatch.setattr(journal, "ask", asked.append)
    await journal.record_pass(HEAD, [])
    assert len(await journal.unsettled()) == 4
    assert await journal.spent(ME) == 8
    assert not asked


@pytest.mark.parametrize(("before", "after"), list(itertools.product(S, S)))
async def test_only_declared_transitions_are_written(tmp_path: Path, before: S, after: S) -> None:
    """Every pair of states: a declared transition is written, any other is a Halt that changes nothing."""
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live", lambda: 1)
    await journal.intend(an_order(HEAD, bytes(20), ID), ME, 0)
    await journal.ask(lambda db: db.execute("UPDATE attempts SET state = ?", (str(before),)))
    if after is before or after in TRANSITIONS[before]:
        await journal.record([Verdict(ID, after, "")])
        assert (await journal.unsettled())[0].state is after
    else:
        with pytest.raises(Halt, match=f"cannot go from {before} to {after}"):
            await journal.record([Verdict(ID, after, "")])
        assert (await journal.unsettled())[0].state is before
    await journal.close()


async def test_closed_is_closed(journal: Journal) -> None:
    """A closed attempt takes no verdict, no signature and no sending."""
    await sent(journal)
    await journal.record([Verdict(ID, S.DROPPED, "gone", closed=True)])
    for step in (
        journal.record([Verdict(ID, S.SENT, "")]),
        journal.signed(ID, a_tx()),
        journal.sent(ID, 1),
        journal.record([Verdict("0x" + "99" * 32, S.SENT, "")]),
    ):
        with pytest.raises(Halt, match="cannot change"):
            await step


async def test_one_attempt_per_nonce(journal: Journal) -> None:
    """The database itself refuses a second live attempt at a nonce, and takes one after the first gave it up."""
    await sent(journal)
    other = "0x" + "02" * 32
    with pytest.raises(Halt, match="nonce 0"):
        await journal.intend(an_order(HEAD, bytes(20), other), ME, 0)
    await journal.intend(an_order(HEAD, bytes(20), "0x" + "03" * 32), Address("0x" + "55" * 20), 0)  # another key's
    await journal.record([Verdict(ID, S.DROPPED, "")])
    await journal.intend(an_order(HEAD, bytes(20), other), ME, 0)
    # The dropped one is mined after all: in one step the other gives the nonce up and this one has it.
    await journal.record([Verdict(ID, S.MINED, "", 105, an_outcome()), Verdict(other, S.DROPPED, "", 105)])
    states = {row.id: row.state for row in await journal.ask(queries.attempts)}
    assert (states[ID], states[other]) == ("mined", "dropped")


async def test_verdicts_are_all_or_none(journal: Journal) -> None:
    """One impossible verdict undoes the whole step."""
    await sent(journal)
    with pytest.raises(Halt):
        await journal.record([Verdict(ID, S.MINED, "", 105, an_outcome()), Verdict("0x" + "99" * 32, S.SENT, "")])
    assert (await journal.unsettled())[0].state is S.SENT
    assert await journal.ask(lambda db: db.execute("SELECT count(*) FROM outcomes").fetchone()[0]) == 0


async def test_a_replacement_keeps_the_nonce(journal: Journal) -> None:
    """Further transactions of an attempt are kept in order; one with another nonce is a Halt."""
    await sent(journal)
    await journal.signed(ID, a_tx(0, TxKind.CANCEL, 7))
    (attempt,) = await journal.unsettled()
    assert [tx.kind for tx in attempt.txs] == [TxKind.EXECUTE, TxKind.CANCEL]
    assert attempt.raw == b"\x07"
    assert attempt.state is S.SENT
    with pytest.raises(Halt, match="nonce 1 does not belong"):
        await journal.signed(ID, a_tx(1, TxKind.CANCEL, 8))


async def test_a_reorganised_outcome_disappears(journal: Journal) -> None:
    """Back to sent means no outcome; mined again means the new one, once."""
    await sent(journal)
    await journal.record([Verdict(ID, S.MINED, "", 105, an_outcome(gain=5))])
    await journal.record([Verdict(ID, S.SENT, "block 105 was reorganised away")])
    (row,) = await journal.ask(queries.attempts)
    assert (row.state, row.gain) == ("sent", None)
    await journal.record([Verdict(ID, S.MINED, "", 106, an_outcome(gain=6))])
    (row,) = await journal.ask(queries.attempts)
    assert (row.state, row.gain) == ("mined", 6)


async def test_amounts_of_any_size(journal: Journal) -> None:
    """uint256 amounts and negative nets survive unchanged, and leave as decimal strings."""
    order = replace(
        an_order(HEAD, bytes(20), ID), predicted_gain=MAX_UINT256, predicted_net=-MAX_UINT256, predicted_gas=2**64
    )
    await journal.intend(order, ME, 2**53)
    await journal.signed(ID, replace(a_tx(2**53), max_fee=MAX_UINT256))
    await journal.sent(ID, 1)
    await journal.record([Verdict(ID, S.MINED, "", 105, an_outcome(gain=MAX_UINT256 - 1, gas_price=2**200))])
    (row,) = await journal.ask(queries.attempts)
    assert (row.predicted_gain, row.predicted_net, row.gain) == (MAX_UINT256, -MAX_UINT256, MAX_UINT256 - 1)
    assert row.json()["predicted_net"] == str(-MAX_UINT256)
    assert (await journal.unsettled())[0].txs[0].max_fee == MAX_UINT256
    summary = await journal.ask(queries.summary)
    assert summary.gain_error.total == -1
    assert summary.net == MAX_UINT256 - 1 - 400_000 * 2**200


def at(number: int) -> Head:
    return replace(HEAD, number=number)


def skip(borrower: int, reason: SkipReason = SkipReason.UNPROFITABLE, net: int = -5) -> Decision:
    return Decision("market", Address(f"0x{borrower:040x}"), Skip(reason, f"net {net} wei", {"net": net}))


async def rows(journal: Journal) -> list[tuple[str, int, int, int, int]]:
    found = await journal.ask(queries.decisions)
    return sorted((str(r.reason), int(r.borrower, 16), r.first_block, r.last_block, r.passes) for r in found)


async def test_equal_consecutive_skips_share_a_row(journal: Journal) -> None:
    """The file grows with changes, not with blocks; the newest numbers are kept and every pass is counted."""
    for number in range(10, 20):
        await journal.record_pass(at(number), [skip(1, net=-number), skip(2)])
    assert await rows(journal) == [("unprofitable", 1, 10, 19, 10), ("unprofitable", 2, 10, 19, 10)]
    newest = (await journal.ask(lambda db: queries.decisions(db, borrower=f"0x{1:040x}")))[0]
    assert (newest.numbers, newest.detail) == ({"net": -19}, "net -19 wei")
    summary = await journal.ask(queries.summary)
    assert (summary.passes, summary.positions, dict(summary.skips)) == (10, 2, {"unprofitable": 20})
    assert dict(summary.skipped_positions) == {"unprofitable": 2}


async def test_a_new_reason_or_a_gap_starts_a_row(journal: Journal) -> None:
    """Another reason, an attempt in between, or a pass without the position ends the run."""
    await journal.intend(an_order(HEAD, bytes(20), ID), ME, 0)
    await journal.record_pass(at(10), [skip(1)])
    await journal.record_pass(at(11), [skip(1, SkipReason.GAS_CEILING)])
    await journal.record_pass(at(12), [])
    await journal.record_pass(at(13), [skip(1, SkipReason.GAS_CEILING)])
    await journal.record_pass(at(14), [Decision("market", Address(f"0x{1:040x}"), attempt_id=ID)])
    await journal.record_pass(at(15), [skip(1, SkipReason.GAS_CEILING)])
    found = await journal.ask(queries.decisions)
    assert [(r.reason, r.attempt_id, r.first_block) for r in reversed(found)] == [
        ("unprofitable", None, 10),
        ("gas_ceiling", None, 11),
        ("gas_ceiling", None, 13),
        (None, ID, 14),
        ("gas_ceiling", None, 15),
    ]


async def test_a_run_of_skips_survives_a_restart(tmp_path: Path) -> None:
    """The row goes on where the last process left it."""
    path = tmp_path / "journal.sqlite3"
    for number in (10, 11, 12):
        journal = await Journal.open(path, 1, "dry", lambda: 1_700_000_000)
        await journal.record_pass(at(number), [skip(1)])
        await journal.close()
    journal = await Journal.open(path, 1, "dry")
    assert await rows(journal) == [("unprofitable", 1, 10, 12, 3)]
    await journal.close()


async def test_many_unchanged_skips_are_written_now_and_then(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a number of positions, repeats are counted in memory and written every so many passes and at changes."""
    monkeypatch.setattr(decisions_module, "WRITE_AT_ONCE", 3)
    monkeypatch.setattr(decisions_module, "WRITE_EVERY", 4)
    many = [skip(n) for n in range(1, 6)]
    for number in range(10, 13):
        await journal.record_pass(at(number), many)
    assert {row[4] for row in await rows(journal)} == {1}
    await journal.record_pass(at(13), many)
    assert {row[4] for row in await rows(journal)} == {4}
    await journal.record_pass(at(14), many)
    await journal.record_pass(at(15), [skip(1, SkipReason.NO_ROUTE)])
    assert await rows(journal) == [("no_route", 1, 15, 15, 1), *(("unprofitable", n, 10, 14, 5) for n in range(1, 6))]


async def test_each_position_ends_a_pass_once(journal: Journal) -> None:
    """A position decided twice, or neither skipped nor attempted, is refused and nothing of the pass is written."""
    both = replace(skip(1), attempt_id=ID)
    for wrong in ([skip(1), skip(1)], [both], [Decision("market", Address(f"0x{1:040x}"))]):
        with pytest.raises(ValueError, match="exactly once"):
            await journal.record_pass(at(10), wrong)
    assert await rows(journal) == []
    assert (await journal.ask(queries.summary)).passes == 0


async def test_summary_since(journal: Journal) -> None:
    """Counts, totals and errors over everything, and over what is newer than a block or a time."""
    await journal.record_pass(at(10), [skip(1), skip(2, SkipReason.NO_ROUTE)])
    for number, (state, gain) in enumerate([(S.MINED, 10**17 + 7), (S.MINED, 10**17 - 3), (S.REVERTED, 0)]):
        key = f"0x{number + 1:064x}"
        await sent(journal, key, number)
        await journal.record([Verdict(key, state, "", 105, an_outcome(state, key, gain=gain), closed=True)])
    await journal.record_pass(at(11), [skip(1)])
    total = await journal.ask(queries.summary)
    cost = 3 * 400_000 * 11 * 10**9
    assert dict(total.attempts) == {"mined": 2, "reverted": 1}
    assert (total.gain, total.gas_cost, total.net) == (2 * 10**17 + 4, cost, 2 * 10**17 + 4 - cost)
    assert (total.gain_error.count, total.gain_error.total, total.gain_error.mean_absolute) == (2, 4, 5)
    assert total.gain_error.max_absolute == 7
    assert dict(total.skips) == {"unprofitable": 2, "no_route": 1}
    json = total.json()
    assert (json["net"], json["gain_error"]["total"]) == (str(total.net), "4")
    later = await journal.ask(lambda db: queries.summary(db, queries.Since(block=11)))
    assert dict(later.skips) == {"unprofitable": 2}
    assert dict(later.attempts) == {"mined": 2, "reverted": 1}  # simulated on a block above 11
    future = await journal.ask(lambda db: queries.summary(db, queries.Since(at=2 * 10**9)))
    assert (future.passes, future.attempts, future.net) == (0, {}, 0)


async def test_the_index_is_what_the_code_says(journal: Journal) -> None:
    """The states that occupy a nonce are the same in Python and in the schema."""

    def sql(db: sqlite3.Connection) -> str:
        return str(db.execute("SELECT sql FROM sqlite_master WHERE name = 'attempts_one_per_nonce'").fetchone()[0])

    text = await journal.ask(sql)
    assert {state for state in S if f"'{state}'" in text} == OCCUPYING


@pytest.fixture
def contents(tmp_path: Path) -> Callable[[], bytes]:
    """Every byte of every file there."""
    return lambda: b"".join(file.read_bytes() for file in tmp_path.iterdir())


async def test_what_others_say_is_masked(tmp_path: Path, contents: Callable[[], bytes]) -> None:
    """A node that repeats its key in what it says leaves none in the file; what is parsed again stays whole."""
    secret = "key-in-a-url-0123456789"
    path = tmp_path / "masked.sqlite3"
    journal = await Journal.open(path, 1, "live", mask=Redactor([secret]).text)
    terms = f"{PRIVATE} 107 behind 0x{'ab' * 32}"
    for number, (state, said) in enumerate(((S.SIGNED, terms), (S.DROPPED, secret), (S.REVERTED, f"why: {secret}"))):
        key = f"0x{number + 1:064x}"
        await journal.intend(an_order(HEAD, bytes(20), key), ME, number)
        await journal.signed(key, a_tx(number, mark=number))
        outcome = replace(an_outcome(state, key, gain=0), revert=said) if state is S.REVERTED else None
        await journal.record([Verdict(key, state, said, 105, outcome)])
    await journal.record_pass(at(10), [replace(skip(1), skip=Skip(SkipReason.NO_ROUTE, f"says {secret}"))])
    details = [attempt.detail for attempt in await journal.unsettled()]
    await journal.close()
    assert details[0] == terms
    assert secret.encode() not in contents()
