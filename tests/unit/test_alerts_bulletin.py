"""What a person is told of the loop: money, markets, nodes, large positions, and how it all ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keeper.assembly import Assembly
from keeper.bulletin import Bulletin, telling
from keeper.config import Alerts
from keeper.errors import Halt
from keeper.model import WAD, Account, Address, AttemptState, Decision, Hash, Head, Outcome, Skip, SkipReason, Verdict
from keeper.ops.redact import Redactor
from keeper.ports import Book, Status
from keeper.strategy.opportunity import Opportunity

pytestmark = pytest.mark.unit

BORROWER = Address("0x" + "ab" * 20)


def head(number: int) -> Head:
    return Head(number, Hash(f"0x{number:064x}"), Hash(f"0x{number - 1:064x}"), 1_700_000_000, 1)


def alerts(**values: Any) -> Alerts:
    return Alerts.model_validate(values)


class Ear:
    """An alerter that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self.deliver: Any = None

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        self.heard.append((name, message, severe))

    def take(self) -> list[str]:
        names = [name for name, _, _ in self.heard]
        self.heard.clear()
        return names


@dataclass
class Node:
    label: str
    wrong: str = ""
    stale: str = ""
    failures: int = 0


@dataclass
class Market:
    name: str = "aave"
    base_unit: int = 10**8
    status: Status = field(default_factory=lambda: Status(trusted=True))
    near_ones: list[Account] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def near(self, timestamp: int, below: int, size: int, most: int) -> list[Account]:
        self.asked.append((below, size, most))
        return self.near_ones


def outcome(state: AttemptState, gain: int, revert: str | None = None) -> Verdict:
    ended = Outcome("0xa1", state, Hash("0x" + "77" * 32), 12, 100_000, 10**10, gain, revert)
    return Verdict("0xa1", state, "", 12, ended)


def decide(bulletin: Bulletin, attempt: str | None) -> None:
    decision = Decision("aave", BORROWER, None if attempt else Skip(SkipReason.PROFIT_FLOOR, ""), attempt)
    bulletin.decided(cast(Opportunity, None), None, decision, "")


def test_money_is_told_with_its_net() -> None:
    """A mined attempt with net, gain and gas; a reverted one with what it cost and why; nothing on the way there."""
    ear = Ear()
    bulletin = Bulletin(ear, (), alerts(), mode="live")
    decide(bulletin, "0xa1")
    decide(bulletin, None)
    bulletin.settled(Verdict("0xa1", AttemptState.SENT, "put back", 11))
    assert ear.take() == []
    bulletin.settled(outcome(AttemptState.MINED, 10**18))
    name, text, severe = ear.heard[-1]
    assert (name, severe) == ("liquidation_done", False)
    assert "net 0.999000 ETH (gain 1.000000 ETH, gas 0.001000 ETH)" in text
    assert "0xabABabab".lower() in text.lower()
    bulletin.settled(outcome(AttemptState.REVERTED, 0, "lost the race"))
    assert ear.heard[-1][0] == "attempt_failed"
    assert "cost 0.001000 ETH: lost the race" in ear.heard[-1][1]
    bulletin.settled(replace(outcome(AttemptState.MINED, 10**18), outcome=None, closed=True))
    assert len(ear.heard) == 2, "that it is closed is no news"


def test_a_dry_run_is_silent_about_money() -> None:
    """Its attempts are dropped by design."""
    ear = Ear()
    bulletin = Bulletin(ear, (), alerts(), mode="dry")
    decide(bulletin, "0xa1")
    bulletin.settled(Verdict("0xa1", AttemptState.DROPPED, "dry run", 11))
    bulletin.settled(outcome(AttemptState.MINED, 10**18))
    assert ear.heard == []


def test_a_market_that_comes_back_is_told() -> None:
    """Not when it is first synchronised, and once for each time."""
    ear, market = Ear(), Market(status=Status(trusted=False, reason="still being synchronised"))
    bulletin = Bulletin(ear, (), alerts(), mode="live")
    for trusted, told in ((False, []), (True, []), (False, []), (False, []), (True, ["market_back"]), (True, [])):
        market.status = Status(trusted=trusted)
        bulletin.surveyed(cast(Book, market), ())
        assert ear.take() == told


