"""The sending side against a real node: simulate, sign, send, mine, reorganise, replace, cancel, recover."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from eth_account import Account

from keeper.chain.client import NodeClient
from keeper.config.values import Secret
from keeper.devchain.anvil import Anvil
from keeper.errors import Transient
from keeper.execution.executor import state_override
from keeper.execution.fees import Bid, FeePolicy, FeeSource, PercentileTip, bid, gas_limit_up
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.recover import recover
from keeper.execution.replies import Reception, combine
from keeper.execution.signer import LocalSigner, Unsigned, load_signer
from keeper.execution.simulate import Simulator, Trial, funded
from keeper.execution.submit import DrySubmitter, LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.journal import Journal, queries
from keeper.model import Address, AttemptState, Hash, Head, Order, TxKind, address
from keeper.program import Guard, Step
from tests.support.bench import BENEFICIARY, ETH, OWNER, STRANGER, Bench, make_bench

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
KEY = "0x" + random.Random(SEED).randbytes(32).hex()
ME = address(Account.from_key(KEY).address)
GWEI = 10**9
MISSING = address("0x" + "77" * 20)
TRIAL = Bid(3_000_000, 100 * GWEI, GWEI)


@dataclass
class World:
    """A live keeper's sending side on a bench whose executor ME operates."""

    bench: Bench
    client: NodeClient
    signer: LocalSigner
    journal: Journal
    lane: Lane
    tracker: Tracker
    submitter: LiveSubmitter

    async def head(self) -> Head:
        return await self.client.head()

    def data(self, attempt_id: str, *steps: Step, guards: tuple[Guard, ...] = (), min_gain: int = 0) -> bytes:
        return self.bench.encode(steps, id=bytes.fromhex(attempt_id[2:]), guards=guards, min_gain=min_gain)

    async def order(self, gain: int = ETH, offer: Bid = TRIAL, borrower: int = 1, min_gain: int = 0) -> Order:
        """An order that brings `gain` wei of WETH from nowhere."""
        head, attempt_id = await self.head(), new_attempt_id()
        steps = (self.bench.earn(gain),)
        return Order(
            id=attempt_id,
            market="bench",
            borrower=Address(f"0x{borrower:040x}"),
            to=self.bench.executor,
            data=self.data(attempt_id, *steps, min_gain=min_gain),
            gas_limit=offer.gas_limit,
            max_fee=offer.max_fee,
            tip=offer.tip,
            head=head,
            predicted_gain=gain,
            predicted_gas=150_000,
            predicted_net=gain - 150_000 * 2 * GWEI,
        )

    def mine(self, blocks: int = 1) -> None:
        self.bench.rpc.request("anvil_mine", hex(blocks))

    async def state(self, attempt_id: str) -> tuple[str, bool]:
        rows = await self.journal.ask(queries.attempts)
        return next((row.state, row.closed) for row in rows if row.id == attempt_id)

    def nonce(self) -> int:
        return int(self.bench.rpc.request("eth_getTransactionCount", ME, "latest"), 16)


@pytest_asyncio.fixture
async def live(anvil: Anvil, tmp_path: Path) -> AsyncIterator[World]:
    anvil.rpc.request("anvil_autoImpersonateAccount", True)
    bench = make_bench(anvil.rpc)
    anvil.rpc.request("anvil_setBalance", ME, hex(1_000 * ETH))
    bench.tell(bench.executor, "setOperator(address,bool)", ME, True)
    anvil.rpc.request("anvil_autoImpersonateAccount", False)
    async with NodeClient.connect([anvil.ws], chain_id=31337, max_age=10**9, attempts=1) as client:
        signer = load_signer(31337, private_key=Secret(KEY))
        journal = await Journal.open(tmp_path / "journal.sqlite3", 31337, "live")
        lane = Lane(client, journal, signer, LanePolicy(max_age=5, rebroadcast_every=1, bump_every=2))
        tracker = Tracker(client, journal, lane, confirmations=3)
        yield World(bench, client, signer, journal, lane, tracker, LiveSubmitter(journal, lane, tracker))
        await journal.close()


