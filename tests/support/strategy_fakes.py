"""Hand-written fakes for the planner: constant-product pools behind a quoter, pairs with dust holes, lenders.

Written without the code under test: only the frozen values of `keeper.model` are shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isqrt, sqrt

from keeper.model import OWN_CALLBACK, Account, Address, FlashOffer, Hash, Head, Hop, Path, Route, Seizure, Token
from keeper.ports import Position
from keeper.program import Step

BPS = 10_000
HOP_GAS = 90_000
NONE: frozenset[Address] = frozenset()


def token(number: int, symbol: str, decimals: int) -> Token:
    return Token(Address(f"0x{number:040x}"), symbol, decimals)


NATIVE = token(1, "WNAT", 18)
USD = token(2, "USD", 6)
BTC = token(3, "BTC", 8)
GOV = token(4, "GOV", 18)
CENT = token(5, "CENT", 2)
PRICES = {NATIVE: 2_000 * 10**8, USD: 10**8, BTC: 60_000 * 10**8, GOV: 7 * 10**8, CENT: 10**8}
MARKET = Address("0x" + "ca" * 20)
HEAD = Head(100, Hash("0x" + "11" * 32), Hash("0x" + "10" * 32), 1_700_000_000, 10**9)


@dataclass(frozen=True, slots=True)
class Pool:
    """x·y = k with a fee on the input, rounded against the trader as a pair contract does."""

    address: Address
    tokens: tuple[Address, Address]
    reserves: tuple[int, int]
    fee_bps: int

    def _sides(self, token_in: Address) -> tuple[int, int]:
        return self.reserves if token_in == self.tokens[0] else (self.reserves[1], self.reserves[0])

    def other(self, one: Address) -> Address:
        return self.tokens[1] if one == self.tokens[0] else self.tokens[0]

    def out(self, token_in: Address, amount: int) -> int:
        have, give = self._sides(token_in)
        net = amount * (BPS - self.fee_bps)
        return net * give // (have * BPS + net)

    def into(self, token_in: Address, amount_out: int) -> int | None:
        have, give = self._sides(token_in)
        if amount_out >= give:
            return None
        return have * amount_out * BPS // ((give - amount_out) * (BPS - self.fee_bps)) + 1

    def traded(self, token_in: Address, amount_in: int, amount_out: int) -> Pool:
        first = token_in == self.tokens[0]
        a, b = self.reserves
        new = (a + amount_in, b - amount_out) if first else (a - amount_out, b + amount_in)
        return Pool(self.address, self.tokens, new, self.fee_bps)


Line = tuple[Pool, ...]


@dataclass(frozen=True)
class FakeQuoter:
    """Every path of one or two pools, every set of up to three that share no pool, split by equal marginal price."""

    pools: dict[Address, Pool]
    gas_price: int
    connectors: tuple[Address, ...] = (NATIVE.address, USD.address)
    calls: list[str] = field(default_factory=list)
    sets: int = 3

    def lines(self, token_in: Address, token_out: Address, avoid: Iterable[Address] = NONE) -> list[Line]:
        free = [pool for pool in self.pools.values() if pool.address not in avoid]
        direct: list[Line] = [(pool,) for pool in free if set(pool.tokens) == {token_in, token_out}]
        for middle in self.connectors:
            if middle in (token_in, token_out):
                continue
            heads = [pool for pool in free if set(pool.tokens) == {token_in, middle}]
            tails = [pool for pool in free if set(pool.tokens) == {middle, token_out}]
            direct += list(itertools.product(heads, tails))
        return direct

    def sell(
        self, token_in: Address, token_out: Address, amount_in: int, avoid: frozenset[Address] = NONE
    ) -> Route | None:
        self.calls.append("sell")
        return self._best(token_in, token_out, amount_in, avoid, exact_out=False)

    def buy(
        self, token_in: Address, token_out: Address, amount_out: int, avoid: frozenset[Address] = NONE
    ) -> Route | None:
        self.calls.append("buy")
        return self._best(token_in, token_out, amount_out, avoid, exact_out=True)

    def after(self, route: Route) -> FakeQuoter:
        self.calls.append("after")
        pools = dict(self.pools)
        for path in route.paths:
            for hop in path.hops:
                pools[hop.pool] = pools[hop.pool].traded(hop.token_in, hop.amount_in, hop.amount_out)
        return FakeQuoter(pools, self.gas_price, self.connectors, self.calls, self.sets)

    def again(self, route: Route) -> Route | None:
        self.calls.append("again")
        shares = [
            (
                tuple(self.pools[hop.pool] for hop in path.hops),
                path.amount_out if route.exact_out else path.amount_in,
            )
            for path in route.paths
        ]
        return self.routed(shares, route.token_in, exact_out=route.exact_out)

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        best: tuple[int, int] | None = None
        deepest = -1
        for line in self.lines(token_in, token_out):
            price, at, depth = (1, 1), token_in, None
            for pool in line:
                have, give = pool._sides(at)
                depth = isqrt(have * give) if depth is None else min(depth, isqrt(have * give))
                price, at = (price[0] * give, price[1] * have), pool.other(at)
            if depth is not None and depth > deepest:
                best, deepest = price, depth
        return best

    def pools_of(self, line: Line) -> frozenset[Address]:
        return frozenset(pool.address for pool in line)

    def gas_in(self, one: Address, gas: int) -> int:
        """`gas` at the gas price, in units of a token, by spot."""
        cost = gas * self.gas_price
        price = (1, 1) if one == NATIVE.address else self.spot(NATIVE.address, one)
        return 0 if price is None else cost * price[0] // price[1]

    def routed(self, shares: Sequence[tuple[Line, int]], token_in: Address, *, exact_out: bool) -> Route | None:
        """A route with these amounts on these lines, worked out exactly."""
        paths = []
        for line, amount in shares:
            if amount <= 0:
                continue
            path = trade(line, token_in, amount, exact_out=exact_out)
            if path is None:
                return None
            paths.append(path)
        if not paths:
            return None
        gas = HOP_GAS * sum(len(path.hops) for path in paths)
        return Route(token_in, paths[0].hops[-1].token_out, tuple(paths), gas, exact_out)

    def _best(
        self, token_in: Address, token_out: Address, amount: int, avoid: frozenset[Address], *, exact_out: bool
    ) -> Route | None:
        if amount <= 0:
            return None
        lines = self.lines(token_in, token_out, avoid)
        curves = {line: _mobius(line, token_in) for line in lines}
        lines = sorted(lines, key=lambda line: -curves[line][0] / curves[line][1])[:40]
        gas_token = token_in if exact_out else token_out
        hop_cost = self.gas_in(gas_token, HOP_GAS)
        best: tuple[int, Route] | None = None
        for size in range(1, self.sets + 1):
            for chosen in itertools.combinations(lines, size):
                pools = [pool.address for line in chosen for pool in line]
                if len(set(pools)) < len(pools):
                    continue
                parts = _split([curves[line] for line in chosen], amount, exact_out=exact_out)
                if parts is None:
                    continue
                route = self.routed(list(zip(chosen, parts, strict=True)), token_in, exact_out=exact_out)
                if route is None:
                    continue
                gas = hop_cost * len(pools)
                worth = -route.amount_in - gas if exact_out else route.amount_out - gas
                if best is None or worth > best[0]:
                    best = (worth, route)
        return None if best is None else best[1]


def trade(line: Line, token_in: Address, amount: int, *, exact_out: bool) -> Path | None:
    """One path through `line`, exact; None where a pool cannot give that much or would give nothing."""
    tokens = [token_in]
    for pool in line:
        tokens.append(pool.other(tokens[-1]))
    hops: list[Hop] = []
    if exact_out:
        wanted = amount
        for pool, paid, got in reversed(list(zip(line, tokens, tokens[1:], strict=False))):
            needed = pool.into(paid, wanted)
            if needed is None:
                return None
            hops.insert(0, Hop("fake", pool.address, paid, got, needed, wanted))
            wanted = needed
        return Path(tuple(hops))
    given = amount
    for pool, paid, got in zip(line, tokens, tokens[1:], strict=False):
        out = pool.out(paid, given)
        if out == 0:
            return None
        hops.append(Hop("fake", pool.address, paid, got, given, out))
        given = out
    return Path(tuple(hops))


def _mobius(line: Line, token_in: Address) -> tuple[float, float, float]:
    """out = a·x / (b + c·x) of a path; floats, as they only choose shares."""
    a, b, c = 1.0, 1.0, 0.0
    at = token_in
    for pool in line:
        have, give = pool._sides(at)
        keep = 1 - pool.fee_bps / BPS
        a, b, c = a * keep * give, b * have, c * have + a * keep
        a, b, c = a / b, 1.0, c / b
        at = pool.other(at)
    return a, b, c


def _split(curves: list[tuple[float, float, float]], amount: int, *, exact_out: bool) -> list[int] | None:
    """Amounts of equal marginal price; None when a line should get nothing (a smaller set is then better)."""
    if len(curves) == 1:
        return [amount]
    a, c = [curve[0] for curve in curves], [curve[2] for curve in curves]
    if exact_out:
        # out_i = a/c − sqrt(a)/(c·s), with s = 1/sqrt(λ): Σ out = amount
        total = sum(x / y for x, y in zip(a, c, strict=True)) - amount
        if total <= 0:
            return None
        s = sum(sqrt(x) / y for x, y in zip(a, c, strict=True)) / total
        parts = [x / y - sqrt(x) / (y * s) for x, y in zip(a, c, strict=True)]
    else:
        s = (amount + sum(1 / y for y in c)) / sum(sqrt(x) / y for x, y in zip(a, c, strict=True))
        parts = [(sqrt(x) * s - 1) / y for x, y in zip(a, c, strict=True)]
    whole = [int(part) for part in parts]
    if min(whole) <= 0:
        return None
    whole[0] += amount - sum(whole)
    return whole if whole[0] > 0 else None


@dataclass(frozen=True)
class FakePair:
    """A liquidation at oracle prices with a bonus, a protocol fee on the bonus, and holes."""

    debt: Token
    collateral: Token
    debt_price: int
    collateral_price: int
    bonus_bps: int
    feasible: tuple[tuple[int, int], ...]
    fee_bps: int = 1_000
    accrual_ppm: int = 0
    call_gas: int = 400_000
    pays_last: bool = False  # the protocol hands the collateral over first
    others: tuple[Address, ...] = ()

    def seize(self, repay: int) -> Seizure:
        base = (
            repay * self.debt_price * 10**self.collateral.decimals // (self.collateral_price * 10**self.debt.decimals)
        )
        total = base * (BPS + self.bonus_bps) // BPS
        fee = (total - base) * self.fee_bps // BPS
        return Seizure(repay, total - fee, fee)

    def gas(self, repay: int) -> int:
        return self.call_gas

    def budget(self, repay: int) -> int:
        return repay + repay * self.accrual_ppm // 10**6

    def advance(self, repay: int) -> FlashOffer | None:
        if not self.pays_last:
            return None
        return FlashOffer(OWN_CALLBACK, MARKET, self.debt.address, self.budget(repay), 0, 0)

    def accepts(self, repay: int) -> bool:
        return any(low <= repay <= high for low, high in self.feasible)


@dataclass
class FakeSource:
    """Lends up to a depth for a premium rounded up; may lock a pool."""

    name: str
    lender: Address
    depths: dict[Address, int]
    premium_bps: int
    gas: int
    locks: frozenset[Address] = NONE

    def offers(self, one: Address, amount: int) -> tuple[FlashOffer, ...]:
        if amount > self.depths.get(one, 0):
            return ()
        premium = -(-amount * self.premium_bps // BPS)
        return (FlashOffer(self.name, self.lender, one, amount, premium, self.gas, self.locks),)

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        raise NotImplementedError("planning encodes nothing")


def position(pairs: Sequence[FakePair], *, native_price: int | None = PRICES[NATIVE]) -> Position:
    account = Account(Address("0x" + "b0" * 20), 98 * 10**16, 10**12, 9 * 10**11)
    return Position("market", account, HEAD, HEAD.timestamp + 12, 10**8, native_price, tuple(pairs))


def pool(number: int, first: Token, second: Token, dollars: int, fee_bps: int = 30, skew_ppm: int = 0) -> Pool:
    """A pool with `dollars` on each side at oracle prices; `skew_ppm` makes the first token that much dearer."""
    a = dollars * 10**8 * 10**first.decimals // PRICES[first]
    b = dollars * 10**8 * 10**second.decimals * (10**6 + skew_ppm) // (PRICES[second] * 10**6)
    return Pool(Address(f"0x{0xF000 + number:040x}"), (first.address, second.address), (a, b), fee_bps)
