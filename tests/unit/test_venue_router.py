"""The router's small promises, on pairs whose numbers can be checked by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from keeper.model import Address, Path, Route
from keeper.venues.pool import Pool
from keeper.venues.router import Router
from keeper.venues.uniswap_v2 import V2Pool

pytestmark = pytest.mark.unit

A, B, C, D = (Address(f"0x{i:040x}") for i in range(1, 5))


@dataclass
class Fixed:
    found: list[V2Pool]

    def pools(self) -> Iterable[Pool]:
        return self.found


def pair(number: int, token0: Address, token1: Address, reserve0: int, reserve1: int) -> V2Pool:
    return V2Pool("v2", Address(f"0x{number:040x}"), token0, token1, 30, reserve0, reserve1)


DIRECT = pair(101, A, B, 10**24, 10**24)
SMALL = pair(102, A, B, 10**22, 10**22)
FIRST, SECOND = pair(103, A, C, 10**24, 2 * 10**24), pair(104, B, C, 10**24, 2 * 10**24)
STRAY = pair(105, A, D, 10**18, 10**18)


def router(*pools: V2Pool, connectors: Iterable[Address] = (C,), **options: int) -> Router:
    return Router([Fixed(list(pools))], connectors, native=A, **options)


def test_equal_pools_get_equal_shares() -> None:
    """Two identical pairs split a trade in half, the shares add up, and each output is the pair's own quote."""
    twin = pair(106, A, B, 10**24, 10**24)
    route = router(DIRECT, twin).sell(A, B, 10**22 + 1)
    assert route is not None
    assert [path.amount_in for path in route.paths] == [5 * 10**21, 5 * 10**21 + 1]
    assert route.amount_out == sum(DIRECT.quote_in(True, path.amount_in) or 0 for path in route.paths)


def test_shares_follow_depth() -> None:
    """Pairs at one price get shares in proportion to their reserves, the largest last."""
    route = router(DIRECT, SMALL).sell(A, B, 10**20)
    assert route is not None
    assert [path.hops[0].pool for path in route.paths] == [SMALL.address, DIRECT.address]
    assert route.paths[0].amount_in * 100 == pytest.approx(route.paths[1].amount_in, rel=1e-4)


def test_two_hops_go_through_a_connector_only() -> None:
    """A token that is no connector is not traded through."""
    assert router(FIRST, SECOND, connectors=()).sell(A, B, 10**20) is None
    route = router(FIRST, SECOND).sell(A, B, 10**20)
    assert route is not None
    (path,) = route.paths
    assert [(hop.token_in, hop.token_out) for hop in path.hops] == [(A, C), (C, B)]
    bought = router(FIRST, SECOND).buy(A, B, route.amount_out)
    assert bought is not None
    assert 0 <= 10**20 - bought.amount_in < 10


def test_gas_decides_whether_a_path_is_added() -> None:
    """A further pair is used while it saves more than its gas costs in the token that varies."""
    saved = (router(DIRECT, SMALL).sell(A, B, 10**20), router(DIRECT).sell(A, B, 10**20))
    assert saved[0] is not None
    assert saved[1] is not None
    gain = saved[0].amount_out - saved[1].amount_out
    gas = saved[0].gas - saved[1].gas
    assert gain > 0
    for price, paths in ((gain * 9 // 10 // gas, 2), (gain * 11 // 10 // gas, 1)):
        route = router(DIRECT, SMALL, gas_price=price).sell(A, B, 10**20)
        assert route is not None
        assert len(route.paths) == paths
        assert router(DIRECT, SMALL).priced(price).sell(A, B, 10**20) == route


def test_avoided_pools_are_not_traded_in() -> None:
    """Not alone, not in a split, not as part of a longer path."""
    every = router(DIRECT, SMALL, FIRST, SECOND)
    for pool in (DIRECT, SMALL, FIRST, SECOND):
        route = every.sell(A, B, 10**23, frozenset({pool.address}))
        assert route is not None
        assert pool.address not in route.pools
    assert every.sell(A, B, 10**20, frozenset({DIRECT.address, SMALL.address, FIRST.address})) is None


def test_what_cannot_be_traded() -> None:
    """Nothing, a token for itself, dust that buys nothing, more than there is, and unknown tokens have no route."""
    every = router(DIRECT, SMALL, FIRST, SECOND, STRAY)
    assert every.sell(A, B, 0) is None
    assert every.buy(A, B, -1) is None
    assert every.sell(A, A, 5) is None
    assert every.sell(A, B, 1) is None
    assert every.buy(A, D, 10**18) is None
    assert every.buy(A, D, 10**18 - 10**6) is not None
    assert every.sell(D, C, 10**3, frozenset({STRAY.address})) is None
    assert every.sell(Address("0x99"), B, 5) is None


def test_more_than_any_one_pool_holds_is_bought_from_several() -> None:
    """A purchase beyond the largest pair's reserve is split; beyond all of them it has no route."""
    every = router(DIRECT, SMALL, pair(106, A, B, 10**24, 10**24))
    route = every.buy(A, B, 15 * 10**23)
    assert route is not None
    assert route.amount_out == 15 * 10**23
    assert len(route.paths) >= 2
    assert every.buy(A, B, 21 * 10**23) is None


def test_spot_is_that_of_the_deepest_path() -> None:
    """A thin pair at another price does not set the spot price, and nothing does where there is no path."""
    thin = pair(107, A, B, 10**18, 5 * 10**18)
    out, into = router(thin, DIRECT).spot(A, B) or (0, 1)
    assert out == into
    out, into = router(thin).spot(A, B) or (0, 1)
    assert out == 5 * into
    out, into = router(FIRST, SECOND, thin).spot(B, A) or (0, 1)
    assert out == into
    assert router(thin).spot(A, A) == (1, 1)
    assert router(thin).spot(A, D) is None


def test_a_route_of_other_pools_cannot_be_followed() -> None:
    """`after` insists that the route can be traded."""
    every = router(DIRECT)
    route = every.sell(A, B, 10**20)
    assert route is not None
    hop = route.paths[0].hops[0]
    too_much = type(hop)(hop.venue, hop.pool, hop.token_in, hop.token_out, 1 << 112, 1)
    with pytest.raises(ValueError, match="cannot trade"):
        every.after(Route(A, B, (Path((too_much,)),), 0, exact_out=False))