async def test_simulation_equals_the_mined_transaction(live: World) -> None:
    """Gain and gas of several trials in one round trip are what the same transactions then do, to the wei and unit."""
    rng = random.Random(SEED)
    for _ in range(5):
        head = await live.head()
        gains = [rng.randrange(1, 10 * ETH) for _ in range(3)]
        ids = [new_attempt_id() for _ in gains]
        simulator = Simulator(live.client, live.bench.executor, ME)
        trials = [
            Trial(live.data(i, live.bench.earn(g)), TRIAL.gas_limit, TRIAL.max_fee, TRIAL.tip)
            for i, g in zip(ids, gains, strict=True)
        ]
        before = live.client.stats.requests
        found = await simulator.run(head, head.timestamp + 12, trials)
        assert live.client.stats.requests == before + 1
        assert [s.gain for s in found] == gains
        assert all(s.ok and s.head == head for s in found)
        order = await live.order(gains[0])
        chosen = (
            await simulator.run(head, head.timestamp + 12, [Trial(order.data, order.gas_limit, order.max_fee, 1)])
        )[0]
        await live.submitter.submit(order)
        live.mine()
        (verdict,) = [v for v in await live.submitter.settle(await live.head()) if v.attempt_id == order.id]
        assert verdict.outcome is not None
        assert (verdict.outcome.gain, verdict.outcome.gas_used) == (chosen.gain, chosen.gas_used)
        tight = gas_limit_up(chosen.gas_used)
        assert (await simulator.run(head, head.timestamp + 12, [Trial(order.data, tight, order.max_fee, 1)]))[0].ok


async def test_simulation_sees_the_next_block(live: World) -> None:
    """Block number, time and base fee inside a simulation are the next block's, both ways of asking."""
    probe = address("0x" + "9b" * 20)
    head = await live.head()
    for opcode, expected in (("43", head.number + 1), ("42", head.timestamp + 7), ("48", head.next_base_fee())):
        code = {probe: {"code": f"0x{opcode}5f5260205ff3"}}
        simulator = Simulator(live.client, probe, ME, code)
        for simulate in (True, False):
            simulator._has_simulate = simulate
            (found,) = await simulator.run(head, head.timestamp + 7, [Trial(b"", 100_000, 100 * GWEI, 1)])
            assert (found.ok, found.gain) == (True, expected)


async def test_simulation_explains_reverts(live: World) -> None:
    """A closed guard, a missed floor and a wrong sender are named, in a batch with trials that succeed."""
    head = await live.head()
    earn = live.bench.earn(ETH)
    gone = Guard(live.bench.weth, bytes.fromhex("18160ddd"), 0, 1)  # totalSupply() is far above 1
    fine, floor, guarded = (
        live.data(new_attempt_id(), earn),
        live.data(new_attempt_id(), earn, min_gain=2 * ETH),
        live.data(new_attempt_id(), earn, guards=(gone,)),
    )
    trials = [Trial(data, 3_000_000, 100 * GWEI, 1) for data in (fine, floor, guarded)]
    for simulate in (True, False):
        simulator = Simulator(live.client, live.bench.executor, ME)
        simulator._has_simulate = simulate
        found = await simulator.run(head, head.timestamp + 1, trials)
        assert [s.ok for s in found] == [True, False, False]
        assert found[1].revert == f"GainTooLow({ETH}, {2 * ETH})"
        assert found[2].revert == "Gone()"
        stranger = Simulator(live.client, live.bench.executor, STRANGER)
        stranger._has_simulate = simulate
        assert (await stranger.run(head, head.timestamp + 1, trials[:1]))[0].revert == "NotOperator()"
        nobody = Simulator(live.client, MISSING, ME)
        nobody._has_simulate = simulate
        (nothing,) = await nobody.run(head, head.timestamp + 1, trials[:1])
        assert not nothing.ok
        assert "no executor" in str(nothing.revert)


async def test_dry_run_simulates_an_executor_that_is_not_there(live: World) -> None:
    """With code and balance injected, an undeployed executor and a penniless sender simulate as if they were real."""
    penniless = address("0x" + "66" * 20)
    head = await live.head()
    bench = Bench(live.bench.rpc, MISSING, live.bench.weth, live.bench.contracts)
    data = bench.encode((bench.earn(ETH),), id=bytes(32))
    overrides: dict[Address, dict[str, Any]] = dict(funded(penniless))
    overrides.update((Address(k), v) for k, v in state_override(MISSING, OWNER, penniless, BENEFICIARY).items())
    simulator = Simulator(live.client, MISSING, penniless, overrides)
    for simulate in (True, False):
        simulator._has_simulate = simulate
        (found,) = await simulator.run(head, head.timestamp + 12, [Trial(data, 3_000_000, 100 * GWEI, 1)])
        assert (found.ok, found.gain) == (True, ETH)
    poor = Simulator(live.client, live.bench.executor, penniless)
    (refused,) = await poor.run(head, head.timestamp + 12, [Trial(data, 3_000_000, 100 * GWEI, 1)])
    assert not refused.ok
    unknown = replace(head, hash=Hash("0x" + "12" * 32))
    with pytest.raises(Transient):
        await simulator.run(unknown, head.timestamp + 12, [Trial(data, 3_000_000, 100 * GWEI, 1)])


