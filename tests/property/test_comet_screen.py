"""The float screen never lets a liquidatable account slip, and the store front's terms are the contract's."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from keeper.model import WAD, Address, Token
from keeper.protocols import sweep
from keeper.protocols.compound_v3 import snapshot, weights
from keeper.protocols.compound_v3.arithmetic import INDEX, Curve, Offer, accrued, utilisation
from keeper.protocols.compound_v3.contract import Totals
from keeper.protocols.compound_v3.health import Valuation
from keeper.protocols.compound_v3.ledger import Ledger
from keeper.protocols.compound_v3.market import Asset, Market
from keeper.protocols.compound_v3.state import State
from keeper.protocols.sweep import Sweep

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "4715"))
NOW = 1_800_000_000


def name(number: int) -> Address:
    return Address(f"0x{number:040x}")


def random_valuation(dice: random.Random) -> Valuation:
    """Up to 24 assets of 0 to 18 decimals, from worthless to precious; indices from one to far above."""
    base = Token(name(999), "BASE", dice.choice((6, 8, 18)))
    assets = []
    prices: dict[Address, int | None] = {base.address: dice.choice((10**8, 99_990_000, 3_000 * 10**8))}
    for number in range(dice.randint(1, 24)):
        decimals = dice.choice((0, 6, 8, 18, 18))
        token = Token(name(1_000 + number), f"T{number}", decimals)
        liquidate = dice.randrange(1_000, 9_700) * 10**14
        assets.append(Asset(number, token, name(5_000 + number), 10**decimals, liquidate, liquidate + 2 * 10**16))
        prices[token.address] = dice.choice((1, 10**3, 10**8, 3_000 * 10**8, 10**13))
    curve = Curve(9 * WAD // 10, dice.randrange(10**10), dice.randrange(10**12), dice.randrange(10**9))
    market = Market(
        comet=name(1),
        base=base,
        base_feed=name(2),
        base_scale=10**base.decimals,
        supply_curve=curve,
        borrow_curve=curve,
        front_factor=WAD // 2,
        target_reserves=0,
        assets=tuple(assets),
        partial=False,
        by_asset={asset.token.address: asset for asset in assets},
    )
    totals = Totals(
        INDEX + dice.randrange(INDEX), INDEX + dice.randrange(4 * INDEX), 10**30, dice.randrange(10**30),
        NOW - dice.randrange(10**6), 0,
    )  # fmt: skip
    return Valuation(market, State(totals, 0, prices), NOW)


def test_no_liquidatable_account_slips() -> None:
    """With debts driven to within a unit of the threshold, everybody whose exact factor is below one is screened."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    close = below = passed = 0
    for _ in range(12):
        valuation = random_valuation(dice)
        market, ledger = valuation.market, Ledger(4)
        for number in range(60):
            user = ledger.user(name(number + 10_000))
            for asset in dice.sample(market.assets, dice.randint(1, len(market.assets))):
                price = valuation.price(asset.token.address)
                assert price is not None
                amount = 10 ** dice.randrange(2, 17) * asset.scale // price + dice.randrange(3)
                if amount:
                    ledger.move(user, asset.token.address, min(amount, 2**120))
            principal = _edge(valuation, list(ledger.holdings(user))) + dice.choice((-1, 0, 0, 1, 2, 10**6))
            if 0 < principal < 2**103:
                ledger.set_principal(user, -principal)
        screened = set(Sweep(ledger.weights).below(valuation.factors(ledger.slots), valuation.screen_slack).tolist())
        for user in ledger.borrowers().tolist():
            health = valuation.health(ledger.principals[user], ledger.holdings(user))
            assert health is not None
            below += health.factor < WAD
            close += abs(health.factor - WAD) < 10**9
            assert health.factor >= WAD or user in screened, f"{health} slipped"
        passed += len(screened)
    print(f"{below} liquidatable, {close} within 1e-9 of the threshold, {passed} screened")
    assert close > 100
    assert below > 100


