"""Turns a market's logs into changes of its ledger and of its reserves' moving state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from keeper.errors import BadData
from keeper.maths.interest import linear_interest
from keeper.maths.wad_ray import ray_mul_half_up
from keeper.model import Address, Log
from keeper.protocols.aave_v3 import events
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Market, State
from keeper.protocols.aave_v3.tokens import burned, minted, words
from keeper.rewind import Rewind

_STABLE = 2


def party(topic: str) -> Address:
    """The address in an indexed word."""
    return Address("0x" + topic[26:])


class Follower:
    """One market's logs, in order. `timestamp` is None while old logs are replayed: reserves are then read later."""

    def __init__(self, ledger: Ledger, rewind: Rewind, provider: Address) -> None:
        self._ledger = ledger
        self._rewind = rewind
        self._provider = provider
        self._market: Market | None = None
        self._tokens: dict[Address, tuple[int, int]] = {}
        self._contracts: frozenset[Address] = frozenset({provider})
        self.states: dict[int, State] = {}
        self.stable_users: dict[int, int] = {}  # everybody who ever took stable debt and may still have some
        self.governed = False  # parameters must be read anew
        self.suspect = False  # scaled balances must be read anew
        self.categories: set[int] = set()  # e-modes heard of
        self.listed_at: dict[Address, int] = {}  # block in which a reserve was initialised

    def clear(self) -> None:
        """Forget all but the market."""
        self.states.clear()
        self.stable_users.clear()
        self.governed = self.suspect = False
        self.listed_at.clear()

    def follow(self, market: Market, reserves: Iterable[int]) -> None:
        """Take a market's parameters, and the holdings of these reserves of it."""
        self._market = market
        self._contracts = frozenset({self._provider, market.pool, market.configurator, market.oracle})
        self._tokens = {}
        for number in reserves:
            reserve = market.reserves.get(number)
            if reserve is None:
                raise BadData(f"the market does not list reserve {number} any more, which was followed until now")
            self._tokens[reserve.a_token] = (number, SUPPLY)
            self._tokens[reserve.v_token] = (number, DEBT)
            if reserve.stable_token is not None:
                self._tokens[reserve.stable_token] = (number, _STABLE)

    @property
    def addresses(self) -> frozenset[Address]:
        """Everything listened to."""
        return self._contracts | self._tokens.keys()

    def take(self, log: Log, timestamp: int | None) -> None:
        """One log; raises BadData when it is live and cannot be understood."""
        token = self._tokens.get(log.address)
        if token is not None:
            self._holding(log, *token, live=timestamp is not None)
        elif log.address in self._contracts:
            self._contract(log, timestamp)

    def flag(self, log: Log, only: int | None = None) -> None:
        """A collateral flag of a listed reserve (or of `only` that one)."""
        if len(log.topics) != 3:
            raise BadData(f"a collateral flag in transaction {log.tx_hash} has {len(log.topics)} topics")
        market = self._market
        number = None if market is None else market.by_asset.get(party(log.topics[1]))
        if number is None or (only is not None and number != only):
            return  # a reserve this market does not list: the pool skips it too
        user = self._ledger.user(party(log.topics[2]))
        self._ledger.set_enabled(user, number, log.topics[0] == events.COLLATERAL_ON)

    # ---------------------------------------------------------------------------------------------- contracts

    def _contract(self, log: Log, timestamp: int | None) -> None:
        topic, market = log.topics[0], self._market
        if market is not None and log.address == market.pool:
            if topic in events.FLAGS:
                self.flag(log)
            elif topic == events.EMODE_SET:
                (category,) = words(log, 1, 2)
                self._ledger.set_emode(self._ledger.user(party(log.topics[1])), category)
            elif topic == events.RESERVE_DATA and timestamp is not None:
                self._reserve_data(log, timestamp)
            elif topic == events.LIQUIDATION and timestamp is not None:
                self._liquidation(log, timestamp)
        if topic in events.GOVERNANCE:
            self._governance(log)

    def _governance(self, log: Log) -> None:
        self.governed = True
        topic = log.topics[0]
        if topic == events.UPGRADED and self._ledger.entries:
            self.suspect = True  # other code may have written its events differently
        elif topic == events.EMODE_ADDED and len(log.topics) == 2:
            self.categories.add(int(log.topics[1], 16))
        elif topic == events.RESERVE_INITIALIZED and len(log.topics) == 3:
            self._rewind.set(self.listed_at, party(log.topics[1]), log.block_number)

    def _reserve_data(self, log: Log, timestamp: int) -> None:
        supply_rate, _, debt_rate, supply_index, debt_index = words(log, 5, 2)
        market = self._market
        number = None if market is None else market.by_asset.get(party(log.topics[1]))
        if number is None:
            return
        known = self.states.get(number)
        if known is None or timestamp >= known.updated:
            self._rewind.set(self.states, number, State(supply_index, supply_rate, debt_index, debt_rate, timestamp))

    def _liquidation(self, log: Log, timestamp: int) -> None:
        """With receiveAToken the collateral's indices are rolled to the block without an event of their own."""
        *_, received_tokens = words(log, 4, 4)
        market = self._market
        number = None if market is None else market.by_asset.get(party(log.topics[1]))
        if market is None or number is None or not received_tokens or not market.rules.rolls_collateral_index:
            return
        state = self.states.get(number)
        if state is None or state.updated >= timestamp:
            return
        elapsed = timestamp - state.updated
        supply_index, debt_index = state.supply_index, state.debt_index
        if state.supply_rate:
            supply_index = ray_mul_half_up(linear_interest(state.supply_rate, elapsed), supply_index)
        if self._ledger.total(slot(number, DEBT)):
            debt_index = ray_mul_half_up(market.rules.compounded_interest(state.debt_rate, elapsed), debt_index)
        rolled = replace(state, supply_index=supply_index, debt_index=debt_index, updated=timestamp)
        self._rewind.set(self.states, number, rolled)

    # ------------------------------------------------------------------------------------------------ tokens

    def _holding(self, log: Log, reserve: int, side: int, *, live: bool) -> None:
        topic = log.topics[0]
        if side == _STABLE:
            if topic in (events.STABLE_MINT, events.STABLE_BURN):
                holder = log.topics[2 if topic == events.STABLE_MINT and len(log.topics) > 2 else 1]
                self._rewind.set(self.stable_users, self._ledger.user(party(holder)), 1)
                self.governed = True
        elif topic == events.MINT:
            self._change(log, reserve, side, log.topics[2] if len(log.topics) > 2 else "", live=live)
        elif topic == events.BURN:
            self._change(log, reserve, side, log.topics[1], live=live)
        elif topic == events.TRANSFER and side == SUPPLY:
            amount, _ = words(log, 2, 3)
            for topic, sign in ((log.topics[1], -1), (log.topics[2], 1)):
                entry = self._ledger.entry(self._ledger.user(party(topic)), slot(reserve, side))
                self._set(log, entry, self._ledger.amount[entry] + sign * amount, live=live)
        elif topic == events.UPGRADED:
            self._governance(log)

    def _change(self, log: Log, reserve: int, side: int, holder: str, *, live: bool) -> None:
        assert self._market is not None
        invert = minted if log.topics[0] == events.MINT else burned
        entry = self._ledger.entry(self._ledger.user(party(holder)), slot(reserve, side))
        before = self._ledger.amount[entry]
        self._set(log, entry, invert(self._market.rules, side, before, log), live=live)

    def _set(self, log: Log, entry: int, scaled: int, *, live: bool) -> None:
        if not 0 <= scaled < 1 << 128:
            if live:
                raise BadData(
                    f"the events of {log.address} up to transaction {log.tx_hash} add up to a balance of {scaled}: "
                    "some are missing or were misread"
                )
            self.suspect, scaled = True, 0
        self._ledger.set_amount(entry, scaled)
