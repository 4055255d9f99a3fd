"""What every wrapper's mirror has in common: one contract, no logs, everything read at every head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

import orjson

from keeper.errors import BadData
from keeper.model import Address, Block, Head, Hop, Log, Read, Skip, SkipReason, Watch
from keeper.ports import Client
from keeper.program import Step
from keeper.venues.wrappers.pool import RatePool

P = TypeVar("P", bound=RatePool)


class RateMirror(ABC, Generic[P]):
    """One wrapper. Its rate moves without events, so it is known from the observation of a head until the next block.

    Its pool is left out while the contract answers otherwise than the formula known here.
    """

    version: ClassVar[str]

    def __init__(self, name: str, wrapper: Address) -> None:
        self.name = name
        self.factory = wrapper
        self._pool: P | None = None
        self._asset: Address | None = None
        self._why = "it has not been loaded"
        self._distrusted = True

    # ------------------------------------------------------------------------------------------ for the router

    def pools(self) -> list[P]:
        """The conversion, unless it is unknown."""
        return [] if self._pool is None or self._distrusted else [self._pool]

    @property
    def excluded(self) -> dict[Address, str]:
        """The wrapper with the reason, while it cannot be used."""
        return {} if self.pools() else {self.factory: self._why}

    def follow(self, tokens: Iterable[Address]) -> None:
        """Its two tokens are what they are."""

    @property
    def unsearched(self) -> frozenset[Address]:
        """None: there is one pool."""
        return frozenset()

    async def search(self, client: Client, head: Head) -> None:
        """Nothing to find."""

    # ---------------------------------------------------------------------------------------------- ports.Venue

    def payee(self, hop: Hop) -> None:
        """The executor, from whom the wrapper takes."""

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
        """Nothing is ever left to re-read: every head's observation is complete."""
        return False

    def watch(self) -> Watch:
        """No logs."""
        return Watch(frozenset(), frozenset())

    def apply(self, block: Block) -> None:
        """What was observed is over."""
        self._forget("nothing has been read at this head yet")

    def replay(self, logs: Sequence[Log]) -> None:
        """Nothing to take."""

    def rewind(self, number: int) -> None:
        """What was observed is over."""
        self._forget("nothing has been read since blocks were undone")

    def distrust(self, reason: str) -> None:
        """Offer nothing until `load`."""
        self._distrusted, self._why = True, reason or "it was distrusted without a reason"

    async def refresh(self, client: Client, head: Head) -> None:
        """Nothing is dirty."""

    async def load(self, client: Client, head: Head) -> None:
        """Learn what the wrapper stands for; raises BadData when it does not say."""
        (answer,) = await client.read([self._asset_read()], head)
        if answer is None or len(answer) != 32:
            raise BadData(f"{self.name}: {self.factory} does not say which token it wraps")
        self._asset = Address("0x" + answer[12:].hex())
        self._distrusted = False

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take everything; a view that fails leaves the wrapper out until the next head."""
        if self._asset is None:
            return
        words = [None if a is None or len(a) != 32 else int.from_bytes(a, "big") for a in answers]
        made = self._made(self._asset, words)
        if isinstance(made, str):
            self._forget(made)
        else:
            self._pool = made

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        """Ask the contract for the conversion of amounts it was not asked about before."""
        pool = self._pool
        if pool is None or self._distrusted:
            return None
        sizes = [pool.shares * (head.number % 97 + 3) // (1_000 * (i + 1)) + i + 1 for i in range(max(sample, 1))]
        reads = [read for size in sizes for read in self._samples(size)]
        answers = await client.read(reads, head)
        mine = [value for size in sizes for value in self._converted(pool, size)]
        for read, answer, value in zip(reads, answers, mine, strict=True):
            theirs = None if answer is None or len(answer) != 32 else int.from_bytes(answer, "big")
            if theirs != value:
                self._forget(f"it converts into {theirs}, not {value}")
                detail = f"{self.name} {read.to} converts into {theirs} at block {head.number}, the mirror into {value}"
                return Skip(SkipReason.MARKET_UNKNOWN, detail, {"pools": 1})
        return None

    def snapshot(self) -> bytes:
        """What never changes."""
        return orjson.dumps({"version": self.version, "wrapper": self.factory, "asset": self._asset})

    def restore(self, data: bytes) -> None:
        """Take a snapshot of the same wrapper; raises BadData otherwise."""
        try:
            raw = orjson.loads(data)
            found, asset = (raw["version"], raw["wrapper"]), raw["asset"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise BadData(f"the snapshot of {self.name} cannot be read ({error}): delete it") from error
        if found != (self.version, self.factory) or asset is None:
            raise BadData(f"the snapshot of {self.name} belongs to another wrapper or version: delete it")
        self._asset, self._distrusted = Address(asset), False

    @abstractmethod
    def reads(self) -> tuple[Read, ...]:
        """Totals, limits, and conversions by which the formula is known again."""

    @abstractmethod
    def _asset_read(self) -> Read:
        """Which token it wraps."""

    @abstractmethod
    def _made(self, asset: Address, words: Sequence[int | None]) -> P | str:
        """The conversion from the answers to `reads`, or why there is none."""

    @abstractmethod
    def _samples(self, size: int) -> tuple[Read, ...]:
        """Conversions of about `size` shares."""

    @abstractmethod
    def _converted(self, pool: P, size: int) -> tuple[int, ...]:
        """What `_samples` must answer."""

    def _forget(self, why: str) -> None:
        self._pool = None
        if not self._distrusted:
            self._why = why