async def test_send_mine_confirm(live: World) -> None:
    """intent → signed → sent → mined → closed, with the gain at the beneficiary equal to the outcome's."""
    before = live.bench.balance(live.bench.weth, BENEFICIARY)
    order = await live.order(3 * ETH)
    sending = await live.submitter.submit(order)
    assert sending.reception is Reception.ACCEPTED
    assert live.submitter.in_flight("bench", order.borrower, order.head) == order.id
    live.mine()
    (verdict,) = await live.submitter.settle(await live.head())
    assert verdict.state is AttemptState.MINED
    assert verdict.outcome is not None
    assert verdict.outcome.gain == live.bench.balance(live.bench.weth, BENEFICIARY) - before == 3 * ETH
    assert live.submitter.in_flight("bench", order.borrower, order.head) is None
    assert await live.state(order.id) == ("mined", False)
    live.mine(2)
    await live.submitter.settle(await live.head())
    assert await live.state(order.id) == ("mined", True)
    steps = await live.journal.ask(lambda db: queries.events(db, order.id))
    assert [step.after for step in steps] == ["intent", "signed", "sent", "mined"]
    (row,) = await live.journal.ask(queries.attempts)
    receipt = live.bench.rpc.request("eth_getTransactionReceipt", row.tx_hash)
    cost = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert (row.gain, row.net) == (3 * ETH, 3 * ETH - cost)


async def test_revert_is_explained(live: World) -> None:
    """A reverted attempt costs its gas, earns nothing, and the journal says why."""
    order = await live.order(ETH, min_gain=2 * ETH)
    await live.submitter.submit(order)
    live.mine()
    (verdict,) = await live.submitter.settle(await live.head())
    assert verdict.state is AttemptState.REVERTED
    assert verdict.outcome is not None
    assert verdict.outcome.revert == f"GainTooLow({ETH}, {2 * ETH})"
    assert verdict.outcome.gain == 0
    assert verdict.outcome.net < 0


async def test_reorganised_receipt(live: World) -> None:
    """A mined attempt whose block is undone goes back to sent, is handed out again and ends mined, exactly once."""
    order = await live.order(2 * ETH)
    await live.submitter.submit(order)
    live.mine()
    await live.submitter.settle(await live.head())
    assert await live.state(order.id) == ("mined", False)
    live.bench.rpc.request("anvil_reorg", 1, [])
    head = await live.head()
    assert live.nonce() == 0
    await live.submitter.settle(head)
    assert await live.state(order.id) == ("sent", False)
    live.mine(4)
    await live.submitter.settle(await live.head())
    assert await live.state(order.id) == ("mined", True)
    assert live.nonce() == 1


async def test_replacement_and_cancellation(live: World) -> None:
    """A dearer liquidation and a cancellation take the same nonce; only the last one is mined."""
    cheap = Bid(3_000_000, 3 * GWEI, 1)
    order = await live.order(ETH, cheap)
    await live.submitter.submit(order)
    head = await live.head()
    (attempt,) = await live.journal.unsettled()
    assert await live.lane.speed_up(attempt, replace(order, max_fee=3 * GWEI + 1), head) is None
    answer = await live.lane.speed_up(attempt, replace(order, max_fee=9 * GWEI, tip=2), head)
    assert answer is not None
    assert answer.reception is Reception.ACCEPTED
    (attempt,) = await live.journal.unsettled()
    assert [tx.kind for tx in attempt.txs] == [TxKind.EXECUTE, TxKind.EXECUTE]
    cancelled = await live.lane.cancel(attempt, head)
    assert cancelled is not None
    assert cancelled.reception is Reception.ACCEPTED
    live.mine()
    (verdict,) = await live.submitter.settle(await live.head())
    assert verdict.state is AttemptState.CANCELLED
    assert verdict.outcome is not None
    assert verdict.outcome.gain == 0
    assert verdict.outcome.gas_used == 21_000
    assert live.nonce() == 1


