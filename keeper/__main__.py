"""The command `keeper`, also as `python -m keeper`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line, which takes a moment in which Ctrl-C must not print a traceback, and run it."""
    signal.signal(signal.SIGTERM, _terminated)
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from keeper.cli import main as run  # noqa: PLC0415 - see above

    signal.signal(signal.SIGINT, usual)
    run()


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM where no loop has taken it over: a daemon that has not begun stops as one that has, with 0.

    Any other command has not done what it was asked for, and says so as a shell does. The kernel would let the first
    process of a container ignore a signal that has no handler.
    """
    os._exit(0 if "run" in sys.argv[1:] else 128 + number)


if __name__ == "__main__":
    main()
