"""The pools of a Uniswap V4 PoolManager, mirrored from its events, and traded with inside one session per program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import ZERO_ADDRESS, Address, Head, Hop, Log, Read, Watch, address
from keeper.ports import Client
from keeper.program import Amount, Call, Callback, Keep, Patch, Source, Step, Transfer, encode, kept
from keeper.venues.mirror import UNINITIALISED, PoolInfo, PoolMirror
from keeper.venues.uniswap_v3.swap_math import FEE_UNIT
from keeper.venues.uniswap_v3.tick_math import MAX_TICK, MIN_TICK
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE
from keeper.venues.uniswap_v4 import storage
from keeper.venues.uniswap_v4.pool import V4Pool

_AMOUNT_AT = 4 + 6 * 32  # amountSpecified in the calldata of swap(): after the key's five words and the direction
_NATIVE_WORD = "0x" + "00" * 32
_AUDITED_TICKS = 4
_HASHED_AT_ONCE = 1_000  # slots of bitmaps, before others have their turn
_NOTHING = (32).to_bytes(32, "big") + bytes(32)  # empty ``bytes``, as unlockCallback() must answer


class UniswapV4(PoolMirror[V4Pool]):
    """The pools without hooks and of fixed fee of a PoolManager between `tokens`; their addresses are their ids.

    The native coin counts as `wrapped_native`, and is wrapped and unwrapped on the way by `executor`, who trades. What
    the manager holds of each token is read at every head, for flash loans.
    """

    version = "uniswap-v4.1"

    def __init__(
        self,
        manager: Address,
        start_block: int,
        tokens: Iterable[Address],
        executor: Address,
        wrapped_native: Address,
        name: str = "uniswap_v4",
    ) -> None:
        super().__init__(name, manager, start_block, tokens)
        self._executor = executor
        self._wrapped = wrapped_native
        self._abi = interface("uniswap_v4_manager")
        self._native_abi = interface("wrapped_native")
        self._swap, self._modify, self._fee = (
            self._abi.topic(event) for event in ("Swap", "ModifyLiquidity", "ProtocolFeeUpdated")
        )
        self.created = self._abi.topic("Initialize")
        self.followed = frozenset({self._swap, self._modify, self._fee})
        self._asked: tuple[Address, ...] = ()
        self._balances: dict[Address, int] = {}

    # -------------------------------------------------------------------------------------------------- balances

    def reads(self) -> tuple[Read, ...]:
        """What the manager holds of every token that matters."""
        self._asked = tuple(sorted(self._tokens))
        data = interface("erc20").encode("balanceOf", self.factory)
        return tuple(Read(token, data) for token in self._asked)

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take the balances; one that could not be read counts as nothing."""
        self._balances = {
            token: int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else 0
            for token, answer in zip(self._asked, answers, strict=True)
        }

    def balance(self, token: Address) -> int:
        """Base units of `token` held by the manager at the last observed head; 0 when unknown."""
        return self._balances.get(token, 0)

    # ------------------------------------------------------------------------------------------------------ legs

    def payee(self, hop: Hop) -> None:
        """The executor: what comes to the manager counts only between ``sync`` and ``settle``."""

    def enclose(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """`steps` inside ``unlock``, which cannot be nested."""
        data = self._abi.encode("unlock", encode(steps))
        return (Call(self.factory, data, callback=Callback(self.factory, 0, _NOTHING)),)

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Sell `amount`, inside a session. Exact input is a negative number."""
        literal = amount.source is Source.LITERAL
        patches = () if literal else (Patch(_AMOUNT_AT, amount, negative=True),)
        steps, paid, got = self._trade(hop, -amount.value if literal else 0, patches)
        return (*steps, *self._hand_over(hop, recipient, got), *self._settle(hop, paid))

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Buy `amount`, inside a session, and hand it over before `pay` is given what the pool asks for."""
        literal = amount.source is Source.LITERAL
        patches = () if literal else (Patch(_AMOUNT_AT, amount),)
        steps, paid, got = self._trade(hop, amount.value if literal else 0, patches)
        return (*steps, *self._hand_over(hop, recipient, got), *pay(paid), *self._settle(hop, paid))

    def _trade(self, hop: Hop, specified: int, patches: tuple[Patch, ...]) -> tuple[tuple[Step, ...], Amount, Amount]:
        """The swap, and what it takes and gives. Its answer is kept because others may trade before it is paid."""
        info = self._infos[hop.pool]
        zero_for_one = self._currency(info, hop.token_in) == info.token0
        key = (info.token0, info.token1, info.fee, info.spacing, ZERO_ADDRESS)
        limit = LOWEST_PRICE if zero_for_one else HIGHEST_PRICE
        data = self._abi.encode("swap", key, (zero_for_one, specified, limit), b"")
        pool = bytes.fromhex(hop.pool[2:])
        halves = kept(pool, 1), kept(pool, 2)
        paid, got = halves if zero_for_one else halves[::-1]
        return (Call(self.factory, data, patches), Keep(pool)), paid, got

    def _hand_over(self, hop: Hop, recipient: Address, amount: Amount) -> tuple[Step, ...]:
        currency = self._currency(self._infos[hop.pool], hop.token_out)
        if currency != ZERO_ADDRESS:
            return (self._withdrawal(currency, recipient, amount),)
        wrapping = (
            self._withdrawal(currency, self._executor, amount),
            Call(self._wrapped, self._native_abi.encode("deposit"), value=amount),
        )
        return wrapping if recipient == self._executor else (*wrapping, Transfer(self._wrapped, recipient, amount))

    def _withdrawal(self, currency: Address, recipient: Address, amount: Amount) -> Call:
        return Call(self.factory, self._abi.encode("take", currency, recipient, 0), (Patch(4 + 2 * 32, amount),))

    def _settle(self, hop: Hop, amount: Amount) -> tuple[Step, ...]:
        currency = self._currency(self._infos[hop.pool], hop.token_in)
        if currency != ZERO_ADDRESS:
            return self.pay_back(currency, amount)
        return (
            Call(self._wrapped, self._native_abi.encode("withdraw", 0), (Patch(4, amount),)),
            Call(self.factory, self._abi.encode("settle"), value=amount),
        )

    def pay_back(self, token: Address, amount: Amount) -> tuple[Step, ...]:
        """Settle `amount` of a token; nothing may come between these steps."""
        return (
            Call(self.factory, self._abi.encode("sync", token)),
            Transfer(token, self.factory, amount),
            Call(self.factory, self._abi.encode("settle")),
        )

    def _currency(self, info: PoolInfo, token: Address) -> Address:
        return ZERO_ADDRESS if token == self._wrapped and info.token0 == ZERO_ADDRESS else token

    # ---------------------------------------------------------------------------------------------------- events

    def watch(self) -> Watch:
        """The manager, whose logs are about all its pools."""
        return Watch(frozenset({self.factory}), self.followed | {self.created})

    def _creations(self, words: frozenset[str]) -> tuple[frozenset[str], ...]:
        currencies = words | {_NATIVE_WORD}
        return frozenset(), currencies, currencies

    def _matters(self, info: PoolInfo) -> bool:
        first = self._wrapped if info.token0 == ZERO_ADDRESS else info.token0
        return first in self._tokens and info.token1 in self._tokens and first != info.token1

    def _subject(self, log: Log) -> Address | None:
        return Address(log.topics[1]) if log.address == self.factory and len(log.topics) > 1 else None

    def _created(self, log: Log) -> PoolInfo | None:
        found = self._abi.parse("Initialize", log)
        # Above FEE_UNIT lies the mark of a fee that a hook sets, which without hooks nobody can.
        if found["hooks"] != ZERO_ADDRESS or found["fee"] >= FEE_UNIT:
            return None
        return PoolInfo(
            Address("0x" + found["id"].hex()),
            address(found["currency0"]),
            address(found["currency1"]),
            found["fee"],
            found["tickSpacing"],
        )

    def _advance(self, pool: V4Pool, log: Log) -> V4Pool:
        topic = log.topics[0]
        if topic == self._swap:
            found = self._abi.parse("Swap", log)
            after = pool.at(found["sqrtPriceX96"], found["tick"])
            if after.liquidity != found["liquidity"] or found["fee"] not in pool.fees:
                raise BadData(
                    f"the Swap in transaction {log.tx_hash} says liquidity {found['liquidity']} at tick "
                    f"{found['tick']} and fee {found['fee']}, the mirror has {after.liquidity} and {pool.fees}"
                )
            return after
        if topic == self._modify:
            found = self._abi.parse("ModifyLiquidity", log)
            delta = found["liquidityDelta"]
            return pool.changed(found["tickLower"], found["tickUpper"], delta) if delta else pool
        packed = self._abi.parse("ProtocolFeeUpdated", log)["protocolFee"]
        info = self._infos[pool.address]
        return self._make(info, packed, pool.ticks.gross_net, pool.sqrt_price, pool.tick)

    def _born(self, info: PoolInfo, log: Log) -> V4Pool | None:
        raise BadData("something happened in a pool that could not be used")

    def _make(self, info: PoolInfo, packed: int, gross_net: Any, sqrt_price: int, tick: int) -> V4Pool:
        currencies, fees = (info.token0, info.token1), (info.fee, packed)
        return V4Pool.made(
            self.name, info.address, currencies, self._wrapped, fees, info.spacing, gross_net, sqrt_price, tick
        )

    # ----------------------------------------------------------------------------------------------------- reads

    async def _read_all(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> tuple[dict[Address, V4Pool], dict[Address, str]]:
        states: dict[Address, V4Pool] = {}
        unusable: dict[Address, str] = {}
        found = zip(await self._places(client, head, infos), await self._gross_net(client, head, infos), strict=True)
        for info, ((sqrt_price, tick, packed, fee, liquidity), ticks) in zip(infos, found, strict=True):
            try:
                pool = self._make(info, packed, ticks, sqrt_price, tick)
            except BadData as error:
                unusable[info.address] = str(error)
                continue
            if sqrt_price == 0:
                unusable[info.address] = UNINITIALISED
            elif fee != info.fee:
                unusable[info.address] = f"its fee is {fee}, but it was announced with {info.fee}"
            elif pool.liquidity != liquidity:
                unusable[info.address] = f"its ticks add up to liquidity {pool.liquidity}, but it says {liquidity}"
            else:
                states[info.address] = pool
        return states, unusable

    async def _places(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> list[tuple[int, int, int, int, int]]:
        """(sqrt price, tick, packed protocol fee, fee, liquidity) of each pool."""
        slots = [slot for i in infos for slot in (storage.slot0(i.address), storage.liquidity(i.address))]
        words = await storage.read_slots(client, head, self.factory, slots)
        return [(*storage.unpack_slot0(words[i]), words[i + 1]) for i in range(0, len(words), 2)]

    async def _gross_net(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> list[dict[int, tuple[int, int]]]:
        """Initialised ticks of each pool, found by reading its whole bitmap."""
        places = [
            (i, info, position)
            for i, info in enumerate(infos)
            for position in range((MIN_TICK // info.spacing) >> 8, (MAX_TICK // info.spacing >> 8) + 1)
        ]
        slots: list[int] = []
        for start in range(0, len(places), _HASHED_AT_ONCE):
            part = places[start : start + _HASHED_AT_ONCE]
            slots += [storage.bitmap_word(info.address, position) for _, info, position in part]
            await asyncio.sleep(0)
        words = await storage.read_slots(client, head, self.factory, slots)
        wanted = [
            (i, info, ((position << 8) + bit) * info.spacing)
            for (i, info, position), word in zip(places, words, strict=True)
            if word
            for bit in range(256)
            if word >> bit & 1
        ]
        slots = [storage.tick_info(info.address, tick) for _, info, tick in wanted]
        words = await storage.read_slots(client, head, self.factory, slots)
        found: list[dict[int, tuple[int, int]]] = [{} for _ in infos]
        for (i, _, tick), word in zip(wanted, words, strict=True):
            found[i][tick] = storage.unpack_tick(word)
        return found

    async def _differences(self, client: Client, head: Head, pools: Sequence[V4Pool]) -> dict[Address, str]:
        infos = [self._infos[pool.address] for pool in pools]
        found: dict[Address, str] = {}
        for pool, (price, tick, packed, _, liquidity) in zip(
            pools, await self._places(client, head, infos), strict=True
        ):
            mine, theirs = (
                (pool.sqrt_price, pool.tick, pool.protocol_fee, pool.liquidity),
                (
                    price,
                    tick,
                    packed,
                    liquidity,
                ),
            )
            if mine != theirs:
                found[pool.address] = f"price, tick, protocol fee and liquidity are {theirs}, the mirror has {mine}"
        checks = [(pool, tick) for pool in pools for tick in self._picked(pool)]
        slots = [storage.tick_info(pool.address, tick) for pool, tick in checks]
        for (pool, tick), word in zip(checks, await storage.read_slots(client, head, self.factory, slots), strict=True):
            theirs_there, mine_there = storage.unpack_tick(word), pool.ticks.gross_net[tick]
            if theirs_there != mine_there:
                found.setdefault(
                    pool.address, f"gross and net at tick {tick} are {theirs_there}, the mirror has {mine_there}"
                )
        return found

    def _picked(self, pool: V4Pool) -> set[int]:
        """A few ticks of a pool, others at every audit."""
        ticks = pool.ticks.ticks
        return {ticks[(self._cursor * 7 + i * 31) % len(ticks)] for i in range(min(_AUDITED_TICKS, len(ticks)))}

    # ------------------------------------------------------------------------------------------------------ disk

    def _dump(self, pool: V4Pool) -> Any:
        ticks = [[tick, str(gross), str(net)] for tick, (gross, net) in pool.ticks.gross_net.items()]
        return [str(pool.sqrt_price), pool.tick, pool.protocol_fee, ticks]

    def _undump(self, info: PoolInfo, raw: Any) -> V4Pool:
        ticks = {int(tick): (int(gross), int(net)) for tick, gross, net in raw[3]}
        return self._make(info, int(raw[2]), ticks, int(raw[0]), int(raw[1]))
