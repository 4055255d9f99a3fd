"""The value types a person writes in a configuration: amounts with units, durations, addresses, secrets.

A rejected value is never repeated in the message: what was typed may be a secret in the wrong place, and the key
already says where to look.
"""

from __future__ import annotations

import hmac
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from keeper import model

MASK = "********"

_WEI_PER = {"wei": 1, "gwei": 10**9, "ether": 10**18}
_SECONDS_PER = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_QUANTITY = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_HOST = re.compile(r"localhost|\d{1,3}(\.\d{1,3}){3}|([a-z0-9-]+\.)+[a-z]{2,}")
_WORD = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


class Secret:
    """A string that prints as a mask everywhere; only `reveal` gives it back. It cannot be pickled."""

    __slots__ = ("_hidden",)

    def __init__(self, value: str) -> None:
        self._hidden = value

    def reveal(self) -> str:
        """The secret itself: hand it to what needs it and to nothing else."""
        return self._hidden

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self}')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._hidden.encode(), other._hidden.encode())

    def __hash__(self) -> int:
        return hash(type(self))  # nothing about the value, not even through the order of a set

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a secret is not pickled")


class Endpoint(Secret):
    """A node's URL or IPC path. Its user, path and query carry credentials, so only scheme and host are shown."""

    __slots__ = ("kind", "label")

    def __init__(self, value: str) -> None:
        """Raises ValueError when the text is neither a URL with a host nor an IPC path."""
        super().__init__(value)
        if value.startswith(("/", "./", "~/", "ipc://")) or value.endswith(".ipc"):
            self.kind, self.label = "ipc", "ipc"
            self._hidden = str(Path(value.removeprefix("ipc://")).expanduser())
            return
        try:
            parts = urlsplit(value)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in {"http", "https", "ws", "wss"} or any(c.isspace() for c in value):
            raise ValueError(
                "must be a URL that starts with ws://, wss://, http:// or https://, or the path of an .ipc file"
            )
        self.kind = parts.scheme.removesuffix("s")
        self.label = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")

    def __str__(self) -> str:
        """Safe to show: scheme and host, and whether something was left out."""
        if self.kind == "ipc":
            return f"ipc:{self._hidden}"
        parts = urlsplit(self._hidden)
        bare = not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"))
        return f"{parts.scheme}://{self.label}" + ("" if bare else "/***")


class Channel(Secret):
    """Where alerts go: an apprise URL. Nearly all of it may be a credential, so only its scheme is shown."""

    __slots__ = ("kind",)

    def __init__(self, value: str) -> None:
        """Raises ValueError when the text is no URL; whether apprise knows the scheme is found out when it is used."""
        super().__init__(value)
        match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://\S+", value, re.IGNORECASE)
        if match is None:
            raise ValueError('must be an apprise URL, such as "slack://…", "tgram://…", "mailtos://…" or "jsons://…"')
        self.kind = match[1].lower()

    def __str__(self) -> str:
        return f"{self.kind}://{MASK}"

    def pieces(self) -> tuple[str, ...]:
        """What must never be shown: the whole, and each part long enough to be a credential.

        Where others have a host, many services have a token; what can only be a host is left alone.
        """
        _, _, rest = self._hidden.partition("://")
        parts = {piece for piece in re.split(r"[/?&=:@,;#]", rest) if len(piece) >= 8 and not _HOST.fullmatch(piece)}
        return (self._hidden, rest, *sorted(parts), *sorted({unquote(piece) for piece in parts}))


def parse_wei(value: Any) -> int:
    """Wei from "0.01 ether", "30 gwei" or "5 wei"; raises ValueError on a bare number or a fraction of a wei."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('must be an amount with its unit, such as "0.01 ether", "30 gwei" or "5 wei"')
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if not isinstance(value, str) or (match is not None and not match[2]):
        raise ValueError(
            'needs a unit, because a bare number could be wei, gwei or ether: write "0.01 ether", "30 gwei" or "5 wei"'
        )
    if match is None or match[2].lower() not in _WEI_PER:
        raise ValueError('must be an amount in wei, gwei or ether, such as "0.01 ether" or "30 gwei"')
    amount = Decimal(match[1].replace("_", "")) * _WEI_PER[match[2].lower()]
    if amount != amount.to_integral_value():
        raise ValueError("is finer than one wei: give fewer decimals")
    if amount >= 2**256:
        raise ValueError("is more than a 256-bit number can hold")
    return int(amount)


def parse_seconds(value: Any) -> float:
    """Seconds from "500ms", "12s", "5m", "2h" or "1d"; raises ValueError on a bare number."""
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    bare = isinstance(value, int | float) or (match is not None and not match[2])
    if bare and not isinstance(value, bool):
        raise ValueError('needs a unit, because a bare number could be seconds or milliseconds: write "12s" or "500ms"')
    if match is None or match[2] not in _SECONDS_PER:
        raise ValueError('must be a duration in ms, s, m, h or d, such as "12s" or "5m"')
    return float(Decimal(match[1].replace("_", "")) * _SECONDS_PER[match[2]])


def parse_whole(value: Any) -> int:
    """A whole number from 0, or the text of one as the environment gives it; raises ValueError on anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9][0-9_]*", value.strip()):
        return int(value.strip())
    raise ValueError("must be a whole number, 0 or more, without a unit")


