"""Flash loans from a Balancer V2 Vault: a `ports.FlashSource`."""

from __future__ import annotations

from keeper.abi import interface
from keeper.model import Address, FlashOffer
from keeper.program import Call, Callback, Step, Transfer, encode, literal
from keeper.venues.balancer_v2.fixed_point import mul_up
from keeper.venues.balancer_v2.venue import BalancerV2

# Measured on the published bytecode through the executor: the Vault's own work, its transfer and the repayment.
GAS_FLASH = 46_000


class BalancerV2Flash:
    """``Vault.flashLoan``, received by `receiver` (the executor). The Vault refuses swaps while it lends."""

    def __init__(self, venue: BalancerV2, receiver: Address) -> None:
        self.name = venue.name
        self._venue = venue
        self._receiver = receiver

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """One loan of up to what the Vault held of `token` at the last observed head; it locks all its pools.

        The premium is ``FlashLoans._calculateFlashLoanFeeAmount``.
        """
        fee = self._venue.flash_fee
        if fee is None or not 0 < amount <= self._venue.balance(token):
            return ()
        locks = frozenset(pool.address for pool in self._venue.usable())
        return (FlashOffer(self.name, self._venue.factory, token, amount, mul_up(amount, fee), GAS_FLASH, locks),)

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Borrow, run `inner`, and send back loan and fee."""
        repay = Transfer(offer.token, offer.lender, literal(offer.amount + offer.premium))
        program = encode((*inner, repay))
        data = interface("balancer_vault").encode("flashLoan", self._receiver, [offer.token], [offer.amount], program)
        return (Call(offer.lender, data, callback=Callback(offer.lender, 3)),)
