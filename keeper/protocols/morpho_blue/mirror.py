"""Following one Morpho Blue deployment: first contact, history, blocks, reorganisations, disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from keeper.errors import BadData, ConfigError
from keeper.model import Address, Block, Head, Log, Read, Token, Watch, address
from keeper.ports import Alerter, Client
from keeper.protocols.morpho_blue import checks, events, irm, snapshot
from keeper.protocols.morpho_blue.events import MORPHO, PRE_LIQUIDATION
from keeper.protocols.morpho_blue.follower import Follower
from keeper.protocols.morpho_blue.irm import Kind
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.morpho_blue.market import State
from keeper.protocols.morpho_blue.prepared import Prepared, prepare
from keeper.protocols.morpho_blue.registry import Registry
from keeper.protocols.morpho_blue.tokens import read_tokens
from keeper.protocols.morpho_blue.views import Views
from keeper.rewind import Rewind

LISTED_EVERY = 7_200  # blocks


class MorphoBlueMirror:
    """Every market of a deployment, from its address and the block it was deployed in: a `ports.Mirror`.

    `factories` are the PreLiquidationFactory contracts to follow. What logs tell can be rewound exactly; what old logs
    leave out (the time of the last accrual, and the rate at target before it was followed) is read where it is missing.
    """

    def __init__(
        self,
        name: str,
        morpho: Address,
        start_block: int,
        alerter: Alerter,
        *,
        factories: Sequence[Address] = (),
        undo_depth: int = 128,
    ) -> None:
        self.name = name
        self.address = morpho
        self.start_block = start_block
        self._alerter = alerter
        self._rewind = Rewind(undo_depth)
        self._registry = Registry(self._rewind)
        self._ledger = Ledger(self._rewind)
        self._follower = Follower(self._registry, self._ledger, self._rewind, morpho)
        self._follower.factories = frozenset(factories)
        self._views = Views()
        self._tokens: dict[Address, Token | None] = {}  # None: it does not say how many decimals it has
        self._head: Head | None = None
        self._last: int | None = None  # the last block whose logs are in the ledger
        self._synced = False
        self._distrust = ""
        self._accrued: dict[tuple[int, int], tuple[State, int] | None] = {}
        self._held: dict[Address, int] = {}
        self._reads: tuple[Read, ...] | None = None
        self._exposed: tuple[int, ...] = ()
        self._wanted: frozenset[Address] = frozenset()  # their tokens
        self._asked_of: Prepared | None = None
        self._reported: frozenset[int] = frozenset()  # markets that are unknown, and told to be
        self._listed: tuple[Token, ...] = ()
        self._listed_at = 0
        self._pre = Prepared()
        self._prepared_at = (0, 0, 0)

    # ------------------------------------------------------------------------------------------------- state

    @property
    def head(self) -> Head | None:
        """The head its prices belong to."""
        return self._head

    @property
    def borrower_count(self) -> int:
        """Positions with debt."""
        return self._ledger.debtors[0]

    @property
    def dirty(self) -> bool:
        if self._distrust:
            return False
        return not self._synced or bool(self._registry.unread) or bool(self._unnamed())

    @property
    def history_from(self) -> int | None:
        return self.start_block if self._last is None else self._last + 1

    def distrust(self, reason: str) -> None:
        """Nothing is decided from this book until `load` and a full replay."""
        if not self._distrust:
            self._alerter.alert("book_distrusted", f"{self.name}: {reason}", severe=True)
        self._distrust = reason

    def exposed(self) -> tuple[int, ...]:
        """Markets in which somebody has debt and collateral: those that a price matters in."""
        return self._exposed

    def unknown_markets(self) -> dict[int, str]:
        """Markets of which nothing can be said at this head, and why: their numbers and the reason."""
        mute = {token for token, told in self._tokens.items() if told is None}
        found: dict[int, str] = {}
        for number in self.exposed() if mute else ():
            if not mute.isdisjoint(self._pair_of(number)):
                found[number] = "a token does not tell its decimals"
        for number in self._views.silent():
            priced = self._views.prices.get(self._registry.params[number].oracle)
            found[number] = "its interest rate model does not answer" if priced else "its oracle has no price"
        return found

    # -------------------------------------------------------------------------------------------- following

    def watch(self) -> Watch:
        models = {model for model, kind in self._registry.kinds.items() if kind is Kind.ADAPTIVE}
        return Watch(frozenset({self.address} | self._follower.factories | models), events.ALL)

    def reads(self) -> tuple[Read, ...]:
        if self._reads is None:
            oracles = [terms.oracle for terms in self._prepared().used.values()]
            self._reads = self._views.reads(self._registry, self.exposed(), oracles)
        return self._reads

    def apply(self, block: Block) -> None:
        if self._distrust:
            return
        if self._last is not None and block.head.number <= self._last:
            raise BadData(f"{self.name} is at block {self._last} and was given block {block.head.number}")
        self._rewind.begin(block.head.number)
        self._last = block.head.number
        for log in block.logs:
            self._follower.take(log, block.head.timestamp)
        self._moved(grown=bool(block.logs))

    def replay(self, logs: Sequence[Log]) -> None:
        for log in logs:
            self._follower.take(log, None)
            self._last = log.block_number
        self._moved()

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        if self._distrust:
            return
        self._head = head
        self._views.take(self._registry, answers)
        self._accrued.clear()
        self._report_unknown()

    def rewind(self, number: int) -> None:
        if self._distrust or self._last is None or number >= self._last:
            return
        restored = self._rewind.back(number)
        self._registry.undone(restored)
        self._ledger.undone(restored)
        self._last = number
        self._moved()

    # ------------------------------------------------------------------------------------------ first contact

    async def load(self, client: Client, head: Head) -> None:
        """See at `head` that the contracts are what they should be; a distrusted book starts over."""
        if self._distrust:
            self._forget()
        factories = sorted(self._follower.factories)
        reads = [Read(self.address, MORPHO.encode("feeRecipient"))]
        reads += [Read(factory, PRE_LIQUIDATION.encode("MORPHO")) for factory in factories]
        answers = await client.read(reads, head)
        try:
            MORPHO.decode("feeRecipient", answers[0])
            owners = [address(PRE_LIQUIDATION.decode("MORPHO", answer)[0]) for answer in answers[1:]]
        except BadData as error:
            raise ConfigError(f"{self.name}: the contracts configured do not answer as Morpho's: {error}") from error
        if any(owner != self.address for owner in owners):
            raise ConfigError(f"{self.name}: a pre-liquidation factory belongs to another deployment of Morpho")
        if not self._listed:
            await self._foresee(client, head)
        self._synced = False

    async def _foresee(self, client: Client, head: Head) -> None:
        """List the tokens of the markets with debt before any history is read: pools are looked for by them."""
        registry = Registry(Rewind())
        follower = Follower(registry, Ledger(Rewind()), Rewind(), self.address)
        created = Watch(frozenset({self.address}), frozenset({events.CREATE_MARKET}))
        async for _, _, logs in client.logs(created, self.start_block, head.number):
            for log in logs:
                follower.take(log, None)
        states = await checks.states(client, head, self.address, registry, range(len(registry)))
        owing = [registry.params[number] for number, state in enumerate(states) if state.borrow_shares]
        wanted = dict.fromkeys(token for params in owing for token in (params.loan, params.collateral))
        self._tokens |= await read_tokens(client, head, wanted.keys() - self._tokens.keys())
        self._list(wanted, head.number)

    def _list(self, tokens: Iterable[Address], number: int) -> None:
        found = (self._tokens.get(token) for token in tokens)
        self._listed, self._listed_at = tuple(token for token in found if token is not None), number

    async def refresh(self, client: Client, head: Head) -> None:
        if self._distrust:
            return
        self._head = head
        await self._name_tokens(client, head)
        await self._recognise(client, head)
        await checks.complete(client, head, self.address, self._registry)
        if not self._synced:
            await asyncio.to_thread(checks.verify, self._registry, self._ledger, self.start_block)
        self._last = head.number if self._last is None else max(self._last, head.number)
        self._synced = True
        self._moved()

    async def _name_tokens(self, client: Client, head: Head) -> None:
        self._tokens |= await read_tokens(client, head, self._unnamed())

    async def _recognise(self, client: Client, head: Head) -> None:
        """Find out which models compute what is computed here."""
        for model in self._models(Kind.UNREAD):
            known = await self._is_adaptive(client, head, model)
            self._registry.set_kind(model, Kind.ADAPTIVE if known else Kind.ASKED)
            if not known:
                self._alerter.alert(
                    "irm_unknown",
                    f"{self.name}: {model} is not the AdaptiveCurveIrm, so its rates are read at every block",
                )

    async def _is_adaptive(self, client: Client, head: Head, model: Address) -> bool:
        params = next(p for p in self._registry.params.values() if p.irm == model)
        answers = await client.read(irm.probes(model, params, head.timestamp), head)
        return irm.recognised(self.address, answers, head.timestamp)

    def _models(self, kind: Kind) -> list[Address]:
        return [m for m in sorted(self._registry.models) if self._registry.kinds.get(m, Kind.UNREAD) is kind]

    async def _reconsider(self, client: Client, head: Head) -> None:
        """Ask again what did not answer well: a node that failed once has not the last word on a token or a model."""
        mute = {token for token in self._wanted if token in self._tokens and self._tokens[token] is None}
        self._tokens |= await read_tokens(client, head, mute)
        for model in self._models(Kind.ASKED):
            if await self._is_adaptive(client, head, model):
                self._registry.set_kind(model, Kind.ADAPTIVE)
                self._moved()

    def _unnamed(self) -> frozenset[Address]:
        return self._wanted - self._tokens.keys()

    def _pair_of(self, number: int) -> tuple[Address, Address]:
        params = self._registry.params[number]
        return params.loan, params.collateral

    def _prepared(self) -> Prepared:
        """Who may be pre-liquidated by whom, as of now."""
        key = (self._ledger.grants, self._ledger.counts[1], len(self._follower.contracts))
        if self._prepared_at != key:
            self._prepared_at, self._pre = key, prepare(self._follower.contracts, self._ledger)
        return self._pre

    def _moved(self, *, grown: bool = True) -> None:
        """Something has changed; `grown`: also who owes and what is asked for."""
        self._accrued.clear()
        self._held.clear()
        if grown:
            self._regroup()

    def _regroup(self) -> None:
        """See which markets have somebody who owes, and ask for other views only where that has changed."""
        counts = self._ledger.exposed.live(len(self._registry))
        exposed = tuple(np.flatnonzero(counts > 0).tolist())
        asked = any(self._registry.kind(number) is Kind.ASKED for number in self._strange(exposed))
        prepared = self._prepared()
        if exposed != self._exposed or asked or prepared is not self._asked_of:
            self._exposed, self._reads, self._asked_of = exposed, None, prepared
            self._wanted = frozenset(token for number in exposed for token in self._pair_of(number))

    def _strange(self, exposed: Sequence[int]) -> Sequence[int]:
        """Those of `exposed` whose rates have to be asked for with their state, which moves."""
        return exposed if Kind.ASKED in self._registry.kinds.values() else ()

    def _forget(self) -> None:
        self._rewind.clear()
        self._registry.clear()
        self._ledger.clear()
        self._follower.clear()
        for model in self._registry.kinds:
            if self._registry.kinds[model] is not Kind.NONE:
                self._registry.kinds[model] = Kind.UNREAD
        self._last = None
        self._distrust = ""
        self._moved()

    def _report_unknown(self) -> None:
        unknown = self.unknown_markets() if not self.dirty else {}
        appeared = {number: why for number, why in unknown.items() if number not in self._reported}
        self._reported = frozenset(unknown)
        if appeared:
            listed = ", ".join(f"{self._registry.params[n].place} ({why})" for n, why in list(appeared.items())[:5])
            more = f" and {len(appeared) - 5} more" if len(appeared) > 5 else ""
            self._alerter.alert("price_unknown", f"{self.name}: nothing is known of market {listed}{more}")

    # ------------------------------------------------------------------------------------------------- disk

    def snapshot(self) -> bytes:
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What `snapshot` would answer now, still to be worked out: in a thread, while the book goes on."""
        block = self.start_block - 1 if self._last is None else self._last
        return snapshot.freeze(self.address, self.start_block, block, self._registry, self._ledger, self._follower)

    def restore(self, data: bytes) -> None:
        stored = snapshot.parse(data)
        if (stored.morpho, stored.start_block) != (self.address, self.start_block):
            raise BadData(f"the stored book of {self.name} is of another deployment ({stored.morpho})")
        if stored.factories != self._follower.factories:
            raise BadData(f"the stored book of {self.name} was made with other pre-liquidation factories")
        self._forget()
        try:
            snapshot.fill(stored, self._registry, self._ledger, self._follower)
        except BadData:
            self._forget()
            raise
        self._last = stored.block
        self._synced = False
        self._moved()
