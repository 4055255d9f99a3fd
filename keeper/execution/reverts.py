"""Revert data in words: the executor's errors, Solidity's own, and the foreign ones in ``contracts_abi/errors.json``.

A new protocol's errors are added to that file; nothing here names one.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

_STRING = bytes.fromhex("08c379a0")  # Error(string)
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256)
_NESTING = 32

# Solidity's panic codes, from the language's documentation ("Panic via assert and Error via require").
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "bad enum value",
    0x32: "index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialised function",
}


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


def _load(name: str) -> Any:
    return json.loads(resources.files("contracts_abi").joinpath(name).read_text())


_OWN = [
    f"{entry['name']}({','.join(item['type'] for item in entry['inputs'])})"
    for entry in _load("executor.json")["abi"]
    if entry["type"] == "error"
]
_FOREIGN: list[dict[str, Any]] = _load("errors.json")
# Some contracts revert with a code as text; it gets the name that later versions of the same contract give the error,
# so that a reason means the same everywhere.
_TEXTS = {
    text: f"{meaning} [{group['label']} {text}]"
    for group in _FOREIGN
    for text, meaning in group.get("texts", {}).items()
}
_SIGNATURES = [
    *_OWN,
    *(signature for group in _FOREIGN for signature in (*group.get("texts", {}).values(), *group["signatures"])),
]
# Error name, or text reverted with, to the class of failure it is a sign of.
CLASSES: dict[str, str] = {
    name: kind for group in _FOREIGN for kind, names in group.get("classes", {}).items() for name in names
}
_STEP_FAILED = _selector("StepFailed(uint256,bytes)")
_TOKEN_REFUSED = _selector("TokenRefused(address,bytes)")
_KNOWN = {
    _selector(s): (s.partition("(")[0], [t for t in s.partition("(")[2][:-1].split(",") if t]) for s in _SIGNATURES
}


def decode_revert(data: bytes) -> str:
    """What a call reverted with, for a person and for rules that look for an error's name.

    Failing steps are named from the outermost program inwards: ``step 0: step 2: MustNotLeaveDust()``. Never raises:
    what cannot be decoded is described by its selector and length.
    """
    return _words(data, _NESTING)


def _words(data: bytes, depth: int) -> str:
    if not data:
        return "reverted without a reason"
    selector, rest = data[:4], data[4:]
    try:
        if selector == _STRING:
            (text,) = decode(["string"], rest)
            return _TEXTS[text] if text in _TEXTS else f"'{_printable(text)}'"
        if selector == _PANIC:
            (code,) = decode(["uint256"], rest)
            return f"panic 0x{code:02x} ({_PANICS.get(code, 'unknown')})"
        if selector in (_STEP_FAILED, _TOKEN_REFUSED) and not depth:
            return "…"
        if selector == _STEP_FAILED:
            index, reason = decode(["uint256", "bytes"], rest)
            # A step of an item has the item's place, counted from one, above its own.
            places = [index & 0xFFFF]
            while index := index >> 16:
                places.insert(0, (index & 0xFFFF) - 1)
            return "".join(f"step {place}: " for place in places) + _words(reason, depth - 1)
        if selector == _TOKEN_REFUSED:
            token, answer = decode(["address", "bytes"], rest)
            said = "answered false" if answer == bytes(32) else _words(answer, depth - 1)
            return f"TokenRefused({token}): {said}"
        if selector in _KNOWN:
            name, types = _KNOWN[selector]
            return f"{name}({', '.join(str(value) for value in decode(types, rest))})"
    except (DecodingError, OverflowError, ValueError):
        pass  # a known selector over garbage is as unknown as any other
    return f"unknown error 0x{selector.hex()} ({len(data)} bytes)"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])
