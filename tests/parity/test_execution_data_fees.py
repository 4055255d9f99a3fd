"""What roll-ups charge for data: asked of contracts that answer as theirs do, and counted wherever gas is."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak

from keeper.chain.client import NodeClient
from keeper.devchain.anvil import Anvil
from keeper.errors import BadData, ConfigError
from keeper.execution.data_fees import (
    FREE,
    GAS_PRICE_ORACLE,
    NODE_INTERFACE,
    ArbitrumDataFee,
    DataCost,
    NoDataFee,
    OpDataFee,
    data_fee,
)
from keeper.execution.fees import BPS, USUAL_CALLDATA, Bid, FeePolicy, FeeSource, FixedTip, bid, data_up
from keeper.execution.receipt import outcome, parse
from keeper.execution.signer import Unsigned, unsigned_payload
from keeper.model import Address, Attempt, AttemptState, FeeQuote, Hash, Signed, TxKind, checksum
from tests.support.bench import OWNER, Bench, make_bench
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
GWEI = 10**9
CHAIN = 31337
POLICY = FeePolicy(FixedTip(), min_tip=GWEI, max_tip=2 * GWEI, max_fee=300 * GWEI)


@dataclass
class Rollup:
    bench: Bench
    client: NodeClient

    def place(self, name: str, at: Address) -> None:
        """The runtime code of a test contract at a roll-up's own address."""
        receipt = self.bench.send(OWNER, None, bytes.fromhex(compiled_contracts()[name].code))
        code = self.bench.rpc.request("eth_getCode", receipt["contractAddress"], "latest")
        self.bench.rpc.request("anvil_setCode", at, code)


@pytest_asyncio.fixture
async def rollup(anvil: Anvil) -> AsyncIterator[Rollup]:
    anvil.rpc.request("anvil_autoImpersonateAccount", True)
    bench = make_bench(anvil.rpc)
    async with NodeClient.connect([anvil.ws], chain_id=CHAIN, max_age=10**9, attempts=1) as client:
        yield Rollup(bench, client)


def transactions(count: int) -> list[Unsigned]:
    rng = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    return [
        Unsigned(
            TxKind.EXECUTE,
            rng.randrange(1 << 20),
            Address("0x" + rng.randbytes(20).hex()),
            bytes(rng.choice((0, rng.randrange(256))) for _ in range(rng.randrange(3_000))),
            rng.randrange(10**6),
            rng.randrange(GWEI, 10**12),
            rng.randrange(GWEI),
        )
        for _ in range(count)
    ]


