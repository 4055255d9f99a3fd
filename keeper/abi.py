"""ABI encoding and decoding by name, from the files in ``contracts_abi/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_typing import ABIComponent, ABIEvent, ABIFunction
from eth_utils.abi import collapse_if_tuple, event_abi_to_log_topic, function_abi_to_4byte_selector

from keeper.abi_writing import Unsure, arguments
from keeper.errors import BadData
from keeper.model import Log


@dataclass(frozen=True, slots=True)
class Function:
    """Selector and types of one function."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Topic and types of one event; `layout` lists (name, type, indexed) in declaration order."""

    name: str
    topic: str
    layout: tuple[tuple[str, str, bool], ...]


class Interface:
    """The functions and events of one contract. Names must be unique within a file."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        self.functions: dict[str, Function] = {}
        self.events: dict[str, Event] = {}
        for entry in entries:
            inputs = entry.get("inputs", ())
            if entry["type"] == "function":
                self.functions[entry["name"]] = Function(
                    entry["name"],
                    function_abi_to_4byte_selector(cast(ABIFunction, entry)),
                    _types(inputs),
                    _types(entry.get("outputs", ())),
                )
            elif entry["type"] == "event":
                topic = "0x" + event_abi_to_log_topic(cast(ABIEvent, entry)).hex()
                layout = tuple((i["name"], collapse_if_tuple(i), bool(i.get("indexed"))) for i in inputs)
                self.events[entry["name"]] = Event(entry["name"], topic, layout)

    def encode(self, name: str, *args: Any) -> bytes:
        """Calldata of a call to function `name`."""
        function = self.functions[name]
        writer = arguments(function.inputs)
        if writer is not None:
            with suppress(Unsure):
                return function.selector + writer.write(args)
        return function.selector + encode(function.inputs, args)

    def decode(self, name: str, answer: bytes | None) -> tuple[Any, ...]:
        """Return values of function `name`; raises BadData when the answer is missing or of another shape."""
        function = self.functions[name]
        if answer is None:
            raise BadData(f"{name}() reverted where a value was expected")
        try:
            return tuple(decode(function.outputs, answer))
        except (DecodingError, OverflowError, ValueError) as error:
            raise BadData(f"the answer of {name}() cannot be decoded ({len(answer)} bytes): {error}") from error

    def topic(self, name: str) -> str:
        """Signature hash of event `name` as 0x hex."""
        return self.events[name].topic

    def parse(self, name: str, log: Log) -> dict[str, Any]:
        """Arguments of event `name` in `log`, by name; raises BadData when the log has another shape."""
        event = self.events[name]
        indexed = [(n, t) for n, t, is_indexed in event.layout if is_indexed]
        plain = [(n, t) for n, t, is_indexed in event.layout if not is_indexed]
        if len(log.topics) != len(indexed) + 1:
            raise BadData(f"{name} in transaction {log.tx_hash} has {len(log.topics) - 1} indexed words")
        try:
            found = {
                n: decode([t], bytes.fromhex(word[2:]))[0] for (n, t), word in zip(indexed, log.topics[1:], strict=True)
            }
            found.update(zip((n for n, _ in plain), decode([t for _, t in plain], log.data), strict=True))
        except (DecodingError, OverflowError, ValueError) as error:
            raise BadData(f"{name} in transaction {log.tx_hash} cannot be decoded: {error}") from error
        return found


@cache
def interface(name: str) -> Interface:
    """The interface described by ``contracts_abi/<name>.json`` (a standard ABI array)."""
    text = resources.files("contracts_abi").joinpath(f"{name}.json").read_text()
    return Interface(json.loads(text))


def _types(inputs: Sequence[Any]) -> tuple[str, ...]:
    return tuple(collapse_if_tuple(cast(ABIComponent, item)) for item in inputs)
