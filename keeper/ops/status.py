"""What the running keeper says about itself, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def status(said: Mapping[str, Any]) -> RenderableType:
    """The answer of the control socket's ``status``; whatever keeps it from sending comes first."""
    head = said["head"]
    stopped = [Text(line, style="bold red") for line in stops(said)]
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("keeper", f"{said['version']}, {said['mode']}, chain {said['chain_id']}")
    facts.add_row("up for", str(timedelta(seconds=said["uptime_seconds"])))
    facts.add_row("head", "none yet" if head is None else f"{head['number']:,}, {head['age_seconds']} s old")
    facts.add_row("endpoint", said["provider"] or "none answers")
    facts.add_row("passes", f"{said['passes']:,}")
    facts.add_row("in flight", str(said["in_flight"]))
    if not said["synced"]:
        facts.add_row("history", said["sync_progress"] or "still being read")
    for name, market in said["markets"].items():
        known = "trusted" if market["trusted"] else f"unknown: {market['reason']}"
        facts.add_row(
            name, f"{known}; {market['positions']:,} borrowers with debt, {market['liquidatable']:,} liquidatable"
        )
    return Group(*stopped, facts)


def stops(said: Mapping[str, Any]) -> list[str]:
    """Everything that keeps it from sending, a sentence each."""
    lines = []
    if said["paused"]:
        lines.append(f"paused: {said['pause_reason'] or 'by the operator'}")
    lines += [f"breaker {name} is open: {reason}" for name, reason in said["breakers"].items()]
    lines += [f"quarantined: {key}: {reason}" for key, reason in said["quarantined"].items()]
    return lines
