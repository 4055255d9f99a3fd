"""Balancer V2 from the published bytecode: Vault, Authorizer, and weighted pools of the first and the third factory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.devchain.artifacts import balancer_v2
from keeper.devchain.deploy import Deployer
from keeper.model import MAX_UINT256, ZERO_ADDRESS, Address, address

_ONE = 10**18
_PAUSE_WINDOW, _BUFFER = 7_776_000, 2_592_000  # seconds, as deployed
_JOIN = "joinPool(bytes32,address,address,(address[],uint256[],bytes,bool))"
_EXIT = "exitPool(bytes32,address,address,(address[],uint256[],bytes,bool))"
_SWAP = "swap((bytes32,uint8,address,address,uint256,bytes),(address,bool,address,bool),uint256,uint256)"
_INIT, _EXACT_TOKENS, _EXIT_SHARES = 0, 1, 1  # kinds of join and exit of a WeightedPool


@dataclass(frozen=True, slots=True)
class BalancerPool:
    """A weighted pool; tokens ascend, weights are wads."""

    address: Address
    pool_id: bytes
    tokens: tuple[Address, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BalancerDesk:
    """A Vault governed by `on`'s sender, who also provides and trades."""

    on: Deployer
    vault: Address
    start_block: int
    factories: tuple[Address, Address]  # of 2021 and of 2023
    collector: Address

    def create(
        self,
        factory: Address,
        tokens: Sequence[Address],
        weights: Sequence[int],
        fee: int,
        amounts: Mapping[Address, int],
    ) -> BalancerPool:
        """Make a pool and fill it; `fee` and weights are wads, which must add up to one."""
        ordered = sorted(zip(tokens, weights, strict=True))
        listed, shares = [token for token, _ in ordered], [weight for _, weight in ordered]
        arguments: tuple[object, ...]
        if factory == self.factories[0]:
            signature = "create(string,string,address[],uint256[],uint256,address)"
            arguments = ("B", "B", listed, shares, fee, self.on.sender)
        else:
            signature = "create(string,string,address[],uint256[],address[],uint256,address)"
            arguments = ("B", "B", listed, shares, [ZERO_ADDRESS] * len(listed), fee, self.on.sender)
        before = self.on.rpc.number()
        self.on.send(factory, signature, *arguments, gas=12_000_000)
        self.on.flush()
        asked = {"address": factory, "fromBlock": hex(before + 1), "toBlock": "latest"}
        pool = address("0x" + self.on.rpc.request("eth_getLogs", asked)[-1]["topics"][1][-40:])
        pool_id = self.on.rpc.view(pool, "getPoolId()", returns="bytes32")
        made = BalancerPool(pool, pool_id, tuple(listed), tuple(shares))
        filled = [amounts[token] for token in listed]
        self._join(made, filled, encode(["uint256", "uint256[]"], [_INIT, filled]))
        self.on.flush()
        return made

    def join(self, pool: BalancerPool, amounts: Sequence[int]) -> None:
        """Add exactly `amounts`."""
        self._join(pool, amounts, encode(["uint256", "uint256[]", "uint256"], [_EXACT_TOKENS, list(amounts), 0]))

    def exit(self, pool: BalancerPool, shares: int) -> None:
        """Burn shares for all tokens in proportion."""
        data = encode(["uint256", "uint256"], [_EXIT_SHARES, shares])
        me, request = self.on.sender, (list(pool.tokens), [0] * len(pool.tokens), data, False)
        self.on.send(self.vault, _EXIT, pool.pool_id, me, me, request)

    def swap(self, pool: BalancerPool, sold: Address, bought: Address, amount: int, *, given_out: bool) -> None:
        """Sell exactly `amount`, or buy it."""
        me, limit = self.on.sender, MAX_UINT256 if given_out else 0
        single = (pool.pool_id, int(given_out), sold, bought, amount, b"")
        self.on.send(self.vault, _SWAP, single, (me, False, me, False), limit, MAX_UINT256)

    def _join(self, pool: BalancerPool, amounts: Sequence[int], data: bytes) -> None:
        me, request = self.on.sender, (list(pool.tokens), list(amounts), data, False)
        self.on.send(self.vault, _JOIN, pool.pool_id, me, me, request)


def build_balancer(on: Deployer, tokens: Iterable[Address], weth: Address) -> BalancerDesk:
    """Deploy the Vault and two factories, and let it spend the sender's `tokens`; BuildFailed when a step reverts."""
    start = on.rpc.number() + 1
    authorizer = on.deploy(balancer_v2("20210418-authorizer", "Authorizer"), on.sender)
    vault = on.deploy(balancer_v2("20210418-vault", "Vault"), authorizer, weth, _PAUSE_WINDOW, _BUFFER)
    provider_artifact = balancer_v2("20220725-protocol-fee-percentages-provider", "ProtocolFeePercentagesProvider")
    on.flush()
    provider = on.deploy(provider_artifact, vault, _ONE, _ONE)
    first = on.deploy(balancer_v2("deprecated/20210418-weighted-pool", "WeightedPoolFactory"), vault)
    third = on.deploy(balancer_v2("20230206-weighted-pool-v3", "WeightedPoolFactory"), vault, provider, "3", "3")
    for token in tokens:
        on.send(token, "approve(address,uint256)", vault, MAX_UINT256)
    on.flush()
    collector = address(on.rpc.view(vault, "getProtocolFeesCollector()", returns="address"))
    return BalancerDesk(on, vault, start, (first, third), collector)


def allow(desk: BalancerDesk, where: Address, signature: str) -> None:
    """Let the sender call a governed function of the Vault, its collector or a pool."""
    selector = desk.on.rpc.view(where, "getActionId(bytes4)", _selector(signature), returns="bytes32")
    authorizer = desk.on.rpc.view(desk.vault, "getAuthorizer()", returns="address")
    desk.on.send(authorizer, "grantRole(bytes32,address)", selector, desk.on.sender)
    desk.on.flush()


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]
