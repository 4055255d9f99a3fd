"""The benchmarks run, and their stable ratios are where they should be."""

from __future__ import annotations

import pytest

from benchmarks import quotes, screen
from keeper.devchain.world import Built

pytestmark = pytest.mark.parity


def test_the_smallest_variants_run(built: Built) -> None:
    """Local arithmetic beats asking the node by far, even on a busy machine; the benchmark's own sanity checks hold."""
    with built.start(impersonate=True) as anvil:
        rows = quotes.run(anvil, built.world) + screen.run(anvil, built.world, users=2_000)
    assert [row.ratio > 10 for row in rows if "Quoter" in row.baseline or "getUser" in row.baseline] == [True] * 3