async def test_stuck_attempt_is_cancelled(live: World) -> None:
    """What nobody mines within the age limit gives its nonce back, and the next order gets the next one."""
    rpc = live.bench.rpc
    order = await live.order(ETH)
    await live.submitter.submit(order)
    stuck = rpc.request("anvil_dropTransaction", (await live.journal.unsettled())[0].tx_hash)
    assert stuck
    for _ in range(6):
        live.mine()
        for waiting in rpc.request("txpool_content")["pending"].get(ME, {}).values():
            if int(waiting["gas"], 16) != 21_000:  # the pool keeps losing the liquidation
                rpc.request("anvil_dropTransaction", waiting["hash"])
        await live.submitter.settle(await live.head())
    live.mine()
    await live.submitter.settle(await live.head())
    assert (await live.state(order.id))[0] in ("mined", "cancelled")
    second = await live.order(ETH, borrower=2)
    sending = await live.submitter.submit(second)
    assert sending.nonce == 1


async def test_foreign_transaction_takes_the_nonce(live: World) -> None:
    """A transaction sent by hand with the same key is recognised, and the keeper goes on behind it."""
    rpc = live.bench.rpc
    order = await live.order(ETH)
    await live.submitter.submit(order)
    (attempt,) = await live.journal.unsettled()
    rpc.request("anvil_dropTransaction", attempt.tx_hash)
    by_hand = await live.signer.sign(Unsigned(TxKind.CANCEL, 0, STRANGER, b"", 21_000, 100 * GWEI, GWEI))
    rpc.request("eth_sendRawTransaction", "0x" + by_hand.raw.hex())
    live.mine()
    await live.submitter.settle(await live.head())
    assert (await live.state(order.id))[0] == "sent"  # one look is not enough: receipts can lag
    live.mine()
    await live.submitter.settle(await live.head())
    assert (await live.state(order.id))[0] == "dropped"
    assert (await live.submitter.submit(await live.order(ETH))).nonce == 1
    live.mine(1)
    await live.submitter.settle(await live.head())
    assert await live.state(order.id) == ("dropped", False)
    live.mine(1)
    await live.submitter.settle(await live.head())
    assert await live.state(order.id) == ("dropped", True)


async def test_refusals_are_states(live: World) -> None:
    """An empty purse, too low a fee and a spent nonce end as classified answers, and none blocks the next order."""
    rpc = live.bench.rpc
    rpc.request("anvil_setBalance", ME, "0x1")
    poor = await live.submitter.submit(await live.order(ETH))
    assert poor.reception is Reception.INSUFFICIENT_FUNDS
    rpc.request("anvil_setBalance", ME, hex(100 * ETH))
    cheap = await live.submitter.submit(await live.order(ETH, Bid(3_000_000, 1, 1)))
    assert cheap.reception is Reception.REFUSED
    upside_down = await live.submitter.submit(await live.order(ETH, Bid(3_000_000, GWEI, 2 * GWEI)))
    assert upside_down.reception is Reception.REFUSED
    huge = await live.submitter.submit(await live.order(ETH, Bid(10**9, 100 * GWEI, 1)))
    assert huge.reception in (Reception.REFUSED, Reception.INSUFFICIENT_FUNDS)
    good = await live.submitter.submit(await live.order(ETH, borrower=4))
    assert (good.reception, good.nonce) == (Reception.ACCEPTED, 0)
    raw = next(a.raw for a in await live.journal.unsettled() if a.id == good.attempt_id)
    assert combine(await live.client.send_raw(raw)).reception is Reception.ACCEPTED  # already known
    rival = await live.signer.sign(Unsigned(TxKind.CANCEL, 0, ME, b"", 21_000, 99 * GWEI, GWEI))
    assert combine(await live.client.send_raw(rival.raw)).reception is Reception.UNDERPRICED
    live.mine()
    assert combine(await live.client.send_raw(rival.raw)).reception is Reception.NONCE_TOO_LOW
    await live.submitter.settle(await live.head())
    assert (await live.state(good.attempt_id))[0] == "mined"
    for refused in (poor, cheap, upside_down, huge):
        assert (refused.nonce, await live.state(refused.attempt_id)) == (0, ("dropped", False))
    live.mine(2)
    await live.submitter.settle(await live.head())
    assert not await live.journal.unsettled()


async def test_dry_run_sends_nothing(live: World, tmp_path: Path) -> None:
    """The dry submitter keeps the same records; the node's pool and the nonce stay untouched."""
    journal = await Journal.open(tmp_path / "dry.sqlite3", 31337, "dry")
    dry = DrySubmitter(live.client, journal, ME)
    order = await live.order(ETH)
    await dry.submit(order)
    assert dry.in_flight("bench", order.borrower, order.head) == order.id
    (row,) = await journal.ask(queries.attempts)
    assert (row.state, row.closed, row.predicted_gain) == ("dropped", True, ETH)
    summary = await journal.ask(queries.summary)
    assert (summary.mode, summary.dry_net, summary.net) == ("dry", order.predicted_net, 0)
    await journal.close()
    assert live.bench.rpc.request("txpool_status")["pending"] == "0x0"
    live.mine()
    assert live.nonce() == 0


