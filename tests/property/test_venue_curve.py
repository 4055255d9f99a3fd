"""The curves of pools and paths against their exact quotes: what only screens may be off by rounding, no more."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from keeper.model import Address
from keeper.venues.balancer_v2.pool import WeightedState
from keeper.venues.chains import Chain, Leg
from keeper.venues.curve import GAS, HIGH, LOW, X, Y
from keeper.venues.pool import Pool
from keeper.venues.uniswap_v3.pool import GAS_WORD
from keeper.venues.uniswap_v4.pool import V4Pool
from keeper.venues.wrappers.erc4626 import VaultPool
from keeper.venues.wrappers.pool import Limits
from tests.property.test_venue_router import TOKENS, draw_v2, draw_v3

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20271127"))
A, B, C = TOKENS[:3]


def draw_v4(rng: random.Random, number: int, a: Address, b: Address, tick: int, size: float) -> V4Pool:
    like = draw_v3(rng, number, a, b, tick, size)
    fees = (like.fee, rng.choice((0, 1000 | 500 << 12)))
    wrapped = rng.choice((a, b, TOKENS[3]))  # the pool may hold the native token itself
    return V4Pool.made(
        "v4", like.address, (a, b), wrapped, fees, like.ticks.spacing, like.ticks.gross_net, like.sqrt_price, like.tick
    )


def draw_weighted(rng: random.Random, number: int, a: Address, b: Address, tick: int, size: float) -> Pool:
    weight = rng.choice((2, 5, 8)) * 10**17
    balances = (int(size * rng.uniform(1, 10)), int(size * rng.uniform(1, 10)))
    state = WeightedState(
        *("balancer", Address(f"0x{number:040x}"), f"0x{number:064x}", (a, b), (weight, 10**18 - weight), (18, 18)),
        *(rng.choice((10**15, 3 * 10**15)), balances),
        exact_small=True,
    )
    return state.pairs[0]


def draw_vault(rng: random.Random, number: int, a: Address, b: Address, tick: int, size: float) -> Pool:
    assets = int(size * rng.uniform(1, 2))
    limits = Limits(*(int(size * rng.uniform(0.1, 1)) for _ in range(4)))
    return VaultPool("vault", a, b, assets, int(size), limits)


KINDS: dict[str, Callable[..., Pool]] = {
    "v2": draw_v2, "v3": draw_v3, "v4": draw_v4, "weighted": draw_weighted, "vault": draw_vault
}  # fmt: skip
ROUGH = {"weighted": 2e-4}  # between the points of a curve that is not made of straight pieces


def check(chain: Chain, rng: random.Random, reach: float, within: float) -> int:
    """Compare the curve with exact sales and purchases at random amounts; how many there were."""
    curve = chain.curve(reach)
    assert np.all(np.diff(curve[:, LOW]) >= 0)
    assert np.all(curve[:-1, HIGH] >= curve[:-1, LOW])
    assert np.all(curve[:-1, HIGH] <= curve[1:, LOW] * (1 + 1e-12))
    compared = 0
    for row, following in pairwise(curve):
        width = following[X] - row[X]
        if width < 10**6 or row[X] > 1e30:
            continue
        put = width * min(rng.uniform(0, 1), 1e20 / width)
        level = row[LOW] + put * (row[HIGH] - row[LOW]) / width
        x, y = row[X] + put, row[Y] + put / (row[LOW] * level)
        if min(x, y) < 10**9 or y > following[Y] * (1 - 1e-9):
            continue
        sold, bought = chain.sell(int(x)), chain.buy(int(y))
        assert sold is not None
        assert sold.amount_out == pytest.approx(y, rel=within)
        if abs(put / width - 0.5) < 0.4:  # not where a step of one unit would cross into the next range
            words = (chain.gas(sold) - row[GAS]) / GAS_WORD  # passed inside the range, less ends that are ticks as well
            assert words == int(words) >= -len(curve)
        if bought is not None:  # a vault may take more than it gives
            magnified = max(level * level * y / x, 1.0)  # the price at the margin over that on average
            assert bought.amount_in == pytest.approx(x, rel=within * magnified)
        compared += 1
    return compared


@pytest.mark.parametrize("kind", KINDS)
def test_a_pools_curve_is_what_it_quotes(kind: str) -> None:
    """At random amounts in every piece, both ways, near and far."""
    rng = random.Random(f"{SEED}/{kind}")
    compared = 0
    for number in range(40):
        pool = KINDS[kind](rng, number + 1, A, B, rng.randint(-20_000, 20_000), 10 ** rng.uniform(18, 24))
        for zero_for_one in (True, False):
            for reach in (1.1, 2.0):
                compared += check(Chain((Leg(pool, zero_for_one),)), rng, reach, ROUGH.get(kind, 1e-6))
    sys.stdout.write(f"seed {SEED}: {compared} amounts\n")
    assert compared > 60


def test_a_paths_curve_is_what_its_pools_quote() -> None:
    """Over two pools, or three, of any kind whose curves are exact."""
    rng = random.Random(f"{SEED}/paths")
    compared = 0
    for _ in range(120):
        tokens = [A, B, C, TOKENS[3]][: rng.choice((3, 4))]
        legs = []
        for number, (one, other) in enumerate(pairwise(tokens)):
            kind = rng.choice(("v2", "v3", "v4", "vault"))
            pool = KINDS[kind](rng, number + 1, one, other, rng.randint(-2_000, 2_000), 10 ** rng.uniform(20, 23))
            legs.append(Leg(pool, pool.token0 == one))
        flat = sum(leg.pool.fixed_rate for leg in legs)  # whose level is made to rise, by a millionth
        compared += check(Chain(tuple(legs)), rng, rng.choice((1.1, 2.0)), 1e-6 + 2.1e-6 * flat)
    sys.stdout.write(f"seed {SEED}: {compared} amounts\n")
    assert compared > 200


def test_a_curve_grows_with_its_reach() -> None:
    """Further pieces are appended; the first ones stay, though the ladder behind a pool has grown meanwhile."""
    rng = random.Random(f"{SEED}/reach")
    for number in range(20):
        pool = draw_v3(rng, number + 1, A, B, 0, 1e21)
        near, far = pool.curve(True, 1.05).copy(), pool.curve(True, 4.0)
        assert len(far) >= len(near)
        np.testing.assert_allclose(far[: len(near) - 1], near[:-1], rtol=1e-9)
        assert pool.curve(True, 1.01) is far
