"""Lido's wstETH: shares of stETH, whose transfers may deliver a unit or two less than they are told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from keeper.abi import interface
from keeper.model import Address, Hop, Read
from keeper.program import Amount, Approve, Call, Patch, Source, Step, Transfer, balance, literal
from keeper.venues.wrappers.mirror import RateMirror
from keeper.venues.wrappers.pool import Limits, RatePool

_SAMPLE = 10**33  # base units: large enough for its last digits to tell one formula from another
_LOST = 2  # base units of stETH that may be lost when it is passed on

# Lido's contracts stand behind proxies: their model in the tests takes less than half of this through the executor.
GAS_WRAP = 110_000
GAS_UNWRAP = 75_000


class StEthPool(RatePool):
    """`assets` are all pooled ether, `shares` all shares of stETH. Conversions change neither.

    stETH moves in whole shares, rounded down, and a balance is what its shares are worth, rounded down: what is said to
    come out of unwrapping is what the executor can pass on for certain.
    """

    __slots__ = ()
    gas_in, gas_out = GAS_WRAP, GAS_UNWRAP

    def unwrapped(self, shares: int) -> int:
        """``getStETHByWstETH``: what ``unwrap`` answers, and sends."""
        return shares * self.assets // self.shares

    def redeemed(self, shares: int) -> int:
        """The balance that ``unwrap`` leaves with an account that had none, less what passing it on may lose."""
        moved = self.unwrapped(shares) * self.shares // self.assets
        return max(self.unwrapped(moved) - _LOST, 0)

    def redeeming(self, assets: int) -> int:
        """wstETH of which at least `assets` can be passed on."""
        shares = -(-(assets + _LOST) * self.shares // self.assets)
        while self.redeemed(shares) < assets:
            shares += 1
        return shares

    def deposited(self, assets: int) -> int:
        """``getWstETHByStETH``: what ``wrap`` mints."""
        return assets * self.shares // self.assets

    def depositing(self, shares: int) -> int:
        """The least stETH for which ``wrap`` mints `shares`."""
        return -(-shares * self.assets // self.shares)

    def after(self, assets: int, shares: int) -> Self:
        """The rate stands."""
        return self


class WstEth(RateMirror[StEthPool]):
    """The contract `wrapper`, dealt with by `executor`."""

    version = "wsteth.1"

    def __init__(self, name: str, wrapper: Address, executor: Address) -> None:
        super().__init__(name, wrapper)
        self._executor = executor
        self._abi = interface("wsteth")

    # ------------------------------------------------------------------------------------------------------ legs

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Wrap or unwrap `amount`; what comes out is passed on whole where it is for somebody else."""
        known = amount.source is Source.LITERAL
        name = "unwrap" if hop.token_in == self.factory else "wrap"
        data = self._abi.encode(name, amount.value if known else 0)
        call = Call(self.factory, data, () if known else (Patch(4, amount),))
        steps: tuple[Step, ...] = (call,) if name == "unwrap" else (Approve(hop.token_in, self.factory, amount), call)
        if recipient == self._executor:
            return steps
        return (*steps, Transfer(hop.token_out, recipient, balance(hop.token_out)))

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Bring the quoted input to the executor and convert it.

        stETH is passed on whole: of exactly `amount` a unit or two would be missing. What is over of wstETH stays.
        """
        paid = literal(hop.amount_in)
        steps = (*pay(paid), *self.exact_in(hop, paid, self._executor))
        if recipient == self._executor:
            return steps
        unwraps = hop.token_in == self.factory
        return (*steps, Transfer(hop.token_out, recipient, balance(hop.token_out) if unwraps else amount))

    # ----------------------------------------------------------------------------------------------------- reads

    def reads(self) -> tuple[Read, ...]:
        """Totals of stETH and two conversions."""
        if self._asset is None:
            return ()
        totals = interface("steth")
        names = ("getTotalPooledEther", "getTotalShares")
        return (*(Read(self._asset, totals.encode(name)) for name in names), *self._samples(_SAMPLE))

    def _asset_read(self) -> Read:
        return Read(self.factory, self._abi.encode("stETH"))

    def _made(self, asset: Address, words: Sequence[int | None]) -> StEthPool | str:
        assets, shares, *samples = words
        if not assets or not shares:
            return "the totals of stETH cannot be read"
        # More than everything can never be converted.
        pool = StEthPool(self.name, self.factory, asset, assets, shares, Limits(shares, assets, assets, shares))
        if list(self._converted(pool, _SAMPLE)) != samples:
            return "it converts at another rate than stETH's totals"
        return pool

    def _samples(self, size: int) -> tuple[Read, ...]:
        return tuple(
            Read(self.factory, self._abi.encode(name, size)) for name in ("getStETHByWstETH", "getWstETHByStETH")
        )

    def _converted(self, pool: StEthPool, size: int) -> tuple[int, ...]:
        return pool.unwrapped(size), pool.deposited(size)
