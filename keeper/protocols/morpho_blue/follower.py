"""Turns a deployment's logs into changes of its markets, positions, authorisations and pre-liquidation contracts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from keeper.errors import BadData
from keeper.model import Address, Log
from keeper.protocols.morpho_blue import events
from keeper.protocols.morpho_blue.events import party, word_address, words
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.morpho_blue.market import Params, State
from keeper.protocols.morpho_blue.registry import Registry
from keeper.rewind import Rewind


@dataclass(frozen=True, slots=True)
class PreTerms:
    """A pre-liquidation contract's parameters in wad: its factors are those at its own LLTV and at the market's."""

    contract: Address
    market: int
    lltv: int
    close: tuple[int, int]
    incentive: tuple[int, int]
    oracle: Address


class Follower:
    """One deployment's logs, in order. `timestamp` is None while old logs are replayed: what needs it is read later."""

    def __init__(self, registry: Registry, ledger: Ledger, rewind: Rewind, morpho: Address) -> None:
        self._registry = registry
        self._ledger = ledger
        self._rewind = rewind
        self._morpho = morpho
        self.factories: frozenset[Address] = frozenset()
        self.recipient: dict[str, Address] = {}
        self.contracts: dict[Address, PreTerms] = {}
        self._handlers: dict[str, Callable[[Log, int | None], None]] = {
            events.CREATE_MARKET: self._create,
            events.ACCRUE: self._accrue,
            events.SUPPLY: self._supply,
            events.WITHDRAW: self._withdraw,
            events.BORROW: self._borrow,
            events.REPAY: self._repay,
            events.SUPPLY_COLLATERAL: self._supply_collateral,
            events.WITHDRAW_COLLATERAL: self._withdraw_collateral,
            events.LIQUIDATE: self._liquidate,
            events.SET_FEE: self._set_fee,
            events.SET_FEE_RECIPIENT: self._set_fee_recipient,
            events.AUTHORIZATION: self._authorization,
        }

    def clear(self) -> None:
        """Forget all that logs told."""
        self.recipient.clear()
        self.contracts.clear()

    def take(self, log: Log, timestamp: int | None) -> None:
        """One log; raises BadData when it cannot be understood or contradicts what came before it."""
        topic = log.topics[0]
        if log.address == self._morpho:
            handler = self._handlers.get(topic)
            if handler is not None:
                handler(log, timestamp)
        elif topic == events.RATE_UPDATE:
            self._rate(log)
        elif topic == events.CREATE_PRE_LIQUIDATION and log.address in self.factories:
            self._pre_liquidation(log)

    # ----------------------------------------------------------------------------------------------- markets

    def _create(self, log: Log, timestamp: int | None) -> None:
        loan, collateral, oracle, irm, lltv = words(log, 5, 2)
        params = Params(
            id=log.topics[1],
            place=self._registry.place(log.topics[1]),
            loan=word_address(loan),
            collateral=word_address(collateral),
            oracle=word_address(oracle),
            irm=word_address(irm),
            lltv=lltv,
        )
        if params.id in self._registry.numbers:
            raise BadData(f"market {params.id} was created twice, the second time in transaction {log.tx_hash}")
        self._ledger.market_created(self._registry.create(params, timestamp or 0))

    def _accrue(self, log: Log, timestamp: int | None) -> None:
        _, interest, fee_shares = words(log, 3, 2)
        market, state = self._market(log)
        self._set(
            log,
            market,
            state,
            supply_assets=state.supply_assets + interest,
            supply_shares=state.supply_shares + fee_shares,
            borrow_assets=state.borrow_assets + interest,
            updated=timestamp or 0,
        )
        if fee_shares:
            recipient = self.recipient.get("", None)
            if recipient is None:
                raise BadData(f"a fee accrued in transaction {log.tx_hash} and no recipient was ever set")
            entry = self._ledger.entry(market, recipient)
            self._ledger.set_supply(entry, self._ledger.supply[entry] + fee_shares)

    def _set_fee(self, log: Log, timestamp: int | None) -> None:
        (fee,) = words(log, 1, 2)
        market, state = self._market(log)
        self._set(log, market, state, fee=fee)

    def _set_fee_recipient(self, log: Log, timestamp: int | None) -> None:
        words(log, 0, 2)
        self._rewind.set(self.recipient, "", party(log.topics[1]))

    def _rate(self, log: Log) -> None:
        """A model may serve other deployments, whose markets are not known here."""
        _, at_target = words(log, 2, 2)
        number = self._registry.numbers.get(log.topics[1])
        if number is not None and self._registry.params[number].irm == log.address:
            self._registry.set_target(number, at_target)

    # --------------------------------------------------------------------------------------------- positions

    def _supply(self, log: Log, timestamp: int | None) -> None:
        assets, shares = words(log, 2, 4)
        self._lend(log, party(log.topics[3]), assets, shares)

    def _withdraw(self, log: Log, timestamp: int | None) -> None:
        _, assets, shares = words(log, 3, 4)
        self._lend(log, party(log.topics[2]), -assets, -shares)

    def _lend(self, log: Log, name: Address, assets: int, shares: int) -> None:
        market, state = self._market(log)
        self._set(
            log,
            market,
            state,
            supply_assets=state.supply_assets + assets,
            supply_shares=state.supply_shares + shares,
        )
        entry = self._ledger.entry(market, name)
        self._ledger.set_supply(entry, self._amount(log, self._ledger.supply[entry] + shares))

    def _borrow(self, log: Log, timestamp: int | None) -> None:
        _, assets, shares = words(log, 3, 4)
        self._owe(log, party(log.topics[2]), assets, shares)

    def _repay(self, log: Log, timestamp: int | None) -> None:
        assets, shares = words(log, 2, 4)
        self._owe(log, party(log.topics[3]), -assets, -shares)

    def _owe(self, log: Log, name: Address, assets: int, shares: int) -> None:
        """`repay` may take one unit more than is owed in all: the total then stops at zero."""
        market, state = self._market(log)
        self._set(
            log,
            market,
            state,
            borrow_assets=max(state.borrow_assets + assets, 0),
            borrow_shares=state.borrow_shares + shares,
        )
        entry = self._ledger.entry(market, name)
        self._ledger.set_borrow(entry, self._amount(log, self._ledger.borrow[entry] + shares))

    def _supply_collateral(self, log: Log, timestamp: int | None) -> None:
        (assets,) = words(log, 1, 4)
        self._pledge(log, party(log.topics[3]), assets)

    def _withdraw_collateral(self, log: Log, timestamp: int | None) -> None:
        _, assets = words(log, 2, 4)
        self._pledge(log, party(log.topics[2]), -assets)

    def _pledge(self, log: Log, name: Address, assets: int) -> None:
        market, _ = self._market(log)
        entry = self._ledger.entry(market, name)
        self._ledger.set_collateral(entry, self._amount(log, self._ledger.collateral[entry] + assets))

    def _liquidate(self, log: Log, timestamp: int | None) -> None:
        repaid, shares, seized, bad_assets, bad_shares = words(log, 5, 4)
        market, state = self._market(log)
        self._set(
            log,
            market,
            state,
            supply_assets=state.supply_assets - bad_assets,
            borrow_assets=max(state.borrow_assets - repaid, 0) - bad_assets,
            borrow_shares=state.borrow_shares - shares - bad_shares,
        )
        ledger, entry = self._ledger, self._ledger.entry(market, party(log.topics[3]))
        ledger.set_borrow(entry, self._amount(log, ledger.borrow[entry] - shares - bad_shares))
        ledger.set_collateral(entry, self._amount(log, ledger.collateral[entry] - seized))

    def _authorization(self, log: Log, timestamp: int | None) -> None:
        (allowed,) = words(log, 1, 4)
        self._ledger.allow(party(log.topics[2]), party(log.topics[3]), allowed=bool(allowed))

    def _pre_liquidation(self, log: Log) -> None:
        market_id, lltv, close1, close2, incentive1, incentive2, oracle = words(log, 7, 2)
        number = self._registry.numbers.get(f"0x{market_id:064x}")
        contract = party(log.topics[1])
        if number is None:
            raise BadData(f"pre-liquidation contract {contract} is for a market that is not known ({market_id:#x})")
        terms = PreTerms(contract, number, lltv, (close1, close2), (incentive1, incentive2), word_address(oracle))
        self._rewind.set(self.contracts, contract, terms)

    # ----------------------------------------------------------------------------------------------- helpers

    def _market(self, log: Log) -> tuple[int, State]:
        number = self._registry.numbers.get(log.topics[1])
        if number is None:
            raise BadData(
                f"transaction {log.tx_hash} acts on market {log.topics[1]}, whose creation was not seen: put the block "
                "that Morpho was deployed in, or an earlier one, into start_block"
            )
        return number, self._registry.states[number]

    def _set(self, log: Log, market: int, state: State, **changes: int) -> None:
        for value in changes.values():
            self._amount(log, value)
        self._registry.set_state(market, replace(state, **changes))

    def _amount(self, log: Log, value: int) -> int:
        if not 0 <= value < 1 << 128:
            raise BadData(
                f"the events of {log.address} up to transaction {log.tx_hash} add up to an amount of {value}: some are "
                "missing or were misread"
            )
        return value
