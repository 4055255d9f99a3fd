"""A book on disk: versioned, checksummed, tied to one deployment; no pickle."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from keeper.errors import BadData
from keeper.model import Address
from keeper.protocols.morpho_blue.follower import Follower, PreTerms
from keeper.protocols.morpho_blue.irm import Kind
from keeper.protocols.morpho_blue.ledger import Ledger
from keeper.protocols.morpho_blue.market import Params, State
from keeper.protocols.morpho_blue.registry import Registry
from keeper.protocols.names import packed, unpacked

_MAGIC = b"keeper/morpho_blue/1"
_DIGEST = 16
_COLUMNS = ("market", "user", "supply", "borrow", "collateral")


@dataclass(frozen=True, slots=True)
class Stored:
    """A parsed snapshot."""

    morpho: Address
    start_block: int
    block: int
    factories: frozenset[Address]
    words: dict[str, Any]
    arrays: dict[str, Any]


def freeze(
    morpho: Address, start_block: int, block: int, registry: Registry, ledger: Ledger, follower: Follower
) -> Callable[[], bytes]:
    """Everything logs told, and what the rate models were found to be, as bytes still to be worked out: in a thread,
    while the book goes on."""
    users, entries = ledger.counts
    names = ledger.names[:users]
    columns = {column: getattr(ledger, column).live(entries).copy() for column in _COLUMNS}
    params, states, targets = dict(registry.params), dict(registry.states), dict(registry.targets)
    contracts, kinds, allowed = tuple(follower.contracts.values()), dict(registry.kinds), list(ledger.allowed)
    words: dict[str, Any] = {
        "morpho": morpho,
        "start": start_block,
        "block": block,
        "factories": sorted(follower.factories),
        "recipient": follower.recipient.get(""),
    }

    def encode() -> bytes:
        words["kinds"] = {model: int(kind) for model, kind in kinds.items()}
        words["markets"] = [_market(params[number], states[number]) for number in sorted(params)]
        words["targets"] = {str(number): str(rate) for number, rate in targets.items()}
        words["contracts"] = [
            [t.contract, t.market, str(t.lltv), *(str(w) for w in (*t.close, *t.incentive)), t.oracle]
            for t in contracts
        ]
        buffer = io.BytesIO()
        np.savez(
            buffer,
            words=np.frombuffer(json.dumps(words).encode(), np.uint8),
            names=packed(names),
            allowed=np.array(allowed, np.int64),
            **columns,
        )
        body = buffer.getbuffer()
        return b"".join((_MAGIC, blake2b(body, digest_size=_DIGEST).digest(), body))

    return encode


def _market(params: Params, state: State) -> list[str]:
    numbers = (params.lltv, *state.words)
    return [params.id, params.place, params.loan, params.collateral, params.oracle, params.irm, *map(str, numbers)]


def parse(data: bytes) -> Stored:
    """What `freeze` gave, not yet put anywhere; raises BadData when it is damaged or of another version."""
    head = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise BadData("the stored Morpho book is of another version or no Morpho book at all")
    body = data[head:]
    if blake2b(body, digest_size=_DIGEST).digest() != data[len(_MAGIC) : head]:
        raise BadData("the stored Morpho book is damaged (checksum)")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("names", "allowed", *_COLUMNS)}
            words = json.loads(file["words"].tobytes())
        return Stored(
            Address(words["morpho"]),
            int(words["start"]),
            int(words["block"]),
            frozenset(Address(f) for f in words["factories"]),
            words,
            arrays,
        )
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadData(f"the stored Morpho book cannot be read: {error}") from error


def fill(stored: Stored, registry: Registry, ledger: Ledger, follower: Follower) -> None:
    """Put a snapshot into empty parts; raises BadData when something is missing from it."""
    words = stored.words
    try:
        for model, kind in words["kinds"].items():
            registry.set_kind(Address(model), Kind(kind))
        for number, (id_, place, loan, collateral, oracle, model, lltv, *state) in enumerate(words["markets"]):
            params = Params(id_, place, Address(loan), Address(collateral), Address(oracle), Address(model), int(lltv))
            ledger.market_created(registry.create(params, 0))
            registry.set_state(number, State(*(int(word) for word in state)))
        for number, rate in words["targets"].items():
            registry.set_target(int(number), int(rate))
        if words["recipient"] is not None:
            follower.recipient[""] = Address(words["recipient"])
        for contract, market, lltv, close1, close2, incentive1, incentive2, oracle in words["contracts"]:
            follower.contracts[Address(contract)] = PreTerms(
                Address(contract),
                int(market),
                int(lltv),
                (int(close1), int(close2)),
                (int(incentive1), int(incentive2)),
                Address(oracle),
            )
        ledger.fill(unpacked(stored.arrays["names"]), stored.arrays)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadData(f"the stored Morpho book is incomplete: {error}") from error
