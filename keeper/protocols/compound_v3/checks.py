"""The ledger against the contract it mirrors."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadData
from keeper.model import WAD, Head, Read
from keeper.ports import Client
from keeper.protocols.compound_v3.contract import COMET, user_basic
from keeper.protocols.compound_v3.health import Valuation
from keeper.protocols.compound_v3.ledger import Ledger
from keeper.protocols.compound_v3.market import Market

_ROTATION = 200  # accounts whose principals each audit looks at beside its sample


async def require_collateral(client: Client, head: Head, market: Market, ledger: Ledger) -> None:
    """Raise BadData when the collateral of all accounts is not what the contract counts."""
    wrong = await wrong_collateral(client, head, market, ledger)
    if wrong:
        raise BadData(f"holders are missing: the events do not add up ({wrong} at block {head.number})")


async def wrong_collateral(client: Client, head: Head, market: Market, ledger: Ledger) -> str:
    """The first asset whose total the ledger does not have; empty when all are right."""
    reads = [Read(market.comet, COMET.encode("totalsCollateral", asset.token.address)) for asset in market.assets]
    for asset, answer in zip(market.assets, await client.read(reads, head) if reads else [], strict=True):
        total, mine = COMET.decode("totalsCollateral", answer)[0], ledger.total(asset.token.address)
        if total != mine:
            return f"{asset.token.symbol}: {mine} here, {total} there"
    return ""


def sampled(ledger: Ledger, head: Head, sample: int) -> tuple[list[int], list[int]]:
    """(borrowers to compare, further accounts whose principal is looked at), the same at every call for one head."""
    dice = random.Random(head.number)  # noqa: S311 - a sample, not a secret
    chosen = _sample(dice, ledger.borrowers(), sample)
    exposed = ledger.exposed()
    return chosen, _sample(dice, exposed[~np.isin(exposed, chosen)], _ROTATION)


def _sample(dice: random.Random, users: NDArray[np.intp], most: int) -> list[int]:
    found: list[int] = users[dice.sample(range(len(users)), min(most, len(users)))].tolist()
    return found


async def compare(client: Client, head: Head, ledger: Ledger, now: Valuation, stored: Valuation, sample: int) -> str:
    """The first difference between accounts here and the contract's own views at `head`; empty when there is none.

    `now` is at the head's timestamp, `stored` at that of the last accrual. A debt that moved without a log is taken
    over and is no difference.
    """
    market = now.market
    users, further = sampled(ledger, head, sample)
    views = ("userBasic", "borrowBalanceOf", "isLiquidatable")
    reads = [Read(market.comet, COMET.encode(view, ledger.names[user])) for user in users for view in views]
    reads += [Read(market.comet, COMET.encode("userBasic", ledger.names[user])) for user in further]
    answers = list(await client.read(reads, head)) if reads else []
    for user, answer in zip(further, answers[3 * len(users) :], strict=True):
        _take_over(ledger, user, user_basic(answer)[0])
    offsets = {asset.token.address: asset.offset for asset in market.assets}
    for place, user in enumerate(users):
        name, (basic, balance, liquidatable) = ledger.names[user], answers[3 * place : 3 * place + 3]
        principal, assets_in = user_basic(basic)
        _take_over(ledger, user, principal)
        holdings = list(ledger.holdings(user))
        mine = sum(1 << offsets[asset] for asset, _ in holdings if asset in offsets)
        if principal != ledger.principals[user] or assets_in != mine:
            have = f"{ledger.principals[user]} and {mine:#x}"
            return f"{name} has principal {principal} and assets {assets_in:#x}, the book says {have}"
        (owed,) = COMET.decode("borrowBalanceOf", balance)
        if owed != now.owed(principal):
            return f"{name} owes {owed}, the book says {now.owed(principal)}"
        health = stored.health(principal, holdings)
        if health is None or liquidatable is None:
            continue  # a missing price: known to be unknown
        (verdict,) = COMET.decode("isLiquidatable", liquidatable)
        if verdict != (health.factor < WAD):
            return f"{name} is {'' if verdict else 'not '}liquidatable, the book says health factor {health.factor}"
    return ""


def _take_over(ledger: Ledger, user: int, principal: int) -> None:
    """A principal that was and is not positive may have moved without a log."""
    if ledger.principals[user] <= 0 and principal <= 0:
        ledger.set_principal(user, principal)
