"""A seeded crowd that does everything one can do to a Comet, most of it sensible, some of it refused."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from keeper.devchain import comet
from keeper.devchain.actors import Actors, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.comet import Collateral, CometMarket
from keeper.model import MAX_UINT256, Address
from tests.support.comet_driver import MODEL

_USD = 10**8


class CometCrowd:
    """`users` accounts on one market. `tried` and `done` count operations by name."""

    def __init__(self, actors: Actors, market: CometMarket, users: int, seed: int) -> None:
        self.actors, self.market = actors, market
        self.random = random.Random(seed)
        self.users = [account(f"{market.name} {seed} {i}") for i in range(users)]
        self.buyer = account(f"{market.name} buyer")
        self.base = market.spec.base
        self.prices = {symbol: SPECS[symbol].price for symbol in (self.base, *self.collaterals)}
        self.tried: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.weak: list[Address] = []  # whom a liquidator would look at first

    @property
    def collaterals(self) -> list[str]:
        return [item.symbol for item in self.market.spec.collaterals]

    @property
    def everybody(self) -> list[Address]:
        return [*self.users, self.buyer]

    def settle(self) -> None:
        """Base to borrow, and for everybody collateral of one or more kinds and debt, or base of their own."""
        actors, market = self.actors, self.market
        comet.supply(actors, market, self.buyer, self.base, self.worth(self.base, 40_000_000))
        for start in range(0, len(self.users), 10):
            with actors.block(strict=False):
                for user in self.users[start : start + 10]:
                    self._supply_collateral(user)
                    if self.random.random() < 0.5:
                        self._supply_collateral(user)
            with actors.block(strict=False):
                for user in self.users[start : start + 10]:
                    if self.random.random() < 0.8:
                        self._borrow(user)
                    else:
                        self._supply_base(user)

    def lever(self, users: int) -> None:
        """Let some owe all they may."""
        with self.actors.block(strict=False):
            for user in self.random.sample(self.users, min(users, len(self.users))):
                self._borrow(user, 0.99)

    def reopen(self) -> None:
        """Lift every pause, and liquidate somebody who can be."""
        with self.actors.block():
            self._send(self.buyer, "pause(bool,bool,bool,bool,bool)", *[False] * 5)
        for name, act in (("absorb", self._absorb), ("buy", self._buy)) if self.weak else ():
            with self.actors.block(strict=False) as receipts:
                act()
            self.tried[name] += 1
            self.done[name] += all(int(receipt["status"], 16) for receipt in receipts)

    def step(self, operations: int) -> None:
        """Do this many random operations, several to a block."""
        for _ in self.blocks(operations):
            pass

    def blocks(self, operations: int) -> Iterator[None]:
        """Do this many random operations, and let the caller look after every block."""
        names = list(_WEIGHTS)
        while operations > 0:
            count = min(self.random.choice((1, 2, 4, 8)), operations)
            operations -= count
            chosen = self.random.choices(names, list(_WEIGHTS.values()), k=count)
            marks: list[tuple[str, int]] = []
            sent = self.actors._sent
            with self.actors.block(self.random.choice((1, 12, 12, 24)), strict=False) as receipts:
                for name in chosen:
                    self.tried[name] += 1
                    _ACTIONS[name](self)
                    marks.append((name, len(sent)))
            first = 0
            for name, last in marks:
                if last > first and all(int(r["status"], 16) for r in receipts[first:last]):
                    self.done[name] += 1
                first = last
            yield
            if self.random.random() < 0.1:
                self.tried["time"] += 1
                self.done["time"] += 1
                self.actors.mine(self.random.choice((60, 3_600, 86_400, 30 * 86_400)))
                yield

    def govern(self) -> None:
        """An upgrade with other factors, rates, targets, and now and then another collateral."""
        spec = self.market.spec
        collaterals = tuple(
            Collateral(item.symbol, low, low + 500, low + 500 + self.random.randrange(100, 1_200))
            for item in spec.collaterals
            for low in (self.random.randrange(6_000, 8_300),)
        )
        further = [s for s in ("DAI", "CRV", "LINK") if s not in self.collaterals and s != self.base]
        if further and self.random.random() < 0.5:
            collaterals += (Collateral(further[0], 5_000, 6_000, 8_000),)
            self.prices[further[0]] = SPECS[further[0]].price
        changed = replace(
            spec,
            collaterals=collaterals,
            front_factor=self.random.choice((0, 5_000, 8_000, 10_000)),
            borrow_rate=(self.random.randrange(50, 95), 5, 200, 1),
            target_reserves=self.random.choice((0, 100_000, 5_000_000)),
        )
        self.market = comet.upgrade(self.actors, MODEL, self.market, changed)

    def shake(self, widest: float = 0.2) -> None:
        """Move some prices, drawn back to where they started."""
        with self.actors.block():
            for symbol in self.random.sample(self.collaterals, self.random.randint(1, len(self.collaterals))):
                self._price(symbol, widest)

    def worth(self, symbol: str, dollars: float) -> int:
        """Base units of so many dollars."""
        return max(int(dollars * _USD * 10 ** SPECS[symbol].decimals / self.prices[symbol]), 1)

    # -------------------------------------------------------------------------------------------- operations

    def _dollars(self) -> float:
        return math.exp(self.random.uniform(math.log(300), math.log(90_000)))

    def _user(self) -> Address:
        return self.random.choice(self.users)

    def _send(self, user: Address, signature: str, *args: object) -> None:
        self.actors.send(user, self.market.comet, signature, *args)

    def _token(self, symbol: str) -> Address:
        return self.actors.world.tokens[symbol].address

    def _give(self, user: Address, symbol: str, amount: int) -> None:
        self.actors.fund(user, symbol, amount)
        self.actors.approve(user, self.market.comet, symbol)

    def _supply_collateral(self, user: Address | None = None) -> None:
        user, symbol = user or self._user(), self.random.choice(self.collaterals)
        amount = self.worth(symbol, self._dollars())
        self._give(user, symbol, amount)
        to = self._user() if self.random.random() < 0.1 else user
        self._send(user, "supplyTo(address,address,uint256)", to, self._token(symbol), amount)

    def _supply_base(self, user: Address | None = None) -> None:
        """Interest-bearing, or a repayment in part, of all, or of more than all."""
        user = user or self._user()
        owed = self._owed(user)
        amount = self.random.choice((owed, max(int(owed * self.random.random() * 1.3), 1), MAX_UINT256))
        if owed == 0:
            amount = self.worth(self.base, self._dollars())
        self._give(user, self.base, amount if amount < MAX_UINT256 else owed * 2)
        self._send(user, "supply(address,uint256)", self._token(self.base), amount)

    def _borrow(self, user: Address | None = None, share: float | None = None) -> None:
        user = user or self._user()
        amount = int(self._room(user) * (share or self.random.uniform(0.3, 0.999)))
        if amount > 0:
            self._send(user, "withdraw(address,uint256)", self._token(self.base), amount)

    def _withdraw_base(self) -> None:
        user = self._user()
        (owned,) = self.actors.rpc.views([(self.market.comet, "balanceOf(address)", (user,), ("uint256",))])
        assert owned is not None
        if owned[0]:
            amount = self.random.choice((MAX_UINT256, max(int(owned[0] * self.random.random()), 1)))
            self._send(user, "withdraw(address,uint256)", self._token(self.base), amount)

    def _withdraw_collateral(self) -> None:
        user = self._user()
        for symbol, held in self._holdings(user)[:1]:
            amount = self.random.choice((held, max(int(held * self.random.random() * 0.5), 1)))
            self._send(user, "withdraw(address,uint256)", self._token(symbol), amount)

    def _transfer_collateral(self) -> None:
        user = self._user()
        for symbol, held in self._holdings(user)[:1]:
            amount = self.random.choice((held, max(int(held * self.random.random() * 0.3), 1)))
            self._send(user, "transferAsset(address,address,uint256)", self._user(), self._token(symbol), amount)

    def _transfer_base(self) -> None:
        """Whether sender and receiver supply or owe: where both owe, no log tells."""
        user, to = self._user(), self._user()
        amount = max(int(self._room(user) * self.random.random()), 1)
        self._send(user, "transfer(address,uint256)", to, amount)

    def _accrue(self) -> None:
        self._send(self._user(), "accrueAccount(address)", self._user())

    def _reprice(self) -> None:
        self._price(self.random.choice(self.collaterals), 0.15)

    def _price(self, symbol: str, widest: float) -> None:
        home = SPECS[symbol].price
        pulled = self.prices[symbol] ** 0.7 * home**0.3
        self.prices[symbol] = max(int(pulled * math.exp(self.random.uniform(-widest, widest))), 1)
        self.actors.set_price(symbol, self.prices[symbol])

    def _absorb(self) -> None:
        """Some, whether liquidatable or not."""
        some = self.weak if self.weak and self.random.random() < 0.9 else self.users
        chosen = self.random.sample(some, min(self.random.choice((1, 1, 2)), len(some)))
        self._send(self.buyer, "absorb(address,address[])", self.buyer, chosen)

    def _buy(self) -> None:
        symbol = self.random.choice(self.collaterals)
        amount = self.worth(self.base, self._dollars() / 10)
        self._give(self.buyer, self.base, amount)
        signature = "buyCollateral(address,uint256,uint256,address)"
        self._send(self.buyer, signature, self._token(symbol), 0, amount, self.buyer)

    def _pause(self) -> None:
        flags = [self.random.random() < 0.1 for _ in range(5)]
        self._send(self.buyer, "pause(bool,bool,bool,bool,bool)", *flags)

    def _reserves(self) -> None:
        """Taken out by governance, or given by anybody."""
        if self.random.random() < 0.5:
            self.actors.fund(self.market.comet, self.random.choice([self.base, *self.collaterals]), 10**6)
        else:
            self._send(self.buyer, "withdrawReserves(address,uint256)", self.buyer, self.random.randrange(10**6))

    def _owed(self, user: Address) -> int:
        (owed,) = self.actors.rpc.views([(self.market.comet, "borrowBalanceOf(address)", (user,), ("uint256",))])
        assert owed is not None
        return int(owed[0])

    def _room(self, user: Address) -> int:
        """What the user may still borrow, base units, roughly."""
        factors = {item.symbol: item.borrow for item in self.market.spec.collaterals}
        dollars = sum(
            held / 10 ** SPECS[symbol].decimals * self.prices[symbol] / _USD * factors[symbol] / 10_000
            for symbol, held in self._holdings(user)
        )
        return max(self.worth(self.base, dollars) - self._owed(user), 0)

    def _holdings(self, user: Address) -> list[tuple[str, int]]:
        """What the user has as collateral, in random order."""
        types = ("uint128", "uint128")
        view = "userCollateral(address,address)"
        answers = self.actors.rpc.views(
            [(self.market.comet, view, (user, self._token(symbol)), types) for symbol in self.collaterals]
        )
        found = [(s, int(a[0])) for s, a in zip(self.collaterals, answers, strict=True) if a is not None and a[0]]
        self.random.shuffle(found)
        return found


_ACTIONS: dict[str, Callable[[CometCrowd], None]] = {
    "supply collateral": CometCrowd._supply_collateral,
    "supply base": CometCrowd._supply_base,
    "borrow": CometCrowd._borrow,
    "withdraw base": CometCrowd._withdraw_base,
    "withdraw collateral": CometCrowd._withdraw_collateral,
    "transfer collateral": CometCrowd._transfer_collateral,
    "transfer base": CometCrowd._transfer_base,
    "accrue": CometCrowd._accrue,
    "price": CometCrowd._reprice,
    "absorb": CometCrowd._absorb,
    "buy": CometCrowd._buy,
    "pause": CometCrowd._pause,
    "reserves": CometCrowd._reserves,
}
_WEIGHTS = {
    "supply collateral": 16,
    "supply base": 12,
    "borrow": 18,
    "withdraw base": 6,
    "withdraw collateral": 8,
    "transfer collateral": 6,
    "transfer base": 10,
    "accrue": 3,
    "price": 6,
    "absorb": 10,
    "buy": 8,
    "pause": 3,
    "reserves": 3,
}
