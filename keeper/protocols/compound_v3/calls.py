"""How the contract wants to be called."""

from __future__ import annotations

from keeper.model import MAX_UINT256, Address
from keeper.ports import Liquidation
from keeper.program import Approve, Call, Guard, Step, literal
from keeper.protocols.compound_v3.contract import COMET, NEGATIVE
from keeper.protocols.compound_v3.market import Market
from keeper.protocols.compound_v3.pair import CometPair


def liquidation_steps(market: Market, pair: CometPair, repay: int, executor: Address) -> Liquidation:
    """Absorb, approve, buy.

    The guards end the execution cheaply when somebody was faster: an account that owes less than it did, or reserves
    that no longer hold what is to be bought. `isLiquidatable` would be no good guard: it judges by the indices of the
    last action, and says no to an account that only the accrual in `absorb` makes liquidatable. The least amount asked
    of `buyCollateral` only refuses an empty purchase; what a price that has moved since may cost is for the floor.
    """
    comet = market.comet
    steps: tuple[Step, ...] = (
        Approve(market.base.address, comet, literal(repay)),
        Call(comet, COMET.encode("buyCollateral", pair.collateral.address, 1, repay, executor)),
    )
    if not pair.absorbs:
        view = COMET.encode("getCollateralReserves", pair.collateral.address)
        return Liquidation((Guard(comet, view, pair.seize(repay).seized, MAX_UINT256),), steps, pair.gas(repay))
    guards = tuple(
        Guard(comet, COMET.encode("userBasic", account.borrower), NEGATIVE, account.principal + 2**256)
        for account in pair.absorbs
    )
    accounts = [account.borrower for account in pair.absorbs]
    return Liquidation(guards, (Call(comet, COMET.encode("absorb", executor, accounts)), *steps), pair.gas(repay))
