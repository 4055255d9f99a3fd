"""Morpho's free flash loan of anything it holds: a `ports.FlashSource`."""

from __future__ import annotations

from keeper.model import Address, FlashOffer
from keeper.program import Approve, Call, Callback, Step, encode, literal
from keeper.protocols.morpho_blue.book import MorphoBlueBook
from keeper.protocols.morpho_blue.events import MORPHO

GAS = 70_000
_PROGRAM_WORD = 1  # onMorphoFlashLoan(uint256 assets, bytes data)


class MorphoBlueFlash:
    """`Morpho.flashLoan`, which calls its caller back."""

    def __init__(self, book: MorphoBlueBook) -> None:
        self.name = book.name
        self._book = book

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """One loan, if all markets together hold `amount` now."""
        if amount <= 0 or not self._book.status.trusted or self._book.held(token) < amount:
            return ()
        return (FlashOffer(self.name, self._book.address, token, amount, 0, GAS),)

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Borrow, run `inner`, and let Morpho take the loan back."""
        program = encode((*inner, Approve(offer.token, offer.lender, literal(offer.amount + offer.premium))))
        data = MORPHO.encode("flashLoan", offer.token, offer.amount, program)
        return (Call(offer.lender, data, callback=Callback(offer.lender, _PROGRAM_WORD)),)
