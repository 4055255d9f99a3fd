"""Loops become machine code when they are needed, and not before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from keeper.compiled import Loop, compiled

pytestmark = pytest.mark.unit

FACTOR = 3.0


@compiled("float64(float64)")
def scaled(value: float) -> float:
    """What a number is times a constant of this module."""
    return value * FACTOR


@compiled("float64(float64[::1])")
def total(values: NDArray[np.float64]) -> float:
    """One loop that calls another."""
    found = 0.0
    for value in values:
        found += scaled(value)
    return found


def test_a_loop_calls_what_it_names() -> None:
    """A loop that calls another is compiled with it; both answer as they would uncompiled."""
    values = np.arange(10, dtype=np.float64)
    assert isinstance(total, Loop)
    assert total(values) == total.__wrapped__(values) == 135.0
    assert type(total.machine()).__module__.startswith("numba")
    assert total.machine() is total.machine()
    assert scaled(2.0) == 6.0
    assert scaled.__doc__ == "What a number is times a constant of this module."


def test_what_comes_from_elsewhere_is_in_the_name_that_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache looks at a loop's own code: a changed number, also of a loop that is called, makes another of it."""
    assert isinstance(scaled, Loop)
    assert isinstance(total, Loop)
    before = scaled.stamp, total.stamp
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    assert scaled.stamp != before[0]
    assert total.stamp != before[1]
    monkeypatch.undo()
    assert (scaled.stamp, total.stamp) == before


def test_a_command_does_not_load_the_compiler() -> None:
    """Everything is imported that the command line imports, and numba, which takes longest, is not."""
    script = "import keeper.cli, keeper.app, sys; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "False"]
