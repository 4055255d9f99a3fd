"""What a roll-up charges: execution gas by its own rule, and putting a transaction's bytes on its parent chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from keeper.errors import BadData, ConfigError
from keeper.execution.signer import Unsigned, unsigned_payload
from keeper.model import Address, Head, Read
from keeper.ports import Client

# Predeploys. OP stack: GasPriceOracle (packages/contracts-bedrock/src/L2/GasPriceOracle.sol); Arbitrum Nitro:
# NodeInterface (nodeInterface/NodeInterface.sol), which no contract is behind but every node answers for.
GAS_PRICE_ORACLE = Address("0x420000000000000000000000000000000000000f")
NODE_INTERFACE = Address("0x00000000000000000000000000000000000000c8")
_GET_L1_FEE = keccak(text="getL1Fee(bytes)")[:4]
_L1_COMPONENT = keccak(text="gasEstimateL1Component(address,bool,bytes)")[:4]


@dataclass(frozen=True, slots=True)
class DataCost:
    """`wei` is taken from the sender beside the gas; `gas` is gas on top of execution, at the transaction's price."""

    wei: int = 0
    gas: int = 0


FREE = DataCost()


class DataFee(Protocol):
    """How a chain charges."""

    def next_base_fee(self, head: Head) -> int:
        """Wei per gas in the block after `head`: exact, or where that is not known the most it is expected to be."""

    async def price(self, txs: Sequence[Unsigned], head: Head) -> list[DataCost]:
        """For each transaction, at `head`. Raises Transient, BadData when the chain does not say."""


class NoDataFee:
    """A chain that charges for calldata as gas only."""

    def next_base_fee(self, head: Head) -> int:
        """Exact, by EIP-1559."""
        return head.next_base_fee()

    async def price(self, txs: Sequence[Unsigned], head: Head) -> list[DataCost]:
        """Nothing; the node is not asked."""
        return [FREE] * len(txs)


class OpDataFee:
    """OP stack: `GasPriceOracle.getL1Fee(bytes)` of the unsigned transaction; the oracle allows for the signature."""

    def __init__(self, client: Client, chain_id: int, oracle: Address = GAS_PRICE_ORACLE) -> None:
        self._client = client
        self._chain_id = chain_id
        self._oracle = oracle

    def next_base_fee(self, head: Head) -> int:
        """At most: EIP-1559 with parameters that the chain sets for itself and its headers do not all tell.

        A full block raises the fee by (elasticity - 1) / denominator, 5/50 at Bedrock and 5/250 since Canyon.
        """
        return head.base_fee + -(-head.base_fee // 10)

    async def price(self, txs: Sequence[Unsigned], head: Head) -> list[DataCost]:
        """Wei, which the receipt later states as `l1Fee`. One round trip."""
        if not txs:
            return []
        data = [_GET_L1_FEE + encode(["bytes"], [unsigned_payload(tx, self._chain_id)]) for tx in txs]
        answers = await self._client.read([Read(self._oracle, item) for item in data], head)
        return [DataCost(wei=_word(answer, 1, self._oracle, "getL1Fee")[0]) for answer in answers]


class ArbitrumDataFee:
    """Arbitrum: `NodeInterface.gasEstimateL1Component(address,bool,bytes)`, gas that the gas limit has to hold too."""

    def __init__(self, client: Client, interface: Address = NODE_INTERFACE) -> None:
        self._client = client
        self._interface = interface

    def next_base_fee(self, head: Head) -> int:
        """The present one: ArbOS prices gas by its backlog, and the gas limit in its headers is no limit."""
        return head.base_fee

    async def price(self, txs: Sequence[Unsigned], head: Head) -> list[DataCost]:
        """Gas units, which the receipt later has in `gasUsed`. One round trip, in calls of their own: no contract can
        call the node's interface.
        """
        if not txs:
            return []
        calls: list[tuple[str, list[object]]] = []
        for tx in txs:
            to = tx.to if tx.to is not None else Address("0x" + "00" * 20)
            data = _L1_COMPONENT + encode(["address", "bool", "bytes"], [to, tx.to is None, tx.data])
            calls.append(("eth_call", [{"to": self._interface, "input": "0x" + data.hex()}, {"blockHash": head.hash}]))
        answers = await self._client.batch(calls)
        words = [_word(_hex(a), 3, self._interface, "gasEstimateL1Component") for a in answers]
        return [DataCost(gas=found[0]) for found in words]


def data_fee(kind: str, client: Client, chain_id: int) -> DataFee:
    """By the configuration's word; raises ConfigError for another one."""
    match kind:
        case "none":
            return NoDataFee()
        case "op":
            return OpDataFee(client, chain_id)
        case "arbitrum":
            return ArbitrumDataFee(client)
    raise ConfigError(f"chain.data_fee is {kind!r}: use none, op or arbitrum")


def _hex(answer: object) -> bytes | None:
    try:
        return bytes.fromhex(answer[2:]) if isinstance(answer, str) and answer.startswith("0x") else None
    except ValueError:
        return None


def _word(answer: bytes | None, count: int, at: Address, name: str) -> tuple[int, ...]:
    try:
        if answer is not None:
            return tuple(decode(["uint256"] * count, answer))
    except DecodingError:
        pass
    raise BadData(f"{at} does not answer {name}: is chain.data_fee right for this chain?")
