"""ERC-4626 vaults: shares deposited for and redeemed at the vault's own rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Self

from keeper.abi import interface
from keeper.model import Address, Hop, Read
from keeper.program import Amount, Approve, Call, Patch, Source, Step, balance, literal
from keeper.venues.wrappers.mirror import RateMirror
from keeper.venues.wrappers.pool import Limits, RatePool

_SAMPLE = 10**33  # base units: large enough to tell one formula from another by its last digits
# What implementations add to (shares, assets) before they divide: OpenZeppelin 10^offset and 1, others nothing.
_VIRTUAL = (*((10**offset, 1) for offset in range(19)), (0, 0))
_PREVIEWS = ("previewRedeem", "previewWithdraw", "previewDeposit", "previewMint")

# Measured through the executor on a vault of OpenZeppelin's: the call with both transfers, and an approval to deposit.
GAS_REDEEM = 45_000
GAS_DEPOSIT = 53_000


class VaultPool(RatePool):
    """``ERC4626``: out rounded down, in rounded up; `assets` and `shares` with what the vault adds to them."""

    __slots__ = ()
    gas_in, gas_out = GAS_DEPOSIT, GAS_REDEEM

    def redeemed(self, shares: int) -> int:
        """``previewRedeem``."""
        return shares * self.assets // self.shares

    def redeeming(self, assets: int) -> int:
        """``previewWithdraw``."""
        return -(-assets * self.shares // self.assets)

    def deposited(self, assets: int) -> int:
        """``previewDeposit``."""
        return assets * self.shares // self.assets

    def depositing(self, shares: int) -> int:
        """``previewMint``."""
        return -(-shares * self.assets // self.shares)

    def after(self, assets: int, shares: int) -> Self:
        """Totals and what is left to convert."""
        redeem, withdraw, deposit, mint = self.limits
        left = Limits(redeem + shares, withdraw + assets, deposit - assets, mint - shares)
        totals = self.assets + assets, self.shares + shares
        return self.__class__(self.venue, self.share, self.asset, *totals, left)


class Erc4626(RateMirror[VaultPool]):
    """The vault `wrapper`, dealt with by `executor`.

    What it lets one of `holders` redeem it is taken to let anybody. Without holders, what it has at hand of its asset
    is the limit.
    """

    version = "erc4626.1"

    def __init__(self, name: str, wrapper: Address, executor: Address, holders: Iterable[Address] = ()) -> None:
        super().__init__(name, wrapper)
        self._executor = executor
        self._holders = tuple(holders)
        self._abi = interface("erc4626")

    # ------------------------------------------------------------------------------------------------------ legs

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Redeem or deposit `amount`."""
        if hop.token_in == self.factory:
            return (self._call("redeem", amount, recipient, self._executor),)
        return Approve(hop.token_in, self.factory, amount), self._call("deposit", amount, recipient)

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Bring the quoted input to the executor, and withdraw or mint `amount`."""
        brought = pay(literal(hop.amount_in))
        if hop.token_in == self.factory:
            return (*brought, self._call("withdraw", amount, recipient, self._executor))
        approval = Approve(hop.token_in, self.factory, balance(hop.token_in))
        return (*brought, approval, self._call("mint", amount, recipient))

    def _call(self, name: str, amount: Amount, *parties: Address) -> Call:
        known = amount.source is Source.LITERAL
        data = self._abi.encode(name, amount.value if known else 0, *parties)
        return Call(self.factory, data, () if known else (Patch(4, amount),))

    # ----------------------------------------------------------------------------------------------------- reads

    def reads(self) -> tuple[Read, ...]:
        """Totals, limits and four previews."""
        at_hand = () if self._asset is None else (self._read_at(self._asset, "balanceOf", self.factory),)
        return (
            *(self._read(name) for name in ("totalAssets", "totalSupply")),
            *self._samples(_SAMPLE),
            *(self._read(name, self._executor) for name in ("maxDeposit", "maxMint")),
            *(self._read(name, holder) for name in ("maxRedeem", "maxWithdraw") for holder in self._holders),
            *at_hand,
        )

    def _asset_read(self) -> Read:
        return self._read("asset")

    def _made(self, asset: Address, words: Sequence[int | None]) -> VaultPool | str:
        assets, shares, *rest = words
        previews, (deposit, mint), limits, at_hand = rest[:4], rest[4:6], rest[6:-1], rest[-1] or 0
        if assets is None or shares is None or None in previews:
            return "its totals or previews cannot be read"
        for more_shares, more_assets in _VIRTUAL:
            totals = assets + more_assets, shares + more_shares
            if 0 in totals:
                continue
            redeem, withdraw = self._most(limits, at_hand * totals[1] // totals[0], at_hand)
            most = Limits(min(redeem, shares), withdraw, deposit or 0, mint or 0)
            pool = VaultPool(self.name, self.factory, asset, *totals, most)
            if list(self._converted(pool, _SAMPLE)) == previews:
                return pool
        return "it charges for conversions, or rounds them in a way of its own"

    def _most(self, limits: Sequence[int | None], shares: int, assets: int) -> tuple[int, int]:
        """What can be redeemed and withdrawn, from what holders may or else from what is at hand."""
        count = len(self._holders)
        if not count:
            return shares, assets
        return max(most or 0 for most in limits[:count]), max(most or 0 for most in limits[count:])

    def _samples(self, size: int) -> tuple[Read, ...]:
        return tuple(self._read(name, size) for name in _PREVIEWS)

    def _converted(self, pool: VaultPool, size: int) -> tuple[int, ...]:
        return pool.redeemed(size), pool.redeeming(size), pool.deposited(size), pool.depositing(size)

    def _read(self, name: str, *args: int | str) -> Read:
        return self._read_at(self.factory, name, *args)

    def _read_at(self, where: Address, name: str, *args: int | str) -> Read:
        return Read(where, self._abi.encode(name, *args))
