"""`python -m benchmarks.resident USERS`: a process that holds a book and does with it what the daemon does; as JSON.

A process of its own, because what it weighs is what is asked.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import orjson

import keeper.app  # noqa: F401 - the whole program is loaded, as in the daemon
from benchmarks.crowd import who
from benchmarks.measure import Stall, peak, resident
from benchmarks.screen import NOW, crowd, market, valued
from keeper.chain.checkpoints import Checkpoints
from keeper.chain.rebuild import frozen
from keeper.memory import give_back, large_blocks_apart
from keeper.model import Address, Hash, Head, Read
from keeper.ports import Client
from keeper.protocols.aave_v3 import AaveV3Book, checks, snapshot
from keeper.protocols.aave_v3.ledger import SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Reserve
from keeper.protocols.kernels import kernels

PROVIDER = Address("0x" + "9e" * 20)
HASH = Hash("0x" + "00" * 32)


class Totals:
    """A node that knows nothing but what each token's holders have together."""

    def __init__(self, totals: dict[Address, int]) -> None:
        self._totals = totals

    async def read(self, reads: Sequence[Read], head: Head) -> list[bytes | None]:
        return [self._totals[read.to].to_bytes(32, "big") for read in reads]


class Silent:
    """Nobody is told anything."""

    def alert(self, key: str, text: str, *, severe: bool = False) -> None: ...


async def prepare(path: Path, users: int) -> None:
    """A checkpoint on disk."""
    checkpoints = await Checkpoints.open(path, 1)
    meta: snapshot.Meta = {"provider": PROVIDER, "start": 1, "block": 100, "stable": []}
    await checkpoints.save("book", 100, HASH, snapshot.freeze(crowd(users).ledger(), meta))
    await checkpoints.close()


async def audit(ledger: Ledger) -> None:
    """The part of an audit that grows with the book."""
    made, _, _ = market()
    sides = [(token, slot(r.id, side)) for r in made.reserves.values() for side, token in enumerate(_tokens(r))]
    totals = {token: await asyncio.to_thread(ledger.total, where) for token, where in sides}
    head = Head(101, HASH, HASH, NOW, 0)
    client = cast(Client, Totals(totals))
    assert not await checks.wrong_totals(client, head, made, ledger)


def _tokens(reserve: Reserve) -> tuple[Address, Address]:
    return reserve.a_token, reserve.v_token


async def live(path: Path, users: int) -> dict[str, float]:
    """Restore, sweep, live through prices and changes, store; the worst the loop had to wait, and what it weighs."""
    found: dict[str, float] = {}
    book = AaveV3Book("book", PROVIDER, 1, None, Silent())
    await asyncio.to_thread(kernels)
    checkpoints = await Checkpoints.open(path, 1)
    async with Stall() as stall:
        begun, used = time.perf_counter(), time.process_time()
        stored = (await anext(checkpoints.load("book"))).data
        await asyncio.to_thread(book.restore, stored)
        del stored
        await asyncio.to_thread(give_back)
        found["restore_wall"], found["restore"] = time.perf_counter() - begun, time.process_time() - used
        ledger, sweep = book._ledger, book._sweep  # noqa: SLF001 - a benchmark may look inside
        for price in range(100, 90, -1):
            valuation = valued(price * 10**6)
            sweep.below(valuation.factors({0}), valuation.screen_slack)
            await asyncio.sleep(0)
        for user in range(0, min(users, 1_000), 100):  # as many changes as there may be in a busy block
            for each in range(user, user + 100):
                ledger.set_amount(ledger.entry(ledger.users[who(each)], slot(1, SUPPLY)), 10**18)
            await asyncio.sleep(0)
        await audit(ledger)
        found["live"] = resident()
        await checkpoints.save("book", 101, HASH, await frozen(book))
        found["stored"] = resident()
    found |= {"stall_wall": stall.wall, "stall": stall.busy, "peak": peak()}
    await checkpoints.close()
    return found


if __name__ == "__main__":
    large_blocks_apart()
    with tempfile.TemporaryDirectory() as folder:
        place, number = Path(folder) / "mirrors.sqlite3", int(sys.argv[1])
        if len(sys.argv) > 2:  # a child makes what is restored, so that making it weighs nothing here
            asyncio.run(prepare(Path(sys.argv[2]), number))
        else:
            command = [sys.executable, "-m", "benchmarks.resident", str(number), str(place)]
            subprocess.run(command, check=True)
            print(orjson.dumps(asyncio.run(live(place, number))).decode())
