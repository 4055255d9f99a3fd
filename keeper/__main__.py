"""The command `keeper`, also as `python -m keeper`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from keeper.memory import large_blocks_apart


def main() -> NoReturn:
    """Import the command line, which takes a moment in which a signal must neither be lost nor print a traceback."""
    daemon = "run" in sys.argv[1:]
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, _ended)
    signal.signal(signal.SIGTERM, _ended)
    large_blocks_apart()
    from keeper.cli import main as run  # noqa: PLC0415 - see above

    if not daemon:  # a question that is interrupted says so; an import may swallow the exception that says it
        signal.signal(signal.SIGINT, usual)
    run()


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    """A signal where no loop has taken it over: a daemon that has not begun stops as one that has, with 0.

    Any other command has not done what it was asked for, and says so as a shell does. The kernel would let the first
    process of a container ignore a signal that has no handler.
    """
    os._exit(0 if "run" in sys.argv[1:] else 128 + number)


if __name__ == "__main__":
    main()
