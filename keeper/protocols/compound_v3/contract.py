"""What is assumed of the deployed contract: selectors, event layouts and packed records, all of it here.

Names and layouts are in ``contracts_abi/comet.json``. A record read as several words (`userBasic`, `totalsBasic`) is
unpacked here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Log, Read, address

COMET = interface("comet")
ERC20 = interface("erc20")

MOST_ASSETS = 24
NEGATIVE = 1 << 255  # the least uint256 that is a negative number

SUPPLY = COMET.topic("Supply")
WITHDRAW = COMET.topic("Withdraw")
TRANSFER = COMET.topic("Transfer")
SUPPLY_COLLATERAL = COMET.topic("SupplyCollateral")
TRANSFER_COLLATERAL = COMET.topic("TransferCollateral")
WITHDRAW_COLLATERAL = COMET.topic("WithdrawCollateral")
ABSORB_DEBT = COMET.topic("AbsorbDebt")
ABSORB_COLLATERAL = COMET.topic("AbsorbCollateral")
BUY_COLLATERAL = COMET.topic("BuyCollateral")
UPGRADED = COMET.topic("Upgraded")

# What is watched. Reserves, pauses and prices are read at every head, so their events would tell nothing new.
WATCHED = frozenset(
    {
        SUPPLY,
        WITHDRAW,
        TRANSFER,
        SUPPLY_COLLATERAL,
        TRANSFER_COLLATERAL,
        WITHDRAW_COLLATERAL,
        ABSORB_DEBT,
        ABSORB_COLLATERAL,
        UPGRADED,
    }
)
LIQUIDATIONS = frozenset({ABSORB_DEBT, BUY_COLLATERAL})

# The base events in which an indexed word names somebody whose principal moved: the positions of those words.
PRINCIPALS: dict[str, tuple[int, ...]] = {SUPPLY: (2,), WITHDRAW: (1,), TRANSFER: (1, 2), ABSORB_DEBT: (2,)}
# The collateral events: the positions of who loses and who gains the amount, None where nobody does; the asset is the
# third indexed word and the amount the first of the data.
COLLATERALS: dict[str, tuple[int | None, int | None]] = {
    SUPPLY_COLLATERAL: (None, 2),
    TRANSFER_COLLATERAL: (1, 2),
    WITHDRAW_COLLATERAL: (1, None),
    ABSORB_COLLATERAL: (2, None),
}

_PAUSE_ABSORB, _PAUSE_BUY = 3, 4  # bits of `pauseFlags`


@dataclass(frozen=True, slots=True)
class Totals:
    """`totalsBasic`: indices (1e15), principals of everybody together, and when the indices were stored."""

    supply_index: int
    borrow_index: int
    supply: int
    borrow: int
    accrued_at: int
    pause_flags: int

    @property
    def absorb_paused(self) -> bool:
        return bool(self.pause_flags >> _PAUSE_ABSORB & 1)

    @property
    def buy_paused(self) -> bool:
        return bool(self.pause_flags >> _PAUSE_BUY & 1)


@dataclass(frozen=True, slots=True)
class AssetInfo:
    """`getAssetInfo`: one collateral; factors are wad."""

    offset: int
    address: Address
    feed: Address
    scale: int
    liquidate_factor: int
    liquidation_factor: int


def totals(answer: bytes | None) -> Totals:
    """Raises BadData when there is no such record."""
    supply_index, borrow_index, _, _, supply, borrow, accrued_at, flags = COMET.decode("totalsBasic", answer)
    return Totals(supply_index, borrow_index, supply, borrow, accrued_at, flags)


def asset_info(answer: bytes | None) -> AssetInfo:
    """Raises BadData when there is no such asset."""
    offset, token, feed, scale, _, liquidate, liquidation, _ = COMET.decode("getAssetInfo", answer)
    return AssetInfo(offset, address(token), address(feed), scale, liquidate, liquidation)


def user_basic(answer: bytes | None) -> tuple[int, int]:
    """(principal, bitmap of the assets held by offset): bits 16 to 23 live in what was a reserved byte.

    Thousands come at a time, so the words of an answer in good order are read as they are; any other raises BadData.
    """
    if answer is not None and len(answer) == 5 * 32:
        principal = int.from_bytes(answer[:32], "big", signed=True)
        assets_in, reserved = int.from_bytes(answer[96:128], "big"), int.from_bytes(answer[128:], "big")
        rewards = answer[32:56] == answer[64:88] == bytes(24)  # uint64 each
        if rewards and -(1 << 103) <= principal < 1 << 103 and assets_in < 1 << 16 and reserved < 1 << 8:
            return principal, assets_in | reserved << 16
    principal, _, _, assets_in, reserved = COMET.decode("userBasic", answer)
    return principal, assets_in | reserved << 16


def number(answer: bytes | None) -> int | None:
    """A view's single word, None where it reverted."""
    return int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else None


def party(log: Log, position: int) -> Address:
    """The address in an indexed word; raises BadData when the log has too few."""
    if position >= len(log.topics):
        raise BadData(f"event {log.topics[0][:10]} of {log.address} in transaction {log.tx_hash} has another shape")
    return Address("0x" + log.topics[position][26:])


def collateral_moved(log: Log) -> tuple[Address | None, Address | None, Address, int]:
    """(who loses, who gains, asset, amount) of a collateral event; raises BadData when it has another shape."""
    source, target = COLLATERALS[log.topics[0]]
    if len(log.topics) != 4 or len(log.data) < 32:
        raise BadData(f"event {log.topics[0][:10]} of {log.address} in transaction {log.tx_hash} has another shape")
    amount = int.from_bytes(log.data[:32], "big")
    return (
        None if source is None else party(log, source),
        None if target is None else party(log, target),
        party(log, 3),
        amount,
    )


def head_reads(comet: Address, base: Address, feeds: Sequence[Address], assets: Sequence[Address]) -> tuple[Read, ...]:
    """What moves without a watched event: totals and indices, the base held, prices, collateral in the reserves.

    `feeds` begins with the base token's.
    """
    return (
        Read(comet, COMET.encode("totalsBasic")),
        Read(base, ERC20.encode("balanceOf", comet)),
        *(Read(comet, COMET.encode("getPrice", feed)) for feed in feeds),
        *(Read(comet, COMET.encode("getCollateralReserves", asset)) for asset in assets),
    )
