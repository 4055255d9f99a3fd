"""What the loop says to logs, metrics and probes. One canonical line per decision; repeats of it are for debugging."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from keeper.engine import Observer
from keeper.errors import KeeperError
from keeper.model import Address, AttemptState, Decision, Hash, Head, Skip, SkipReason, Verdict, checksum, market_of
from keeper.ops.metrics import Metrics
from keeper.ops.numbers import ether, health
from keeper.ops.vitals import MarketVitals, Vitals
from keeper.ports import Alerter, Book, Proof, Submitter, Synced
from keeper.strategy.opportunity import Opportunity

log = structlog.get_logger("keeper")

HEARTBEAT = 60.0  # seconds between two lines that only say that all is well


class Several:
    """Implements `engine.Observer` with several, each told in turn."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def synced(self, step: Synced) -> None:
        for observer in self._observers:
            observer.synced(step)

    def settled(self, verdict: Verdict) -> None:
        for observer in self._observers:
            observer.settled(verdict)

    def audited(self, market: str, difference: Skip | None) -> None:
        for observer in self._observers:
            observer.audited(market, difference)

    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None:
        for observer in self._observers:
            observer.surveyed(book, found)

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        for observer in self._observers:
            observer.decided(found, proof, decision, detail)

    def passed(self, head: Head) -> None:
        for observer in self._observers:
            observer.passed(head)

    def interrupted(self, head: Head, error: KeeperError) -> None:
        for observer in self._observers:
            observer.interrupted(head, error)


@dataclass(frozen=True, slots=True)
class _Order:
    head: int
    gain: int  # wei, simulated


