"""Following an Aave V3 market: first contact, history, blocks, reorganisations, governance, disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from keeper.errors import BadData
from keeper.model import Address, Block, Head, Log, Read, Watch
from keeper.ports import Alerter, Client
from keeper.protocols.aave_v3 import checks, events, snapshot
from keeper.protocols.aave_v3.follower import Follower
from keeper.protocols.aave_v3.health import Valuation
from keeper.protocols.aave_v3.ledger import Ledger
from keeper.protocols.aave_v3.market import Market, Reading, available_answer, read_market
from keeper.protocols.aave_v3.prices import Prices
from keeper.protocols.aave_v3.snapshot import Meta
from keeper.protocols.kernels import kernels
from keeper.protocols.sweep import Sweep
from keeper.rewind import Rewind


class AaveV3Mirror:
    """One market, from its PoolAddressesProvider and the block it was deployed in: a `ports.Mirror`.

    What logs tell (balances, flags, e-modes, indices) can be rewound exactly; what contracts tell (parameters) is read
    anew after every governance event and every rewind.
    """

    def __init__(
        self,
        name: str,
        provider: Address,
        start_block: int,
        alerter: Alerter,
        *,
        undo_depth: int = 128,
    ) -> None:
        self.name = name
        self.provider = provider
        self.start_block = start_block
        self._alerter = alerter
        self._rewind = Rewind(undo_depth)
        self._ledger = Ledger(self._rewind)
        self._sweep = Sweep(self._ledger)
        self._follower = Follower(self._ledger, self._rewind, provider)
        self._prices = Prices()
        self._market: Market | None = None
        self._known: dict[int, int] = {}  # reserves whose holdings are followed → block since when
        self._available: dict[int, int] = {}
        self._head: Head | None = None
        self._last: int | None = None  # the last block whose logs are in the ledger
        self._replayed: int | None = None  # the last one that history had logs in
        self._synced = False
        self._distrust = ""
        self._valuations: dict[int, Valuation] = {}

    # ------------------------------------------------------------------------------------------------- state

    @property
    def market(self) -> Market:
        """The parameters in force; raises BadData before `load`."""
        if self._market is None:
            raise BadData(f"{self.name} is not loaded yet")
        return self._market

    @property
    def head(self) -> Head | None:
        """The head its prices and parameters belong to."""
        return self._head

    @property
    def base_unit(self) -> int:
        """One unit of the oracle's base currency, such as 1e8 for a US dollar; raises BadData before `load`."""
        return self.market.base_unit

    @property
    def borrower_count(self) -> int:
        return self._ledger.borrower_count

    @property
    def dirty(self) -> bool:
        if self._distrust:
            return False
        return not self._synced or self._follower.governed or self._follower.suspect or self._prices.nothing

    @property
    def history_from(self) -> int | None:
        return self.start_block if self._last is None else self._last + 1

    def distrust(self, reason: str) -> None:
        """Nothing is decided from this book until `load` and a full replay."""
        if not self._distrust:
            self._alerter.alert("book_distrusted", f"{self.name}: {reason}", severe=True)
        self._distrust = reason

    # -------------------------------------------------------------------------------------------- following

    def watch(self) -> Watch:
        return Watch(self._follower.addresses, events.ALL)

    def reads(self) -> tuple[Read, ...]:
        return () if self._market is None else self._prices.reads(self._market)

    def apply(self, block: Block) -> None:
        if self._distrust:
            return
        if self._last is not None and block.head.number <= self._last:
            raise BadData(f"{self.name} is at block {self._last} and was given block {block.head.number}")
        self._valuations.clear()
        self._rewind.begin(block.head.number)
        self._last = block.head.number
        for log in block.logs:
            self._follower.take(log, block.head.timestamp)

    def replay(self, logs: Sequence[Log]) -> None:
        for log in logs:
            self._follower.take(log, None)
        if logs:
            self._replayed = logs[-1].block_number

    def tidy(self) -> None:
        """Each user's entries side by side: a sweep over entries in the order of their logs waits for memory."""
        self._rewind.clear()
        self._ledger.compact()

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        if self._market is None:
            return
        self._valuations.clear()
        self._head = head
        before = self._prices.unknown
        for number, answer in self._prices.take(self._market, answers):
            self._available[number] = available_answer(answer) or 0
        self._report_unknown(before)

    def rewind(self, number: int) -> None:
        if self._distrust or self._last is None or number >= self._last:
            return
        self._valuations.clear()
        self._ledger.undone(self._rewind.back(number))
        self._last = number
        self._follower.governed = True
        self._known = {reserve: since for reserve, since in self._known.items() if since <= number}
        if self._market is not None:
            self._follower.follow(self._market, self._known)

    # ------------------------------------------------------------------------------------------ first contact

    async def load(self, client: Client, head: Head) -> None:
        """Learn at `head` what to watch; a distrusted book starts over."""
        if self._distrust:
            self._forget()
        await asyncio.to_thread(kernels)  # compiled, or loaded, before the first block needs them
        reading = await read_market(client, head, self.provider, None)
        self._take(reading)
        # Only a reserve that appears later has a history of its own to fetch; these have the replay.
        self._known = dict.fromkeys(reading.market.reserves, 0)
        self._follower.follow(reading.market, self._known)
        self._synced = False

    async def refresh(self, client: Client, head: Head) -> None:
        if self._distrust:
            return
        self._valuations.clear()
        self._head = head
        if not self._synced and self._rewind.empty:
            await asyncio.to_thread(self._ledger.compact)
        if not self._synced or self._follower.governed or self._follower.suspect:
            await self._reread(client, head)
        before = self._prices.unknown
        await self._prices.read(client, head, self.market)
        self._report_unknown(before)
        if not self._distrust:
            # Only now: a request that failed on the way leaves everything to be done again.
            self._follower.governed = False
            self._last = head.number if self._last is None else max(self._last, head.number)
            self._synced = True

    async def _reread(self, client: Client, head: Head) -> None:
        wanted = None
        if self._synced:
            known = set(self.market.categories) | self._follower.categories
            wanted = known | self._ledger.emodes_seen
        reading = await read_market(client, head, self.provider, wanted)
        self._take(reading)
        self._known = {number: since for number, since in self._known.items() if number in reading.market.reserves}
        for number in sorted(reading.market.reserves.keys() - self._known.keys()):
            await self._adopt(client, head, number)
        for number, state in reading.states.items():
            self._rewind.set(self._follower.states, number, state)
        self._available = dict(reading.available)
        await self._drop_stable(client, head)
        if not self._synced or self._follower.suspect:
            await self._verify(client, head)

    async def _verify(self, client: Client, head: Head) -> None:
        suspect = self._follower.suspect
        changed = await checks.repair(client, head, self.market, self._ledger, everything=suspect)
        if changed:
            self._alerter.alert("book_repaired", f"{self.name}: {changed} balances were read from the chain anew")
        wrong = await checks.wrong_totals(client, head, self.market, self._ledger)
        if wrong:
            # Raised, so that whoever drives this book has it rebuilt: it may have been the answers that were wrong.
            raise BadData(
                f"holders are missing: the events since start_block {self.start_block} do not add up ({wrong[0][0]} at "
                f"block {head.number})"
            )
        self._follower.suspect = False

    async def _adopt(self, client: Client, head: Head, number: int) -> None:
        """Follow a reserve that was listed while running: its holdings began before it was watched."""
        market = self.market
        reserve = market.reserves[number]
        first = self._follower.listed_at.get(reserve.token.address, self.start_block)
        tokens = {reserve.a_token, reserve.v_token} | ({reserve.stable_token} if reserve.stable_token else set())
        watch = Watch(frozenset(tokens | {market.pool}), events.HOLDINGS | events.FLAGS)
        history: list[Log] = []
        async for _, _, logs in client.logs(watch, first, head.number):
            history += logs
        self._known[number] = head.number
        self._follower.follow(market, self._known)
        for log in history:
            if log.address in tokens:
                self._follower.take(log, head.timestamp)
            else:
                self._follower.flag(log, only=number)
        self._alerter.alert("reserve_listed", f"{self.name} now lists {reserve.token.symbol} ({reserve.token.address})")

    async def _drop_stable(self, client: Client, head: Head) -> None:
        users = list(self._follower.stable_users)
        if not users:
            return
        names = [self._ledger.names[user] for user in users]
        owing = await checks.still_stable(client, head, self.market, names)
        for user, name in zip(users, names, strict=True):
            if name not in owing:
                self._rewind.delete(self._follower.stable_users, user)
        if owing:
            self._alerter.alert("stable_debt", f"{self.name}: {len(owing)} users with stable debt are left alone")

    def _take(self, reading: Reading) -> None:
        was = self._market
        self._market = reading.market
        self._follower.categories.update(reading.market.categories)
        self._follower.follow(reading.market, self._known.keys() & reading.market.reserves.keys())
        if not reading.market.known and (was is None or was.revision != reading.market.revision):
            self._alerter.alert(
                "unknown_revision",
                f"{self.name}: POOL_REVISION {reading.market.revision} is not known, so nothing is sent to it",
                severe=True,
            )

    def _forget(self) -> None:
        self._rewind.clear()
        self._ledger.clear()
        self._follower.clear()
        self._known.clear()
        self._last = self._replayed = None
        self._distrust = ""

    # ------------------------------------------------------------------------------------------------- disk

    def snapshot(self) -> bytes:
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What `snapshot` would answer now, still to be worked out: in a thread, while the book goes on."""
        block = max((number for number in (self._last, self._replayed) if number is not None), default=None)
        if block is None:
            raise BadData(f"{self.name} has nothing to store yet")
        stable = [self._ledger.names[user] for user in self._follower.stable_users]
        meta: Meta = {
            "provider": self.provider,
            "start": self.start_block,
            "block": block,
            "stable": [str(name) for name in stable],
            "suspect": int(self._follower.suspect),
        }
        return snapshot.freeze(self._ledger, meta)

    def restore(self, data: bytes) -> None:
        meta = snapshot.load(self._ledger, data, self._make_room)
        block, stable = cast(int, meta["block"]), cast(list[str], meta["stable"])
        self._last = block
        self._follower.suspect = bool(meta.get("suspect"))
        self._follower.stable_users.update({self._ledger.users[Address(n)]: 1 for n in stable})
        self._synced = False
        if self._market is not None:
            self._known = dict.fromkeys(self._market.reserves, 0)
            self._follower.follow(self._market, self._known)

    def _make_room(self, meta: Meta) -> None:
        """Forget everything for a stored book; raises BadData, first, when it is of another deployment or not whole."""
        if meta.get("provider") != self.provider or meta.get("start") != self.start_block:
            raise BadData(f"the stored book of {self.name} is of another deployment ({meta.get('provider')})")
        if not isinstance(meta.get("block"), int) or not isinstance(meta.get("stable"), list):
            raise BadData(f"the stored book of {self.name} does not say how far it got")
        self._forget()

    # ---------------------------------------------------------------------------------------------- helpers

    def _report_unknown(self, before: frozenset[Address]) -> None:
        appeared = self._prices.unknown - before
        if appeared:
            listed = ", ".join(sorted(appeared))
            self._alerter.alert("price_unknown", f"{self.name}: the oracle has no price for {listed}", severe=True)
