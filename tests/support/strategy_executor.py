"""A toy executor: runs a plan as balances move on chain, with pools that re-derive every amount and can be locked."""

from __future__ import annotations

from collections import Counter

from keeper.model import Address, Path, Plan, Route
from tests.support.strategy_fakes import Pool


class ToyExecutor:
    """Carries one plan out. Every amount a pool moves is computed from its own reserves, not taken from the plan."""

    def __init__(self, pools: dict[Address, Pool]) -> None:
        self.pools = dict(pools)
        self.locked: set[Address] = set()
        self.balances: Counter[Address] = Counter()

    def run(self, plan: Plan) -> int:
        """The growth of the executor's balance of the profit token; fails where the chain would revert."""
        if plan.loan is None:
            assert plan.buy is not None, "a flash swap needs something to swap"
            owed = self._take(plan.buy)
            assert sum(path.amount_out for path in plan.buy.paths) == plan.budget
            self._liquidate(plan)
            self._settle(owed)
            self._sell(plan)
        else:
            loan = plan.loan
            assert loan.token == plan.debt.address
            assert loan.amount == plan.budget
            self.locked |= loan.locks
            self.balances[loan.token] += loan.amount
            self._liquidate(plan)
            inside = plan.buy is None and plan.sell is not None and plan.sell.token_out == loan.token
            if plan.buy is not None:
                self._settle(self._take(plan.buy))
            if inside:
                self._sell(plan)
            self._spend(loan.token, loan.amount + loan.premium)
            self.locked -= loan.locks
            if not inside:
                self._sell(plan)
        assert not self.locked
        return self.balances[plan.profit_token]

    def _spend(self, token: Address, amount: int) -> None:
        assert self.balances[token] >= amount, f"{amount - self.balances[token]} of {token} are missing"
        self.balances[token] -= amount

    def _liquidate(self, plan: Plan) -> None:
        self._spend(plan.debt.address, plan.seizure.repaid)
        self.balances[plan.collateral.address] += plan.seizure.seized

    def _take(self, route: Route) -> list[tuple[Path, list[int]]]:
        """Every path hands out its last token before it is paid; what each pool is owed, from its reserves."""
        owed: list[tuple[Path, list[int]]] = []
        for path in route.paths:
            bill: list[int] = []
            wanted = path.amount_out
            for hop in reversed(path.hops):
                assert hop.pool not in self.locked, f"{hop.pool} is locked"
                pool = self.pools[hop.pool]
                needed = pool.into(hop.token_in, wanted)
                assert needed is not None
                self.pools[hop.pool] = pool.traded(hop.token_in, needed, wanted)
                self.locked.add(hop.pool)
                bill.insert(0, needed)
                wanted = needed
            self.balances[route.token_out] += path.amount_out
            owed.append((path, bill))
        return owed

    def _settle(self, owed: list[tuple[Path, list[int]]]) -> None:
        for path, bill in owed:
            self._spend(path.hops[0].token_in, bill[0])
            self.locked -= {hop.pool for hop in path.hops}

    def _sell(self, plan: Plan) -> None:
        """Path after path, the last one selling all that is there but the unspent budget."""
        if plan.sell is None:
            return
        kept = 0 if plan.debt.address == plan.collateral.address else plan.budget - plan.seizure.repaid
        for number, path in enumerate(plan.sell.paths, start=1):
            token = path.hops[0].token_in
            last = number == len(plan.sell.paths)
            given = self.balances[token] - (kept if token == plan.debt.address else 0) if last else path.amount_in
            for hop in path.hops:
                assert hop.pool not in self.locked, f"{hop.pool} is locked"
                pool = self.pools[hop.pool]
                self._spend(hop.token_in, given)
                out = pool.out(hop.token_in, given)
                self.pools[hop.pool] = pool.traded(hop.token_in, given, out)
                self.balances[hop.token_out] += out
                given = out
