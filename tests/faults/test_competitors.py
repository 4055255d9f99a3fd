"""Others want the same: they take the position first, outbid, or move the pools between simulation and inclusion."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from keeper.devchain.actors import account
from keeper.devchain.catalogue import BASE_FEE
from keeper.devchain.serve import OPERATOR
from keeper.devchain.world import Built
from keeper.journal.queries import AttemptRow
from keeper.model import Address
from tests.faults.kinds import SEND
from tests.faults.rig import Rig, rig
from tests.support.fault_proxy import Fault, Json

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("faults")]

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
RIVAL = account("rival")
WAYS = ("takes it first", "takes a part first", "sandwiches the pools", "fills the blocks", "replaces its own gas")
EARLY_EXIT = 60_000  # gas; what a race lost to whoever took the position first may cost


class Rival(Fault):
    """Sees our transaction on its way to the pool, and puts its own in front of it."""

    def __init__(self, made: Rig, way: str, borrower: Address) -> None:
        self.made, self.way, self.borrower = made, way, borrower
        self.market = next(m for m in made.world.markets.values() if borrower in made.users[m.name])

    def request(self, request: Json) -> Json | None:
        if request["method"] == SEND and not self.hits:
            self.hits += 1
            self._act()
        return request

    def _act(self) -> None:
        actors, rng = self.made.actors, self.made.rng
        actors._collecting = True  # mined with ours, and before it
        try:
            match self.way:
                case "takes it first":
                    actors.liquidate(self.market, RIVAL, self.borrower, "WETH", "USDC")
                case "takes a part first":
                    part = actors.worth("USDC", rng.randrange(500, 8_000))
                    actors.liquidate(self.market, RIVAL, self.borrower, "WETH", "USDC", part)
                case "sandwiches the pools":
                    for pool in actors.world.uniswap.pools:
                        if "WETH" in (pool.token0, pool.token1) and not pool.thin:
                            amount = actors.worth("WETH", rng.randrange(1_000, 3_000_000))
                            actors.swap(pool, zero_for_one=pool.token0 == "WETH", amount=amount)
                case "fills the blocks":
                    actors.base_fee = BASE_FEE * 200
                case "replaces its own gas":
                    for _ in range(3):
                        actors.liquidate(self.market, RIVAL, self.borrower, "WETH", "USDC")
        finally:
            actors._collecting = False


async def test_lost_races_cost_an_early_exit_and_nothing_else(built: Built, tmp_path: Path) -> None:
    """Whatever rivals do in front of us: no loss but gas, and never less than the on-chain floor where we succeed."""
    await compete(built, tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_lost_races_at_length(built: Built, tmp_path: Path) -> None:
    """The same, forty times each way."""
    await compete(built, tmp_path, 40)


async def compete(built: Built, folder: Path, rounds: int) -> None:
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    gas: dict[str, list[int]] = defaultdict(list)
    async with rig(built, folder, "ws", SEED) as made:
        for market in made.world.markets.values():
            made.actors.fund(RIVAL, "USDC", 10**14)
            made.actors.approve(RIVAL, market.pool, "USDC")
        for number in range(rounds * len(WAYS)):
            way = WAYS[number % len(WAYS)]
            made.rng = random.Random(SEED + number)
            for row in await race(made, way, f"{way} (seed {SEED + number})"):
                ends[way][row.state] += 1
                if row.state == "reverted":
                    gas[way].append(row.gas_used or 0)
        assert not await made.bookkeeping()
    told = {way: dict(found) for way, found in ends.items()}
    dear = {way: max(found) for way, found in gas.items()}
    print(f"seed {SEED}: {rounds} races each way: {told}; most gas of a revert: {dear}")
    assert gas["takes it first"], "no race was lost"
    assert max(gas["takes it first"]) <= EARLY_EXIT


async def race(made: Rig, way: str, what: str) -> list[AttemptRow]:
    made.actors.base_fee = BASE_FEE
    made.actors.align({symbol: made.actors.price(symbol) for symbol in made.world.feeds})
    made.fall(0)
    made.actors.align({symbol: made.actors.price(symbol) for symbol in made.world.feeds})
    borrower = made.borrower()
    await made.recovered(what)
    before, wealth = {row.id for row in await made.attempts()}, worth(made)
    made.proxy.fault = rival = Rival(made, way, borrower)
    made.fall(5)
    await made.recovered(what)
    assert rival.hits, f"{what}: there was no race"
    for _ in range(3):
        made.actors.mine(strict=False)
        await made.recovered(what)
    made.proxy.fault = Fault()
    made.actors.base_fee = BASE_FEE
    await made.quiet(what)
    rows = [row for row in await made.attempts() if row.id not in before]
    paid = sum((row.gas_used or 0) * (row.gas_price or 0) for row in rows)
    gained = sum(row.gain or 0 for row in rows if row.state == "mined")
    assert worth(made) - wealth == gained - paid, f"{what}: more was lost than gas, or less was gained than booked"
    for row in rows:
        if row.state == "mined":
            assert row.gain is not None
            floor = row.predicted_gain * (10_000 - made.parts.config.strategy.max_slippage_bps) // 10_000
            assert row.gain >= min(floor, row.predicted_gain), f"{what}: {row.gain} < {floor}"
    await made.exact(what)
    return rows


def worth(made: Rig) -> int:
    """Wei of ether, wrapped or not, that belong to the keeper."""
    native = int(made.truth.request("eth_getBalance", OPERATOR, "latest"), 16)
    return native + made.actors.balance(OPERATOR, "WETH")
