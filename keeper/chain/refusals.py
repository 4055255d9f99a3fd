"""What a node means when it says no: one place that reads the many dialects of JSON-RPC errors."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from keeper.errors import Transient


class Kind(StrEnum):
    """What the caller should do about a refusal."""

    REVERT = "revert"  # the call itself failed, and would fail again: a value, not a fault
    RANGE = "range"  # too many blocks, logs, addresses or bytes were asked for at once: ask for less
    GAS = "gas"  # the node's gas cap for calls was reached: ask for less
    RATE = "rate"  # too many requests: wait, or ask somebody else
    BEHIND = "behind"  # the block or its state is not (or no longer) known to this node: ask another, or later
    UNSUPPORTED = "unsupported"  # the method or a parameter form is unknown to this node
    INVALID = "invalid"  # the request is wrong, and would be wrong again
    OTHER = "other"  # the node failed: ask another, or later


class Refusal(Transient):
    """The node answered a request with an error. `data` is the revert data of a reverted call, if it gave any."""

    def __init__(self, kind: Kind, code: int, reason: str, where: str, data: bytes | None = None) -> None:
        super().__init__(f"{where} refused: {reason} (code {code})")
        self.kind = kind
        self.code = code
        self.reason = reason
        self.data = data


class Unanswered(Transient):
    """No answer came: a timeout, a closed socket, an HTTP failure. Whether the node acted on the request is unknown."""


# First match wins, so the narrow come before the wide. Sources: the error texts of geth, erigon, nethermind, reth, besu
# and anvil, and the public documentation of Alchemy, Infura, QuickNode, Ankr, Chainstack, Cloudflare and dRPC.
_TEXTS: dict[Kind, tuple[str, ...]] = {
    Kind.REVERT: (
        r"revert",
        r"invalid ?(FE)?opcode|OpcodeNotFound|bad instruction",
        r"stack (under|over)flow|invalid ?jump",
    ),
    Kind.BEHIND: (
        r"(header|block|resource) not found|unknown block|missing trie node",
        r"not (currently )?canonical",
        r"(cannot|could not) find (header|block)|block with such an id",
        r"(block|state) .*(not available|unavailable)|no state available|pruned|historical state",
        r"after (last accepted|the latest|latest) block|beyond (current )?head|greater than latest",
        r"hasn't been (indexed|processed)|out of range of (known|available) blocks",
    ),
    Kind.RANGE: (
        r"more than [\d,]+ (results|logs)|max(imum)? results|logs matched by query|exceeds limit of",
        r"response (size )?(is )?(too big|too large|exceeded|should not)|response size",
        r"block range|range (is )?(too|limit|exceed)|ranges? over",
        r"limited to (a )?(range of )?[\d,]+|up to (a )?[\d,]+[km]? block",
        r"exceeds? (the |maximum |max )*(block |logs )?range",
        r"too (many|large|wide) .*(blocks|logs|results|range)|requested too many blocks",
        r"too many (addresses|topics|items)|exceeds? .*(addresses|topics)",
        r"please limit|specify less|smaller (range|block)",
        r"query (timed out|timeout)|timeout.*(log|quer)",
        r"(payload|request entity) (is )?too large|content ?length",
        r"batch (too large|size|limit|of more)|too many (requests|calls) in (the )?batch",
    ),
    Kind.RATE: (
        r"rate.?limit|too many requests|request limit|limit exceeded|cu limit",
        r"capacity|compute units|quota|throttl|credits|slow down",
        r"exceeded .*(per second|concurrent)",
    ),
    Kind.GAS: (
        r"out ?of ?gas|\wOOG\b|gas (limit|cap|uint64 overflow)|intrinsic gas|gas required exceeds|exceeds .*gas",
        r"execution timeout|execution aborted \(timeout|evm timeout",
        r"code ?size|CreateContractSizeLimit|initcode",
    ),
    Kind.UNSUPPORTED: (
        r"method .*(not found|not available|not exist|disabled)",
        r"not supported|unsupported|not implemented|not whitelisted",
        r"did not match any variant of untagged enum \w*RpcCall",
    ),
}
_PATTERNS = tuple((kind, re.compile("|".join(texts), re.IGNORECASE)) for kind, texts in _TEXTS.items())


def classify(code: int, reason: str) -> Kind:
    """The kind of a JSON-RPC error. The text is read first: providers agree on texts more than on codes."""
    if code == 3:  # geth, erigon, reth, anvil: "execution reverted" with data
        return Kind.REVERT
    for kind, pattern in _PATTERNS:
        if pattern.search(reason):
            return kind
    if code in (-32601, -32004):
        return Kind.UNSUPPORTED
    if code in (-32600, -32602):
        return Kind.INVALID
    if code in (429, -32005, -32029):  # EIP-1474 "limit exceeded"
        return Kind.RATE
    if code == -32001:  # EIP-1474 "resource not found"
        return Kind.BEHIND
    return Kind.OTHER


def refusal(error: Any, where: str) -> Refusal:
    """The `Refusal` behind the ``error`` member of a JSON-RPC answer, whatever shape it has."""
    if not isinstance(error, dict):
        return Refusal(classify(0, str(error)), 0, _short(str(error)), where)
    code = error.get("code")
    code = code if isinstance(code, int) else 0
    reason = str(error.get("message", ""))
    data = error.get("data")
    if isinstance(data, dict):  # some proxies nest the node's own answer
        reason = f"{reason} {data.get('message', '')}".strip()
        data = data.get("data")
    kind = classify(code, f"{reason} {data}" if isinstance(data, str) and not data.startswith("0x") else reason)
    return Refusal(kind, code, _short(reason), where, _revert_data(data) if kind is Kind.REVERT else None)


_HINT = re.compile(r"range[^\[\d]{0,40}\[?\s*(0x[0-9a-f]+|\d+)\s*[,\-]\s*(0x[0-9a-f]+|\d+)\s*\]?", re.IGNORECASE)


def suggested_last(reason: str, first: int) -> int | None:
    """The last block of the range the node itself proposes ("this block range should work: [0x1, 0x2]"), if any."""
    match = _HINT.search(reason)
    if match is None:
        return None
    low, high = (int(text, 0) for text in match.groups())
    return high if low == first and high >= low else None


def _revert_data(data: Any) -> bytes | None:
    if not isinstance(data, str):
        return None
    text = data.removeprefix("Reverted ").removeprefix("0x")  # nethermind and parity prefix the hex with a word
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else flat[:297] + "..."
