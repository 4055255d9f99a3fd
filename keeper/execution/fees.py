"""What to offer for inclusion: the next block's base fee exactly, a tip by policy, and a cap tied to the profit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median_low

from eth_utils.crypto import keccak

from keeper.chain.wire import quantity
from keeper.errors import BadData
from keeper.execution.data_fees import FREE, DataCost, DataFee, NoDataFee
from keeper.execution.signer import Unsigned
from keeper.model import Address, FeeQuote, Head, TxKind
from keeper.ports import Client

BPS = 10_000


@dataclass(frozen=True, slots=True)
class FixedTip:
    """Always the policy's least tip."""


@dataclass(frozen=True, slots=True)
class PercentileTip:
    """What this percentile of the gas in recent blocks paid: the median over the blocks that had transactions."""

    percentile: int = 60
    blocks: int = 10


@dataclass(frozen=True, slots=True)
class ShareTip:
    """A share of what the simulation gains after the base fee, spread over the gas it used."""

    share_bps: int = 2_000


@dataclass(frozen=True, slots=True)
class CoinbaseTip:
    """Beside the least tip, the executor pays this share of what it gains to the block's producer, if it succeeds."""

    share_bps: int = 2_000


Tip = FixedTip | PercentileTip | ShareTip | CoinbaseTip


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """Fees in wei per gas.

    `spend_share_bps` is the most of the simulated gain that may ever be spent on gas; `headroom_blocks` the number of
    full blocks in a row after which the transaction can still be included, unless that share does not allow it.
    """

    tip: Tip
    min_tip: int
    max_tip: int
    max_fee: int
    spend_share_bps: int = 5_000
    headroom_blocks: int = 4

    @property
    def coinbase_bps(self) -> int:
        """The share of the measured gain that the executor pays to the block's producer."""
        return self.tip.share_bps if isinstance(self.tip, CoinbaseTip) else 0


@dataclass(frozen=True, slots=True)
class Bid:
    """The fee fields of a transaction: `gas_limit` units; the others wei per gas."""

    gas_limit: int
    max_fee: int
    tip: int

    @property
    def most(self) -> int:
        """Wei this transaction can cost at worst."""
        return self.gas_limit * self.max_fee


# A liquidation of usual size, for plans: bytes that do not compress, so that it rather costs too much than too little.
USUAL_CALLDATA = b"".join(keccak(bytes([number])) for number in range(56))
_USUAL = Unsigned(TxKind.EXECUTE, 1 << 16, Address("0x" + "ff" * 20), USUAL_CALLDATA, 1 << 21, 10**11, 10**9)


class FeeSource:
    """Fee quotes at a head. Asks the node only for the percentile policy and for data fees, once per head."""

    def __init__(self, client: Client, policy: FeePolicy, data: DataFee | None = None) -> None:
        self._client = client
        self._policy = policy
        self._data = data or NoDataFee()
        self._latest: tuple[Head, FeeQuote] | None = None

    async def quote(self, head: Head) -> FeeQuote:
        """The next block's base fee by the chain's rule, and the policy's tip. With `ShareTip` the tip is its least."""
        if self._latest is not None and self._latest[0] == head:
            return self._latest[1]
        tip = self._policy.min_tip
        if isinstance(self._policy.tip, PercentileTip):
            tip = min(max(tip, await self._recent(head, self._policy.tip)), self._policy.max_tip)
        data = (await self._data.price([_USUAL], head))[0]
        base = self._data.next_base_fee(head)
        quote = FeeQuote(base, tip, data.wei + data.gas * (base + tip))
        self._latest = (head, quote)
        return quote

    async def _recent(self, head: Head, policy: PercentileTip) -> int:
        answer = await self._client.request(
            "eth_feeHistory", [hex(policy.blocks), hex(head.number), [policy.percentile]]
        )
        try:
            filled = [
                quantity(reward[0], "a tip")
                for reward, ratio in zip(answer.get("reward") or (), answer["gasUsedRatio"], strict=False)
                if ratio > 0  # an empty block reports 0, which says nothing about what a tip is worth
            ]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BadData(f"the node's eth_feeHistory cannot be read ({error!r}): use another endpoint") from error
        return median_low(filled) if filled else 0


