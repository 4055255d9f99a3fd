"""What private relays are given: a bundle for one block, in the form that each kind of relay takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from eth_utils.crypto import keccak

from keeper.model import Hash


class Offer(StrEnum):
    """What a relay takes."""

    BUNDLE = "bundle"  # eth_sendBundle: one block, in order, all or nothing
    TRANSACTION = "transaction"  # eth_sendPrivateTransaction: one transaction, any block up to a last one
    SHARE = "mev_share"  # mev_sendBundle: bundles that may start with a transaction known by its hash only


@dataclass(frozen=True, slots=True)
class Bundle:
    """Our transaction, alone or directly behind others. It is valid in `block` only.

    The `leader` is a raw transaction, or the hash of one that only the relay has; `before` are transactions of ours
    that come between it and this one. No transaction may revert.
    """

    raw: bytes
    block: int
    until: int  # the last block it will ever be offered for
    uuid: str  # the same for every block and every fee of one attempt: a later bundle replaces an earlier one
    leader: bytes | Hash | None = None
    before: tuple[bytes, ...] = ()

    @property
    def hash(self) -> Hash:
        """Hash of our transaction."""
        return Hash("0x" + keccak(self.raw).hex())

    @property
    def txs(self) -> list[str] | None:
        """All of it, raw; None when the leader is known by its hash only."""
        if isinstance(self.leader, str):
            return None
        return ["0x" + raw.hex() for raw in (self.leader, *self.before, self.raw) if raw is not None]


def replacement_uuid(attempt_id: str) -> str:
    """The identifier under which relays replace and cancel an attempt's bundles; the same after a restart."""
    return str(uuid5(NAMESPACE_OID, attempt_id))


def withdrawal(offer: Offer, bundle: Bundle) -> tuple[str, dict[str, Any]]:
    """Method and parameter of asking a relay to forget what it was given."""
    if offer is Offer.TRANSACTION:
        return "eth_cancelPrivateTransaction", {"txHash": bundle.hash}
    return "eth_cancelBundle", {"replacementUuid": bundle.uuid}


def submission(offer: Offer, bundle: Bundle) -> tuple[str, dict[str, Any]]:
    """Method and parameter of offering `bundle` to a relay that takes such an offer."""
    ours = "0x" + bundle.raw.hex()
    if offer is Offer.TRANSACTION:
        return "eth_sendPrivateTransaction", {"tx": ours, "maxBlockNumber": hex(bundle.until)}
    if offer is Offer.BUNDLE:
        # No revertingTxHashes: a bundle in which anything reverts is not included, so it costs nothing.
        return "eth_sendBundle", {
            "txs": bundle.txs,
            "blockNumber": hex(bundle.block),
            "replacementUuid": bundle.uuid,
        }
    body: list[dict[str, Any]] = []
    if isinstance(bundle.leader, bytes):
        body.append({"tx": "0x" + bundle.leader.hex(), "canRevert": False})
    elif bundle.leader is not None:
        body.append({"hash": bundle.leader})
    body += [{"tx": "0x" + raw.hex(), "canRevert": False} for raw in bundle.before]
    body.append({"tx": ours, "canRevert": False})
    only = hex(bundle.block)
    return "mev_sendBundle", {"version": "v0.1", "inclusion": {"block": only, "maxBlock": only}, "body": body}
