"""Morpho Blue from its real sources, with its real interest rate model, on the private chain's tokens and feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.devchain.artifacts import adaptive_curve_irm, morpho_blue, own_contracts
from keeper.devchain.catalogue import MORPHO_LLTVS, MORPHO_MARKETS, SPECS
from keeper.devchain.deploy import Deployer
from keeper.model import ZERO_ADDRESS, Address

PARAMS = "(address,address,address,address,uint256)"
CREATE = f"createMarket({PARAMS})"
SUPPLY = f"supply({PARAMS},uint256,uint256,address,bytes)"
WITHDRAW = f"withdraw({PARAMS},uint256,uint256,address,address)"
BORROW = f"borrow({PARAMS},uint256,uint256,address,address)"
REPAY = f"repay({PARAMS},uint256,uint256,address,bytes)"
SUPPLY_COLLATERAL = f"supplyCollateral({PARAMS},uint256,address,bytes)"
WITHDRAW_COLLATERAL = f"withdrawCollateral({PARAMS},uint256,address,address)"
LIQUIDATE = f"liquidate({PARAMS},address,uint256,uint256,bytes)"
ACCRUE = f"accrueInterest({PARAMS})"
SET_FEE = f"setFee({PARAMS},uint256)"
_BPS = 10**14  # one basis point in wad


@dataclass(frozen=True, slots=True)
class MorphoMarket:
    """One market. Tokens are symbols; `lltv` is a wad."""

    id: str
    collateral: str
    loan: str
    collateral_token: Address
    loan_token: Address
    oracle: Address
    irm: Address
    lltv: int

    @property
    def params(self) -> tuple[Address, Address, Address, Address, int]:
        """What every call names the market by."""
        return (self.loan_token, self.collateral_token, self.oracle, self.irm, self.lltv)


@dataclass(frozen=True, slots=True)
class Morpho:
    """The deployment. `start_block` is the first block with a transaction of it; markets are by collateral/loan."""

    name: str
    address: Address
    irm: Address
    owner: Address
    start_block: int
    markets: Mapping[str, MorphoMarket]


def market_of(
    collateral: str, loan: str, tokens: Mapping[str, Address], oracle: Address, irm: Address, lltv: int
) -> MorphoMarket:
    """The market of these parameters, whose id is the hash of them."""
    words = (tokens[loan], tokens[collateral], oracle, irm, lltv)
    hashed = keccak(encode(["address", "address", "address", "address", "uint256"], words))
    return MorphoMarket("0x" + hashed.hex(), collateral, loan, tokens[collateral], tokens[loan], oracle, irm, lltv)


def build_morpho(on: Deployer, tokens: Mapping[str, Address], feeds: Mapping[str, Address]) -> Morpho:
    """Deploy and create the markets; supplies come later. Raises BuildFailed when a step reverts."""
    start = on.rpc.number() + 1
    morpho = on.deploy(morpho_blue(), on.sender)
    irm = on.deploy(adaptive_curve_irm(), morpho)
    for model in (irm, ZERO_ADDRESS):
        on.send(morpho, "enableIrm(address)", model)
    for lltv in MORPHO_LLTVS:
        on.send(morpho, "enableLltv(uint256)", lltv * _BPS)
    markets: dict[str, MorphoMarket] = {}
    for spec in MORPHO_MARKETS:
        oracle = on.deploy(
            own_contracts()["MorphoOracle"],
            feeds[spec.collateral],
            feeds[spec.loan],
            SPECS[spec.collateral].decimals,
            SPECS[spec.loan].decimals,
            on.sender,
        )
        market = market_of(spec.collateral, spec.loan, tokens, oracle, irm, spec.lltv * _BPS)
        on.send(morpho, CREATE, market.params)
        markets[spec.name] = market
    on.flush()
    return Morpho("morpho", morpho, irm, on.sender, start, markets)
