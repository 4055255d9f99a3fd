"""What a revert asks for: its class, the cooldown that follows, and the quarantine."""

from __future__ import annotations

import inspect

import pytest

from keeper.execution import reasons
from keeper.execution.reverts import CLASSES
from keeper.model import Address, AttemptState, Verdict
from keeper.strategy.cooldown import Cooldowns, Hold
from keeper.strategy.failures import OVERTAKEN, Failure, classifier, innermost

pytestmark = pytest.mark.unit

MARKET, BORROWER, OTHER = "aave", Address("0x" + "ab" * 20), Address("0x" + "cd" * 20)
WAD = 10**18
CLASSIFY = classifier(CLASSES)
TOKEN = "0x" + "11" * 20


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("Gone()", Failure.LOST_RACE),
        ("Expired()", Failure.LOST_RACE),
        (f"{OVERTAKEN}: it would have succeeded on the state before", Failure.LOST_RACE),
        ("step 0: step 2: MustNotLeaveDust() [Aave 103]", Failure.LOST_RACE),
        ("step 1: HealthFactorNotBelowThreshold() [Aave 45]", Failure.NOT_LIQUIDATABLE),
        ("step 1: HealthFactorNotBelowThreshold()", Failure.NOT_LIQUIDATABLE),
        ("GainTooLow(5, 10)", Failure.NO_LIQUIDITY),
        (f"step 3: BalanceTooLow({TOKEN}, 1, 2)", Failure.NO_LIQUIDITY),
        ("step 0: step 1: 'UniswapV2: INSUFFICIENT_LIQUIDITY'", Failure.NO_LIQUIDITY),
        (f"step 4: TokenRefused({TOKEN}): ERC20InsufficientBalance({TOKEN}, 1, 2)", Failure.NO_LIQUIDITY),
        ("NotOperator()", Failure.BUG),
        ("step 0: panic 0x11 (arithmetic overflow)", Failure.BUG),
        ("unknown error 0x12345678 (4 bytes)", Failure.BUG),
        ("reverted without a reason", Failure.BUG),
        ("reverted, and no node can say why, asked for 8 blocks", Failure.BUG),
        ("step 1: 'Gone'", Failure.BUG),
        ("", Failure.BUG),
    ],
)
def test_every_reason_has_one_class(reason: str, failure: Failure) -> None:
    """Decoded reasons, however deep, land in the class of their innermost error; the unknown is a bug."""
    assert CLASSIFY(reason) is failure


def test_the_text_of_an_overtaken_attempt_is_the_trackers() -> None:
    """The one reason that is recognised by its words is what the tracker really says."""
    assert OVERTAKEN in inspect.getsource(reasons)


def test_foreign_names_come_from_data_with_classes_that_exist() -> None:
    """Every class in errors.json is one of the four, and a misspelt one is refused."""
    assert set(CLASSES.values()) <= set(Failure)
    with pytest.raises(ValueError, match="lost_rice"):
        classifier({"Gone": "lost_rice"})
    assert innermost("step 12: step 0: 'step 1: b (c)'") == "'step 1: b (c)'"


