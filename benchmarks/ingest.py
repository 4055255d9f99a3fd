"""Logs as a node writes them, decoded and applied: the book's and the pools'."""

from __future__ import annotations

import time
from collections.abc import Sequence

import orjson

from benchmarks.crowd import Crowd
from benchmarks.measure import Row
from benchmarks.screen import crowd, market
from keeper.abi import interface
from keeper.chain import wire
from keeper.chain.reply import decode
from keeper.model import ZERO_ADDRESS, Address, Block, Hash, Head, Log, Watch
from keeper.protocols.aave_v3 import events
from keeper.protocols.aave_v3.follower import Follower
from keeper.protocols.aave_v3.ledger import Ledger
from keeper.rewind import Rewind
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.venue import UniswapV3

_BLOCKS = 20
_POOL_LOGS = 300_000  # of a pool and a pair, whose state does not grow


def run(users: int) -> list[Row]:
    """13 logs a user, block by block: decoded from JSON, replayed as history, applied as live with undo records."""
    people, (made, _, _) = crowd(users), market()
    tokens = {token for r in made.reserves.values() for token in (r.a_token, r.v_token)}
    watch = Watch(frozenset({made.pool} | tokens), events.ALL)
    blocks = max(_BLOCKS, users // 400)
    decoding, count, size = 0.0, 0, 0
    for number in range(blocks):  # as in a back-fill, what was decoded is let go again
        answer = _answer(people, number, blocks)
        begun = time.process_time()
        count += len(wire.logs(_result(answer), watch, 100 + number, 100 + number))
        decoding += time.process_time() - begun
        size += len(answer)
    books, applying = [_book(), _book()], [0.0, 0.0]
    for number in range(blocks):
        logs = wire.logs(_result(_answer(people, number, blocks)), watch, 100 + number, 100 + number)
        for live, (_, follower, rewind) in enumerate(books):
            begun = time.process_time()
            if live:
                rewind.begin(100 + number)
            for log in logs:
                follower.take(log, 1_800_000_000 + number if live else None)
            applying[live] += time.process_time() - begun
    assert count == 13 * users
    rows = [
        Row("ingestion", "decode, JSON included", count / decoding, "logs/s", target="≥ 200,000/s per core",
            reached=count / decoding >= 200_000, size=users, note=f"{size // count} bytes a log"),
    ]  # fmt: skip
    for name, seconds, (ledger, _, _) in zip(
        ("replay as history", "apply as blocks, undoable"), applying, books, strict=True
    ):
        assert ledger.counts == [users, 5 * users]
        assert [ledger.amount[e] for e in ledger.chain(ledger.users[ledger.names[0]])]
        rate = count / seconds
        rows.append(
            Row("ingestion", f"Aave: {name}", rate, "logs/s", target="≥ 50,000/s", reached=rate >= 50_000, size=users)
        )
    return [*rows, _pools(min(3 * users, _POOL_LOGS))]


def _book() -> tuple[Ledger, Follower, Rewind]:
    rewind = Rewind()
    ledger = Ledger(rewind)
    follower = Follower(ledger, rewind, ZERO_ADDRESS)
    made = market()[0]
    follower.follow(made, made.reserves)
    return ledger, follower, rewind


def _answer(people: Crowd, number: int, blocks: int) -> bytes:
    """A block's logs as a node sends them: in a batch with the header asked for with them."""
    logs = people.logs(number, blocks, 100 + number, f"0x{number:064x}")
    return b'[{"jsonrpc":"2.0","id":1,"result":[' + logs + b']},{"jsonrpc":"2.0","id":2,"result":{}}]'


def _result(response: bytes) -> object:
    """The logs of a response, as the connection hands them on."""
    replies = decode(response)
    assert isinstance(replies, list)
    return replies[0].result


def _pools(count: int) -> Row:
    """Swaps of a pool with ticks and syncs of a pair, in turns, as blocks that can be undone."""
    tokens = sorted((Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)))
    factory, pool = Address("0x" + "fa" * 20), Address("0x" + "f0" * 20)
    v2, v3 = UniswapV2(factory, 1, tokens), UniswapV3(factory, 1, tokens)
    _place(v2, pool, tokens, 0, [str(10**24), str(10**24)])
    _place(v3, pool, tokens, 60, [str(1 << 96), 0, [["-60000", "5000", "5000"], ["60000", "5000", "-5000"]]])
    swap, sync = interface("uniswap_v3_pool").topic("Swap"), interface("uniswap_v2_pair").topic("Sync")
    trader = "0x" + "0" * 64
    logs = [
        _log(pool, (swap, trader, trader), _swap(n)) if n % 2 else _log(pool, (sync,), _pair(n)) for n in range(count)
    ]
    used = time.process_time()
    for number, start in enumerate(range(0, count, 400)):
        head = Head(100 + number, Hash(f"0x{number:064x}"), Hash("0x0"), 12 * number, 0)
        part = logs[start : start + 400]
        v2.apply(Block(head, tuple(part[::2])))
        v3.apply(Block(head, tuple(part[1::2])))
    rate = count / (time.process_time() - used)
    (pair,), (ranged,) = v2.pools(), v3.pools()
    assert (pair.reserve0, ranged.sqrt_price) == (10**24 + count - 2, (1 << 96) + count - 1)
    return Row("ingestion", "pools: apply as blocks, undoable", rate, "logs/s", target="≥ 50,000/s",
               reached=rate >= 50_000, note=f"{count:,} logs")  # fmt: skip


def _place(
    venue: UniswapV2 | UniswapV3, pool: Address, tokens: Sequence[Address], spacing: int, state: list[object]
) -> None:
    """Let a mirror that has read nothing have one pool."""
    empty = orjson.loads(venue.snapshot())
    pools = [[pool, *tokens, 3_000, spacing]]
    venue.restore(
        orjson.dumps(
            empty | {"tokens": tokens, "pools": pools, "states": {pool: state}, "number": 10, "distrusted": ""}
        )
    )


def _pair(number: int) -> str:
    return f"{10**24 + number:064x}" + f"{10**24 - number:064x}"


def _swap(number: int) -> str:
    return "".join(f"{n:064x}" for n in (10**18, 10**18, (1 << 96) + number, 5_000, 0))


def _log(address: Address, topics: tuple[str, ...], data: str) -> Log:
    return Log(address, topics, bytes.fromhex(data), 10, 0, Hash("0x" + "0" * 64))