def gas_limit_up(gas_used: int) -> int:
    """A limit under which a transaction that *used* `gas_used` in simulation runs, rounded up.

    Refunds are paid back at the end only, and are at most a fifth of what was burnt (EIP-3529); every call keeps back
    a 64th (EIP-150); a tenth is added for storage that is warm, cold or zero otherwise than it was simulated.
    """
    burnt = -(-gas_used * 5 // 4)
    return -(-burnt * 64 * 11 // (63 * 10))


def highest_base_fee(base_fee: int, blocks: int) -> int:
    """The most the base fee can be `blocks` blocks later, in wei: each raises it by an eighth at most, or by one."""
    for _ in range(blocks):
        base_fee += max(base_fee // 8, 1)
    return base_fee


def bid(
    policy: FeePolicy, quote: FeeQuote, gain: int, gas_used: int, data: DataCost = FREE, least: Bid | None = None
) -> Bid | None:
    """The fee fields for a simulated gain of `gain` wei, or None when the allowed share cannot pay the base fee.

    Whatever happens, `Bid.most` ≤ `spendable`, without a coinbase payment `gain` × `spend_share_bps` / 10 000: a fee
    that leaves room for a rising base fee is cut down to that, and then waits instead of costing more. What `data`
    costs beside the gas, with a quarter more for a rising price, is spent from the same share. `least` is what has
    to be outbid: a fee that cannot be both that high and within the share is None too.
    """
    gas_limit = gas_limit_up(gas_used) + data_up(data.gas)
    if gain <= 0 or gas_limit <= 0:
        return None
    affordable = min((spendable(policy, gain) - data_up(data.wei)) // gas_limit, policy.max_fee)
    if affordable <= quote.base_fee:
        return None
    tip = quote.tip
    if isinstance(policy.tip, ShareTip):
        gas = gas_used + data.gas
        after_base = max(gain - data.wei - quote.base_fee * gas, 0)
        tip = min(max(after_base * policy.tip.share_bps // BPS // gas, policy.min_tip), policy.max_tip)
    if least is not None:
        tip = max(tip, least.tip)
    max_fee = min(highest_base_fee(quote.base_fee, policy.headroom_blocks) + tip, affordable)
    tip = min(tip, max_fee - quote.base_fee)
    if least is None:
        return Bid(gas_limit, max_fee, tip)
    max_fee, tip = max(max_fee, least.max_fee), max(tip, least.tip)
    return Bid(gas_limit, max_fee, tip) if tip <= max_fee <= affordable else None


def data_up(cost: int) -> int:
    """A cost of data with a quarter more, rounded up: its price may rise until inclusion."""
    return -(-cost * 5 // 4)


def spendable(policy: FeePolicy, gain: int) -> int:
    """Most wei for gas. `gain` is what is left after the coinbase payment, which counts as spent.

    ``Executor._settle`` pays floor(measured × bps / 10 000); the measured gain is at least what is computed here.
    """
    share = policy.coinbase_bps
    if share >= BPS:
        return 0
    measured = gain * BPS // (BPS - share)
    return max(measured * policy.spend_share_bps // BPS - (measured - gain), 0)


def paid(quote: FeeQuote, offer: Bid) -> FeeQuote:
    """What `offer` is expected to pay per gas in the next block."""
    return replace(quote, tip=min(offer.tip, offer.max_fee - quote.base_fee))


def bump_up(value: int, percent: int) -> int:
    """`value` raised by `percent`, rounded up and by at least one: what a node wants to see in a replacement."""
    return max(-(-value * (100 + percent) // 100), value + 1)
