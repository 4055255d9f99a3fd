"""A chain with both Uniswap factories and tokens without end, and a contract that asks pools many things at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper.devchain.anvil import Anvil
from keeper.devchain.artifacts import Artifact, own_contracts, uniswap_v2, uniswap_v3
from keeper.devchain.deploy import Deployer
from keeper.devchain.rpc import Rpc, RpcError
from keeper.devchain.solc import compile_standard
from keeper.model import Address, Block, Hash, Head, Log, Read, Watch, address
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE

GAS = 4_000_000_000
PLENTY = 1 << 240

# Trades and takes everything back, so that one call can ask for many independent trades on one state.
PROBER = """
// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IPool {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function slot0() external view returns (uint160, int24, uint16, uint16, uint16, uint8, bool);
    function liquidity() external view returns (uint128);
    function swap(address, bool, int256, uint160, bytes calldata) external;
    function swap(uint256, uint256, address, bytes calldata) external;
    function transfer(address, uint256) external returns (bool);
}

contract Prober {
    struct AskV3 { address pool; bool zeroForOne; int256 amount; uint160 limit; }
    struct AskV2 { address pair; bool zeroForOne; uint256 input; uint256 output; }

    function v3(AskV3[] calldata asks) external returns (bytes[] memory answers) {
        answers = new bytes[](asks.length);
        for (uint256 i = 0; i < asks.length; i++) {
            AskV3 calldata ask = asks[i];
            try IPool(ask.pool).swap(address(this), ask.zeroForOne, ask.amount, ask.limit, "") {}
            catch (bytes memory reason) { answers[i] = reason; }
        }
    }

    function uniswapV3SwapCallback(int256 delta0, int256 delta1, bytes calldata) external view {
        (uint160 price, int24 tick,,,,,) = IPool(msg.sender).slot0();
        bytes memory answer = abi.encode(delta0, delta1, price, tick, IPool(msg.sender).liquidity());
        assembly { revert(add(answer, 32), mload(answer)) }
    }

    function v2(AskV2[] calldata asks) external returns (bool[] memory taken) {
        taken = new bool[](asks.length);
        for (uint256 i = 0; i < asks.length; i++) {
            try this.trade(asks[i]) {} catch (bytes memory reason) { taken[i] = reason.length == 1; }
        }
    }

    function trade(AskV2 calldata ask) external {
        IPool pair = IPool(ask.pair);
        IPool(ask.zeroForOne ? pair.token0() : pair.token1()).transfer(ask.pair, ask.input);
        pair.swap(ask.zeroForOne ? 0 : ask.output, ask.zeroForOne ? ask.output : 0, address(this), "");
        assembly { revert(0, 1) }
    }
}
"""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


@cache
def prober() -> Artifact:
    """The prober, compiled once per process."""
    settings = {
        "optimizer": {"enabled": True, "runs": 200},
        "evmVersion": "shanghai",
        "outputSelection": {"*": {"*": ["evm.bytecode.object"]}},
    }
    request = {"language": "Solidity", "sources": {"P.sol": {"content": PROBER}}, "settings": settings}
    code = compile_standard(request)["contracts"]["P.sol"]["Prober"]["evm"]["bytecode"]["object"]
    return Artifact("Prober", code, (), ())


@dataclass
class NodeClient:
    """The part of ports.Client that venues use, over the test's own connection."""

    rpc: Rpc

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        return self.rpc.request(method, *params)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return self.rpc.batch(calls)

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        calls = [("eth_call", [{"to": r.to, "data": "0x" + r.data.hex()}, {"blockHash": at.hash}]) for r in reads]
        answers = self.rpc.batch(calls, errors=True)
        return [None if isinstance(a, RpcError) else bytes.fromhex(a[2:]) for a in answers]

    async def logs(self, watch: Watch, first: int, last: int) -> AsyncIterator[tuple[int, int, list[Log]]]:
        yield first, last, logs_of(self.rpc, watch, first, last)


def logs_of(rpc: Rpc, watch: Watch, first: int, last: int) -> list[Log]:
    asked = {
        "address": sorted(watch.addresses),
        "topics": [sorted(watch.topics), *(sorted(words) or None for words in watch.indexed)],
        "fromBlock": hex(first),
        "toBlock": hex(last),
    }
    return [
        Log(
            address(raw["address"]),
            tuple(raw["topics"]),
            bytes.fromhex(raw["data"][2:]),
            int(raw["blockNumber"], 16),
            int(raw["logIndex"], 16),
            Hash(raw["transactionHash"]),
        )
        for raw in rpc.request("eth_getLogs", asked)
    ]


