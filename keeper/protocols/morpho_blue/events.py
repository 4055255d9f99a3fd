"""Which events a deployment lives on, and their words."""

from __future__ import annotations

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Log

MORPHO = interface("morpho_blue")
PRE_LIQUIDATION = interface("morpho_pre_liquidation")

CREATE_MARKET = MORPHO.topic("CreateMarket")
SET_FEE = MORPHO.topic("SetFee")
SET_FEE_RECIPIENT = MORPHO.topic("SetFeeRecipient")
SUPPLY = MORPHO.topic("Supply")
WITHDRAW = MORPHO.topic("Withdraw")
BORROW = MORPHO.topic("Borrow")
REPAY = MORPHO.topic("Repay")
SUPPLY_COLLATERAL = MORPHO.topic("SupplyCollateral")
WITHDRAW_COLLATERAL = MORPHO.topic("WithdrawCollateral")
LIQUIDATE = MORPHO.topic("Liquidate")
AUTHORIZATION = MORPHO.topic("SetAuthorization")
ACCRUE = MORPHO.topic("AccrueInterest")
RATE_UPDATE = interface("morpho_irm").topic("BorrowRateUpdate")
CREATE_PRE_LIQUIDATION = PRE_LIQUIDATION.topic("CreatePreLiquidation")
PRE_LIQUIDATE = PRE_LIQUIDATION.topic("PreLiquidate")

ALL = frozenset(event.topic for event in MORPHO.events.values()) | {RATE_UPDATE, CREATE_PRE_LIQUIDATION}


def party(topic: str) -> Address:
    """The address in an indexed word."""
    return Address("0x" + topic[26:])


def words(log: Log, data_words: int, topics: int) -> list[int]:
    """The data of a log as numbers; raises BadData when it has another shape."""
    if len(log.data) != 32 * data_words or len(log.topics) != topics:
        raise BadData(
            f"an event of {log.address} in transaction {log.tx_hash} has {len(log.topics)} topics and "
            f"{len(log.data)} bytes where {topics} and {32 * data_words} are expected"
        )
    return [int.from_bytes(log.data[at : at + 32], "big") for at in range(0, len(log.data), 32)]


def word_address(word: int) -> Address:
    """The address in a data word; raises BadData when it is none."""
    if word >> 160:
        raise BadData(f"{word:#x} is given as an address")
    return Address(f"0x{word:040x}")
