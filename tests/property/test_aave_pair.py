"""Feasible intervals and predictions of one pair, against the call itself asked for every amount that matters."""

from __future__ import annotations

import os
import random

import pytest

from keeper.maths.wad_ray import RAY
from keeper.model import MAX_UINT256, Address, Token
from keeper.protocols.aave_v3.pair import AavePair, Ending, GasModel, Moment, Quote, Terms
from keeper.protocols.aave_v3.rules import MIN_LEFTOVER, RULES

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "99"))
USD = 10**8


def random_quotes(dice: random.Random, revision: int) -> tuple[Quote, Quote, Quote]:
    """The same pair now, at the head and late: around the $1,000 and $2,000 marks as often as not."""
    units = [10 ** dice.choice((2, 6, 8, 18)) for _ in range(2)]
    prices = [dice.choice((1, 40, 3_000, 90_000)) * USD + dice.randrange(USD) for _ in range(2)]
    debt_value = dice.choice((50, 900, 1_500, 1_999, 1_999, 2_001, 3_300, 8_000, 10**6)) * USD + dice.randrange(USD)
    collateral_value = int(debt_value * dice.choice((0.4, 0.95, 1.02, 1.05, 1.2, 2.0)))
    index = RAY + dice.randrange(RAY)
    terms = Terms(
        rules=RULES[revision],
        debt=Token(Address("0x01"), "D", 18),
        collateral=Token(Address("0x02"), "C", 18),
        debt_price=prices[0],
        collateral_price=prices[1],
        debt_unit=units[0],
        collateral_unit=units[1],
        bonus=dice.choice((10_100, 10_450, 10_500, 11_000)),
        fee=dice.choice((0, 1_000, 2_000)),
        scaled_debt=max(debt_value * units[0] * RAY // (prices[0] * index), 2),
        scaled_collateral=max(collateral_value * units[1] * RAY // (prices[1] * index), 2),
    )
    factor = dice.choice((10**18 - 1, 96 * 10**16, 95 * 10**16, 5 * 10**17))
    total = debt_value * dice.choice((1, 1, 2, 3)) + 1
    growth = dice.choice((0, 10**-9, 10**-7, 10**-4))
    quotes = []
    for step in (1, 0, 4):
        grown = index + int(index * growth * step)
        quotes.append(Quote(terms, Moment(grown, grown, total, factor)))
    return quotes[0], quotes[1], quotes[2]


def refuses(quote: Quote, cover: int) -> bool:
    """The call reverts, or takes something else than it was asked for."""
    found = quote.call(cover)
    return found is None or found.repaid != cover or found.ending is not Ending.PARTIAL


@pytest.mark.parametrize("revision", [1, 6, 9, 11])  # one for each way of liquidating
def test_feasible_amounts_are_accepted_and_nothing_larger_was_missed(revision: int) -> None:
    """Ends and random points of every interval pass now and late; just beyond an end the call refuses or takes less."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED + revision)
    holes = wholes = 0
    for _ in range(250):
        now, head, late = random_quotes(dice, revision)
        pair = AavePair(now, head, late, MAX_UINT256, GasModel(1, 0))
        last = -1
        for low, high in pair.feasible:
            assert last < low - 1 or last == -1
            assert low <= high
            last = high
            for repay in {low, high, dice.randint(low, high)}:
                seizure = pair.seize(repay)
                assert seizure.repaid == repay
                assert repay <= pair.budget(repay)
                result = late.call(pair.cover(repay))
                assert result is not None
                assert result.repaid <= pair.budget(repay)
                assert repay != pair.full or result.ending is not Ending.PARTIAL
                if pair.cover(repay) == repay and now.terms.rules.must_not_leave_dust:
                    assert head.call(repay) is not None
        whole = now.call(MAX_UINT256)
        if pair.full is not None:
            wholes += 1
            assert whole is not None
            assert whole.ending is not Ending.PARTIAL
        rules = now.terms.rules
        if pair.feasible and rules.must_not_leave_dust and len(pair.feasible) == 2:
            holes += 1
            (_, first), (second, _) = pair.feasible
            for inside in (first + 1, *(dice.randint(first + 1, second - 1) for _ in range(5 * (second > first + 1)))):
                assert any(refuses(quote, inside) for quote in (now, head, late))
    assert wholes > 20
    if RULES[revision].must_not_leave_dust:
        assert holes > 10


@pytest.mark.parametrize("revision", [1, 10, 11])
def test_every_amount_of_a_small_pair(revision: int) -> None:
    """With units of a cent, the partial interval and the whole are exactly what the call accepts, amount by amount."""
    dice = random.Random(SEED)
    for _ in range(12):
        debt_value, collateral_value = dice.randrange(500, 4_500), dice.randrange(500, 4_500)
        terms = Terms(
            RULES[revision],
            Token(Address("0x01"), "D", 2),
            Token(Address("0x02"), "C", 2),
            USD,
            USD,
            10,
            10,
            10_500,
            1_000,
            debt_value * 10,
            collateral_value * 10,
        )
        quote = Quote(terms, Moment(RAY, RAY, debt_value * USD, dice.choice((99 * 10**16, 9 * 10**17))))
        pair = AavePair(quote, quote, quote, MAX_UINT256, GasModel(1, 0))
        accepted = set()
        for cover in range(1, quote.debt + 2):
            result = quote.call(cover)
            if result is not None:
                accepted.add(result.repaid)
        offered = {repay for low, high in pair.feasible for repay in range(low, high + 1)}
        assert offered <= accepted
        # What is left out are amounts that only a larger `debtToCover` leads to, next to the whole.
        assert all(abs(repay - (pair.full or quote.cap)) <= 1 for repay in accepted - offered)


def test_available_underlying_bounds_what_is_received() -> None:
    """No offered amount makes the pool send more than it has."""
    dice = random.Random(SEED)
    for _ in range(300):
        now, head, late = random_quotes(dice, dice.choice((1, 10, 11)))
        available = dice.randrange(now.collateral * 2)
        pair = AavePair(now, head, late, available, GasModel(1, 0))
        for interval in pair.feasible:
            for repay in interval:
                assert pair.seize(repay).seized <= available


def test_the_leftover_is_what_the_protocol_asks_for() -> None:
    """The largest partial repay of a dust-ruled pair leaves $1,000 on both sides, and one unit more would not."""
    dice = random.Random(SEED)
    seen = 0
    for _ in range(400):
        now, _, _ = random_quotes(dice, 10)
        largest = now.largest_partial(MAX_UINT256)
        if not 0 < largest < now.cap:
            continue
        seen += 1
        terms = now.terms
        left = (now.debt - largest) * terms.debt_price // terms.debt_unit
        rest = (now.collateral - now.asked(largest)) * terms.collateral_price // terms.collateral_unit
        assert min(left, rest) >= MIN_LEFTOVER - 1
        beyond = now.call(largest + 1)
        assert beyond is None or beyond.ending is not Ending.PARTIAL
    assert seen > 50


def test_from_ample_on_it_does_not_matter_how_much_is_available() -> None:
    """The same intervals, budgets and amounts as with everything there is."""
    dice = random.Random(SEED + 1)
    fewer = 0
    for _ in range(300):
        quotes = random_quotes(dice, dice.choice((1, 6, 10, 11)))
        endless = AavePair(*quotes, MAX_UINT256, GasModel(1, 0))
        ample = AavePair(*quotes, endless.ample, GasModel(1, 0))
        assert (ample.feasible, ample.full) == (endless.feasible, endless.full)
        for repay in [end for interval in ample.feasible for end in interval]:
            assert (ample.seize(repay), ample.budget(repay)) == (endless.seize(repay), endless.budget(repay))
        fewer += AavePair(*quotes, endless.ample // 2, GasModel(1, 0)).feasible != endless.feasible
    assert fewer > 100
