"""Flash loans from Uniswap V3 pools: a `ports.FlashSource`."""

from __future__ import annotations

from keeper.abi import interface
from keeper.model import Address, FlashOffer
from keeper.program import Call, Callback, Step, Transfer, encode, word
from keeper.venues.uniswap_v3.swap_math import FEE_UNIT
from keeper.venues.uniswap_v3.venue import UniswapV3

# Measured on the published bytecode through the executor: the pool's own work, its transfers and the repayment.
GAS_FLASH = 75_000


class UniswapV3Flash:
    """`UniswapV3Pool.flash` of a mirrored factory's pools, received by `receiver` (the executor).

    A loan locks its pool: nothing can be traded there before it is paid back.
    """

    def __init__(self, venue: UniswapV3, receiver: Address, most: int = 4) -> None:
        self.name = venue.name
        self._venue = venue
        self._receiver = receiver
        self._most = most

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """The cheapest loans (at most `most`) from pools that held `amount` at the last observed head.

        The premium is the pool's fee rounded up. Of pools with the same fee the one with less of the token comes
        first: locking it costs the routes less.
        """
        if amount <= 0:
            return ()
        found = [
            (-(-amount * pool.fee // FEE_UNIT), held, pool.address)
            for pool in self._venue.pools()
            if token in (pool.token0, pool.token1)
            and pool.liquidity
            and (held := self._venue.balance(pool.address, token)) >= amount
        ]
        return tuple(
            FlashOffer(self.name, lender, token, amount, premium, GAS_FLASH, frozenset({lender}))
            for premium, _, lender in sorted(found)[: self._most]
        )

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Borrow, run `inner`, and send back the loan and the fee the pool asks for in its callback.

        Raises ValueError when the lender is none of the pools.
        """
        pool = self._venue.pool(offer.lender)
        if pool is None:
            raise ValueError(f"{offer.lender} is no usable pool of {self.name}")
        first = offer.token == pool.token0
        repay = Transfer(offer.token, offer.lender, word(0 if first else 1, offer.amount))
        amounts = (offer.amount, 0) if first else (0, offer.amount)
        data = interface("uniswap_v3_pool").encode("flash", self._receiver, *amounts, encode((*inner, repay)))
        return (Call(offer.lender, data, callback=Callback(offer.lender, 2)),)
