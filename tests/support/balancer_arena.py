"""A chain with a Balancer Vault and tokens of many decimals without end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from eth_abi.abi import decode

from keeper.devchain.anvil import Anvil
from keeper.devchain.artifacts import aave_302, own_contracts
from keeper.devchain.balancer import BalancerDesk, BalancerPool, build_balancer
from keeper.devchain.calls import calldata
from keeper.devchain.deploy import Deployer
from keeper.devchain.rpc import Rpc, RpcError
from keeper.model import ZERO_ADDRESS, Address, address
from tests.support.venue_arena import GAS, NodeClient

_QUERY = "queryBatchSwap(uint8,(bytes32,uint256,uint256,uint256,bytes)[],address[],(address,bool,address,bool))"
DECIMALS = (18, 6, 8, 18, 0, 2, 18, 12)
PLENTY = 1 << 110
Step = tuple[Address, Address, int]  # sold, bought, amount


@dataclass
class BalancerArena:
    """`tokens` are in no order."""

    rpc: Rpc
    on: Deployer
    desk: BalancerDesk
    tokens: list[Address]

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.rpc)

    def ask(self, asks: Sequence[tuple[BalancerPool, bool, Sequence[Step]]]) -> list[tuple[int, ...] | None]:
        """What each sequence of swaps (given in, or given out) in one pool nets, per token of it; None if it reverts.

        Positive is paid to the Vault.
        """
        calls = []
        for pool, given_out, steps in asks:
            listed = [(pool.pool_id, pool.tokens.index(a), pool.tokens.index(b), amount, b"") for a, b, amount in steps]
            funds = (ZERO_ADDRESS, False, ZERO_ADDRESS, False)
            data = calldata(_QUERY, int(given_out), listed, list(pool.tokens), funds)
            calls.append(("eth_call", [{"to": self.desk.vault, "data": "0x" + data.hex()}, "latest"]))
        answers = self.rpc.batch(calls, errors=True)
        return [
            None if isinstance(a, RpcError) else tuple(decode(["int256[]"], bytes.fromhex(a[2:]))[0]) for a in answers
        ]


@contextmanager
def make_balancer_arena() -> Iterator[BalancerArena]:
    """An arena for the duration of one test."""
    with Anvil(gas_limit=GAS) as anvil:
        rpc = anvil.rpc
        on = Deployer(rpc, rpc.request("eth_accounts")[0], GAS)
        weth = on.deploy(aave_302("dependencies/weth/WETH9"))
        tokens = [on.deploy(own_contracts()["Token"], f"T{i}", f"T{i}", d) for i, d in enumerate(DECIMALS)]
        for token in tokens:
            on.send(token, "mint(address,uint256)", on.sender, 1 << 200)
        desk = build_balancer(on, tokens, weth)
        on.flush()
        yield BalancerArena(rpc, on, desk, [address(token) for token in tokens])
