"""What a roll-up charges for data is inside every number that decides: plan, gates, floor, proof and order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi.abi import decode
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil
from keeper.devchain.serve import OPERATOR
from keeper.devchain.world import World
from keeper.execution.data_fees import GAS_PRICE_ORACLE, NODE_INTERFACE, OpDataFee
from keeper.execution.executor import EXECUTOR
from keeper.execution.fees import USUAL_CALLDATA, FeeSource, data_up
from keeper.execution.signer import Unsigned
from keeper.journal.attempts import load as attempts
from keeper.model import Address, Attempt, AttemptState, FeeQuote, Head, SkipReason, TxKind, address
from keeper.ports import Job, Synced
from keeper.strategy.opportunity import Opportunity
from tests.parity.test_rivals import Scene, mined, scene
from tests.support.fork import Fork
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

GWEI = 10**9
L1_BLOCK = Address("0x4200000000000000000000000000000000000015")
OP = {"KEEPER__CHAIN__DATA_FEE": "op"}
ARBITRUM = {"KEEPER__CHAIN__DATA_FEE": "arbitrum"}


def place(fork: Fork, name: str, at: Address) -> None:
    """The runtime code of a test contract at a roll-up's own address."""
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, bytes.fromhex(compiled_contracts()[name].code))
    code = fork.rpc.request("eth_getCode", receipts[0]["contractAddress"], "latest")
    fork.rpc.request("anvil_setCode", at, code)


def store(fork: Fork, at: Address, slot: int, value: int) -> None:
    """A word of storage, changed at the newest block without mining another."""
    fork.rpc.request("anvil_setStorageAt", at, hex(slot), f"0x{value:064x}")


async def fees_now(on: Scene, head: Head) -> FeeQuote:
    """The quote of `head` as if it had not been asked for yet."""
    source = on.parts.fees
    assert isinstance(source, FeeSource)
    source._latest = None
    return await source.quote(head)


async def only(on: Scene, synced: Synced, fees: FeeQuote) -> Opportunity:
    (found,) = await on.engine.survey(synced, on.engine.scene(synced, fees))
    return found


async def ordered(on: Scene) -> tuple[Attempt, Unsigned]:
    """The one attempt, and what was signed for it."""
    (attempt,) = await on.journal.ask(lambda db: attempts(db, "1", ()))
    (signed,) = attempt.txs
    assert signed.raw is not None
    fields = TypedTransaction.from_bytes(HexBytes(signed.raw)).as_dict()
    to = address("0x" + bytes(fields["to"]).hex())
    data = bytes(fields["data"])
    return attempt, Unsigned(TxKind.EXECUTE, attempt.nonce, to, data, fields["gas"], signed.max_fee, signed.tip)


def counted(attempt: Attempt, price: int) -> int:
    """Wei that the order takes into account beside its gas."""
    return attempt.predicted_gain - attempt.predicted_gas * price - attempt.predicted_net


async def test_the_op_stacks_fee_closes_the_gate_at_its_exact_wei(fork: Fork, tmp_path: Path) -> None:
    """A price of data that just leaves the profit floor passes, one more does not; far above, no plan is worth it."""
    place(fork, "DataFeeOracle", GAS_PRICE_ORACLE)
    async with scene(fork, tmp_path, live=True, environ=OP) as on:
        on.borrower("pays for data", "WETH", 400_000)
        on.fall("WETH", 915)
        head = await on.parts.client.head()
        synced = await on.parts.follower.advance(head)
        floor = on.parts.config.strategy.profit_floor

        async def at(price: int) -> tuple[Opportunity, FeeQuote]:
            store(fork, GAS_PRICE_ORACLE, 0, price)
            fees = await fees_now(on, head)
            return await only(on, synced, fees), fees

        free, _ = await at(0)
        assert free.choice.plan is not None
        _, dear = await at(3)
        units = dear.data_fee
        assert units > len(USUAL_CALLDATA) * 15
        limit = 3 * (free.choice.plan.net - floor + 1) // units
        while units * limit // 3 > free.choice.plan.net - floor:
            limit -= 1
        found, fees = await at(limit)
        plan = found.choice.plan
        assert plan is not None
        assert (plan.gain, plan.gas) == (free.choice.plan.gain, free.choice.plan.gas)
        assert plan.cost == plan.gas * fees.price + units * limit // 3
        assert found.skip is None
        over = limit + 1
        while units * over // 3 <= free.choice.plan.net - floor:
            over += 1
        closed, _ = await at(over)
        assert closed.skip is not None
        assert closed.skip.reason is SkipReason.PROFIT_FLOOR
        assert [gate.name for gate in closed.gates if not gate.open] == ["profit_floor"]
        hopeless, _ = await at(2 * limit)
        assert hopeless.skip is not None
        assert hopeless.skip.reason is SkipReason.UNPROFITABLE
        assert hopeless.skip.numbers["gas_cost"] > units * limit // 3

        # The floor that travels in the calldata covers the very transaction's data, which is longer than usual.
        assert found.liquidation is not None
        job = Job(((plan, found.liquidation),))
        data = on.parts.prover._calldata(job, "0x" + "11" * 32)
        assert len(data) > len(USUAL_CALLDATA)
        (_, _, minimum, *_), _, _ = decode(EXECUTOR.functions["execute"].inputs, data[4:])
        assert minimum == on.parts.prover.floor(job, len(data)) > on.parts.prover.floor(job)
        store(fork, GAS_PRICE_ORACLE, 0, limit)
        tx = Unsigned(TxKind.EXECUTE, 1 << 16, on.parts.executor, data, plan.gas, 2 * fees.price, fees.tip)
        (real,) = await OpDataFee(on.parts.client, fork.world.chain_id).price([tx], head)
        assert minimum >= plan.gas * fees.price + real.wei + floor


