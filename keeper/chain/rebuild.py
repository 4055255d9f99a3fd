"""Bringing a lost mirror back to the chain: from its own state, a checkpoint, or a full load with its history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import structlog

from keeper.chain.checkpoints import Checkpoints, Snapshot
from keeper.chain.client import NodeClient
from keeper.chain.tracks import Chain, Track, within
from keeper.errors import BadData, Transient
from keeper.memory import give_back
from keeper.model import Hash, Watch
from keeper.ports import Freezable, Mirror, Tidied

log = structlog.get_logger(__name__)

_AT_ONCE = 500  # logs replayed before others have their turn
_SCATTERING = 5_000  # logs after which a mirror is laid out anew
_LARGE = 1 << 20  # bytes; what is restored from more than this has a thread of its own


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the back-fill of one mirror is."""

    name: str
    first: int  # block numbers
    at: int
    last: int
    logs: int  # taken so far
    blocks_per_second: float
    eta: float  # seconds; 0 when done

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * (self.at - self.first + 1) / max(self.last - self.first + 1, 1)


async def frozen(mirror: Mirror) -> Callable[[], bytes]:
    """The mirror's snapshot, to be made up in another thread where the mirror can. It must not move meanwhile."""
    if isinstance(mirror, Freezable):
        return await asyncio.to_thread(mirror.freeze)
    data = mirror.snapshot()
    return lambda: data


