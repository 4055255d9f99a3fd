"""A node that misbehaves in every way we could think of, between the chain and a live keeper."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from keeper.devchain.world import Built
from tests.faults.kinds import KINDS, Kind
from tests.faults.rig import Rig, rig
from tests.support.fault_proxy import Fault

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("faults")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
RUNS = 2


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_a_fault_is_survived(built: Built, tmp_path: Path, transport: str) -> None:
    """A sample of 36 kinds, twice each: the keeper recovers, equals the chain, and acts on nothing it does not know."""
    await campaign(built, tmp_path, transport, RUNS, sample(transport))


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_every_fault_is_survived_a_hundred_times(built: Built, tmp_path: Path, transport: str) -> None:
    """Every kind, over both transports (KEEPER_RUNS times instead of a hundred; KEEPER_FAULT takes one by its name)."""
    kinds = [kind for kind in KINDS if transport in kind.transports and os.environ.get("KEEPER_FAULT", "") in kind.name]
    await campaign(built, tmp_path, transport, int(os.environ.get("KEEPER_RUNS", "100")), kinds)


def sample(transport: str) -> list[Kind]:
    """Eighteen kinds; those of one transport are not those of the other, and another seed takes others."""
    shuffled = random.Random(SEED).sample(KINDS, len(KINDS))
    ws = [kind for kind in shuffled if "ws" in kind.transports][:18]
    return ws if transport == "ws" else [k for k in shuffled if "http" in k.transports and k not in ws][:18]


async def campaign(built: Built, folder: Path, transport: str, runs: int, kinds: list[Kind]) -> None:
    """Every kind `runs` times; after a failure the rest goes on with a fresh keeper, and all failures are told."""
    todo = [(kind, SEED + 1_000 * number + KINDS.index(kind)) for number in range(runs) for kind in kinds]
    tally: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    failures: list[str] = []
    while todo:
        work = folder / f"{transport}-{len(todo)}"
        work.mkdir()
        async with rig(built, work, transport, SEED) as made:
            try:
                while todo:
                    kind, seed = todo.pop(0)
                    slow, struck = await one(made, kind, seed)
                    hits[kind.name] += struck
                    tally["runs"] += 1
                    tally["slowest recovery, ms"] = max(tally["slowest recovery, ms"], round(slow * 1_000))
                assert not await made.bookkeeping()
            except AssertionError as error:
                failures.append(str(error))
                print("FAILED", error)
            tally.update(row.state for row in await made.attempts())
            tally["orders"] += len(made.desk.orders)
            tally["orders on a lie"] += len(made.desk.untrue)
    print(f"seed {SEED}, {transport}: {len(kinds)} kinds, {dict(tally)}, struck {sum(hits.values())} times")
    assert not failures, "\n".join(failures)
    assert not [kind.name for kind in kinds if not hits[kind.name]], "these kinds disturbed nothing"


async def one(made: Rig, kind: Kind, seed: int) -> tuple[float, int]:
    """One run; the seconds until the keeper had recovered, and how often the fault struck."""
    what = f"{kind.name} (seed {seed})"
    made.rng = random.Random(seed)
    made.fall(0)
    if seed % 8 == 0:
        made.actors.align({s: made.actors.price(s) for s in made.world.feeds})
    made.borrower()
    await made.recovered(what)
    before = len(made.desk.untrue)
    fault = made.proxy.fault = kind.make(made.rng)
    for block in range(4):
        if block == 1:
            made.fall(5)
        made.trade()
        await made.breathe(0.15)
        made.alive(what)
    made.proxy.fault = Fault()
    slow = await made.recovered(what)
    for _ in range(6 if kind.deceives else 0):  # what one node keeps back is found by the next audit, not before
        made.actors.mine(strict=False)
        await made.recovered(what)
    await made.quiet(what)
    wrong = made.desk.untrue[before:]
    assert kind.deceives or not wrong, f"{what}: {wrong}"
    await made.exact(what)
    return slow, fault.hits
