"""An Aave V3.0.2 market (what Spark runs) from the artifacts of ``@aave/core-v3`` as published."""

from __future__ import annotations

from collections.abc import Mapping

from keeper.devchain.artifacts import aave_302
from keeper.devchain.catalogue import PROTOCOL_FEE, SECOND_EMODES, SECOND_FLASH_PREMIUM, SECOND_RESERVES, SPECS, USD
from keeper.devchain.deploy import Deployer
from keeper.devchain.lending import ENABLED, Market, ReserveTokens
from keeper.model import ZERO_ADDRESS, Address, address

_LOGIC = "protocol/libraries/logic/"
_RAY_PER_BP = 10**23


def build_aave302(
    on: Deployer, name: str, tokens: Mapping[str, Address], feeds: Mapping[str, Address], treasury: Address
) -> Market:
    """Deploy and configure the market; supplies come later. Raises BuildFailed when a step reverts."""
    rpc, start = on.rpc, on.rpc.number() + 1
    plain = ("BorrowLogic", "BridgeLogic", "EModeLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic")
    libraries = {n: on.deploy(aave_302(_LOGIC + n)) for n in plain}
    libraries["FlashLoanLogic"] = on.deploy(aave_302(_LOGIC + "FlashLoanLogic"), libraries=libraries)
    libraries["ConfiguratorLogic"] = on.deploy(aave_302(_LOGIC + "ConfiguratorLogic"))
    provider = on.deploy(aave_302("protocol/configuration/PoolAddressesProvider"), "Keeper devchain V3.0.2", on.sender)
    symbols = [spec.symbol for spec in SECOND_RESERVES]
    sources = ([tokens[s] for s in symbols], [feeds[s] for s in symbols])
    oracle = on.deploy(aave_302("misc/AaveOracle"), provider, *sources, ZERO_ADDRESS, ZERO_ADDRESS, USD)
    on.send(provider, "setPriceOracle(address)", oracle)
    on.send(provider, "setACLAdmin(address)", on.sender)
    acl = on.deploy(aave_302("protocol/configuration/ACLManager"), provider)
    on.send(provider, "setACLManager(address)", acl)
    for role in ("addPoolAdmin", "addEmergencyAdmin", "addRiskAdmin", "addAssetListingAdmin"):
        on.send(acl, f"{role}(address)", on.sender)
    pool_code = on.deploy(aave_302("protocol/pool/Pool"), provider, libraries=libraries)
    on.send(provider, "setPoolImpl(address)", pool_code)
    configurator_code = on.deploy(aave_302("protocol/pool/PoolConfigurator"), libraries=libraries)
    on.send(provider, "setPoolConfiguratorImpl(address)", configurator_code)
    on.flush()

    pool = address(rpc.view(provider, "getPool()", returns="address"))
    configurator = address(rpc.view(provider, "getPoolConfigurator()", returns="address"))
    data_provider = on.deploy(aave_302("misc/AaveProtocolDataProvider"), provider)
    on.send(provider, "setPoolDataProvider(address)", data_provider)
    code = [
        on.deploy(aave_302(f"protocol/tokenization/{n}"), pool)
        for n in ("AToken", "StableDebtToken", "VariableDebtToken")
    ]
    inputs = []
    for spec in SECOND_RESERVES:
        curve = (spec.optimal, spec.base, spec.slope1, spec.slope2, 50, 6_000, 100, 800, 2_000)
        rates = on.deploy(
            aave_302("protocol/pool/DefaultReserveInterestRateStrategy"),
            provider,
            *(_RAY_PER_BP * bps for bps in curve),
        )
        s = spec.symbol
        inputs.append(
            (
                *code,
                SPECS[s].decimals,
                rates,
                tokens[s],
                treasury,
                ZERO_ADDRESS,
                f"Second {s}",
                f"sp{s}",
                f"Second Variable Debt {s}",
                f"variableDebt{s}",
                f"Second Stable Debt {s}",
                f"stableDebt{s}",
                b"",
            )
        )
    on.send(
        configurator,
        "initReserves((address,address,address,uint8,address,address,address,address,"
        "string,string,string,string,string,string,bytes)[])",
        inputs,
        gas=30_000_000,
    )
    for spec in SECOND_RESERVES:
        token = tokens[spec.symbol]
        on.send(
            configurator,
            "configureReserveAsCollateral(address,uint256,uint256,uint256)",
            token,
            spec.ltv,
            spec.threshold,
            spec.bonus,
        )
        on.send(configurator, "setReserveBorrowing(address,bool)", token, ENABLED)
        on.send(configurator, "setReserveFactor(address,uint256)", token, spec.factor)
        on.send(configurator, "setReserveFlashLoaning(address,bool)", token, ENABLED)
        on.send(configurator, "setLiquidationProtocolFee(address,uint256)", token, PROTOCOL_FEE)
    for mode in SECOND_EMODES:
        on.send(
            configurator,
            "setEModeCategory(uint8,uint16,uint16,uint16,address,string)",
            mode.number,
            mode.ltv,
            mode.threshold,
            mode.bonus,
            ZERO_ADDRESS,
            mode.label,
        )
        for symbol in mode.collateral:
            on.send(configurator, "setAssetEModeCategory(address,uint8)", tokens[symbol], mode.number)
    on.send(configurator, "updateFlashloanPremiumTotal(uint128)", SECOND_FLASH_PREMIUM)
    on.flush()

    reserves = {}
    for symbol in symbols:
        a_token, _, debt_token = rpc.view(
            data_provider, "getReserveTokensAddresses(address)", tokens[symbol], returns="address,address,address"
        )
        reserves[symbol] = ReserveTokens(address(a_token), address(debt_token))
    return Market(
        name=name,
        revision=1,
        addresses_provider=provider,
        pool=pool,
        configurator=configurator,
        oracle=oracle,
        acl_manager=acl,
        data_provider=data_provider,
        liquidation_data_provider=None,
        admin=on.sender,
        treasury=treasury,
        start_block=start,
        reserves=reserves,
    )
