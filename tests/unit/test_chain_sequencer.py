"""The sequencer's uptime as a mirror: what the feed's answers mean, and who is told."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode

from keeper.chain.sequencer import SequencerFeed
from keeper.model import Address, Hash, Head, Uptime

pytestmark = pytest.mark.unit

FEED = Address("0x" + "fe" * 20)
HEAD = Head(7, Hash("0x" + "07" * 32), Hash("0x" + "06" * 32), 1_700_000_000, 10**9)
NEXT = Head(8, Hash("0x" + "08" * 32), HEAD.hash, 1_700_000_002, 10**9)
SINCE = 1_699_990_000


def told(status: int, since: int = SINCE) -> bytes:
    """An answer of ``latestRoundData``; `updatedAt` is newer than `startedAt`, as on the OP stack."""
    return encode(["uint80", "int256", "uint256", "uint256", "uint80"], [3, status, since, since + 500, 3])


class Heard:
    """An alerter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        assert name == "sequencer"
        self.told.append((message, severe))


def feed(alerter: Heard | None = None) -> SequencerFeed:
    return SequencerFeed(FEED, 3_600, alerter or Heard())


@pytest.mark.parametrize(
    ("answer", "up", "why"),
    [
        (told(0), True, ""),
        (told(1), False, ""),
        (told(2), None, "says 2"),
        (told(-1), None, "says -1"),
        (told(0, 0), None, "not begun a round"),
        (told(1, 0), None, "not begun a round"),
        (None, None, "does not answer"),
        (b"", None, "cannot be decoded"),
        (told(0)[:-1], None, "cannot be decoded"),
        (b"\xff" * 160, None, "cannot be decoded"),
    ],
)
def test_only_what_the_feed_says_clearly_is_known(answer: bytes | None, up: bool | None, why: str) -> None:
    """0 is up and 1 is down since `startedAt`; a round not begun, a revert and nonsense are unknown, never up."""
    one = feed()
    one.observe(HEAD, [answer])
    found = one.uptime(HEAD)
    assert found.up is up
    assert found.grace == 3_600
    assert why in found.unknown
    if up is not None:
        assert found == Uptime(up=up, since=SINCE, grace=3_600)


def test_what_was_read_holds_for_its_block_only() -> None:
    """Before it is read, at another block and once distrusted nothing is known."""
    one = feed()
    assert one.uptime(HEAD).up is None
    one.observe(HEAD, [told(0)])
    assert one.uptime(HEAD).up
    assert one.uptime(NEXT).up is None
    assert "block 8" in one.uptime(NEXT).unknown
    one.observe(NEXT, [told(1)])
    assert one.uptime(NEXT).up is False
    assert one.uptime(HEAD).up is None
    one.distrust("the audit")
    assert one.uptime(NEXT).up is None


def test_a_person_is_told_of_changes_once() -> None:
    """Up at first is no news; down, unknown and up again are, each once however long they last."""
    alerter = Heard()
    one = feed(alerter)
    for answer in (told(0), told(0), told(1), told(1), None, None, told(0), told(0)):
        one.observe(HEAD, [answer])
    assert [("down" in text, "unknown" in text, "up again" in text, severe) for text, severe in alerter.told] == [
        (True, False, False, True),
        (False, True, False, True),
        (False, False, True, False),
    ]
