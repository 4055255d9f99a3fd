"""Answers as tables for a terminal. What they are called in JSON is in `views`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

import orjson
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keeper.model import WAD, Plan, Route, Skip, checksum
from keeper.ops import rival_tables
from keeper.ops.doctor import Level, Report, Result
from keeper.ops.numbers import amount, ether, gwei, health, short, significant, units
from keeper.ops.views import DemoView, ExplainView, ScanView

_LEVEL_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}


def console(file: TextIO | None = None) -> Console:
    """Standard output (or `file`) for tables; text is never markup. A pipe is wide: it has no lines to fit."""
    out = Console(file=file, markup=False, highlight=False, emoji=False)
    if not out.is_terminal:
        out.width = 240
    return out


def emit_json(out: Console, value: Any) -> None:
    """One JSON document on standard output."""
    out.print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), soft_wrap=True)


def scan(view: ScanView) -> RenderableType:
    """Every borrower with debt, the least healthy first."""
    table = _table(f"{len(view.rows):,} borrowers with debt at block {view.head.number:,} of chain {view.chain_id}")
    for name in ("market", "borrower"):
        table.add_column(name, no_wrap=True)
    for name in ("health factor", "collateral", "debt"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in view.rows:
        account = row.account
        style = "red" if account.health_factor < WAD else "yellow" if account.health_factor < WAD * 105 // 100 else ""
        table.add_row(
            row.market,
            checksum(account.borrower),
            Text(health(account.health_factor), style=style),
            units(account.collateral_value, row.base_unit, 2),
            units(account.debt_value, row.base_unit, 2),
        )
    notes = [Text(f"{market} is unknown: {reason}", style="yellow") for market, reason in view.unknown.items()]
    return Group(table, *notes)


def explain(view: ExplainView) -> RenderableType:
    """One borrower: health, every candidate, the plan, the gates, the simulation, the verdict."""
    account = view.account
    head = Text.assemble(
        (f"{checksum(account.borrower)}", "bold"),
        f" in {view.market} at block {view.head.number:,}: health factor ",
        (health(account.health_factor), "red" if account.health_factor < WAD else "green"),
        f", collateral {units(account.collateral_value, view.base_unit, 2)}",
        f", debt {units(account.debt_value, view.base_unit, 2)}",
    )
    parts: list[RenderableType] = [head]
    symbol = view.native_symbol
    if view.candidates:
        table = _table("candidates, the best first")
        for name in ("debt", "collateral", "funding"):
            table.add_column(name, no_wrap=True)
        for name in ("repay", "seize", "gain", "gas", "net"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("note", overflow="fold")
        for candidate in view.candidates:
            table.add_row(
                candidate.debt.symbol,
                candidate.collateral.symbol,
                candidate.funding,
                amount(candidate.repay, candidate.debt),
                amount(candidate.seized, candidate.collateral),
                ether(candidate.gain, symbol),
                f"{candidate.gas:,}",
                _signed(candidate.net, symbol),
                candidate.note,
            )
        parts.append(table)
    parts += [Text(f"not offered: {refusal.detail}", style="dim") for refusal in view.refusals]
    if view.plan is not None:
        parts.append(_plan(view.plan, symbol))
    if view.gates:
        table = _table("gates")
        table.add_column("gate", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("why", overflow="fold")
        for gate in view.gates:
            table.add_row(gate.name, _yes(gate.passed, "open", "closed"), gate.detail)
        parts.append(table)
    if (simulation := view.simulation) is not None:
        told = (
            f"gains {ether(simulation.gain, symbol)} with {simulation.gas_used:,} gas"
            if simulation.ok
            else f"reverts: {simulation.revert or 'without a reason'}"
        )
        parts.append(
            Text(f"simulation at block {simulation.head.number:,}: {told}", "green" if simulation.ok else "red")
        )
    parts.append(_verdict(view.skip))
    return Group(*parts)


def _plan(plan: Plan, symbol: str) -> RenderableType:
    table = _table("plan", header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("repay", amount(plan.repay, plan.debt))
    table.add_row("seize", amount(plan.seizure.seized, plan.collateral))
    if plan.loan is None:
        table.add_row("funding", "flash swap by the buying route")
    else:
        owed = f"{amount(plan.loan.amount, plan.debt)} plus {amount(plan.loan.premium, plan.debt)}"
        table.add_row("funding", f"{plan.loan.source} lends {owed}")
    for name, route in (("buy", plan.buy), ("sell", plan.sell)):
        if route is not None:
            table.add_row(name, _route(route))
    table.add_row("gain", ether(plan.gain, symbol))
    data = f", {ether(plan.fees.data_fee, symbol)} of it for data" if plan.fees.data_fee else ""
    table.add_row("gas", f"{plan.gas:,} at {gwei(plan.fees.price)} is {ether(plan.cost, symbol)}{data}")
    table.add_row("net", _signed(plan.net, symbol))
    return table


def _route(route: Route) -> str:
    lines = []
    for path in route.paths:
        share = path.amount_in * 10_000 // route.amount_in if route.amount_in else 0
        hops = " then ".join(f"{hop.venue} {short(hop.pool)}" for hop in path.hops)
        lines.append(f"{units(share, 100, 2)} % through {hops}")
    return "\n".join(lines)


def doctor(report: Report) -> RenderableType:
    """The last line under the results, which have been printed one by one."""
    counts = {level: sum(result.finding.level is level for result in report.results) for level in Level}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    return Text(told, "green" if report.passed else "bold red")


def finding(result: Result) -> RenderableType:
    """One line of the doctor, with the fix below it when there is one."""
    level = result.finding.level
    line = Text.assemble((f"{level:<5}", _LEVEL_STYLE[level]), (f"{result.name}: ", "bold"), result.finding.text)
    return Text.assemble(line, "\n     ", (f"fix: {result.finding.fix}", "yellow")) if result.finding.fix else line


class Summary(Protocol):
    """What a report needs of the journal's summary; amounts in wei."""

    @property
    def mode(self) -> str: ...
    @property
    def first_block(self) -> int | None: ...
    @property
    def last_block(self) -> int | None: ...
    @property
    def passes(self) -> int: ...
    @property
    def positions(self) -> int: ...
    @property
    def skips(self) -> Mapping[str, int]: ...
    @property
    def skipped_positions(self) -> Mapping[str, int]: ...
    @property
    def attempts(self) -> Mapping[str, int]: ...
    @property
    def gain(self) -> int: ...
    @property
    def gas_cost(self) -> int: ...
    @property
    def net(self) -> int: ...
    @property
    def predicted_net(self) -> int: ...
    @property
    def dry_net(self) -> int: ...
    @property
    def gain_error(self) -> rival_tables.ErrorLine: ...
    @property
    def gas_error(self) -> rival_tables.ErrorLine: ...
    @property
    def competition(self) -> rival_tables.CompetitionView: ...


