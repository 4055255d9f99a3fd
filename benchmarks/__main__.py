"""`make bench`: every comparison as a table, or as JSON with --json; growth as plots."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
import structlog

from benchmarks import growth, ingest, lending, market, plan, quotes, screen
from benchmarks.measure import Row
from keeper.devchain.world import ensure_world


def measure(sizes: Sequence[int], *, plans: int, samples: int, degenbot: bool) -> list[Row]:
    """Every part of the table, the parts that grow at every size."""
    rows: list[Row] = []

    def take(found: list[Row]) -> None:
        rows.extend(found)
        _tell(table(found))  # the whole takes long: what is known is told

    for size in sizes:
        take(screen.screen(size))
        take(lending.run(size))
        take(weigh(size))
        take(ingest.run(size))
        with tempfile.TemporaryDirectory() as folder:
            take(market.run(size, Path(folder), samples=samples))
    built = ensure_world()
    largest = max((row for row in rows if row.what.startswith("every health")), key=lambda row: row.size or 0)
    per_position = largest.value / 1e3 / (largest.size or 1)
    with built.start(impersonate=True) as anvil:
        take(screen.against_node(anvil, built.world, per_position))
        take(quotes.run(anvil, built.world, degenbot=degenbot))
    take(plan.run(cases=plans))
    return rows


def weigh(size: int) -> list[Row]:
    """Memory, and the loop while a large book is restored, swept and stored; in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.resident", str(size)]
    ran = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, float] = orjson.loads(ran.stdout)
    most = {100_000: 300, 1_000_000: 1_500}.get(size)
    mega = {name: found[name] / 1e6 for name in ("live", "stored", "peak")}
    note = f"{mega['stored']:.0f} MB after a checkpoint, {mega['peak']:.0f} MB at the highest"
    return [
        Row("memory", "resident with the book", mega["live"], "MB", target="≤ 300 MB at 100,000, ≤ 1.5 GB at 1,000,000",
            reached=None if most is None else max(mega.values()) <= most, size=size, note=note),
        Row("warm start", "book from disk", found["restore"], "s", size=size,
            note=f"own time; {found['restore_wall']:.2f} s on the clock"),
        Row("stall", "restore, prices, changes, audit, checkpoint", found["stall"] * 1e3, "ms", target="≤ 50 ms",
            reached=found["stall"] <= 0.05, size=size, note=f"{found['stall_wall'] * 1e3:.0f} ms on the clock"),
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""
    lines = []
    for row in rows:
        ratio = "" if row.ratio is None else f"× {row.ratio:,.3g}"
        theirs = "" if row.theirs is None else f"{row.theirs:,.3f} {row.unit}"
        verdict = {True: "yes", False: "NO", None: ""}[row.reached]
        size = "" if row.size is None else f"{row.size:,}"
        lines.append(
            f"{row.part:14} {size:>9}  {row.what:44} {row.value:>12,.3f} {row.unit:8}  {row.baseline:38} {theirs:>16} "
            f"{ratio:>9}  {verdict:3}  {row.target:44}  {row.note}".rstrip()
        )
    return "\n".join(lines)


def _tell(text: str) -> None:
    click.echo(text, err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--sizes", default="1000,10000,100000,1000000", show_default=True, help="Numbers of positions.")
@click.option("--plans", default=200, show_default=True, help="Random worlds that are planned for.")
@click.option("--samples", default=100, show_default=True, help="Heads that make ten people liquidatable, per size.")
@click.option("--degenbot/--no-degenbot", default=True, help="Compare with degenbot, installed on first use.")
@click.option("--plots", type=click.Path(path_type=Path), default=Path("build/bench"), show_default=True)
def main(*, as_json: bool, sizes: str, plans: int, samples: int, degenbot: bool, plots: Path) -> None:
    """Measure on a private chain; only ratios carry over to another machine."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    numbers = [int(word) for word in sizes.split(",")]
    rows = measure(numbers, plans=plans, samples=samples, degenbot=degenbot)
    written = growth.write(rows, plots) if len(numbers) > 1 else []
    exponents = {name: round(k, 2) for _, found in written for name, k in found.items()}
    if as_json:
        document = {"rows": [row.json() for row in rows], "exponents": exponents, "plots": [str(p) for p, _ in written]}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    click.echo(table(rows))
    for path, found in written:
        click.echo(f"\n{path}: " + ", ".join(f"{name} ∝ n^{k:.2f}" for name, k in found.items()))


if __name__ == "__main__":
    main()
