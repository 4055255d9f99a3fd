"""A market as earlier liquidations of the same block leave it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from keeper.model import Address, Plan
from keeper.ports import Position
from keeper.protocols.morpho_blue.market import State
from keeper.protocols.morpho_blue.pair import MorphoPair, Moved
from keeper.protocols.morpho_blue.positions import Holding
from keeper.protocols.morpho_blue.rules import to_assets_up


@dataclass(slots=True)
class Overlay:
    """The market after its accrual at the block's timestamp, and whoever was liquidated there."""

    state: State
    target: int  # rate at target, wad per second
    holdings: dict[Address, Holding] = field(default_factory=dict)

    def run(self, plan: Plan, holding: Holding, position: Position | None) -> bool:
        """Liquidate as `plan` says; False when `position` offers no such liquidation: nothing can be foreseen then."""
        for pair in () if position is None else position.pairs:
            if isinstance(pair, MorphoPair) and _fits(pair, plan):
                self._take(plan.borrower, holding, pair.moved(plan.repay), own=pair.terms.contract is None)
                return True
        return False

    def _take(self, borrower: Address, holding: Holding, moved: Moved, *, own: bool) -> None:
        """The effect of Morpho.liquidate (`own`), or of PreLiquidation's repay and withdrawal."""
        state = replace(
            self.state,
            borrow_assets=max(self.state.borrow_assets - moved.repaid, 0),
            borrow_shares=self.state.borrow_shares - moved.shares,
        )
        shares, collateral = holding.shares - moved.shares, holding.collateral - moved.seized
        if own and not collateral:
            bad = min(state.borrow_assets, to_assets_up(shares, state.borrow_assets, state.borrow_shares))
            state = replace(
                state,
                supply_assets=state.supply_assets - bad,
                borrow_assets=state.borrow_assets - bad,
                borrow_shares=state.borrow_shares - shares,
            )
            shares = 0
        self.state = state
        self.holdings[borrower] = Holding(shares, collateral)


def _fits(pair: MorphoPair, plan: Plan) -> bool:
    low, high = pair.feasible[0]
    return (
        low <= plan.repay <= high and pair.seize(plan.repay) == plan.seizure and pair.budget(plan.repay) == plan.budget
    )
