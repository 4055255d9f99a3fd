"""What became of everybody on the demo's stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keeper.devchain.cast import Member
from keeper.devchain.rpc import Rpc
from keeper.devchain.scenario import Borrower, Expected
from keeper.devchain.world import World
from keeper.journal.queries import AttemptRow, DecisionRow, Reader, attempts, decisions
from keeper.model import Address
from keeper.ops.views import DemoRow

Cast = Sequence[Borrower | Member]


def tell(journal: Path, mode: str, cast: Cast, world: World, rpc: Rpc) -> tuple[DemoRow, ...]:
    """One row per borrower, from the journal alone but for the final health, which the contracts are asked.

    A row more for each attempt on something nobody of the cast owns: collateral that a Comet has for sale.
    """
    reader = Reader(journal, world.chain_id, mode)
    try:
        done: Sequence[AttemptRow] = reader.ask(attempts)
        seen: Sequence[DecisionRow] = reader.ask(lambda db: decisions(db, limit=100_000))
    finally:
        reader.close()
    labels = {member.account: member.label for member in cast}
    rows = [
        _row(member, member.known_as(world), member.health_factor(rpc, world), done, seen, labels) for member in cast
    ]
    rows += [_sale(row, world) for row in done if row.borrower not in labels and _taken(row)]
    return tuple(rows)


def _row(
    member: Borrower | Member,
    market: str,
    health: int,
    done: Sequence[AttemptRow],
    seen: Sequence[DecisionRow],
    labels: dict[Address, str],
) -> DemoRow:
    """`health` is the final one, wad."""
    decided = [row for row in seen if row.borrower == member.account and row.market == market]
    # By the attempts' own positions: a process killed in the middle of a pass leaves attempts without decisions.
    taken = [
        row for row in done
        if (market, member.account) in ((row.market, row.borrower), *row.others) and _taken(row)
    ]  # fmt: skip
    own = [row for row in taken if row.borrower == member.account]
    skips = [row for row in decided if row.reason is not None]
    mined = any(row.state == "mined" for row in taken)
    first = min(own, key=lambda row: (row.head_number, row.nonce), default=None)
    if own:
        state, detail = "liquidated" if mined else "would liquidate", _what(own)
    elif taken:
        lead = labels.get(Address(taken[0].borrower), taken[0].borrower)
        state, detail = "liquidated" if mined else "would liquidate", f"in one transaction with {lead}"
    elif skips:
        state, detail = str(skips[0].reason), skips[0].detail
    else:
        state, detail = "healthy", member.why
    return DemoRow(
        market=market,
        borrower=member.account,
        label=member.label,
        expected=str(member.expected),
        as_expected=_as_expected(member.expected, state),
        health_factor=int(first.plan["health_factor"]) if first else health,
        health_after=health,
        done=state,
        detail=detail,
        predicted_net=sum(row.predicted_net for row in own) if own else None,
        realised_net=sum(row.net or 0 for row in own) if own and mined else None,
        tx_hash=next((row.tx_hash for row in taken if row.state == "mined"), None),
    )


def _sale(row: AttemptRow, world: World) -> DemoRow:
    mined, health = row.state == "mined", int(row.plan["health_factor"])
    return DemoRow(
        market=row.market,
        borrower=Address(row.borrower),
        label=f"{world.symbol(row.borrower)} for sale",
        expected=str(Expected.LIQUIDATE),
        as_expected=True,
        health_factor=health,
        health_after=health,
        done="bought" if mined else "would buy",
        detail=_what([row]),
        predicted_net=row.predicted_net,
        realised_net=row.net if mined else None,
        tx_hash=row.tx_hash if mined else None,
    )


def _taken(row: AttemptRow) -> bool:
    """Mined, or what a dry run would have sent."""
    return row.state == "mined" or (row.state == "dropped" and bool(row.signer) and row.block_number is None)


def _what(rows: Sequence[AttemptRow]) -> str:
    pairs = [f"{row.plan['debt']} debt for {row.plan['collateral']}, {row.plan['funding']}" for row in reversed(rows)]
    return "; ".join(dict.fromkeys(pairs)) + (f" ({len(rows)} times)" if len(rows) > 1 else "")


def _as_expected(expected: Expected, state: str) -> bool:
    taken = state in ("liquidated", "would liquidate")
    match expected:
        case Expected.LIQUIDATE:
            return taken
        case Expected.UNPROFITABLE:
            return state in ("unprofitable", "profit_floor")
        case Expected.BARRED:
            return state == "no_pair"
        case Expected.REFUSED:
            return state == "oracle_gap"
        case Expected.HEALTHY:
            return state == "healthy"
