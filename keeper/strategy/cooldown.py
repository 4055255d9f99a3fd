"""Positions left alone for a while after an attempt that failed, until their health worsens."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.model import Address, AttemptState, Verdict

_FAILED = (AttemptState.REVERTED, AttemptState.DROPPED, AttemptState.CANCELLED)
_Key = tuple[str, Address]  # market, borrower


@dataclass(frozen=True, slots=True)
class _Pause:
    until: int  # Unix seconds
    health_factor: int  # wad, when the failed attempt was planned


class Cooldowns:
    """A cooldown starts with an outcome, never with an attempt, and ends early when the position is worse than it was.

    Only the running process remembers: after a restart the journal's open attempts still bar their positions.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._sent: dict[str, tuple[_Key, int]] = {}
        self._pauses: dict[_Key, _Pause] = {}

    def sent(self, attempt_id: str, market: str, borrower: Address, health_factor: int) -> None:
        """An attempt has gone out for a position of this health."""
        self._sent[attempt_id] = ((market, borrower), health_factor)

    def ended(self, verdict: Verdict, now: int) -> None:
        """An attempt has ended, or is undecided again after a reorganisation."""
        known = self._sent.get(verdict.attempt_id)
        if known is None:
            return
        key, health_factor = known
        if verdict.state in _FAILED:
            self._pauses[key] = _Pause(now + self._seconds, health_factor)
        else:
            self._pauses.pop(key, None)
        if verdict.closed:
            del self._sent[verdict.attempt_id]

    def until(self, market: str, borrower: Address, health_factor: int) -> int | None:
        """When the position may be tried again, Unix seconds; None when nothing holds it back."""
        pause = self._pauses.get((market, borrower))
        return None if pause is None or health_factor < pause.health_factor else pause.until
