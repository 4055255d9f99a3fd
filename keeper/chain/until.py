"""Heads until somebody asks to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from keeper.model import Head


async def until(stop: asyncio.Event, heads: AsyncIterator[Head]) -> AsyncIterator[Head]:
    """Heads, until `stop` is set, also while waiting for one."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            following = asyncio.ensure_future(anext(heads))
            await asyncio.wait({stopped, following}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                return
            yield following.result()
    finally:
        stopped.cancel()
