"""The best liquidation by trying everything: pairs × fine amounts × fundings × routes. Slow on purpose, and naive."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keeper.model import Address, FlashOffer, Route
from tests.support.strategy_fakes import NATIVE, NONE, FakePair
from tests.support.strategy_worlds import OpenQuoter, World

SHARES = 16


@dataclass(frozen=True)
class Found:
    net: int
    pair: FakePair
    repay: int
    loan: FlashOffer | None
    kind: str


def amounts(pair: FakePair, fine: int) -> list[int]:
    """Ends of every interval, a geometric ladder from the top and a linear one."""
    end = pair.feasible[-1][1]
    wanted = {int(end * 0.8**step) for step in range(fine)} | {end * step // fine for step in range(1, fine + 1)}
    wanted |= {edge for interval in pair.feasible for edge in interval}
    return sorted(repay for repay in wanted if repay > 0 and pair.accepts(repay))


def fundings(world: World[Any], pair: FakePair, repay: int) -> Iterator[tuple[str, FlashOffer | None]]:
    same, native = pair.debt == pair.collateral, pair.debt == NATIVE
    if not same:
        yield "swap", None
    for source in world.sources:
        for offer in source.offers(pair.debt.address, pair.budget(repay)):
            if same:
                yield "same", offer
            else:
                yield "two", offer
                if native:
                    yield "one", offer


def buys(quoter: OpenQuoter, pair: FakePair, owed: int, loan: FlashOffer | None, *, all_routes: bool) -> list[Route]:
    """The quoter's own route, or the better ones of a grid of splits as well."""
    avoid = loan.locks if loan else NONE
    route = quoter.buy(pair.collateral.address, pair.debt.address, owed, avoid)
    found = [route] if route else []
    if all_routes:
        lines = quoter.lines(pair.collateral.address, pair.debt.address, avoid)
        grid = list(splits(quoter, lines, pair.collateral.address, owed, exact_out=True))
        cost = {id(r): r.amount_in + quoter.gas_in(pair.collateral.address, r.gas) for r in grid}
        found += sorted(grid, key=lambda r: cost[id(r)])[:16]
    return found


def sales(
    quoter: OpenQuoter, pair: FakePair, given: int, avoid: frozenset[Address], *, all_routes: bool
) -> list[Route]:
    route = quoter.sell(pair.collateral.address, NATIVE.address, given, avoid)
    found = [route] if route else []
    if all_routes:
        lines = quoter.lines(pair.collateral.address, NATIVE.address, avoid)
        found += splits(quoter, lines, pair.collateral.address, given, exact_out=False)
    return found


def splits(
    quoter: OpenQuoter, lines: Sequence[Any], token_in: Address, amount: int, *, exact_out: bool
) -> Iterator[Route]:
    """Single paths, and every two paths without a common pool in sixteenths."""
    shared: list[list[tuple[Any, int]]] = [[(line, amount)] for line in lines]
    for one, other in itertools.combinations(lines, 2):
        if quoter.pools_of(one) & quoter.pools_of(other):
            continue
        shared += [[(one, amount * k // SHARES), (other, amount - amount * k // SHARES)] for k in range(1, SHARES)]
    for shares in shared:
        route = quoter.routed(shares, token_in, exact_out=exact_out)
        if route is not None and (route.amount_out if exact_out else route.amount_in) == amount:
            yield route


def nets(
    world: World[Any],
    pair: FakePair,
    repay: int,
    kind: str,
    loan: FlashOffer | None,
    base_gas: int,
    *,
    all_routes: bool,
) -> Iterator[int]:
    """What is left for the keeper, by following the tokens."""
    price, quoter = world.fees.base_fee + world.fees.tip, world.quoter
    seizure, budget = pair.seize(repay), pair.budget(repay)
    gas = base_gas + pair.gas(repay) + (loan.gas if loan else 0)
    to_native = pair.collateral != NATIVE
    held = {pair.debt.address: budget}  # debt asset first: from the pools or from the lender
    held[pair.debt.address] -= seizure.repaid
    held[pair.collateral.address] = held.get(pair.collateral.address, 0) + seizure.seized
    owed = loan.amount + loan.premium if loan else budget
    if kind == "one":
        assert loan is not None
        for route in sales(quoter, pair, seizure.seized, loan.locks, all_routes=all_routes):
            left = held[NATIVE.address] + route.amount_out - owed
            yield left - (gas + route.gas) * price
        return
    if kind == "same":
        left = held[pair.debt.address] - owed
        if not to_native:
            yield left - gas * price
        elif left > 0:
            for route in sales(quoter, pair, left, NONE, all_routes=all_routes):
                yield route.amount_out - (gas + route.gas) * price
        return
    for buy in buys(quoter, pair, owed, loan, all_routes=all_routes):
        left = held[pair.collateral.address] - buy.amount_in
        native = held[pair.debt.address] if pair.debt == NATIVE else 0
        if left < 0:
            continue
        if not to_native or left == 0:
            yield native + (0 if to_native else left) - (gas + buy.gas) * price
            continue
        for route in sales(quoter.after(buy), pair, left, NONE, all_routes=all_routes):
            yield native + route.amount_out - (gas + buy.gas + route.gas) * price


def best(world: World[Any], base_gas: int, fine: int = 48, finer: int = 48, *, all_routes: bool = True) -> Found | None:
    """The highest net of all; around the three best amounts once more, finer, and there over all routes if wanted."""
    found: list[Found] = []

    def consider(pair: FakePair, repay: int, *, all_routes: bool) -> None:
        for kind, loan in fundings(world, pair, repay):
            net = max(nets(world, pair, repay, kind, loan, base_gas, all_routes=all_routes), default=None)
            if net is not None:
                found.append(Found(net, pair, repay, loan, kind))

    for pair in world.pairs:
        for repay in amounts(pair, fine):
            consider(pair, repay, all_routes=False)
    found.sort(key=lambda f: -f.net)
    for top in list(found[:3]):
        ladder = amounts(top.pair, fine)
        place = ladder.index(top.repay)
        low, high = ladder[max(place - 1, 0)], ladder[min(place + 1, len(ladder) - 1)]
        for step in range(finer + 1):
            repay = low + (high - low) * step // finer
            if top.pair.accepts(repay):
                consider(top.pair, repay, all_routes=False)
    found.sort(key=lambda f: -f.net)
    for top in list(found[:2]) if all_routes else ():
        consider(top.pair, top.repay, all_routes=True)
    return max(found, key=lambda f: f.net, default=None)
