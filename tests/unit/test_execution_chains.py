"""Jobs that count on one another: what is proved when one of them comes to nothing, and who sends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from keeper.execution.chains import before, chains
from keeper.execution.fees import FeePolicy, FixedTip
from keeper.execution.lane import Lane
from keeper.execution.lanes import Lanes
from keeper.execution.prove import ProofSettings, TransactionProver, positions_of
from keeper.execution.simulate import Simulator, Trial
from keeper.execution.submit import DrySubmitter, LiveSubmitter
from keeper.execution.track import Tracker, superseded
from keeper.journal import Journal, queries
from keeper.model import Address, FeeQuote, Head, Simulation, SkipReason
from keeper.ports import Job, Liquidation, Proof
from tests.support.execution_chain import EXECUTOR_AT, GWEI, ME, WETH, Chain, FakeClient, FakeSigner, an_order
from tests.unit.test_strategy_gates import PLAN

pytestmark = pytest.mark.unit

HEAD = Chain().head
YOU = Address("0x" + "70" * 20)
FEES = FeeQuote(GWEI, GWEI)
OTHERS = (("market", Address("0x" + "b1" * 20)), ("market", Address("0x" + "b2" * 20)))


def job(*behind: int) -> Job:
    return Job(((replace(PLAN, fees=FEES), Liquidation((), (), 0)),), behind)


def test_jobs_fall_into_chains_that_know_nothing_of_each_other() -> None:
    """Two that a later one counts on belong together, and keep their order."""
    jobs = [job(), job(), job(0), job(), job(1, 2), job(3)]
    assert chains(jobs) == [(0, 1, 2, 4), (3, 5)]
    assert before(jobs, 4) == {0, 1, 2}
    assert before(jobs, 3) == frozenset()
    assert chains([]) == []


def test_a_position_is_named_once() -> None:
    """However many plans take it."""
    first = replace(PLAN, others=(Address("x"), Address("y")))
    assert positions_of([first, replace(PLAN, borrower=Address("y"))]) == (
        (PLAN.market, PLAN.borrower), (PLAN.market, Address("x")), (PLAN.market, Address("y")),
    )  # fmt: skip


@dataclass
class Node:
    """Says of each job by its calldata what it does, given what has run before it in its chain; None: it cannot."""

    gains: dict[int, int]  # wei; 0: it fails
    needs: dict[int, set[int]] = field(default_factory=dict)  # fails unless these have run
    simulates: bool = True
    rounds: list[list[list[int]]] = field(default_factory=list)

    async def in_order(
        self, head: Head, timestamp: int, groups: Sequence[Sequence[Trial]]
    ) -> list[list[Simulation | None]]:
        self.rounds.append([[trial.data[0] for trial in group] for group in groups])
        found: list[list[Simulation | None]] = []
        for group in self.rounds[-1]:
            done: set[int] = set()
            results: list[Simulation | None] = []
            for place in group:
                gain = self.gains[place] if self.needs.get(place, set()) <= done else 0
                if gain:
                    done.add(place)
                ran = Simulation(head, bool(gain), gain, 100_000, None if gain else "Gone()")
                results.append(ran if self.simulates or not results else None)
            found.append(results)
        return found


class Prover(TransactionProver):
    """Its calldata is the number of the job."""

    def _calldata(self, job: Job, key: str) -> bytes:
        return bytes([int(key, 16)])


async def proved(node: Node, jobs: Sequence[Job]) -> list[Proof]:
    numbers = iter(range(len(jobs)))
    policy = FeePolicy(FixedTip(), GWEI, GWEI, 300 * GWEI)
    settings = ProofSettings(EXECUTOR_AT, WETH, 10**16, 100, 12, 36)
    prover = Prover(cast(Simulator, node), policy, {}, {}, settings, lambda: f"0x{next(numbers):064x}")
    return await prover.prove(jobs, HEAD, FEES)


def told(proofs: Sequence[Proof]) -> list[tuple[bool, tuple[int, ...]]]:
    return [(proof.order is not None, proof.behind) for proof in proofs]


ETH = 10**18


async def test_a_chain_that_holds_is_sent_in_order_with_one_key() -> None:
    """Each says what ran before it; what stands alone is bound to nobody."""
    node = Node({0: ETH, 1: ETH, 2: ETH, 3: ETH}, {2: {0}})
    proofs = await proved(node, [job(), job(), job(0), job(2)])
    assert told(proofs) == [(True, ()), (True, ()), (True, (0,)), (True, (0, 2))]
    assert node.rounds == [[[0, 2, 3], [1]]]
    keys = [proof.order.chain for proof in proofs if proof.order is not None]
    assert keys[0] == keys[2] == keys[3] != ""
    assert keys[1] == ""


async def test_what_needs_one_that_fails_ends_for_its_own_reason_and_what_does_not_stands() -> None:
    """What failed has left no trace: the simulation already is the one without it."""
    node = Node({0: 0, 1: ETH, 2: ETH}, {1: {0}})
    proofs = await proved(node, [job(), job(0), job(0)])
    assert told(proofs) == [(False, ()), (False, ()), (True, ())]
    assert [p.skip.reason for p in proofs if p.skip] == [SkipReason.SIMULATION_REVERTED] * 2
    assert len(node.rounds) == 1


async def test_what_ran_behind_one_not_worth_sending_is_run_again_without_it() -> None:
    """The one that earns too little would have moved the pools; it still counts as having been run."""
    node = Node({0: 10**12, 1: ETH, 2: ETH}, {2: {1}})
    proofs = await proved(node, [job(), job(0), job(0, 1)])
    assert told(proofs) == [(False, ()), (True, ()), (True, (1,))]
    assert node.rounds == [[[0, 1, 2]], [[1, 2]]]
    assert proofs[0].simulation is not None
    assert proofs[0].skip is not None
    assert proofs[0].skip.reason is SkipReason.SIMULATION_SHORT


async def test_what_needs_one_not_worth_sending_fails_without_it() -> None:
    """And there are never more than two rounds."""
    node = Node({0: 10**12, 1: ETH, 2: ETH}, {1: {0}})
    proofs = await proved(node, [job(), job(0), job(1)])
    assert told(proofs) == [(False, ()), (False, ()), (True, ())]
    worse = Node({0: 10**12, 1: 10**12, 2: ETH}, {})
    assert [proof.order is None for proof in await proved(worse, [job(), job(0), job(1)])] == [True, True, False]
    assert len(worse.rounds) == 2


async def test_a_node_that_cannot_run_chains_leaves_all_but_the_first() -> None:
    """With a reason that says so."""
    proofs = await proved(Node({0: ETH, 1: ETH}, simulates=False), [job(), job(0)])
    assert told(proofs) == [(True, ()), (False, (0,))]
    assert proofs[1].skip is not None
    assert proofs[1].skip.reason is SkipReason.SUPERSEDED
    assert "eth_simulateV1" in proofs[1].skip.detail


async def journal_at(path: Path) -> Journal:
    return await Journal.open(path / "journal.sqlite3", 1, "live")


async def test_orders_of_one_chain_go_through_one_key(tmp_path: Path) -> None:
    """Two keys with equally little to do: without a chain the orders are spread, with one they are not."""
    journal, client = await journal_at(tmp_path), FakeClient(Chain())
    lanes = Lanes(journal, [Lane(client, journal, FakeSigner(key)) for key in (ME, YOU)])
    for number in range(4):
        order = an_order(HEAD, bytes([number] * 20), f"0x{number + 1:064x}")
        await lanes.submit(replace(order, chain="one" if number < 3 else ""))
    found = {int(attempt.id, 16): (attempt.signer, attempt.nonce) for attempt in await journal.unsettled()}
    first = found[1][0]
    assert [found[number] for number in (1, 2, 3)] == [(first, nonce) for nonce in range(found[1][1], found[1][1] + 3)]
    assert found[4][0] != first
    await journal.close()


async def test_every_position_of_an_order_is_in_flight_with_it(tmp_path: Path) -> None:
    """It is one attempt, which the journal tells of each of its borrowers; a newer one on any of them outdates it."""
    journal, client = await journal_at(tmp_path), FakeClient(Chain())
    lane = Lane(client, journal, FakeSigner(ME))
    submitter = LiveSubmitter(journal, lane, Tracker(client, journal, lane, 3))
    order = replace(an_order(HEAD, bytes(20), "0x" + "01" * 32), others=OTHERS)
    await submitter.submit(order)
    assert submitter.pending == 1
    assert [submitter.in_flight(*key, HEAD) for key in order.positions] == [order.id] * 3
    (attempt,) = await journal.unsettled()
    assert attempt.positions == order.positions
    for _, borrower in order.positions:
        rows = await journal.ask(partial(queries.attempts, borrower=borrower))
        assert [(row.id, row.others) for row in rows] == [(order.id, OTHERS)]
    assert await journal.ask(lambda db: queries.attempts(db, borrower="0x" + "b3" * 20)) == []
    newer = replace(attempt, id="newer", borrower=OTHERS[1][1], others=(), head_number=attempt.head_number + 1)
    assert superseded([attempt, newer]) == {order.id}
    await journal.close()


async def test_a_dry_run_holds_every_position_of_an_order(tmp_path: Path) -> None:
    """As if it were on its way."""
    journal = await journal_at(tmp_path)
    dry = DrySubmitter(FakeClient(Chain()), journal, ME)
    order = replace(an_order(HEAD, bytes(20), "0x" + "01" * 32), others=OTHERS)
    await dry.submit(order)
    assert [dry.in_flight(*key, HEAD) for key in order.positions] == [order.id] * 3
    await journal.close()
