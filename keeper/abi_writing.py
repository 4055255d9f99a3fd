"""ABI encoding by functions that are put together once per type: what eth_abi writes, at a fraction of the time.

Only values of the plainest form are written (integers that fit, lower-case addresses, `bytes` of the right length);
anything else is left to eth_abi, which judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi.grammar import ABIType, BasicType, TupleType, parse

_WORD = 32


class Unsure(Exception):
    """A value is not of the plainest form."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes values of one type; `size` in bytes, None where it depends on the value. `write` raises Unsure."""

    write: Callable[[Any], bytes]
    size: int | None = _WORD


@cache
def arguments(kinds: tuple[str, ...]) -> Writer | None:
    """For a sequence of values of these types; None where one of the types is not known here."""
    return _together([_writer(parse(kind)) for kind in kinds])


def _writer(kind: ABIType) -> Writer | None:
    if kind.is_array:
        item, (count,) = _writer(kind.item_type), kind.arrlist[-1] or (None,)
        return None if item is None else _array(item, count)
    if isinstance(kind, TupleType):
        return _together([_writer(part) for part in kind.components])
    if not isinstance(kind, BasicType):
        return None
    base, bits = kind.base, kind.sub
    if base == "address":
        return Writer(_address)
    if base == "bool":
        return Writer(_bool)
    if base == "uint" and isinstance(bits, int):
        return Writer(_integer(0, (1 << bits) - 1))
    if base == "int" and isinstance(bits, int):
        return Writer(_integer(-(1 << bits - 1), (1 << bits - 1) - 1))
    if base == "bytes":
        return Writer(_bytes, None) if bits is None else Writer(_fixed(int(bits)))
    return None


def _together(parts: Sequence[Writer | None]) -> Writer | None:
    """A tuple: what is of fixed size in place, of the rest an offset to where it follows."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    sizes = [part.size for part in known]
    fixed = [size for size in sizes if size is not None]
    writers = [(part.write, part.size is None) for part in known]
    start = sum(fixed) + _WORD * (len(sizes) - len(fixed))

    def write(values: Any) -> bytes:
        if type(values) not in (tuple, list) or len(values) != len(writers):
            raise Unsure
        heads: list[bytes] = []
        tails: list[bytes] = []
        offset = start
        for (part, follows), value in zip(writers, values, strict=True):
            written = part(value)
            if follows:
                heads.append(offset.to_bytes(_WORD, "big"))
                tails.append(written)
                offset += len(written)
            else:
                heads.append(written)
        return b"".join(heads + tails)

    return Writer(write, start if len(fixed) == len(sizes) else None)


def _array(item: Writer, count: int | None) -> Writer | None:
    """`count` items, or with None their number and then as many."""
    if count is not None:
        return _together([item] * count) if count else None

    def write(values: Any) -> bytes:
        if type(values) not in (tuple, list):
            raise Unsure
        items = _together([item] * len(values))
        assert items is not None
        return len(values).to_bytes(_WORD, "big") + items.write(values)

    return Writer(write, None)


def _address(value: Any) -> bytes:
    if type(value) is str and len(value) == 42 and value[:2] == "0x" and value.isalnum() and value.islower():
        try:
            return bytes(12) + bytes.fromhex(value[2:])
        except ValueError:
            raise Unsure from None
    raise Unsure


def _bool(value: Any) -> bytes:
    if type(value) is not bool:
        raise Unsure
    return value.to_bytes(_WORD, "big")


def _integer(least: int, most: int) -> Callable[[Any], bytes]:
    def write(value: Any) -> bytes:
        if type(value) is not int or not least <= value <= most:
            raise Unsure
        return value.to_bytes(_WORD, "big", signed=value < 0)

    return write


def _fixed(size: int) -> Callable[[Any], bytes]:
    def write(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise Unsure
        return value.ljust(_WORD, b"\0")

    return write


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise Unsure
    return len(value).to_bytes(_WORD, "big") + value + bytes(-len(value) % _WORD)
