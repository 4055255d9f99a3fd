"""What is worth telling a person who is not looking: money made and lost, markets and nodes that go and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from keeper.assembly import Assembly
from keeper.config import Alerts
from keeper.engine import Observer
from keeper.errors import KeeperError
from keeper.model import Address, AttemptState, Decision, Handle, Head, Skip, Verdict, checksum
from keeper.ops.channels import Channels
from keeper.ops.numbers import ether, health, units
from keeper.ops.redact import Redactor
from keeper.ports import Alerter, Book, Proof, Synced
from keeper.strategy.opportunity import Opportunity

NEAR_EVERY = 60.0  # seconds between two looks for positions near liquidation
NEAR_MOST = 20  # of them in one market, the largest
NODES_EVERY = 10.0  # seconds between two looks at the endpoints
FLUSH = 5.0  # seconds for the last messages when stopping
_KEPT = 10_000  # attempts whose borrower is remembered


@asynccontextmanager
async def telling(parts: Assembly, redactor: Redactor) -> AsyncIterator[Bulletin]:
    """Alerts go to the configured channels while inside: from the start to the end, however it ends.

    Raises ConfigError when a channel's URL is of no use.
    """
    config, alerter = parts.config, parts.alerter
    table = config.alerts
    failed = parts.metrics.notify_errors.inc
    channels = Channels.open(table, mode=parts.mode, chain_id=config.chain.id, redact=redactor.text, failed=failed)
    alerter.deliver = channels.put
    alerter.alert("started", f"started ({parts.mode}) with {len(parts.books)} markets; executor {parts.executor}")
    farewell = "stopped because of an error, see the log"
    try:
        yield Bulletin(alerter, parts.client.pool.endpoints, table, mode=parts.mode)
        farewell = ""
    except KeeperError as error:
        farewell = f"stopped: {error}"
        raise
    finally:
        # A journal that cannot be written arrives here as Halt.
        alerter.alert("stopped", farewell or "stopped in good order", severe=bool(farewell))
        await channels.close(FLUSH)


class Node(Protocol):
    """An endpoint, as far as this looks at it."""

    @property
    def label(self) -> str: ...
    @property
    def wrong(self) -> str: ...
    @property
    def stale(self) -> str: ...
    @property
    def failures(self) -> int: ...


class Bulletin(Observer):
    """An `engine.Observer` that alerts. Breakers, audits and the mirrors alert by themselves."""

    def __init__(
        self,
        alerter: Alerter,
        nodes: Sequence[Node],
        table: Alerts,
        *,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`mode` is dry or live; `clock` in seconds, monotonic."""
        self._alerter = alerter
        self._nodes = nodes
        self._table = table
        self._live = mode == "live"
        self._clock = clock
        self._attempts: dict[str, list[tuple[str, Address]]] = {}
        self._trusted: dict[str, bool] = {}
        self._lost: dict[str, int] = {}  # endpoint -> looks in a row at which it was not usable
        self._books: dict[str, Book] = {}
        self._near: set[tuple[str, Handle]] = set()
        self._looked = float("-inf")

    def synced(self, step: Synced) -> None:
        """Nothing to tell."""

    def audited(self, market: str, difference: Skip | None) -> None:
        """A difference is told by who found it."""

    def interrupted(self, head: Head, error: KeeperError) -> None:
        """A node that does not answer is told as such."""

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        if decision.attempt_id is not None:
            self._attempts.setdefault(decision.attempt_id, []).append((decision.market, decision.borrower))
            if len(self._attempts) > _KEPT:
                del self._attempts[next(iter(self._attempts))]

    def settled(self, verdict: Verdict) -> None:
        """Money made and attempts lost; a dry run makes and loses none."""
        if not self._live:
            return
        positions = self._attempts.get(verdict.attempt_id, [])
        named = " and ".join(f"{checksum(borrower)} in {market}" for market, borrower in positions)
        who = named or f"attempt {verdict.attempt_id}"
        outcome = verdict.outcome
        if verdict.state is AttemptState.MINED and outcome is not None:
            self._alerter.alert(
                "liquidation_done",
                f"liquidated {who} in block {outcome.block_number}: net {ether(outcome.net)} "
                f"(gain {ether(outcome.gain)}, gas {ether(outcome.gas_used * outcome.gas_price)}), "
                f"transaction {outcome.tx_hash}",
            )
        elif verdict.state is AttemptState.REVERTED and outcome is not None:
            self._alerter.alert(
                "attempt_failed",
                f"the attempt on {who} reverted in block {outcome.block_number} and cost {ether(-outcome.net)}: "
                f"{outcome.revert or 'no reason given'}",
            )
        elif verdict.state is AttemptState.DROPPED and not verdict.closed:
            self._alerter.alert("attempt_failed", f"the attempt on {who} was dropped: {verdict.detail}")

    def surveyed(self, book: Book, found: Sequence[Opportunity]) -> None:
        trusted = book.status.trusted
        if trusted and self._trusted.get(book.name) is False:
            self._alerter.alert("market_back", f"{book.name} is trusted again")
        if trusted or book.name in self._trusted:  # before it was first trusted it is being synchronised
            self._trusted[book.name] = trusted
        self._books[book.name] = book

    def passed(self, head: Head) -> None:
        now = self._clock()
        if self._table.near_liquidation_size and now - self._looked >= NEAR_EVERY:
            self._looked = now
            for book in self._books.values():
                if book.status.trusted:
                    self._look(book, head)

    def _look(self, book: Book, head: Head) -> None:
        """Tell those that have come near since the last look, in one alert."""
        below, size = self._table.near_health_factor, self._table.near_liquidation_size
        accounts = book.near(head.timestamp, below, size * book.base_unit, NEAR_MOST)
        keys = {(book.name, account.handle) for account in accounts}
        fresh = [account for account in accounts if (book.name, account.handle) not in self._near]
        self._near = {key for key in self._near if key[0] != book.name} | keys
        if fresh:
            listed = "; ".join(
                f"{checksum(near.borrower)} at {health(near.health_factor)} with debt of "
                f"{units(near.debt_value, book.base_unit, 0)}"
                for near in fresh
            )
            self._alerter.alert(
                "near_liquidation",
                f"{book.name}: {len(fresh)} large position(s) came below a health factor of {health(below)}: {listed}",
            )

    # ---------------------------------------------------------------------------------------------- nodes

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Looks at the endpoints while inside, also when no head comes any more."""
        task = asyncio.create_task(self._watch(), name="bulletin")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.look_at_nodes()
            await asyncio.sleep(NODES_EVERY)

    def look_at_nodes(self) -> None:
        """An endpoint is lost at the second look in a row that finds it failing, stale or on another chain."""
        for node in self._nodes:
            why = node.wrong or node.stale or ("it does not answer" if node.failures else "")
            before = self._lost.get(node.label, 0)
            self._lost[node.label] = before + 1 if why else 0
            if why and before == 1:
                left = sum(self._lost.get(other.label, 0) < 2 for other in self._nodes)
                text = f"endpoint {node.label} is lost: {why}; {left} of {len(self._nodes)} are left"
                self._alerter.alert("node_lost", text, severe=not left)
            elif not why and before >= 2:
                self._alerter.alert(
                    "node_back", f"endpoint {node.label} is back", severe=before >= 2 and self._alone(node)
                )

    def _alone(self, node: Node) -> bool:
        """It is the only one that can be asked, so its loss was severe and its return is told as widely."""
        return all(self._lost.get(other.label, 0) >= 2 for other in self._nodes if other is not node)
