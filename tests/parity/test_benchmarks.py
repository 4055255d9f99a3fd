"""The benchmarks run, check what they measure, and their stable ratios are where they should be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import growth, ingest, lending, market, plan, quotes, screen
from benchmarks.__main__ import table, weigh
from benchmarks.measure import Row
from keeper.devchain.world import Built

pytestmark = pytest.mark.parity


def test_local_arithmetic_beats_asking_by_far(built: Built) -> None:
    """Quotes and health factors, even on a busy machine; the answers are compared on the way."""
    with built.start(impersonate=True) as anvil:
        small = screen.screen(2_000)
        per_position = small[0].value / 1e3 / 2_000
        rows = screen.against_node(anvil, built.world, per_position, asked=20)
        rows += quotes.run(anvil, built.world, degenbot=False)
    asked = [row for row in rows if row.theirs is not None]
    assert len(asked) == 2 + 6
    assert all(row.ratio is not None and row.ratio > 10 for row in asked), table(asked)
    slow, full, seldom, interest = small[-1], small[0], small[2], small[3]
    assert slow.what.endswith("without numba")
    assert slow.value > full.value
    assert seldom.reached, seldom.note
    assert interest.reached


def test_the_screens_of_all_protocols_are_measured() -> None:
    """Every kind of work has a figure; whoever did not change is not summed up."""
    rows = lending.run(2_000)
    assert len({row.what.split(",")[0] for row in rows}) == len(rows) == 5  # as growth tells them apart
    assert all(row.value > 0 and row.theirs for row in rows)
    assert rows[2].note.startswith("100 of 2,000")


def test_the_smallest_market_is_lived_through(tmp_path: Path) -> None:
    """Cold start, cut and gone on with; warm start; quiet blocks; liquidations, in the fewest round trips."""
    rows = {f"{row.part}: {row.what}": row for row in market.run(300, tmp_path, samples=1)}
    assert "every balance equal" in rows["cold start: own processor time"].note
    assert rows["RPC: requests per quiet block"].value <= 4
    assert rows["head → signed: round trips until the first is handed over"].value == 2
    assert {"head → signed: p50, clock less node", "warm start: ready after a restart"} <= rows.keys()


def test_logs_memory_and_plans_are_measured() -> None:
    """Their own checks hold, and a table can be made of them."""
    rows = [*ingest.run(200), *weigh(200), *plan.run(cases=1)]
    assert {row.part for row in rows} == {"ingestion", "memory", "warm start", "stall", "plan"}
    assert all(row.value > 0 for row in rows)
    assert len(table(rows).splitlines()) == len(rows)


def test_growth_is_plotted_with_its_exponents(tmp_path: Path) -> None:
    """A square grows with exponent two, a constant with none; both are in the plot."""
    rows = [Row("a", "square", float(size**2), "ms", size=size) for size in (10, 100, 1_000)]
    rows += [Row("b", "constant", 7.0, "ms", size=size) for size in (10, 100, 1_000)]
    rows.append(Row("c", "once", 1.0, "bytes", size=10))
    ((path, exponents),) = growth.write(rows, tmp_path)
    assert math.isclose(exponents["a: square"], 2.0)
    assert math.isclose(exponents["b: constant"], 0.0, abs_tol=1e-9)
    text = path.read_text()
    assert text.count("<polyline") == 2
    assert "square (k = 2.00)" in text