def failed(reason: str, state: AttemptState = AttemptState.REVERTED) -> Cooldowns:
    cooldowns = Cooldowns(60, CLASSIFY)
    cooldowns.sent("0x1", MARKET, BORROWER, WAD * 95 // 100)
    cooldowns.ended(Verdict("0x1", state, reason), 1_000)
    return cooldowns


def test_a_lost_race_has_no_cooldown() -> None:
    """Who was second may try what is left at once."""
    assert failed("Gone()").hold(MARKET, BORROWER, WAD * 95 // 100) is None


def test_not_liquidatable_waits_for_a_price_and_not_for_interest() -> None:
    """There is no end in time; a health worse by more than a basis point ends it, interest does not."""
    cooldowns = failed("HealthFactorNotBelowThreshold()")
    then = WAD * 95 // 100
    edge = then * 9_999 // 10_000
    for health in (then + 1, then, edge):
        hold = cooldowns.hold(MARKET, BORROWER, health)
        assert hold is not None
        assert hold.until is None
    assert cooldowns.hold(MARKET, BORROWER, edge - 1) is None


@pytest.mark.parametrize("state", [AttemptState.REVERTED, AttemptState.DROPPED, AttemptState.CANCELLED])
def test_no_liquidity_and_unsent_wait_a_while(state: AttemptState) -> None:
    """The configured time from the outcome on, or until the health worsens."""
    cooldowns = failed("GainTooLow(1, 2)", state)
    hold = cooldowns.hold(MARKET, BORROWER, WAD * 95 // 100)
    assert isinstance(hold, Hold)
    assert hold.until == 1_060
    assert cooldowns.hold(MARKET, BORROWER, WAD * 90 // 100) is None
    assert cooldowns.hold(MARKET, OTHER, WAD * 95 // 100) is None


def test_a_clock_put_back_does_not_hold_a_position_for_a_year() -> None:
    """Begun while the clock was wrong by a year, over when it is mended; at the very edge it still holds."""
    health = WAD * 95 // 100
    cooldowns = failed("GainTooLow(1, 2)")  # until 1_060
    assert cooldowns.hold(MARKET, BORROWER, health, 1_000) is not None
    assert cooldowns.hold(MARKET, BORROWER, health, 999) is None
    for _ in range(3):
        cooldowns.unproved(MARKET, OTHER, health, "x", 10**9)
    assert cooldowns.hold(MARKET, OTHER, health, 10**9) is not None
    assert cooldowns.hold(MARKET, OTHER, health, 10**9 - 31_536_000) is None


def test_a_reorganised_outcome_takes_its_cooldown_along() -> None:
    """When the revert is undone, or the attempt mined in the end, nothing holds the position back."""
    for state in (AttemptState.SENT, AttemptState.MINED):
        cooldowns = failed("GainTooLow(1, 2)")
        cooldowns.ended(Verdict("0x1", state, ""), 1_010)
        assert cooldowns.hold(MARKET, BORROWER, WAD * 95 // 100) is None


def test_a_quarantine_lasts_until_a_person_lifts_it() -> None:
    """Neither time nor a worse health ends it; only its own borrower is released."""
    cooldowns = failed("panic 0x11 (arithmetic overflow)")
    cooldowns.quarantine(MARKET, BORROWER, "panic")
    cooldowns.quarantine(MARKET, OTHER, "panic too")
    hold = cooldowns.hold(MARKET, BORROWER, WAD // 2)
    assert hold is not None
    assert hold.until is None
    assert "keeper resume" in hold.why
    assert cooldowns.release([BORROWER]) == [(MARKET, BORROWER)]
    assert cooldowns.hold(MARKET, BORROWER, WAD * 95 // 100) is None
    assert cooldowns.hold(MARKET, OTHER, WAD // 2) is not None
    assert cooldowns.release() == [(MARKET, OTHER)]
    assert cooldowns.release() == []


def test_simulations_that_fail_in_a_row_are_tried_less_and_less_often() -> None:
    """The first failure costs nothing, the second a block, each further one twice as much, up to the cooldown."""
    cooldowns, health = Cooldowns(60, CLASSIFY, block_time=12), WAD * 95 // 100
    waits = []
    for turn in range(6):
        cooldowns.unproved(MARKET, BORROWER, health, "GainTooLow(1, 2)", 1_000 * turn)
        hold = cooldowns.hold(MARKET, BORROWER, health)
        assert hold is not None
        assert hold.until is not None
        assert hold.why == f"{turn + 1} simulation(s) failed in a row: GainTooLow(1, 2)"
        waits.append(hold.until - 1_000 * turn)
    assert waits == [0, 12, 24, 48, 60, 60]
    assert cooldowns.hold(MARKET, OTHER, health) is None


def test_failed_simulations_are_forgotten_when_the_position_changes() -> None:
    """A worse health, a transaction that went out, or a person's release begins anew."""
    health = WAD * 95 // 100

    def doubted() -> Cooldowns:
        cooldowns = Cooldowns(60, CLASSIFY)
        for now in (1_000, 1_012):
            cooldowns.unproved(MARKET, BORROWER, health, "paused", now)
        return cooldowns

    worse = doubted()
    assert worse.hold(MARKET, BORROWER, health * 9_998 // 10_000) is None
    worse.unproved(MARKET, BORROWER, health * 9_998 // 10_000, "paused", 1_024)
    assert worse.hold(MARKET, BORROWER, health * 9_998 // 10_000) == Hold(
        1_024, "1 simulation(s) failed in a row: paused"
    )
    sent = doubted()
    sent.sent("0x2", MARKET, BORROWER, health)
    assert sent.hold(MARKET, BORROWER, health) is None
    released = doubted()
    released.quarantine(MARKET, BORROWER, "bug")
    released.release([BORROWER])
    assert released.hold(MARKET, BORROWER, health) is None
