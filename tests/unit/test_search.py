"""The search for pools of new tokens: what becomes of one that fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from keeper.errors import BadData, Transient
from keeper.model import Address
from keeper.search import PoolSearch

pytestmark = pytest.mark.unit

TOKEN = Address("0x" + "aa" * 20)


class Node:
    """Only its head is asked."""

    async def head(self) -> None:
        """No matter which."""


@dataclass
class Venue:
    """Ends its searches as told, one after the other."""

    ends: list[BaseException | None]
    name: str = "pools"
    unsearched: frozenset[Address] = frozenset({TOKEN})
    begun: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def search(self, client: Any, head: Any) -> None:
        self.begun += 1
        await self.open.wait()
        if (end := self.ends.pop(0)) is not None:
            raise end
        self.unsearched = frozenset()


def searching(*ends: BaseException | None) -> tuple[PoolSearch, Venue, list[tuple[str, str]]]:
    venue, distrusted = Venue(list(ends)), list[tuple[str, str]]()
    search = PoolSearch(cast(Any, Node()), cast(Any, [venue]), lambda *why: distrusted.append(why))
    return search, venue, distrusted


async def test_one_at_a_time_and_again_when_the_node_fails() -> None:
    """A search that is under way is not begun twice; one that was interrupted is, by the next pass; then it is done."""
    search, venue, distrusted = searching(Transient("the node is silent"), None)
    search.start()
    search.start()
    await asyncio.sleep(0.01)
    assert venue.begun == 1
    venue.open.set()
    assert await search.finished()
    search.start()
    assert await search.finished()
    assert venue.begun == 2
    search.start()
    assert not await search.finished()
    assert distrusted == []


async def test_nonsense_costs_the_venue_its_trust() -> None:
    """What the factory announces cannot be: the whole venue is read anew."""
    search, venue, distrusted = searching(BadData("no such pool"))
    venue.open.set()
    search.start()
    await search.finished()
    assert distrusted == [("pools", "no such pool")]


async def test_a_defect_is_not_kept_quiet() -> None:
    """Anything else ends the next pass with its own error, not with another search at every head."""
    search, venue, _ = searching(KeyError("a defect"))
    venue.open.set()
    search.start()
    await asyncio.sleep(0.01)
    with pytest.raises(KeyError, match="a defect"):
        search.start()
    assert venue.begun == 1
    await search.close()


async def test_a_defect_is_told_though_another_search_ended_well() -> None:
    """The last to end says nothing about the others."""
    good, bad = Venue([None], name="good"), Venue([KeyError("a defect")], name="bad")
    search = PoolSearch(cast(Any, Node()), cast(Any, [bad, good]), lambda *why: None)
    search.start()
    bad.open.set()
    await asyncio.sleep(0.01)
    good.open.set()
    await asyncio.sleep(0.01)
    with pytest.raises(KeyError, match="a defect"):
        search.start()


async def test_closing_stops_what_is_running() -> None:
    """Nothing is left behind, and nothing is told of it."""
    search, venue, _ = searching(None)
    search.start()
    await asyncio.sleep(0.01)
    await search.close()
    await search.close()
    assert venue.unsearched
    assert not await search.finished()
