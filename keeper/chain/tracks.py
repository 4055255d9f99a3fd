"""Where each mirror stands on the chain, and which logs are whose."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keeper.model import Address, Block, Hash, Head, Log, Read, Watch
from keeper.ports import Mirror

NOTHING = Watch(frozenset(), frozenset())


@dataclass(slots=True, eq=False)
class Track:
    """One mirror's place. It *follows* while `at` is set; otherwise it is lost and being, or waiting to be, rebuilt."""

    mirror: Mirror
    at: Head | None = None  # the block whose state it holds
    base: int = 0  # the lowest block it can step back to
    position: tuple[int, Hash | None] | None = None  # when lost: its state is that after this block; None: worthless
    anchors: tuple[tuple[int, Hash], ...] = ()  # blocks that must be canonical for a `position` without a hash to hold
    extra: Watch | None = None  # wider than `watch()`: what the next block is known to make it watch
    observed: tuple[Hash, tuple[Read, ...]] | None = None  # head and views of the answers it took last
    reload: bool = False  # when lost: do not believe its checkpoints
    failures: int = 0  # rebuilds in a row that did not last
    wait: int = 0  # passes to let go by before the next rebuild
    task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The mirror's."""
        return self.mirror.name

    def watch(self) -> Watch:
        """The logs to give it next."""
        return self.extra if self.extra is not None else self.mirror.watch()


def within(inner: Watch, outer: Watch) -> bool:
    """Whether a filter for `outer` brings every log that `inner` wants."""
    return inner.addresses <= outer.addresses and inner.topics <= outer.topics


def union(watches: Iterable[Watch]) -> Watch:
    """One filter that brings what each of `watches` wants, and possibly more."""
    every = list(watches)
    return Watch(
        frozenset().union(*(w.addresses for w in every)),
        frozenset().union(*(w.topics for w in every)),
    )


class Dispatch:
    """Hands each log to the mirrors that watch its address and topic; constant work per log."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.watches = tuple(watches)
        self.watch = union(watches)
        self._by_address: dict[Address, list[tuple[int, frozenset[str]]]] = {}
        for index, watch in enumerate(watches):
            for address in watch.addresses:
                self._by_address.setdefault(address, []).append((index, watch.topics))

    def split(self, block: Block) -> list[tuple[Log, ...]]:
        """The block's logs per watch, in order."""
        parts: list[list[Log]] = [[] for _ in self.watches]
        for log in block.logs:
            for index, topics in self._by_address.get(log.address, ()):
                if log.topics[0] in topics:
                    parts[index].append(log)
        return [tuple(part) for part in parts]


class Chain:
    """The newest blocks, contiguous, oldest first; what is older than `depth` below the tip is forgotten."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._blocks: list[Head] = []
        self._by_hash: dict[Hash, Head] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def tip(self) -> Head:
        """The newest; only when there is one."""
        return self._blocks[-1]

    @property
    def oldest(self) -> Head:
        """The deepest that can still be undone to; only when there is one."""
        return self._blocks[0]

    def find(self, block_hash: Hash) -> Head | None:
        """The block of that hash, if it is in the window."""
        return self._by_hash.get(block_hash)

    def after(self, head: Head) -> list[Head]:
        """The blocks above `head`, which is in the window."""
        return self._blocks[head.number - self._blocks[0].number + 1 :]

    def reset(self, blocks: Sequence[Head]) -> None:
        """Begin anew with these contiguous blocks."""
        self._blocks = list(blocks)
        self._by_hash = {block.hash: block for block in blocks}

    def extend(self, ancestor: Head, branch: Sequence[Head]) -> None:
        """Drop what is above `ancestor` and append `branch`, whose first block is its child."""
        kept = self._blocks[: ancestor.number - self._blocks[0].number + 1]
        self.reset([*kept, *branch][-(self._depth + 1) :])
