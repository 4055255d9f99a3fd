"""A liquidatable position as one pass sees it: planned, and checked by every gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keeper.model import Address, FeeQuote, Skip, Verdict
from keeper.ports import Book, FlashSource, Liquidation, Position, Proof, Quoter, UptimeFeed
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.gates import GateContext, GateResult, Gates, first_closed
from keeper.strategy.planner import Decision, Planner
from keeper.strategy.underway import Underway
from keeper.strategy.wake import Wake


@dataclass(frozen=True, slots=True)
class Opportunity:
    """A position, the plan for it or why there is none, and what the gates said."""

    position: Position
    choice: Decision
    gates: tuple[GateResult, ...] = ()
    liquidation: Liquidation | None = None  # with a plan

    @property
    def key(self) -> tuple[str, Address]:
        """The position: market and borrower."""
        return self.position.market, self.position.account.borrower

    @property
    def skip(self) -> Skip | None:
        """Why it is left alone; None when it is to be proved."""
        closed = first_closed(self.gates)
        return closed.skip() if closed is not None else self.choice.skip

    @property
    def repaid_value(self) -> int:
        """The debt the plan repays, valued in wei of the native token, rounded up; 0 without a plan."""
        return next((gate.numbers.get("repaid", 0) for gate in self.gates if gate.name == "exposure"), 0)


@dataclass(frozen=True, slots=True)
class Appraiser:
    """Turns positions into opportunities."""

    planner: Planner
    gates: Gates
    cooldowns: Cooldowns
    sources: Sequence[FlashSource]
    sequencer: UptimeFeed | None = None  # where the chain has one
    underway: Underway | None = None  # None: nothing is ever out, as in a dry run

    def learn(self, positions: Sequence[Position], proof: Proof, attempt_id: str | None, now: int) -> None:
        """What became of positions that one transaction was to take; `now` in Unix seconds."""
        if attempt_id is not None and self.underway is not None:
            self.underway.sent(attempt_id, proof.job.plans)
        for position in positions:
            market, account = position.market, position.account
            if attempt_id is not None:
                self.cooldowns.sent(attempt_id, market, account.borrower, account.health_factor)
            elif proof.skip is not None and proof.simulation is not None and not proof.simulation.ok:
                self.cooldowns.unproved(market, account.borrower, account.health_factor, proof.skip.detail, now)

    def ended(self, verdict: Verdict, now: int) -> None:
        """The chain has said something about an attempt; `now` in Unix seconds."""
        self.cooldowns.ended(verdict, now)
        if self.underway is not None:
            self.underway.ended(verdict)

    def consider(
        self,
        book: Book,
        position: Position,
        quoter: Quoter,
        fees: FeeQuote,
        *,
        now: int,
        in_flight: Callable[[Address], bool],
        paused: bool = False,
        breaker: str | None = None,
        thorough: bool = False,
        wake: Wake | None = None,
        out: Callable[[str, Address], bool] | None = None,
    ) -> Opportunity:
        """One position: its plan and every gate. `now` in Unix seconds; `thorough` works out every candidate.

        `quoter` is on the head's state, and so are the gates that ask it: what our own plans move says nothing about a
        market. With `wake` the plan is for the state behind other plans.
        `breaker` says why sending is stopped, None that it is not; `in_flight` is asked about borrowers of the market,
        `out` about those of any market.
        """
        behind = wake or Wake(quoter, self.sources)
        choice = self.planner.plan(position, behind.quoter, behind.lenders(), fees, thorough=thorough)
        if choice.plan is None or choice.pair is None:
            return Opportunity(position, choice)
        account = position.account
        hold = self.cooldowns.hold(position.market, account.borrower, account.health_factor, now)
        context = GateContext(
            now=now,
            market_trusted=book.status.trusted or book.read_only,
            market_reason=book.status.reason,
            read_only=book.read_only,
            paused=paused,
            in_flight=any(map(in_flight, (account.borrower, *choice.plan.others))),
            cooldown_until=hold.until if hold is not None else None,
            held=hold.why if hold is not None else "",
            breaker=breaker,
            waits_for=self.underway.clash(choice.plan, out) if self.underway is not None and out is not None else "",
            uptime=self.sequencer.uptime(position.head) if self.sequencer is not None else None,
        )
        gates = self.gates.evaluate(choice.plan, position, quoter, context)
        return Opportunity(position, choice, gates, book.liquidation(choice.pair, account.borrower, choice.plan.repay))
