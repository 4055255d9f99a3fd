"""Follows one Comet by its logs and by what is read at every head, and steps back when blocks are undone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.model import Address, Block, Head, Log, Read, Watch
from keeper.ports import Alerter, Client
from keeper.protocols.compound_v3 import checks, snapshot, state
from keeper.protocols.compound_v3.contract import COMET, WATCHED, user_basic
from keeper.protocols.compound_v3.follower import Follower
from keeper.protocols.compound_v3.health import Valuation
from keeper.protocols.compound_v3.ledger import Ledger
from keeper.protocols.compound_v3.market import PRICE_UNIT, Market, read_market
from keeper.protocols.compound_v3.state import State
from keeper.protocols.kernels import kernels
from keeper.protocols.sweep import Sweep

_CHUNK = 5_000  # accounts read at a time
_ROTATION = 200  # accounts that are looked at in passing whenever some are read


class CometMirror:
    """One market, from its proxy and the block it was deployed in: a `ports.Mirror`.

    One request per head, a second one where accounts were touched. Debt can move without any log (see
    `Ledger.exposed`); that shows as an accrual which no log explains or as a total that is not the sum, and whoever may
    be concerned is then read as well. What shows in neither way (debt sent from borrower to borrower in a block that
    also has a logged action, where rounding leaves the total as it was) is found as accounts are looked at in passing,
    and by audits.
    """

    def __init__(self, name: str, comet: Address, start_block: int, alerter: Alerter, *, undo_depth: int = 128) -> None:
        self.name = name
        self.comet = comet
        self.start_block = start_block
        self._alerter = alerter
        self._ledger = Ledger(undo_depth)
        self._follower = Follower(self._ledger)
        self._sweep = Sweep(self._ledger.weights)
        self._market: Market | None = None
        self._state: State | None = None
        self._head: Head | None = None
        self._last: int | None = None  # the last block whose logs are in the ledger
        self._replayed: int | None = None  # the last one that history had logs in
        self._accrued: int | None = None  # when interest was last accrued, as far as known
        self._blocks = self._moving = (
            0  # applied since the totals were last judged, and those that accrue by their logs
        )
        self._silent = True  # debt may have moved without a log
        self._turn = 0  # of the accounts looked at in passing
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
        """The head its prices and reserves belong to."""
        return self._head

    @property
    def base_unit(self) -> int:
        """One unit of the currency of the price feeds, which all have 8 decimals."""
        return PRICE_UNIT

    @property
    def borrower_count(self) -> int:
        return int(np.count_nonzero(self._ledger.weights.owing()))

    @property
    def dirty(self) -> bool:
        if self._distrust:
            return False
        return (
            not self._synced
            or self._follower.upgraded
            or self._silent
            or bool(self._ledger.stale)
            or self._state is None
        )

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
        return Watch(frozenset({self.comet}), WATCHED)

    def reads(self) -> tuple[Read, ...]:
        return () if self._market is None else state.reads(self._market)

    def apply(self, block: Block) -> None:
        if self._distrust:
            return
        if self._last is not None and block.head.number <= self._last:
            raise BadData(f"{self.name} is at block {self._last} and was given block {block.head.number}")
        self._valuations.clear()
        self._ledger.begin(block.head.number)
        self._last = block.head.number
        accrues = [self._follower.take(log) for log in block.logs]
        self._blocks += 1
        if any(accrues):
            self._moving += 1
            self._accrued = block.head.timestamp

    def replay(self, logs: Sequence[Log]) -> None:
        for log in logs:
            self._follower.take(log)
        if logs:
            self._replayed = logs[-1].block_number

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        if self._market is None:
            return
        self._see(head, state.take(self._market, answers))

    def rewind(self, number: int) -> None:
        if self._distrust or self._last is None or number >= self._last:
            return
        self._valuations.clear()
        self._ledger.back(number)
        self._last = number
        self._accrued = None
        self._silent = self._follower.upgraded = True

    # ------------------------------------------------------------------------------------------ first contact

    async def load(self, client: Client, head: Head) -> None:
        """Learn at `head` what to watch; a distrusted book starts over."""
        await asyncio.to_thread(kernels)  # compiled, or loaded, before the first block needs them
        if self._distrust:
            self._forget()
        self._take(await read_market(client, head, self.comet))
        self._synced = False

    async def refresh(self, client: Client, head: Head) -> None:
        """Read the parameters if they changed, and every principal that may have."""
        if self._distrust:
            return
        if self._market is None or not self._synced or self._follower.upgraded:
            self._take(await read_market(client, head, self.comet))
        whole = self._silent
        exposed = self._ledger.exposed()
        passing = exposed if whole else self._next(exposed)
        found = await self._read(client, head, self._ledger.stale.union(passing.tolist()))
        if not whole and (self._silent or self._ledger.borrowed != found.totals.borrow):
            found = await self._read(client, head, self._ledger.exposed().tolist())
        if self._ledger.borrowed != found.totals.borrow:
            # Raised, so that whoever drives this book has it rebuilt: it may have been the answers that were wrong.
            raise BadData(
                f"borrowers are missing: the events since start_block {self.start_block} add up to a principal of "
                f"{self._ledger.borrowed} borrowed, the contract says {found.totals.borrow} at block {head.number}"
            )
        if not self._synced:
            await checks.require_collateral(client, head, self.market, self._ledger)
        # Only now: a request that failed on the way leaves everything to be done again.
        self._follower.upgraded = self._silent = False
        self._last = head.number if self._last is None else max(self._last, head.number)
        self._synced = True

    def _next(self, exposed: NDArray[np.intp]) -> NDArray[np.intp]:
        """The accounts whose turn it is."""
        self._turn = self._turn if self._turn < len(exposed) else 0
        start, self._turn = self._turn, self._turn + _ROTATION
        return exposed[start : self._turn]

    async def _read(self, client: Client, head: Head, users: Collection[int]) -> State:
        """What is read at every head, and the principals of `users`, in one request unless they are very many."""
        market, waiting = self.market, sorted(users)
        first = state.reads(market)
        found: State | None = None
        while found is None or waiting:
            part, waiting = waiting[:_CHUNK], waiting[_CHUNK:]
            asked = [Read(self.comet, COMET.encode("userBasic", self._ledger.names[user])) for user in part]
            answers = await client.read([*first, *asked] if found is None else asked, head)
            if found is None:
                found = state.take(market, answers[: len(first)])
                answers = answers[len(first) :]
            for user, answer in zip(part, answers, strict=True):
                self._ledger.set_principal(user, user_basic(answer)[0])
        self._see(head, found)
        return found

    def _see(self, head: Head, found: State) -> None:
        """Take a head's state, and judge whether the logs explain it."""
        before = self._unknown()
        self._valuations.clear()
        self._head, self._state = head, found
        if found.totals.accrued_at != self._accrued or (self._moving and self._blocks > 1):
            self._silent = True
        self._accrued = found.totals.accrued_at
        self._blocks = self._moving = 0
        appeared = self._unknown() - before
        if appeared:
            listed = ", ".join(sorted(appeared))
            self._alerter.alert("price_unknown", f"{self.name}: no price feed answers for {listed}", severe=True)

    def _unknown(self) -> frozenset[Address]:
        prices = self._state.prices if self._state is not None else {}
        return frozenset(asset for asset, price in prices.items() if price is None)

    def _take(self, market: Market) -> None:
        was = self._market
        self._market = market
        if market.partial and (was is None or not was.partial):
            self._alerter.alert(
                "unknown_rules",
                f"{self.name} absorbs only part of an account: those rules are not known, so nothing is sent to it",
                severe=True,
            )

    def _forget(self) -> None:
        self._ledger.clear()
        self._follower.upgraded = False
        self._last = self._replayed = self._accrued = self._state = None
        self._silent = True
        self._blocks = self._moving = 0
        self._distrust = ""

    # ------------------------------------------------------------------------------------------------- disk

    def snapshot(self) -> bytes:
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What `snapshot` would answer now, still to be worked out: in a thread, while the book goes on."""
        block = max((number for number in (self._last, self._replayed) if number is not None), default=None)
        if block is None:
            raise BadData(f"{self.name} has nothing to store yet")
        meta: dict[str, int | str] = {"comet": self.comet, "start": self.start_block, "block": block}
        return snapshot.freeze(self._ledger, meta)

    def restore(self, data: bytes) -> None:
        meta: dict[str, Any] = snapshot.meta_of(data)
        if meta.get("comet") != self.comet or meta.get("start") != self.start_block:
            raise BadData(f"the stored book of {self.name} is of another deployment ({meta.get('comet')})")
        block = meta.get("block")
        if not isinstance(block, int):
            raise BadData(f"the stored book of {self.name} does not say how far it got")
        self._forget()
        snapshot.load(self._ledger, data)
        self._last = block
        self._synced = False
