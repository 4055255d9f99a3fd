"""Why a sent liquidation reverted, in the four classes that ask for different things. Pure; foreign names are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum


class Failure(StrEnum):
    """What a revert asks for."""

    LOST_RACE = "lost_race"  # somebody was faster: forget it
    NOT_LIQUIDATABLE = "not_liquidatable"  # wait for the price
    NO_LIQUIDITY = "no_liquidity"  # the pools or lenders gave less than planned: leave it for a while
    BUG = "bug"  # nobody can explain it: leave it alone until a person has looked


Classify = Callable[[str], Failure]

# The executor's own errors; every one that is not here is a bug or a mistake in its roles.
_OWN = {
    "Gone": Failure.LOST_RACE,  # the guard: the position is no longer what it was
    "Expired": Failure.LOST_RACE,  # mined after its deadline
    "GrowthTooLow": Failure.NO_LIQUIDITY,  # the same of one item
    "GainTooLow": Failure.NO_LIQUIDITY,  # the floor held: what the pools paid was less than planned
    "BalanceTooLow": Failure.NO_LIQUIDITY,  # a trade brought less than the next step needs
}
# Nothing at all was gained: every item of the transaction was gone.
NOTHING_RAN = "GainTooLow(0,"
# What the tracker says when the same call succeeds on the state before its block.
OVERTAKEN = "reverted by what came before it in its block"
# What it says while nobody can explain a revert and it still asks: no class yet.
UNEXPLAINED = "reverted, and no node has said why yet"
_STEPS = re.compile(r"^(?:step \d+: |TokenRefused\(0x[0-9a-fA-F]{40}\): )*")


def classifier(foreign: Mapping[str, str]) -> Classify:
    """A function from a decoded revert reason to its class.

    `foreign` maps the names of other contracts' errors, or the whole text they revert with, to the value of a
    `Failure`; it comes from ``contracts_abi/errors.json``. What is in no table is a bug: unknown is not harmless.
    Raises ValueError when `foreign` names a class that does not exist.
    """
    texts = {name: Failure(value) for name, value in foreign.items()}
    names = texts | _OWN

    def classify(reason: str) -> Failure:
        if reason.startswith(OVERTAKEN):
            return Failure.LOST_RACE
        inner = innermost(reason)
        if inner.startswith("'"):  # a contract may write any text, also the name of an error of ours
            return texts.get(inner.strip("'"), Failure.BUG)
        if inner.startswith(NOTHING_RAN):
            return Failure.LOST_RACE
        return names.get(inner.partition("(")[0], Failure.BUG)

    return classify


def innermost(reason: str) -> str:
    """A decoded reason without the steps around it: ``step 0: step 2: Gone()`` is ``Gone()``."""
    return _STEPS.sub("", reason, count=1)
