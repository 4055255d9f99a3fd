"""What is out and not mined is waited for where it is in the way, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeper.model import Address, AttemptState, FlashOffer, Plan, Token, Verdict
from keeper.strategy.underway import Underway
from tests.unit.test_strategy_sequence import plan

pytestmark = pytest.mark.unit

OTHER = Token(Address("0x" + "0c" * 20), "OTHER", 18)


def out(market: str, borrower: Address) -> bool:
    return True


def other_collateral(one: Plan) -> Plan:
    return replace(one, collateral=OTHER)


def test_a_pool_that_is_about_to_move_is_waited_for() -> None:
    """Also where it is the lender's; another pool is not, and neither is a position's own attempt."""
    underway = Underway()
    underway.sent("0x1", (plan(9, "p", "a", market="m1"),))
    assert "attempt on a in m1" in underway.clash(other_collateral(plan(5, "p", "b", market="m2")), out)
    assert not underway.clash(other_collateral(plan(5, "q", "b", market="m2")), out)
    assert not underway.clash(plan(5, "p", "a", market="m1"), out)
    token = Address("0x" + "0d" * 20)
    lent = replace(plan(5, "q", "b", market="m2"), loan=FlashOffer("f", Address("p"), token, 1, 0, 0))
    assert underway.clash(other_collateral(lent), out)


def test_the_same_collateral_of_the_same_market_is_waited_for() -> None:
    """What can leave a market is shared by everybody who seizes it there."""
    underway = Underway()
    underway.sent("0x1", (plan(9, "p", "a", market="m/0x1"),))
    assert underway.clash(plan(5, "q", "b", market="m/0x2"), out)
    assert not underway.clash(plan(5, "q", "b", market="n"), out)


def test_an_attempt_counts_while_its_position_is_in_flight() -> None:
    """Mined or given up it is in nobody's way; back in flight after a reorganisation it is; closed it is forgotten."""
    underway, mine = Underway(), plan(5, "p", "b", market="m2")
    underway.sent("0x1", (plan(9, "p", "a", market="m1"),))
    assert not underway.clash(mine, lambda market, borrower: False)
    underway.ended(Verdict("0x1", AttemptState.MINED, "", closed=False))
    assert underway.clash(mine, out)
    underway.ended(Verdict("0x1", AttemptState.MINED, "", closed=True))
    assert not underway.clash(mine, out)
