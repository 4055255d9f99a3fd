"""Loops over arrays as machine code, where numba is installed; without it they run as they are written."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(signature: str) -> Callable[[Loop], Loop]:
    """Compile now, or load from numba's cache: beside the file, or in the user's own where that cannot be written.

    What is compiled runs without the interpreter's lock, so that a thread can have it.
    """

    def decorate(function: Loop) -> Loop:
        try:
            numba = import_module("numba")
        except ImportError:
            return function
        made: Loop
        try:
            made = numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # nowhere to keep a cache
            made = numba.njit(signature, nogil=True)(function)
        return made

    return decorate
