"""What tokens say of themselves. Anybody may make a market of any token, so nothing they say is taken for granted."""

from __future__ import annotations

from collections.abc import Collection

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Head, Read, Token
from keeper.ports import Client

_ERC20 = interface("erc20")
_MOST_DECIMALS = 36
_LONGEST = 16  # characters of a symbol


async def read_tokens(client: Client, head: Head, wanted: Collection[Address]) -> dict[Address, Token | None]:
    """The tokens as they describe themselves at `head`; None for one without usable decimals."""
    listed = sorted(wanted)
    reads = [Read(token, _ERC20.encode(name)) for token in listed for name in ("decimals", "symbol")]
    answers = await client.read(reads, head) if reads else []
    found: dict[Address, Token | None] = {}
    for place, token in enumerate(listed):
        decimals = _decimals(answers[2 * place])
        symbol = symbol_of(answers[2 * place + 1]) or token[:10]
        found[token] = None if decimals is None else Token(token, symbol, decimals)
    return found


def _decimals(answer: bytes | None) -> int | None:
    if answer is None or len(answer) != 32:
        return None
    value = int.from_bytes(answer, "big")
    return value if value <= _MOST_DECIMALS else None


def symbol_of(answer: bytes | None) -> str:
    """A token's symbol, `string` or `bytes32`, as plain printable text; empty when it tells none."""
    if answer is None:
        return ""
    if len(answer) == 32:
        text = answer.rstrip(b"\0").decode("ascii", "replace")
    else:
        try:
            text = str(_ERC20.decode("symbol", answer)[0])
        except BadData:
            return ""
    return "".join(c for c in text if c.isascii() and c.isprintable() and c != " ")[:_LONGEST]
