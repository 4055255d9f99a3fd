"""A Comet mirrored in memory, exact to the wei: a `ports.Book`.

A position is an account, by the borrower's address, or collateral on sale, by the collateral token's address.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np

from keeper.model import (
    WAD,
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
)
from keeper.ports import Alerter, Client, Liquidation, Pair, Position, Status
from keeper.protocols.compound_v3 import checks
from keeper.protocols.compound_v3.calls import liquidation_steps
from keeper.protocols.compound_v3.contract import LIQUIDATIONS
from keeper.protocols.compound_v3.health import Health, Valuation
from keeper.protocols.compound_v3.mirror import CometMirror
from keeper.protocols.compound_v3.pair import CometPair
from keeper.protocols.compound_v3.positions import (
    Scene,
    Weak,
    account_position,
    front_account,
    front_position,
)
from keeper.protocols.compound_v3.seen import Witness
from keeper.protocols.compound_v3.till import Till
from keeper.protocols.kernels import balances


class CometBook(CometMirror):
    """One market's borrowers, what its store front sells, and how to take either.

    `slack_seconds` is how late a liquidation may be mined after the timestamp it was asked for and still be feasible.
    `executor` is whom the collateral goes to.
    """

    def __init__(
        self,
        name: str,
        comet: Address,
        start_block: int,
        wrapped_native: Address | None,
        executor: Address,
        alerter: Alerter,
        *,
        slack_seconds: int = 36,
        undo_depth: int = 128,
    ) -> None:
        super().__init__(name, comet, start_block, alerter, undo_depth=undo_depth)
        self._native = wrapped_native
        self._executor = executor
        self._slack = slack_seconds
        self._scene: tuple[Valuation, Scene] | None = None

    @property
    def read_only(self) -> bool:
        """The implementation runs rules that are not known: positions are shown, nothing may be sent."""
        return self._market is not None and self._market.partial

    @property
    def status(self) -> Status:
        if self._distrust:
            return Status(trusted=False, reason=self._distrust)
        if self._market is None or self._state is None or not self._synced:
            return Status(trusted=False, reason=f"{self.name} is still being synchronised")
        if self.dirty:
            return Status(trusted=False, reason=f"{self.name} has accounts or parameters to read anew")
        if self.read_only:
            return Status(trusted=False, reason=f"{self.name} is read-only: it absorbs accounts in part")
        if self._state.prices.get(self._market.base.address) is None:
            return Status(trusted=False, reason=f"{self.name} has no price of {self._market.base.symbol} at this head")
        return Status(trusted=True)

    def unknown_assets(self) -> frozenset[Address]:
        """Assets without a usable price at this head: whoever holds or owes them is unknown."""
        return self._unknown()

    def prices(self) -> Mapping[Address, int | None]:
        """Base currency per whole token by asset at this head; None where the feed has none."""
        return {} if self._state is None else dict(self._state.prices)

    async def price_sources(self, client: Client, head: Head) -> dict[Address, Address]:
        """For each asset the feed its price is asked of."""
        market = self.market
        return {market.base.address: market.base_feed} | {a.token.address: a.feed for a in market.assets}

    def with_prices(self, prices: Mapping[Address, int]) -> Self:
        """This book with some prices replaced, for reading only: it shares everything else and must not be advanced."""
        view = copy.copy(self)
        view._state = None if self._state is None else self._state.repriced(prices)  # noqa: SLF001 - of its own class
        view._valuations, view._scene = {}, None  # noqa: SLF001 - likewise
        return view

    def tokens(self) -> tuple[Token, ...]:
        if self._market is None:
            return ()
        return (self._market.base, *(asset.token for asset in self._market.assets))

    # ---------------------------------------------------------------------------------------------- positions

    def screen(self, timestamp: int) -> Sequence[Handle]:
        valuation = self._valuation(timestamp)
        if valuation is None:
            return []
        return [*(self._ledger.names[user] for user in self._screened(valuation)), *self._fronts(valuation)]

    def handles(self, borrower: Address) -> tuple[Handle, ...]:
        return (borrower,)

    def account(self, handle: Handle, timestamp: int) -> Account | None:
        valuation, name = self._valuation(timestamp), Address(handle)
        if valuation is None:
            return None
        asset = valuation.market.by_asset.get(name)
        if asset is not None:
            return front_account(Till(valuation), asset)
        user = self._ledger.users.get(name)
        health = None if user is None else self._health(user, valuation)
        return None if health is None else Account(name, health.factor, health.collateral, health.debt)

    def accounts(self, timestamp: int) -> Iterable[Account]:
        """Every borrower; collateral on sale is nobody's account."""
        valuation = self._valuation(timestamp)
        for user in self._ledger.borrowers().tolist() if valuation is not None else ():
            found = self.account(self._ledger.names[user], timestamp)
            if found is not None:
                yield found

    def position(self, handle: Handle, timestamp: int, behind: Sequence[Plan] = ()) -> Position | None:
        valuation, name = self._valuation(timestamp), Address(handle)
        if valuation is None or self._head is None:
            return None
        scene = self._staged(valuation, behind)
        asset = valuation.market.by_asset.get(name)
        if asset is not None:
            return front_position(scene, asset)
        user = self._ledger.users.get(name)
        weak = None if user is None else self._weak(user, valuation)
        if weak is None or any(name in (plan.borrower, *plan.others) for plan in behind):
            return None
        return account_position(scene, weak)

    def liquidation(self, pair: Pair, borrower: Address, repay: int) -> Liquidation:
        if not isinstance(pair, CometPair):
            raise TypeError(f"{type(pair).__name__} is no pair of a Comet")
        return liquidation_steps(self.market, pair, repay, self._executor)

    def near(self, timestamp: int, below: int, size: int, most: int) -> list[Account]:
        valuation = self._valuation(timestamp)
        if valuation is None or valuation.base_price is None:
            return []
        factors, entries = valuation.factors(self._ledger.slots), self._ledger.weights.columns()
        debts = -balances(entries, np.minimum(factors, 0.0))
        # Health below `below` is weighted collateral below `below` times the debt: the screen with heavier debts.
        sums = balances(entries, np.where(factors < 0.0, factors * (below / WAD), factors))
        chosen = np.flatnonzero((sums < valuation.screen_slack) & (debts >= size) & (debts > 0.0))
        found: list[Account] = []
        for user in chosen[np.argsort(-debts[chosen], kind="stable")]:
            account = self.account(self._ledger.names[user], timestamp)
            if account is not None and WAD <= account.health_factor < below and account.debt_value >= size:
                found.append(account)
                if len(found) == most:
                    break
        return found

    # ------------------------------------------------------------------------------------------- liquidations

    def liquidation_watch(self) -> Watch:
        return Watch(frozenset({self.comet}), LIQUIDATIONS)

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        return Witness(self.name, self.market, self.prices(), self._native).liquidations(logs)

    # -------------------------------------------------------------------------------------------------- audit

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        # A node may answer one view from another block's state and mean nothing by it: what it says twice is believed.
        if await self._compare(client, head, sample) is None:
            return None
        return await self._compare(client, head, sample)

    async def _compare(self, client: Client, head: Head, sample: int) -> Skip | None:
        """The first difference from the contract's own views at `head`, if any."""
        if self._head is None or self._head.hash != head.hash or not self._synced or self._state is None:
            return None
        wrong = await checks.wrong_collateral(client, head, self.market, self._ledger)
        if not wrong:
            now = Valuation(self.market, self._state, head.timestamp)
            stored = Valuation(self.market, self._state, self._state.totals.accrued_at)
            wrong = await checks.compare(client, head, self._ledger, now, stored, sample)
            self._valuations.clear()  # debts may have been taken over
        if not wrong:
            return None
        return Skip(SkipReason.MARKET_UNKNOWN, f"{self.name} differs from the chain at block {head.number}: {wrong}")

    # ------------------------------------------------------------------------------------------------ helpers

    def _valuation(self, timestamp: int) -> Valuation | None:
        if self._market is None or self._state is None:
            return None
        found = self._valuations.get(timestamp)
        if found is None:
            found = self._valuations[timestamp] = Valuation(self._market, self._state, timestamp)
        return found

    def _screened(self, valuation: Valuation) -> list[int]:
        found: list[int] = self._sweep.below(valuation.factors(self._ledger.slots), valuation.screen_slack).tolist()
        return found

    def _fronts(self, valuation: Valuation) -> Iterator[Handle]:
        """Collateral on sale while the store front is open."""
        till = Till(valuation)
        if valuation.state.totals.buy_paused or not till.sells:
            return
        for asset in valuation.market.assets:
            if front_account(till, asset) is not None:
                yield asset.token.address

    def _health(self, user: int, valuation: Valuation) -> Health | None:
        return valuation.health(self._ledger.principals[user], self._ledger.holdings(user))

    def _weak(self, user: int, valuation: Valuation) -> Weak | None:
        """The account if an absorb would find it liquidatable."""
        health = self._health(user, valuation)
        if health is None or health.factor >= WAD:
            return None
        listed = valuation.market.by_asset
        holdings = tuple(item for item in self._ledger.holdings(user) if item[0] in listed)
        return Weak(self._ledger.names[user], self._ledger.principals[user], holdings, health)

    def _staged(self, valuation: Valuation, behind: Sequence[Plan]) -> Scene:
        """The market at a moment, once the plans `behind` have run."""
        assert self._head is not None
        if self._scene is None or self._scene[0] is not valuation:
            late = self._valuation(valuation.timestamp + self._slack)
            assert late is not None
            weak = [found for user in self._screened(valuation) if (found := self._weak(user, valuation)) is not None]
            scene = Scene(self.name, self._head, Till(valuation), Till(late), _ranked(weak), self._native)
            self._scene = (valuation, scene)
        scene = self._scene[1]
        if not behind:
            return scene
        now, late_till = scene.copy()
        gone: set[Address] = set()
        for plan in behind:
            for name in (plan.borrower, *plan.others):
                user = self._ledger.users.get(name)
                if user is None or name in gone or name in valuation.market.by_asset:
                    continue
                gone.add(name)
                weak_one = self._weak(user, valuation)
                for till in (now, late_till) if weak_one is not None else ():
                    till.absorb(self._ledger.principals[user], list(self._ledger.holdings(user)))
            for till in (now, late_till):
                till.buy(plan.collateral.address, plan.seizure.repaid, plan.seizure.seized)
        left = {asset: [w for w in ranked if w.borrower not in gone] for asset, ranked in scene.weak.items()}
        return Scene(self.name, self._head, now, late_till, left, self._native)


def _ranked(weak: Sequence[Weak]) -> dict[Address, list[Weak]]:
    """By collateral asset who holds it, the largest amounts first."""
    found: dict[Address, list[tuple[int, Weak]]] = {}
    for item in weak:
        for asset, amount in item.holdings:
            found.setdefault(asset, []).append((amount, item))
    return {
        asset: [item for _, item in sorted(rows, key=lambda row: (-row[0], row[1].borrower))]
        for asset, rows in found.items()
    }
