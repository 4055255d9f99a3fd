"""An Aave V3.6 market built from its real sources, in the order the protocol's own deployment procedures use."""

from __future__ import annotations

from collections.abc import Mapping

from eth_abi.abi import encode

from keeper.devchain.artifacts import aave_36
from keeper.devchain.catalogue import MAIN_EMODES, MAIN_FLASH_PREMIUM, MAIN_RESERVES, PROTOCOL_FEE, USD
from keeper.devchain.deploy import Deployer
from keeper.devchain.lending import ENABLED, Market, ReserveTokens
from keeper.model import ZERO_ADDRESS, Address, address


def build_aave36(
    on: Deployer, name: str, tokens: Mapping[str, Address], feeds: Mapping[str, Address], treasury: Address
) -> Market:
    """Deploy and configure the market; supplies come later. Raises BuildFailed when a step reverts."""
    code, rpc, start = aave_36(), on.rpc, on.rpc.number() + 1
    libraries = {n: on.deploy(code[n]) for n in ("BorrowLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic")}
    libraries["FlashLoanLogic"] = on.deploy(code["FlashLoanLogic"], libraries=libraries)
    libraries["ConfiguratorLogic"] = on.deploy(code["ConfiguratorLogic"])
    provider = on.deploy(code["PoolAddressesProvider"], "Keeper devchain V3.6", on.sender)
    rates = on.deploy(code["DefaultReserveInterestRateStrategyV2"], provider)
    symbols = [spec.symbol for spec in MAIN_RESERVES]
    oracle = on.deploy(
        code["AaveOracle"],
        provider,
        [tokens[s] for s in symbols],
        [feeds[s] for s in symbols],
        ZERO_ADDRESS,
        ZERO_ADDRESS,
        USD,
    )
    on.send(provider, "setPriceOracle(address)", oracle)
    on.send(provider, "setPoolImpl(address)", on.deploy(code["PoolInstance"], provider, rates, libraries=libraries))
    configurator_code = on.deploy(code["PoolConfiguratorInstance"], libraries=libraries)
    on.send(provider, "setPoolConfiguratorImpl(address)", configurator_code)
    on.send(provider, "setACLAdmin(address)", on.sender)
    acl = on.deploy(code["ACLManager"], provider)
    on.send(provider, "setACLManager(address)", acl)
    for role in ("addPoolAdmin", "addEmergencyAdmin", "addRiskAdmin", "addAssetListingAdmin"):
        on.send(acl, f"{role}(address)", on.sender)
    on.flush()

    pool = address(rpc.view(provider, "getPool()", returns="address"))
    configurator = address(rpc.view(provider, "getPoolConfigurator()", returns="address"))
    data_provider = on.deploy(code["AaveProtocolDataProvider"], provider)
    on.send(provider, "setPoolDataProvider(address)", data_provider)
    helper = on.deploy(code["LiquidationDataProvider"], pool, provider)
    a_token = on.deploy(code["ATokenInstance"], pool, ZERO_ADDRESS, treasury)
    debt_token = on.deploy(code["VariableDebtTokenInstance"], pool, ZERO_ADDRESS)
    on.send(
        configurator,
        "initReserves((address,address,address,string,string,string,string,bytes,bytes)[])",
        [
            (
                a_token,
                debt_token,
                tokens[spec.symbol],
                f"Aave {spec.symbol}",
                f"a{spec.symbol}",
                f"Aave Variable Debt {spec.symbol}",
                f"variableDebt{spec.symbol}",
                b"",
                encode(["uint16", "uint32", "uint32", "uint32"], [spec.optimal, spec.base, spec.slope1, spec.slope2]),
            )
            for spec in MAIN_RESERVES
        ],
        gas=30_000_000,
    )
    for spec in MAIN_RESERVES:
        token = tokens[spec.symbol]
        on.send(configurator, "setReserveBorrowing(address,bool)", token, ENABLED)
        on.send(
            configurator,
            "configureReserveAsCollateral(address,uint256,uint256,uint256)",
            token,
            spec.ltv,
            spec.threshold,
            spec.bonus,
        )
        on.send(configurator, "setReserveFactor(address,uint256)", token, spec.factor)
        on.send(configurator, "setReserveFlashLoaning(address,bool)", token, ENABLED)
        on.send(configurator, "setLiquidationProtocolFee(address,uint256)", token, PROTOCOL_FEE)
    for mode in MAIN_EMODES:
        on.send(
            configurator,
            "setEModeCategory(uint8,uint16,uint16,uint16,string)",
            mode.number,
            mode.ltv,
            mode.threshold,
            mode.bonus,
            mode.label,
        )
        for symbol in mode.collateral:
            signature = "setAssetCollateralInEMode(address,uint8,bool)"
            on.send(configurator, signature, tokens[symbol], mode.number, ENABLED)
        for symbol in mode.borrowable:
            signature = "setAssetBorrowableInEMode(address,uint8,bool)"
            on.send(configurator, signature, tokens[symbol], mode.number, ENABLED)
    on.send(configurator, "updateFlashloanPremium(uint128)", MAIN_FLASH_PREMIUM)
    on.flush()

    reserves = {
        symbol: ReserveTokens(
            address(rpc.view(pool, "getReserveAToken(address)", tokens[symbol], returns="address")),
            address(rpc.view(pool, "getReserveVariableDebtToken(address)", tokens[symbol], returns="address")),
        )
        for symbol in symbols
    }
    return Market(
        name=name,
        revision=10,
        addresses_provider=provider,
        pool=pool,
        configurator=configurator,
        oracle=oracle,
        acl_manager=acl,
        data_provider=data_provider,
        liquidation_data_provider=helper,
        admin=on.sender,
        treasury=treasury,
        start_block=start,
        reserves=reserves,
    )
