"""How a gain is said to rise with the amount, against what a little more really brings."""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest

from keeper.model import Route
from keeper.strategy.funding import Market
from keeper.strategy.options import Options
from keeper.strategy.shapes import Terms, Trial, slope
from keeper.strategy.value import spot_value
from tests.support.strategy_fakes import NATIVE
from tests.support.strategy_markets import real_world

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20271127"))


def routes(trial: Trial) -> list[Route]:
    return [route for route in (trial.buy, trial.sell) if route is not None]


def test_between_two_amounts_a_gain_rises_as_its_slopes_say() -> None:
    """Of every shape, over real pools: the average rise lies between the slopes at both ends."""
    print(f"KEEPER_SEED={SEED}")
    seen = Counter[str]()
    for number in range(120):
        dice = Random(f"{SEED}/{number}")
        world = real_world(dice)
        terms = Terms(world.quoter.router.priced(0), NATIVE.address, 0, 0)  # without gas nothing is a step
        builder = Options(terms, Market(world.sources), flash_swaps=True, slack_bps=200, every=True)
        for pair in world.pairs:
            for option in builder.of(pair) if pair.feasible else ():
                low, high = pair.feasible[-1]
                one = dice.randint(low, high)
                two = one + max(one // 200, 10**4)
                if two > high:
                    continue
                first, second = option.shape(terms, one), option.shape(terms, two)
                if not isinstance(first, Trial) or not isinstance(second, Trial):
                    continue
                traded = [side for way in routes(first) for side in (way.amount_in, way.amount_out)]
                if min([one, first.seizure.seized, *traded]) < 10**8:
                    continue  # base units that show in a result are steps as well
                before, after = slope(NATIVE.address, pair, first), slope(NATIVE.address, pair, second)
                if before is None or after is None:
                    continue
                rise = (second.gain - first.gain) / (two - one)
                worth = spot_value(terms.quoter, pair.collateral.address, NATIVE.address, first.seizure.seized)
                assert worth is not None
                off = 3e-4 * worth / one  # other paths may be the best ones of a little more
                assert after - off <= rise <= before + off, (number, option.funding)
                seen[option.funding.split(", ")[-1]] += 1
    print(dict(seen))
    assert all(seen[shape] >= 5 for shape in ("flash swap", "two legs", "one leg", "same asset")), seen
