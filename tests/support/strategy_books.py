"""Several positions that share pools, planned behind one another: a replanner over fakes, and every order tried."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from keeper.model import Account, Address, FeeQuote, Plan
from keeper.ports import Liquidation, Pair, Position
from keeper.program import Guard
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.planner import Planner, PlannerSettings
from keeper.strategy.sequence import Sequence as Order
from keeper.strategy.sequence import Taken
from keeper.strategy.wake import Wake
from tests.support.strategy_fakes import BTC, GOV, HEAD, NATIVE, USD, FakePair, FakeQuoter, FakeSource, Pool
from tests.support.strategy_fakes import pool as make_pool
from tests.support.strategy_worlds import log_uniform, random_pair

GUARD = Guard(Address("0x" + "90" * 20), b"alive", 1, 1)


@dataclass
class FakeScene:
    """Positions by (market, borrower) over constant-product pools; satisfies `sequence.Replanner`.

    What the plans before have seized of a collateral is missing in the market, which has `available` of it.
    """

    positions: Sequence[Position]
    quoter: FakeQuoter
    fees: FeeQuote
    sources: tuple[FakeSource, ...] = ()
    available: dict[tuple[str, Address], int] = field(default_factory=dict)
    planned: int = 0
    floor: int = 0  # wei

    @property
    def wake(self) -> Wake:
        return Wake(self.quoter, self.sources)

    def alone(self) -> list[Opportunity]:
        return [self._plan(position, self.wake) for position in self.positions]

    def again(self, one: Opportunity, wake: Wake) -> Opportunity | None:
        position = self.left(one.position, wake.plans)
        return None if position is None else self._plan(position, wake)

    def stands(self, one: Opportunity, wake: Wake) -> bool:
        position = self.left(one.position, wake.plans)
        return position is not None and position.pairs == one.position.pairs

    def left(self, position: Position, plans: Sequence[Plan]) -> Position | None:
        """The position behind plans: none of it when one of them takes it."""
        mine = [plan for plan in plans if plan.market == position.market]
        if any(position.account.borrower in (plan.borrower, *plan.others) for plan in mine):
            return None
        pairs: list[Pair] = []
        for pair in position.pairs:
            assert isinstance(pair, FakePair)
            have = self.available.get((position.market, pair.collateral.address))
            if have is not None:
                have -= sum(p.seizure.seized for p in mine if p.collateral == pair.collateral)
                most = pair.feasible[-1][1]
                while most and pair.seize(most).seized > have:
                    most = most * 9 // 10
                pair = replace(pair, feasible=((1, most),) if most else ())
            pairs.append(pair)
        return replace(position, pairs=tuple(pairs))

    def _plan(self, position: Position, wake: Wake) -> Opportunity:
        self.planned += 1
        planner = Planner(PlannerSettings(NATIVE.address))
        choice = planner.plan(position, wake.quoter, wake.lenders(), self.fees)
        way = None if choice.plan is None else Liquidation((GUARD,), (), 0)
        return Opportunity(position, choice, (), way)


def run(scene: FakeScene, renewals: int = 64) -> Order:
    """The sequence of everything, to its end."""
    order = Order(scene.alone(), scene, renewals)
    for _ in order.steps():
        pass
    return order


def total(taken: Sequence[Taken]) -> int:
    """Wei."""
    return sum(one.plan.net for one in taken)


def every_order(scene: FakeScene) -> dict[tuple[int, ...], int]:
    """What the plans earn together in each order, each made behind those before it; whoever cannot earn is left out."""
    found = {}
    for order in itertools.permutations(range(len(scene.positions))):
        wake, earned = scene.wake, 0
        for place in order:
            left = scene.left(scene.positions[place], wake.plans)
            plan = None if left is None else _plan_of(scene, left, wake)
            if plan is not None:
                wake, earned = wake.after(plan), earned + plan.net
        found[order] = earned
    return found


def _plan_of(scene: FakeScene, position: Position, wake: Wake) -> Plan | None:
    planner = Planner(PlannerSettings(NATIVE.address))
    return planner.plan(position, wake.quoter, wake.lenders(), scene.fees).plan


FALL = ((USD, NATIVE), (USD, BTC), (NATIVE, BTC), (USD, GOV), (NATIVE, GOV))
ANY = ((USD, NATIVE), (USD, BTC), (NATIVE, BTC), (USD, GOV), (BTC, NATIVE), (GOV, USD))


def random_scene(rng: Random, count: int, *, fall: bool = True) -> FakeScene:
    """A few pools that everybody needs, in one or two markets; sizes from a fraction of a pool to several pools.

    In a `fall` what is volatile is sold for what is less so; else trades go both ways.
    """
    pools: dict[Address, Pool] = {}
    for number, (first, second) in enumerate(((NATIVE, USD), (NATIVE, BTC), (NATIVE, GOV), (USD, BTC), (NATIVE, USD))):
        if number < 3 or rng.random() < 0.6:
            made = make_pool(number, first, second, log_uniform(rng, 100_000, 20_000_000), rng.choice((5, 30, 30, 100)))
            pools[made.address] = made
    gas_price = log_uniform(rng, 10**8, 5 * 10**10)
    tip = gas_price // 10
    positions = []
    for number in range(count):
        debt, collateral = rng.choice(FALL if fall else ANY)
        pairs = [random_pair(rng, debt, collateral, log_uniform(rng, 3_000, 3_000_000))]
        if rng.random() < 0.4:
            pairs.append(random_pair(rng, USD, rng.choice((NATIVE, BTC, GOV)), log_uniform(rng, 3_000, 1_000_000)))
        account = Account(Address(f"0x{0xB000 + number:040x}"), 98 * 10**16, 10**12, 9 * 10**11)
        positions.append(
            Position(rng.choice(("one", "two")), account, HEAD, HEAD.timestamp + 12, 10**8, 2_000 * 10**8, tuple(pairs))
        )
    return FakeScene(positions, FakeQuoter(pools, gas_price), FeeQuote(gas_price - tip, tip))
