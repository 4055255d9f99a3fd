"""The staged positions in Morpho and in the Comet do what their labels say, judged by the contracts alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper.devchain.cast import FROZEN, CometBorrower, MorphoBorrower, freeze, stage_others
from keeper.devchain.scenario import Expected, crash
from keeper.model import WAD
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

MODEL = Path(__file__).parents[1] / "support" / "contracts" / "CometModel.sol"


def test_the_crash_does_what_the_labels_say(fork: Fork) -> None:
    """Before: all healthy. After: health as designed, and who is to be liquidated is liquidatable by the contracts."""
    members, comet = stage_others(fork.actors, MODEL)
    assert comet is not None
    assert all(member.health_factor(fork.rpc, fork.world) > WAD for member in members)
    crash(fork.world, fork.rpc)
    freeze(fork.actors)
    for member in members:
        health = member.health_factor(fork.rpc, fork.world)
        wanted = member.health
        if isinstance(member, MorphoBorrower) and member.pool == FROZEN[0]:
            wanted = wanted * FROZEN[1] // 100
        assert health == pytest.approx(wanted * 10**15, rel=1e-3), member.label
        if isinstance(member, CometBorrower):
            assert fork.rpc.view(comet.comet, "isLiquidatable(address)", member.account, returns="bool") == (
                member.expected is not Expected.HEALTHY
            )
        else:
            assert (health < WAD) == (member.expected is not Expected.HEALTHY)


def test_without_a_model_there_is_no_comet(fork: Fork) -> None:
    """The private chain can do without; everybody else is there."""
    members, comet = stage_others(fork.actors, None)
    assert comet is None
    assert all(isinstance(member, MorphoBorrower) for member in members)
