"""Numbers as a person reads them. Exact integer arithmetic; what is cut off is cut towards zero."""

from __future__ import annotations

from keeper.model import MAX_UINT256, WAD, Address, Token, checksum


def units(value: int, scale: int, places: int) -> str:
    """`value` / `scale` with thousands separators and `places` decimals, cut off, never rounded up."""
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), scale)
    if places == 0:
        return f"{sign}{whole:,}"
    return f"{sign}{whole:,}.{rest * 10**places // scale:0{places}d}"


def significant(value: int, scale: int, digits: int = 6) -> str:
    """`value` / `scale` with about `digits` significant digits; small amounts keep their first ones, zero is 0."""
    if value == 0:
        return "0"
    places = 0
    while places < len(str(scale)) - 1 and abs(value) * 10**places < scale * 10 ** (digits - 1):
        places += 1
    text = units(value, scale, places)
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount(value: int, token: Token) -> str:
    """Base units of a token, with its symbol."""
    return f"{significant(value, 10**token.decimals)} {token.symbol}"


def ether(value: int, symbol: str = "ETH") -> str:
    """Wei as the native token, six decimals."""
    return f"{units(value, WAD, 6)} {symbol}"


def gwei(value: int) -> str:
    """Wei per gas as gwei, two decimals."""
    return f"{units(value, 10**9, 2)} gwei"


def bps(value: int) -> str:
    """Basis points as a percentage."""
    return f"{units(value, 100, 2)} %"


def health(value: int) -> str:
    """A health factor with four decimals; cut off, so that 0.99999 never reads as 1."""
    return "no debt" if value == MAX_UINT256 else units(value, WAD, 4)


def short(address: Address | str) -> str:
    """An address or hash for a narrow column."""
    text = checksum(Address(address)) if len(address) == 42 else address
    return f"{text[:8]}…{text[-6:]}"