class Telemetry:
    """Implements `engine.Observer`."""

    def __init__(
        self,
        metrics: Metrics,
        vitals: Vitals,
        alerter: Alerter,
        protocols: Mapping[str, str],
        submitter: Submitter,
        provider: Callable[[], str | None],
    ) -> None:
        """`protocols` maps a market's name to its protocol's word; `provider` says which endpoint is in use."""
        self._metrics = metrics
        self._vitals = vitals
        self._alerter = alerter
        self._protocols = protocols
        self._submitter = submitter
        self._provider = provider
        self._orders: dict[str, _Order] = {}
        self._ends: dict[str, tuple[AttemptState, Hash | None]] = {}  # attempts not closed yet -> what was told last
        self._said: dict[tuple[str, Address], SkipReason] = {}
        self._seen: set[tuple[str, Address]] = set()
        self._began = time.monotonic()
        self._heartbeat = 0.0

    def synced(self, step: Synced) -> None:
        """The mirrors are at the head, or some are not."""
        now = time.monotonic()
        self._began, self._seen = now, set()
        self._metrics.head(step.head)
        self._metrics.provider(self._provider())
        if step.undone:
            self._metrics.reorgs.inc()
        self._metrics.queue_lag.set(max(time.time() - step.head.timestamp, 0.0))
        vitals = self._vitals
        vitals.beat()
        vitals.head, vitals.synced, vitals.provider = step.head, True, self._provider()

    def settled(self, verdict: Verdict) -> None:
        """An earlier attempt has moved."""
        state, outcome = verdict.state, verdict.outcome
        end = (state, outcome.tx_hash if outcome is not None else None)
        known = self._ends.get(verdict.attempt_id) == end
        self._ends[verdict.attempt_id] = end
        order = self._orders.get(verdict.attempt_id)
        if verdict.closed:
            del self._ends[verdict.attempt_id]
            self._orders.pop(verdict.attempt_id, None)
        if known:  # the same end again, by now under enough blocks: told and counted already
            return
        if state is not AttemptState.SENT and not (verdict.closed and outcome is None and not verdict.detail):
            self._metrics.transactions.labels(str(state)).inc()
        fields: dict[str, Any] = {"attempt": verdict.attempt_id, "detail": verdict.detail, "block": verdict.number}
        if outcome is not None:
            fields |= {
                "tx": outcome.tx_hash,
                "gas_used": outcome.gas_used,
                "gas_price_wei": str(outcome.gas_price),
                "gain_wei": str(outcome.gain),
                "net_wei": str(outcome.net),
                "net_eth": ether(outcome.net),
            }
            self._metrics.settled(outcome.net, outcome.cost)
            if order is not None:
                if outcome.block_number is not None:
                    self._metrics.inclusion_blocks.observe(outcome.block_number - order.head)
                if state is AttemptState.MINED:
                    self._metrics.predicted("mined", order.gain, outcome.gain)
                fields["predicted_gain_wei"] = str(order.gain)
        say = log.warning if state in (AttemptState.REVERTED, AttemptState.DROPPED) else log.info
        say(f"liquidation.{state}", **fields)

    def audited(self, mirror: str, difference: Skip | None) -> None:
        """What is mirrored was compared with the chain's own view."""
        self._metrics.audits.labels(mirror, "ok" if difference is None else "different").inc()
        if difference is None:
            log.debug("audit.ok", mirror=mirror)
        else:
            self._alerter.alert("audit_difference", difference.detail, severe=True)

    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None:
        """One market has been screened and planned for."""
        status = book.status
        self._metrics.positions_liquidatable.labels(book.name).set(len(found))
        self._metrics.market_trusted.labels(book.name).set(int(status.trusted))
        self._metrics.positions_tracked.labels(book.name).set(book.borrower_count)
        self._vitals.markets[book.name] = MarketVitals(
            trusted=status.trusted, reason=status.reason, positions=book.borrower_count, liquidatable=len(found)
        )

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        """The one line of a decision."""
        protocol = self._protocols[market_of(decision.market)]
        if found.choice.plan is not None:
            self._metrics.opportunities.labels(protocol).inc()
            self._metrics.gates({gate.name: gate.open for gate in found.gates})
        fields = self._fields(found, proof, decision)
        key = (decision.market, decision.borrower)
        self._seen.add(key)
        if decision.skip is not None:
            self._metrics.skips.labels(protocol, decision.skip.reason).inc()
            fields |= {"reason": str(decision.skip.reason), "detail": decision.skip.detail}
            say = log.debug if self._said.get(key) == decision.skip.reason else log.info
            self._said[key] = decision.skip.reason
            say("liquidation.skipped", **fields)
            return
        self._said.pop(key, None)
        assert decision.attempt_id is not None
        if proof is not None and proof.simulation is not None:
            self._orders[decision.attempt_id] = _Order(found.position.head.number, proof.simulation.gain)
        live = self._vitals.mode == "live"
        if live and proof is not None:  # which comes with the first position of a transaction
            self._metrics.transactions.labels("sent").inc()
        event = "liquidation.sent" if live else "liquidation.would_send"
        log.info(event, attempt=decision.attempt_id, detail=detail, **fields)

    def passed(self, head: Head) -> None:
        """A pass is complete."""
        now = time.monotonic()
        self._said = {key: reason for key, reason in self._said.items() if key in self._seen}
        self._metrics.cycle_seconds.labels("pass").observe(now - self._began)
        self._metrics.cycles.labels("ok").inc()
        self._metrics.last_success.set(time.time())
        vitals = self._vitals
        vitals.beat()
        vitals.passes += 1
        vitals.last_pass_at = time.time()
        vitals.in_flight = self._submitter.pending
        if now - self._heartbeat >= HEARTBEAT:
            self._heartbeat = now
            liquidatable = sum(market.liquidatable for market in vitals.markets.values())
            log.info(
                "heartbeat",
                block=head.number,
                mode=vitals.mode,
                liquidatable=liquidatable,
                in_flight=vitals.in_flight,
                passes=vitals.passes,
            )

    def interrupted(self, head: Head, error: KeeperError) -> None:
        """The node did not let a pass finish; the next head tries again."""
        self._metrics.cycles.labels("error").inc()
        self._vitals.beat()
        log.warning("pass.interrupted", block=head.number, reason=str(error))

    def _fields(self, found: Opportunity, proof: Proof | None, decision: Decision) -> dict[str, Any]:
        account, plan = found.position.account, found.choice.plan
        fields: dict[str, Any] = {
            "block": found.position.head.number,
            "market": decision.market,
            "borrower": checksum(decision.borrower),
            "health_factor": health(account.health_factor),
        }
        if plan is not None:
            fields |= {
                "debt": plan.debt.symbol,
                "collateral": plan.collateral.symbol,
                "repay": str(plan.repay),
                "funding": plan.loan.source if plan.loan else "flash swap",
                "planned_net_wei": str(plan.net),
            }
        if proof is not None and proof.simulation is not None:
            ran = proof.simulation
            short = decision.skip is not None and decision.skip.reason is SkipReason.SIMULATION_SHORT
            self._metrics.simulations.labels("ok" if ran.ok else "short" if short else "reverted").inc()
            if ran.ok:
                self._metrics.predicted("simulated", proof.gain, ran.gain)
            fields |= {"simulated_gain_wei": str(ran.gain), "gas_used": ran.gas_used}
        return fields
