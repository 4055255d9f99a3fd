"""Which events a market lives on."""

from __future__ import annotations

from keeper.abi import interface

_POOL = interface("aave_pool")
_TOKEN = interface("aave_token")
_STABLE = interface("aave_stable_debt_token")

RESERVE_DATA = _POOL.topic("ReserveDataUpdated")
COLLATERAL_ON = _POOL.topic("ReserveUsedAsCollateralEnabled")
COLLATERAL_OFF = _POOL.topic("ReserveUsedAsCollateralDisabled")
EMODE_SET = _POOL.topic("UserEModeSet")
LIQUIDATION = _POOL.topic("LiquidationCall")
UPGRADED = _POOL.topic("Upgraded")

MINT = _TOKEN.topic("Mint")
BURN = _TOKEN.topic("Burn")
TRANSFER = _TOKEN.topic("BalanceTransfer")

STABLE_MINT = _STABLE.topic("Mint")
STABLE_BURN = _STABLE.topic("Burn")

RESERVE_INITIALIZED = interface("aave_configurator").topic("ReserveInitialized")
EMODE_ADDED = interface("aave_configurator").topic("EModeCategoryAdded")

# After any of these the parameters are read anew; what they say is not looked at.
GOVERNANCE = frozenset(
    event.topic
    for name in ("aave_provider", "aave_configurator", "aave_oracle")
    for event in interface(name).events.values()
) | {UPGRADED}

HOLDINGS = frozenset({MINT, BURN, TRANSFER, STABLE_MINT, STABLE_BURN})
FLAGS = frozenset({COLLATERAL_ON, COLLATERAL_OFF})
ALL = GOVERNANCE | HOLDINGS | FLAGS | {RESERVE_DATA, EMODE_SET, LIQUIDATION}
