"""Loops over arrays as machine code, where numba is installed; without it they run as they are written.

Nothing is compiled, and the compiler not even loaded, before a loop is called or `ready`: most commands need none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import RLock
from types import FunctionType
from typing import Any, TypeVar, cast
from zlib import crc32

from keeper.memory import give_back, unload

Function = TypeVar("Function", bound=Callable[..., object])

_lock = RLock()
_loops: list[Loop] = []  # all there are in this process


class Loop:
    """One function that becomes machine code of `signature` when it is first called."""

    def __init__(self, function: FunctionType, signature: str) -> None:
        self.__doc__, self.__wrapped__ = function.__doc__, function
        self._signature = signature
        self._machine: Callable[..., Any] | None = None
        _loops.append(self)

    def __call__(self, *args: Any) -> Any:
        return (self._machine or self.machine())(*args)

    def machine(self) -> Callable[..., Any]:
        """Compile, or load from numba's cache: beside the file, or in the user's own where that cannot be written."""
        with _lock:
            if self._machine is None:
                self._machine = self._made()
            return self._machine

    @property
    def stamp(self) -> int:
        """Changes with what it takes from elsewhere: the numbers, and the loops it calls with theirs."""
        plain = self.__wrapped__
        used: list[object] = []
        for name in plain.__code__.co_names:
            value = plain.__globals__.get(name)
            if isinstance(value, Loop):
                used.append((name, value.__wrapped__.__code__.co_code, value.stamp))
            elif isinstance(value, int | float):
                used.append((name, value))
        return crc32(repr(used).encode())

    def _made(self) -> Callable[..., Any]:
        try:
            numba = import_module("numba")
        except ImportError:
            return self.__wrapped__
        plain = self.__wrapped__
        known = {name: plain.__globals__[name] for name in plain.__code__.co_names if name in plain.__globals__}
        called = {name: value.machine() for name, value in known.items() if isinstance(value, Loop)}
        ready = FunctionType(plain.__code__, plain.__globals__ | called, plain.__name__)
        # The cache looks at the function's own code and file: what comes from elsewhere has to be in the name.
        ready.__module__, ready.__qualname__ = plain.__module__, f"{plain.__qualname__}_{self.stamp:08x}"
        made: Callable[..., Any]
        try:
            made = numba.njit(self._signature, nogil=True, cache=True)(ready)
        except (RuntimeError, OSError):  # nowhere to keep a cache
            made = numba.njit(self._signature, nogil=True)(ready)
        return made


def compiled(signature: str) -> Callable[[Function], Function]:
    """What is compiled runs without the interpreter's lock, so that a thread can have it."""

    def decorate(function: Function) -> Function:
        return cast(Function, Loop(cast(FunctionType, function), signature))

    return decorate


def ready() -> None:
    """Have every loop that is imported compiled, before anybody waits for one; seconds where none is cached on disk."""
    for loop in _loops:
        loop.machine()
    give_back()
    unload("libllvmlite")  # some 70 MB of a compiler that has done its work
