"""What stops sending, kept alive: limits judged, breakers opened, told, remembered, and closed again by a person."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from keeper.errors import ConfigError
from keeper.journal import Journal
from keeper.journal import breakers as memory
from keeper.model import Address, AttemptState, Order, Skip, SkipReason, Token, Verdict, address, checksum
from keeper.ops.control import Handler
from keeper.ops.metrics import Metrics
from keeper.ops.vitals import Vitals
from keeper.ports import Alerter
from keeper.strategy import breakers
from keeper.strategy.breakers import BREAKERS, DAY, Limits, Panel, Result, Trip
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.failures import UNEXPLAINED, Failure

log = structlog.get_logger("keeper")

_LONGEST_REASON = 500  # characters: it is shown, logged and told to channels
PAUSE, QUARANTINE = "pause", "quarantine"  # beside breakers and borrowers, what `keeper resume` can be given


class Safety:
    """Implements `ports.Safeguards` and the operator's commands.

    What it decides holds at once and is in the journal when the method returns; what a kill -9 takes away in between is
    judged again from the journal's attempts at the next start.
    """

    def __init__(
        self,
        journal: Journal,
        cooldowns: Cooldowns,
        limits: Limits,
        *,
        quiet: int,
        metrics: Metrics,
        vitals: Vitals,
        alerter: Alerter,
        clock: Callable[[], int],
    ) -> None:
        """`quiet` in seconds, `clock` gives Unix seconds. `open` comes before anything else."""
        self.limits = limits
        self._journal = journal
        self._cooldowns = cooldowns
        self._quiet = quiet
        self._metrics = metrics
        self._vitals = vitals
        self._alerter = alerter
        self._clock = clock
        self._panel = Panel(quiet)
        self._marks: dict[str, memory.Marks] = {}
        self._pause: str | None = None
        self._turn = asyncio.Lock()  # held while an order is being sent
        self._bench = asyncio.Lock()  # held while history is judged, or declared seen

    async def open(self) -> None:
        """Take up what the journal remembers, and judge what a restart has settled. After the reconciliation."""
        found = await self._journal.ask(memory.load)
        self._pause = found.pause
        self._marks = dict(found.marks)
        known = [row for row in found.open if row.name in BREAKERS]
        self._panel = Panel(self._quiet, [(Trip(row.name, row.detail, row.numbers), row.at) for row in known])
        for one in found.quarantines:
            self._quarantine(one)
        self._show()
        if self._pause is not None or known:
            log.warning("sending_is_stopped", pause=self._pause, breakers={r.name: r.detail for r in known})
        await self._judge()

    # ------------------------------------------------------------------------------------- what the loop asks

    @property
    def paused(self) -> bool:
        """By the operator."""
        return self._pause is not None

    @property
    def breaker(self) -> str | None:
        """Why breakers keep anything from being sent; None while all are closed."""
        return self._panel.reason

    async def settled(self, verdicts: Sequence[Verdict]) -> None:
        """Attempts have moved, and the journal says so already: judge the day anew."""
        if verdicts:
            await self._judge()

    async def audited(self, mirror: str, difference: Skip | None) -> None:
        """A mirror was compared with the chain."""
        if difference is None:
            return
        detail, now = f"{mirror}: {difference.detail}", self._clock()
        after = self._mark(breakers.AUDIT).note
        await self._journal.change(lambda db, at: memory.note(db, breakers.AUDIT, detail, now))
        count = await self._journal.ask(lambda db: memory.noted(db, breakers.AUDIT, now - DAY, after))
        if (trip := breakers.audits(count, detail, self.limits)) is not None:
            await self.trip(trip)

    @asynccontextmanager
    async def sending(self, order: Order, repaid: Mapping[Token, int]) -> AsyncIterator[Skip | None]:
        """Around the submission of an order that repays these assets, in wei worth of each: why not, or None."""
        async with self._turn:
            barred = self._barred()
            if barred is None:
                barred = await self._expose(order, repaid)
            yield barred

    def _barred(self) -> Skip | None:
        if self._pause is not None:
            return Skip(SkipReason.PAUSED, f"paused by the operator: {self._pause}".removesuffix(": "))
        if (reason := self.breaker) is not None:
            return Skip(SkipReason.BREAKER_OPEN, reason)
        return None

    async def _expose(self, order: Order, repaid: Mapping[Token, int]) -> Skip | None:
        """One transaction: the order waits for it. Nothing is written unless every asset is within its limits.

        It is on disk with the order's signature, before anything is sent.
        """
        now, after = self._clock(), self._mark(breakers.EXPOSURE_DAY).exposure

        def admit(db: sqlite3.Connection, at: int) -> Trip | None:
            for token, value in repaid.items():
                in_flight = memory.in_flight(db, token.address)
                day = memory.exposed(db, token.address, now - DAY, after)
                if (trip := breakers.exposure(token.symbol, value, in_flight, day, self.limits)) is not None:
                    return trip
            for token, value in repaid.items():
                memory.expose(db, order.id, token.address, value, now)
            return None

        if (trip := await self._journal.change(admit, lasting=False)) is None:
            return None
        await self.trip(trip)
        return Skip(SkipReason.BREAKER_OPEN, f"{trip.name}: {trip.detail}", dict(trip.numbers))

    # -------------------------------------------------------------------------------------- opening and closing

    async def trip(self, trip: Trip) -> None:
        """Open a breaker, remember it, and tell a person; nothing when it is open already."""
        now = self._clock()
        if not self._panel.trip(trip, now):
            return
        self._show()
        await self._journal.change(lambda db, at: memory.opened(db, trip.name, trip.detail, trip.numbers, now))
        heals = (
            f"closes by itself after {self._quiet} s without cause, or by" if trip.name in breakers.HEALING else "by"
        )
        ending = f"nothing is sent until it closes ({heals} `keeper resume {trip.name}`)"
        self._alerter.alert("breaker_open", f"breaker {trip.name}: {trip.detail}; {ending}", severe=True)

    async def observe(self, name: str, trip: Trip | None) -> None:
        """What a breaker that heals by itself watches has been measured: open it, or let it come to rest."""
        if trip is not None:
            await self.trip(trip)
            return
        now = self._clock()
        if self._panel.fine(name, now):
            self._show()
            detail = f"no cause for {self._quiet} s"
            await self._journal.change(lambda db, at: memory.healed(db, name, detail, now))
            self._alerter.alert("breaker_closed", f"breaker {name} has closed by itself: {detail}")

    async def look_in_flight(self) -> None:
        """Measure the exposure in flight."""
        most = await self._journal.ask(memory.most_in_flight)
        if most <= self.limits.exposure_in_flight:
            await self.observe(breakers.EXPOSURE_IN_FLIGHT, None)

    async def _judge(self) -> None:
        """Judge the day's results as the journal has them, and quarantine what nobody can explain."""
        async with self._bench:
            now = self._clock()
            rows = await self._journal.ask(lambda db: memory.results(db, now - DAY))
            failures = {row.attempt_id: self._failure(row) for row in rows}
            for row in rows:
                for market, borrower in row.positions if failures[row.attempt_id] is Failure.BUG else ():
                    if row.event > max(self._mark(QUARANTINE).event, self._mark(borrower).event):
                        await self._bar(memory.Quarantine(market, borrower, row.at, row.attempt_id, row.revert))
            doubtful = [row for row in rows if row.revert.startswith(UNEXPLAINED)]
            self._cooldowns.doubt(
                key for row in doubtful if row.state == AttemptState.REVERTED for key in row.positions
            )
            results = [_result(row, failures[row.attempt_id]) for row in rows]
            marks = {name: mark.event for name, mark in self._marks.items()}
            for trip in breakers.judge(results, marks, self.limits, now):
                await self.trip(trip)

    async def _bar(self, one: memory.Quarantine) -> None:
        if _key(one) in self._vitals.quarantined:
            return
        self._quarantine(one)
        await self._journal.change(lambda db, at: memory.quarantine(db, one))
        text = f"{_key(one)} is left alone until `keeper resume {checksum(one.borrower)}`: {one.detail}"
        self._alerter.alert("quarantine", text, severe=True)

    def _failure(self, row: memory.ResultRow) -> Failure | None:
        return self._cooldowns.failure(Verdict(row.attempt_id, AttemptState(row.state), row.revert))

    def _quarantine(self, one: memory.Quarantine) -> None:
        self._cooldowns.quarantine(one.market, one.borrower, one.detail)
        self._vitals.quarantined[_key(one)] = one.detail

    def _mark(self, name: str) -> memory.Marks:
        return self._marks.get(name, memory.Marks())

    def _show(self) -> None:
        open_ = self._panel.open
        for name in BREAKERS:
            self._metrics.breaker_open.labels(name).set(int(name in open_))
        self._metrics.paused.set(int(self.paused))
        self._vitals.breakers = {name: one.trip.detail for name, one in open_.items()}
        self._vitals.paused, self._vitals.pause_reason = self.paused, self._pause or ""

    # --------------------------------------------------------------------------------------- what a person asks

    def handlers(self) -> dict[str, Handler]:
        """The commands of the control socket."""
        return {"status": self._on_status, "pause": self._on_pause, "resume": self._on_resume}

    async def pause(self, reason: str) -> None:
        """Send nothing new. When this returns, nothing new is on its way."""
        self._pause = reason
        self._show()
        async with self._turn:
            await self._journal.change(lambda db, at: memory.pause(db, reason, at))
        log.warning("paused", reason=reason)

    async def resume(self, names: Sequence[str] = ()) -> list[str]:
        """Lift what stops sending, all of it without names; what was lifted. Raises ConfigError for an unknown name.

        What a breaker has counted until now it does not count again.
        """
        borrowers = {name: borrower for name in names if (borrower := _borrower(name)) is not None}
        unknown = [name for name in names if name not in {*BREAKERS, PAUSE, QUARANTINE, *borrowers}]
        if unknown:
            choices = ", ".join([*self._panel.open, PAUSE, QUARANTINE])
            raise ConfigError(f"nothing that stops sending is called {unknown[0]!r}: give {choices} or a borrower")
        async with self._bench:
            wanted = [name for name in (*BREAKERS, QUARANTINE) if not names or name in names]
            seen = [*wanted, *borrowers.values()]
            marks = await self._journal.change(partial(_lift, seen, wanted, list(borrowers.values())))
            self._marks.update(dict.fromkeys(seen, marks))
            lifted = self._panel.reset(wanted)
            released = self._cooldowns.release(None if QUARANTINE in wanted else borrowers.values())
            for key in (f"{market} {checksum(borrower)}" for market, borrower in released):
                self._vitals.quarantined.pop(key, None)
                lifted.append(key)
            if (not names or PAUSE in names) and self._pause is not None:
                await self._journal.change(memory.unpause)
                self._pause = None
                lifted.append(PAUSE)
            self._show()
        log.warning("resumed", lifted=lifted)
        return lifted

    async def _on_status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._vitals.status()

    async def _on_pause(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        said = str(request.get("reason") or "")[:_LONGEST_REASON]
        await self.pause("".join(c if c.isprintable() else " " for c in said))
        return self._vitals.status()

    async def _on_resume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        names = request.get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError("names is a list of texts")
        return {"lifted": await self.resume(names), "status": self._vitals.status()}


def _borrower(name: str) -> Address | None:
    try:
        return address(name)
    except ValueError:
        return None


def _lift(
    seen: Sequence[str], wanted: Sequence[str], borrowers: Sequence[Address], db: sqlite3.Connection, at: int
) -> memory.Marks:
    """In one transaction, so that nothing is lifted half."""
    memory.release(db, None if QUARANTINE in wanted else borrowers)
    return memory.reset(db, seen, at)


def _key(one: memory.Quarantine) -> str:
    return f"{one.market} {checksum(one.borrower)}"


def _result(row: memory.ResultRow, failure: Failure | None) -> Result:
    return Result(
        seq=row.event,
        at=row.at,
        net=row.net,
        gas_cost=row.gas_cost,
        predicted_gain=row.predicted_gain,
        gain=row.gain,
        mined=row.state == AttemptState.MINED,
        failure=failure,
    )
