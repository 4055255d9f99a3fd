"""Where a PoolManager keeps a pool, read in bulk with ``extsload``: layout of ``Pool.State`` in Uniswap v4-core 1.0."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache

from eth_utils.crypto import keccak

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Head, Read
from keeper.ports import Client
from keeper.venues.mirror import read_many

_POOLS = 6  # slot of the mapping of pools
_LIQUIDITY, _TICKS, _BITMAP = 3, 4, 5  # words after the pool's first, which is slot0
_SLOTS_PER_READ = 256
_WORD = 32


@lru_cache(maxsize=4_096)
def base(pool: Address) -> int:
    """The slot of a pool's slot0."""
    return int.from_bytes(keccak(bytes.fromhex(pool[2:]) + _POOLS.to_bytes(_WORD, "big")), "big")


def slot0(pool: Address) -> int:
    """Price, tick and fees."""
    return base(pool)


def liquidity(pool: Address) -> int:
    """Active liquidity."""
    return base(pool) + _LIQUIDITY


def tick_info(pool: Address, tick: int) -> int:
    """Gross and net liquidity at a tick."""
    return _mapped(tick, base(pool) + _TICKS)


def bitmap_word(pool: Address, position: int) -> int:
    """256 ticks' initialised bits."""
    return _mapped(position, base(pool) + _BITMAP)


def _mapped(key: int, mapping: int) -> int:
    return int.from_bytes(keccak(key.to_bytes(_WORD, "big", signed=True) + mapping.to_bytes(_WORD, "big")), "big")


def unpack_slot0(word: int) -> tuple[int, int, int, int]:
    """(sqrt price, tick, packed protocol fee, the pool's own fee)."""
    tick = word >> 160 & 0xFFFFFF
    return (
        word & (1 << 160) - 1,
        tick - (1 << 24) if tick >> 23 else tick,
        word >> 184 & 0xFFFFFF,
        word >> 208 & 0xFFFFFF,
    )


def unpack_tick(word: int) -> tuple[int, int]:
    """(gross, net)."""
    net = word >> 128
    return word & (1 << 128) - 1, net - (1 << 128) if net >> 127 else net


async def read_slots(client: Client, head: Head, manager: Address, slots: Sequence[int]) -> list[int]:
    """Words of the manager's storage at `head`; raises BadData when it does not answer."""
    abi = interface("uniswap_v4_manager")
    parts = [slots[i : i + _SLOTS_PER_READ] for i in range(0, len(slots), _SLOTS_PER_READ)]
    reads = []
    for part in parts:
        reads.append(Read(manager, abi.encode("extsload", [s.to_bytes(_WORD, "big") for s in part])))
        await asyncio.sleep(0)
    words: list[int] = []
    for part, answer in zip(parts, await read_many(client, head, reads), strict=True):
        values = abi.decode("extsload", answer)[0]
        if len(values) != len(part):
            raise BadData(f"extsload() of {manager} answered {len(values)} words where {len(part)} were asked for")
        words += [int.from_bytes(value, "big") for value in values]
        await asyncio.sleep(0)
    return words
