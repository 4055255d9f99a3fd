"""One Morpho Blue market: what never changes about it, what every action changes, and the interest in between."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keeper.maths.wad_ray import WAD
from keeper.model import Address
from keeper.protocols.morpho_blue.rules import compounded, to_shares_down


@dataclass(frozen=True, slots=True)
class Params:
    """The market's parameters, of which its id is the hash. `lltv` is a wad, `price` of the oracle has 36 decimals."""

    id: str  # 0x hex of 32 bytes
    place: str  # the first characters of the id, enough to tell it from the markets before it
    loan: Address
    collateral: Address
    oracle: Address
    irm: Address
    lltv: int

    @property
    def key(self) -> bytes:
        """The id as calls want it."""
        return bytes.fromhex(self.id[2:])

    @property
    def words(self) -> tuple[Address, Address, Address, Address, int]:
        """The struct as calls want it."""
        return (self.loan, self.collateral, self.oracle, self.irm, self.lltv)


@dataclass(frozen=True, slots=True)
class State:
    """`Morpho.market(id)`: base units and shares, the time of the last accrual (0: not known), the fee in wad."""

    supply_assets: int = 0
    supply_shares: int = 0
    borrow_assets: int = 0
    borrow_shares: int = 0
    updated: int = 0
    fee: int = 0

    @property
    def words(self) -> tuple[int, int, int, int, int, int]:
        """The struct as calls want it."""
        return (
            self.supply_assets,
            self.supply_shares,
            self.borrow_assets,
            self.borrow_shares,
            self.updated,
            self.fee,
        )


def accrued(state: State, rate: int, timestamp: int) -> State:
    """The state after `_accrueInterest` at `timestamp`; `rate` is the model's average since `state.updated`."""
    elapsed = timestamp - state.updated
    if elapsed <= 0:
        return state
    interest = state.borrow_assets * compounded(rate, elapsed) // WAD
    supply_assets = state.supply_assets + interest
    fee = interest * state.fee // WAD
    fee_shares = to_shares_down(fee, supply_assets - fee, state.supply_shares) if state.fee else 0
    return replace(
        state,
        supply_assets=supply_assets,
        supply_shares=state.supply_shares + fee_shares,
        borrow_assets=state.borrow_assets + interest,
        updated=timestamp,
    )
