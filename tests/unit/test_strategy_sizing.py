"""The search for the best amount, on curves whose best is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from keeper.strategy.sizing import Curve, Score, maximise

pytestmark = pytest.mark.unit

TOP = 10**24


def hill(best: int, height: int = 10**18, cost: int = 0) -> Callable[[int], int]:
    """A parabola through (0, −cost) with its top at `best`."""
    return lambda x: height * (2 * best * x - x * x) // (best * best) - cost


def curve(
    net: Callable[[int], int | None],
    domain: Sequence[tuple[int, int]] = ((1, TOP),),
    ceiling: int | None = None,
    cost: int = 0,
    asked: list[int] | None = None,
    slope: Callable[[int], float] | None = None,
) -> Curve[int]:
    def look(amount: int) -> tuple[int, int, bool, float | None, int] | None:
        assert any(low <= amount <= high for low, high in domain), f"{amount} is in a hole"
        if asked is not None:
            asked.append(amount)
        found = net(amount)
        return None if found is None else (found, cost, False, slope and slope(amount), amount)

    score: Score[int] = look
    return Curve(domain, score, ceiling, cost)


def best_of(curves: Sequence[Curve[int]], limit: int = 200) -> tuple[int, int]:
    winner = maximise(curves, tolerance_bps=4, limit=limit)
    assert winner is not None
    assert winner.best is not None
    return winner.best


@pytest.mark.parametrize("share", [10**-4, 0.01, 0.3, 0.77, 0.999])
def test_a_top_inside_is_found_within_the_tolerance_in_few_trials(share: float) -> None:
    """Wherever the top lies, four parts in ten thousand are enough, in at most 40 trials."""
    top = int(TOP * share)
    asked: list[int] = []
    net, _ = best_of([curve(hill(top), ceiling=2 * TOP * 10**18 // top, asked=asked)])
    assert net * 10_004 >= 10**18 * 10_000
    assert len(asked) <= 40
    assert len(set(asked)) == len(asked)


def test_a_curve_that_still_rises_at_its_end_costs_two_trials() -> None:
    """The end, and a neighbour that shows the rise: nothing else can be better."""
    asked: list[int] = []
    assert best_of([curve(lambda x: x, ceiling=TOP, asked=asked)]) == (TOP, TOP)
    assert len(asked) <= 2


def test_tangents_take_the_place_of_trials() -> None:
    """A curve known to rise at its end is tried there only; a top inside takes fewer trials than with chords alone."""
    asked: list[int] = []
    assert best_of([curve(lambda x: x, ceiling=2 * TOP, asked=asked, slope=lambda x: 1.0)]) == (TOP, TOP)
    assert asked == [TOP]
    chords: list[int] = []
    tangents: list[int] = []
    for share in range(5, 100, 7):
        top = TOP * share // 100

        def steepness(x: int, top: int = top) -> float:
            return 2 * 10**18 * (top - x) / top**2

        for seen, slope in ((chords, None), (tangents, steepness)):
            net, _ = best_of([curve(hill(top), ceiling=2 * TOP * 10**18 // top, asked=seen, slope=slope)])
            assert net * 10_004 >= 10**18 * 10_000
    assert len(tangents) * 10 < len(chords) * 9


def test_holes_are_never_tried_and_their_edges_are() -> None:
    """With the top in a gap the better edge wins, exactly."""
    net = hill(TOP // 2)
    low, high = TOP * 4 // 10, TOP * 7 // 10
    assert best_of([curve(net, ((1, low), (high, TOP)), 4 * 10**18)]) == (net(low), low)
    low = TOP * 2 // 10
    assert best_of([curve(net, ((1, low), (high, TOP)), 4 * 10**18)]) == (net(high), high)
    assert best_of([curve(net, ((1, 5), (high, high)), 4 * 10**18)]) == (net(high), high)


def test_what_is_impossible_above_a_depth_is_used_up_to_it() -> None:
    """The largest possible amount is found to a thousandth where the curve rises up to it."""
    depth = TOP // 37
    net, amount = best_of([curve(lambda x: x if x <= depth else None, ceiling=TOP)])
    assert net == amount
    assert depth * 999 // 1_000 <= amount <= depth


def test_amounts_too_small_to_trade_do_not_hide_larger_ones() -> None:
    """An impossible amount below a possible one rules out what is smaller, nothing else."""
    top = TOP // 5
    net, _ = best_of([curve(lambda x: hill(top)(x) if x > TOP // 50 else None, ceiling=10 * 10**18)])
    assert net * 10_004 >= 10**18 * 10_000


def test_curves_that_cannot_win_are_not_tried() -> None:
    """A ceiling below the best, or not above zero, costs no trial; without ceiling there is no way around."""
    beaten: list[int] = []
    hopeless: list[int] = []
    unknown: list[int] = []
    curves = [
        curve(lambda x: x, ceiling=TOP),
        curve(lambda x: x // 2, ceiling=TOP // 2, asked=beaten),
        curve(lambda x: -x, ceiling=0, asked=hopeless),
        curve(lambda x: x // 3, ceiling=None, asked=unknown),
    ]
    assert best_of(curves)[0] == TOP
    assert (beaten, hopeless) == ([], [])
    assert unknown


def test_a_grid_finds_the_better_of_two_tops_where_gas_matters() -> None:
    """A second route that costs gas makes a second top; the lower amounts are looked at although the end rises."""
    near = hill(TOP // 8, 10**18, cost=10**17)
    net, amount = best_of([curve(lambda x: max(near(x), x * 10**17 // TOP), ceiling=16 * 10**18, cost=10**17)])
    assert net * 1_000 >= 9 * 10**17 * 999
    assert amount < TOP // 4


def test_the_limit_holds() -> None:
    """A search that is not allowed more trials gives the best so far."""
    asked: list[int] = []
    best_of([curve(hill(TOP // 3), ceiling=10**19, asked=asked)], limit=3)
    assert len(asked) == 3


def test_nothing_possible_has_no_winner() -> None:
    """None, and no endless search, when every amount is impossible; and for an empty domain."""
    assert maximise([curve(lambda x: None, ceiling=TOP)], tolerance_bps=4, limit=200) is None
    assert maximise([curve(lambda x: x, (), TOP)], tolerance_bps=4, limit=200) is None
    assert maximise([], tolerance_bps=4, limit=200) is None
