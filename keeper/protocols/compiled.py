"""`kernels` as machine code."""

from __future__ import annotations

from typing import Any

from keeper.compiled import compiled
from keeper.protocols.kernels import Entries, Floats, Ints, Sums

_COLUMNS = "int32[::1],int32[::1],int32[::1],float64[::1],int32[::1],int32[::1]"
_REST = "float64[::1],float64,float64,float64[::1],float64[::1],boolean[::1]"


@compiled(f"void(int64,{_COLUMNS},{_REST})")
def _visit(
    user: Any, first: Any, following: Any, owner: Any, weight: Any, kind: Any, owing: Any,
    factors: Any, drift: Any, slack: Any, balance: Any, debt: Any, near: Any,
) -> None:  # fmt: skip
    total = owed = 0.0
    link = first[user]
    while link >= 0:
        value = weight[link] * factors[kind[link]]
        total += value
        owed -= min(value, 0.0)
        link = following[link]
    balance[user], debt[user] = total, owed
    near[user] = owing[user] > 0 and total - drift * (total + 2.0 * owed) < slack


@compiled(f"void({_COLUMNS},{_REST})")
def _everybody(
    first: Any, following: Any, owner: Any, weight: Any, kind: Any, owing: Any,
    factors: Any, drift: Any, slack: Any, balance: Any, debt: Any, near: Any,
) -> None:  # fmt: skip
    for user in range(len(first)):
        _visit(user, first, following, owner, weight, kind, owing, factors, drift, slack, balance, debt, near)


@compiled(f"void(int64[::1],{_COLUMNS},{_REST})")
def _some(
    users: Any, first: Any, following: Any, owner: Any, weight: Any, kind: Any, owing: Any,
    factors: Any, drift: Any, slack: Any, balance: Any, debt: Any, near: Any,
) -> None:  # fmt: skip
    for user in users:
        _visit(user, first, following, owner, weight, kind, owing, factors, drift, slack, balance, debt, near)


@compiled(f"int64(int32[::1],{_COLUMNS},{_REST})")
def _holders(
    chosen: Any, first: Any, following: Any, owner: Any, weight: Any, kind: Any, owing: Any,
    factors: Any, drift: Any, slack: Any, balance: Any, debt: Any, near: Any,
) -> Any:  # fmt: skip
    done = 0
    for entry in chosen:
        if kind[entry] != 0 and weight[entry] != 0.0:
            _visit(
                owner[entry], first, following, owner, weight, kind, owing, factors, drift, slack, balance, debt, near
            )
            done += 1
    return done


class CompiledKernels:
    """`Kernels` over the loops above."""

    def everybody(self, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        _everybody(*_columns(entries), factors, drift, slack, out.balance, out.debt, out.near)

    def some(self, users: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> None:
        _some(users, *_columns(entries), factors, drift, slack, out.balance, out.debt, out.near)

    def holders(self, chosen: Ints, entries: Entries, factors: Floats, drift: float, slack: float, out: Sums) -> int:
        return int(_holders(chosen, *_columns(entries), factors, drift, slack, out.balance, out.debt, out.near))


def _columns(entries: Entries) -> tuple[Ints, Ints, Ints, Floats, Ints, Ints]:
    return entries.first, entries.following, entries.owner, entries.weight, entries.kind, entries.owing
