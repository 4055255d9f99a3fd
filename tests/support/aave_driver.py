"""Keeps a book in step with a private chain, the way the engine does, and compares it with the pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keeper.chain.client import NodeClient
from keeper.devchain.lending import Market
from keeper.devchain.rpc import Rpc
from keeper.model import Address, Head
from keeper.protocols.aave_v3 import AaveV3Book
from keeper.protocols.aave_v3.market import POOL

ACCOUNT_TYPES = ("uint256",) * 6


class Alerts:
    """Remembers what a person would have been told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        self.seen.append((name, message))


class Driver:
    """A book, the client it reads through, and the chain of heads it has seen."""

    def __init__(self, client: NodeClient, rpc: Rpc, market: Market, native: Address | None, **options: Any) -> None:
        self.client, self.rpc, self.market = client, rpc, market
        self.alerts = Alerts()
        self.native, self.options = native, options
        self.book = self.fresh()
        self.heads: list[Head] = []

    def fresh(self) -> AaveV3Book:
        """Another book of the same market, knowing nothing."""
        return AaveV3Book(
            self.market.name,
            self.market.addresses_provider,
            self.market.start_block,
            self.native,
            self.alerts,
            **self.options,
        )

    async def start(self, book: AaveV3Book | None = None) -> None:
        """First contact and history, up to the newest block."""
        self.book = book or self.book
        head = await self.client.head()
        await self.book.load(self.client, head)
        first = self.book.history_from
        assert first is not None
        if first <= head.number:
            async for _, _, logs in self.client.logs(self.book.watch(), first, head.number):
                self.book.replay(logs)
        await self.book.refresh(self.client, head)
        self.heads = [head]
        await self._observe(head)

    async def follow(self) -> Head:
        """Undo what was reorganised away, apply what is new, and read at the newest head."""
        newest = await self.client.head()
        while self.heads[-1].number > newest.number or not await self._canonical(self.heads[-1]):
            self.heads.pop()
        if self.heads[-1].number < self.book_block:
            self.book.rewind(self.heads[-1].number)
        missing = await self.client.headers(self.heads[-1].number + 1, newest.number)
        if missing:
            blocks, _ = await self.client.pass_batch(missing, self.book.watch(), (), newest)
            for block in blocks:
                self.book.apply(block)
                self.heads.append(block.head)
        if self.book.dirty:
            await self.book.refresh(self.client, newest)
        await self._observe(newest)
        return newest

    async def _observe(self, head: Head) -> None:
        self.book.observe(head, await self.client.read(self.book.reads(), head))
        if self.book.dirty:
            await self.book.refresh(self.client, head)

    @property
    def book_block(self) -> int:
        first = self.book.history_from
        assert first is not None
        return first - 1

    async def _canonical(self, head: Head) -> bool:
        return (await self.client.header(head.number)).hash == head.hash

    def differences(self, users: Iterable[Address]) -> list[str]:
        """Every user whose account data are not what the pool says at the newest block."""
        head = self.heads[-1]
        names = list(users)
        calls = [(self.market.pool, "getUserAccountData(address)", (name,), ACCOUNT_TYPES) for name in names]
        found = []
        for name, answer in zip(names, self.rpc.views(calls, at=head.number), strict=True):
            mine = self.book.account(name, head.timestamp)
            theirs = None if answer is None else (answer[0], answer[1], answer[5])
            have = None if mine is None else (mine.collateral_value, mine.debt_value, mine.health_factor)
            if have is None and theirs == (0, 0, 2**256 - 1):
                continue  # somebody who never appeared
            if have != theirs:
                found.append(f"{name} at block {head.number}: pool {theirs}, book {have}")
        return found

    def state_differences(self) -> list[str]:
        """Every reserve whose indices, rates or time of update are not what the pool has stored at the newest block."""
        head, market = self.heads[-1], self.book.market
        found = []
        for number, reserve in market.reserves.items():
            data = self.rpc.call(market.pool, POOL.encode("getReserveData", reserve.token.address), at=head.number)
            _, *moving, _, updated = POOL.decode("getReserveData", data)[:7]
            state = self.book._follower.states[number]
            mine = (state.supply_index, state.supply_rate, state.debt_index, state.debt_rate, state.updated)
            if mine != (*moving, updated):
                found.append(f"{reserve.token.symbol} at block {head.number}: pool {(*moving, updated)}, book {mine}")
        return found
