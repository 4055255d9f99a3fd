"""What an amount of a token is worth in wei of the wrapped native token, and how it is written for a person."""

from __future__ import annotations

from keeper.model import WAD, Address, Token
from keeper.ports import Position, Quoter


def spot_value(quoter: Quoter, token: Address, into: Address, amount: int) -> int | None:
    """`amount` of `token` at the pools' marginal price, base units of `into`, rounded down; None without a path."""
    if token == into:
        return amount
    price = quoter.spot(token, into)
    return None if price is None else amount * price[0] // price[1]


def oracle_wei_down(position: Position, token: Token, price: int, amount: int) -> int | None:
    """`amount` of `token` in wei at the market's own prices, rounded down; None when it does not list the native token.

    `price` is base currency per whole token, as `position.native_price` is; the native token has 18 decimals.
    """
    if not position.native_price:
        return None
    unit: int = 10**token.decimals
    return amount * price * WAD // (unit * position.native_price)


def oracle_wei_up(position: Position, token: Token, price: int, amount: int) -> int | None:
    """As `oracle_wei_down`, rounded up."""
    if not position.native_price:
        return None
    unit: int = 10**token.decimals
    return -(-amount * price * WAD // (unit * position.native_price))


def wei_value_up(
    position: Position, quoter: Quoter, profit: Address, token: Token, price: int, amount: int
) -> int | None:
    """`amount` of `token` in wei: at the market's prices if it lists the native token, else at the pools' spot price.

    Rounded up by at most 1 wei at market prices and always 1 wei at spot. None when neither source knows.
    """
    value = oracle_wei_up(position, token, price, amount)
    if value is not None:
        return value
    spot = spot_value(quoter, token.address, profit, amount)
    return None if spot is None else spot + (token.address != profit)


def native(wei: int) -> str:
    """Wei as decimal text in whole native tokens, truncated to 9 places (gwei), for `detail` sentences."""
    sign, wei = ("-", -wei) if wei < 0 else ("", wei)
    return f"{sign}{wei // WAD}.{wei % WAD // 10**9:09d}"
