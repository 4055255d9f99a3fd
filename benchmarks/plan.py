"""How long a plan takes with 12 pools and 6 pairs, beside what its quotes alone cost in the same run."""

from __future__ import annotations

from random import Random
from time import perf_counter

from benchmarks.measure import Row, quantile
from keeper.model import Address, Route
from keeper.strategy.planner import Planner, PlannerSettings
from keeper.venues.router import Router
from tests.support.strategy_fakes import NATIVE, NONE
from tests.support.strategy_markets import real_world


class Clock:
    """The router, except that it counts trades and adds up the time they take."""

    def __init__(self, quoter: Router, spent: list[float]) -> None:
        self._quoter = quoter
        self._spent = spent

    def _timed(self, route: Route | None, start: float) -> Route | None:
        self._spent.append(perf_counter() - start)
        return route

    def sell(self, one: Address, other: Address, amount: int, avoid: frozenset[Address] = NONE) -> Route | None:
        start = perf_counter()
        return self._timed(self._quoter.sell(one, other, amount, avoid), start)

    def buy(self, one: Address, other: Address, amount: int, avoid: frozenset[Address] = NONE) -> Route | None:
        start = perf_counter()
        return self._timed(self._quoter.buy(one, other, amount, avoid), start)

    def after(self, route: Route) -> Clock:
        return Clock(self._quoter.after(route), self._spent)

    def again(self, route: Route) -> Route | None:
        start = perf_counter()
        return self._timed(self._quoter.again(route), start)

    def spot(self, one: Address, other: Address) -> tuple[int, int] | None:
        return self._quoter.spot(one, other)


def run(cases: int = 200, seed: int = 1) -> list[Row]:
    """Quantiles over random worlds: the best of three, after one that warms the pools as in a running keeper."""
    planner = Planner(PlannerSettings(NATIVE.address))
    plans: list[float] = []
    quotes: list[float] = []
    counts: list[int] = []
    for case in range(cases):
        world = real_world(Random(f"{seed}/{case}"))
        router = world.quoter.router
        runs: list[tuple[float, list[float]]] = []
        for _ in range(4):
            fresh, spent = router.priced(world.fees.price), list[float]()
            start = perf_counter()
            planner.plan(world.position, Clock(fresh, spent), world.sources, world.fees)
            runs.append((perf_counter() - start, spent))
        took, spent = min(runs[1:], key=lambda run: run[0])
        plans.append(took * 1e3)
        quotes.append(sum(spent) * 1e3)
        counts.append(len(spent))
    rows = []
    for share in (0.5, 0.75, 0.9, 0.95, 0.99):
        most = quantile(plans, share)
        note = f"{quantile(quotes, share):.2f} ms and {quantile([float(c) for c in counts], share):.0f} quotes"
        rows.append(
            Row("plan", f"12 pools, 6 pairs, p{share * 100:.0f}", most, "ms",
                target="≤ 5 ms, ≥ 99.9 % of brute force" if share == 0.5 else "",
                reached=most <= 5.0 if share == 0.5 else None,
                note=f"{cases} worlds, seed {seed}; {note}")
        )  # fmt: skip
    return rows