@pytest.mark.parametrize("cached", [0, 1 << 14])
def test_what_changed_is_all_that_has_to_be_looked_at(monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    """Through new accounts, undone blocks, storing, entries laid out anew and prices that drift, jump and vanish, the
    screen is that of everybody's exact numbers weighed at once; and most of the time hardly anybody is touched."""
    monkeypatch.setattr(weights, "_SCATTERED", 40)
    monkeypatch.setattr(sweep, "_CACHED", cached)
    dice = random.Random(SEED + 2)
    ledger, number, found, swept = Ledger(16), 0, 0, 0
    screen = Sweep(ledger.weights)
    assets = [name(1_000 + number) for number in range(6)]
    price, index = [10.0 ** dice.uniform(-10, -6) for _ in assets], 1.0
    for step in range(400):
        if number > 8 and dice.random() < 0.1:
            number -= dice.randrange(1, 5)
            ledger.back(number)
        elif dice.random() < 0.02:
            stored = snapshot.dump(ledger, {})
            snapshot.load(ledger, stored)
            number = 0
        number += 1
        ledger.begin(number)
        for _ in range(dice.randrange(8)):
            user = ledger.user(name(dice.randrange(1, 50 + 2 * step)))
            asset = dice.choice(assets)
            held = dict(ledger.holdings(user)).get(asset, 0)
            ledger.move(user, asset, dice.choice((10 ** dice.randrange(5, 10), -held, -(held // 3))))
            ledger.set_principal(user, dice.choice((0, 1, -1, -1)) * 10 ** dice.randrange(1, 5))
        index *= 1 + dice.random() * sweep.DRIFT / 3
        if dice.random() < 0.2:
            price[dice.randrange(len(assets))] *= dice.uniform(0.7, 1.3)
        known = [dice.random() < 0.99 for _ in assets]
        factors = np.zeros(weights.KINDS)
        factors[weights.kind(weights.DEBT)] = -index * 1e-2
        for asset, slot in ledger.slots.items():
            factors[weights.kind(slot)] = price[assets.index(asset)] * known[assets.index(asset)]
        before = screen.touched
        below = screen.below(factors, 10.0).tolist()
        swept += screen.touched - before >= len(ledger.names)
        expected = {}
        for user in ledger.borrowers().tolist():
            worth = sum(amount * factors[weights.kind(ledger.slots[a])] for a, amount in ledger.holdings(user))
            expected[user] = float(worth + ledger.principals[user] * index * 1e-2)
        sure = {user for user, balance in expected.items() if balance < 10.0 - 1e-6}
        assert sure <= set(below) <= {user for user, balance in expected.items() if balance < 10.0 + 1e-6}
        assert below == sorted(below)
        found += len(below)
    print(f"{found} below, everybody was swept {swept} times of 400")
    assert found > 1_000
    assert swept < 50 or not cached


def _edge(valuation: Valuation, holdings: list[tuple[Address, int]]) -> int:
    """The largest principal owed at which the account is healthy."""
    low, high = 0, 2**103
    while low < high:
        middle = (low + high + 1) // 2
        health = valuation.health(-middle, holdings)
        assert health is not None
        if health.factor >= WAD:
            low = middle
        else:
            high = middle - 1
    return low


def test_the_most_and_the_least_of_an_offer() -> None:
    """`least` is the least payment that buys anything; `most` buys all there is, or the most that is not too much."""
    dice = random.Random(SEED)
    for _ in range(3_000):
        offer = Offer(
            dice.randrange(1, 10 ** dice.randrange(1, 13)),
            dice.randrange(1, 10 ** dice.randrange(1, 13)),
            10 ** dice.choice((6, 8, 18)),
            10 ** dice.choice((0, 2, 6, 8, 18)),
        )
        reserves = dice.randrange(1, 10 ** dice.randrange(1, 26))
        least, most = offer.least(), offer.most(reserves)
        assert offer.quote(least) > 0
        assert offer.quote(least - 1) == 0
        assert offer.quote(most) <= reserves
        assert offer.quote(most) == reserves or offer.quote(most + 1) > reserves
        assert offer.quote(most - 1) < reserves


def test_rates_and_indices_at_their_edges() -> None:
    """Nothing supplied, nothing elapsed, and both sides of the kink."""
    curve = Curve(8 * WAD // 10, 10**9, 10**11, 5)
    assert curve.rate(0) == 5
    assert curve.rate(8 * WAD // 10) == 5 + 8 * 10**8
    assert curve.rate(WAD) == 5 + 8 * 10**8 + 2 * 10**10
    empty = Totals(INDEX, INDEX, 0, 0, NOW, 0)
    assert utilisation(empty) == 0
    assert accrued(empty, curve, curve, NOW) == (INDEX, INDEX)
    assert accrued(empty, curve, curve, NOW - 5) == (INDEX, INDEX)
    used = Totals(INDEX, INDEX, 100, 80, NOW, 0)
    grown = INDEX + INDEX * (5 + 8 * 10**8) * 1_000 // WAD
    assert accrued(used, curve, curve, NOW + 1_000) == (grown, grown)