class AttemptLine(Protocol):
    """What a report needs of one attempt; amounts in wei."""

    @property
    def market(self) -> str: ...
    @property
    def borrower(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def head_number(self) -> int: ...
    @property
    def predicted_net(self) -> int: ...
    @property
    def net(self) -> int | None: ...
    @property
    def tx_hash(self) -> str | None: ...
    @property
    def detail(self) -> str: ...
    @property
    def revert(self) -> str | None: ...


def report(summary: Summary, attempts: Sequence[AttemptLine], symbol: str = "ETH") -> RenderableType:
    """The morning's answer: what was seen, done, left alone and why, and earned."""
    if summary.first_block is None:
        return Text("the journal has no passes in that time")
    blocks = f"from block {summary.first_block:,} to {summary.last_block or 0:,}"
    counts = f"{summary.positions:,} liquidatable positions, {sum(summary.attempts.values()):,} attempts"
    seen = Text(f"{summary.passes:,} passes ({summary.mode}) {blocks}: {counts}")
    parts: list[RenderableType] = [seen]
    if attempts:
        table = _table("attempts, newest first")
        for name in ("block", "market", "borrower", "state"):
            table.add_column(name, no_wrap=True)
        table.add_column("predicted net", justify="right", no_wrap=True)
        table.add_column("realised net", justify="right", no_wrap=True)
        table.add_column("transaction", no_wrap=True)
        table.add_column("note", overflow="fold")
        for row in attempts:
            table.add_row(
                f"{row.head_number:,}",
                row.market,
                short(row.borrower),
                row.state,
                ether(row.predicted_net, symbol),
                "" if row.net is None else _signed(row.net, symbol),
                short(row.tx_hash) if row.tx_hash else "",
                row.revert or row.detail,
            )
        parts.append(table)
    if summary.skips:
        table = _table("left alone")
        table.add_column("reason", no_wrap=True)
        table.add_column("positions", justify="right")
        table.add_column("passes", justify="right")
        for reason, count in summary.skips.items():
            table.add_row(reason, f"{summary.skipped_positions.get(reason, 0):,}", f"{count:,}")
        parts.append(table)
    parts += rival_tables.competition(summary.competition, symbol)
    parts += rival_tables.quality(summary.gain_error, summary.gas_error, summary.competition.reverts, symbol)
    if summary.mode == "dry":
        parts.append(Text(f"a live keeper would have earned about {ether(summary.dry_net, symbol)}"))
    else:
        parts.append(
            Text(
                f"earned {ether(summary.net, symbol)}: gain {ether(summary.gain, symbol)} less gas "
                f"{ether(summary.gas_cost, symbol)}; predicted {ether(summary.predicted_net, symbol)}",
                "green" if summary.net >= 0 else "red",
            )
        )
    return Group(*parts)


def demo(view: DemoView, symbol: str = "ETH") -> RenderableType:
    """What was done, what was skipped and why, what was earned."""
    table = _table(f"demo ({view.mode}) on chain {view.chain_id}")
    for name in ("market", "borrower"):
        table.add_column(name, no_wrap=True)
    table.add_column("health", justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("predicted", justify="right", no_wrap=True)
    table.add_column("earned", justify="right", no_wrap=True)
    table.add_column("how, or why not", overflow="fold")
    for row in view.rows:
        color = {"liquidated": "green", "would liquidate": "green", "healthy": "dim"}.get(row.done, "yellow")
        table.add_row(
            row.market,
            row.label,
            health(row.health_factor),
            Text(row.done, color),
            "" if row.predicted_net is None else ether(row.predicted_net, symbol),
            "" if row.realised_net is None else _signed(row.realised_net, symbol),
            row.detail,
        )
    if view.mode == "live":
        said = f"predicted {ether(view.predicted, symbol)}, earned {ether(view.earned, symbol)}"
    else:
        said = f"a live keeper would have earned about {ether(view.predicted, symbol)}"
    return Group(table, Text(f"{said}, in {view.seconds:.0f} s", "bold"))


def config_rows(rows: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Key, value (secrets masked), source."""
    table = _table("")
    for name in ("key", "value", "from"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


class KeyHelp(Protocol):
    """What `schema_rows` needs of a key."""

    @property
    def key(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def default(self) -> str: ...
    @property
    def help(self) -> str: ...


def schema_rows(rows: Sequence[KeyHelp]) -> RenderableType:
    """Key, type, default, help."""
    table = _table("")
    for name in ("key", "type", "default", "help"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row.key, row.type, row.default, row.help)
    return table


def _table(title: str, *, header: bool = True) -> Table:
    return Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, show_header=header, header_style="dim"
    )


def _yes(passed: bool, yes: str, no: str) -> Text:
    return Text(yes, "green") if passed else Text(no, "red")


def _signed(value: int, symbol: str) -> Text:
    return Text(ether(value, symbol), "green" if value >= 0 else "red")


def _verdict(skip: Skip | None) -> Text:
    if skip is None:
        return Text("verdict: would be sent", "bold green")
    numbers = ", ".join(f"{name} {significant(value, 1, 30)}" for name, value in skip.numbers.items())
    return Text(
        f"verdict: left alone ({skip.reason}): {skip.detail}" + (f" [{numbers}]" if numbers else ""), "bold yellow"
    )
