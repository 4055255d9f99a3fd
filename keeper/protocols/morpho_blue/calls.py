"""How Morpho and its pre-liquidation contracts want to be called."""

from __future__ import annotations

from collections.abc import Callable

from keeper.model import MAX_UINT256, Address
from keeper.ports import Liquidation
from keeper.program import Approve, Callback, Guard, Step, encode, literal, word
from keeper.program import Call as Calling
from keeper.protocols.morpho_blue.events import MORPHO, PRE_LIQUIDATION
from keeper.protocols.morpho_blue.pair import Call, MorphoPair

_SHARES_WORD = 1  # position(id, user): supply shares, borrow shares, collateral
_REPAID_WORD = 0  # onMorphoLiquidate(repaidAssets, data), onPreLiquidate(repaidAssets, data)
_PROGRAM_WORD = 1


def liquidation_steps(pair: MorphoPair, borrower: Address, repay: int) -> Liquidation:
    """The call paid with what the executor holds, and the call that is paid inside its own callback.

    The guard ends the execution cheaply when the borrower's debt shares have shrunk since: somebody was faster.
    """
    terms = pair.terms
    read = MORPHO.encode("position", terms.params.key, borrower)
    guard = Guard(terms.morpho, read, pair.now.shares, MAX_UINT256, _SHARES_WORD)
    target = terms.contract or terms.morpho
    encoded = _encoder(pair, borrower, pair.call(repay))
    budget = pair.budget(repay)
    steps: tuple[Step, ...] = (Approve(pair.debt.address, target, literal(budget)), Calling(target, encoded(b"")))
    if budget > pair.moved(repay).repaid:
        steps += (Approve(pair.debt.address, target, literal(0)),)

    def around(inner: tuple[Step, ...]) -> tuple[Step, ...]:
        program = encode((*inner, Approve(pair.debt.address, target, word(_REPAID_WORD))))
        return (Calling(target, encoded(program), callback=Callback(target, _PROGRAM_WORD)),)

    return Liquidation((guard,), steps, pair.gas(repay), around)


def _encoder(pair: MorphoPair, borrower: Address, call: Call) -> Callable[[bytes], bytes]:
    params, contract = pair.terms.params, pair.terms.contract
    if contract is not None:
        return lambda data: PRE_LIQUIDATION.encode("preLiquidate", borrower, call.seized, call.shares, data)
    return lambda data: MORPHO.encode("liquidate", params.words, borrower, call.seized, call.shares, data)
