"""Keeps a Comet book in step with a private chain, the way the engine does, and compares it with the contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keeper.chain.client import NodeClient
from keeper.devchain.comet import CometMarket
from keeper.devchain.rpc import Rpc
from keeper.model import WAD, Address, Head
from keeper.protocols.compound_v3 import CometBook
from keeper.protocols.compound_v3.health import Valuation
from keeper.protocols.compound_v3.till import Till

MODEL = Path(__file__).resolve().parent / "contracts" / "CometModel.sol"


class Alerts:
    """Remembers what a person would have been told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        self.seen.append((name, message))


class CometDriver:
    """A book, the client it reads through, and the chain of heads it has seen."""

    def __init__(
        self,
        client: NodeClient,
        rpc: Rpc,
        market: CometMarket,
        native: Address | None,
        executor: Address,
        **options: Any,
    ) -> None:
        self.client, self.rpc, self.market = client, rpc, market
        self.alerts = Alerts()
        self.native, self.executor, self.options = native, executor, options
        self.book = self.fresh()
        self.heads: list[Head] = []

    def fresh(self) -> CometBook:
        """Another book of the same market, knowing nothing."""
        return CometBook(
            self.market.name,
            self.market.comet,
            self.market.start_block,
            self.native,
            self.executor,
            self.alerts,
            **self.options,
        )

    async def start(self, book: CometBook | None = None) -> None:
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
        first = self.book.history_from
        assert first is not None
        if self.heads[-1].number < first - 1:
            self.book.rewind(self.heads[-1].number)
        missing = await self.client.headers(self.heads[-1].number + 1, newest.number)
        if missing:
            blocks, _ = await self.client.pass_batch(missing, self.book.watch(), (), newest)
            for block in blocks:
                self.book.apply(block)
                self.heads.append(block.head)
        await self._observe(newest)
        return newest

    async def _observe(self, head: Head) -> None:
        self.book.observe(head, await self.client.read(self.book.reads(), head))
        if self.book.dirty:
            await self.book.refresh(self.client, head)
        assert not self.book.dirty

    async def _canonical(self, head: Head) -> bool:
        return (await self.client.header(head.number)).hash == head.hash

    def differences(self, users: Iterable[Address]) -> list[str]:
        """Every user, index or reserve that is not what the contract says at the newest block."""
        head, comet, book = self.heads[-1], self.market.comet, self.book
        assert book._state is not None
        now = Valuation(book.market, book._state, head.timestamp)
        stored = Valuation(book.market, book._state, book._state.totals.accrued_at)
        names = list(users)
        found = []
        views = ("userBasic(address)", "borrowBalanceOf(address)", "balanceOf(address)", "isLiquidatable(address)")
        types = (("int104", "uint64", "uint64", "uint16", "uint8"), ("uint256",), ("uint256",), ("bool",))
        calls: list[Any] = [(comet, v, (n,), t) for n in names for v, t in zip(views, types, strict=True)]
        answers = self.rpc.views(calls, at=head.number)
        assets = [asset.token.address for asset in book.market.assets]
        held = self.rpc.views(
            [(comet, "userCollateral(address,address)", (n, a), ("uint128", "uint128")) for n in names for a in assets],
            at=head.number,
        )
        for place, name in enumerate(names):
            basic, owed, owned, liquidatable = answers[4 * place : 4 * place + 4]
            assert basic is not None
            assert owed is not None
            assert owned is not None
            user = book._ledger.users.get(name)
            principal = 0 if user is None else book._ledger.principals[user]
            mine = {} if user is None else dict(book._ledger.holdings(user))
            theirs = {
                asset: row[0]
                for asset, row in zip(assets, held[place * len(assets) : (place + 1) * len(assets)], strict=True)
                if row is not None and row[0]
            }
            if principal != basic[0] or mine != theirs:
                found.append(f"{name} at {head.number}: {basic[0]} {theirs}, the book says {principal} {mine}")
                continue
            supplied = max(principal, 0) * now.supply_index // 10**15
            if (now.owed(principal), supplied) != (owed[0], owned[0]):
                found.append(f"{name} owes {owed[0]} and owns {owned[0]}, the book says {now.owed(principal)}")
            health = stored.health(principal, mine.items())
            verdict = None if health is None else principal < 0 and health.factor < WAD
            if verdict is not None and (liquidatable is None or liquidatable[0] != verdict):
                found.append(f"{name} is liquidatable: {liquidatable}, the book says {health}")
        (reserves,) = self.rpc.views([(comet, "getReserves()", (), ("int256",))], at=head.number)
        assert reserves is not None
        if reserves[0] != Till(now).reserves:
            found.append(f"reserves are {reserves[0]}, the book says {Till(now).reserves}")
        return found
