"""The chain changes its mind, one to thirty-two blocks deep, around a liquidation that was sent."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from keeper.devchain.world import Built
from tests.faults.rig import Rig, rig

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("faults")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))


async def test_reorganisations_around_a_liquidation(built: Built, tmp_path: Path) -> None:
    """Depths 1 to 32, sampled: journal equal to the chain, nothing sent twice, every mirror exact."""
    await reorganise(built, tmp_path, [1, 2, 3, 5, 9, 17, 32])


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_every_depth_several_times(built: Built, tmp_path: Path) -> None:
    """The same for each depth from 1 to 32, four times, each time on a fresh chain.

    After about a thousand blocks anvil rolls back to a state without contracts: that would be no reorganisation.
    """
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        await reorganise(built, folder, [*range(1, 33)], 32 * number)


async def reorganise(built: Built, folder: Path, depths: list[int], first: int = 0) -> None:
    tally: Counter[str] = Counter()
    async with rig(built, folder, "ws", SEED) as made:
        for number, depth in enumerate(depths, start=first):
            made.rng = random.Random(SEED + number)
            tally[await one(made, depth, f"depth {depth} (seed {SEED + number})")] += 1
        wrong = await made.bookkeeping()
        rows = await made.attempts()
    print(
        f"seed {SEED + first}: {len(depths)} reorganisations, {dict(tally)}, {dict(Counter(row.state for row in rows))}"
    )
    assert not wrong
    assert tally["undone"] >= len(depths) // 3, "too few of them took a liquidation back"


async def one(made: Rig, depth: int, what: str) -> str:
    """One liquidation and one reorganisation; whether it was taken back, and with what it stands in the end."""
    made.fall(0)
    made.borrower()
    for _ in range(made.rng.randrange(3)):
        made.trade()
    await made.recovered(what)
    before = made.nonce()
    ordered = len(made.desk.orders)
    made.fall(5)
    await made.recovered(what)
    assert len(made.desk.orders) > ordered, f"{what}: there was nothing to liquidate"
    for _ in range(made.rng.randrange(0, min(depth, 12) + 1)):  # 0: sent, and not mined yet
        made.trade()
        await made.breathe(0.2)
    spent = made.nonce()
    made.anvil.rpc.request("anvil_reorg", depth, [])
    assert made.truth.request("eth_getCode", made.world.main.pool, "latest") != "0x", "anvil has lost its state"
    made.actors._paid.clear()  # what they were given may be gone
    undone = spent > made.nonce()
    await made.recovered(what)
    made.fall(5)
    await made.quiet(what)
    assert not made.desk.untrue, f"{what}: {made.desk.untrue}"
    await made.exact(what)
    assert made.nonce() >= before
    return "undone" if undone else "kept"
