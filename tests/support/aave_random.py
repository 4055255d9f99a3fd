"""A seeded crowd that does everything one can do to an Aave market, most of it sensible, some of it refused."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

from keeper.devchain.actors import Actors, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.lending import Market
from keeper.model import MAX_UINT256, Address

_USD = 10**8


class Crowd:
    """`users` accounts on one market. `tried` and `done` count operations by name."""

    def __init__(self, actors: Actors, market: Market, users: int, seed: int) -> None:
        self.actors, self.market = actors, market
        self.random = random.Random(seed)
        self.users = [account(f"{market.name} {seed} {i}") for i in range(users)]
        self.symbols = sorted(market.reserves)
        self.prices = {symbol: SPECS[symbol].price for symbol in self.symbols}
        self.tried: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.weak: list[Address] = []  # whom a liquidator would look at first
        self._emodes = (1, 2) if market.revision >= 10 else (1,)

    @property
    def everybody(self) -> list[Address]:
        """The crowd, the treasury and whoever liquidates."""
        return [*self.users, self.market.treasury, self.liquidator]

    @property
    def liquidator(self) -> Address:
        return account(f"{self.market.name} liquidator")

    def settle(self) -> None:
        """Give everybody something to start with: collateral of one or two kinds, and debt near the limit."""
        for start in range(0, len(self.users), 5):
            with self.actors.block(strict=False) as receipts:
                for user in self.users[start : start + 5]:
                    for _ in range(self.random.choice((1, 1, 2))):
                        self._supply(user)
            assert any(int(r["status"], 16) for r in receipts)
        for start in range(0, len(self.users), 10):
            with self.actors.block(strict=False):
                for user in self.users[start : start + 10]:
                    for _ in range(self.random.choice((0, 1, 1, 2))):
                        self._borrow(user)

    def lever(self, users: int) -> None:
        """Let some supply more and owe all they may."""
        chosen = self.random.sample(self.users, min(users, len(self.users)))
        for act in (self._supply, self._lever):
            with self.actors.block(strict=False):
                for user in chosen:
                    act(user)

    def reopen(self) -> None:
        """Lift every pause, without a grace period."""
        with self.actors.block():
            for symbol in self.symbols:
                self.actors.set_pause(self.market, symbol, paused=False)

    def step(self, operations: int) -> None:
        """Do this many random operations, several to a block."""
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
            if self.random.random() < 0.1:
                self.tried["time"] += 1
                self.done["time"] += 1
                self.actors.mine(self.random.choice((60, 3_600, 86_400, 30 * 86_400)))

    def shake(self, widest: float = 0.2) -> None:
        """Move some prices, drawn back to where they started."""
        with self.actors.block():
            for symbol in self.random.sample(self.symbols, self.random.randint(1, 3)):
                self._price(symbol, widest)

    def worth(self, symbol: str, dollars: float) -> int:
        """Base units of so many dollars."""
        return max(int(dollars * _USD * 10 ** SPECS[symbol].decimals / self.prices[symbol]), 1)

    # -------------------------------------------------------------------------------------------- operations

    def _dollars(self) -> float:
        return math.exp(self.random.uniform(math.log(60), math.log(40_000)))

    def _user(self) -> Address:
        return self.random.choice(self.users)

    def _symbol(self) -> str:
        return self.random.choice(self.symbols)

    def _supply(self, user: Address | None = None) -> None:
        user, symbol = user or self._user(), self._symbol()
        amount = self.worth(symbol, self._dollars())
        self.actors.fund(user, symbol, amount)
        token = self.actors.world.tokens[symbol].address
        if symbol == "USDT":
            self.actors.send(user, token, "approve(address,uint256)", self.market.pool, 0)
        self.actors.send(user, token, "approve(address,uint256)", self.market.pool, MAX_UINT256)
        signature = "supply(address,uint256,address,uint16)"
        self.actors.send(user, self.market.pool, signature, token, amount, user, 0)

    def _borrow(self, user: Address | None = None) -> None:
        user, symbol = user or self._user(), self._symbol()
        available = self.actors.standing(self.market, user).available / _USD
        self.actors.borrow(self.market, user, symbol, self.worth(symbol, available * self.random.uniform(0.3, 0.999)))

    def _lever(self, user: Address) -> None:
        symbol = self._symbol()
        available = self.actors.standing(self.market, user).available / _USD
        self.actors.borrow(self.market, user, symbol, self.worth(symbol, available * self.random.uniform(0.97, 0.9999)))

    def _repay(self) -> None:
        user = self._user()
        for symbol, debt in self._balances(user, debts=True)[:1]:
            amount = self.random.choice((MAX_UINT256, max(int(debt * self.random.random()), 1)))
            self.actors.fund(user, symbol, debt + debt // 10)
            self.actors.repay(self.market, user, symbol, amount)

    def _withdraw(self) -> None:
        user = self._user()
        for symbol, held in self._balances(user, debts=False)[:1]:
            amount = self.random.choice((MAX_UINT256, max(int(held * self.random.random() * 0.6), 1)))
            self.actors.withdraw(self.market, user, symbol, amount)

    def _transfer(self) -> None:
        user = self._user()
        for symbol, held in self._balances(user, debts=False)[:1]:
            amount = self.random.choice((held, max(int(held * self.random.random() * 0.5), 1)))
            self.actors.transfer_a_token(self.market, user, self._user(), symbol, amount)

    def _toggle(self) -> None:
        user = self._user()
        for symbol, _ in self._balances(user, debts=False)[:1]:
            self.actors.use_as_collateral(self.market, user, symbol, enabled=self.random.random() < 0.6)

    def _emode(self) -> None:
        self.actors.set_emode(self.market, self._user(), self.random.choice((0, *self._emodes)))

    def _reprice(self) -> None:
        self._price(self._symbol(), 0.15)

    def _price(self, symbol: str, widest: float) -> None:
        home = SPECS[symbol].price
        pulled = self.prices[symbol] ** 0.7 * home**0.3
        self.prices[symbol] = max(int(pulled * math.exp(self.random.uniform(-widest, widest))), 1)
        self.actors.set_price(symbol, self.prices[symbol])

    def _liquidate(self) -> None:
        """Somebody, whether liquidatable or not, by a random amount and in either currency of payment."""
        user = self.random.choice(self.weak) if self.weak and self.random.random() < 0.9 else self._user()
        held, owed = self._balances(user, debts=False), self._balances(user, debts=True)
        if not held or not owed:
            return
        debt, most = owed[0]
        amount = self.random.choice((MAX_UINT256, max(int(most * self.random.random()), 1)))
        self.actors.fund(self.liquidator, debt, most * 2)
        self.actors.liquidate(
            self.market,
            self.liquidator,
            user,
            held[0][0],
            debt,
            amount,
            receive_a_token=self.random.random() < 0.5,
        )

    def _govern(self) -> None:
        symbol, dice = self._symbol(), self.random.randrange(7)
        actors, market = self.actors, self.market
        if dice == 0:
            threshold = self.random.randrange(4_000, 8_400)
            actors.configure_collateral(
                market, symbol, threshold - 500, threshold, 10_000 + self.random.randrange(100, 1_100)
            )
        elif dice == 1:
            actors.set_pause(market, symbol, paused=True)
        elif dice in (2, 3):
            grace = self.random.choice((0, 0, 300, 3_600)) if market.revision >= 4 else 0
            for each in self.symbols:
                actors.set_pause(market, each, paused=False, grace=grace)
        elif dice == 4:
            actors.set_protocol_fee(market, symbol, self.random.choice((0, 1_000, 2_000)))
        elif dice == 5:
            threshold = self.random.randrange(8_500, 9_600)
            actors.set_emode_category(market, self.random.choice(self._emodes), threshold - 200, threshold, 10_150)
        else:
            actors.set_emode_collateral(
                market, symbol, self.random.choice(self._emodes), enabled=self.random.random() < 0.7
            )

    def _balances(self, user: Address, *, debts: bool) -> list[tuple[str, int]]:
        """What the user holds or owes, in random order."""
        tokens = [(s, r.debt_token if debts else r.a_token) for s, r in self.market.reserves.items()]
        answers = self.actors.rpc.views([(t, "balanceOf(address)", (user,), ("uint256",)) for _, t in tokens])
        found = [(s, int(a[0])) for (s, _), a in zip(tokens, answers, strict=True) if a is not None and a[0]]
        self.random.shuffle(found)
        return found


_ACTIONS: dict[str, Callable[[Crowd], None]] = {
    "supply": Crowd._supply,
    "borrow": Crowd._borrow,
    "repay": Crowd._repay,
    "withdraw": Crowd._withdraw,
    "transfer": Crowd._transfer,
    "toggle": Crowd._toggle,
    "emode": Crowd._emode,
    "price": Crowd._reprice,
    "liquidate": Crowd._liquidate,
    "govern": Crowd._govern,
}
_WEIGHTS = {
    "supply": 16,
    "borrow": 18,
    "repay": 12,
    "withdraw": 10,
    "transfer": 9,
    "toggle": 6,
    "emode": 7,
    "price": 6,
    "liquidate": 12,
    "govern": 4,
}
