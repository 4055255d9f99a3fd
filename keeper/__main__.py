"""The command `keeper`, also as `python -m keeper`."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line, which takes a moment in which Ctrl-C must not print a traceback, and run it."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from keeper.cli import main as run  # noqa: PLC0415 - see above

    signal.signal(signal.SIGINT, usual)
    run()


if __name__ == "__main__":
    main()
