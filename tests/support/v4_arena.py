"""A chain with a Uniswap V4 manager, tokens without end, and a contract that asks its pools many things at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper.devchain.anvil import Anvil
from keeper.devchain.artifacts import aave_302, own_contracts
from keeper.devchain.deploy import Deployer
from keeper.devchain.rpc import Rpc
from keeper.devchain.uniswap_v4 import PoolKey, UniswapV4Desk, build_uniswap_v4
from keeper.model import Address, address
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE
from tests.support.solidity import compiled_contracts
from tests.support.venue_arena import GAS, PLENTY, NodeClient

_ASK = "((address,address,uint24,int24,address),bool,int256,uint160)[]"
_ANSWER = ["int128", "int128", "uint160", "int24", "uint128"]
Ask = tuple[PoolKey, bool, int]


@dataclass
class V4Arena:
    """`tokens` are sorted; `weth` may sort anywhere among them."""

    rpc: Rpc
    on: Deployer
    desk: UniswapV4Desk
    prober: Address
    weth: Address
    tokens: list[Address]

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.rpc)

    def ask(self, asks: list[Ask]) -> list[tuple[int, int, int, int, int] | None]:
        """(delta0, delta1, price, tick, liquidity) after each swap without limit, or None where it reverts."""
        full = [(key.fields, z, amount, LOWEST_PRICE if z else HIGHEST_PRICE) for key, z, amount in asks]
        data = keccak(text=f"v4(address,{_ASK})")[:4] + encode(["address", _ASK], [self.desk.manager, full])
        call = {"to": self.prober, "data": "0x" + data.hex(), "gas": hex(GAS)}
        answers = decode(["bytes[]"], bytes.fromhex(self.rpc.request("eth_call", call, "latest")[2:]))[0]
        return [decode(_ANSWER, a) if len(a) == 160 else None for a in answers]


@contextmanager
def make_v4_arena() -> Iterator[V4Arena]:
    """An arena for the duration of one test."""
    with Anvil(gas_limit=GAS) as anvil:
        rpc = anvil.rpc
        on = Deployer(rpc, rpc.request("eth_accounts")[0], GAS)
        rpc.request("anvil_setBalance", on.sender, hex(1 << 120))
        tokens = [on.deploy(own_contracts()["Token"], f"T{i}", f"T{i}", 18) for i in range(4)]
        weth = on.deploy(aave_302("dependencies/weth/WETH9"))
        for token in tokens:
            on.send(token, "mint(address,uint256)", on.sender, PLENTY)
        desk = build_uniswap_v4(on, tokens)
        prober = on.deploy(compiled_contracts()["V4Prober"])
        on.flush()
        yield V4Arena(rpc, on, desk, prober, address(weth), sorted(address(t) for t in tokens))
