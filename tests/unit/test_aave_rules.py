"""The table of revisions says what the versions' release notes and sources say."""

from __future__ import annotations

import pytest

from keeper.maths.wad_ray import RAY
from keeper.protocols.aave_v3.rules import RULES

pytestmark = pytest.mark.unit


def since(name: str) -> set[str]:
    """Versions in which a rule holds."""
    return {rules.version for rules in RULES.values() if getattr(rules, name)}


def test_every_known_revision_has_rules() -> None:
    """1 to 3 are 3.0.x, 4 is 3.1, 5 is 3.2, 6 and 7 are 3.3, then one each up to 3.7."""
    versions = ["3.0"] * 3 + ["3.1", "3.2", "3.3", "3.3", "3.4", "3.5", "3.6", "3.7"]
    assert [RULES[revision].version for revision in range(1, 12)] == versions
    assert 12 not in RULES
    assert 0 not in RULES


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("grace_period", "3.1", "3.7"),
        ("virtual_balance", "3.1", "3.7"),
        ("liquid_emodes", "3.2", "3.7"),
        ("must_not_leave_dust", "3.3", "3.7"),
        ("whole_position_close_factor", "3.3", "3.7"),
        ("burns_deficit", "3.3", "3.7"),
        ("forbids_self_liquidation", "3.4", "3.7"),
        ("exact_threshold", "3.5", "3.7"),
        ("balance_events", "3.5", "3.7"),
        ("rolls_collateral_index", "3.5", "3.7"),
        ("sentinel", "3.0", "3.6"),
        ("needs_reserve_threshold", "3.0", "3.5"),
        ("emode_price_source", "3.0", "3.1"),
    ],
)
def test_rules_hold_in_a_range_of_versions(name: str, first: str, last: str) -> None:
    """Each rule appeared, or was dropped, in the version that says so."""
    assert since(name) == {v for v in {r.version for r in RULES.values()} if first <= v <= last}


def test_balances_round_by_version() -> None:
    """One unit at an index of 1.5: half up until 3.4; since 3.5 supply is floored and debt rounded up."""
    index = RAY * 3 // 2
    for rules in RULES.values():
        strict = rules.version >= "3.5"
        assert rules.supply_balance(1, index) == (1 if strict else 2)
        assert rules.debt_balance(1, index + 1) == 2
        assert rules.debt_balance(1, index - 1) == (2 if strict else 1)
        assert rules.debt_value(1, 3, 2) == (2 if strict else 1)


def test_bonus_and_fee_round_against_the_liquidator_in_37() -> None:
    """The three half-up roundings of a liquidation became floor, floor and ceil."""
    for rules in RULES.values():
        latest = rules.version == "3.7"
        assert rules.max_collateral(1, 15_000) == (1 if latest else 2)
        assert rules.bonus_base(2, 10_500) == (1 if latest else 2)
        assert rules.protocol_fee(1, 4_000) == (1 if latest else 0)


def test_premium_rounds_up_since_35() -> None:
    """9 bps of 1,000 base units: one half up, one rounded up; of 100: nothing before, one since."""
    for rules in RULES.values():
        assert rules.flash_premium(1_000, 9) == 1
        assert rules.flash_premium(100, 9) == (1 if rules.version >= "3.5" else 0)
