"""Asking for two things at once changes when they are asked for, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keeper.eager import EagerFollower, EagerProver
from keeper.errors import Transient
from keeper.model import FeeQuote, Hash, Head

pytestmark = pytest.mark.unit

HEAD = Head(7, Hash("0x07"), Hash("0x06"), 84, 10**9)
FEES = FeeQuote(10**9, 1)


class Scene:
    """A follower, fees, a prover and a lane that write down when they begin and end."""

    def __init__(self, **failing: Exception) -> None:
        self.failing = failing
        self.told: list[str] = []

    async def _do(self, name: str) -> None:
        self.told.append(f"{name} begins")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if name in self.failing:
            raise self.failing[name]
        self.told.append(f"{name} ends")

    async def advance(self, head: Head) -> Any:
        await self._do("advance")
        return head

    def distrust(self, name: str, reason: str) -> None:
        self.told.append(f"{name}: {reason}")

    async def quote(self, head: Head) -> FeeQuote:
        await self._do("fees")
        return FEES

    async def prove(self, jobs: Any, head: Head, fees: FeeQuote) -> list[Any]:
        await self._do("prove")
        return list(jobs)

    async def prepare(self, head: Head) -> None:
        await self._do("nonce")

    @property
    def every(self) -> tuple[Any, ...]:
        return (self,)


def follower(scene: Any) -> Any:
    return EagerFollower(scene, scene)


def prover(scene: Any) -> Any:
    return EagerProver(scene, scene)


async def test_fees_are_asked_for_while_the_mirrors_move() -> None:
    """Both begin before either ends."""
    scene = Scene()
    assert await follower(scene).advance(HEAD) is HEAD
    assert {line.split()[1] for line in scene.told[:2]} == {"begins"}
    assert len(scene.told) == 4
    follower(scene).distrust("aave", "why")
    assert scene.told[-1] == "aave: why"


async def test_fees_that_fail_do_not_stop_the_mirrors() -> None:
    """Whoever needs them meets the failure; the mirrors' own failure is raised as ever."""
    scene = Scene(fees=Transient("no fees"))
    assert await follower(scene).advance(HEAD) is HEAD
    scene = Scene(advance=Transient("no logs"))
    with pytest.raises(Transient, match="no logs"):
        await follower(scene).advance(HEAD)
    assert len(asyncio.all_tasks()) == 1


async def test_nonces_are_read_while_the_node_simulates() -> None:
    """And only when there is something to send."""
    scene = Scene()
    assert await prover(scene).prove([], HEAD, FEES) == []
    assert scene.told == []
    assert await prover(scene).prove(["job"], HEAD, FEES) == ["job"]
    assert {line.split()[1] for line in scene.told[:2]} == {"begins"}
    for name in ("nonce", "prove"):
        scene = Scene(**{name: Transient("down")})
        if name == "prove":
            with pytest.raises(Transient, match="down"):
                await prover(scene).prove(["job"], HEAD, FEES)
        else:
            assert await prover(scene).prove(["job"], HEAD, FEES)
        assert len(asyncio.all_tasks()) == 1
