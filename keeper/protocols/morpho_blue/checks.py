"""The mirrored markets against the contract: what is missing is read, what differs is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keeper.errors import BadData
from keeper.model import Address, Head, Read
from keeper.ports import Client
from keeper.protocols.morpho_blue import irm
from keeper.protocols.morpho_blue.events import MORPHO
from keeper.protocols.morpho_blue.irm import IRM, Kind
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.morpho_blue.market import State
from keeper.protocols.morpho_blue.registry import Registry

_MARKETS = 2_000  # read at a time


async def complete(client: Client, head: Head, morpho: Address, registry: Registry) -> None:
    """Read at `head` what of the unread markets no log has told; raises BadData when the rest differs there."""
    unread = sorted(registry.unread)
    for start in range(0, len(unread), _MARKETS):
        part = unread[start : start + _MARKETS]
        stored = await states(client, head, morpho, registry, part)
        for number, state in zip(part, stored, strict=True):
            mine = registry.states[number]
            if replace(mine, updated=0) != replace(state, updated=0):
                raise BadData(
                    f"the events of market {registry.params[number].id} do not add up: {mine} here and {state} at "
                    f"block {head.number}"
                )
            registry.set_state(number, state)
        adaptive = [number for number in part if registry.kind(number) is Kind.ADAPTIVE]
        reads = [irm.target_read(registry.params[n].irm, registry.params[n]) for n in adaptive]
        answers = await client.read(reads, head) if reads else []
        for number, answer in zip(adaptive, answers, strict=True):
            registry.set_target(number, IRM.decode("rateAtTarget", answer)[0])


async def states(
    client: Client, head: Head, morpho: Address, registry: Registry, numbers: Sequence[int]
) -> list[State]:
    """The totals of these markets at `head`."""
    reads = [Read(morpho, MORPHO.encode("market", registry.params[n].key)) for n in numbers]
    answers = await client.read(reads, head) if reads else []
    return [State(*MORPHO.decode("market", answer)) for answer in answers]


def verify(registry: Registry, ledger: Ledger, start_block: int) -> None:
    """Raise BadData when the positions do not add up to their market's totals."""
    totals = ledger.totals()
    for number, state in registry.states.items():
        if totals.get(number, (0, 0)) != (state.supply_shares, state.borrow_shares):
            raise BadData(
                f"the positions of market {registry.params[number].id} do not add up to its totals: events since "
                f"start_block {start_block} are missing"
            )


async def difference(
    client: Client, head: Head, morpho: Address, registry: Registry, ledger: Ledger, entries: Sequence[int]
) -> str | None:
    """The first thing about these positions, their markets and the rates there that the contracts say otherwise."""
    numbers = sorted({ledger.market[entry] for entry in entries})
    stored = await states(client, head, morpho, registry, numbers)
    for number, state in zip(numbers, stored, strict=True):
        mine = registry.states[number]
        if registry.kind(number) is Kind.NONE:  # accrues without an event, and without effect
            state = replace(state, updated=mine.updated)
        if mine != state:
            return f"market {registry.params[number].id} is {state} at block {head.number}, the book says {mine}"
    reads = [
        Read(morpho, MORPHO.encode("position", registry.params[ledger.market[e]].key, ledger.name(e))) for e in entries
    ]
    for entry, answer in zip(entries, await client.read(reads, head) if reads else [], strict=True):
        theirs = MORPHO.decode("position", answer)
        held = (ledger.supply[entry], ledger.borrow[entry], ledger.collateral[entry])
        if theirs != held:
            place = registry.params[ledger.market[entry]].place
            return f"{ledger.name(entry)} has {theirs} in market {place} at block {head.number}, the book says {held}"
    return await _rates(client, head, registry, [n for n in numbers if registry.kind(n) is Kind.ADAPTIVE])


async def _rates(client: Client, head: Head, registry: Registry, numbers: Sequence[int]) -> str | None:
    numbers = [n for n in numbers if n in registry.targets]  # without one it is known to be unread
    reads = [irm.rate_read(registry.params[n].irm, registry.params[n], registry.states[n]) for n in numbers]
    for number, answer in zip(numbers, await client.read(reads, head) if reads else [], strict=True):
        (theirs,) = IRM.decode("borrowRateView", answer)
        mine = irm.adaptive_rate(registry.states[number], registry.targets[number], head.timestamp).average
        if theirs != mine:
            return f"market {registry.params[number].id} pays {theirs} at block {head.number}, the book says {mine}"
    return None
