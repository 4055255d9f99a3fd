"""How the pool wants to be called."""

from __future__ import annotations

from keeper.model import MAX_UINT256, Address
from keeper.ports import Liquidation
from keeper.program import Approve, Call, Guard, Step, literal
from keeper.protocols.aave_v3.market import POOL, TOKEN, Market
from keeper.protocols.aave_v3.pair import AavePair


def liquidation_steps(
    market: Market, pair: AavePair, borrower: Address, repay: int, *, receive_a_token: bool
) -> Liquidation:
    """Approve, call, and take back what the call left of the approval.

    The guard ends the execution cheaply when the borrower's scaled debt has shrunk since: somebody was faster.
    """
    owed = market.reserves[market.by_asset[pair.debt.address]]
    guard = Guard(owed.v_token, TOKEN.encode("scaledBalanceOf", borrower), pair.terms.scaled_debt, MAX_UINT256)
    budget = pair.budget(repay)
    data = POOL.encode(
        "liquidationCall",
        pair.collateral.address,
        pair.debt.address,
        borrower,
        pair.cover(repay),
        receive_a_token,
    )
    steps: tuple[Step, ...] = (Approve(pair.debt.address, market.pool, literal(budget)), Call(market.pool, data))
    if pair.cover(repay) == MAX_UINT256:
        steps += (Approve(pair.debt.address, market.pool, literal(0)),)
    return Liquidation((guard,), steps, pair.gas(repay))
