"""How the events of aTokens and variable debt tokens change scaled balances.

Until 3.4 an event states the amount asked for, so the scaled change follows from the event alone. Since 3.5 it states
the difference of two balances, and the scaled balance before is needed to find the one after. That inversion is exact:
with an index of at least 1e27 no two scaled balances have the same balance.
"""

from __future__ import annotations

from keeper.errors import BadData
from keeper.maths.wad_ray import RAY, ray_div_down, ray_div_half_up, ray_div_up
from keeper.model import Log
from keeper.protocols.aave_v3.ledger import SUPPLY
from keeper.protocols.aave_v3.rules import Rules

WORD = 32


def words(log: Log, count: int, topics: int) -> tuple[int, ...]:
    """The data of a log as numbers; raises BadData unless it has `count` words and `topics` topics."""
    data = log.data
    if len(data) != count * WORD or len(log.topics) != topics:
        raise BadData(
            f"event {log.topics[0][:10]} of {log.address} in transaction {log.tx_hash} has another shape: "
            f"{len(data)} bytes and {len(log.topics)} topics"
        )
    return tuple([int.from_bytes(data[at : at + WORD], "big") for at in range(0, len(data), WORD)])


def minted(rules: Rules, side: int, scaled: int, log: Log) -> int:
    """The scaled balance after a Mint event (ScaledBalanceTokenBase._mintScaled, _burnScaled and _transfer)."""
    value, increase, index = _change(log)
    if rules.balance_events:
        return _rescaled(side, _balance(rules, side, scaled, index) + value - increase, index)
    if value >= increase:
        return scaled + ray_div_half_up(value - increase, index)
    return scaled - ray_div_half_up(increase - value, index)


def burned(rules: Rules, side: int, scaled: int, log: Log) -> int:
    """The scaled balance after a Burn event (ScaledBalanceTokenBase._burnScaled)."""
    value, increase, index = _change(log)
    if rules.balance_events:
        return _rescaled(side, _balance(rules, side, scaled, index) - value - increase, index)
    return scaled - ray_div_half_up(value + increase, index)


def _change(log: Log) -> tuple[int, int, int]:
    value, increase, index = words(log, 3, 3)
    if index < RAY:
        raise BadData(f"a token event of {log.address} in transaction {log.tx_hash} states the index {index}")
    return value, increase, index


def _balance(rules: Rules, side: int, scaled: int, index: int) -> int:
    return rules.supply_balance(scaled, index) if side == SUPPLY else rules.debt_balance(scaled, index)


def _rescaled(side: int, balance: int, index: int) -> int:
    if balance < 0:
        return -1
    return ray_div_up(balance, index) if side == SUPPLY else ray_div_down(balance, index)
