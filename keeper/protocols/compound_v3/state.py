"""What is read at every head: totals and indices, prices, the base the contract holds and the collateral on sale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from keeper.errors import BadData
from keeper.model import Address, Read
from keeper.protocols.compound_v3.contract import Totals, head_reads, number, totals
from keeper.protocols.compound_v3.market import Market


@dataclass(frozen=True, slots=True)
class State:
    """One head. Prices are base currency per whole token by asset, None where the feed reverts or is not positive."""

    totals: Totals
    balance: int  # base token held
    prices: Mapping[Address, int | None]
    reserves: Mapping[Address, int | None] = field(default_factory=dict)  # collateral nobody's; None: less than none

    def repriced(self, prices: Mapping[Address, int]) -> State:
        """The same with some prices replaced; prices that are not known here are not added."""
        return replace(self, prices={asset: prices.get(asset, price) for asset, price in self.prices.items()})


def reads(market: Market) -> tuple[Read, ...]:
    """The views of one head."""
    return head_reads(market.comet, market.base.address, market.feeds, [asset.token.address for asset in market.assets])


def take(market: Market, answers: Sequence[bytes | None]) -> State:
    """The answers to `reads`; raises BadData when they belong to other questions or the totals cannot be read."""
    assets = [asset.token.address for asset in market.assets]
    if len(answers) != 3 + 2 * len(assets):
        raise BadData(f"{len(answers)} answers were given to {3 + 2 * len(assets)} questions")
    balance = number(answers[1])
    if balance is None:
        raise BadData(f"{market.base.symbol} does not tell the balance of {market.comet}")
    priced = zip([market.base.address, *assets], answers[2 : 3 + len(assets)], strict=True)
    return State(
        totals(answers[0]),
        balance,
        {asset: number(answer) or None for asset, answer in priced},
        {asset: number(answer) for asset, answer in zip(assets, answers[3 + len(assets) :], strict=True)},
    )
