"""JSON-RPC messages, taken apart no further than needed: a part stays text until it is known what it is.

Most of what a node sends are logs. Decoded into dicts and lists they would take more than twice as long as decoded
straight into what `wire` reads of them.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from msgspec import UNSET, Raw, UnsetType

_NULL = Raw(b"null")


class Reply(msgspec.Struct, gc=False):
    """A response or a notification."""

    id: Raw = _NULL
    method: Raw = _NULL
    params: Raw = _NULL
    error: Raw = _NULL
    result: Raw | UnsetType = UNSET


Message = Reply | list[Reply]
_MESSAGE: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def decode(message: bytes | str) -> Message:
    """A message, or no replies at all where JSON is no JSON-RPC message; raises ValueError when it is not JSON."""
    try:
        return _MESSAGE.decode(message)
    except msgspec.ValidationError:
        return []
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def value(part: Raw) -> Any:
    """A part as plain objects; raises ValueError when it is not JSON after all.

    orjson has a limit of its own to how deep objects are nested. msgspec has Python's, which some package raises to
    where the stack ends: it only ever builds what cannot be nested here.
    """
    return orjson.loads(memoryview(part))


def plain(message: Message) -> Any:
    """The same as plain objects, for web3."""
    if isinstance(message, list):
        return [plain(reply) for reply in message]
    found: dict[str, Any] = {"jsonrpc": "2.0", "id": value(message.id)}
    error = value(message.error)
    if error is not None:
        found["error"] = error
    if message.result is not UNSET:
        found["result"] = value(message.result)
    return found