async def test_the_op_stack_is_asked_for_the_very_transaction(rollup: Rollup) -> None:
    """30 random transactions in one round trip: the fee of exactly the bytes that eth_account serialises too."""
    rollup.place("DataFeeOracle", GAS_PRICE_ORACLE)
    rollup.bench.tell(GAS_PRICE_ORACLE, "set(uint256)", 11 * GWEI)
    txs = transactions(30)
    head = await rollup.client.head()
    before = rollup.client.stats.requests
    costs = await OpDataFee(rollup.client, CHAIN).price(txs, head)
    assert rollup.client.stats.requests == before + 1
    for tx, cost in zip(txs, costs, strict=True):
        assert tx.to is not None
        fields = {
            "type": 2, "chainId": CHAIN, "nonce": tx.nonce, "maxPriorityFeePerGas": tx.tip, "maxFeePerGas": tx.max_fee,
            "gas": tx.gas_limit, "to": checksum(tx.to), "value": 0, "data": tx.data, "accessList": [],
        }  # fmt: skip
        payload = unsigned_payload(tx, CHAIN)
        typed = TypedTransaction.from_dict(fields)
        assert typed.hash() == keccak(payload)
        gas = 68 * 16 + sum(16 if byte else 4 for byte in payload)
        assert cost == DataCost(wei=gas * 11 * GWEI // 3)


async def test_arbitrum_is_asked_for_gas(rollup: Rollup) -> None:
    """The node's interface answers with gas units, for calls and creations, in one round trip."""
    rollup.place("DataFeeInterface", NODE_INTERFACE)
    txs = transactions(20)
    txs[0] = replace(txs[0], to=None)
    head = await rollup.client.head()
    before = rollup.client.stats.requests
    costs = await ArbitrumDataFee(rollup.client).price(txs, head)
    assert rollup.client.stats.requests == before + 1
    assert costs == [DataCost(gas=10_000 + 25 * len(tx.data)) for tx in txs]


async def test_the_wrong_word_for_a_chain_is_said(rollup: Rollup) -> None:
    """Where nothing answers, sending stops with a sentence that names the key; an unknown word is refused."""
    head = await rollup.client.head()
    for kind in ("op", "arbitrum"):
        with pytest.raises(BadData, match=r"chain\.data_fee"):
            await data_fee(kind, rollup.client, CHAIN).price(transactions(1), head)
        assert await data_fee(kind, rollup.client, CHAIN).price([], head) == []
    assert await NoDataFee().price(transactions(2), head) == [FREE, FREE]
    with pytest.raises(ConfigError, match="op or arbitrum"):
        data_fee("zk", rollup.client, CHAIN)


async def test_gas_is_priced_by_the_chains_own_rule(rollup: Rollup) -> None:
    """Ethereum's is exact; the OP stack's never below what its parameters allow; Arbitrum's is what the head says."""
    rollup.place("DataFeeOracle", GAS_PRICE_ORACLE)
    rollup.place("DataFeeInterface", NODE_INTERFACE)
    rng = random.Random(SEED)
    real = await rollup.client.head()
    for _ in range(300):
        limit = rng.choice((30_000_000, 240_000_000, 1 << 50))
        base = rng.choice((1, 7, rng.randrange(1, 10**8), rng.randrange(1, 10**11)))
        head = replace(real, base_fee=base, gas_limit=limit, gas_used=rng.randrange(min(limit, 10**9)))
        assert NoDataFee().next_base_fee(head) == head.next_base_fee()
        op, arbitrum = OpDataFee(rollup.client, CHAIN), ArbitrumDataFee(rollup.client)
        for elasticity, denominator in ((6, 50), (6, 250), (2, 250), (10, 250)):
            target = limit // elasticity
            rise = max(base * max(head.gas_used - target, 0) // target // denominator, 1)
            assert base + rise <= op.next_base_fee(head) <= base + base // 10 + 1
        assert arbitrum.next_base_fee(head) == base
        assert (await FeeSource(rollup.client, POLICY, op).quote(head)).base_fee == op.next_base_fee(head)
        assert (await FeeSource(rollup.client, POLICY, arbitrum).quote(head)).base_fee == base


async def test_plans_count_a_usual_transaction(rollup: Rollup) -> None:
    """The fee quote of a head has the data of a transaction of usual size in wei, asked for once per head."""
    rollup.place("DataFeeOracle", GAS_PRICE_ORACLE)
    rollup.bench.tell(GAS_PRICE_ORACLE, "set(uint256)", GWEI)
    rollup.place("DataFeeInterface", NODE_INTERFACE)
    head = await rollup.client.head()
    op = FeeSource(rollup.client, POLICY, OpDataFee(rollup.client, CHAIN))
    quote = await op.quote(head)
    least = len(USUAL_CALLDATA) * 15 * GWEI // 3
    assert least < quote.data_fee < 2 * least
    before = rollup.client.stats.requests
    assert await op.quote(head) == quote
    assert rollup.client.stats.requests == before
    arbitrum = await FeeSource(rollup.client, POLICY, ArbitrumDataFee(rollup.client)).quote(head)
    assert arbitrum.data_fee == (10_000 + 25 * len(USUAL_CALLDATA)) * arbitrum.price
    assert (await FeeSource(rollup.client, POLICY).quote(head)).data_fee == 0


def test_a_bid_with_data_and_a_rival_of_its_own_stays_within_the_share() -> None:
    """10,000 random cases: the worst gas and a quarter more for data fit the share; the least is reached, or None."""
    rng = random.Random(SEED)
    declined = 0
    for _ in range(10_000):
        policy = replace(POLICY, spend_share_bps=rng.randrange(10_001), max_fee=rng.randrange(GWEI, 1_000 * GWEI))
        quote = FeeQuote(rng.randrange(100 * GWEI), rng.randrange(10 * GWEI))
        gain, gas = rng.randrange(10 ** rng.randrange(14, 21)), rng.randrange(21_000, 3_000_000)
        data = DataCost(rng.choice((0, rng.randrange(10**16))), rng.choice((0, rng.randrange(10**6))))
        tip = rng.randrange(20 * GWEI)
        least = rng.choice((None, Bid(0, tip + rng.randrange(200 * GWEI), tip)))
        offer = bid(policy, quote, gain, gas, data, least)
        if offer is None:
            declined += 1
            free = bid(policy, quote, gain, gas)
            plain = bid(policy, quote, gain, gas, data)
            assert free is None or data != FREE or least is not None
            if plain is not None and least is not None:
                most = min(
                    (gain * policy.spend_share_bps // BPS - data_up(data.wei)) // plain.gas_limit, policy.max_fee
                )
                assert max(least.max_fee, plain.max_fee) > most or max(least.tip, plain.tip) > least.max_fee
            continue
        assert (offer.most + data_up(data.wei)) * BPS <= gain * policy.spend_share_bps
        assert offer.gas_limit >= gas + data.gas
        assert quote.base_fee < offer.max_fee <= policy.max_fee
        assert 0 <= offer.tip <= offer.max_fee
        if least is not None:
            assert offer.max_fee >= least.max_fee
            assert offer.tip >= least.tip
    assert 500 < declined < 9_500


def test_what_was_charged_for_data_is_in_the_outcome() -> None:
    """`l1Fee` of an OP receipt lowers the net; elsewhere there is none."""
    tx = Signed(TxKind.EXECUTE, 0, Hash("0x" + "11" * 32), b"raw", 1, 1, 1)
    attempt = Attempt("0x" + "01" * 32, "m", OWNER, OWNER, 0, AttemptState.SENT, 0, 90, txs=(tx,))
    raw: dict[str, Any] = {
        "transactionHash": tx.hash, "blockNumber": "0x5", "blockHash": "0x" + "22" * 32, "status": "0x0",
        "gasUsed": "0x64", "effectiveGasPrice": "0x2", "logs": [],
    }  # fmt: skip
    for extra, net in (({}, -200), ({"l1Fee": "0x3e8"}, -1_200), ({"l1Fee": None}, -200)):
        receipt = parse(raw | extra)
        assert receipt is not None
        assert outcome(attempt, tx, receipt).net == net
