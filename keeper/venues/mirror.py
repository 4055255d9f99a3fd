"""What every factory of pools has in common: finding them, following their logs, distrusting single ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import orjson

from keeper.errors import BadData, Transient
from keeper.model import Address, Block, Head, Hop, Log, Read, Skip, SkipReason, Watch
from keeper.ports import Client
from keeper.program import Step
from keeper.rewind import Rewind

_READS_AT_ONCE = 4_000  # the client makes requests of them that a node will take
EMPTIED, UNINITIALISED, ILLIQUID = "its last event emptied it", "it is not initialised", "it has no liquidity"
_ENDED_BY_AN_EVENT = frozenset({EMPTIED, UNINITIALISED, ILLIQUID})  # reasons that a log of the pool puts an end to
_REORG_MARGIN = 256  # blocks of old factory logs looked at again after a restart


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """What never changes about a pool. `fee` in pips (1e-6); `spacing` is 0 where there are no ticks."""

    address: Address
    token0: Address
    token1: Address
    fee: int
    spacing: int = 0


class _Pool(Protocol):
    @property
    def address(self) -> Address: ...


P = TypeVar("P", bound=_Pool)


class StateMirror(ABC, Generic[P]):
    """The pools of one factory between the tokens that matter, each an immutable value replaced by its events.

    A pool whose logs contradict what is known of it, or that the audit finds different, is *stale*: left out of
    `usable` and re-read by the next `refresh`. The mirror as a whole is unknown before `load` and after `distrust`.
    """

    # Set by the subclass.
    version: str
    created: str  # topic0 of the factory's event
    followed: frozenset[str]  # topic0 of the pools' events

    def __init__(self, name: str, factory: Address, start_block: int, tokens: Iterable[Address]) -> None:
        self.name = name
        self.factory = factory
        self._start_block = start_block
        self._tokens = frozenset(tokens)
        self._searched: frozenset[Address] = frozenset()  # tokens whose pools have been looked for
        self._scanned = start_block - 1
        self._infos: dict[Address, PoolInfo] = {}
        self._states: dict[Address, P] = {}
        self._stale: dict[Address, str] = {}
        self._unusable: dict[Address, str] = {}
        self._rewind = Rewind()
        self._number: int | None = None
        self._oldest = 0  # nothing is known of the state before this block
        self._distrusted = "it has not been loaded"
        self._cursor = self._again = 0

    # ------------------------------------------------------------------------------------------ for the router

    def usable(self) -> list[P]:
        """States of which pools can be quoted exactly now; none while the mirror is unknown."""
        if self._distrusted:
            return []
        return [pool for address, pool in self._states.items() if address not in self._stale]

    def pool(self, address: Address) -> P | None:
        """One of `usable`, or None."""
        return None if self._distrusted or address in self._stale else self._states.get(address)

    @property
    def excluded(self) -> Mapping[Address, str]:
        """Known pools that are not quoted, each with the reason."""
        return self._unusable | self._stale

    # ---------------------------------------------------------------------------------------------- ports.Venue

    def payee(self, hop: Hop) -> Address | None:
        """The pool itself."""
        return hop.pool

    def enclose(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Nothing need be open."""
        return steps

    # --------------------------------------------------------------------------------------------- ports.Mirror

    @property
    def history_from(self) -> int | None:
        """None: the present state is read."""
        return None

    @property
    def dirty(self) -> bool:
        """Some pool has to be re-read."""
        return bool(self._stale)

    def watch(self) -> Watch:
        """Where pools are announced, and every known pool."""
        return Watch(self._announcers() | self._infos.keys(), self.followed | {self.created})

    def reads(self) -> tuple[Read, ...]:
        """Nothing is read at every head."""
        return ()

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Nothing to take."""

    def apply(self, block: Block) -> None:
        """Advance by one block; a log that makes no sense makes its pool stale, only a factory's raises BadData."""
        self._rewind.begin(block.head.number)
        for log in block.logs:
            self._take(log)
        self._number = block.head.number

    def replay(self, logs: Sequence[Log]) -> None:
        """Advance over old blocks, without undo records."""
        for log in logs:
            self._take(log)
            self._number = self._oldest = log.block_number

    def rewind(self, number: int) -> None:
        """Return to the state after block `number`; raises BadData when that is no longer known."""
        if self._number is None or number >= self._number:
            return
        if number < self._oldest:
            raise BadData(f"{self.name} cannot step back to block {number}: it was read at block {self._oldest}")
        self._rewind.back(number)
        self._number = number
        self._scanned = min(self._scanned, number)

    def distrust(self, reason: str) -> None:
        """Offer no pool until `load` has read everything anew."""
        self._distrusted = reason or "it was distrusted without a reason"

    def follow(self, tokens: Iterable[Address]) -> None:
        """Add tokens that matter: pools that are created from now on count, those there are wait for a `search`."""
        self._tokens |= frozenset(tokens)

    @property
    def unsearched(self) -> frozenset[Address]:
        """Tokens whose pools nobody has looked for; none while everything has to be loaded anyway."""
        return frozenset() if self._distrusted else self._tokens - self._searched

    async def search(self, client: Client, head: Head) -> None:
        """Find the pools of all tokens up to `head`; those that are new are read by the next `refresh`.

        May run beside anything else: what is known stays in use, and nothing changes before all is found. Raises
        Transient when `head` is behind the mirror: what was created in between would be passed over.
        """
        wanted = self._tokens
        if self._number is not None and head.number < self._number:
            raise Transient(
                f"{self.name} is at block {self._number}, and the node that is to be searched at {head.number}"
            )
        found = await self._found(client, self._start_block, head.number)
        if self._distrusted:
            return
        for address, info in found.items():
            if address not in self._infos:
                self._infos[address] = info
                self._stale[address] = "it was found just now"
        for address, reason in self._unusable.items():
            if reason not in _ENDED_BY_AN_EVENT:
                self._stale[address] = f"other tokens matter now: {reason}"
        self._searched |= wanted

    async def load(self, client: Client, head: Head) -> None:
        """Find the factory's pools up to `head` and read them all there."""
        wanted = self._tokens
        known = wanted <= self._searched
        first = max(self._start_block, self._scanned + 1 - _REORG_MARGIN) if known else self._start_block
        infos = self._infos | await self._found(client, first, head.number)
        states, unusable = await self._read_all(client, head, list(infos.values()))
        self._rewind.clear()
        self._infos, self._states, self._unusable, self._stale = infos, states, unusable, {}
        self._scanned = self._number = self._oldest = head.number
        self._searched = wanted
        self._distrusted = ""

    async def _found(self, client: Client, first: int, last: int) -> dict[Address, PoolInfo]:
        """Pools that were created between two blocks and matter."""
        words = frozenset("0x" + "00" * 12 + token[2:] for token in self._tokens)
        watch = Watch(self._announcers(), frozenset({self.created}), self._creations(words))
        found: dict[Address, PoolInfo] = {}
        if first <= last:
            async for _, _, logs in client.logs(watch, first, last):
                infos = (self._created(log) for log in logs)
                found.update((info.address, info) for info in infos if info is not None and self._matters(info))
        return found

    async def refresh(self, client: Client, head: Head) -> None:
        """Re-read every stale pool at `head`."""
        wanted = list(self._stale)
        if not wanted:
            return
        states, unusable = await self._read_all(client, head, [self._infos[address] for address in wanted])
        self._rewind.begin(head.number)
        for address in wanted:
            self._rewind.delete(self._stale, address)
            if address in states:
                self._rewind.set(self._states, address, states[address])
                self._rewind.delete(self._unusable, address)
            else:
                self._rewind.delete(self._states, address)
                self._rewind.set(self._unusable, address, unusable[address])
        self._number = head.number

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        """Compare the next `sample` pools with the chain at `head`, which must be the block they stand at.

        A Skip names the first difference; every pool that differs is stale from then on. So are the next `sample` of
        those that could not be used for what the node said, which may have been wrong.
        """
        if head.number != self._number or self._distrusted:
            return None
        self._reconsider(sample)
        pools = self.usable()
        if not pools:
            return None
        picked = [pools[(self._cursor + i) % len(pools)] for i in range(min(sample, len(pools)))]
        self._cursor += len(picked)
        read = await self._differences(client, head, picked)
        for address, difference in read.items():
            self._rewind.set(self._stale, address, difference)
        if not read:
            return None
        address, difference = next(iter(read.items()))
        detail = f"{self.name} pool {address} is not what the chain says at block {head.number}: {difference}"
        return Skip(SkipReason.MARKET_UNKNOWN, detail, {"pools": len(read)})

    def _reconsider(self, sample: int) -> None:
        doubtful = [address for address, reason in self._unusable.items() if reason not in _ENDED_BY_AN_EVENT]
        for number in range(min(sample, len(doubtful))):
            address = doubtful[(self._again + number) % len(doubtful)]
            self._rewind.set(self._stale, address, f"it is read again: {self._unusable[address]}")
        self._again += sample

    def snapshot(self) -> bytes:
        """Pools and their states; amounts as decimal text."""
        infos = [[i.address, i.token0, i.token1, i.fee, i.spacing] for i in self._infos.values()]
        states = {address: self._dump(pool) for address, pool in self._states.items() if address not in self._stale}
        return orjson.dumps(
            {
                "version": self.version,
                "factory": self._identity(),
                "start": self._start_block,
                "tokens": sorted(self._searched),
                "number": self._number,
                "scanned": self._scanned,
                "pools": infos,
                "states": states,
                "unusable": self._unusable,
                "distrusted": self._distrusted,
            }
        )

    def restore(self, data: bytes) -> None:
        """Take a snapshot of the same factory, of whatever tokens; raises BadData otherwise."""
        try:
            raw = orjson.loads(data)
            if (raw["version"], raw["factory"], raw["start"]) != (self.version, self._identity(), self._start_block):
                raise BadData(f"the snapshot of {self.name} belongs to another factory or version: delete it")
            infos = {
                Address(i[0]): PoolInfo(Address(i[0]), Address(i[1]), Address(i[2]), i[3], i[4]) for i in raw["pools"]
            }
            states = {Address(a): self._undump(infos[Address(a)], s) for a, s in raw["states"].items()}
            number, scanned, distrusted = raw["number"], int(raw["scanned"]), str(raw["distrusted"])
            unusable = {Address(a): str(reason) for a, reason in raw["unusable"].items()}
            searched = frozenset(Address(token) for token in raw["tokens"])
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BadData(f"the snapshot of {self.name} cannot be read ({error}): delete it") from error
        self._rewind.clear()
        self._infos, self._states, self._unusable = infos, states, unusable
        self._stale = {
            a: "it was stale when the snapshot was made" for a in infos if a not in states and a not in unusable
        }
        self._number, self._scanned, self._distrusted, self._searched = number, scanned, distrusted, searched
        self._oldest = number or 0

    # ------------------------------------------------------------------------------------------ for a subclass

    @abstractmethod
    def _created(self, log: Log) -> PoolInfo | None:
        """The pool a factory's log announces, None for one of no use; raises BadData when it cannot be decoded."""

    @abstractmethod
    def _advance(self, pool: P, log: Log) -> P | None:
        """The pool after one of its logs; None when it is not usable any more; raises BadData on a contradiction."""

    @abstractmethod
    def _born(self, info: PoolInfo, log: Log) -> P | None:
        """The first state of a pool, from a log that came while it had none."""

    @abstractmethod
    async def _read_all(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> tuple[dict[Address, P], dict[Address, str]]:
        """States at `head`, and why each of the others has none."""

    @abstractmethod
    async def _differences(self, client: Client, head: Head, pools: Sequence[P]) -> dict[Address, str]:
        """What is different on chain, for the pools where something is."""

    @abstractmethod
    def _dump(self, pool: P) -> Any:
        """A state as JSON."""

    @abstractmethod
    def _undump(self, info: PoolInfo, raw: Any) -> P:
        """The inverse of `_dump`."""

    def _identity(self) -> str:
        """What a snapshot must have been made of."""
        return self.factory

    def _announcers(self) -> frozenset[Address]:
        """Who emits the event that announces pools."""
        return frozenset({self.factory})

    def _creations(self, words: frozenset[str]) -> tuple[frozenset[str], ...]:
        """The indexed words of the factory's event that announce pools between tokens, which are `words`."""
        return words, words

    def _matters(self, info: PoolInfo) -> bool:
        return info.token0 in self._tokens and info.token1 in self._tokens

    def _subject(self, log: Log) -> Address | None:
        """The pool that a log of a followed topic is about."""
        return log.address

    def _take(self, log: Log) -> None:
        if not log.topics:
            return
        if log.topics[0] == self.created and log.address in self._announcers():
            info = self._created(log)
            if info is not None and self._matters(info) and info.address not in self._infos:
                self._rewind.set(self._infos, info.address, info)
                # Its first logs may be in this very block, which was fetched without knowing it.
                self._rewind.set(self._stale, info.address, "it was created just now")
            return
        subject = self._subject(log) if log.topics[0] in self.followed else None
        known = None if subject is None else self._infos.get(subject)
        if subject is None or known is None or subject in self._stale:
            return
        try:
            pool = self._states.get(subject)
            after = self._born(known, log) if pool is None else self._advance(pool, log)
        except BadData as error:
            self._rewind.set(self._stale, subject, str(error))
            return
        if after is not None:
            self._rewind.set(self._states, subject, after)
            self._rewind.delete(self._unusable, subject)
        elif pool is not None:
            self._rewind.delete(self._states, subject)
            self._rewind.set(self._unusable, subject, EMPTIED)


class PoolMirror(StateMirror[P]):
    """A mirror whose states are what the router trades in."""

    def pools(self) -> list[P]:
        """Pools that can be quoted exactly now; none while the mirror is unknown."""
        return self.usable()


async def read_many(client: Client, head: Head, reads: Collection[Read]) -> list[bytes | None]:
    """Any number of views pinned to `head`."""
    wanted = list(reads)
    answers: list[bytes | None] = []
    for start in range(0, len(wanted), _READS_AT_ONCE):
        answers += await client.read(wanted[start : start + _READS_AT_ONCE], head)
    return answers
