"""The pools of a Uniswap V3 factory, mirrored from their events, and traded with directly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Head, Hop, Log, Read, address
from keeper.ports import Client
from keeper.program import Amount, Call, Callback, Patch, Source, Step, Transfer, encode, word
from keeper.venues.mirror import UNINITIALISED, PoolInfo, PoolMirror, read_many
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, MIN_TICK
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE, TickMap

_AMOUNT_AT = 4 + 2 * 32  # amountSpecified in the calldata of swap()
_AUDITED_TICKS = 4
_WORD = 32
_WORDS_AT_ONCE = 4_000  # of bitmaps, asked for before others have their turn


class UniswapV3(PoolMirror[V3Pool]):
    """The pools of a Uniswap V3 factory between `tokens`.

    With `balances`, what each pool holds of its tokens is read at every head, for flash loans.
    """

    version = "uniswap-v3.1"

    def __init__(
        self,
        factory: Address,
        start_block: int,
        tokens: Iterable[Address],
        name: str = "uniswap_v3",
        *,
        balances: bool = True,
    ) -> None:
        super().__init__(name, factory, start_block, tokens)
        self._factory_abi = interface("uniswap_v3_factory")
        self._abi = interface("uniswap_v3_pool")
        self._initialize, self._swap, self._mint, self._burn = (
            self._abi.topic(event) for event in ("Initialize", "Swap", "Mint", "Burn")
        )
        self.created = self._factory_abi.topic("PoolCreated")
        self.followed = frozenset({self._initialize, self._swap, self._mint, self._burn})
        self._with_balances = balances
        self._balance_reads: dict[Address, tuple[Read, Read]] = {}
        self._asked: tuple[Address, ...] = ()
        self._balances: dict[tuple[Address, Address], int] = {}

    # -------------------------------------------------------------------------------------------------- balances

    def reads(self) -> tuple[Read, ...]:
        """What each usable pool holds of both its tokens."""
        if not self._with_balances:
            return ()
        for pool in self.pools():
            if pool.address not in self._balance_reads:
                data = interface("erc20").encode("balanceOf", pool.address)
                self._balance_reads[pool.address] = (Read(pool.token0, data), Read(pool.token1, data))
        self._asked = tuple(pool.address for pool in self.pools())
        return tuple(read for pool in self._asked for read in self._balance_reads[pool])

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take the balances; one that could not be read counts as nothing."""
        keys = [(pool, read.to) for pool in self._asked for read in self._balance_reads[pool]]
        self._balances = {
            key: _word(answer, 0) if answer is not None and len(answer) >= _WORD else 0
            for key, answer in zip(keys, answers, strict=True)
        }

    def balance(self, pool: Address, token: Address) -> int:
        """Base units of `token` held by `pool` at the last observed head; 0 when unknown."""
        return self._balances.get((pool, token), 0)

    # ------------------------------------------------------------------------------------------------------ legs

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Sell `amount`, paid inside ``uniswapV3SwapCallback``."""
        literal = amount.source is Source.LITERAL
        patches = () if literal else (Patch(_AMOUNT_AT, amount),)
        return self._call(hop, amount.value if literal else 0, recipient, patches, self._payment(hop))

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Buy `amount`; `pay` is given what the pool asks for in its callback. Exact output is a negative number."""
        literal = amount.source is Source.LITERAL
        patches = () if literal else (Patch(_AMOUNT_AT, amount, negative=True),)
        return self._call(hop, -amount.value if literal else 0, recipient, patches, pay(self._owed(hop)))

    def _call(
        self, hop: Hop, specified: int, recipient: Address, patches: tuple[Patch, ...], inner: tuple[Step, ...]
    ) -> tuple[Step, ...]:
        zero_for_one = hop.token_in < hop.token_out
        limit = LOWEST_PRICE if zero_for_one else HIGHEST_PRICE
        data = self._abi.encode("swap", recipient, zero_for_one, specified, limit, encode(inner))
        return (Call(hop.pool, data, patches, Callback(hop.pool, 2)),)

    def _owed(self, hop: Hop) -> Amount:
        return word(0 if hop.token_in < hop.token_out else 1)

    def _payment(self, hop: Hop) -> tuple[Step, ...]:
        return (Transfer(hop.token_in, hop.pool, self._owed(hop)),)

    # ---------------------------------------------------------------------------------------------------- events

    def _created(self, log: Log) -> PoolInfo:
        found = self._factory_abi.parse("PoolCreated", log)
        return PoolInfo(
            address(found["pool"]),
            address(found["token0"]),
            address(found["token1"]),
            found["fee"],
            found["tickSpacing"],
        )

    def _advance(self, pool: V3Pool, log: Log) -> V3Pool:
        topic, data = log.topics[0], log.data
        if topic == self._swap:
            _expect(log, 5 * 32, 2)
            price, liquidity, tick = _word(data, 2), _word(data, 3), _signed(data, 4)
            after = pool.at(price, tick)
            if after.liquidity != liquidity:
                raise BadData(
                    f"the Swap in transaction {log.tx_hash} says liquidity {liquidity} at tick {tick}, "
                    f"the mirror's ticks say {after.liquidity}"
                )
            return after
        if topic == self._initialize:
            raise BadData(f"the pool was initialised again in transaction {log.tx_hash}")
        if topic == self._mint:
            _expect(log, 4 * 32, 3)
            delta = _word(data, 1)
        else:
            _expect(log, 3 * 32, 3)
            delta = -_word(data, 0)
        lower, upper = (_signed(bytes.fromhex(topic[2:]), 0) for topic in log.topics[2:4])
        return pool.over(pool.ticks.changed(lower, upper, delta)) if delta else pool

    def _born(self, info: PoolInfo, log: Log) -> V3Pool | None:
        if log.topics[0] != self._initialize:
            return None
        _expect(log, 2 * 32, 0)
        return self._make(info, TickMap(info.spacing, info.fee, {}), _word(log.data, 0), _signed(log.data, 1))

    def _make(self, info: PoolInfo, ticks: TickMap, sqrt_price: int, tick: int) -> V3Pool:
        return V3Pool(self.name, info.address, info.token0, info.token1, ticks, sqrt_price, tick)

    # ----------------------------------------------------------------------------------------------------- reads

    async def _read_all(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> tuple[dict[Address, V3Pool], dict[Address, str]]:
        unusable: dict[Address, str] = {}
        places: dict[Address, tuple[int, int, int]] = {}
        for info, place in zip(infos, await self._places(client, head, infos), strict=True):
            if isinstance(place, str):
                unusable[info.address] = place
            else:
                places[info.address] = place
        usable = [info for info in infos if info.address in places]
        states: dict[Address, V3Pool] = {}
        for info, found in zip(usable, await self._gross_net(client, head, usable), strict=True):
            price, tick, liquidity = places[info.address]
            try:
                pool = self._make(info, TickMap(info.spacing, info.fee, found), price, tick)
            except BadData as error:
                unusable[info.address] = str(error)
                continue
            if pool.liquidity != liquidity:
                unusable[info.address] = f"its ticks add up to liquidity {pool.liquidity}, but it says {liquidity}"
            else:
                states[info.address] = pool
        return states, unusable

    async def _places(self, client: Client, head: Head, infos: Sequence[PoolInfo]) -> list[tuple[int, int, int] | str]:
        """(sqrt price, tick, liquidity) of each pool, or why it cannot be used."""
        names = ("slot0", "liquidity", "fee", "tickSpacing")
        reads = [Read(info.address, self._abi.encode(name)) for info in infos for name in names]
        answers = await read_many(client, head, reads)
        found: list[tuple[int, int, int] | str] = []
        for i, info in enumerate(infos):
            group = answers[4 * i : 4 * i + 4]
            try:
                slot0, liquidity, fee, spacing = (self._abi.decode(n, a) for n, a in zip(names, group, strict=True))
            except BadData as error:
                found.append(str(error))
                continue
            price, tick, *_, unlocked = slot0
            if price == 0:
                found.append(UNINITIALISED)
            elif not unlocked:
                found.append("it is locked")
            elif (fee[0], spacing[0]) != (info.fee, info.spacing):
                found.append(f"fee and spacing are {fee[0]}, {spacing[0]}, the factory said {info.fee}, {info.spacing}")
            else:
                found.append((price, tick, liquidity[0]))
        return found

    async def _gross_net(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> list[dict[int, tuple[int, int]]]:
        """Initialised ticks of each pool, found by reading its whole bitmap."""
        words = [
            (i, info, position)
            for i, info in enumerate(infos)
            for position in range((MIN_TICK // info.spacing) >> 8, (MAX_TICK // info.spacing >> 8) + 1)
        ]
        bitmap, info_of = self._abi.functions["tickBitmap"].selector, self._abi.functions["ticks"].selector
        # Thousands of words: encoded and decoded by hand.
        wanted = []
        for start in range(0, len(words), _WORDS_AT_ONCE):
            part = words[start : start + _WORDS_AT_ONCE]
            reads = [Read(info.address, bitmap + _argument(position)) for _, info, position in part]
            wanted += [
                (i, info, ((position << 8) + bit) * info.spacing)
                for (i, info, position), answer in zip(part, await read_many(client, head, reads), strict=True)
                for bit in _bits(_word(_answer(answer, "tickBitmap", 1), 0))
            ]
        reads = [Read(info.address, info_of + _argument(tick)) for _, info, tick in wanted]
        found: list[dict[int, tuple[int, int]]] = [{} for _ in infos]
        for (i, _, tick), answer in zip(wanted, await read_many(client, head, reads), strict=True):
            data = _answer(answer, "ticks", 8)
            found[i][tick] = (_word(data, 0), _signed(data, 1))
        return found

    async def _differences(self, client: Client, head: Head, pools: Sequence[V3Pool]) -> dict[Address, str]:
        infos = [self._infos[pool.address] for pool in pools]
        found: dict[Address, str] = {}
        for pool, place in zip(pools, await self._places(client, head, infos), strict=True):
            mine = (pool.sqrt_price, pool.tick, pool.liquidity)
            if place != mine:
                found[pool.address] = f"price, tick and liquidity are {place}, the mirror has {mine}"
        checks = [(pool, tick) for pool in pools for tick in self._picked(pool)]
        reads = [Read(pool.address, self._abi.encode("ticks", tick)) for pool, tick in checks]
        for (pool, tick), answer in zip(checks, await read_many(client, head, reads), strict=True):
            gross_net = self._abi.decode("ticks", answer)[:2]
            if gross_net != pool.ticks.gross_net[tick]:
                found.setdefault(
                    pool.address,
                    f"gross and net at tick {tick} are {gross_net}, the mirror has {pool.ticks.gross_net[tick]}",
                )
        return found

    def _picked(self, pool: V3Pool) -> set[int]:
        """A few ticks of a pool, others at every audit."""
        ticks = pool.ticks.ticks
        return {ticks[(self._cursor * 7 + i * 31) % len(ticks)] for i in range(min(_AUDITED_TICKS, len(ticks)))}

    # ------------------------------------------------------------------------------------------------------ disk

    def _dump(self, pool: V3Pool) -> Any:
        ticks = [[tick, str(gross), str(net)] for tick, (gross, net) in pool.ticks.gross_net.items()]
        return [str(pool.sqrt_price), pool.tick, ticks]

    def _undump(self, info: PoolInfo, raw: Any) -> V3Pool:
        ticks = {int(tick): (int(gross), int(net)) for tick, gross, net in raw[2]}
        return self._make(info, TickMap(info.spacing, info.fee, ticks), int(raw[0]), int(raw[1]))


def _bits(word: int) -> list[int]:
    return [bit for bit in range(256) if word >> bit & 1] if word else []


def _argument(value: int) -> bytes:
    return value.to_bytes(_WORD, "big", signed=True)


def _answer(answer: bytes | None, what: str, words: int) -> bytes:
    if answer is None or len(answer) != _WORD * words:
        raise BadData(f"{what}() of a pool answered {'nothing' if answer is None else f'{len(answer)} bytes'}")
    return answer


def _word(data: bytes, index: int) -> int:
    return int.from_bytes(data[_WORD * index : _WORD * index + _WORD], "big")


def _signed(data: bytes, index: int) -> int:
    return int.from_bytes(data[_WORD * index : _WORD * index + _WORD], "big", signed=True)


def _expect(log: Log, size: int, indexed: int) -> None:
    if len(log.data) != size or len(log.topics) != 1 + indexed:
        raise BadData(
            f"a log of transaction {log.tx_hash} has {len(log.data)} bytes and {len(log.topics)} topics, "
            f"not the {size} and {1 + indexed} its event has"
        )