async def test_fee_quote_is_the_next_blocks(live: World) -> None:
    """The quoted base fee is the one the next block has, and a bid at it is mined there."""
    policy = FeePolicy(PercentileTip(60), GWEI, 50 * GWEI, 500 * GWEI)
    source = FeeSource(live.client, policy)
    for _ in range(4):
        head = await live.head()
        quote = await source.quote(head)
        offer = bid(policy, quote, ETH, 150_000)
        assert offer is not None
        assert offer.most <= ETH // 2
        order = await live.order(ETH, Bid(3_000_000, offer.max_fee, offer.tip))
        await live.submitter.submit(order)
        live.mine()
        mined = await live.head()
        assert mined.base_fee == quote.base_fee
        (verdict,) = [v for v in await live.submitter.settle(mined) if v.attempt_id == order.id]
        assert verdict.outcome is not None
        assert verdict.outcome.gas_price == quote.base_fee + offer.tip


CHILD = """
import asyncio, os, sys
from pathlib import Path
from keeper.chain.client import NodeClient
from keeper.config.values import Secret
from keeper.execution.lane import Lane, LanePolicy
from keeper.execution.recover import recover
from keeper.execution.signer import load_signer
from keeper.execution.submit import LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.journal import Journal
from keeper.model import Address, Order
from keeper.devchain.rpc import Rpc
from tests.support.bench import Bench

async def main() -> None:
    url, http, path, executor, weth, giver = sys.argv[1:7]
    bench = Bench(Rpc(http), Address(executor), Address(weth), {"giver": Address(giver)})
    async with NodeClient.connect([url], chain_id=31337, max_age=10**9) as client:
        journal = await Journal.open(Path(path), 31337, "live")
        lane = Lane(client, journal, load_signer(31337, private_key=Secret(os.environ["CHILD_KEY"])),
                    LanePolicy(max_age=10**6))
        tracker = Tracker(client, journal, lane, confirmations=2)
        submitter = LiveSubmitter(journal, lane, tracker)
        await recover(journal, tracker, lane, await client.head())
        print("ready", flush=True)
        while True:
            head = await client.head()
            await submitter.settle(head)
            key = new_attempt_id()
            data = bench.encode((bench.earn(10**15),), id=bytes.fromhex(key[2:]))
            order = Order(key, "bench", Address("0x" + key[2:42]), bench.executor, data, 500_000,
                          100 * 10**9, 10**9, head, 10**15, 1, 1)
            await submitter.submit(order)

asyncio.run(main())
"""


def run_and_kill(arguments: list[str], rng: random.Random, mine: Callable[[], None]) -> None:
    """Start a keeper, let the chain move under it for a moment, kill -9."""
    environment = {**os.environ, "CHILD_KEY": KEY, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    child = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        for _ in range(rng.randrange(1, 4)):
            time.sleep(rng.uniform(0.01, 0.08))
            mine()
        time.sleep(rng.uniform(0.0, 0.05))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


async def test_real_kill_minus_nine(live: World, anvil: Anvil, tmp_path: Path) -> None:
    """A process that sends as fast as it can is killed five times; then journal and chain agree on every nonce."""
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    path = tmp_path / "child.sqlite3"
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    bench = live.bench
    arguments = [str(script), anvil.ws, anvil.http, str(path), bench.executor, bench.weth, bench["giver"]]
    for _ in range(5):
        await asyncio.to_thread(run_and_kill, arguments, rng, live.mine)
    journal = await Journal.open(path, 31337, "live")
    lane = Lane(live.client, journal, live.signer, LanePolicy(max_age=10**6))
    tracker = Tracker(live.client, journal, lane, confirmations=2)
    await recover(journal, tracker, lane, await live.head())
    for _ in range(4):
        live.mine()
        await tracker.settle(await live.head())
    assert not await journal.unsettled()
    rows = await journal.ask(queries.attempts)
    mined = [row for row in rows if row.state == "mined"]
    assert {row.state for row in rows} <= {"mined", "dropped"}
    assert sorted(row.nonce for row in mined) == list(range(live.nonce()))
    assert len(mined) > 5
    for row in mined:
        receipt = bench.rpc.request("eth_getTransactionReceipt", row.tx_hash)
        assert (receipt["status"], int(receipt["blockNumber"], 16)) == ("0x1", row.block_number)
    assert bench.balance(bench.weth, BENEFICIARY) == sum(row.gain or 0 for row in mined) == len(mined) * 10**15
    await journal.close()
