"""A ledger on disk: versioned, checksummed, tied to one deployment; no pickle."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from hashlib import blake2b
from typing import cast

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.protocols.aave_v3.ledger import DEBT, IGNORED, KINDS, Ledger, kind
from keeper.protocols.names import numbered, packed, unpacked

_MAGIC = b"keeper/aave_v3/1"
_DIGEST = 16


Meta = dict[str, int | str | list[str]]


def freeze(ledger: Ledger, meta: Meta) -> Callable[[], bytes]:
    """What `dump` would give now, still to be worked out: in a thread, while the ledger goes on."""
    users, entries = ledger.counts
    names = ledger.names[:users]
    amount = ledger.amount.live(entries)
    large = np.flatnonzero(amount[:, 1])
    columns = {
        "emode": ledger.emode.live(users).copy(),
        "owner": ledger.owner.live(entries).copy(),
        "slot": ledger.slot.live(entries).copy(),
        "enabled": ledger.enabled.live(entries).copy(),
        "low": amount[:, 0].copy(),
        "large": large,
        "high": amount[large, 1],
    }

    def encode() -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            names=packed(names),
            **columns,
        )
        del names[:]
        columns.clear()
        body = buffer.getbuffer()
        return b"".join((_MAGIC, blake2b(body, digest_size=_DIGEST).digest(), body))

    return encode


def dump(ledger: Ledger, meta: Meta) -> bytes:
    """The ledger and a few words about it, as bytes."""
    return freeze(ledger, meta)()


def load(ledger: Ledger, data: bytes, check: Callable[[Meta], None] | None = None) -> Meta:
    """Fill the ledger from `dump`'s bytes, every user's entries side by side; returns the words about it.

    Raises BadData when they are damaged or of another version, and whatever `check` does, before the ledger is touched.
    """
    with _open(data) as arrays:
        meta = _meta(arrays)
        if check is not None:
            check(meta)
        try:
            addresses = unpacked(arrays["names"])
            ledger.clear()
            ledger.names = addresses
            ledger.users = numbered(addresses)
            ledger.counts = [len(addresses), len(arrays["owner"])]
            for column in ("emode", "owner", "slot", "enabled"):
                getattr(ledger, column).load(arrays[column])
            ledger.amount.load(_amounts(arrays))
        except (KeyError, ValueError, TypeError) as error:
            raise BadData(f"the stored Aave book is incomplete: {error}") from error
    derive(ledger)
    ledger.compact()
    return meta


def _amounts(arrays: np.lib.npyio.NpzFile) -> NDArray[np.uint64]:
    if "amount" in arrays:
        return cast(NDArray[np.uint64], arrays["amount"])
    low = arrays["low"]
    found = np.zeros((len(low), 2), np.uint64)
    found[:, 0] = low
    found[arrays["large"], 1] = arrays["high"]
    return found


def derive(ledger: Ledger) -> None:
    """What `Ledger._derive` keeps entry by entry, for all entries at once."""
    users, entries = ledger.counts
    slots = ledger.slot.live(entries).astype(np.int64)
    amount = ledger.amount.live(entries)
    # Rounding twice (each word, then the sum) moves a weight by two units in the last place at most.
    approximate = amount[:, 0].astype(np.float64) + amount[:, 1].astype(np.float64) * 2.0**64
    debt = slots % 2 == DEBT
    used = (amount[:, 0] | amount[:, 1]) != 0
    owner = ledger.owner.live(entries)
    emode = ledger.emode.live(users).astype(np.int64)
    kinds = kind(0, 0) + slots * (kind(1, 0) - kind(0, 0)) + emode[owner]
    ledger.weight.load(np.where(debt, np.where(used, approximate + 2.0, 0.0), np.maximum(approximate - 2.0, 0.0)))
    ledger.kind.load(np.where(debt | (ledger.enabled.live(entries) != 0), kinds, IGNORED).astype(np.int32))
    ledger.debts.load(np.bincount(owner[debt & used], minlength=users).astype(np.int32))
    ledger.borrower_count = len(ledger.borrowers())
    ledger.emodes_seen = {0, *np.unique(emode).tolist()}
    if kinds.size and int(kinds.max()) >= KINDS:
        raise BadData("the stored Aave book names a reserve that cannot exist")


def _open(data: bytes) -> np.lib.npyio.NpzFile:
    head = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise BadData("the stored Aave book is of another version or no Aave book at all")
    body = memoryview(data)[head:]
    if blake2b(body, digest_size=_DIGEST).digest() != data[len(_MAGIC) : head]:
        raise BadData("the stored Aave book is damaged (checksum)")
    try:
        arrays: np.lib.npyio.NpzFile = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise BadData(f"the stored Aave book cannot be read: {error}") from error
    return arrays


def _meta(arrays: np.lib.npyio.NpzFile) -> Meta:
    try:
        found: Meta = json.loads(arrays["meta"].tobytes())
    except (KeyError, ValueError) as error:
        raise BadData(f"the stored Aave book is incomplete: {error}") from error
    return found
