"""An Aave V3 market mirrored in memory, exact to the wei: a `ports.Book`."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np

from keeper.model import (
    WAD,
    ZERO_ADDRESS,
    Account,
    Address,
    Handle,
    Head,
    LiquidationSeen,
    Log,
    Plan,
    Read,
    Skip,
    SkipReason,
    Token,
    Watch,
    address,
)
from keeper.ports import Alerter, Client, Liquidation, Pair, Position, Status
from keeper.protocols.aave_v3 import checks, events
from keeper.protocols.aave_v3.calls import liquidation_steps
from keeper.protocols.aave_v3.health import Health, Valuation
from keeper.protocols.aave_v3.market import ORACLE, POOL
from keeper.protocols.aave_v3.mirror import AaveV3Mirror
from keeper.protocols.aave_v3.pair import AavePair
from keeper.protocols.aave_v3.positions import Scene, build_position


class AaveV3Book(AaveV3Mirror):
    """One market's borrowers, their health and how to liquidate them.

    `slack_seconds` is how late a liquidation may be mined after the timestamp it was asked for and still be feasible.
    Users with stable-rate debt (3.0 and 3.1 only, disabled on every large market) are unknown: they have no account.
    """

    def __init__(
        self,
        name: str,
        provider: Address,
        start_block: int,
        wrapped_native: Address | None,
        alerter: Alerter,
        *,
        slack_seconds: int = 36,
        undo_depth: int = 128,
    ) -> None:
        super().__init__(name, provider, start_block, alerter, undo_depth=undo_depth)
        self._native = wrapped_native
        self._slack = slack_seconds

    @property
    def read_only(self) -> bool:
        """The pool's revision is not in the table of rules: positions are shown, nothing may be sent."""
        return self._market is not None and not self._market.known

    @property
    def status(self) -> Status:
        if self._distrust:
            return Status(trusted=False, reason=self._distrust)
        if self._market is None or not self._synced:
            return Status(trusted=False, reason=f"{self.name} is still being synchronised")
        if self.dirty:
            return Status(trusted=False, reason=f"{self.name} has parameters to read anew")
        if self.read_only:
            revision = self._market.revision
            return Status(
                trusted=False, reason=f"{self.name} is read-only: the rules of revision {revision} are not known"
            )
        if self._prices.nothing:
            return Status(trusted=False, reason=f"{self.name} has no prices at this head")
        return Status(trusted=True)

    def unknown_assets(self) -> frozenset[Address]:
        """Assets without a usable price at this head: whoever holds or owes them is unknown."""
        return self._prices.unknown

    def prices(self) -> Mapping[Address, int | None]:
        """Base currency per whole token by asset at this head; None where the oracle has none."""
        return {asset: price for asset, price in self._prices.values.items() if asset in self.market.by_asset}

    async def price_sources(self, client: Client, head: Head) -> dict[Address, Address]:
        """For each asset the contract its price is asked of (AaveOracle.getSourceOfAsset); none for the fallback's."""
        assets = list(self.market.by_asset)
        reads = [Read(self.market.oracle, ORACLE.encode("getSourceOfAsset", asset)) for asset in assets]
        answers = await client.read(reads, head) if reads else []
        found = {a: address(ORACLE.decode("getSourceOfAsset", raw)[0]) for a, raw in zip(assets, answers, strict=True)}
        return {asset: source for asset, source in found.items() if source != ZERO_ADDRESS}

    def price_reads(self) -> tuple[Read, ...]:
        """The views that price every asset and e-mode source."""
        return self._prices.questions(self.market)

    def priced(self, answers: Sequence[bytes | None]) -> Mapping[Address, int | None]:
        """Base currency per whole token, from the answers to `price_reads`; None where the oracle has none."""
        return self._prices.answered(self.market, answers)

    def with_prices(self, prices: Mapping[Address, int | None]) -> Self:
        """This book with some prices replaced, None for unknown ones.

        For reading only: it shares everything else and must not be advanced.
        """
        view = copy.copy(self)
        view._prices = self._prices.replaced(prices)  # noqa: SLF001 - of its own class
        view._valuations = {}  # noqa: SLF001 - likewise
        return view

    def tokens(self) -> tuple[Token, ...]:
        return () if self._market is None else tuple(r.token for r in self._market.reserves.values())

    def screen(self, timestamp: int) -> list[Address]:
        if self._market is None or self._prices.nothing:
            return []
        valuation = self._valuation(timestamp)
        factors = valuation.factors(self._ledger.emodes_seen)
        found = self._sweep.below(factors, valuation.screen_slack)
        return [self._ledger.names[user] for user in found]

    def handles(self, borrower: Address) -> tuple[Handle, ...]:
        return (borrower,)

    def account(self, handle: Handle, timestamp: int) -> Account | None:
        borrower = Address(handle)
        user = self._ledger.users.get(borrower)
        if user is None or self._market is None:
            return None
        health = self._health(user, self._valuation(timestamp))
        return None if health is None else Account(borrower, health.factor, health.collateral, health.debt)

    def accounts(self, timestamp: int) -> Iterator[Account]:
        if self._market is None:
            return
        valuation = self._valuation(timestamp)
        for user in self._ledger.borrowers():
            health = self._health(int(user), valuation)
            if health is not None:
                yield Account(self._ledger.names[user], health.factor, health.collateral, health.debt)

    def position(self, handle: Handle, timestamp: int, behind: Sequence[Plan] = ()) -> Position | None:
        borrower = Address(handle)
        user = self._ledger.users.get(borrower)
        if user is None or self._head is None or self._market is None or user in self._follower.stable_users:
            return None
        now, available = self._valuation(timestamp), self._available_behind(behind)
        known = now.positions.get(borrower)
        if known is not None and self._indifferent(known, available):
            return known
        scene = Scene(
            market=self.name,
            head=self._head,
            now=now,
            at_head=self._valuation(min(self._head.timestamp, timestamp)),
            late=self._valuation(timestamp + self._slack),
            available=available,
            liquidations_allowed=self._prices.liquidations_allowed,
            native=self._native,
        )
        entries = tuple(self._ledger.supplies_and_debts(user))
        built = build_position(scene, borrower, entries, self._ledger.emode[user])
        if built is not None:
            now.positions[borrower] = built
        return built

    def _indifferent(self, position: Position, available: Mapping[int, int]) -> bool:
        """Whether the position would be built the same with this much available: no less than a pair could ask for."""
        numbers = self.market.by_asset
        return not position.refusals and all(
            isinstance(pair, AavePair)
            and pair.ample <= pair.available
            and pair.ample <= available.get(numbers[pair.collateral.address], 0)
            for pair in position.pairs
        )

    def liquidation(self, pair: Pair, borrower: Address, repay: int, *, receive_a_token: bool = False) -> Liquidation:
        """The executor steps. With `receive_a_token` the collateral comes as aTokens, whatever is available."""
        if not isinstance(pair, AavePair):
            raise TypeError(f"{type(pair).__name__} is no pair of an Aave market")
        key = (borrower, repay, receive_a_token)
        if key not in pair.ways:
            market = self.market
            pair.ways[key] = liquidation_steps(market, pair, borrower, repay, receive_a_token=receive_a_token)
        return pair.ways[key]

    def _available_behind(self, plans: Sequence[Plan]) -> Mapping[int, int]:
        """Underlying per reserve once `plans` have run: what they repaid is there, what they seized is not."""
        if not plans:
            return self._available
        left = dict(self._available)
        for plan in plans:
            owed, held = self.market.by_asset[plan.debt.address], self.market.by_asset[plan.collateral.address]
            left[owed] = left.get(owed, 0) + plan.seizure.repaid
            left[held] = left.get(held, 0) - plan.seizure.seized
        return left

    def available(self, asset: Address) -> int:
        """Underlying that can leave a reserve at this head, base units; zero for an asset that is not listed."""
        number = self.market.by_asset.get(asset)
        return 0 if number is None else self._available.get(number, 0)

    def near(self, timestamp: int, below: int, size: int, most: int) -> list[Account]:
        if self._market is None or self._prices.nothing:
            return []
        valuation = self._valuation(timestamp)
        factors = valuation.factors(self._ledger.emodes_seen)
        debts = -self._ledger.balances(np.minimum(factors, 0.0))
        # Health below `below` is weighted collateral below `below` times the debt: the screen with heavier debts.
        sums = self._ledger.balances(np.where(factors < 0, factors * (below / WAD), factors))
        chosen = np.flatnonzero((sums < valuation.screen_slack) & (debts >= size) & (debts > 0))
        found: list[Account] = []
        for user in chosen[np.argsort(-debts[chosen], kind="stable")]:
            account = self.account(self._ledger.names[user], timestamp)
            if account is not None and WAD <= account.health_factor < below and account.debt_value >= size:
                found.append(account)
                if len(found) == most:
                    break
        return found

    def liquidation_watch(self) -> Watch:
        if self._market is None:
            return Watch(frozenset(), frozenset())
        return Watch(frozenset({self._market.pool}), frozenset({events.LIQUIDATION}))

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        """`LiquidationCall` states the collateral without the protocol's fee (LiquidationLogic.executeLiquidationCall).

        Prices are those of the assets themselves: an e-mode's own price source is not looked at.
        """
        return tuple(self._seen(log) for log in logs if log.topics[0] == events.LIQUIDATION)

    def _seen(self, log: Log) -> LiquidationSeen:
        told = POOL.parse("LiquidationCall", log)
        debt, collateral = address(told["debtAsset"]), address(told["collateralAsset"])
        prices = self._prices.values
        return LiquidationSeen(
            market=self.name,
            borrower=address(told["user"]),
            liquidator=address(told["liquidator"]),
            debt=self._token(debt),
            collateral=self._token(collateral),
            repaid=told["debtToCover"],
            seized=told["liquidatedCollateralAmount"],
            block_number=log.block_number,
            log_index=log.log_index,
            tx_hash=log.tx_hash,
            debt_price=prices.get(debt) or None,
            collateral_price=prices.get(collateral) or None,
            native_price=prices.get(self._native) or None if self._native is not None else None,
        )

    def _token(self, asset: Address) -> Token:
        number = self.market.by_asset.get(asset)
        # An asset that is no longer listed has no price either, so its decimals are not used.
        return Token(asset, asset[:10], 0) if number is None else self.market.reserves[number].token

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        # A node may answer one view from another block's state and mean nothing by it: what it says twice is believed.
        if await self._compare(client, head, sample) is None:
            return None
        return await self._compare(client, head, sample)

    async def _compare(self, client: Client, head: Head, sample: int) -> Skip | None:
        """The first difference from the pool's own view at `head`, if any."""
        if self._head is None or self._head.hash != head.hash or not self._synced:
            return None
        wrong = await checks.wrong_totals(client, head, self.market, self._ledger)
        if wrong:
            return Skip(SkipReason.MARKET_UNKNOWN, f"{self.name} differs from the chain: {wrong[0][0]}")
        borrowers = self._ledger.borrowers()
        if len(borrowers) > sample:
            chosen = random.Random(head.number)  # noqa: S311 - a sample, not a secret
            borrowers = borrowers[chosen.sample(range(len(borrowers)), sample)]
        names = [self._ledger.names[user] for user in borrowers]
        reads = tuple(Read(self.market.pool, POOL.encode("getUserAccountData", name)) for name in names)
        for name, answer in zip(names, await client.read(reads, head) if reads else [], strict=True):
            mine = self.account(name, head.timestamp)
            if mine is None:
                continue  # a missing price: known to be unknown
            collateral, debt, *_, factor = POOL.decode("getUserAccountData", answer)
            if (mine.collateral_value, mine.debt_value, mine.health_factor) != (collateral, debt, factor):
                return Skip(
                    SkipReason.MARKET_UNKNOWN,
                    f"{self.name}: {name} has health factor {factor} at block {head.number}, the book says "
                    f"{mine.health_factor}",
                    {"collateral": collateral, "debt": debt, "health_factor": factor},
                )
        return None

    def _valuation(self, timestamp: int) -> Valuation:
        found = self._valuations.get(timestamp)
        if found is None:
            found = Valuation(self.market, self._follower.states, self._prices.values, timestamp)
            self._valuations[timestamp] = found
        return found

    def _health(self, user: int, valuation: Valuation) -> Health | None:
        if user in self._follower.stable_users:
            return None
        return valuation.health(self._ledger.supplies_and_debts(user), self._ledger.emode[user])
