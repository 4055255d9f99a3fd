"""A ledger on disk: versioned, checksummed, tied to one deployment; no pickle."""

from __future__ import annotations

import io
import json
import zipfile
from hashlib import blake2b

import numpy as np

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.aave_v3.ledger import DEBT, IGNORED, KINDS, Ledger, kind

_MAGIC = b"keeper/aave_v3/1"
_DIGEST = 16
_ADDRESS = 20


def dump(ledger: Ledger, meta: dict[str, int | str | list[str]]) -> bytes:
    """The ledger and a few words about it, as bytes."""
    users, entries = ledger.counts
    names = np.frombuffer(bytes.fromhex("".join(name[2:] for name in ledger.names[:users])), np.uint8)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
        names=names.reshape(users, _ADDRESS),
        emode=ledger.emode.live(users),
        first=ledger.first.live(users),
        owner=ledger.owner.live(entries),
        slot=ledger.slot.live(entries),
        following=ledger.following.live(entries),
        enabled=ledger.enabled.live(entries),
        amount=ledger.amount.live(entries),
    )
    body = buffer.getvalue()
    return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body


def meta_of(data: bytes) -> dict[str, int | str | list[str]]:
    """The words about it alone; raises BadData like `load`."""
    with _open(data) as arrays:
        return _meta(arrays)


def load(ledger: Ledger, data: bytes) -> None:
    """Fill the ledger from `dump`'s bytes; raises BadData when they are damaged or of another version."""
    with _open(data) as arrays:
        try:
            names = arrays["names"].tobytes().hex()
            size = 2 * _ADDRESS
            addresses = [Address("0x" + names[at : at + size]) for at in range(0, len(names), size)]
            ledger.clear()
            ledger.names = addresses
            ledger.users = {name: number for number, name in enumerate(addresses)}
            ledger.counts = [len(addresses), len(arrays["owner"])]
            for column in ("emode", "first", "owner", "slot", "following", "enabled", "amount"):
                getattr(ledger, column).load(arrays[column])
        except (KeyError, ValueError, TypeError) as error:
            raise BadData(f"the stored Aave book is incomplete: {error}") from error
    _derive(ledger)


def _derive(ledger: Ledger) -> None:
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
    ledger.emodes_seen = {0, *np.unique(emode).tolist()}
    if kinds.size and int(kinds.max()) >= KINDS:
        raise BadData("the stored Aave book names a reserve that cannot exist")


def _open(data: bytes) -> np.lib.npyio.NpzFile:
    head = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise BadData("the stored Aave book is of another version or no Aave book at all")
    body = data[head:]
    if blake2b(body, digest_size=_DIGEST).digest() != data[len(_MAGIC) : head]:
        raise BadData("the stored Aave book is damaged (checksum)")
    try:
        arrays: np.lib.npyio.NpzFile = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise BadData(f"the stored Aave book cannot be read: {error}") from error
    return arrays


def _meta(arrays: np.lib.npyio.NpzFile) -> dict[str, int | str | list[str]]:
    try:
        found: dict[str, int | str | list[str]] = json.loads(arrays["meta"].tobytes())
    except (KeyError, ValueError) as error:
        raise BadData(f"the stored Aave book is incomplete: {error}") from error
    return found