async def _apart(work: Callable[[], None]) -> None:
    """Do it in a thread; a cancellation waits for its end, since nobody else may touch the mirror before."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class Rebuild:
    """Rebuilds mirrors up to blocks the follower knows. What it has done survives a failure in `track.position`."""

    def __init__(
        self,
        client: NodeClient,
        chain: Chain,
        checkpoints: Checkpoints | None,
        *,
        save_seconds: float = 20.0,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._client = client
        self._chain = chain
        self._checkpoints = checkpoints
        self._save_seconds = save_seconds
        self._progress = progress

    async def run(self, track: Track) -> None:
        """Set `track.at` to a block in the follower's window.

        Raises Transient when the node fails (call again to go on from there) and BadData when the mirror refuses.
        """
        if not await self._intact(track):
            track.position = None
            if not track.reload:
                await self._restore(track)
            if track.position is None:
                await self._load(track)
        while not self._joined(track):
            await self._catch_up(track)

    async def _intact(self, track: Track) -> bool:
        """Whether the mirror's state is that of a block that is still canonical."""
        if track.position is None:
            return False
        number, block_hash = track.position
        if block_hash is not None:
            return await self._canonical(number, block_hash)
        return all([await self._canonical(*anchor) for anchor in track.anchors])

    async def _canonical(self, number: int, block_hash: Hash) -> bool:
        if number >= self._chain.oldest.number:
            return self._chain.find(block_hash) is not None
        return (await self._client.header(number)).hash == block_hash

    async def _restore(self, track: Track) -> None:
        if self._checkpoints is None:
            return
        async with aclosing(self._checkpoints.load(track.name)) as snapshots:
            async for snapshot in snapshots:
                if await self._restored(track, snapshot):
                    return

    async def _restored(self, track: Track, snapshot: Snapshot) -> bool:
        if not await self._canonical(snapshot.number, snapshot.hash):
            log.info("checkpoint_orphaned", mirror=track.name, block=snapshot.number)
            return False
        try:
            if len(snapshot.data) < _LARGE:
                track.mirror.restore(snapshot.data)
            else:  # nobody else has this mirror: it is at no block
                await _apart(partial(track.mirror.restore, snapshot.data))
                await asyncio.to_thread(give_back)
        except BadData as error:
            log.warning("checkpoint_refused", mirror=track.name, block=snapshot.number, reason=str(error))
            return False
        track.position = (snapshot.number, snapshot.hash)
        log.info("checkpoint_restored", mirror=track.name, block=snapshot.number)
        return True

    async def _load(self, track: Track) -> None:
        if track.reload and self._checkpoints is not None:
            await self._checkpoints.forget(track.name)
        head = self._chain.tip
        await track.mirror.load(self._client, head)
        track.reload = False
        start, oldest = track.mirror.history_from, self._chain.oldest
        if start is None:
            track.position = (head.number, head.hash)
        else:
            track.position = (oldest.number, oldest.hash) if start > oldest.number else (start - 1, None)
            track.anchors = ()

    def _joined(self, track: Track) -> bool:
        assert track.position is not None
        number, block_hash = track.position
        known = self._chain.find(block_hash) if block_hash is not None else None
        if known is not None:
            track.at, track.base, track.position = known, known.number, None
            return True
        if block_hash is not None and number >= self._chain.oldest.number:
            track.position = None
            raise Transient(f"block {number} was reorganised away while {track.name} was read")
        return False

    async def _catch_up(self, track: Track) -> None:
        """Replay up to the oldest block of the follower's window, which is too deep to be reorganised."""
        assert track.position is not None
        goal = self._chain.oldest
        if track.position[0] > goal.number:
            track.position = None
            raise Transient(f"the chain was reorganised below block {goal.number} while {track.name} was read")
        number, block_hash = track.position
        if block_hash is not None:
            track.anchors = ((number, block_hash),)
        # What is replayed lies between the anchors; while they are canonical, it is.
        track.anchors += ((goal.number, goal.hash),)
        first = track.position[0] + 1
        started = saved = time.monotonic()
        taken = 0
        while track.position[0] < goal.number:
            watch = track.mirror.watch()
            async with aclosing(self._client.logs(watch, track.position[0] + 1, goal.number)) as ranges:
                async for low, high, logs in ranges:
                    track.position = None  # until the range is whole, a failure means starting over
                    for start in range(0, len(logs), _AT_ONCE):
                        track.mirror.replay(logs[start : start + _AT_ONCE])
                        await asyncio.sleep(0)
                    track.position = (high, None)
                    taken += len(logs)
                    grown = await self._grown(track, watch, low, high)
                    self._report(track, first, goal.number, taken, time.monotonic() - started)
                    if time.monotonic() - saved >= self._save_seconds and high < goal.number:
                        await self._save(track, high)
                        saved = time.monotonic()
                    if grown:
                        break  # ranges already on their way were asked for with the old filter
        await self._check_anchors(track)
        if taken > _SCATTERING and isinstance(track.mirror, Tidied):
            track.position = None  # given up half-way, it means starting over
            await _apart(track.mirror.tidy)
        track.position = (goal.number, goal.hash)

    async def _grown(self, track: Track, before: Watch, low: int, high: int) -> bool:
        """Fetch for the range just replayed what its logs made the mirror watch in addition."""
        grown = False
        while not within(track.mirror.watch(), before):
            now = track.mirror.watch()
            track.position = None  # until the range is whole, a failure means starting over
            for fresh in (
                Watch(now.addresses - before.addresses, now.topics),
                Watch(before.addresses, now.topics - before.topics),
            ):
                async for _, _, logs in self._client.logs(fresh, low, high):
                    track.mirror.replay(logs)
            track.position = (high, None)
            before, grown = now, True
        return grown

    async def _check_anchors(self, track: Track) -> None:
        """Raise Transient, and give the state up, when something replayed may have been reorganised away since."""
        for number, block_hash in track.anchors:
            if (await self._client.header(number)).hash != block_hash:
                track.position = None
                raise Transient(f"block {number} was reorganised away while {track.name} was read")

    async def _save(self, track: Track, number: int) -> None:
        if self._checkpoints is not None:
            block = await self._client.header(number)
            await self._check_anchors(track)
            state = await frozen(track.mirror)
            await self._checkpoints.save(track.name, number, block.hash, state)

    def _report(self, track: Track, first: int, last: int, logs: int, seconds: float) -> None:
        if self._progress is None or track.position is None:
            return
        at = track.position[0]
        rate = (at - first + 1) / max(seconds, 1e-6)
        self._progress(Progress(track.name, first, at, last, logs, rate, (last - at) / max(rate, 1e-6)))
