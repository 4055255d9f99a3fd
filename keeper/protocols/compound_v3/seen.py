"""Liquidations that happened, as `AbsorbDebt` and `BuyCollateral` tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from keeper.model import Address, LiquidationSeen, Log, Token, address
from keeper.protocols.compound_v3.contract import ABSORB_DEBT, BUY_COLLATERAL, COMET, LIQUIDATIONS
from keeper.protocols.compound_v3.market import Market


@dataclass(frozen=True, slots=True)
class Witness:
    """What a book knows when it sees them. Prices are base currency per whole token by asset."""

    name: str
    market: Market
    prices: Mapping[Address, int | None]
    native: Address | None

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        """Purchases in a transaction that absorbs belong to its first borrower, others to the collateral on sale.

        An absorb without a purchase pays nothing and brings nothing: only base is stated, zero on both sides.
        """
        mine = [log for log in logs if log.topics[0] in LIQUIDATIONS]
        found: list[LiquidationSeen] = []
        for _, group in groupby(mine, key=lambda log: (log.block_number, log.tx_hash)):
            together = list(group)
            absorbs = [log for log in together if log.topics[0] == ABSORB_DEBT]
            bought = [log for log in together if log.topics[0] == BUY_COLLATERAL]
            first = address(COMET.parse("AbsorbDebt", absorbs[0])["borrower"]) if absorbs else None
            found += [self._absorb(log) for log in (absorbs[1:] if bought else absorbs)]
            found += [self._purchase(log, first) for log in bought]
        return tuple(found)

    def _absorb(self, log: Log) -> LiquidationSeen:
        told = COMET.parse("AbsorbDebt", log)
        base = self.market.base
        return self._seen(log, address(told["borrower"]), address(told["absorber"]), base, 0, 0)

    def _purchase(self, log: Log, borrower: Address | None) -> LiquidationSeen:
        told = COMET.parse("BuyCollateral", log)
        asset = address(told["asset"])
        listed = self.market.by_asset.get(asset)
        # An asset that is no longer listed has no price either, so its decimals are not used.
        token = Token(asset, asset[:10], 0) if listed is None else listed.token
        paid, bought = told["baseAmount"], told["collateralAmount"]
        return self._seen(log, borrower or asset, address(told["buyer"]), token, paid, bought)

    def _seen(
        self, log: Log, borrower: Address, liquidator: Address, collateral: Token, paid: int, bought: int
    ) -> LiquidationSeen:
        base = self.market.base
        return LiquidationSeen(
            market=self.name,
            borrower=borrower,
            liquidator=liquidator,
            debt=base,
            collateral=collateral,
            repaid=paid,
            seized=bought,
            block_number=log.block_number,
            log_index=log.log_index,
            tx_hash=log.tx_hash,
            debt_price=self.prices.get(base.address) or None,
            collateral_price=self.prices.get(collateral.address) or None,
            native_price=None if self.native is None else self.prices.get(self.native) or None,
        )
