"""Uniswap V4 from the published bytecode: a PoolManager and its own periphery for liquidity and swaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.devchain.artifacts import uniswap_v4
from keeper.devchain.deploy import Deployer
from keeper.model import MAX_UINT256, ZERO_ADDRESS, Address

_KEY = "(address,address,uint24,int24,address)"
_MODIFY = f"modifyLiquidity({_KEY},(int24,int24,int256,bytes32),bytes)"
_SWAP = f"swap({_KEY},(bool,int256,uint160),(bool,bool),bytes)"
_SPARE = 10**24  # wei sent along where a side is the native coin; what is not needed comes back


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What a pool is known by; `currency0` is zero for the native coin."""

    currency0: Address
    currency1: Address
    fee: int  # pips
    spacing: int
    hooks: Address = ZERO_ADDRESS

    @property
    def id(self) -> Address:
        """Its 32 bytes, which stand for an address."""
        types = ["address", "address", "uint24", "int24", "address"]
        return Address("0x" + keccak(encode(types, list(self.fields))).hex())

    @property
    def fields(self) -> tuple[Address, Address, int, int, Address]:
        """In the order of the struct."""
        return self.currency0, self.currency1, self.fee, self.spacing, self.hooks


def key_of(a: Address, b: Address, fee: int, spacing: int) -> PoolKey:
    """The key of a pool of two currencies in either order."""
    return PoolKey(min(a, b), max(a, b), fee, spacing)


@dataclass(frozen=True, slots=True)
class UniswapV4Desk:
    """A PoolManager owned by `on`'s sender, who also provides and trades."""

    on: Deployer
    manager: Address
    start_block: int
    liquidity: Address  # PoolModifyLiquidityTestNoChecks
    swaps: Address  # PoolSwapTest

    def initialize(self, key: PoolKey, sqrt_price: int) -> None:
        """Create a pool."""
        self.on.send(self.manager, f"initialize({_KEY},uint160)", key.fields, sqrt_price)

    def modify(self, key: PoolKey, lower: int, upper: int, delta: int) -> None:
        """Add liquidity, or take it away."""
        native = _SPARE if key.currency0 == ZERO_ADDRESS and delta > 0 else 0
        parameters = (lower, upper, delta, bytes(32))
        self.on.send(self.liquidity, _MODIFY, key.fields, parameters, b"", value=native, gas=3_000_000)

    def swap(self, key: PoolKey, *, zero_for_one: bool, amount: int, limit: int) -> None:
        """Sell `amount` when it is negative, buy it when it is positive, as the manager has it."""
        native = _SPARE if key.currency0 == ZERO_ADDRESS and zero_for_one else 0
        parameters = (zero_for_one, amount, limit)
        fields = key.fields
        self.on.send(self.swaps, _SWAP, fields, parameters, (False, False), b"", value=native, gas=100_000_000)

    def protocol_fee(self, key: PoolKey, packed: int) -> None:
        """Set both directions' protocol fees: pips, the upper twelve bits for selling currency1."""
        self.on.send(self.manager, f"setProtocolFee({_KEY},uint24)", key.fields, packed)


def build_uniswap_v4(on: Deployer, tokens: Iterable[Address]) -> UniswapV4Desk:
    """Deploy the manager and its periphery, which may spend the sender's `tokens`; BuildFailed when a step reverts."""
    start = on.rpc.number() + 1
    manager = on.deploy(uniswap_v4("PoolManager"), on.sender)
    liquidity = on.deploy(uniswap_v4("PoolModifyLiquidityTestNoChecks"), manager)
    swaps = on.deploy(uniswap_v4("PoolSwapTest"), manager)
    on.send(manager, "setProtocolFeeController(address)", on.sender)
    for token in tokens:
        for spender in (liquidity, swaps):
            on.send(token, "approve(address,uint256)", spender, MAX_UINT256)
    on.flush()
    return UniswapV4Desk(on, manager, start, liquidity, swaps)
