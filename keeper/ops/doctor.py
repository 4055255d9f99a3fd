"""The doctor: named checks that look before the keeper acts, each answer with its fix in the text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keeper.errors import CheckFailed, KeeperError


class Level(StrEnum):
    """How a check ended. `fail` keeps a live keeper from starting; `warn` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  # could not be asked, or does not apply


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer."""

    level: Level
    text: str  # what was found, with numbers
    fix: str = ""  # what to change; empty when there is nothing to do

    @classmethod
    def ok(cls, text: str) -> Finding:
        """As it should be."""
        return cls(Level.OK, text)

    @classmethod
    def warn(cls, text: str, fix: str) -> Finding:
        """It works, but the operator should know."""
        return cls(Level.WARN, text, fix)

    @classmethod
    def fail(cls, text: str, fix: str) -> Finding:
        """It cannot work, or not safely."""
        return cls(Level.FAIL, text, fix)

    @classmethod
    def skip(cls, text: str) -> Finding:
        """Nothing to check."""
        return cls(Level.SKIP, text)


@dataclass(frozen=True, slots=True)
class Check:
    """A named question. It is not asked when a check it `needs` has failed or was itself left out for that reason."""

    name: str
    ask: Callable[[], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    fix: str = ""  # for errors that do not carry their own
    soft: bool = False  # a no is only a warning, but what needs this check is still left out


@dataclass(frozen=True, slots=True)
class Result:
    """A check and its finding."""

    name: str
    finding: Finding

    def json(self) -> dict[str, Any]:
        """check, level (ok, warn, fail, skip), text, fix."""
        return {
            "check": self.name,
            "level": str(self.finding.level),
            "text": self.finding.text,
            "fix": self.finding.fix,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All results, in the order asked."""

    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """Those that keep a live keeper from starting."""
        return tuple(result for result in self.results if result.finding.level is Level.FAIL)

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return not self.failed

    def require(self) -> None:
        """Raise CheckFailed naming what failed, if anything did."""
        if self.failed:
            told = "; ".join(f"{result.name}: {result.finding.text} ({result.finding.fix})" for result in self.failed)
            count = len(self.failed)
            raise CheckFailed(f"{count} check{'s' * (count != 1)} of keeper doctor failed: {told}")

    def json(self) -> dict[str, Any]:
        """passed, checks (list)."""
        return {"passed": self.passed, "checks": [result.json() for result in self.results]}


async def examine(checks: Sequence[Check], tell: Callable[[Result], None] = lambda result: None) -> Report:
    """Ask one after another; `tell` hears each result at once. Errors of the keeper's own kinds are failed checks."""
    results: list[Result] = []
    broken: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name in broken]
        if missing:
            broken.add(check.name)
            finding = Finding.skip(f"not checked, because {' and '.join(missing)} failed")
        else:
            try:
                finding = await check.ask()
            except KeeperError as error:
                finding = Finding.fail(str(error), check.fix or "see the message")
            if finding.level is Level.FAIL:
                broken.add(check.name)
                if check.soft:
                    finding = Finding.warn(finding.text, finding.fix)
        results.append(Result(check.name, finding))
        tell(results[-1])
    return Report(tuple(results))
