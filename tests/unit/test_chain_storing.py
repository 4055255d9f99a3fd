"""Large mirrors are stored beside the loop: frozen at one block, written later, never after they were distrusted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain.checkpoints import Checkpoints
from keeper.errors import ConfigError
from tests.chain_fakes import FakeMirror
from tests.unit.test_chain_follow import World

pytestmark = pytest.mark.unit


class LargeMirror(FakeMirror):
    """One that can be frozen; what it froze is made up only once `let` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.let.set()
        self.threads: list[int] = []

    def freeze(self) -> Callable[[], bytes]:
        data = self.snapshot()

        def encode() -> bytes:
            assert self.let.wait(20)
            self.threads.append(threading.get_ident())
            return data

        return encode


async def test_a_block_does_not_wait_for_a_large_mirror_to_be_stored(tmp_path: Path) -> None:
    """It is stored as it was when it was frozen, in another thread, while blocks go by."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(40, LargeMirror(), checkpoints=checkpoints, checkpoint_every=5)
    (mirror,) = world.mirrors
    assert isinstance(mirror, LargeMirror)
    await world.follower.start(await world.client.head())
    await world.follower.rebuilt()
    await world.follower.save()
    known = [found.number async for found in checkpoints.load("mirror")]
    mirror.let.clear()
    for _ in range(8):
        world.grow()
        await world.follower.advance(await world.client.head())
    assert world.right()
    assert [found.number async for found in checkpoints.load("mirror")] == known
    mirror.let.set()
    await world.follower.close()
    newest = await anext(checkpoints.load("mirror"))
    at = world.chain.head.number
    assert at - 8 < newest.number < at
    assert set(mirror.threads).isdisjoint({threading.get_ident()})
    again = LargeMirror()
    again.restore(newest.data)
    assert again.digests != mirror.digests
    await checkpoints.close()


async def test_a_distrusted_mirror_is_not_stored_behind_its_back(tmp_path: Path) -> None:
    """What was being stored when it was distrusted is gone with the other checkpoints before it is loaded anew."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(40, LargeMirror(), checkpoints=checkpoints, checkpoint_every=1)
    (mirror,) = world.mirrors
    assert isinstance(mirror, LargeMirror)
    await world.follower.start(await world.client.head())
    await world.follower.save()
    mirror.let.clear()
    mirror.digests["0xbad"] = "wrong"  # type: ignore[index]  # nobody's address
    world.grow()
    await world.follower.advance(await world.client.head())
    world.follower.distrust("mirror", "it is wrong")
    threading.Timer(0.05, mirror.let.set).start()
    world.grow()
    await world.follower.advance(await world.client.head())
    await world.follower.rebuilt()
    world.grow()
    await world.follower.advance(await world.client.head())
    assert world.right()
    await world.follower.close()
    assert all(["0xbad" not in json.loads(found.data)[1] async for found in checkpoints.load("mirror")])
    await checkpoints.close()


@pytest.mark.parametrize("error", [ConfigError("the disk takes nothing more"), ZeroDivisionError("a bug")])
async def test_what_could_not_be_stored_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Closing tells of a disk that takes nothing more and goes on with closing; a bug is raised."""
    checkpoints = await Checkpoints.open(tmp_path / "a.sqlite", 1)
    world = World(40, LargeMirror(), checkpoints=checkpoints, checkpoint_every=1)
    await world.follower.start(await world.client.head())
    await world.follower.save()

    async def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "save", refused)
    world.grow()
    await world.follower.advance(await world.client.head())
    with capture_logs() as logs:
        if isinstance(error, ConfigError):
            await world.follower.close()
        else:
            with pytest.raises(ZeroDivisionError):
                await world.follower.close()
    told = [line["reason"] for line in logs if line["event"] == "checkpoint_not_written"]
    assert told == (["the disk takes nothing more"] if isinstance(error, ConfigError) else [])
    await checkpoints.close()
