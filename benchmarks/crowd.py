"""Made-up borrowers, five entries each: as a ledger, as the logs a node would serve, and as its answers to views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
from numpy.typing import NDArray

from keeper.maths.wad_ray import RAY
from keeper.model import Address
from keeper.protocols.aave_v3 import events, snapshot
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.rewind import Rewind

ENTRIES = 5
SUPPLIED = 3  # of them
_MARK = 0xC0FFEE << 136  # what a made-up address begins with


@dataclass(frozen=True, slots=True)
class Asset:
    """A reserve as the crowd uses it; `dollar` is base units worth one."""

    number: int
    address: Address
    a_token: Address
    v_token: Address
    dollar: float


def who(user: int) -> Address:
    """The address of a made-up user."""
    return Address(f"0x{_MARK + user:040x}")


def index_of(address: str) -> int | None:
    """The inverse; None for anybody else."""
    number = int(address, 16) - _MARK
    return number if 0 <= number < 1 << 64 else None


@dataclass(frozen=True)
class Crowd:
    """`users` people, far from any danger; the same arguments give the same people."""

    users: int
    assets: Sequence[Asset]
    pool: Address
    seed: int = 1

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(users, 5) slots, the supplied ones first."""
        dice = np.random.default_rng(self.seed)
        numbers = np.array([asset.number for asset in self.assets])
        picks = numbers[np.argsort(dice.random((self.users, len(numbers))), axis=1)[:, :ENTRIES]]
        sides = np.array([SUPPLY] * SUPPLIED + [DEBT] * (ENTRIES - SUPPLIED))
        found: NDArray[np.int64] = picks * 2 + sides
        return found

    @cached_property
    def amounts(self) -> NDArray[np.uint64]:
        """(users, 5) scaled amounts: supplies of 2 to 5 dollars, debts of 20 to 50 cents."""
        dice = np.random.default_rng(self.seed + 1)
        dollars = dice.uniform(2.0, 5.0, (self.users, ENTRIES))
        dollars[:, SUPPLIED:] /= 10.0
        unit = np.zeros(256)
        for asset in self.assets:
            unit[slot(asset.number, SUPPLY)] = unit[slot(asset.number, DEBT)] = asset.dollar
        return (dollars * unit[self.slots]).astype(np.uint64)

    def amount(self, user: int, where: int) -> int:
        """One scaled balance."""
        found = np.flatnonzero(self.slots[user] == where)
        return int(self.amounts[user, found[0]]) if len(found) else 0

    def total(self, where: int) -> int:
        """Sum of one slot, exact."""
        return sum(self.amounts[self.slots == where].tolist())

    def ledger(self) -> Ledger:
        """Everybody, entries side by side."""
        ledger = Ledger(Rewind())
        entries = self.users * ENTRIES
        ledger.names = [who(user) for user in range(self.users)]
        ledger.users = {name: user for user, name in enumerate(ledger.names)}
        ledger.counts = [self.users, entries]
        ledger.emode.load(np.zeros(self.users, np.int16))
        ledger.first.load(np.zeros(self.users, np.int32))
        ledger.owner.load(np.repeat(np.arange(self.users, dtype=np.int32), ENTRIES))
        ledger.slot.load(self.slots.reshape(-1).astype(np.int16))
        ledger.following.load(np.zeros(entries, np.int32))
        ledger.enabled.load((self.slots.reshape(-1) % 2 == SUPPLY).astype(np.uint8))
        ledger.amount.load(np.stack([self.amounts.reshape(-1), np.zeros(entries, np.uint64)], axis=1))
        snapshot.derive(ledger)
        ledger.compact()
        return ledger

    # -------------------------------------------------------------------------------------------------- logs

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """In which order the entries came to be."""
        return np.random.default_rng(self.seed + 2).permutation(self.users * ENTRIES)

    def logs(self, block: int, blocks: int, number: int, block_hash: str) -> bytes:
        """The logs of one of `blocks` blocks, numbered `number`, as a node writes them, without the brackets."""
        entries = self.users * ENTRIES
        by_number = {asset.number: asset for asset in self.assets}
        found: list[dict[str, object]] = []
        for entry in self.order[block * entries // blocks : (block + 1) * entries // blocks].tolist():
            user, place = divmod(entry, ENTRIES)
            where, amount = int(self.slots[user, place]), int(self.amounts[user, place])
            asset, side = by_number[where // 2], where % 2
            name, transaction = _topic(who(user)), f"0x{entry + 1:064x}"
            rates = "0x" + _word(RAY // 50) + _word(0) + _word(RAY // 20) + _word(RAY) + _word(RAY)
            change = "0x" + _word(amount) + _word(0) + _word(RAY)
            token = asset.a_token if side == SUPPLY else asset.v_token
            raw: list[tuple[str, list[str], str]] = [
                (self.pool, [events.RESERVE_DATA, _topic(asset.address)], rates),
                (token, [events.MINT, name, name], change),
            ]
            if side == SUPPLY:
                raw.append((self.pool, [events.COLLATERAL_ON, _topic(asset.address), name], "0x"))
            for address, topics, data in raw:
                found.append(
                    {
                        "address": address,
                        "topics": topics,
                        "data": data,
                        "blockHash": block_hash,
                        "blockNumber": hex(number),
                        "transactionHash": transaction,
                        "transactionIndex": "0x1",
                        "logIndex": hex(len(found)),
                        "removed": False,
                    }
                )
        return orjson.dumps(found)[1:-1]


def _word(value: int) -> str:
    return f"{value:064x}"


def _topic(address: str) -> str:
    return "0x" + address[2:].rjust(64, "0")
