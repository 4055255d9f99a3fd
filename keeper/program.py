"""The executor's little language: what protocols, venues and lenders say, and the executor contract runs.

A program is a tuple of steps. A call that hands control back (a flash loan, a swap) names the one counterparty that may
call back, and carries the encoded inner program in its own data. Amounts only known on chain are *sources*, written
into calldata there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from keeper.model import Address


class Source(IntEnum):
    """Where an amount comes from when the step runs (must equal the contract's numbering)."""

    LITERAL = 0  # `value`
    BALANCE = 1  # the executor's balance of `token`, less `value`
    WORD = 2  # |word `index` of the present callback's arguments| as int256, plus `value`
    V2_OUT = (
        3  # what pair `token` gives for the input sent to it beyond its reserve; `index` 0: token0 in, 1: token1 in;
    )
    #             `value`: fee in bps
    V2_IN = 4  # what pair `token` asks for an output; `index` as above; `value`: fee bps << 128 | output


@dataclass(frozen=True, slots=True)
class Amount:
    """A number known now (`LITERAL`) or on chain (the others)."""

    source: Source
    value: int = 0
    token: Address | None = None
    index: int = 0


def literal(value: int) -> Amount:
    """A number known now, base units."""
    return Amount(Source.LITERAL, value)


def balance(token: Address, keep: int = 0) -> Amount:
    """All of the executor's `token` but `keep` base units."""
    return Amount(Source.BALANCE, keep, token)


def word(index: int, plus: int = 0) -> Amount:
    """The callback's argument word `index` (absolute value), plus a constant."""
    return Amount(Source.WORD, plus, None, index)


@dataclass(frozen=True, slots=True)
class Patch:
    """Write `amount` as 32 bytes at byte `offset` of the call's data (selector included in the count)."""

    offset: int
    amount: Amount


@dataclass(frozen=True, slots=True)
class Callback:
    """Who may call back while the call runs, and what happens then.

    `data_word` is the position (0-based) of the callback's trailing ``bytes`` argument among its argument words: the
    encoded inner program travels there and must come back unchanged. `returns` is what the callback answers, raw.
    """

    sender: Address
    data_word: int
    returns: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    """Call `target` with `data`, after patching."""

    target: Address
    data: bytes
    patches: tuple[Patch, ...] = ()
    callback: Callback | None = None


@dataclass(frozen=True, slots=True)
class Approve:
    """Set the allowance of `spender` over the executor's `token` (zero first where the token insists)."""

    token: Address
    spender: Address
    amount: Amount


@dataclass(frozen=True, slots=True)
class Transfer:
    """Send `amount` of `token` to `to`, accepting tokens that return nothing."""

    token: Address
    to: Address
    amount: Amount


Step = Call | Approve | Transfer


@dataclass(frozen=True, slots=True)
class Guard:
    """A cheap view made first: the execution reverts with `Gone` unless word `index` of the answer is in range."""

    target: Address
    data: bytes
    minimum: int
    maximum: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """Everything one execution is given apart from its floor."""

    guards: tuple[Guard, ...]
    steps: tuple[Step, ...]
    profit_token: Address
    sweep: tuple[Address, ...] = ()  # other tokens whose leftovers go to the beneficiary
