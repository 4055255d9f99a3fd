"""Uniswap V2 and its copies: constant-product pairs with a fixed fee, mirrored from ``Sync`` events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from typing import Any, Self

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Head, Hop, Log, Read, address
from keeper.ports import Client
from keeper.program import Amount, Call, Callback, Patch, Source, Step, Transfer, encode
from keeper.venues.curve import NOTHING, Curve, straight
from keeper.venues.mirror import ILLIQUID, PoolInfo, PoolMirror, read_many

BPS = 10_000
_PIPS_PER_BPS = 100
_RESERVES = 96  # bytes: two reserves and a time
_RESERVE_LIMIT = (1 << 112) - 1  # the pair keeps its reserves as uint112 and reverts above ("OVERFLOW")

# Measured on the published bytecode through the executor: a swap with both transfers, its amount worked out there.
GAS_SWAP = 102_000
_FAR = 2.0**60  # the rise of the level that takes all but nothing of a reserve


class V2Pool:
    """Reserves in base units, fee in bps of the input. Treat as immutable.

    Quotes are ``UniswapV2Library.getAmountOut`` and ``getAmountIn``, the greatest output and (but for the contract's
    constant 1, which is one too many when the division leaves nothing) the least input that ``UniswapV2Pair.swap``
    accepts.
    """

    __slots__ = ("_kept", "address", "fee_bps", "reserve0", "reserve1", "token0", "token1", "venue")
    lends = True
    fixed_rate = False

    def __init__(
        self, venue: str, address: Address, token0: Address, token1: Address, fee_bps: int, reserve0: int, reserve1: int
    ) -> None:
        self.venue = venue
        self.address = address
        self.token0 = token0
        self.token1 = token1
        self.fee_bps = fee_bps
        self.reserve0 = reserve0
        self.reserve1 = reserve1
        self._kept = BPS - fee_bps

    def pairs(self) -> tuple[Self, ...]:
        """It has two tokens."""
        return (self,)

    def at(self, reserve0: int, reserve1: int) -> Self:
        """The same pair with other reserves, as after a Sync event."""
        return self.__class__(self.venue, self.address, self.token0, self.token1, self.fee_bps, reserve0, reserve1)

    def quote_in(self, zero_for_one: bool, amount_in: int) -> int | None:
        """Output for exactly `amount_in`, rounded down; None when the reserve would overflow."""
        into, out_of = self._sides(zero_for_one)
        if not 0 < amount_in <= _RESERVE_LIMIT - into:
            return None
        paid = amount_in * self._kept
        return paid * out_of // (into * BPS + paid)

    def quote_out(self, zero_for_one: bool, amount_out: int) -> int | None:
        """Input for exactly `amount_out`, rounded up; None when the pair does not hold that much."""
        into, out_of = self._sides(zero_for_one)
        if not 0 < amount_out < out_of:
            return None
        amount_in = into * amount_out * BPS // ((out_of - amount_out) * self._kept) + 1
        return None if amount_in > _RESERVE_LIMIT - into else amount_in

    def curve(self, zero_for_one: bool, reach: float) -> Curve:
        """One piece, however far."""
        into, out_of = self._sides(zero_for_one)
        if not into or not out_of:
            return NOTHING
        share = self._kept / BPS
        root = sqrt(share * into * out_of)
        low = into / root
        return straight(low, low * _FAR, into * (_FAR - 1) / share, GAS_SWAP)

    def swap_in(self, zero_for_one: bool, amount_in: int) -> tuple[int, Self] | None:
        """(output, the pair afterwards)."""
        out = self.quote_in(zero_for_one, amount_in)
        return None if out is None else (out, self._after(zero_for_one, amount_in, out))

    def swap_out(self, zero_for_one: bool, amount_out: int) -> tuple[int, Self] | None:
        """(input, the pair afterwards)."""
        paid = self.quote_out(zero_for_one, amount_out)
        return None if paid is None else (paid, self._after(zero_for_one, paid, amount_out))

    def spot(self, zero_for_one: bool) -> tuple[int, int]:
        """Marginal price before fees as (out, in)."""
        into, out_of = self._sides(zero_for_one)
        return out_of, into

    def gas(self, zero_for_one: bool, amount_in: int) -> int:
        """Expected gas of a trade here."""
        return GAS_SWAP

    def _sides(self, zero_for_one: bool) -> tuple[int, int]:
        return (self.reserve0, self.reserve1) if zero_for_one else (self.reserve1, self.reserve0)

    def _after(self, zero_for_one: bool, paid: int, out: int) -> Self:
        if zero_for_one:
            return self.at(self.reserve0 + paid, self.reserve1 - out)
        return self.at(self.reserve0 - out, self.reserve1 + paid)


class UniswapV2(PoolMirror[V2Pool]):
    """The pairs of a Uniswap V2 factory between `tokens`. `fee_bps` is the pairs' fixed fee (the factory has no say).

    For ports.Venue: hops are encoded as calls of the pair itself, with amounts worked out on chain.
    """

    version = "uniswap-v2.1"

    def __init__(
        self,
        factory: Address,
        start_block: int,
        tokens: Iterable[Address],
        fee_bps: int = 30,
        name: str = "uniswap_v2",
    ) -> None:
        super().__init__(name, factory, start_block, tokens)
        self._factory_abi = interface("uniswap_v2_factory")
        self._abi = interface("uniswap_v2_pair")
        self._sync = self._abi.topic("Sync")
        self.created = self._factory_abi.topic("PairCreated")
        self.followed = frozenset({self._sync})
        self.fee_bps = fee_bps

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Send `amount` to the pair and take all it gives for what arrived."""
        zero_for_one = hop.token_in < hop.token_out
        output = Amount(Source.V2_OUT, self.fee_bps, hop.pool, 0 if zero_for_one else 1)
        data = self._abi.encode("swap", 0, 0, recipient, b"")
        patch = Patch(4 + 32 if zero_for_one else 4, output)
        return Transfer(hop.token_in, hop.pool, amount), Call(hop.pool, data, (patch,))

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Take the output first and pay inside ``uniswapV2Call``.

        An `amount` only known on chain is what a further pool asks for, which is the `recipient` then: it is taken to
        be the hop's quoted output, and the pair is paid before it hands it on, because a pair calls its recipient back.
        """
        zero_for_one = hop.token_in < hop.token_out
        chained = amount.source is not Source.LITERAL
        wanted = hop.amount_out if chained else amount.value
        owed = Amount(Source.V2_IN, self.fee_bps << 128 | wanted, hop.pool, 0 if zero_for_one else 1)
        outputs = (0, wanted) if zero_for_one else (wanted, 0)
        if chained:
            return (*pay(owed), Call(hop.pool, self._abi.encode("swap", *outputs, recipient, b"")))
        data = self._abi.encode("swap", *outputs, recipient, encode(pay(owed)))
        return (Call(hop.pool, data, callback=Callback(hop.pool, 3)),)

    def _created(self, log: Log) -> PoolInfo:
        found = self._factory_abi.parse("PairCreated", log)
        return PoolInfo(
            address(found["pair"]), address(found["token0"]), address(found["token1"]), self.fee_bps * _PIPS_PER_BPS
        )

    def _advance(self, pool: V2Pool, log: Log) -> V2Pool | None:
        reserve0, reserve1 = _reserves(log)
        return pool.at(reserve0, reserve1) if reserve0 and reserve1 else None

    def _born(self, info: PoolInfo, log: Log) -> V2Pool | None:
        return self._make(info, *_reserves(log))

    def _make(self, info: PoolInfo, reserve0: int, reserve1: int) -> V2Pool | None:
        if not reserve0 or not reserve1:
            return None
        return V2Pool(self.name, info.address, info.token0, info.token1, self.fee_bps, reserve0, reserve1)

    async def _read_all(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> tuple[dict[Address, V2Pool], dict[Address, str]]:
        states: dict[Address, V2Pool] = {}
        unusable: dict[Address, str] = {}
        for info, reserves in zip(infos, await self._read(client, head, infos), strict=True):
            pool = None if reserves is None else self._make(info, *reserves)
            if pool is None:
                unusable[info.address] = ILLIQUID if reserves else "its reserves cannot be read"
            else:
                states[info.address] = pool
        return states, unusable

    async def _differences(self, client: Client, head: Head, pools: Sequence[V2Pool]) -> dict[Address, str]:
        infos = [self._infos[pool.address] for pool in pools]
        found: dict[Address, str] = {}
        for pool, reserves in zip(pools, await self._read(client, head, infos), strict=True):
            if reserves != (pool.reserve0, pool.reserve1):
                found[pool.address] = f"reserves are {reserves}, the mirror has {(pool.reserve0, pool.reserve1)}"
        return found

    async def _read(self, client: Client, head: Head, infos: Sequence[PoolInfo]) -> list[tuple[int, int] | None]:
        data = self._abi.encode("getReserves")
        answers = await read_many(client, head, [Read(info.address, data) for info in infos])
        # Where there is no pair (any more) the answer is empty: that says nothing about the others.
        known = [None if a is None or len(a) != _RESERVES else self._abi.decode("getReserves", a) for a in answers]
        return [None if found is None else found[:2] for found in known]

    def _dump(self, pool: V2Pool) -> Any:
        return [str(pool.reserve0), str(pool.reserve1)]

    def _undump(self, info: PoolInfo, raw: Any) -> V2Pool:
        pool = self._make(info, int(raw[0]), int(raw[1]))
        if pool is None:
            raise ValueError(f"pair {info.address} without reserves")
        return pool


def _reserves(log: Log) -> tuple[int, int]:
    if len(log.data) != 64:
        raise BadData(f"Sync in transaction {log.tx_hash} has {len(log.data)} bytes of data")
    return int.from_bytes(log.data[:32], "big"), int.from_bytes(log.data[32:], "big")
