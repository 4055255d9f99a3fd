"""The report's sections about others: what was captured, what was missed and why, who took it, what reverts cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from keeper.ops.numbers import ether, gwei, short

_ROWS = 20  # single liquidations in the table; all of them are in --json


class MissedLine(Protocol):
    """What somebody else took for one reason of ours; wei."""

    @property
    def reason(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def gross(self) -> int: ...
    @property
    def planned(self) -> int: ...
    @property
    def plan_net(self) -> int: ...
    @property
    def plan_cost(self) -> int: ...


class RivalLine(Protocol):
    """Somebody else; wei."""

    @property
    def liquidator(self) -> str: ...
    @property
    def senders(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def gross(self) -> int: ...
    @property
    def gas_cost(self) -> int: ...
    @property
    def coinbase_paid(self) -> int: ...
    @property
    def coinbase_unknown(self) -> int: ...
    @property
    def most(self) -> int: ...


class LiquidationLine(Protocol):
    """One liquidation; wei, None where it is not known."""

    @property
    def market(self) -> str: ...
    @property
    def borrower(self) -> str: ...
    @property
    def block_number(self) -> int: ...
    @property
    def tx_index(self) -> int | None: ...
    @property
    def liquidator(self) -> str: ...
    @property
    def gross(self) -> int | None: ...
    @property
    def gas_price(self) -> int | None: ...
    @property
    def coinbase_paid(self) -> int | None: ...
    @property
    def coinbase_at_most(self) -> int | None: ...
    @property
    def plan_net(self) -> int | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def detail(self) -> str: ...
    @property
    def late(self) -> int | None: ...
    @property
    def our_index(self) -> int | None: ...


class RevertCosts(Protocol):
    """Attempts that were mined and failed; wei."""

    @property
    def count(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def by_reason(self) -> Mapping[str, int]: ...


class CompetitionView(Protocol):
    """All of it."""

    @property
    def captured(self) -> int: ...
    @property
    def captured_gross(self) -> int: ...
    @property
    def missed(self) -> Sequence[MissedLine]: ...
    @property
    def rivals(self) -> Sequence[RivalLine]: ...
    @property
    def reverts(self) -> RevertCosts: ...
    @property
    def rows(self) -> Sequence[LiquidationLine]: ...


class ErrorLine(Protocol):
    """Realised less predicted, over attempts that succeeded."""

    @property
    def count(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def mean_absolute(self) -> int: ...
    @property
    def max_absolute(self) -> int: ...


def competition(view: CompetitionView, symbol: str = "ETH") -> list[RenderableType]:
    """The sections that have something to say. Gross is at the markets' oracle prices, before any cost."""
    parts: list[RenderableType] = []
    if view.captured or view.missed:
        taken = sum(line.count for line in view.missed)
        parts.append(
            Text(
                f"liquidated on chain: {view.captured:,} by us (gross {ether(view.captured_gross, symbol)}), "
                f"{taken:,} by others (gross {ether(sum(line.gross for line in view.missed), symbol)})"
            )
        )
    if view.missed:
        parts.append(_missed(view.missed, symbol))
    if view.rivals:
        parts.append(_rivals(view.rivals, symbol))
    if view.missed:
        parts.append(_single([row for row in view.rows if row.reason is not None][:_ROWS], symbol))
    return parts


def quality(gain: ErrorLine, gas: ErrorLine, reverts: RevertCosts, symbol: str = "ETH") -> list[RenderableType]:
    """How good the predictions of mined attempts were, and what failed ones cost."""
    parts: list[RenderableType] = []
    if gain.count:
        parts.append(
            Text(
                f"prediction error ({gain.count:,} mined): gain by {ether(gain.mean_absolute, symbol)} on average, "
                f"{ether(gain.max_absolute, symbol)} at most, {ether(gain.total, symbol)} in sum; gas by "
                f"{gas.mean_absolute:,} units on average, {gas.max_absolute:,} at most"
            )
        )
    if reverts.count:
        listed = "; ".join(f"{reason}: {ether(cost, symbol)}" for reason, cost in reverts.by_reason.items())
        parts.append(
            Text(f"{reverts.count:,} reverted attempts cost {ether(reverts.cost, symbol)} ({listed})", "yellow")
        )
    return parts


def lateness(row: LiquidationLine) -> str:
    """Where our attempt came, against this liquidation."""
    if row.late is None:
        return ""
    if row.reason == "dry_run":
        return "at the earliest in the same block" if row.late == 0 else f"up to {-row.late} block(s) earlier"
    if row.late == 0 and row.our_index is not None and row.tx_index is not None:
        places = row.our_index - row.tx_index
        return f"same block, {abs(places)} place(s) {'behind' if places > 0 else 'ahead'}"
    return "same block" if row.late == 0 else f"{abs(row.late)} block(s) {'too late' if row.late > 0 else 'earlier'}"


def payment(row: LiquidationLine, symbol: str = "ETH") -> str:
    """What is known of the payment to the block's fee recipient."""
    if row.coinbase_paid is not None:
        return ether(row.coinbase_paid, symbol)
    return "unknown" if row.coinbase_at_most is None else f"at most {ether(row.coinbase_at_most, symbol)}"


def _missed(lines: Sequence[MissedLine], symbol: str) -> RenderableType:
    table = _table("taken by others, by our reason")
    table.add_column("reason", no_wrap=True)
    for name in ("count", "gross", "with a plan of ours", "which would have made", "and paid for gas"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.reason,
            f"{line.count:,}",
            ether(line.gross, symbol),
            f"{line.planned:,}",
            ether(line.plan_net, symbol),
            ether(line.plan_cost, symbol),
        )
    return table


def _rivals(lines: Sequence[RivalLine], symbol: str) -> RenderableType:
    table = _table("rivals")
    table.add_column("liquidator", no_wrap=True)
    for name in ("senders", "count", "gross", "gas", "paid to blocks", "earned at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines[:_ROWS]:
        paid = ether(line.coinbase_paid, symbol)
        if line.coinbase_unknown:
            paid += f" + {line.coinbase_unknown:,} unknown"
        table.add_row(
            short(line.liquidator),
            f"{line.senders:,}",
            f"{line.count:,}",
            ether(line.gross, symbol),
            ether(line.gas_cost, symbol),
            paid,
            ether(line.most, symbol),
        )
    note = f"{len(lines) - _ROWS:,} more rivals are in --json" if len(lines) > _ROWS else ""
    return Group(table, Text(note, "dim")) if note else table


def _single(rows: Sequence[LiquidationLine], symbol: str) -> RenderableType:
    table = _table("the newest of them")
    for name in ("block", "market", "borrower", "by"):
        table.add_column(name, no_wrap=True)
    for name in ("gross", "gas price", "paid to block", "our plan"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why not ours", overflow="fold")
    for row in rows:
        why = ": ".join(
            part for part in (row.reason or "", "; ".join(filter(None, (lateness(row), row.detail)))) if part
        )
        table.add_row(
            f"{row.block_number:,}" + ("" if row.tx_index is None else f"/{row.tx_index}"),
            row.market,
            short(row.borrower),
            short(row.liquidator),
            "unknown" if row.gross is None else ether(row.gross, symbol),
            "unknown" if row.gas_price is None else gwei(row.gas_price),
            payment(row, symbol),
            "none" if row.plan_net is None else ether(row.plan_net, symbol),
            why,
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
