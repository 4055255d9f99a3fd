"""How something urgent shares the process: the event loop has its turns, the garbage collector waits."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

TURN = 0.005  # seconds of work after which others are served


class Turns:
    """Gives the event loop a turn, between two pieces of work, once `TURN` has gone by since the last one."""

    def __init__(self) -> None:
        self._last = 0.0

    async def give(self) -> None:
        """Let others run if it is their turn."""
        if time.monotonic() - self._last >= TURN:
            await asyncio.sleep(0)
            self._last = time.monotonic()


@contextmanager
def resting() -> Iterator[None]:
    """No collection begins inside; whoever is innermost changes nothing. What is due is collected afterwards."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
