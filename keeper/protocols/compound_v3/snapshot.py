"""A ledger on disk: versioned, checksummed, tied to one deployment; no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.compound_v3.ledger import Ledger
from keeper.protocols.compound_v3.weights import SLOTS
from keeper.protocols.names import packed

_MAGIC = b"keeper/compound_v3/1"
_DIGEST = 16
_ADDRESS, _NUMBER, _KEY = 20, 16, 8  # bytes
_AT_ONCE = 1 << 12  # numbers whose bytes lie about singly


def freeze(ledger: Ledger, meta: dict[str, int | str]) -> Callable[[], bytes]:
    """What `dump` would give now, still to be worked out: in a thread, while the ledger goes on."""
    names, principals = ledger.names[:], ledger.principals[:]
    keys, amounts = list(ledger.held), list(ledger.held.values())
    slots, stale = list(ledger.slots), sorted(ledger.stale)

    def encode() -> bytes:
        words = meta | {"users": len(names), "slots": slots, "held": len(keys), "stale": stale}
        body = b"".join(
            [
                json.dumps(words).encode() + b"\n",
                packed(names).tobytes(),
                *_stored(principals, _NUMBER, signed=True),
                *_stored(keys, _KEY),
                *_stored(amounts, _NUMBER),
            ]
        )
        return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body

    return encode


def _stored(numbers: Sequence[int], size: int, *, signed: bool = False) -> Iterator[bytes]:
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        yield b"".join([number.to_bytes(size, "little", signed=signed) for number in part])


def dump(ledger: Ledger, meta: dict[str, int | str]) -> bytes:
    """The ledger and a few words about it, as bytes."""
    return freeze(ledger, meta)()


def meta_of(data: bytes) -> dict[str, Any]:
    """The words about it alone; raises BadData when the bytes are damaged or of another version."""
    return _open(data)[0]


def load(ledger: Ledger, data: bytes) -> None:
    """Fill the ledger from `dump`'s bytes; raises BadData when they are damaged or of another version."""
    words, at = _open(data)
    try:
        users, held = int(words["users"]), int(words["held"])
        slots = [Address(item) for item in words["slots"]]
        stale = [int(item) for item in words["stale"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"the stored Comet book is incomplete: {error}") from error
    layout = ((users, _ADDRESS), (users, _NUMBER), (held, _KEY), (held, _NUMBER))
    if len(data) - at != sum(count * size for count, size in layout) or len(slots) > SLOTS:
        raise BadData(f"the stored Comet book is incomplete: {len(data) - at} bytes for {users} users")
    parts = []
    for count, size in layout:
        parts.append(_items(data, at, count, size))
        at += count * size
    names, principals, keys, amounts = parts
    ledger.load(
        [Address("0x" + item.hex()) for item in names],
        [int.from_bytes(item, "little", signed=True) for item in principals],
        slots,
        {
            int.from_bytes(key, "little"): int.from_bytes(amount, "little")
            for key, amount in zip(keys, amounts, strict=True)
        },
    )
    ledger.mark(stale)


def _items(data: bytes, at: int, count: int, size: int) -> Iterator[bytes]:
    return (data[place : place + size] for place in range(at, at + count * size, size))


def _open(data: bytes) -> tuple[dict[str, Any], int]:
    """The words, and where what follows them begins."""
    start = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise BadData("the stored Comet book is of another version or no Comet book at all")
    if blake2b(memoryview(data)[start:], digest_size=_DIGEST).digest() != data[len(_MAGIC) : start]:
        raise BadData("the stored Comet book is damaged (checksum)")
    end = data.index(b"\n", start)
    words: dict[str, Any] = json.loads(data[start:end])
    return words, end + 1
