"""Token events give back the scaled balances that made them, under every revision's arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import BadData
from keeper.maths.wad_ray import RAY, ray_div_down, ray_div_half_up, ray_div_up
from keeper.model import Hash, Log, address
from keeper.protocols.aave_v3 import events
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY
from keeper.protocols.aave_v3.rules import RULES, Rules
from keeper.protocols.aave_v3.tokens import burned, minted

pytestmark = pytest.mark.property

USER = "0x" + "00" * 12 + "11" * 20
indices = st.integers(RAY, 60 * RAY)
scaled_balances = st.integers(0, 2**119)
revisions = st.sampled_from(sorted(RULES))
sides = st.sampled_from([SUPPLY, DEBT])


@dataclass
class Token:
    """ScaledBalanceTokenBase as both generations wrote it: what changes, and the event it leaves."""

    rules: Rules
    side: int
    scaled: int
    index: int  # at the user's last action

    def balance(self, scaled: int, index: int) -> int:
        return (self.rules.supply_balance if self.side == SUPPLY else self.rules.debt_balance)(scaled, index)

    def mint(self, amount: int, index: int) -> tuple[str, int, int, int] | None:
        if self.rules.balance_events:
            up = self.side == DEBT
            return self._move((ray_div_up if up else ray_div_down)(amount, index), index)
        change = ray_div_half_up(amount, index)
        if not change:
            return None
        increase = self.balance(self.scaled, index) - self.balance(self.scaled, self.index)
        self.scaled += change
        return events.MINT, amount + increase, increase, index

    def burn(self, amount: int, index: int) -> tuple[str, int, int, int] | None:
        if self.rules.balance_events:
            up = self.side == SUPPLY
            change = (ray_div_up if up else ray_div_down)(amount, index)
            return self._move(-change, index) if change <= self.scaled else None
        change = ray_div_half_up(amount, index)
        if not change or change > self.scaled:
            return None
        increase = self.balance(self.scaled, index) - self.balance(self.scaled, self.index)
        self.scaled -= change
        if increase > amount:
            return events.MINT, increase - amount, increase, index
        return events.BURN, amount - increase, increase, index

    def _move(self, change: int, index: int) -> tuple[str, int, int, int] | None:
        if not change:
            return None
        previous = self.balance(self.scaled, self.index)
        increase = self.balance(self.scaled, index) - previous
        self.scaled += change
        after = self.balance(self.scaled, index)
        if after > previous:
            return events.MINT, after - previous, increase, index
        return events.BURN, previous - after, increase, index


def log(topic: str, *values: int) -> Log:
    data = b"".join(value.to_bytes(32, "big") for value in values)
    return Log(address("0x" + "22" * 20), (topic, USER, USER), data, 1, 0, Hash("0x" + "33" * 32))


@given(revisions, sides, scaled_balances, indices, indices, st.integers(1, 2**110), st.booleans())
def test_an_event_tells_the_balance_after(
    revision: int, side: int, scaled: int, first: int, second: int, amount: int, mints: bool
) -> None:
    """For any balance, index and amount: the balance read off the event is the token's own."""
    rules = RULES[revision]
    token = Token(rules, side, scaled, min(first, second))
    index = max(first, second)
    event = token.mint(amount, index) if mints else token.burn(min(amount, token.balance(scaled, index)), index)
    if event is None:
        return
    topic, *values = event
    invert = minted if topic == events.MINT else burned
    assert invert(rules, side, scaled, log(topic, *values)) == token.scaled


@given(revisions, sides, scaled_balances, indices, indices)
def test_interest_alone_changes_nothing(revision: int, side: int, scaled: int, first: int, second: int) -> None:
    """The Mint a transfer leaves for accrued interest keeps the scaled balance."""
    rules = RULES[revision]
    token = Token(rules, side, scaled, min(first, second))
    index = max(first, second)
    increase = token.balance(scaled, index) - token.balance(scaled, token.index)
    assert minted(rules, side, scaled, log(events.MINT, increase, increase, index)) == scaled


@given(revisions, st.integers(0, RAY - 1))
def test_an_impossible_index_is_refused(revision: int, index: int) -> None:
    """No index is below one; a log that says so is not understood."""
    with pytest.raises(BadData):
        minted(RULES[revision], SUPPLY, 10, log(events.MINT, 5, 0, index))


@given(revisions, st.integers(0, 5))
def test_a_log_of_another_shape_is_refused(revision: int, words: int) -> None:
    """Too few or too many words are no token event."""
    if words == 3:
        return
    with pytest.raises(BadData):
        burned(RULES[revision], SUPPLY, 10, log(events.BURN, *([RAY] * words)))
