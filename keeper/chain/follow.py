"""Mirrors kept at the head: one round trip per block, gaps filled and reorganisations undone by hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from keeper.chain.checkpoints import Checkpoints
from keeper.chain.client import NodeClient
from keeper.chain.rebuild import Progress, Rebuild, frozen
from keeper.chain.tracks import Chain, Dispatch, Track, union, within
from keeper.errors import BadData, ConfigError, KeeperError, Transient
from keeper.model import Block, Head, Log, Read, Watch
from keeper.ports import Alerter, Freezable, Mirror

log = structlog.get_logger(__name__)

_SETTLE = 4  # refreshes of one mirror at one head before it is left for the next


@dataclass(frozen=True, slots=True)
class Advance:
    """What one pass did to the mirrors."""

    head: Head
    applied: int  # blocks
    undone: int  # blocks
    requests: int  # round trips to nodes while it ran
    behind: frozenset[str]  # mirrors that are not (wholly) at `head`: nothing may be decided from them


@dataclass(slots=True)
class _Step:
    """Everything fetched for one synchronous step."""

    tracks: list[Track]
    dispatch: Dispatch
    reads: list[tuple[Read, ...]]
    blocks: list[Block]
    answers: list[bytes | None]


@contextmanager
def _shared(head: Head) -> Iterator[None]:
    """Nonsense in what all mirrors share says nothing about any of them: nothing was done, and a retry may succeed."""
    try:
        yield
    except BadData as error:
        raise Transient(f"the node's answers for block {head.number} cannot be used: {error}") from error


class Follower:
    """Keeps every mirror at the head it is given.

    Everything a step needs is fetched before anything changes, so a failure leaves each mirror whole at some block, and
    the next call goes on from there. A mirror that cannot go on is distrusted, announced, and rebuilt in the background
    while the others go on. Not re-entrant: one `start` or `advance` at a time.
    """

    def __init__(
        self,
        client: NodeClient,
        mirrors: Sequence[Mirror],
        checkpoints: Checkpoints | None,
        alerter: Alerter,
        *,
        undo: int = 64,
        checkpoint_every: int = 100,
        save_seconds: float = 20.0,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """`undo`: blocks that can be taken back; `checkpoint_every`: blocks; `save_seconds`: during a back-fill."""
        self._client = client
        self._tracks = [Track(mirror) for mirror in mirrors]
        self._checkpoints = checkpoints
        self._alerter = alerter
        self._undo = undo
        self._every = checkpoint_every
        self._chain = Chain(undo)
        self._rebuild = Rebuild(client, self._chain, checkpoints, save_seconds=save_seconds, progress=progress)
        self._saved: int | None = None
        self._saving: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._dispatch = Dispatch(())

    @property
    def head(self) -> Head | None:
        """Where the mirrors are; None before `start`."""
        return self._chain.tip if len(self._chain) else None

    async def start(self, head: Head) -> Advance:
        """Bring every mirror to the chain, from checkpoints where they are canonical, and then to the newest head.

        Raises Transient when the node fails; calling it again goes on with what was done. Whatever a mirror refuses is
        announced and retried by later passes.
        """
        if not len(self._chain) or self._chain.tip != head:  # after an interrupted start the window may be long gone
            with _shared(head):
                await self._reset(head)
        for track in self._tracks:
            if track.at is None and track.task is None:
                await self._attempt(track)
        with _shared(head):
            head = await self._client.head()
        return await self.advance(head)

    async def advance(self, head: Head) -> Advance:
        """Bring every mirror to `head`. Raises Transient when the node fails; nothing is half done then."""
        before = self._client.round_trips
        with _shared(head):
            applied, undone = await self._move(head)
        settled = [track for track in self._tracks if track.at is not None and await self._settle(track, head)]
        await self._checkpoint(settled, head)
        behind = frozenset(track.name for track in self._tracks if track not in settled)
        return Advance(head, applied, undone, self._client.round_trips - before, behind)

    def distrust(self, name: str, reason: str) -> None:
        """Have a mirror rebuilt from the chain alone, without its checkpoints; for an audit that found a difference."""
        for track in self._tracks:
            if track.name == name:
                track.reload = True
                self._lose(track, reason)

    async def save(self) -> None:
        """Write a checkpoint of every mirror that follows."""
        await self._stored()
        if len(self._chain):
            await self._write([t for t in self._tracks if t.at is not None and not t.mirror.dirty])

    async def rebuilt(self) -> None:
        """Wait until no rebuild is running."""
        while tasks := [track.task for track in self._tracks if track.task is not None]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Stop rebuilding; idempotent. `save` first to keep what was done since the last checkpoint."""
        tasks = [track.task for track in self._tracks if track.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stored()

    # ----------------------------------------------------------------------------------------- finding the way

    async def _move(self, head: Head) -> tuple[int, int]:
        if not len(self._chain):
            await self._reset(head)
        tip = self._chain.tip
        way = await self._way(head)
        ancestor, branch = way or (head, [])
        if way is None:
            await self._reset(head)
            applied, undone = max(head.number - tip.number, 0), max(tip.number - head.number, 0)
        else:
            applied, undone = len(branch), tip.number - ancestor.number
        self._start_rebuilding()
        if all(track.at is None for track in self._tracks):
            await self.rebuilt()
        for _ in range(_SETTLE):
            step = await self._fetch(ancestor, branch, head)
            if step is None and ancestor == self._chain.tip and not branch:
                break
            if ancestor != self._chain.tip or branch:
                self._chain.extend(ancestor, branch)
            if step is not None:
                self._take(step, ancestor, head)
            ancestor, branch = head, []
        return applied, undone

    async def _way(self, head: Head) -> tuple[Head, list[Head]] | None:
        """The newest common block and the blocks from there to `head`; None when that is out of the window."""
        known = self._chain.find(head.hash)
        if known is not None:
            return known, []
        tip, oldest = self._chain.tip, self._chain.oldest
        if head.number - tip.number > self._undo:
            return None
        branch, reach = [head], 4
        while True:
            lowest = branch[0]
            ancestor = self._chain.find(lowest.parent_hash)
            if ancestor is not None:
                return ancestor, branch
            if lowest.number - 1 <= oldest.number:
                return None
            top = lowest.number - 1
            low = tip.number + 1 if top > tip.number else max(top - reach + 1, oldest.number)
            found = await self._client.headers(low, top)
            if found[-1].hash != lowest.parent_hash:
                # By number the node has moved on to another branch; by hash it may still know this one.
                found = [await self._client.header(lowest.parent_hash)]
                if found[0].number != top:
                    raise BadData(f"the parent of block {lowest.number} is said to have number {found[0].number}")
            branch = [*(item for item in found if self._chain.find(item.hash) is None), *branch]
            reach *= 2

    async def _reset(self, head: Head) -> None:
        """Begin a new window below `head`; mirrors that are not on it are lost."""
        first = max(head.number - self._undo, 0)
        below = await self._client.headers(first, head.number - 1)
        if below and below[-1].hash != head.parent_hash:
            raise Transient(f"block {head.number} was reorganised away while the blocks below it were read")
        self._chain.reset([*below, head])
        for track in self._tracks:
            if track.at is not None and self._chain.find(track.at.hash) is None:
                track.position, track.at = (track.at.number, track.at.hash), None
                log.info("mirror_out_of_window", mirror=track.name, block=track.position[0], head=head.number)

    # ------------------------------------------------------------------------------------------- taking a step

    async def _fetch(self, ancestor: Head, branch: list[Head], head: Head) -> _Step | None:
        for track in self._tracks:
            if track.at is not None and self._chain.find(track.at.hash) is None:
                # It came back from a rebuild at a block that was reorganised away at the same time.
                track.position, track.at = (track.at.number, track.at.hash), None
        tracks = [track for track in self._tracks if track.at is not None]
        wanted: dict[int, Head] = {block.number: block for block in branch}
        reads: list[tuple[Read, ...]] = []
        for track in tracks:
            assert track.at is not None
            start = track.at if track.at.number < ancestor.number else ancestor
            wanted.update((b.number, b) for b in self._chain.after(start) if b.number <= ancestor.number)
            asked = track.mirror.reads()
            reads.append(() if track.observed == (head.hash, asked) else asked)
        if not tracks or (not wanted and not any(reads)):
            return None
        watches = [track.watch() for track in tracks]
        if self._dispatch.watches != tuple(watches):
            self._dispatch = Dispatch(watches)
        heads = [wanted[number] for number in sorted(wanted)]
        every = [read for asked in reads for read in asked]
        blocks, answers = await self._client.pass_batch(heads, self._dispatch.watch, every, head)
        return _Step(tracks, self._dispatch, reads, blocks, answers)

    def _take(self, step: _Step, ancestor: Head, head: Head) -> None:
        """Apply what was fetched. Nothing here waits."""
        parts = [(block.head, step.dispatch.split(block)) for block in step.blocks]
        answers = iter(step.answers)
        for index, track in enumerate(step.tracks):
            mine = [next(answers) for _ in step.reads[index]]
            if track.at is None:  # distrusted while the step was fetched
                continue
            try:
                self._rewind(track, ancestor)
                fetched = step.dispatch.watches[index]
                for block, logs in parts:
                    if block.number > track.at.number and not self._apply(track, block, logs[index], fetched):
                        break
                if track.at == head and step.reads[index] == track.mirror.reads() and mine:
                    track.mirror.observe(head, mine)
                    track.observed = (head.hash, step.reads[index])
            except BadData as error:
                self._lose(track, str(error))

    def _rewind(self, track: Track, ancestor: Head) -> None:
        if track.at is None or track.at.number <= ancestor.number:
            return
        if ancestor.number < track.base:
            raise BadData(f"the chain was reorganised to block {ancestor.number}, below what {track.name} can undo")
        track.mirror.rewind(ancestor.number)
        track.at, track.extra, track.observed = ancestor, None, None

    def _apply(self, track: Track, block: Head, logs: tuple[Log, ...], fetched: Watch) -> bool:
        """One block; False when it made the mirror watch more, so that its logs must be fetched again."""
        assert track.at is not None
        track.mirror.apply(Block(block, logs))
        now = track.mirror.watch()
        if not within(now, fetched):
            track.mirror.rewind(track.at.number)
            track.extra = union([now, fetched])
            return False
        track.at, track.extra = block, None
        return True

    async def _settle(self, track: Track, head: Head) -> bool:
        """Refresh and observe until nothing is open; True when the mirror may be trusted at `head`."""
        mirror = track.mirror
        try:
            for _ in range(_SETTLE):
                if track.at != head:
                    return False
                if mirror.dirty:
                    await mirror.refresh(self._client, head)
                asked = mirror.reads()
                if asked and track.observed != (head.hash, asked):
                    answers = await self._client.read(asked, head)
                    if track.at != head:  # distrusted meanwhile
                        return False
                    mirror.observe(head, answers)
                    track.observed = (head.hash, asked)
                elif not mirror.dirty:
                    return True
        except (BadData, ConfigError) as error:  # the latter: contracts that were there seem to be gone
            self._lose(track, str(error))
        except Transient as error:
            log.info("refresh_failed", mirror=track.name, block=head.number, reason=str(error))
        return False

    # --------------------------------------------------------------------------------- losing and rebuilding

    def _lose(self, track: Track, reason: str) -> None:
        if track.task is not None:
            track.task.cancel()
        track.at = track.position = track.extra = track.observed = None
        track.failures += 1
        track.reload = track.reload or track.failures > 1
        track.wait = 0 if track.failures == 1 else min(2**track.failures, 64)
        track.mirror.distrust(reason)
        self._alerter.alert(
            "mirror_distrusted", f"{track.name} cannot be trusted and is being rebuilt: {reason}", severe=True
        )

    def _start_rebuilding(self) -> None:
        if self._failure is not None:
            raise self._failure
        for track in self._tracks:
            if track.at is not None or track.task is not None:
                continue
            if track.wait > 0:
                track.wait -= 1
                continue
            track.task = asyncio.create_task(self._attempt(track))
            track.task.add_done_callback(partial(self._attempted, track))

    async def _attempt(self, track: Track) -> None:
        try:
            await self._stored()
            await self._rebuild.run(track)
        except BadData as error:
            track.task = None
            self._lose(track, str(error))

    def _attempted(self, track: Track, task: asyncio.Task[None]) -> None:
        track.task = None if track.task is task else track.task
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Transient):
            log.info("rebuild_interrupted", mirror=track.name, reason=str(error))
        elif isinstance(error, ConfigError):  # the start has found it where it was configured: the node is wrong now
            self._lose(track, str(error))
        elif error is not None:
            self._failure = error

    # -------------------------------------------------------------------------------------------- checkpoints

    async def _checkpoint(self, settled: list[Track], head: Head) -> None:
        if self._saving is not None and self._saving.done():
            saving, self._saving = self._saving, None
            saving.result()  # raises what it met
        due = self._saved is None or abs(head.number - self._saved) >= self._every
        if due and self._saving is None:
            self._saved = head.number
            large = [track for track in settled if isinstance(track.mirror, Freezable)]
            await self._write([track for track in settled if track not in large])
            if large and self._checkpoints is not None:  # the block is not kept waiting for these
                self._saving = asyncio.create_task(self._store(self._checkpoints, await _frozen(large)))

    async def _write(self, tracks: list[Track]) -> None:
        if self._checkpoints is not None:
            await self._store(self._checkpoints, await _frozen(tracks))

    @staticmethod
    async def _store(checkpoints: Checkpoints, states: list[tuple[Track, Head, Callable[[], bytes]]]) -> None:
        for track, at, state in states:
            if track.at is not None and not track.reload:  # else it was distrusted meanwhile
                await checkpoints.save(track.name, at.number, at.hash, state)
                track.failures = 0

    async def _stored(self) -> None:
        """Wait for what is being stored, so that nothing is stored after what comes next; tell when it could not be."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            await asyncio.wait({saving})
            error = None if saving.cancelled() else saving.exception()
            if isinstance(error, KeeperError):
                log.warning("checkpoint_not_written", reason=str(error))
            elif error is not None:
                raise error


async def _frozen(tracks: list[Track]) -> list[tuple[Track, Head, Callable[[], bytes]]]:
    """The mirrors as they are: nothing moves them before this returns."""
    return [(track, track.at, await frozen(track.mirror)) for track in tracks if track.at is not None]
