"""Morpho's events made up, one consistent life after another, without a chain."""

from __future__ import annotations

import random

from keeper.model import Address, Block, Hash, Head, Log, Token, address
from keeper.protocols.morpho_blue import MorphoBlueBook, events
from keeper.protocols.morpho_blue.irm import INITIAL, Kind
from tests.support.aave_driver import Alerts

MORPHO = address("0x" + "b1" * 20)
IRM = address("0x" + "12" * 20)
STRANGE = address("0x" + "13" * 20)
FACTORY = address("0x" + "fa" * 20)
GENESIS = 1_700_000_000
WAD = 10**18


def word(*values: int) -> bytes:
    """Numbers as calldata words."""
    return b"".join(value.to_bytes(32, "big") for value in values)


def topic(name: str) -> str:
    """An address as an indexed word."""
    return "0x" + "00" * 12 + name[2:]


def new_book(**options: int) -> MorphoBlueBook:
    """A book that knows nothing yet."""
    return MorphoBlueBook("morpho", MORPHO, 1, None, Alerts(), factories=[FACTORY], **options)


class Life:
    """Writes blocks of logs that never contradict themselves; `book` is what they are written for."""

    def __init__(self, book: MorphoBlueBook, seed: int, users: int) -> None:
        self.book = book
        self.random = random.Random(seed)
        self.users = [address(self.random.randbytes(20)) for _ in range(users)]
        self.tokens = [address(self.random.randbytes(20)) for _ in range(4)]
        self.contracts = [address(self.random.randbytes(20)) for _ in range(3)]
        self.number = 100
        self.logs: list[Log] = []

    @property
    def timestamp(self) -> int:
        """Of the block that is being written."""
        return GENESIS + 12 * self.number

    def head(self, number: int, fork: int = 0) -> Head:
        """A header; `fork` tells branches apart."""
        return Head(number, Hash(f"0x{number:x}{fork:02x}"), Hash(f"0x{number - 1:x}"), GENESIS + 12 * number, 10**9)

    def block(self, fork: int = 0) -> Block:
        """What was written since the last block, as the next one."""
        logs, self.logs = tuple(self.logs), []
        self.number += 1
        return Block(self.head(self.number - 1, fork), logs)

    def emit(self, name: str, topics: list[str], data: bytes, by: Address = MORPHO) -> None:
        """One log, applied at once to a book of its own so that what follows can be consistent with it."""
        log = Log(by, (name, *topics), data, self.number, len(self.logs), Hash(f"0x{self.number:064x}"))
        self.logs.append(log)

    def create(self, irm: Address = IRM) -> str:
        """A market."""
        market = "0x" + self.random.randbytes(32).hex()
        loan, collateral = self.random.sample(self.tokens, 2)
        oracle = address(self.random.randbytes(20))
        lltv = self.random.choice((385, 625, 770, 860, 915, 945, 965)) * 10**15
        words = word(*(int(a, 16) for a in (loan, collateral, oracle, irm)), lltv)
        self.emit(events.CREATE_MARKET, [market], words)
        self.emit(events.RATE_UPDATE, [market], word(INITIAL, INITIAL), irm)
        return market

    def act(self) -> None:
        """Something random that the book's present state allows; writes at most one position's change per block."""
        rng, registry, ledger = self.random, self.book._registry, self.book._ledger
        if not len(registry) or rng.random() < 0.03:
            self.create(rng.choice((IRM, IRM, IRM, STRANGE, Address("0x" + "00" * 20))))
            return
        number = rng.randrange(len(registry))
        params, state = registry.params[number], registry.states[number]
        user = rng.choice(self.users)
        entry = ledger.find(number, user)
        owed = 0 if entry is None else ledger.borrow[entry]
        held = 0 if entry is None else ledger.collateral[entry]
        lent = 0 if entry is None else ledger.supply[entry]
        who, amount = topic(user), rng.randrange(1, 10 ** rng.randrange(3, 24))
        choice = rng.randrange(10)
        if choice == 0:
            self.emit(events.SUPPLY, [params.id, who, who], word(amount, amount * 10**6))
        elif choice == 1 and lent:
            part = rng.randrange(1, lent + 1)
            assets = min(part // 10**6, state.supply_assets)
            self.emit(events.WITHDRAW, [params.id, who, who], word(int(user, 16), assets, part))
        elif choice in (2, 3):
            self.emit(events.SUPPLY_COLLATERAL, [params.id, who, who], word(amount))
        elif choice == 4 and held:
            words = word(int(user, 16), rng.randrange(1, held + 1))
            self.emit(events.WITHDRAW_COLLATERAL, [params.id, who, who], words)
        elif choice in (5, 6):
            self.emit(events.BORROW, [params.id, who, who], word(int(user, 16), amount, amount * 10**6))
        elif choice == 7 and owed:
            part = rng.randrange(1, owed + 1)
            self.emit(events.REPAY, [params.id, who, who], word(part // 10**6 + 1, part))
        elif choice == 8 and owed and held:
            seized = held if rng.random() < 0.5 else rng.randrange(1, held + 1)
            shares = rng.randrange(1, owed + 1)
            bad = owed - shares if seized == held else 0
            left = max(state.borrow_assets - shares // 10**6, 0)
            loss = min(bad // 10**6, left, state.supply_assets)
            words = word(shares // 10**6, shares, seized, loss, bad)
            self.emit(events.LIQUIDATE, [params.id, who, who], words)
        else:
            self._rest(params.id, user)

    def _rest(self, market: str, user: Address) -> None:
        rng = self.random
        choice = rng.randrange(5)
        if choice == 0:
            self.emit(events.SET_FEE_RECIPIENT, [topic(rng.choice(self.users))], b"")
        elif choice == 1:
            self.emit(events.SET_FEE, [market], word(rng.randrange(WAD // 4)))
        elif choice == 2:
            agents = [topic(user), topic(user), topic(rng.choice(self.contracts))]
            self.emit(events.AUTHORIZATION, agents, word(rng.randrange(2)))
        elif choice == 3:
            terms = (WAD // 3, WAD // 10, WAD, WAD, WAD + WAD // 50)
            words = word(int(market, 16), *terms, int(rng.choice(self.tokens), 16))
            self.emit(events.CREATE_PRE_LIQUIDATION, [topic(rng.choice(self.contracts))], words, FACTORY)
        else:
            fee = rng.randrange(10**6) if "" in self.book._follower.recipient else 0
            self.emit(events.RATE_UPDATE, [market], word(INITIAL, rng.randrange(1, 10**10)), IRM)
            self.emit(events.ACCRUE, [market], word(INITIAL, rng.randrange(10**18), fee))


def acquaint(book: MorphoBlueBook, life: Life) -> None:
    """Tell a book what it would read from the node: tokens and rate models."""
    book._tokens.update({token: Token(token, "T", 18) for token in life.tokens})
    book._registry.set_kind(IRM, Kind.ADAPTIVE)
    book._registry.set_kind(STRANGE, Kind.ASKED)
    book._synced = True
