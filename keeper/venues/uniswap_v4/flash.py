"""Flash loans from a Uniswap V4 PoolManager: a `ports.FlashSource`."""

from __future__ import annotations

from keeper.abi import interface
from keeper.model import Address, FlashOffer
from keeper.program import Call, Step, literal
from keeper.venues.uniswap_v4.venue import UniswapV4

# Measured on the published bytecode through the executor: the session, the withdrawal and the repayment.
GAS_FLASH = 41_000
# A loan leaves the manager enough of the token to hand out what is bought there meanwhile.
_SHARE = 3


class UniswapV4Flash:
    """``take`` before ``settle`` within the session that the venue's trades run in; costs nothing and locks no pool."""

    def __init__(self, venue: UniswapV4, receiver: Address) -> None:
        self.name = venue.name
        self._venue = venue
        self._receiver = receiver

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """One loan of up to a third of what the manager held of `token` at the last observed head."""
        if amount <= 0 or amount * _SHARE > self._venue.balance(token):
            return ()
        return (FlashOffer(self.name, self._venue.factory, token, amount, 0, GAS_FLASH),)

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Take the loan, run `inner`, and settle it; inside a session."""
        data = interface("uniswap_v4_manager").encode("take", offer.token, self._receiver, offer.amount)
        return (Call(offer.lender, data), *inner, *self._venue.pay_back(offer.token, literal(offer.amount)))
