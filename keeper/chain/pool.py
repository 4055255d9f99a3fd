"""Several endpoints as one: preference by configured order, health, recovery, and a guard against stale heads."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from keeper.chain import wire
from keeper.chain.connection import Link
from keeper.chain.providers import Call
from keeper.chain.refusals import Kind, Refusal, Unanswered
from keeper.errors import BadData, ConfigError, KeeperError, Transient, Unreachable
from keeper.model import Head

T = TypeVar("T")
log = structlog.get_logger(__name__)

# The request is at fault, or too big: another endpoint would say the same, and the caller knows what to change.
_CALLERS_BUSINESS = frozenset({Kind.REVERT, Kind.INVALID, Kind.RANGE, Kind.GAS})
# The node is fine, only not for this request.
_NOT_ITS_FAULT = frozenset({Kind.BEHIND, Kind.UNSUPPORTED})


@dataclass(slots=True, eq=False)
class Endpoint:
    """One link with what has been learned about it."""

    link: Link
    head: Head | None = None
    wrong: str = ""  # why it must not be used until it says otherwise (another chain)
    stale: str = ""  # why its answers are too old to be used now
    failed: str = ""  # why it failed last
    failures: int = 0  # in a row
    retry_at: float = 0.0  # monotonic; not before this unless nobody else is left
    deployless: bool = True  # takes an eth_call without `to`
    by_hash: bool = True  # takes a block hash as block parameter (EIP-1898)
    views: int = 500  # most views in one bundle
    calls: int = 100  # most calls in one batch
    span: int = 2_000  # blocks per eth_getLogs
    span_most: int = 10_000  # never ask for more blocks than this
    span_ceiling: int = 1 << 30  # the least span refused, less one
    addresses: int = 500  # most addresses in one log filter
    round_trips: int = 0

    @property
    def label(self) -> str:
        """The masked URL."""
        return self.link.label

    async def ask(self, calls: Sequence[Call], *, within: float | None = None) -> list[Any]:
        """One counted round trip; see `Link.call`."""
        self.round_trips += 1
        return await self.link.call(calls, within=within)


class Pool:
    """Chooses who answers. All times are seconds."""

    def __init__(
        self,
        links: Sequence[Link],
        *,
        chain_id: int | None = None,
        max_lag: int = 3,
        max_age: float | None = None,
        log_range: int = 10_000,
        batch_size: int = 100,
        attempts: int = 4,
        backoff: float = 0.2,
        cool_down: float = 1.0,
        cool_down_most: float = 60.0,
        rng: random.Random | None = None,
    ) -> None:
        if not links:
            raise ConfigError("no RPC endpoint is configured: give at least one ws, wss, http, https URL or IPC path")
        self.endpoints = tuple(
            Endpoint(link, calls=batch_size, span=min(2_000, log_range), span_most=log_range) for link in links
        )
        self.chain_id = chain_id
        self._max_lag = max_lag
        self._max_age = max_age
        self._attempts = attempts
        self._backoff = backoff
        self._cool_down = cool_down
        self._cool_down_most = cool_down_most
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    def candidates(self) -> list[Endpoint]:
        """Endpoints that may be asked now, best first: the healthy in configured order, then those that failed last."""
        usable = [e for e in self.endpoints if not e.wrong and not e.stale]
        now = time.monotonic()
        return sorted(usable, key=lambda e: (e.failures > 0, max(e.retry_at - now, 0.0) if e.failures else 0.0))

    async def run(self, work: Callable[[Endpoint], Awaitable[T]], *, attempts: int | None = None) -> T:
        """The first good answer of `work` over the candidates, in up to `attempts` rounds with jittered pauses.

        Raises what the last endpoint raised: Refusal, Transient or BadData. An endpoint that turns up on another chain
        is not used until it is back: behind a balancer it may be, and a keeper that ends would watch over nothing.
        """
        rounds = attempts or self._attempts
        error: KeeperError | None = None
        for turn in range(rounds):
            if not self.candidates():
                await self.probe()
            for endpoint in self.candidates():
                try:
                    result = await work(endpoint)
                except (Transient, BadData) as caught:
                    error = caught
                    self._judge(endpoint, caught)
                except ConfigError as caught:
                    self._exclude(endpoint, str(caught))
                    error = caught
                else:
                    endpoint.failures = 0
                    return result
            if error is None:
                break
            if isinstance(error, Refusal) and error.kind is Kind.UNSUPPORTED:
                break
            if turn + 1 < rounds:
                await asyncio.sleep(self._backoff * 2**turn * (0.5 + self._rng.random()))
        raise self._nobody() if error is None or isinstance(error, ConfigError) else error

    async def once(self, work: Callable[[Endpoint], Awaitable[T]]) -> T:
        """`work` at the best endpoint, without a second try anywhere: for what must not happen twice."""
        if not self.candidates():
            await self.probe()
        for endpoint in self.candidates():
            try:
                return await work(endpoint)
            except (Transient, BadData) as error:
                self._judge(endpoint, error)
                raise
            except ConfigError as error:
                self._exclude(endpoint, str(error))
        raise self._nobody()

    async def probe(self) -> None:
        """Ask every endpoint for its chain and head, and judge them anew: lag, age, recovery."""
        await asyncio.gather(*(self._probe(endpoint) for endpoint in self.endpoints))
        heads = [e.head.number for e in self.endpoints if e.head is not None and not e.failures and not e.wrong]
        best = max(heads, default=None)
        for endpoint in self.endpoints:
            was, endpoint.stale = endpoint.stale, self._staleness(endpoint.head, best)
            if endpoint.stale and not was:
                log.warning("endpoint_stale", endpoint=endpoint.label, reason=endpoint.stale)
            elif was and not endpoint.stale:
                log.info("endpoint_recovered", endpoint=endpoint.label)

    async def start(self) -> None:
        """First contact. Raises ConfigError when an endpoint is on another chain, Unreachable when nobody answers."""
        await self.probe()
        wrong = [e.wrong for e in self.endpoints if e.wrong]
        if wrong:
            raise ConfigError(wrong[0])
        if all(e.failures for e in self.endpoints):
            reasons = "; ".join(e.failed if e.label in e.failed else f"{e.label}: {e.failed}" for e in self.endpoints)
            raise Unreachable(
                f"no RPC endpoint gives usable answers ({reasons}): check that the node runs and that the URL is right"
            )

    def check_head(self, endpoint: Endpoint, head: Head) -> None:
        """Raise Transient, and set the endpoint aside, when its head is too far behind the best or too old."""
        endpoint.head = head
        best = max((e.head.number for e in self.endpoints if e.head and not e.wrong), default=head.number)
        reason = self._staleness(head, best)
        if reason:
            endpoint.stale = reason if len(self.endpoints) > 1 else ""
            raise Transient(f"{endpoint.label} is not used: {reason}")

    async def _probe(self, endpoint: Endpoint) -> None:
        calls = [("eth_chainId", []), ("eth_getBlockByNumber", ["latest", False])]
        try:
            results = await endpoint.ask(calls, within=10.0)
            for result in results:
                if isinstance(result, Refusal):
                    raise result
            chain = wire.quantity(results[0], "a chain id")
            endpoint.head = wire.head(results[1])
        except (Transient, BadData) as error:
            self._judge(endpoint, error)
            return
        except ConfigError as error:
            self._exclude(endpoint, str(error))
            return
        if self.chain_id is None:
            self.chain_id = chain
        if chain != self.chain_id:
            self._exclude(
                endpoint,
                f"{endpoint.label} is on chain {chain}, but chain {self.chain_id} is expected: "
                "correct the endpoint or the chain id",
            )
        elif endpoint.wrong:
            endpoint.wrong = ""
            log.warning("endpoint_readmitted", endpoint=endpoint.label, chain=chain)
        endpoint.failures = 0

    def _judge(self, endpoint: Endpoint, error: Transient | BadData) -> None:
        if isinstance(error, Refusal) and error.kind in _CALLERS_BUSINESS:
            raise error
        if not isinstance(error, Refusal | Unanswered | BadData):
            return  # the chain moved on under the question
        if isinstance(error, Refusal) and error.kind in _NOT_ITS_FAULT:
            return
        endpoint.failures += 1
        endpoint.failed = str(error)
        pause = min(self._cool_down * 2 ** (endpoint.failures - 1), self._cool_down_most)
        endpoint.retry_at = time.monotonic() + pause * (0.75 + self._rng.random() / 2)
        log.info("endpoint_failed", endpoint=endpoint.label, failures=endpoint.failures, reason=str(error))

    def _exclude(self, endpoint: Endpoint, reason: str) -> None:
        if endpoint.wrong != reason:
            log.error("endpoint_excluded", endpoint=endpoint.label, reason=reason)
        endpoint.wrong = reason

    def _staleness(self, head: Head | None, best: int | None) -> str:
        if head is None or best is None:
            return ""
        if best - head.number > self._max_lag:
            return f"its head {head.number} is {best - head.number} blocks behind the best endpoint's"
        age = time.time() - head.timestamp
        if self._max_age is not None and age > self._max_age:
            return f"its head {head.number} is {age:.0f} s old (limit {self._max_age:.0f} s)"
        return ""

    def _nobody(self) -> Transient:
        reasons = "; ".join(f"{e.label}: {e.wrong or e.stale}" for e in self.endpoints)
        return Transient(f"no RPC endpoint can be used now ({reasons})")
