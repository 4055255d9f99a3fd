"""Keeps a Morpho book in step with a private chain, the way the engine does, and compares it with the contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keeper.chain.client import NodeClient
from keeper.devchain.morpho import Morpho
from keeper.devchain.rpc import Rpc
from keeper.model import Address, Head
from keeper.protocols.morpho_blue import MorphoBlueBook
from keeper.protocols.morpho_blue.irm import Kind
from keeper.protocols.morpho_blue.market import State
from tests.support.aave_driver import Alerts

POSITION = ("uint256", "uint128", "uint128")
MARKET = ("uint128",) * 6


class MorphoDriver:
    """A book, the client it reads through, and the chain of heads it has seen."""

    def __init__(
        self,
        client: NodeClient,
        rpc: Rpc,
        morpho: Morpho,
        native: Address | None,
        factories: Sequence[Address] = (),
        **options: Any,
    ) -> None:
        self.client, self.rpc, self.morpho = client, rpc, morpho
        self.native, self.factories, self.options = native, factories, options
        self.alerts = Alerts()
        self.book = self.fresh()
        self.heads: list[Head] = []

    def fresh(self) -> MorphoBlueBook:
        """Another book of the same deployment, knowing nothing."""
        return MorphoBlueBook(
            "morpho",
            self.morpho.address,
            self.morpho.start_block,
            self.native,
            self.alerts,
            factories=self.factories,
            **self.options,
        )

    async def start(self, book: MorphoBlueBook | None = None) -> None:
        """First contact and history, up to the newest block."""
        self.book = book or self.book
        head = await self.client.head()
        await self.book.load(self.client, head)
        first = self.book.history_from
        assert first is not None
        if first <= head.number:
            async for _, _, logs in self.client.logs(self.book.watch(), first, head.number):
                self.book.replay(logs)
        self.heads = [head]
        await self._settle(head)

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
        await self._settle(newest)
        return newest

    async def _settle(self, head: Head) -> None:
        if self.book.dirty:
            await self.book.refresh(self.client, head)
        self.book.observe(head, await self.client.read(self.book.reads(), head))
        assert not self.book.dirty

    async def _canonical(self, head: Head) -> bool:
        return (await self.client.header(head.number)).hash == head.hash

    # --------------------------------------------------------------------------------------------- comparing

    def stored(self, market_id: str) -> State:
        """`market(id)` at the newest block."""
        (answer,) = self.rpc.views(
            [(self.morpho.address, "market(bytes32)", (bytes.fromhex(market_id[2:]),), MARKET)],
            at=self.heads[-1].number,
        )
        assert answer is not None
        return State(*answer)

    def market_differences(self) -> list[str]:
        """Every market whose totals, fee or time of accrual are not what the contract has stored."""
        registry, found = self.book._registry, []
        calls = [(self.morpho.address, "market(bytes32)", (p.key,), MARKET) for p in registry.params.values()]
        answers = self.rpc.views(calls, at=self.heads[-1].number)
        for (number, params), answer in zip(registry.params.items(), answers, strict=True):
            assert answer is not None
            mine = registry.states[number].words
            if registry.kind(number) is Kind.NONE:
                answer = (*answer[:4], mine[4], answer[5])
            if mine != tuple(answer):
                found.append(f"{params.place} at block {self.heads[-1].number}: contract {answer}, book {mine}")
        return found

    def differences(self, users: Iterable[Address]) -> list[str]:
        """Every position of these users in any market that is not what the contract says."""
        book, found = self.book, []
        asked = [(n, p, user) for n, p in book._registry.params.items() for user in users]
        calls = [(self.morpho.address, "position(bytes32,address)", (p.key, user), POSITION) for _, p, user in asked]
        answers = self.rpc.views(calls, at=self.heads[-1].number)
        for (number, params, user), answer in zip(asked, answers, strict=True):
            entry = book._ledger.find(number, user)
            ledger = book._ledger
            mine = (0, 0, 0)
            if entry is not None:
                mine = (ledger.supply[entry], ledger.borrow[entry], ledger.collateral[entry])
            if answer is None or mine != tuple(answer):
                found.append(f"{user} in {params.place}: contract {answer}, book {mine}")
        return found
