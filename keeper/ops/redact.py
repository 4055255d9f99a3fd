"""Takes secrets out of anything that is about to be written where a person or a machine reads it."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from keeper.config import MASK, Secret

# A key whose value is never of interest, whatever it is.
_HIDDEN_KEY = re.compile(
    r"passw(or)?d|passphrase|mnemonic|secret|credential|authorization|cookie|private.?key|priv.?key|api.?key"
    r"|access.?key|(auth|access|api|bearer|session).?token",
    re.IGNORECASE,
)
# A key under which 32 bytes of hex are more likely a private key than a hash.
_SUSPICIOUS_KEY = re.compile(r"key|seed|signer|account|wallet|entropy", re.IGNORECASE)
_WORD32 = re.compile(r"(?<![0-9a-fA-F])(0x)?[0-9a-fA-F]{64}(?![0-9a-fA-F])")
# The scheme has a bound: without one a long word is looked through once for each of its letters.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?P<user>[^\s/?#'\"@]*@)?(?P<host>[^\s/?#'\"<>()]*)(?P<rest>[^\s'\"<>]*)"
)
_OUR_PATHS = frozenset({"", "/", "/metrics", "/livez", "/readyz", "/status"})
_SAID = re.compile(
    r"(?P<key>passw(?:or)?d|passphrase|mnemonic|secret|private[_ -]?key|api[_ -]?key|authorization|bearer|basic)"
    r"(?P<between>['\"]?\s*[:=]\s*(?:(?:bearer|basic)\s+)?['\"]?|\s+(?=[A-Za-z0-9+/_=.-]{16}))(?P<value>[^\s'\",;)}\]]+)",
    re.IGNORECASE,
)


class Redactor:
    """Knows this process's secrets, in every spelling they may appear in, and what secrets usually look like."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._numbers: set[int] = set()
        self._texts: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn further secrets, such as the key a keystore gave up. Hex of 32 bytes is known as a number too."""
        for secret in secrets:
            self._texts |= _spellings(secret)
            digits = secret.strip().lower().removeprefix("0x")
            if re.fullmatch(r"[0-9a-f]{64}", digits):
                number = int(digits, 16)
                self._numbers.add(number)
                self._texts |= {digits, str(number), f"{number:x}", repr(bytes.fromhex(digits))[2:-1]}
        # Longest first, so that a secret which contains another goes as a whole. A short one is only taken out where
        # it stands alone: masking every "ab" would say more about it than it hides.
        parts = [
            re.escape(text) if len(text) >= 6 else rf"(?<!\w){re.escape(text)}(?!\w)"
            for text in sorted(self._texts, key=len, reverse=True)
            if text
        ]
        self._known = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def text(self, value: str) -> str:
        """`value` without known secrets, without URL credentials, paths and queries, and without `password=…`."""
        if self._known is not None:
            value = self._known.sub(MASK, value)
        return _SAID.sub(rf"\g<key>\g<between>{MASK}", _URL.sub(_shorten, value))

    def value(self, value: Any, key: str = "") -> Any:
        """`value` with every string in it redacted; objects of unknown kinds become redacted text."""
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, Secret):
            return str(value)
        if key and _HIDDEN_KEY.search(key):
            return MASK
        if isinstance(value, int):
            return MASK if value in self._numbers else value
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, key) for item in value]
        text = self.text("0x" + bytes(value).hex() if isinstance(value, bytes | bytearray) else str(value))
        return _WORD32.sub(MASK, text) if key and _SUSPICIOUS_KEY.search(key) else text


def _spellings(secret: str) -> set[str]:
    """How a text looks after the encodings that loggers, URLs and headers apply."""
    encoded = secret.encode()
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        unquote(secret),
        encoded.hex(),
        b64encode(encoded).decode(),
        b64encode(encoded).decode().rstrip("="),
        repr(encoded)[2:-1],
    }


def _shorten(match: re.Match[str]) -> str:
    rest = match["rest"]
    path = rest.rstrip(".,;:)]}")
    shown = rest if path in _OUR_PATHS else "/***" + rest[len(path) :]
    return match["scheme"] + ("***@" if match["user"] else "") + match["host"] + shown
