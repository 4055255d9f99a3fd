"""After a restart: the journal and the chain agree again before anything new is decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.execution.track import Tracker, superseded
from keeper.execution.verdicts import OPEN
from keeper.model import Attempt, AttemptState, Head, TxKind, Verdict
from keeper.ports import Ledger

UNSIGNED = "the keeper stopped before this was signed"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a restart found, by attempt id."""

    abandoned: tuple[str, ...] = ()  # never signed
    settled: tuple[str, ...] = ()  # ended on the chain in the meantime
    resumed: tuple[str, ...] = ()  # handed out again, byte for byte
    cancelling: tuple[str, ...] = ()  # its nonce is being taken back
    watched: tuple[str, ...] = ()  # open, but of a key this keeper does not hold


async def recover(
    ledger: Ledger,
    tracker: Tracker,
    lanes: Lane | Lanes | None,
    head: Head,
    wanted: Callable[[Attempt], Awaitable[bool]] | None = None,
) -> Recovery:
    """Reconcile every unsettled attempt with the chain at `head`. To be called once, before the first pass.

    What was never signed is dropped: nobody can have it. What was signed may have been sent, whether or not that was
    written down, so its nonce belongs to it until the chain says otherwise: it is looked up, then handed out again
    unchanged if `wanted` says so (and it is not too old), and cancelled at the same nonce if not. Without a lane (dry
    run) what a killed run left behind is dropped. Raises Transient when the node cannot answer for `head`; calling
    again is safe.
    """
    attempts = await ledger.unsettled()
    unsigned = [a.id for a in attempts if a.state is AttemptState.INTENT or not _was_signed(a)]
    await ledger.record([Verdict(key, AttemptState.DROPPED, UNSIGNED, closed=True) for key in unsigned])
    changed = await tracker.settle(head, act=False)
    settled = [verdict.attempt_id for verdict in changed if verdict.state not in OPEN]

    resumed: list[str] = []
    cancelling: list[str] = []
    watched: list[str] = []
    unsettled = await ledger.unsettled()
    outdated = superseded(unsettled)
    for attempt in unsettled:
        if attempt.state not in OPEN or tracker.is_missing(attempt.id):
            continue  # ended, or about to be found so at the next head
        lane = None if lanes is None else lanes.of(attempt.signer)
        if lane is None:
            watched.append(attempt.id)
            continue
        keep = attempt.txs[-1].kind is TxKind.EXECUTE and attempt.id not in outdated
        keep = keep and (wanted is None or await wanted(attempt))
        await lane.tend(attempt, head, wanted=keep, now=True)
        too_old = head.number - attempt.head_number >= lane.policy.max_age
        (resumed if keep and not too_old else cancelling).append(attempt.id)
    return Recovery(tuple(unsigned), tuple(settled), tuple(resumed), tuple(cancelling), tuple(watched))


def _was_signed(attempt: Attempt) -> bool:
    return any(tx.hash is not None for tx in attempt.txs)
