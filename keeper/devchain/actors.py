"""Everybody who acts on the private chain: borrowers and liquidators here, traders and governors beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from keeper.devchain.governors import Governors
from keeper.devchain.hand import Reverted, account
from keeper.devchain.lending import Market
from keeper.devchain.traders import Traders
from keeper.devchain.uniswap import dollars
from keeper.model import MAX_UINT256, Address

__all__ = ["Actors", "Reverted", "Standing", "account"]

_VARIABLE = 2


class Standing(NamedTuple):
    """`getUserAccountData`: amounts in USD with 8 decimals, threshold and LTV in bps, health factor in wad."""

    collateral: int
    debt: int
    available: int
    threshold: int
    ltv: int
    health_factor: int


class Actors(Traders, Governors):
    """Acts for any user. Amounts are base units, tokens are symbols, `MAX_UINT256` means all where Aave says so."""

    def fund(self, user: str, symbol: str, amount: int) -> str:
        """Give tokens, out of the market maker's pocket."""
        token = self.world.tokens[symbol].address
        return self.send(self.world.deployer, self.world.desk, "send(address,address,uint256)", token, user, amount)

    def fund_native(self, user: str, amount: int) -> None:
        """Set a native balance, without a transaction."""
        self.rpc.request("anvil_setBalance", user, hex(amount))
        self._paid.add(user)

    def balance(self, user: str, symbol: str) -> int:
        """Token balance."""
        return int(self.rpc.view(self.world.tokens[symbol].address, "balanceOf(address)", user))

    def approve(self, user: str, spender: str, symbol: str) -> None:
        """Let `spender` take everything, unless it already may."""
        token = self.world.tokens[symbol].address
        if self.rpc.view(token, "allowance(address,address)", user, spender) < MAX_UINT256 // 2:
            if symbol == "USDT":
                self.send(user, token, "approve(address,uint256)", spender, 0)
            self.send(user, token, "approve(address,uint256)", spender, MAX_UINT256)

    def supply(self, market: Market, user: str, symbol: str, amount: int) -> str:
        """Supply what the user holds (approving first when needed)."""
        self.approve(user, market.pool, symbol)
        signature = "supply(address,uint256,address,uint16)"
        return self.send(user, market.pool, signature, self.world.tokens[symbol].address, amount, user, 0)

    def withdraw(self, market: Market, user: str, symbol: str, amount: int) -> str:
        """Withdraw to the user."""
        token = self.world.tokens[symbol].address
        return self.send(user, market.pool, "withdraw(address,uint256,address)", token, amount, user)

    def borrow(self, market: Market, user: str, symbol: str, amount: int) -> str:
        """Borrow at the variable rate."""
        signature = "borrow(address,uint256,uint256,uint16,address)"
        return self.send(user, market.pool, signature, self.world.tokens[symbol].address, amount, _VARIABLE, 0, user)

    def repay(self, market: Market, user: str, symbol: str, amount: int) -> str:
        """Repay variable debt out of what the user holds."""
        self.approve(user, market.pool, symbol)
        signature = "repay(address,uint256,uint256,address)"
        return self.send(user, market.pool, signature, self.world.tokens[symbol].address, amount, _VARIABLE, user)

    def use_as_collateral(self, market: Market, user: str, symbol: str, *, enabled: bool) -> str:
        """Toggle a supplied reserve as collateral."""
        signature = "setUserUseReserveAsCollateral(address,bool)"
        return self.send(user, market.pool, signature, self.world.tokens[symbol].address, enabled)

    def set_emode(self, market: Market, user: str, number: int) -> str:
        """Switch the user's e-mode."""
        return self.send(user, market.pool, "setUserEMode(uint8)", number)

    def transfer_a_token(self, market: Market, user: str, to: str, symbol: str, amount: int) -> str:
        """Transfer receipt tokens."""
        return self.send(user, market.reserves[symbol].a_token, "transfer(address,uint256)", to, amount)

    def liquidate(
        self,
        market: Market,
        liquidator: str,
        borrower: str,
        collateral: str,
        debt: str,
        amount: int = MAX_UINT256,
        *,
        receive_a_token: bool = False,
    ) -> str:
        """Liquidate out of what the liquidator holds."""
        self.approve(liquidator, market.pool, debt)
        return self.send(
            liquidator,
            market.pool,
            "liquidationCall(address,address,address,uint256,bool)",
            self.world.tokens[collateral].address,
            self.world.tokens[debt].address,
            borrower,
            amount,
            receive_a_token,
        )

    def open_position(
        self, market: Market, user: str, supplied: Mapping[str, int], borrowed: Mapping[str, int], emode: int = 0
    ) -> Address:
        """Fund, supply, choose the e-mode and borrow, in one block; returns the user."""
        with self.block():
            for symbol, amount in supplied.items():
                self.fund(user, symbol, amount)
                self.supply(market, user, symbol, amount)
            if emode:
                self.set_emode(market, user, emode)
            for symbol, amount in borrowed.items():
                self.borrow(market, user, symbol, amount)
        return Address(user)

    def standing(self, market: Market, user: str) -> Standing:
        """The user's account data at the newest block."""
        types = ",".join(["uint256"] * 6)
        return Standing(*self.rpc.view(market.pool, "getUserAccountData(address)", user, returns=types))

    def worth(self, symbol: str, usd: int) -> int:
        """Base units of a token worth so many dollars at its feed's present price."""
        return dollars(symbol, usd, {symbol: self.price(symbol)})