def test_nodes_are_lost_at_the_second_look_and_come_back() -> None:
    """One hiccup is no loss; the last one that is lost is severe, and so is the news that ends that."""
    ear, first, second = Ear(), Node("a.example"), Node("b.example")
    bulletin = Bulletin(ear, (first, second), alerts(), mode="live")

    def look() -> list[tuple[str, bool]]:
        ear.heard.clear()
        bulletin.look_at_nodes()
        return [(name, severe) for name, _, severe in ear.heard]

    assert look() == []
    first.failures = 1
    assert look() == []
    first.failures = 0
    assert look() == []
    first.failures = 2
    assert [look(), look(), look()] == [[], [("node_lost", False)], []]
    second.stale = "its head is old"
    assert look() == []
    assert look() == [("node_lost", True)]
    assert "0 of 2 are left" in ear.heard[0][1]
    first.failures = 0
    assert look() == [("node_back", True)]
    second.stale = ""
    assert look() == [("node_back", False)]


def test_large_positions_are_told_once_when_they_come_near() -> None:
    """Looked for once a minute; a newcomer is told, one that stays is not, one that returns is; off by default."""
    ear, market, now = Ear(), Market(), [0.0]
    table = alerts(near_liquidation_size=100_000)
    bulletin = Bulletin(ear, (), table, mode="dry", clock=lambda: now[0])
    one = Account(BORROWER, WAD * 101 // 100, 2 * 10**13, 15 * 10**12)
    other = replace(one, borrower=Address("0x" + "cd" * 20))

    def look(*near: Account) -> list[str]:
        now[0] += 61
        market.near_ones = list(near)
        bulletin.surveyed(cast(Book, market), ())
        bulletin.passed(head(1))
        return ear.take()

    assert look(one) == ["near_liquidation"]
    assert market.asked == [(102 * 10**16, 100_000 * 10**8, 20)]
    bulletin.passed(head(2))
    assert len(market.asked) == 1, "less than a minute later"
    assert look(one) == []
    now[0] += 61
    market.near_ones = [one, other]
    bulletin.passed(head(3))
    ((_, text, _),) = ear.heard
    assert "at 1.0100 with debt of 150,000" in text
    assert text.count("0x") == 1, "only the newcomer"
    ear.heard.clear()
    assert look() == []
    assert look(one) == ["near_liquidation"]
    market.status = Status(trusted=False)
    asked = len(market.asked)
    assert look() == []
    assert len(market.asked) == asked, "an unknown market is not believed"
    Bulletin(ear, (), alerts(), mode="dry").passed(head(1))
    assert ear.take() == []


@pytest.mark.parametrize(
    ("error", "severe", "text"),
    [
        (None, False, "stopped in good order"),
        (Halt("journal j cannot be written (disk full)"), True, "stopped: journal j cannot be written (disk full)"),
        (RuntimeError("a bug"), True, "stopped because of an error, see the log"),
    ],
)
async def test_how_it_ended_is_told_however_it_ended(error: Exception | None, severe: bool, text: str) -> None:
    """Start and end are told, the end severely when it was none in good order: a journal in trouble above all."""
    ear = Ear()
    parts = SimpleNamespace(
        config=SimpleNamespace(alerts=alerts(), chain=SimpleNamespace(id=1)),
        alerter=ear,
        metrics=SimpleNamespace(notify_errors=SimpleNamespace(inc=lambda: None)),
        mode="live",
        books=[1, 2],
        executor=BORROWER,
        client=SimpleNamespace(pool=SimpleNamespace(endpoints=())),
    )
    caught: Exception | None = None
    try:
        async with telling(cast(Assembly, parts), Redactor()):
            if error is not None:
                raise error
    except (Halt, RuntimeError) as raised:
        caught = raised
    assert caught is error
    assert [name for name, _, _ in ear.heard] == ["started", "stopped"]
    assert ear.heard[-1][1:] == (text, severe)
    assert ear.deliver is not None