def head_of(rpc: Rpc, number: int | None = None) -> Head:
    raw = rpc.block("latest" if number is None else number)
    return Head(int(raw["number"], 16), Hash(raw["hash"]), Hash(raw["parentHash"]), int(raw["timestamp"], 16), 0)


def block_of(rpc: Rpc, watch: Watch) -> Block:
    head = head_of(rpc)
    return Block(head, tuple(logs_of(rpc, watch, head.number, head.number)))


@dataclass
class Arena:
    """A chain with both factories, tokens without end, a market maker and the prober."""

    rpc: Rpc
    on: Deployer
    desk: str
    prober: str
    v2: Address
    v3: Address
    tokens: list[Address]

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.rpc)

    def tier(self, fee: int, spacing: int) -> None:
        if self.rpc.view(self.v3, "feeAmountTickSpacing(uint24)", fee, returns="int24") == 0:
            self.on.send(self.v3, "enableFeeAmount(uint24,int24)", fee, spacing)
            self.on.flush()

    def pool(self, a: Address, b: Address, fee: int, sqrt_price: int) -> Address:
        self.on.send(self.v3, "createPool(address,address,uint24)", a, b, fee, gas=8_000_000)
        self.on.flush()
        found = address(self.rpc.view(self.v3, "getPool(address,address,uint24)", a, b, fee, returns="address"))
        self.on.send(found, "initialize(uint160)", sqrt_price)
        self.on.flush()
        return found

    def pair(self, a: Address, b: Address, amount_a: int, amount_b: int) -> Address:
        self.on.send(self.v2, "createPair(address,address)", a, b, gas=6_000_000)
        self.on.flush()
        found = address(self.rpc.view(self.v2, "getPair(address,address)", a, b, returns="address"))
        amounts = (amount_a, amount_b) if a < b else (amount_b, amount_a)
        self.on.send(self.desk, "v2Mint(address,uint256,uint256)", found, *amounts)
        self.on.flush()
        return found

    def ask(self, signature: str, kinds: str, asks: list[tuple[Any, ...]], returns: str) -> Any:
        data = keccak(text=signature)[:4] + encode([kinds], [asks])
        call = {"to": self.prober, "data": "0x" + data.hex(), "gas": hex(GAS)}
        return decode([returns], bytes.fromhex(self.rpc.request("eth_call", call, "latest")[2:]))[0]

    def ask_v3(self, asks: list[tuple[str, bool, int]]) -> list[tuple[int, int, int, int, int] | None]:
        """(amount0, amount1, price, tick, liquidity) after each swap without limit, or None where it reverts."""
        full = [(p, z, amount, LOWEST_PRICE if z else HIGHEST_PRICE) for p, z, amount in asks]
        kinds = "(address,bool,int256,uint160)[]"
        answers = self.ask(f"v3({kinds})", kinds, full, "bytes[]")
        layout = ["int256", "int256", "uint160", "int24", "uint128"]
        return [decode(layout, a) if len(a) == 160 else None for a in answers]

    def ask_v2(self, asks: list[tuple[str, bool, int, int]]) -> list[bool]:
        """Whether the pair takes each (input, output)."""
        kinds = "(address,bool,uint256,uint256)[]"
        return list(self.ask(f"v2({kinds})", kinds, asks, "bool[]"))


@contextmanager
def make_arena() -> Iterator[Arena]:
    """An arena for the duration of one test."""
    with Anvil(gas_limit=GAS) as anvil:
        rpc = anvil.rpc
        on = Deployer(rpc, rpc.request("eth_accounts")[0], GAS)
        desk, probe = on.deploy(own_contracts()["Desk"]), on.deploy(prober())
        v2, v3 = on.deploy(uniswap_v2("UniswapV2Factory"), on.sender), on.deploy(uniswap_v3("UniswapV3Factory"))
        tokens = [on.deploy(own_contracts()["Token"], f"T{i}", f"T{i}", 18) for i in range(4)]
        for token in tokens:
            for holder in (desk, probe):
                on.send(token, "mint(address,uint256)", holder, PLENTY)
        on.flush()
        yield Arena(rpc, on, desk, probe, address(v2), address(v3), sorted(address(t) for t in tokens))
