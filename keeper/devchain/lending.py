"""What is known of a lending market on the private chain, whichever revision it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.model import Address

ENABLED = True  # a contract's boolean argument, readable where it is passed


@dataclass(frozen=True, slots=True)
class ReserveTokens:
    """The receipt and debt tokens of a reserve."""

    a_token: Address
    debt_token: Address


@dataclass(frozen=True, slots=True)
class Market:
    """An Aave V3 deployment. `start_block` is the first block with a transaction of it."""

    name: str
    revision: int
    addresses_provider: Address
    pool: Address
    configurator: Address
    oracle: Address
    acl_manager: Address
    data_provider: Address
    liquidation_data_provider: Address | None
    admin: Address
    treasury: Address
    start_block: int
    reserves: Mapping[str, ReserveTokens]
