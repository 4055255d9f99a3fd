"""Turns a market's logs into changes of its ledger."""

from __future__ import annotations

from keeper.model import ZERO_ADDRESS, Log
from keeper.protocols.compound_v3.contract import COLLATERALS, PRINCIPALS, UPGRADED, collateral_moved, party
from keeper.protocols.compound_v3.ledger import Ledger


class Follower:
    """One market's logs, in order."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.upgraded = False  # parameters must be read anew

    def take(self, log: Log) -> bool:
        """Apply one log; whether it is of an action that accrues interest."""
        kind = log.topics[0]
        positions = PRINCIPALS.get(kind)
        if positions is not None:
            for position in positions:
                who = party(log, position)
                if who != ZERO_ADDRESS:
                    self._ledger.name(self._ledger.user(who))
            return True
        if kind in COLLATERALS:
            source, target, asset, amount = collateral_moved(log)
            for holder, by in ((source, -amount), (target, amount)):
                if holder is not None:
                    self._ledger.move(self._ledger.user(holder), asset, by)
        elif kind == UPGRADED:
            self.upgraded = True
        return False
