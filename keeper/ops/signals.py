"""SIGTERM and SIGINT as an event, so that stopping is an orderly thing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_event(signals: tuple[signal.Signals, ...] = STOPPING) -> Iterator[asyncio.Event]:
    """An event that the first signal sets, inside a running loop.

    A second signal finds the system's own handlers back in place and ends the process at once. On leaving, too,
    the handlers are as they were.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    installed: set[signal.Signals] = set()

    def restore() -> None:
        for number in list(installed):
            loop.remove_signal_handler(number)
            installed.discard(number)

    def received() -> None:
        stop.set()
        restore()

    for number in signals:
        loop.add_signal_handler(number, received)
        installed.add(number)
    try:
        yield stop
    finally:
        restore()
