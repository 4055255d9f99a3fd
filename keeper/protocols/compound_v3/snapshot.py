"""A ledger on disk: versioned, checksummed, tied to one deployment; no pickle."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.compound_v3.ledger import SLOTS, Ledger

_MAGIC = b"keeper/compound_v3/1"
_DIGEST = 16
_ADDRESS, _NUMBER, _KEY = 20, 16, 8  # bytes


def dump(ledger: Ledger, meta: dict[str, int | str]) -> bytes:
    """The ledger and a few words about it, as bytes."""
    words = meta | {
        "users": len(ledger.names),
        "slots": list(ledger.slots),
        "held": len(ledger.held),
        "stale": sorted(ledger.stale),
    }
    body = b"".join(
        [
            json.dumps(words).encode() + b"\n",
            bytes.fromhex("".join(name[2:] for name in ledger.names)),
            b"".join(principal.to_bytes(_NUMBER, "little", signed=True) for principal in ledger.principals),
            b"".join(key.to_bytes(_KEY, "little") for key in ledger.held),
            b"".join(amount.to_bytes(_NUMBER, "little") for amount in ledger.held.values()),
        ]
    )
    return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body


def meta_of(data: bytes) -> dict[str, Any]:
    """The words about it alone; raises BadData when the bytes are damaged or of another version."""
    return _open(data)[0]


def load(ledger: Ledger, data: bytes) -> None:
    """Fill the ledger from `dump`'s bytes; raises BadData when they are damaged or of another version."""
    words, body = _open(data)
    try:
        users, held = int(words["users"]), int(words["held"])
        slots = [Address(item) for item in words["slots"]]
        stale = [int(item) for item in words["stale"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"the stored Comet book is incomplete: {error}") from error
    if len(body) != users * (_ADDRESS + _NUMBER) + held * (_KEY + _NUMBER) or len(slots) > SLOTS:
        raise BadData(f"the stored Comet book is incomplete: {len(body)} bytes for {users} users")
    names, principals, keys, amounts = _parts(body, (users, _ADDRESS), (users, _NUMBER), (held, _KEY), (held, _NUMBER))
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


def _parts(body: bytes, *layout: tuple[int, int]) -> list[list[bytes]]:
    parts, at = [], 0
    for count, size in layout:
        parts.append([body[at + i * size : at + (i + 1) * size] for i in range(count)])
        at += count * size
    return parts


def _open(data: bytes) -> tuple[dict[str, Any], bytes]:
    start = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise BadData("the stored Comet book is of another version or no Comet book at all")
    body = data[start:]
    if blake2b(body, digest_size=_DIGEST).digest() != data[len(_MAGIC) : start]:
        raise BadData("the stored Comet book is damaged (checksum)")
    line, _, rest = body.partition(b"\n")
    words: dict[str, Any] = json.loads(line)
    return words, rest
