"""The float screen never lets a liquidatable borrower slip, however close the call."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from keeper.maths.wad_ray import RAY
from keeper.model import WAD, ZERO_ADDRESS, Address, Token
from keeper.protocols.aave_v3.health import SCREEN_MARGIN, Valuation
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Category, Market, Reserve, State
from keeper.protocols.aave_v3.rules import RULES
from keeper.rewind import Rewind

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "4711"))
NOW = 1_800_000_000


def name(number: int) -> Address:
    return Address(f"0x{number:040x}")


def random_market(dice: random.Random, revision: int) -> tuple[Market, dict[int, State], dict[Address, int | None]]:
    """Reserves of 0 to 27 decimals, from worthless to precious, some with indices far above one."""
    reserves: dict[int, Reserve] = {}
    states: dict[int, State] = {}
    prices: dict[Address, int | None] = {}
    for number in range(dice.randint(2, 8)):
        decimals = dice.choice((0, 2, 6, 8, 18, 18, 18, 27))
        config = dice.randrange(1, 9_700) << 16 | 10_500 << 32 | decimals << 48 | 1 << 56
        if not RULES[revision].liquid_emodes:
            config |= dice.choice((0, 1, 2)) << 168
        token = Token(name(1_000 + number), f"T{number}", decimals)
        reserves[number] = Reserve(number, token, ZERO_ADDRESS, ZERO_ADDRESS, None, config | 1 << 252, 0, 0)
        prices[token.address] = dice.choice((1, 10**3, 10**8, 10**8, 3_000 * 10**8, 10**13))
        states[number] = State(
            RAY + dice.randrange(5 * RAY),
            dice.randrange(RAY // 3),
            RAY + dice.randrange(9 * RAY),
            dice.randrange(RAY),
            NOW - dice.randrange(10**6),
        )
    categories = {}
    for number in (1, 2):
        members = sum(1 << r.id for r in reserves.values() if r.emode_category == number)
        bitmap = dice.getrandbits(len(reserves)) if RULES[revision].liquid_emodes else members
        categories[number] = Category(number, dice.randrange(8_000, 9_900), 10_100, bitmap, None)
    market = Market(
        ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS, None, revision, RULES[revision], 5, 10**8, reserves, categories
    )
    return market, states, prices


def amount_worth(valuation: Valuation, reserve: Reserve, side: int, value: int) -> int:
    """Scaled amount of about so much base currency."""
    price = valuation.price(reserve, 0) or 1
    return value * reserve.unit * RAY // (price * valuation.indices(reserve.id)[side])


@pytest.mark.parametrize("revision", [1, 5, 9, 10])  # one for each way of computing health
def test_no_liquidatable_borrower_slips(revision: int) -> None:
    """With debts driven to within a wei of the threshold, everybody whose exact factor is below one is screened."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED + revision)
    close = below = 0
    for _ in range(3):
        market, states, prices = random_market(dice, revision)
        ledger, valuation = Ledger(Rewind()), Valuation(market, states, prices, NOW)
        for number in range(90):
            user = ledger.user(name(number))
            ledger.set_emode(user, dice.choice((0, 0, 1, 2)))
            for reserve in dice.sample(list(market.reserves.values()), dice.randint(1, len(market.reserves))):
                scaled = amount_worth(valuation, reserve, SUPPLY, 10 ** dice.randrange(2, 17)) + dice.randrange(3)
                ledger.set_amount(ledger.entry(user, slot(reserve.id, SUPPLY)), min(scaled, 2**120))
                ledger.set_enabled(user, reserve.id, dice.random() < 0.8)
            tune(dice, ledger, valuation, user)
        exact, near = set(), set()
        for number in ledger.borrowers():
            health = valuation.health(ledger.supplies_and_debts(int(number)), ledger.emode[int(number)])
            assert health is not None
            if health.factor < WAD:
                exact.add(ledger.names[number])
            near |= {ledger.names[number]} if abs(health.factor - WAD) < 10**9 else set()
        factors = valuation.factors(ledger.emodes_seen)
        sums = ledger.balances(factors)
        owing = ledger.debts.live(ledger.counts[0]) > 0
        screened = {ledger.names[i] for i in np.flatnonzero(owing & (sums < valuation.screen_slack))}
        assert exact <= screened
        close, below = close + len(near), below + len(exact)
    assert close > 40  # the calls were close
    assert below > 40


def tune(dice: random.Random, ledger: Ledger, valuation: Valuation, user: int) -> None:
    """Owe in one or two reserves, the last one to the wei where the health factor passes one."""
    reserves = dice.sample(
        list(valuation.market.reserves.values()), min(dice.randint(1, 2), len(valuation.market.reserves))
    )
    for reserve in reserves[:-1]:
        entry = ledger.entry(user, slot(reserve.id, DEBT))
        ledger.set_amount(entry, amount_worth(valuation, reserve, DEBT, 10 ** dice.randrange(2, 9)) + 1)
    entry = ledger.entry(user, slot(reserves[-1].id, DEBT))
    low, high = 0, 2**120
    while low < high:
        middle = (low + high + 1) // 2
        ledger.set_amount(entry, middle)
        health = valuation.health(ledger.supplies_and_debts(user), ledger.emode[user])
        assert health is not None
        if health.factor >= WAD:
            low = middle
        else:
            high = middle - 1
    ledger.set_amount(entry, max(low + dice.choice((-1, 0, 1, 1, 1, 2)), 0))


def test_the_healthy_are_left_out() -> None:
    """A borrower a millionth above the threshold costs no exact look, unless the whole debt is dust."""
    dice = random.Random(SEED)
    token = Token(name(1_000), "T", 18)
    reserve = Reserve(0, token, ZERO_ADDRESS, ZERO_ADDRESS, None, 8_000 << 16 | 10_500 << 32 | 18 << 48, 0, 0)
    market = Market(
        ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS, None, 10, RULES[10], 5, 10**8, {0: reserve}, {}, {token.address: 0}
    )
    states = {0: State(RAY + dice.randrange(RAY), RAY // 50, RAY + dice.randrange(RAY), RAY // 20, NOW - 1_000)}
    ledger, valuation = Ledger(Rewind()), Valuation(market, states, {token.address: 3_000 * 10**8}, NOW)
    for number in range(200):
        user = ledger.user(name(number))
        scaled = amount_worth(valuation, reserve, SUPPLY, 10**15 + number)
        ledger.set_amount(ledger.entry(user, slot(reserve.id, SUPPLY)), scaled)
        ledger.set_enabled(user, reserve.id, True)
        owed = amount_worth(valuation, reserve, DEBT, (10**15 + number) * reserve.threshold // 10_000)
        ledger.set_amount(ledger.entry(user, slot(reserve.id, DEBT)), owed * 999_999 // 1_000_000)
    sums = ledger.balances(valuation.factors({0}))
    assert (sums > valuation.screen_slack).all()


def test_the_margin_covers_float_rounding() -> None:
    """The stated margin is far above what 256 rounded terms can lose."""
    unit = 2.0**-53
    assert 100 * (256 + 8) * unit < SCREEN_MARGIN
