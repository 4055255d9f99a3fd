"""Who could lend the debt asset: with the hopeless ones left out."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.model import Address, FlashOffer
from keeper.ports import FlashSource

Lender = tuple[str, Address]  # source name, lender


class Market:
    """The flash sources during one plan; what each offers is asked once per token and amount."""

    def __init__(self, sources: Sequence[FlashSource]) -> None:
        self._sources = sources
        self._asked: dict[tuple[Address, int], dict[Lender, FlashOffer]] = {}

    def offers(self, token: Address, amount: int) -> dict[Lender, FlashOffer]:
        """Loans of exactly `amount`, by source name and lender; the cheaper where a lender offers twice."""
        known = self._asked.get((token, amount))
        if known is None:
            known = {}
            for source in self._sources:
                for offer in source.offers(token, amount):
                    if offer.amount != amount or offer.token != token:
                        continue
                    key = (offer.source, offer.lender)
                    if key not in known or offer.premium < known[key].premium:
                        known[key] = offer
            self._asked[token, amount] = known
        return known

    def lenders(self, token: Address, amounts: Sequence[int]) -> tuple[Lender, ...]:
        """Lenders worth trying for loans up to `amounts[0]`, cheapest first; smaller amounts find shallower lenders.

        One is left out when another lends `amounts[0]` (and so everything below it), never asks for more premium or
        gas, and locks no pool that it does not lock.
        """
        rounds = [self.offers(token, amount) for amount in amounts]
        keys = sorted({key for offers in rounds for key in offers}, key=lambda key: [_cost(o.get(key)) for o in rounds])
        useful: list[Lender] = []
        for key in keys:
            if not any(_dominates(rounds, kept, key) for kept in useful):
                useful.append(key)
        return tuple(useful)


def _dominates(rounds: list[dict[Lender, FlashOffer]], better: Lender, worse: Lender) -> bool:
    if better not in rounds[0]:
        return False
    for offers in rounds:
        mine, other = offers.get(better), offers.get(worse)
        if other is None:
            continue
        if mine is None or mine.premium > other.premium or mine.gas > other.gas or not mine.locks <= other.locks:
            return False
    return True


def _cost(offer: FlashOffer | None) -> tuple[bool, int, int]:
    return (True, 0, 0) if offer is None else (False, offer.premium, offer.gas)
