"""Whoever lends, borrows and liquidates in Morpho's markets on the private chain."""

from __future__ import annotations

from keeper.devchain.actors import Actors
from keeper.devchain.morpho import (
    ACCRUE,
    BORROW,
    CREATE,
    LIQUIDATE,
    REPAY,
    SET_FEE,
    SUPPLY,
    SUPPLY_COLLATERAL,
    WITHDRAW,
    WITHDRAW_COLLATERAL,
    Morpho,
    MorphoMarket,
)
from keeper.model import Address


class MorphoUsers:
    """Acts for any user. Amounts are base units; where there are `assets` and `shares`, exactly one is not zero."""

    def __init__(self, actors: Actors, morpho: Morpho) -> None:
        self.actors = actors
        self.morpho = morpho

    def supply(self, user: str, market: MorphoMarket, assets: int) -> str:
        """Lend what the user is given for it."""
        self._ready(user, market.loan, assets)
        return self._call(user, SUPPLY, market.params, assets, 0, user, b"")

    def withdraw(self, user: str, market: MorphoMarket, *, assets: int = 0, shares: int = 0) -> str:
        """Take back what was lent."""
        return self._call(user, WITHDRAW, market.params, assets, shares, user, user)

    def pledge(self, user: str, market: MorphoMarket, assets: int) -> str:
        """Supply collateral that the user is given for it."""
        self._ready(user, market.collateral, assets)
        return self._call(user, SUPPLY_COLLATERAL, market.params, assets, user, b"")

    def release(self, user: str, market: MorphoMarket, assets: int) -> str:
        """Withdraw collateral."""
        return self._call(user, WITHDRAW_COLLATERAL, market.params, assets, user, user)

    def borrow(self, user: str, market: MorphoMarket, *, assets: int = 0, shares: int = 0) -> str:
        """Borrow to the user."""
        return self._call(user, BORROW, market.params, assets, shares, user, user)

    def repay(self, user: str, market: MorphoMarket, *, assets: int = 0, shares: int = 0, gift: int = 0) -> str:
        """Repay the user's debt, out of `gift` base units (at least `assets`) that the user is given for it."""
        self._ready(user, market.loan, max(gift, assets))
        return self._call(user, REPAY, market.params, assets, shares, user, b"")

    def liquidate(
        self, user: str, market: MorphoMarket, borrower: str, *, seized: int = 0, shares: int = 0, gift: int = 0
    ) -> str:
        """Liquidate out of what `user` holds and is given."""
        self._ready(user, market.loan, gift)
        return self._call(user, LIQUIDATE, market.params, borrower, seized, shares, b"")

    def open_position(self, user: str, market: MorphoMarket, collateral: int, debt: int) -> Address:
        """Pledge and borrow, in one block; returns the user."""
        with self.actors.block():
            self.pledge(user, market, collateral)
            self.borrow(user, market, assets=debt)
        return Address(user)

    def authorize(self, user: str, agent: str, *, allowed: bool) -> str:
        """Let somebody act for the user, or not."""
        return self._call(user, "setAuthorization(address,bool)", agent, allowed)

    def accrue(self, user: str, market: MorphoMarket) -> str:
        """Book a market's interest."""
        return self._call(user, ACCRUE, market.params)

    def create(self, market: MorphoMarket) -> str:
        """Create a market, as anybody may."""
        return self._call(self.morpho.owner, CREATE, market.params)

    def set_fee(self, market: MorphoMarket, fee: int) -> str:
        """The protocol's share of a market's interest, a wad."""
        return self._call(self.morpho.owner, SET_FEE, market.params, fee)

    def set_fee_recipient(self, recipient: str) -> str:
        """Who receives the fees of all markets."""
        return self._call(self.morpho.owner, "setFeeRecipient(address)", recipient)

    def fix_price(self, market: MorphoMarket, price: int) -> str:
        """Freeze the market's oracle at a price (36 decimals more than the tokens' difference); 0: it fails."""
        return self.actors.send(self.morpho.owner, market.oracle, "fix(uint256)", price)

    def follow_feeds(self, market: MorphoMarket) -> str:
        """Let the market's oracle follow its feeds again."""
        return self.actors.send(self.morpho.owner, market.oracle, "follow()")

    def price(self, market: MorphoMarket) -> int:
        """What the oracle says."""
        return int(self.actors.rpc.view(market.oracle, "price()"))

    def position(self, user: str, market: MorphoMarket) -> tuple[int, int, int]:
        """Supply shares, debt shares and collateral."""
        signature, key = "position(bytes32,address)", bytes.fromhex(market.id[2:])
        found = self.actors.rpc.view(self.morpho.address, signature, key, user, returns="uint256,uint128,uint128")
        return (int(found[0]), int(found[1]), int(found[2]))

    def _ready(self, user: str, symbol: str, amount: int) -> None:
        if amount:
            self.actors.fund(user, symbol, amount)
        self.actors.approve(user, self.morpho.address, symbol)

    def _call(self, user: str, signature: str, *args: object) -> str:
        return self.actors.send(user, self.morpho.address, signature, *args)
