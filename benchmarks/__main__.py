"""`make bench`: every comparison as a table, or as JSON with --json."""

from __future__ import annotations

import click
import orjson

from benchmarks import plan, quotes, screen
from keeper.devchain.world import ensure_world


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--users", default=100_000, show_default=True, help="Positions of the book that is screened.")
@click.option("--plans", default=100, show_default=True, help="Random worlds that are planned for.")
def main(*, as_json: bool, users: int, plans: int) -> None:
    """Measure on a private chain; only ratios carry over to another machine."""
    built = ensure_world()
    with built.start(impersonate=True) as anvil:
        rows = quotes.run(anvil, built.world) + screen.run(anvil, built.world, users=users)
    if as_json:
        click.echo(orjson.dumps([row.json() for row in rows], option=orjson.OPT_INDENT_2))
        return
    for row in rows:
        ours, theirs = f"{row.ours * 1e6:,.3f} µs", f"{row.theirs * 1e6:,.3f} µs"
        click.echo(f"{row.what:36} {ours:>12}   {row.baseline:38} {theirs:>16}   × {row.ratio:,.3g}")
    plan.main(cases=plans)


if __name__ == "__main__":
    main()
