"""Plans behind one another and plans in one transaction, mined through the real prover and executor, to the wei."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from keeper.assembly import Assembly, assemble
from keeper.config import load
from keeper.devchain.actors import account
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.execution.executor import gain_from_receipt
from keeper.model import Address, FeeQuote, Order, Plan, SkipReason, market_of
from keeper.ports import Job, Proof
from keeper.protocols.aave_v3 import AaveV3Book
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.scene import Scene
from keeper.strategy.sequence import Sequence as InOrder
from keeper.strategy.turns import Ordering, Turn, turns
from tests.parity.test_plan_to_mined import POOL, _deploy, _market_day
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261126"))
FEES = FeeQuote(10**9, 10**8)
ALONE = Ordering(items=1)
TOGETHER = Ordering(items=4, risk_bps=0)
ENV = {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h", "KEEPER__STRATEGY__PROFIT_FLOOR": "0.0001 ether"}


@dataclass
class Stage:
    """A keeper that plans and proves, and a hand that mines what it proved."""

    fork: Fork
    parts: Assembly
    executor: Address
    shares: list[int] = field(default_factory=list)

    async def scene(self) -> Scene:
        head = await self.parts.client.head()
        assert not (await self.parts.follower.advance(head)).behind
        books = {book.name: book for book in self.parts.books}
        quoter = self.parts.quoter(FEES, frozenset())
        return Scene(
            self.parts.appraiser, books, quoter, FEES, head, head.timestamp + 12, head.timestamp, lambda *_: False
        )

    def found(self, scene: Scene) -> list[Opportunity]:
        return [
            one
            for book in scene.books.values()
            for handle in book.screen(scene.timestamp)
            if (one := scene.look(book, handle)) is not None
        ]

    async def proved(self, scene: Scene, ordering: Ordering) -> list[tuple[Turn, Proof]]:
        order = InOrder(self.found(scene), scene, ordering.renewals)
        for _ in order.steps():
            pass
        self.check_positions(scene, order)
        found = turns(order.taken, ordering)
        proofs = await self.parts.prover.prove([turn.job for turn in found], scene.head, FEES)
        return list(zip(found, proofs, strict=True))

    def check_positions(self, scene: Scene, order: InOrder) -> None:
        """Behind those before it each position is what a book builds that has built none before."""
        behind: list[Plan] = []
        for taken in order.taken:
            book = scene.books[market_of(taken.plan.market)]
            assert isinstance(book, AaveV3Book)
            before = [plan for plan in behind if market_of(plan.market) == book.name]
            handle = taken.opportunity.position.account.handle
            known = book.position(handle, scene.timestamp, before)
            fresh = book.with_prices({}).position(handle, scene.timestamp, before)
            assert known is not None
            assert fresh is not None
            assert replace(known, pairs=()) == replace(fresh, pairs=())
            for one, other in zip(known.pairs, fresh.pairs, strict=True):
                assert one.feasible == other.feasible
                for repay in [end for interval in one.feasible for end in interval]:
                    assert (one.seize(repay), one.budget(repay)) == (other.seize(repay), other.budget(repay))
            behind.append(taken.plan)

    def mine(self, orders: Sequence[Order]) -> list[dict[str, object]]:
        """All in one block, in this order, at the time that they were planned for."""
        with self.fork.actors.block(12, strict=False) as receipts:
            for order in orders:
                self.fork.actors.submit(OPERATOR, self.executor, order.data, gas=order.gas_limit)
        return receipts

    def check(self, order: Order, plans: Sequence[Plan], receipt: dict[str, object]) -> None:
        what = [f"{plan.borrower}: {plan.debt.symbol} for {plan.collateral.symbol}" for plan in plans]
        assert receipt["status"] == "0x1", what
        done = gain_from_receipt(receipt["logs"], self.executor)  # type: ignore[arg-type]  # a raw receipt
        assert done is not None
        assert done.gain == order.predicted_gain == sum(plan.gain for plan in plans), what
        assert liquidated(receipt) == [plan.borrower for plan in plans]
        assert order.positions == tuple((plan.market, plan.borrower) for plan in plans)
        for token in {token for plan in plans for token in (plan.debt.address, plan.collateral.address)}:
            assert self.fork.rpc.view(token, "balanceOf(address)", self.executor) == 0, what


def liquidated(receipt: dict[str, object]) -> list[str]:
    logs: list[dict[str, object]] = receipt["logs"]  # type: ignore[assignment]  # a raw receipt
    topic = POOL.topic("LiquidationCall")
    return ["0x" + str(log["topics"][3])[26:] for log in logs if log["topics"][0] == topic]  # type: ignore[index]  # likewise


@asynccontextmanager
async def stage(fork: Fork, folder: Path) -> AsyncIterator[Stage]:
    executor = _deploy(fork)
    path = folder / "keeper.toml"
    path.write_text(config_text(fork.world, fork.ws, folder, 12, 0, executor))
    (folder / "operator.key").write_text(OPERATOR_KEY)
    async with assemble(load(path, ENV), live=False) as parts:
        await parts.start()
        yield Stage(fork, parts, executor)


async def _days(on: Stage, seed: int, days: int) -> None:
    rng = random.Random(seed)
    counts = {"transactions": 0, "plans": 0, "behind others": 0, "shared": 0}
    for day in range(1, days + 1):
        _market_day(on.fork.actors, on.fork, rng, day)
        while True:
            scene = await on.scene()
            proved = await on.proved(scene, TOGETHER if day % 2 else ALONE)
            sendable = [(turn, proof, proof.order) for turn, proof in proved if proof.order is not None]
            assert [proof.skip for _, proof in proved if proof.order is None] == []
            if not sendable:
                break
            receipts = on.mine([order for *_, order in sendable])
            for (turn, proof, order), receipt in zip(sendable, receipts, strict=True):
                on.check(order, turn.plans, receipt)
                assert proof.behind == () or order.chain
                counts["transactions"] += 1
                counts["plans"] += len(turn.items)
                counts["behind others"] += bool(proof.behind)
                counts["shared"] += len(turn.items) > 1
    print(f"seed {seed}: {counts}")
    assert counts["behind others"] >= 2
    assert counts["shared"] >= 2


async def test_chains_and_batches_are_mined_to_the_wei(fork: Fork, tmp_path: Path) -> None:
    """Everything liquidatable on two markets in one block each: planned behind one another, also in one transaction."""
    async with stage(fork, tmp_path) as on:
        await _days(on, SEED, 2)


@pytest.mark.long
async def test_chains_and_batches_are_mined_to_the_wei_at_length(fork: Fork, tmp_path: Path) -> None:
    """The same for twenty days."""
    async with stage(fork, tmp_path) as on:
        await _days(on, SEED + 1, 20)


async def _batch(on: Stage, seed: int) -> tuple[Scene, Turn, Proof]:
    """A transaction with at least three plans that counts on no other, after as many days as it takes."""
    rng = random.Random(seed)
    for day in range(1, 8):
        _market_day(on.fork.actors, on.fork, rng, day)
        scene = await on.scene()
        for turn, proof in await on.proved(scene, TOGETHER):
            if len(turn.items) >= 3 and not proof.behind and proof.order is not None:
                return scene, turn, proof
    raise AssertionError("no such transaction in a week")


def _rival(on: Stage, plan: Plan) -> None:
    """Somebody else liquidates the position, to be mined next; their money comes from nowhere."""
    who, market = account("rival"), on.fork.world.markets[plan.market]
    actors, amount = on.fork.actors, plan.seizure.repaid * 2
    actors.fund(who, plan.debt.symbol, amount)
    actors.liquidate(market, who, plan.borrower, plan.collateral.symbol, plan.debt.symbol, plan.seizure.repaid)


async def test_an_item_that_a_rival_took_is_left_out_and_the_rest_earns_exactly_the_rest(
    fork: Fork, tmp_path: Path
) -> None:
    """The last item is gone when the transaction runs: the others are executed and bring what they were to bring."""
    async with stage(fork, tmp_path) as on:
        _, turn, proof = await _batch(on, SEED + 2)
        order, gone = proof.order, turn.plans[-1]
        assert order is not None
        with fork.actors.block(12, strict=False) as receipts:
            _rival(on, gone)
            fork.actors.submit(OPERATOR, on.executor, order.data, gas=order.gas_limit)
        assert liquidated(receipts[-2]) == [gone.borrower]
        done = gain_from_receipt(receipts[-1]["logs"], on.executor)
        assert done is not None
        assert liquidated(receipts[-1]) == [plan.borrower for plan in turn.plans[:-1]]
        assert done.gain == order.predicted_gain - gone.gain


async def test_what_a_shared_transaction_saves(fork: Fork, tmp_path: Path) -> None:
    """Each plan that joins saves at least the gas that joining is weighed with."""
    async with stage(fork, tmp_path) as on:
        scene, turn, proof = await _batch(on, SEED + 3)
        assert proof.simulation is not None
        jobs = [Job((item,), tuple(range(place))) for place, item in enumerate(turn.job.items)]
        apart = await on.parts.prover.prove(jobs, scene.head, FEES)
        gas = sum(one.simulation.gas_used for one in apart if one.simulation is not None)
        saved = (gas - proof.simulation.gas_used) // (len(jobs) - 1)
        print(f"seed {SEED + 3}: {len(jobs)} plans take {gas} gas apart, {proof.simulation.gas_used} together")
        print(f"{saved} saved by each that joins")
        assert [one.simulation.gain for one in apart if one.simulation] == [plan.gain for plan in turn.plans]
        assert saved >= Ordering().joined_gas


async def test_what_counts_on_a_failed_transaction_stands_only_if_it_passes_without(fork: Fork, tmp_path: Path) -> None:
    """The first of a chain cannot run: the next ones are judged as they run without it, and count on it no more."""
    async with stage(fork, tmp_path) as on:
        scene, turn, _ = await _batch(on, SEED + 2)
        items = turn.job.items
        plan, way = items[0]
        broken = Job(((plan, replace(way, guards=(replace(way.guards[0], minimum=2**255),))),))
        jobs = [broken, *(Job((item,), tuple(range(place))) for place, item in enumerate(items[1:], 1))]
        first, *others = await on.parts.prover.prove(jobs, scene.head, FEES)
        assert first.skip is not None
        assert first.skip.reason is SkipReason.SIMULATION_REVERTED
        for proof in others:
            assert 0 not in proof.behind
            assert proof.simulation is not None
            assert (proof.order is None) == (proof.skip is not None)
