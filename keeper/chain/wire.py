"""Raw JSON-RPC answers to the values of the model, and back. No formatters: this is the hot path of a back-fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeper.errors import BadData, Transient
from keeper.model import Address, Hash, Head, Log, Watch


def quantity(value: Any, what: str) -> int:
    """An unsigned JSON-RPC quantity; raises BadData on anything else."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise BadData(f"the node answered {str(value)[:80]!r} where {what} was expected")


def data_bytes(value: Any, what: str) -> bytes:
    """Unformatted JSON-RPC data; raises BadData on anything else."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise BadData(f"the node answered {str(value)[:80]!r} where {what} was expected")


def hash32(value: Any, what: str) -> Hash:
    """A 32-byte hash in lower case; raises BadData on anything else."""
    if isinstance(value, str) and len(value) == 66 and value.startswith("0x"):
        return Hash(value.lower())
    raise BadData(f"the node answered {str(value)[:80]!r} where {what} was expected")


def head(raw: Any, what: str = "a block header") -> Head:
    """A block or header object; raises Transient when the node does not know the block, BadData on nonsense."""
    if raw is None:
        raise Transient(f"the node does not have {what} (yet, or any more)")
    if not isinstance(raw, dict):
        raise BadData(f"the node answered {type(raw).__name__} where {what} was expected")
    return Head(
        number=quantity(raw.get("number"), "a block number"),
        hash=hash32(raw.get("hash"), "a block hash"),
        parent_hash=hash32(raw.get("parentHash"), "a parent hash"),
        timestamp=quantity(raw.get("timestamp"), "a block timestamp"),
        base_fee=quantity(raw["baseFeePerGas"], "a base fee") if raw.get("baseFeePerGas") is not None else 0,
        gas_used=quantity(raw.get("gasUsed"), "gas used"),
        gas_limit=quantity(raw.get("gasLimit"), "a gas limit"),
        fee_recipient=_recipient(raw.get("miner")),
    )


def _recipient(value: Any) -> Address | None:
    """Only reports need it, so a node may leave it out."""
    return Address(value.lower()) if isinstance(value, str) and len(value) == 42 else None


def logs(raw: Any, watch: Watch, first: int, last: int, hashes: dict[int, Hash] | None = None) -> list[Log]:
    """The answer of ``eth_getLogs`` for blocks `first`…`last`, in chain order.

    Identical duplicates are dropped. Raises BadData on a log that was not asked for (block, address or topic), on a
    removed log, and on two different logs in one place; raises Transient when logs of one block carry two hashes, or
    another hash than `hashes` says (the chain was reorganised while the node answered).
    """
    if not isinstance(raw, list):
        raise BadData(f"the node answered {type(raw).__name__} where a list of logs was expected")
    addresses, topics = watch.addresses, watch.topics
    found: list[Log] = []
    seen: dict[tuple[int, int], Log] = {}  # only from the first place on that is not behind the one before
    block_hash: dict[int, str] = dict(hashes) if hashes else {}
    number, index, place, new_hash = -1, -1, (-1, -1), None
    block_text = None
    try:
        for item in raw:
            if item["blockNumber"] != block_text:  # most logs are of the block of the one before
                block_text = item["blockNumber"]
                number = int(block_text, 16)
                new_hash = None
            index = int(item["logIndex"], 16)
            words = item["topics"]
            log = Log(
                item["address"].lower(),
                tuple(map(str.lower, words)),
                bytes.fromhex(item["data"][2:]),
                number,
                index,
                item["transactionHash"],
            )
            if not first <= number <= last or log.address not in addresses or not words or log.topics[0] not in topics:
                raise BadData(
                    f"the node answered a log that was not asked for (block {number}, {log.address}, "
                    f"asked for blocks {first} to {last})"
                )
            if item.get("removed"):
                raise BadData(f"the node answered a removed log in block {number}")
            if item["blockHash"] != new_hash:
                new_hash = item["blockHash"]
                if block_hash.setdefault(number, new_hash) != new_hash:
                    raise Transient(f"block {number} was reorganised while its logs were read")
            before, place = place, (number, index)
            if place <= before or seen:
                if not seen:
                    seen = {(known.block_number, known.log_index): known for known in found}
                known = seen.setdefault(place, log)
                if known != log:
                    raise BadData(f"the node answered two different logs at index {index} of block {number}")
            else:
                found.append(log)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"the node answered a malformed log: {type(error).__name__} {error}") from error
    return [seen[key] for key in sorted(seen)] if seen else found


def log_filter(watch: Watch, addresses: Sequence[Address]) -> dict[str, Any]:
    """The address and topic part of an ``eth_getLogs`` filter for some of the watched addresses; sorted, so that equal
    filters are equal texts."""
    indexed = [sorted(words) or None for words in watch.indexed]
    return {"address": list(addresses), "topics": [sorted(watch.topics), *indexed]}
