"""Routes over the private chain's Uniswap pools, quoted by their own bytecode and not by the keeper's arithmetic."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from keeper.devchain.actors import Actors
from keeper.devchain.calls import calldata
from keeper.devchain.rpc import RpcError
from keeper.devchain.uniswap import Pool
from keeper.model import Address, FlashOffer, Hop, Path, Route
from keeper.program import Call, Callback, Step, Transfer, encode, literal

V2, V3 = "uniswap_v2", "uniswap_v3"
_QUOTE = "((address,address,uint256,uint24,uint160))"


@dataclass
class Exchange:
    """Quotes and trades on a fork of the built world."""

    on: Actors

    def token(self, symbol: str) -> Address:
        return self.on.world.tokens[symbol].address

    def quote_in(self, pool: Pool, sold: str, amount: int) -> int | None:
        """Output for selling `amount` of symbol `sold`; None when the pool cannot."""
        other = pool.token1 if pool.token0 == sold else pool.token0
        if pool.kind == "v2":
            before, after = self._reserves(pool, sold)
            return amount * 997 * after // (before * 1000 + amount * 997) or None
        return self._ask("quoteExactInputSingle", pool, sold, other, amount)

    def quote_out(self, pool: Pool, bought: str, amount: int) -> int | None:
        """Input for buying exactly `amount` of symbol `bought`; None when the pool cannot."""
        other = pool.token1 if pool.token0 == bought else pool.token0
        if pool.kind == "v2":
            before, after = self._reserves(pool, other)
            return before * amount * 1000 // ((after - amount) * 997) + 1 if amount < after else None
        return self._ask("quoteExactOutputSingle", pool, other, bought, amount)

    def paths(self, sold: str, bought: str) -> list[tuple[Pool, ...]]:
        """Every way from one symbol to another over one or two pools."""
        pools = [pool for pool in self.on.world.uniswap.pools if not pool.thin]
        found: list[tuple[Pool, ...]] = []
        for first in pools:
            if sold not in (first.token0, first.token1):
                continue
            middle = first.token1 if first.token0 == sold else first.token0
            if middle == bought:
                found.append((first,))
                continue
            found += [(first, second) for second in pools if {second.token0, second.token1} == {middle, bought}]
        return found

    def split(self, rng: random.Random, sold: str, bought: str, most: int) -> list[tuple[Pool, ...]]:
        """Up to `most` random paths that share no pool, longer ones preferred."""
        chosen: list[tuple[Pool, ...]] = []
        used: set[Address] = set()
        ways = self.paths(sold, bought)
        for pools in sorted(ways, key=lambda way: rng.random() / len(way)):
            if len(chosen) < most and not used & {pool.address for pool in pools}:
                chosen.append(pools)
                used |= {pool.address for pool in pools}
        return chosen

    def buy(self, rng: random.Random, sold: str, bought: str, amount: int, most: int) -> Route | None:
        """A random split for buying exactly `amount`; None when it does not fit the pools."""
        ways = self.split(rng, sold, bought, most)
        paths = []
        for share, pools in zip(_shares(rng, amount, len(ways)), ways, strict=True):
            hops: list[Hop] = []
            token, wanted = bought, share
            for pool in reversed(pools):
                other = pool.token1 if pool.token0 == token else pool.token0
                paid = self.quote_out(pool, token, wanted)
                if paid is None:
                    return None
                hops.insert(0, self._hop(pool, other, token, paid, wanted))
                token, wanted = other, paid
            paths.append(Path(tuple(hops)))
        return Route(self.token(sold), self.token(bought), tuple(paths), 0, exact_out=True)

    def sell(self, rng: random.Random, sold: str, bought: str, amount: int, most: int) -> Route | None:
        """A random split for selling exactly `amount`."""
        ways = self.split(rng, sold, bought, most)
        paths = []
        for share, pools in zip(_shares(rng, amount, len(ways)), ways, strict=True):
            hops: list[Hop] = []
            token, given = sold, share
            for pool in pools:
                other = pool.token1 if pool.token0 == token else pool.token0
                got = self.quote_in(pool, token, given)
                if got is None:
                    return None
                hops.append(self._hop(pool, token, other, given, got))
                token, given = other, got
            paths.append(Path(tuple(hops)))
        return Route(self.token(sold), self.token(bought), tuple(paths), 0, exact_out=False)

    @contextmanager
    def traded(self, route: Route | None) -> Iterator[None]:
        """The chain as it would be after somebody else made every trade of `route`; put back afterwards."""
        snapshot = self.on.rpc.request("evm_snapshot")
        for path in route.paths if route else ():
            for hop in path.hops:
                zero_for_one = hop.token_in < hop.token_out
                pool = next(pool for pool in self.on.world.uniswap.pools if pool.address == hop.pool)
                if pool.kind == "v3":
                    self.on.swap(pool, zero_for_one=zero_for_one, amount=-hop.amount_out)
                else:
                    signature = "v2Swap(address,bool,uint256,uint256)"
                    desk, sender = self.on.world.desk, self.on.world.deployer
                    self.on.send(sender, desk, signature, pool.address, zero_for_one, hop.amount_in, hop.amount_out)
        yield
        assert self.on.rpc.request("evm_revert", snapshot)

    def _hop(self, pool: Pool, sold: str, bought: str, paid: int, got: int) -> Hop:
        return Hop(V2 if pool.kind == "v2" else V3, pool.address, self.token(sold), self.token(bought), paid, got)

    def _reserves(self, pool: Pool, sold: str) -> tuple[int, int]:
        reserve0, reserve1 = self.on.reserves(pool)
        return (reserve0, reserve1) if pool.token0 == sold else (reserve1, reserve0)

    def _ask(self, function: str, pool: Pool, sold: str, bought: str, amount: int) -> int | None:
        data = calldata(function + _QUOTE, (self.token(sold), self.token(bought), amount, pool.fee, 0))
        try:
            answer = self.on.rpc.call(self.on.world.uniswap.quoter, data)
        except RpcError:
            return None
        return int.from_bytes(answer[:32], "big") or None


def _shares(rng: random.Random, amount: int, parts: int) -> list[int]:
    cuts = sorted(rng.randrange(1, amount) for _ in range(parts - 1)) if parts > 1 else []
    return [high - low for low, high in zip([0, *cuts], [*cuts, amount], strict=True)]


class V3FlashSource:
    """`flash` of a Uniswap V3 pool, as a `ports.FlashSource`."""

    name = "v3_flash"

    def __init__(self, receiver: Address, pools: Mapping[Address, Pool], tokens: Mapping[str, Address]) -> None:
        self._receiver = receiver
        self._pools = pools
        self._tokens = tokens

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """Every pool of the token, whatever it holds; the pool's fee rounded up (UniswapV3Pool.flash)."""
        return tuple(
            FlashOffer(self.name, a, token, amount, -(-amount * p.fee // 1_000_000), 0, frozenset({a}))
            for a, p in self._pools.items()
            if token in (self._tokens[p.token0], self._tokens[p.token1])
        )

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Borrow, run `inner`, send loan and fee back."""
        first = self._tokens[self._pools[offer.lender].token0] == offer.token
        amounts = (offer.amount, 0) if first else (0, offer.amount)
        repay = Transfer(offer.token, offer.lender, literal(offer.amount + offer.premium))
        signature = "flash(address,uint256,uint256,bytes)"
        data = calldata(signature, self._receiver, *amounts, encode((*inner, repay)))
        return (Call(offer.lender, data, callback=Callback(offer.lender, 2)),)
