"""A seeded crowd that does everything one can do to Morpho's markets, most of it sensible, some of it refused."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

from keeper.devchain.actors import Actors, account
from keeper.devchain.artifacts import own_contracts
from keeper.devchain.catalogue import SPECS
from keeper.devchain.morpho import Morpho, MorphoMarket, market_of
from keeper.devchain.morpho_users import MorphoUsers
from keeper.model import ZERO_ADDRESS, Address, address
from tests.support.solidity import compiled_contracts

_USD = 10**8
WAD = 10**18
YEAR = 365 * 86_400


class Crowd:
    """`users` accounts on every market. `tried` and `done` count operations by name."""

    def __init__(self, actors: Actors, morpho: Morpho, users: int, seed: int) -> None:
        self.actors, self.morpho = actors, morpho
        self.hands = MorphoUsers(actors, morpho)
        self.random = random.Random(seed)
        self.users = [account(f"morpho {seed} {i}") for i in range(users)]
        self.markets = list(morpho.markets.values())
        self.prices = {symbol: spec.price for symbol, spec in SPECS.items()}
        self.recipients = [account("morpho fees"), account("morpho other fees")]
        self.agents = [account(f"morpho agent {i}") for i in range(3)]
        self.liquidator = account("morpho liquidator")
        self.weak: list[tuple[Address, MorphoMarket]] = []
        self.tried: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    @property
    def everybody(self) -> list[Address]:
        """The crowd, whoever gets fees, and those the chain was built with."""
        return [*self.users, *self.recipients, Address("0x" + "5a" * 20), Address("0x" + "5b" * 20)]

    # ------------------------------------------------------------------------------------- stranger markets

    def deploy(self, code: bytes) -> Address:
        """Create a contract."""
        sent = self.actors.submit(self.morpho.owner, None, code, gas=8_000_000)
        return address(self.actors.rpc.request("eth_getTransactionReceipt", sent)["contractAddress"])

    def linear_model(self) -> Address:
        """Another interest rate model, enabled."""
        code = compiled_contracts()["LinearIrm"].creation({}, self.morpho.address, WAD // 50 // YEAR, WAD // 5 // YEAR)
        model = self.deploy(code)
        self.actors.send(self.morpho.owner, self.morpho.address, "enableIrm(address)", model)
        return model

    def add_market(self, collateral: str, loan: str, lltv: int, irm: Address | None = None) -> MorphoMarket:
        """One more market, with an oracle of its own; `lltv` in basis points."""
        world = self.actors.world
        oracle = self.deploy(
            own_contracts()["MorphoOracle"].creation(
                {},
                world.feeds[collateral].proxy,
                world.feeds[loan].proxy,
                SPECS[collateral].decimals,
                SPECS[loan].decimals,
                self.morpho.owner,
            )
        )
        tokens = {symbol: token.address for symbol, token in world.tokens.items()}
        model = self.morpho.irm if irm is None else irm
        market = market_of(collateral, loan, tokens, oracle, model, lltv * 10**14)
        self.hands.create(market)
        self.hands.supply(account("morpho lender"), market, self.worth(loan, 5_000_000))
        self.markets.append(market)
        return market

    def strangers(self) -> None:
        """A market without interest, one with another model, and one more of the usual kind."""
        self.add_market("WETH", "DAI", 7_700, ZERO_ADDRESS)
        self.add_market("WETH", "USDT", 8_600, self.linear_model())
        self.add_market("LINK", "WETH", 6_250)

    # ------------------------------------------------------------------------------------------------- life

    def settle(self) -> None:
        """Everybody pledges something somewhere and borrows some of what it allows."""
        for start in range(0, len(self.users), 10):
            with self.actors.block(strict=False):
                for user in self.users[start : start + 10]:
                    self._position(user, self.random.uniform(0.2, 0.97))

    def lever(self, users: int) -> None:
        """Some more positions, at their limit."""
        with self.actors.block(strict=False):
            for user in self.random.sample(self.users, min(users, len(self.users))):
                self._position(user, self.random.uniform(0.97, 0.9999))

    def shake(self, widest: float = 0.25) -> None:
        """Move some prices, drawn back to where they started."""
        with self.actors.block():
            for symbol in self.random.sample(sorted(SPECS), self.random.randint(1, 3)):
                self._price(symbol, widest)

    def step(self, operations: int) -> None:
        """Do this many random operations, several to a block."""
        names = list(_WEIGHTS)
        while operations > 0:
            count = min(self.random.choice((1, 2, 4, 8)), operations)
            operations -= count
            marks: list[tuple[str, int]] = []
            sent = self.actors._sent
            with self.actors.block(self.random.choice((1, 12, 12, 24)), strict=False) as receipts:
                for name in self.random.choices(names, list(_WEIGHTS.values()), k=count):
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
                self.actors.mine(self.random.choice((60, 3_600, 86_400, 20 * 86_400)))

    def worth(self, symbol: str, dollars: float) -> int:
        """Base units of so many dollars."""
        return max(int(dollars * _USD * 10 ** SPECS[symbol].decimals / self.prices[symbol]), 1)

    # -------------------------------------------------------------------------------------------- operations

    def _dollars(self) -> float:
        return math.exp(self.random.uniform(math.log(1), math.log(60_000)))

    def _user(self) -> Address:
        return self.random.choice(self.users)

    def _market(self) -> MorphoMarket:
        return self.random.choice(self.markets)

    def _position(self, user: Address, share: float) -> None:
        market, dollars = self._market(), self._dollars()
        self.hands.pledge(user, market, self.worth(market.collateral, dollars))
        debt = self.worth(market.loan, dollars * share * market.lltv / WAD)
        self.hands.borrow(user, market, assets=debt)

    def _held(self, which: int) -> tuple[Address, MorphoMarket, int] | None:
        """Somebody with supply (0), debt (1) or collateral (2), and how much."""
        for _ in range(12):
            user, market = self._user(), self._market()
            amount = self.hands.position(user, market)[which]
            if amount:
                return user, market, amount
        return None

    def _supply(self) -> None:
        market = self._market()
        self.hands.supply(self._user(), market, self.worth(market.loan, self._dollars()))

    def _withdraw(self) -> None:
        if (found := self._held(0)) is not None:
            user, market, shares = found
            part = self.random.choice((shares, max(int(shares * self.random.random()), 1)))
            if self.random.random() < 0.5:
                self.hands.withdraw(user, market, shares=part)
            else:
                self.hands.withdraw(user, market, assets=max(part // 10**6, 1))

    def _pledge(self) -> None:
        market = self._market()
        self.hands.pledge(self._user(), market, self.worth(market.collateral, self._dollars()))

    def _release(self) -> None:
        if (found := self._held(2)) is not None:
            user, market, held = found
            self.hands.release(user, market, self.random.choice((held, max(int(held * self.random.random() * 0.4), 1))))

    def _borrow(self) -> None:
        if (found := self._held(2)) is not None:
            user, market, held = found
            dollars = held * self.prices[market.collateral] / 10 ** SPECS[market.collateral].decimals / _USD
            assets = self.worth(market.loan, dollars * self.random.uniform(0.05, 0.6))
            if self.random.random() < 0.6:
                self.hands.borrow(user, market, assets=assets)
            else:
                self.hands.borrow(user, market, shares=assets * 10**6)

    def _repay(self) -> None:
        if (found := self._held(1)) is not None:
            user, market, shares = found
            gift = max(shares * 2 // 10**6, 10)
            if self.random.random() < 0.5:
                self.hands.repay(user, market, shares=self.random.choice((shares, shares // 3 + 1)), gift=gift)
            else:
                self.hands.repay(user, market, assets=max(int(shares * self.random.random()) // 10**6, 1), gift=gift)

    def _liquidate(self) -> None:
        """Somebody, whether liquidatable or not, by a random amount of collateral or shares, or by all."""
        weak = self.random.choice(self.weak) if self.weak and self.random.random() < 0.9 else None
        found = self._held(1) if weak is None else (*weak, 0)
        if found is None:
            return
        user, market, _ = found
        _, shares, collateral = self.hands.position(user, market)
        part = self.random.choice((1.0, 1.0, self.random.random()))
        gift = max(shares * 2 // 10**6, 10)
        if self.random.random() < 0.5:
            seized = max(int(collateral * part) if part < 1 else collateral, 1)
            self.hands.liquidate(self.liquidator, market, user, seized=seized, gift=gift)
        else:
            shares = max(int(shares * part) if part < 1 else shares, 1)
            self.hands.liquidate(self.liquidator, market, user, shares=shares, gift=gift)

    def _accrue(self) -> None:
        self.hands.accrue(self._user(), self._market())

    def _authorize(self) -> None:
        self.hands.authorize(self._user(), self.random.choice(self.agents), allowed=self.random.random() < 0.7)

    def _reprice(self) -> None:
        self._price(self.random.choice(sorted(SPECS)), 0.15)

    def _price(self, symbol: str, widest: float) -> None:
        pulled = self.prices[symbol] ** 0.7 * SPECS[symbol].price ** 0.3
        self.prices[symbol] = max(int(pulled * math.exp(self.random.uniform(-widest, widest))), 1)
        self.actors.set_price(symbol, self.prices[symbol])

    def _govern(self) -> None:
        if self.random.random() < 0.3:
            self.hands.set_fee_recipient(self.random.choice(self.recipients))
        else:
            self.hands.set_fee(self._market(), self.random.choice((0, WAD // 10, WAD // 4, WAD // 7)))


_ACTIONS: dict[str, Callable[[Crowd], None]] = {
    "supply": Crowd._supply,
    "withdraw": Crowd._withdraw,
    "pledge": Crowd._pledge,
    "release": Crowd._release,
    "borrow": Crowd._borrow,
    "repay": Crowd._repay,
    "liquidate": Crowd._liquidate,
    "accrue": Crowd._accrue,
    "authorize": Crowd._authorize,
    "price": Crowd._reprice,
    "govern": Crowd._govern,
}
_WEIGHTS = {
    "supply": 12,
    "withdraw": 10,
    "pledge": 12,
    "release": 8,
    "borrow": 16,
    "repay": 12,
    "liquidate": 14,
    "accrue": 4,
    "authorize": 4,
    "price": 6,
    "govern": 4,
}
