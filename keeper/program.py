"""The executor's little language: what protocols, venues and lenders say, and the executor contract runs.

A program is a tuple of steps. A call that hands control back (a flash loan, a swap) names the one counterparty that may
call back, and carries the encoded inner program in its own data. Amounts only known on chain are *sources*, written
into calldata there.

Wire format, all numbers big-endian (`Executor.sol` reads the same):

    program  step*
    step     kind:1  length:3  body:length
    call     (kind 1)  target:20  sender:20  [word:1  inner hash:32  answer length:2  answer]  patches:1  patch*  data
             the bracket is there when `sender`, who may call back, is not zero
    patch    offset:3  amount; at offset 0xffffff the amount is the native coin sent along
    approve  (kind 2)  token:20  spender:20  amount
    transfer (kind 3)  token:20  to:20  amount
    item     (kind 4)  target:20  index:1  minimum:32  maximum:32  token:20  growth:32  length:2  data  program
    keep     (kind 5)  key:32  word:1    remembers a word of the answer of the call that is the step before
    amount   source:1  token:20  index:1  value:32
             the top bit of `source` negates the number (two's complement)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from eth_utils.crypto import keccak

from keeper.model import ZERO_ADDRESS, Address


class Source(IntEnum):
    """Where an amount comes from when the step runs (must equal the contract's numbering)."""

    LITERAL = 0  # `value`
    BALANCE = 1  # the executor's balance of `token`, less `value`
    WORD = 2  # |word `index` of the present callback's arguments| as int256, plus `value`
    # What pair `token` gives for the input sent to it beyond its reserve; `index` 0: token0 in, 1: token1 in;
    # `value`: fee in bps.
    V2_OUT = 3
    # What pair `token` asks for an output; `index` as above; `value`: fee in bps << 128 | output.
    V2_IN = 4
    # What a `Keep` step remembered under the key `value`: all of it (`index` 0), or the size of its upper (1) or lower
    # (2) half, read as an int128.
    KEPT = 5


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


def kept(key: bytes, part: int = 0) -> Amount:
    """What was kept under `key` (32 bytes): all of it, or the size of its upper (1) or lower (2) int128."""
    return Amount(Source.KEPT, int.from_bytes(key, "big"), None, part)


@dataclass(frozen=True, slots=True)
class Patch:
    """Write `amount` as 32 bytes at byte `offset` of the call's data (selector included in the count).

    `negative` writes it as a negative int256 (a Uniswap V3 exact output).
    """

    offset: int
    amount: Amount
    negative: bool = False


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
    """Call `target` with `data`, after patching, and with `value` (wei) of what the executor has unwrapped."""

    target: Address
    data: bytes
    patches: tuple[Patch, ...] = ()
    callback: Callback | None = None
    value: Amount | None = None


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


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember word `word` of the answer of the call that is the step before, under `key` (32 bytes).

    It stands until the same key is used again, in whatever callback that is.
    """

    key: bytes
    word: int = 0


@dataclass(frozen=True, slots=True)
class Guard:
    """A cheap view made first: the execution reverts with `Gone` unless word `index` of the answer is in range."""

    target: Address
    data: bytes
    minimum: int
    maximum: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """Run `steps` only if the guard holds, and then only if the executor's `token` grows by at least `growth`.

    Where the guard does not hold nothing happens, and what follows runs; where the growth is less everything reverts.
    """

    guard: Guard
    token: Address
    growth: int  # base units
    steps: tuple[Step, ...]


Step = Call | Approve | Transfer | Keep | Item


@dataclass(frozen=True, slots=True)
class Program:
    """Everything one execution is given apart from its floor."""

    guards: tuple[Guard, ...]
    steps: tuple[Step, ...]
    profit_token: Address
    sweep: tuple[Address, ...] = ()  # other tokens whose leftovers go to the beneficiary


_CALL, _APPROVE, _TRANSFER, _ITEM, _KEEP = 1, 2, 3, 4, 5
_AS_VALUE = 0xFFFFFF  # where a patch would be written that is no patch but the coin sent along
_NEGATIVE = 0x80
_WORD_BYTES = 32


def encode(steps: tuple[Step, ...]) -> bytes:
    """The bytes the executor runs for `steps`: given to `execute`, and as the trailing ``bytes`` of a call that is
    answered by a callback.

    For a call with a callback the inner program is found in the call's own data, as its last ABI ``bytes`` argument,
    and its hash is put beside the expectation; `Callback.returns` travels there too. So a venue writes
    ``Call(pool, selector + abi_encode([..., "bytes"], [..., encode(inner)]), callback=Callback(pool, 2))``.

    Raises ValueError when a number does not fit its field, a patch lies outside the data, or the data of a call with a
    callback does not end in a program.
    """
    return b"".join(_encode_step(step) for step in steps)


def _encode_step(step: Step) -> bytes:
    match step:
        case Call():
            kind, body = _CALL, _encode_call(step)
        case Approve(token, spender, amount):
            kind, body = _APPROVE, _raw(token) + _raw(spender) + _encode_amount(amount)
        case Transfer(token, to, amount):
            kind, body = _TRANSFER, _raw(token) + _raw(to) + _encode_amount(amount)
        case Item():
            kind, body = _ITEM, _encode_item(step)
        case Keep(key, word):
            if len(key) != _WORD_BYTES:
                raise ValueError(f"a key has {_WORD_BYTES} bytes, not {len(key)}")
            kind, body = _KEEP, key + _number(word, 1, "the position of a word")
    return bytes([kind]) + _number(len(body), 3, "the length of a step") + body


def _encode_item(item: Item) -> bytes:
    guard = item.guard
    return b"".join(
        [
            _raw(guard.target),
            _number(guard.index, 1, "the index of a guard's word"),
            _number(guard.minimum, 32, "the minimum of a guard"),
            _number(guard.maximum, 32, "the maximum of a guard"),
            _raw(item.token),
            _number(item.growth, 32, "the growth of an item"),
            _number(len(guard.data), 2, "the length of a guard's data"),
            guard.data,
            encode(item.steps),
        ]
    )


def _encode_call(call: Call) -> bytes:
    parts = [_raw(call.target)]
    if call.callback is None:
        parts.append(_raw(ZERO_ADDRESS))
    else:
        if call.callback.sender == ZERO_ADDRESS:
            raise ValueError(f"the callback of a call to {call.target} names nobody who may make it")
        parts += [
            _raw(call.callback.sender),
            _number(call.callback.data_word, 1, "the position of the program in a callback"),
            keccak(inner_program(call)),
            _number(len(call.callback.returns), 2, "the length of a callback's answer"),
            call.callback.returns,
        ]
    parts.append(_number(len(call.patches) + (call.value is not None), 1, "the number of patches"))
    if call.value is not None:
        parts += [_number(_AS_VALUE, 3, "the offset of a patch"), _encode_amount(call.value)]
    for patch in call.patches:
        if patch.offset + _WORD_BYTES > len(call.data):
            raise ValueError(f"a patch at byte {patch.offset} lies outside the {len(call.data)} bytes of the call")
        parts += [_number(patch.offset, 3, "the offset of a patch"), _encode_amount(patch.amount, patch.negative)]
    return b"".join([*parts, call.data])


def _encode_amount(amount: Amount, negative: bool = False) -> bytes:
    return (
        bytes([amount.source | (_NEGATIVE if negative else 0)])
        + _raw(amount.token or ZERO_ADDRESS)
        + _number(amount.index, 1, "the index of an amount")
        + _number(amount.value, 32, "the value of an amount")
    )


def inner_program(call: Call) -> bytes:
    """The encoded program inside the data of a call that expects a callback.

    It is the last ``bytes`` argument: a length word whose content, padded with zeros to whole words, ends the data.
    Raises ValueError when there is none that is a program of at least one step.
    """
    data = call.data
    for at in range(4, len(data) - _WORD_BYTES, _WORD_BYTES):
        length = int.from_bytes(data[at : at + _WORD_BYTES], "big")
        start = at + _WORD_BYTES
        if start + -(-length // _WORD_BYTES) * _WORD_BYTES != len(data) or any(data[start + length :]):
            continue
        content = data[start : start + length]
        if _is_program(content):
            return content
    raise ValueError(f"a call to {call.target} expects a callback but its data does not end in an encoded program")


def _is_program(data: bytes) -> bool:
    at = 0
    while at + 4 <= len(data) and data[at] in (_CALL, _APPROVE, _TRANSFER, _ITEM, _KEEP):
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return at == len(data) and at > 0


def _raw(value: Address) -> bytes:
    return bytes.fromhex(value[2:])


def _number(value: int, size: int, what: str) -> bytes:
    if not 0 <= value < 1 << (8 * size):
        raise ValueError(f"{what} does not fit {size} bytes: {value}")
    return value.to_bytes(size, "big")
