"""Positions left alone after an attempt that failed, by what the failure asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keeper.model import Address, AttemptState, Verdict
from keeper.strategy.failures import UNEXPLAINED, Classify, Failure, classifier

_Key = tuple[str, Address]  # market, borrower

# Interest alone moves a health factor by far less than this in the hours a position may wait; a price moves it by more.
WORSE_BPS = 1
BPS = 10_000
FREE = 2  # simulations of a position that may fail in a row before it waits
REMEMBERED = 10_000  # positions whose simulations failed


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a position is left alone. `until` in Unix seconds; None: until its health worsens or a person has looked."""

    until: int | None
    why: str


@dataclass(frozen=True, slots=True)
class _Pause:
    until: int | None
    why: str
    health_factor: int  # wad, when the failed attempt was planned
    failures: int = 1  # simulations that failed in a row


class Cooldowns:
    """A cooldown starts with an outcome, never with an attempt, and ends early when the position is worse than it was.

    - lost race: none;
    - not liquidatable yet: until its health worsens;
    - no liquidity, dropped, cancelled: `seconds`, or until its health worsens;
    - bug: quarantine until `release`, whatever its health does;
    - simulations that fail one after the other: a block, then twice as long each time, up to `seconds`;
    - not explained yet: until it is, whatever its health does.

    Only quarantines are given back after a restart (by the journal): the journal's open attempts bar their positions.
    """

    def __init__(self, seconds: int, classify: Classify | None = None, *, block_time: int = 12) -> None:
        """Without `classify` only the executor's own errors are told apart; `block_time` in seconds."""
        self._seconds = seconds
        self._block_time = block_time
        self._classify = classify or classifier({})
        self._sent: dict[str, dict[_Key, int]] = {}  # attempt -> positions and their health
        self._pauses: dict[_Key, _Pause] = {}
        self._unproved: dict[_Key, _Pause] = {}  # by failed simulations
        self._quarantined: dict[_Key, str] = {}
        self._doubtful: set[_Key] = set()

    def sent(self, attempt_id: str, market: str, borrower: Address, health_factor: int) -> None:
        """An attempt has gone out for a position of this health."""
        self._sent.setdefault(attempt_id, {})[market, borrower] = health_factor
        self._unproved.pop((market, borrower), None)

    def unproved(self, market: str, borrower: Address, health_factor: int, why: str, now: int) -> None:
        """The node would not run the plan for a position of this health, for the reason `why`."""
        before = self._unproved.pop((market, borrower), None)
        failures = 1 if before is None or _worse(before, health_factor) else before.failures + 1
        wait = min(self._block_time << min(failures - FREE, 32), self._seconds) if failures >= FREE else 0
        text = f"{failures} simulation(s) failed in a row: {why}"
        self._unproved[market, borrower] = _Pause(now + wait, text, health_factor, failures)
        while len(self._unproved) > REMEMBERED:
            del self._unproved[next(iter(self._unproved))]

    def ended(self, verdict: Verdict, now: int) -> None:
        """An attempt has ended, or is undecided again after a reorganisation."""
        known = self._sent.get(verdict.attempt_id)
        if known is None:
            return
        for key, health_factor in known.items():
            pause = self._after(verdict, now, health_factor)
            if pause is None:
                self._pauses.pop(key, None)
            else:
                self._pauses[key] = pause
        if verdict.closed:
            del self._sent[verdict.attempt_id]

    def failure(self, verdict: Verdict) -> Failure | None:
        """The class of a reverted attempt; None for any other end, and while nobody can say why."""
        if verdict.state is not AttemptState.REVERTED:
            return None
        revert = verdict.outcome.revert if verdict.outcome is not None else None
        reason = revert or verdict.detail
        return None if reason.startswith(UNEXPLAINED) else self._classify(reason)

    def doubt(self, positions: Iterable[_Key]) -> None:
        """Exactly these are left alone until it is known why their last attempts reverted."""
        self._doubtful = set(positions)

    def quarantine(self, market: str, borrower: Address, why: str) -> None:
        """Leave a position alone until `release`."""
        self._quarantined[market, borrower] = why

    def release(self, borrowers: Iterable[Address] | None = None) -> list[_Key]:
        """Lift the quarantine of these borrowers in every market, None: of all; what was lifted."""
        wanted = None if borrowers is None else set(borrowers)
        lifted = [key for key in self._quarantined if wanted is None or key[1] in wanted]
        for key in lifted:
            del self._quarantined[key]
            self._pauses.pop(key, None)
            self._unproved.pop(key, None)
        return lifted

    def hold(self, market: str, borrower: Address, health_factor: int, now: int = 0) -> Hold | None:
        """What keeps a position of this health from being tried; None when nothing does.

        A wait that would end later after `now` than any wait can was begun before the clock was put back: it is over.
        """
        key = (market, borrower)
        if (why := self._quarantined.get(key)) is not None:
            return Hold(None, f"quarantined until `keeper resume`: {why}")
        if key in self._doubtful:
            return Hold(None, "its last attempt reverted, and why is being found out")
        for pauses in (self._pauses, self._unproved):
            pause = pauses.get(key)
            if pause is None or _worse(pause, health_factor):
                continue
            if not (now and pause.until is not None and pause.until - now > self._seconds):
                return Hold(pause.until, pause.why)
        return None

    def _after(self, verdict: Verdict, now: int, health_factor: int) -> _Pause | None:
        until = now + self._seconds
        if verdict.state in (AttemptState.DROPPED, AttemptState.CANCELLED):
            return _Pause(until, f"the last attempt was {verdict.state}", health_factor)
        failure = self.failure(verdict)
        if failure is None or failure is Failure.LOST_RACE:
            return None
        if failure is Failure.NOT_LIQUIDATABLE:
            return _Pause(
                None, "it was not liquidatable when last tried: waiting for its health to worsen", health_factor
            )
        # A bug is a cooldown too, should nobody write down the quarantine.
        return _Pause(until, f"the last attempt reverted ({failure})", health_factor)


def _worse(pause: _Pause, health_factor: int) -> bool:
    return health_factor * BPS < pause.health_factor * (BPS - WORSE_BPS)
