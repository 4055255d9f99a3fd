"""How long a plan takes with 12 pools and 6 pairs, beside what its quotes alone cost in the same run."""

from __future__ import annotations

from random import Random
from time import perf_counter

from keeper.model import Address, Route
from keeper.ports import Quoter
from keeper.strategy.planner import Planner, PlannerSettings
from tests.support.strategy_fakes import NATIVE, NONE
from tests.support.strategy_markets import real_world


class Clock:
    """A quoter that counts trades and adds up the time they take."""

    def __init__(self, quoter: Quoter, spent: list[float]) -> None:
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

    def spot(self, one: Address, other: Address) -> tuple[int, int] | None:
        return self._quoter.spot(one, other)


def main(cases: int = 200, seed: int = 1) -> None:
    """Print quantiles over random worlds: the best of three, after one that warms the pools as in a running keeper."""
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
        plans.append(took)
        quotes.append(sum(spent))
        counts.append(len(spent))
    print(f"plan, 12 pools, 6 pairs, {cases} worlds (seed {seed}); ms, of which quotes, and number of quotes:")
    for share in (50, 75, 90, 95, 99):
        place = cases * share // 100
        ms, of_quotes = sorted(plans)[place] * 1e3, sorted(quotes)[place] * 1e3
        print(f"  p{share}: {ms:7.2f} ms  {of_quotes:7.2f} ms  {sorted(counts)[place]:4d}")


if __name__ == "__main__":
    main()
