"""Calldata from human-readable signatures, for the many one-off calls that build and steer the private chain."""

from __future__ import annotations

from functools import cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak


@cache
def component_types(types: str) -> tuple[str, ...]:
    """The types in a parenthesised list, nested tuples kept whole."""
    listed = parse(types)
    assert isinstance(listed, TupleType)
    return tuple(component.to_type_str() for component in listed.components)


@cache
def _layout(signature: str) -> tuple[bytes, tuple[str, ...]]:
    selector = keccak(text=signature)[:4]
    if signature.endswith("()"):
        return selector, ()
    return selector, component_types(signature[signature.index("(") :])


def calldata(signature: str, *args: Any) -> bytes:
    """Calldata of `signature`, e.g. ``calldata("transfer(address,uint256)", to, amount)``."""
    selector, types = _layout(signature)
    return selector + encode(types, args)


def topic(signature: str) -> str:
    """Hash of an event signature as 0x hex."""
    return "0x" + keccak(text=signature).hex()


def returned(types: tuple[str, ...], data: bytes) -> tuple[Any, ...]:
    """Decode return data; raises eth_abi's DecodingError when it is of another shape."""
    return tuple(decode(types, data))