async def test_the_op_stacks_fee_of_the_very_transaction_decides(fork: Fork, tmp_path: Path) -> None:
    """Data that is free up to the usual size: the plan passes every gate, its proof does not; cheaper, it is sent."""
    place(fork, "DataFeeOracle", GAS_PRICE_ORACLE)
    async with scene(fork, tmp_path, live=True, environ=OP) as on:
        borrower = on.borrower("longer than usual", "WETH", 400_000)
        on.fall("WETH", 915)
        head = await on.parts.client.head()
        synced = await on.parts.follower.advance(head)
        store(fork, GAS_PRICE_ORACLE, 1, len(USUAL_CALLDATA) + 200)
        store(fork, GAS_PRICE_ORACLE, 0, 10**15)
        fees = await fees_now(on, head)
        assert fees.data_fee == 0
        assert (await only(on, synced, fees)).skip is None
        (decision,) = await on.engine.step(head)
        assert decision.skip is not None
        assert decision.skip.reason is SkipReason.SIMULATION_SHORT
        assert not await on.journal.ask(lambda db: attempts(db, "1", ()))

        store(fork, GAS_PRICE_ORACLE, 0, 30 * GWEI)
        fork.actors.mine()
        await on.step()
        attempt, tx = await ordered(on)
        assert attempt.borrower == borrower
        head = await on.parts.client.head()
        quote = await fees_now(on, head)
        (fee,) = await OpDataFee(on.parts.client, fork.world.chain_id).price([replace(tx, nonce=1 << 16)], head)
        price = quote.base_fee + tx.tip
        assert fee.wei > 10**14
        assert abs(counted(attempt, price) - fee.wei) * 100 <= fee.wei
        share = on.parts.config.strategy.max_fee_share_bps
        most = tx.gas_limit * tx.max_fee + data_up(counted(attempt, price))
        assert most * 10_000 <= attempt.predicted_gain * share


async def test_arbitrums_gas_is_in_the_limit_and_in_the_cost(fork: Fork, tmp_path: Path) -> None:
    """The gas of the data is on top of the simulated gas, exactly; the net pays for both."""
    place(fork, "DataFeeInterface", NODE_INTERFACE)
    async with scene(fork, tmp_path, live=True, environ=ARBITRUM) as on:
        on.borrower("pays in gas", "WETH", 400_000)
        on.fall("WETH", 915)
        head = await on.parts.client.head()
        synced = await on.parts.follower.advance(head)
        fees = await fees_now(on, head)
        assert fees.base_fee == head.base_fee
        usual = (10_000 + 25 * len(USUAL_CALLDATA)) * fees.price
        assert fees.data_fee == usual
        found = await only(on, synced, fees)
        assert found.choice.plan is not None
        assert found.choice.plan.cost == found.choice.plan.gas * fees.price + usual
        await on.step()
        attempt, tx = await ordered(on)
        fork.actors.mine()
        await on.step()
        (attempt,) = await on.journal.ask(lambda db: attempts(db, "1", ()))
        assert attempt.state is AttemptState.MINED
        receipt = mined(fork, str(attempt.txs[0].hash))
        data = 10_000 + 25 * len(tx.data)
        used = int(receipt["gasUsed"], 16)
        assert attempt.predicted_gas - data == pytest.approx(used, rel=0.02)
        assert tx.gas_limit >= used + data
        assert counted(attempt, head.base_fee + tx.tip) == 0


@pytest.fixture
def roll_up(base: Anvil, world: World) -> Iterator[Fork]:
    """The built world forked onto a node that charges as the OP stack does."""
    with Anvil(fork_url=base.http, chain_id=world.chain_id, impersonate=True, network="optimism") as anvil:
        yield Fork(anvil.rpc, anvil.http, anvil.ws, world, Actors(anvil.rpc, world))


async def test_what_an_op_stack_node_charges_is_what_was_counted(roll_up: Fork, tmp_path: Path) -> None:
    """A node with the OP stack's own rules takes, beside the gas, within two percent what the order counted."""
    fork = roll_up
    base_fee, base_scalar, blob_fee, blob_scalar = 60 * GWEI, 1_368, 5 * GWEI, 810_949
    store(fork, L1_BLOCK, 1, base_fee)
    store(fork, L1_BLOCK, 7, blob_fee)
    store(fork, L1_BLOCK, 3, base_scalar << 96 | blob_scalar << 64)
    place(fork, "FjordDataFeeOracle", GAS_PRICE_ORACLE)
    store(fork, GAS_PRICE_ORACLE, 0, 16 * base_fee * base_scalar + blob_fee * blob_scalar)
    async with scene(fork, tmp_path, live=True, environ=OP) as on:
        on.borrower("on the op stack", "WETH", 400_000)
        on.fall("WETH", 915)
        await on.step()
        attempt, tx = await ordered(on)
        head = await on.parts.client.head()
        quote = await fees_now(on, head)
        before = int(fork.rpc.request("eth_getBalance", OPERATOR, "latest"), 16)
        fork.actors.mine()
        after = int(fork.rpc.request("eth_getBalance", OPERATOR, "latest"), 16)
        receipt = mined(fork, str(attempt.txs[0].hash))
        charged = before - after - int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        expected = counted(attempt, quote.base_fee + tx.tip)
        print(f"counted {expected} wei for {len(tx.data)} bytes of calldata, charged {charged}")
        assert charged > 10**12
        assert abs(expected - charged) * 50 <= charged
        assert quote.data_fee > charged, "plans rather count too much"
