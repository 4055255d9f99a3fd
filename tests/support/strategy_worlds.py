"""Random worlds for the planner: pools, a position, lenders and gas, all from one seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from keeper.model import Address, FeeQuote, Route, Token
from keeper.ports import Position, Quoter
from tests.support.strategy_fakes import BTC, CENT, GOV, NATIVE, PRICES, USD, FakePair, FakeQuoter, FakeSource, Pool
from tests.support.strategy_fakes import pool as make_pool
from tests.support.strategy_fakes import position as make_position

TOKENS = (NATIVE, USD, BTC, GOV, CENT)


class OpenQuoter(Quoter, Protocol):
    """A quoter that also tells its paths, so that a search can try every split over them."""

    def after(self, route: Route) -> OpenQuoter: ...

    def lines(self, token_in: Address, token_out: Address, avoid: Iterable[Address] = ...) -> Sequence[Any]:
        """Every path there is."""

    def pools_of(self, line: Any) -> frozenset[Address]:
        """The pools of a path."""

    def routed(self, shares: Sequence[tuple[Any, int]], token_in: Address, *, exact_out: bool) -> Route | None:
        """These amounts over these paths, exact."""

    def gas_in(self, one: Address, gas: int) -> int:
        """What gas costs in a token."""


Q = TypeVar("Q", bound=OpenQuoter)


@dataclass(frozen=True)
class World(Generic[Q]):
    position: Position
    pairs: tuple[FakePair, ...]
    quoter: Q
    sources: tuple[FakeSource, ...]
    fees: FeeQuote


def log_uniform(rng: Random, low: int, high: int) -> int:
    """Integers whose magnitude is uniform."""
    return int(low * (high / low) ** rng.random())


def amount_of(token: Token, dollars: int) -> int:
    return int(dollars * 10**8 * 10**token.decimals) // PRICES[token]


def random_intervals(rng: Random, most: int) -> tuple[tuple[int, int], ...]:
    """Everything; all but a hole below the full amount; or two holes."""
    kind = rng.randrange(4)
    if kind == 0 or most < 1000:
        return ((1, most),)
    edge = most * rng.randrange(100, 950) // 1000
    if kind == 1:
        return ((1, edge), (most, most))
    if kind == 2:
        return ((most * rng.randrange(10, 90) // 1000, edge),)
    return ((1, edge // 3), (edge // 2, edge), (most - most // 50, most))


def random_pair(rng: Random, debt: Token, collateral: Token, dollars: int) -> FakePair:
    most = max(amount_of(debt, dollars), 1)
    return FakePair(
        debt,
        collateral,
        PRICES[debt],
        PRICES[collateral],
        rng.choice((150, 450, 500, 750, 1_000)),
        random_intervals(rng, most),
        rng.choice((0, 1_000, 2_000)),
        rng.choice((0, 1, 20)),
        rng.randrange(250_000, 600_000),
    )


def random_pools(rng: Random, count: int) -> dict[Address, Pool]:
    pools = {}
    for number in range(count):
        first, second = rng.sample(TOKENS, 2)
        if number < 4:  # every token trades against the native one somewhere
            first, second = NATIVE, TOKENS[1 + number]
        depth = log_uniform(rng, 20_000, 40_000_000)
        fee = rng.choice((1, 5, 30, 30, 100))
        made = make_pool(number, first, second, depth, fee, rng.randrange(-4_000, 4_001))
        pools[made.address] = made
    return pools


def random_sources(rng: Random, pools: Iterable[Address]) -> tuple[FakeSource, ...]:
    sources = []
    for number in range(rng.randrange(0, 4)):
        locks = frozenset({rng.choice(list(pools))}) if rng.random() < 0.5 else frozenset()
        depths = {t.address: amount_of(t, log_uniform(rng, 5_000, 50_000_000)) for t in TOKENS if rng.random() < 0.8}
        lender = next(iter(locks)) if locks else Address(f"0x{0xAA00 + number:040x}")
        premium, gas = rng.choice((0, 1, 5, 9, 30)), rng.choice((60_000, 110_000, 200_000))
        sources.append(FakeSource(f"lender{number}", lender, depths, premium, gas, locks))
    return tuple(sources)


def random_world(rng: Random, *, pools: int | None = None, pairs: int | None = None) -> World[FakeQuoter]:
    made = random_pools(rng, pools or rng.randrange(4, 13))
    dollars = log_uniform(rng, 300, 5_000_000)
    gas_price = log_uniform(rng, 10**8, 10**11)
    choices = [(d, c) for d in TOKENS for c in TOKENS]
    chosen = rng.sample(choices, pairs or rng.randrange(1, 7))
    offered = tuple(random_pair(rng, d, c, max(dollars * rng.randrange(1, 100) // 100, 1)) for d, c in chosen)
    tip = gas_price // 10
    native_price = PRICES[NATIVE] if rng.random() < 0.8 else None
    return World(
        make_position(offered, native_price=native_price),
        offered,
        FakeQuoter(made, gas_price),
        random_sources(rng, made),
        FeeQuote(gas_price - tip, tip),
    )
