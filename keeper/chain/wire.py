"""Raw JSON-RPC answers to the values of the model, and back. No formatters: this is the hot path of a back-fill."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

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


class Entry(msgspec.Struct, gc=False, rename="camel"):
    """A log as a node writes it. What is not read here is not built."""

    address: str
    topics: tuple[str, ...]
    data: str
    block_number: str
    block_hash: str
    log_index: str
    transaction_hash: str
    removed: bool | None = None


_ENTRIES = msgspec.json.Decoder(list[Entry])


def entries(raw: Any) -> list[Entry]:
    """The answer of ``eth_getLogs``, as text or as plain objects; raises BadData when it is no list of logs."""
    try:
        return _ENTRIES.decode(raw) if isinstance(raw, msgspec.Raw) else msgspec.convert(raw, list[Entry])
    except (ValueError, RecursionError) as error:
        raise BadData(f"the node answered a malformed log: {error}") from error


class _Allowed(dict[str, str]):
    """Words as a node writes them to the same in lower case, one object each; "" for what is not among `words`."""

    def __init__(self, words: Collection[str]) -> None:
        super().__init__()
        self._words = words

    def __missing__(self, text: str) -> str:
        word = text.lower()
        if word not in self._words:
            return ""
        self[text] = word
        return word


class Logs:
    """Makes one answer of ``eth_getLogs`` for blocks `first`…`last` to logs, in parts that follow one another."""

    def __init__(self, watch: Watch, first: int, last: int, hashes: dict[int, Hash] | None = None) -> None:
        self._first, self._last = first, last
        self._addresses, self._topics = _Allowed(watch.addresses), _Allowed(watch.topics)
        self._hashes: dict[int, str] = dict(hashes) if hashes else {}
        self._found: list[Log] = []
        self._seen: dict[tuple[int, int], Log] = {}  # only from the first place on that is not behind the one before
        self._place = (-1, -1)

    def take(self, part: Iterable[Entry]) -> None:
        """Add logs; raises what `logs` raises."""
        addresses, signatures, found, seen, place = self._addresses, self._topics, self._found, self._seen, self._place
        number, block_text, block_hash = -1, None, None
        try:
            for entry in part:
                if entry.block_number != block_text:  # most logs are of the block of the one before
                    block_text, block_hash = entry.block_number, None
                    number = int(block_text, 16)
                topics = entry.topics
                address = addresses[entry.address]
                if not self._first <= number <= self._last or not address or not topics or not signatures[topics[0]]:
                    raise BadData(
                        f"the node answered a log that was not asked for (block {number}, {entry.address.lower()}, "
                        f"asked for blocks {self._first} to {self._last})"
                    )
                if entry.removed:
                    raise BadData(f"the node answered a removed log in block {number}")
                if entry.block_hash != block_hash:
                    block_hash = entry.block_hash
                    if self._hashes.setdefault(number, block_hash) != block_hash:
                        raise Transient(f"block {number} was reorganised while its logs were read")
                index = int(entry.log_index, 16)
                log = Log(
                    Address(address),
                    tuple(map(str.lower, topics)),
                    unhexlify(entry.data[2:]),
                    number,
                    index,
                    Hash(entry.transaction_hash),
                )
                before, place = place, (number, index)
                if place <= before or seen:
                    if not seen:
                        seen.update(((known.block_number, known.log_index), known) for known in found)
                    if seen.setdefault(place, log) != log:
                        raise BadData(f"the node answered two different logs at index {index} of block {number}")
                else:
                    found.append(log)
        except ValueError as error:
            raise BadData(f"the node answered a malformed log: {error}") from error
        self._place = place

    def all(self) -> list[Log]:
        """Those taken, in chain order."""
        return [self._seen[place] for place in sorted(self._seen)] if self._seen else self._found


def logs(raw: Any, watch: Watch, first: int, last: int, hashes: dict[int, Hash] | None = None) -> list[Log]:
    """The answer of ``eth_getLogs`` for blocks `first`…`last`, in chain order.

    Identical duplicates are dropped. Raises BadData on a log that was not asked for (block, address or topic), on a
    removed log, and on two different logs in one place; raises Transient when logs of one block carry two hashes, or
    another hash than `hashes` says (the chain was reorganised while the node answered).
    """
    found = Logs(watch, first, last, hashes)
    found.take(entries(raw))
    return found.all()


def log_filter(watch: Watch, addresses: Sequence[Address]) -> dict[str, Any]:
    """The address and topic part of an ``eth_getLogs`` filter for some of the watched addresses; sorted, so that equal
    filters are equal texts."""
    indexed = [sorted(words) or None for words in watch.indexed]
    return {"address": list(addresses), "topics": [sorted(watch.topics), *indexed]}