def parse_bps(value: Any) -> int:
    """Basis points as a whole number; raises ValueError on percentages and fractions."""
    if isinstance(value, float) or (isinstance(value, str) and "%" in value):
        raise ValueError("must be whole basis points (100 is 1 %)")
    return parse_whole(value)


def parse_address(value: Any) -> model.Address:
    """A lower-case address; raises ValueError on a wrong length, a wrong checksum or the zero address."""
    if not isinstance(value, str):
        raise ValueError('must be an address in quotes, such as "0x5C69…aA6f"')
    text = value.strip()
    try:
        parsed = model.address(text)
    except ValueError:
        raise ValueError("must be an address: 0x and 40 hexadecimal digits") from None
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and model.checksum(parsed) != "0x" + digits:
        raise ValueError("has a wrong checksum (the mix of upper and lower case): copy the address again")
    if parsed == model.ZERO_ADDRESS:
        raise ValueError("must not be the zero address")
    return parsed


def parse_word(value: Any) -> str:
    """A lower-case name such as ``aave_v3``; raises ValueError on anything else."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("must be a lower-case word of letters, digits and single - or _")
    return value


def parse_secret(value: Any) -> Secret:
    """Wrap a string; raises ValueError on anything else."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")
    return Secret(value)


def parse_endpoint(value: Any) -> Endpoint:
    """Wrap a node's URL; raises ValueError when it cannot be one."""
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a URL in quotes")
    return Endpoint(value.strip())


def parse_channel(value: Any) -> Channel:
    """Wrap an apprise URL; raises ValueError when it cannot be one."""
    if isinstance(value, Channel):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a URL in quotes")
    return Channel(value.strip())


def parse_health(value: Any) -> int:
    """A health factor such as 1.05 in wad, exact; raises ValueError on anything else."""
    try:
        scaled = Decimal(str(value).strip()) * 10**18 if isinstance(value, str | int | float) else None
    except InvalidOperation:
        scaled = None
    if scaled is None or isinstance(value, bool) or not scaled.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError("must be a health factor, such as 1.05")
    return int(scaled)


def format_health(value: int) -> str:
    """The shortest exact text `parse_health` reads back."""
    return f"{Decimal(value).scaleb(-18).normalize():f}"


def split_words(value: Any) -> Any:
    """The items of a list given as one string, separated by white space: these may contain commas."""
    return value.split() if isinstance(value, str) else value


def parse_path(value: Any) -> Path:
    """A file or folder; raises ValueError on anything but a non-empty string."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("must be the path of a file or folder, in quotes")
    return Path(value).expanduser()


def split_list(value: Any) -> Any:
    """The items of a list given as one string, separated by commas or line ends, as environment and files do."""
    if not isinstance(value, str):
        return value
    return [item.strip() for item in re.split(r"[,\n]", value) if item.strip()]


def format_wei(value: int) -> str:
    """The shortest exact text `parse_wei` reads back."""
    if value == 0:
        return "0 wei"
    unit = "ether" if value >= 10**15 else "gwei" if value >= 10**6 else "wei"
    whole, rest = divmod(value, _WEI_PER[unit])
    digits = len(str(_WEI_PER[unit])) - 1
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{whole}{fraction} {unit}"


def format_seconds(value: float) -> str:
    """The shortest text `parse_seconds` reads back."""
    for unit in ("d", "h", "m", "s"):
        count = Decimal(str(value)) / _SECONDS_PER[unit]
        if count >= 1 and count == count.to_integral_value():
            return f"{int(count)}{unit}"
    return f"{Decimal(str(value)) * 1000:f}".rstrip("0").rstrip(".") + "ms" if value else "0s"


def _schema(kind: str, text: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, "format": text, **({"examples": list(examples)} if examples else {})})


Whole = Annotated[int, BeforeValidator(parse_whole), _schema("integer", "whole number")]
Port = Annotated[int, Field(le=65535), BeforeValidator(parse_whole), _schema("integer", "port")]
Bps = Annotated[int, Field(le=100_000), BeforeValidator(parse_bps), _schema("integer", "basis points")]
Wei = Annotated[
    int, BeforeValidator(parse_wei), PlainSerializer(format_wei), _schema("string", "amount", "0.01 ether", "30 gwei")
]
Seconds = Annotated[
    float, BeforeValidator(parse_seconds), PlainSerializer(format_seconds), _schema("string", "duration", "12s", "5m")
]
Address = Annotated[
    model.Address, BeforeValidator(parse_address), PlainSerializer(model.checksum), _schema("string", "address")
]
Word = Annotated[str, BeforeValidator(parse_word), _schema("string", "word")]
File = Annotated[Path, BeforeValidator(parse_path), PlainSerializer(str), _schema("string", "path")]
Hidden = Annotated[Secret, BeforeValidator(parse_secret), PlainSerializer(str), _schema("string", "secret")]
Url = Annotated[Endpoint, BeforeValidator(parse_endpoint), PlainSerializer(str), _schema("string", "URL or .ipc path")]
Urls = Annotated[tuple[Url, ...], BeforeValidator(split_list), Field(min_length=1)]
Channels = Annotated[
    tuple[
        Annotated[Channel, BeforeValidator(parse_channel), PlainSerializer(str), _schema("string", "apprise URL")],
        ...,
    ],
    BeforeValidator(split_words),
]
HealthFactor = Annotated[
    int, BeforeValidator(parse_health), PlainSerializer(format_health), _schema("number", "health factor", "1.05")
]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(split_list)]
