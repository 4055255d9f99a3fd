"""Aave's own flash loan of one asset: a `ports.FlashSource`."""

from __future__ import annotations

from keeper.model import Address, FlashOffer
from keeper.program import Approve, Call, Callback, Step, encode, literal
from keeper.protocols.aave_v3.book import AaveV3Book
from keeper.protocols.aave_v3.market import POOL

GAS = 130_000
_TRUE = (1).to_bytes(32, "big")
_PROGRAM_WORD = 4  # executeOperation(asset, amount, premium, initiator, params)


class AaveV3Flash:
    """`Pool.flashLoanSimple` of a mirrored market, received by `receiver` (the executor)."""

    def __init__(self, book: AaveV3Book, receiver: Address) -> None:
        self.name = book.name
        self._book = book
        self._receiver = receiver

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """One loan, if the reserve is active, not paused, open for flash loans and has `amount` now."""
        if amount <= 0 or not self._book.status.trusted:
            return ()
        market = self._book.market
        number = market.by_asset.get(token)
        if number is None:
            return ()
        reserve = market.reserves[number]
        open_now = reserve.active and not reserve.paused and reserve.flash_enabled
        if not open_now or self._book.available(token) < amount:
            return ()
        premium = market.rules.flash_premium(amount, market.premium)
        return (FlashOffer(self.name, market.pool, token, amount, premium, GAS),)

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Borrow, run `inner`, and let the pool take loan and premium back."""
        repay = Approve(offer.token, offer.lender, literal(offer.amount + offer.premium))
        program = encode((*inner, repay))
        data = POOL.encode("flashLoanSimple", self._receiver, offer.token, offer.amount, program, 0)
        return (Call(offer.lender, data, callback=Callback(offer.lender, _PROGRAM_WORD, _TRUE)),)
