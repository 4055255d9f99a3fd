"""A Morpho Blue deployment mirrored in memory, exact to the wei: a `ports.Book` of many independent markets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from keeper.maths.wad_ray import WAD
from keeper.model import (
    Account,
    Address,
    Handle,
    Head,
    LiquidationSeen,
    Log,
    Plan,
    Skip,
    SkipReason,
    Token,
    Watch,
    handle,
    label,
)
from keeper.ports import Alerter, Client, Liquidation, Pair, Position, Status
from keeper.protocols.morpho_blue import checks, events, screen
from keeper.protocols.morpho_blue.behind import Overlay
from keeper.protocols.morpho_blue.calls import liquidation_steps
from keeper.protocols.morpho_blue.follower import PreTerms
from keeper.protocols.morpho_blue.irm import Kind, adaptive_rate
from keeper.protocols.morpho_blue.market import State, accrued
from keeper.protocols.morpho_blue.mirror import LISTED_EVERY, MorphoBlueMirror
from keeper.protocols.morpho_blue.pair import MorphoPair
from keeper.protocols.morpho_blue.positions import (
    Holding,
    Scene,
    account,
    build_position,
    native_price,
    whole_price,
)


class MorphoBlueBook(MorphoBlueMirror):
    """Every market's borrowers, their health and how to liquidate them.

    There is no currency common to all markets: values and prices of a position are 1e-18 of a whole token of its loan
    asset. A market whose oracle or rate model does not answer is unknown and has no accounts; the others are not
    touched. `slack_seconds` is how late a liquidation may be mined after the timestamp it was asked for and still be
    feasible.
    """

    def __init__(
        self,
        name: str,
        morpho: Address,
        start_block: int,
        wrapped_native: Address | None,
        alerter: Alerter,
        *,
        factories: Sequence[Address] = (),
        slack_seconds: int = 36,
        undo_depth: int = 128,
    ) -> None:
        super().__init__(name, morpho, start_block, alerter, factories=factories, undo_depth=undo_depth)
        self._native = wrapped_native
        self._slack = slack_seconds

    @property
    def base_unit(self) -> int:
        return WAD

    @property
    def read_only(self) -> bool:
        """Never: the contract cannot be changed."""
        return False

    @property
    def status(self) -> Status:
        if self._distrust:
            return Status(trusted=False, reason=self._distrust)
        if not self._synced or self._head is None:
            return Status(trusted=False, reason=f"{self.name} is still being synchronised")
        if self.dirty:
            return Status(trusted=False, reason=f"{self.name} has markets to read anew")
        if self.exposed() and not any(self._views.prices.values()):
            return Status(trusted=False, reason=f"{self.name} has no prices at this head")
        return Status(trusted=True)

    def tokens(self) -> tuple[Token, ...]:
        """Tokens of the markets with debt.

        Anybody may add to them, and every addition makes pools be looked for: so what has come since the last time is
        listed once in `LISTED_EVERY` blocks.
        """
        number = 0 if self._head is None else self._head.number
        if self._synced and not 0 <= number - self._listed_at < LISTED_EVERY:
            wanted = dict.fromkeys(token for market in self.exposed() for token in self._pair_of(market))
            self._list(wanted, number)
        return self._listed

    def held(self, token: Address) -> int:
        """What of a token Morpho holds for all its markets together, base units: supplied, not lent, and pledged."""
        found = self._held.get(token)
        if found is None:
            found = 0
            for number, params in self._registry.params.items():
                if params.loan == token:
                    state = self._registry.states[number]
                    found += state.supply_assets - state.borrow_assets
                if params.collateral == token:
                    found += self._ledger.pledged.get(number, 0)
            self._held[token] = found
        return found

    # ---------------------------------------------------------------------------------------------- positions

    def screen(self, timestamp: int) -> list[Handle]:
        if not self._synced or not self._views.prices:
            return []
        entries = screen.above(self._ledger, screen.lines(self._registry, self._views, timestamp))
        prepared = self._prepared()
        if len(prepared.entry):
            debts = screen.debt_per_share(self._registry, self._views, timestamp)
            entries += prepared.above(self._ledger, self._views, debts)
        return [self._handle(entry) for entry in dict.fromkeys(entries)]

    def handles(self, borrower: Address) -> tuple[Handle, ...]:
        return tuple(self._handle(entry) for entry in self._ledger.entries_of(borrower))

    def account(self, handle: Handle, timestamp: int) -> Account | None:
        found = self._find(handle)
        if found is None:
            return None
        number, borrower, holding = found
        scene = self._scene(number, borrower, timestamp)
        return None if scene is None else account(scene, borrower, holding)

    def accounts(self, timestamp: int) -> Iterator[Account]:
        for entry in self._ledger.with_debt().tolist():
            scene = self._scene(self._ledger.market[entry], None, timestamp)
            if scene is not None:
                yield account(scene, self._ledger.name(entry), self._holding(entry))

    def position(self, handle: Handle, timestamp: int, behind: Sequence[Plan] = ()) -> Position | None:
        found = self._find(handle)
        if found is None:
            return None
        number, borrower, holding = found
        mine = [plan for plan in behind if plan.market == self._label(number)]
        overlay = self._overlay(number, mine, timestamp) if mine else None
        if mine and overlay is None:
            return None
        scene = self._scene(number, borrower, timestamp, overlay)
        if overlay is not None:
            holding = overlay.holdings.get(borrower, holding)
        return None if scene is None else build_position(scene, borrower, holding)

    def liquidation(self, pair: Pair, borrower: Address, repay: int) -> Liquidation:
        if not isinstance(pair, MorphoPair):
            raise TypeError(f"{type(pair).__name__} is no pair of a Morpho market")
        return liquidation_steps(pair, borrower, repay)

    def near(self, timestamp: int, below: int, size: int, most: int) -> list[Account]:
        if not self._synced or not self._views.prices:
            return []
        levels = screen.lines(self._registry, self._views, timestamp) * (WAD / below)
        found: list[Account] = []
        for entry in screen.above(self._ledger, levels):
            seen = self.account(self._handle(entry), timestamp)
            if seen is not None and WAD <= seen.health_factor < below and seen.debt_value >= size:
                found.append(seen)
        return sorted(found, key=lambda seen: -seen.debt_value)[:most]

    # ------------------------------------------------------------------------------------------- liquidations

    def liquidation_watch(self) -> Watch:
        contracts = frozenset({self.address, *self._follower.contracts})
        return Watch(contracts, frozenset({events.LIQUIDATE, events.PRE_LIQUIDATE}))

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        return tuple(seen for log in logs if (seen := self._seen(log)) is not None)

    def _seen(self, log: Log) -> LiquidationSeen | None:
        """`Liquidate` has the borrower in its last topic, as `PreLiquidate` has; their first words differ in order."""
        own = log.address == self.address and log.topics[0] == events.LIQUIDATE
        if not own and not (log.address in self._follower.contracts and log.topics[0] == events.PRE_LIQUIDATE):
            return None
        repaid, _, seized = events.words(log, 5 if own else 3, 4)[:3]
        number = self._registry.numbers.get(log.topics[1])
        if number is None:
            return None
        params = self._registry.params[number]
        loan, collateral = self._tokens.get(params.loan), self._tokens.get(params.collateral)
        price = self._views.prices.get(params.oracle)
        known = loan is not None and collateral is not None and bool(price)
        loan = loan or Token(params.loan, params.loan[:10], 0)
        collateral = collateral or Token(params.collateral, params.collateral[:10], 0)
        return LiquidationSeen(
            market=self._label(number),
            borrower=events.party(log.topics[3]),
            liquidator=events.party(log.topics[2]),
            debt=loan,
            collateral=collateral,
            repaid=repaid,
            seized=seized,
            block_number=log.block_number,
            log_index=log.log_index,
            tx_hash=log.tx_hash,
            debt_price=WAD if known else None,
            collateral_price=(whole_price(price, loan, collateral) or None) if known and price else None,
            native_price=native_price(self._native, loan, collateral, price) if known and price else None,
        )

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        if self._synced:
            await self._reconsider(client, head)
        # A node may answer one view from another block's state and mean nothing by it: what it says twice is believed.
        if await self._compare(client, head, sample) is None:
            return None
        return await self._compare(client, head, sample)

    async def _compare(self, client: Client, head: Head, sample: int) -> Skip | None:
        """The first difference from the contract's own views at `head`, if any."""
        if self._head is None or self._head.hash != head.hash or not self._synced:
            return None
        entries = self._ledger.with_debt()
        if len(entries) > sample:
            chosen = random.Random(head.number)  # noqa: S311 - a sample, not a secret
            entries = entries[chosen.sample(range(len(entries)), sample)]
        wrong = await checks.difference(client, head, self.address, self._registry, self._ledger, entries.tolist())
        return None if wrong is None else Skip(SkipReason.MARKET_UNKNOWN, f"{self.name}: {wrong}")

    # ----------------------------------------------------------------------------------------------- helpers

    def expected(self, market_id: str, timestamp: int) -> State | None:
        """A market's totals as they are after an accrual at `timestamp`; None where the rate is not known."""
        number = self._registry.numbers.get(market_id)
        found = None if number is None else self._accrue(number, timestamp)
        return None if found is None else found[0]

    def _accrue(self, number: int, timestamp: int) -> tuple[State, int] | None:
        """State and rate at target after an accrual at `timestamp`."""
        key = (number, timestamp)
        if key not in self._accrued:
            state, target = self._registry.states[number], self._registry.targets.get(number, 0)
            self._accrued[key] = self._interest(number, state, target, timestamp)
        return self._accrued[key]

    def _interest(self, number: int, state: State, target: int, timestamp: int) -> tuple[State, int] | None:
        kind = self._registry.kind(number)
        if timestamp <= state.updated or kind is Kind.NONE:
            return state, target
        if kind is Kind.ADAPTIVE and number in self._registry.targets:
            rate = adaptive_rate(state, target, timestamp)
            return accrued(state, rate.average, timestamp), rate.at_target
        asked = self._views.rates.get(number) if kind is Kind.ASKED else None
        return None if asked is None else (accrued(state, asked, timestamp), target)

    def _scene(
        self, number: int, borrower: Address | None, timestamp: int, overlay: Overlay | None = None
    ) -> Scene | None:
        """One market at the moments that matter; None where it is unknown."""
        params = self._registry.params[number]
        loan, collateral = self._tokens.get(params.loan), self._tokens.get(params.collateral)
        price = self._views.prices.get(params.oracle)
        if overlay is None:
            now, late = self._accrue(number, timestamp), self._accrue(number, timestamp + self._slack)
        else:
            now = (overlay.state, overlay.target)
            late = self._interest(number, overlay.state, overlay.target, timestamp + self._slack)
        if now is None or late is None or not price or loan is None or collateral is None or self._head is None:
            return None
        pre = () if borrower is None else self._pre_terms(number, borrower)
        return Scene(
            book=self.name,
            morpho=self.address,
            head=self._head,
            timestamp=timestamp,
            params=params,
            loan=loan,
            collateral=collateral,
            now=now[0],
            late=late[0],
            price=price,
            pre=tuple((terms, self._views.prices.get(terms.oracle)) for terms in pre),
            native=self._native,
        )

    def _overlay(self, number: int, plans: Sequence[Plan], timestamp: int) -> Overlay | None:
        """The market once `plans` have run at `timestamp`; None where it is unknown, or they are not of this state."""
        start = self._accrue(number, timestamp)
        if start is None:
            return None
        overlay = Overlay(*start)
        for plan in plans:
            entry = self._ledger.find(number, plan.borrower)
            holding = overlay.holdings.get(plan.borrower) or self._holding(entry)
            scene = self._scene(number, plan.borrower, timestamp, overlay)
            position = None if scene is None else build_position(scene, plan.borrower, holding)
            if not overlay.run(plan, holding, position):
                return None
        return overlay

    def _pre_terms(self, number: int, borrower: Address) -> tuple[PreTerms, ...]:
        used = self._prepared().used
        return tuple(
            terms
            for terms in used.values()
            if terms.market == number and self._ledger.is_allowed(borrower, terms.contract)
        )

    def _find(self, handle: Handle) -> tuple[int, Address, Holding] | None:
        borrower, _, place = handle.partition("/")
        number = self._registry.places.get(place)
        entry = None if number is None else self._ledger.find(number, Address(borrower))
        return None if number is None or entry is None else (number, Address(borrower), self._holding(entry))

    def _holding(self, entry: int | None) -> Holding:
        if entry is None:
            return Holding(0, 0)
        return Holding(self._ledger.borrow[entry], self._ledger.collateral[entry])

    def _handle(self, entry: int) -> Handle:
        return handle(self._ledger.name(entry), self._registry.params[self._ledger.market[entry]].place)

    def _label(self, number: int) -> str:
        return label(self.name, self._registry.params[number].place)
