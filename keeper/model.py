"""The frozen values that flow from a chain head to the journal.

Units: amounts are base units of their token; native amounts and fees are wei; health factors are wad (1e18);
prices are the market's base currency per *whole* token (scale stated by `Position.base_unit`); times are Unix seconds.
Addresses and hashes are lower-case ``0x`` strings inside the process; `checksum` is for what a person reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, TypeAlias

import msgspec
from eth_utils.address import is_hex_address, to_checksum_address

Address = NewType("Address", str)
Hash = NewType("Hash", str)
Handle: TypeAlias = str
"""What a book knows one position by: the borrower's address, and where one may have several "borrower/place"."""

ZERO_ADDRESS = Address("0x" + "00" * 20)
MAX_UINT256 = 2**256 - 1
WAD = 10**18


def address(value: str | bytes) -> Address:
    """Normalise 20 bytes or a hex string of any case; raises ValueError on anything else."""
    text = "0x" + value.hex() if isinstance(value, bytes) else value.lower()
    if not is_hex_address(text) or not text.startswith("0x"):
        raise ValueError(f"{value!r} is not an address")
    return Address(text)


def checksum(value: Address) -> str:
    """EIP-55 form, for people; the 32 bytes of a pool's id as they are."""
    return to_checksum_address(value) if is_hex_address(value) else value


@dataclass(frozen=True, slots=True)
class Token:
    """An ERC-20 as the keeper knows it."""

    address: Address
    symbol: str
    decimals: int


# ---------------------------------------------------------------------------------------------------- chain


@dataclass(frozen=True, slots=True)
class Head:
    """A block header; every read of a pass is made at `hash`."""

    number: int
    hash: Hash
    parent_hash: Hash
    timestamp: int
    base_fee: int
    gas_used: int = 0
    gas_limit: int = 30_000_000
    fee_recipient: Address | None = field(default=None, compare=False)  # who is paid for the block, where it was told

    def next_base_fee(self) -> int:
        """Base fee of the child block in wei, exact (EIP-1559, elasticity 2, denominator 8)."""
        target = self.gas_limit // 2
        if target == 0 or self.gas_used == target:
            return self.base_fee
        if self.gas_used > target:
            return self.base_fee + max(self.base_fee * (self.gas_used - target) // target // 8, 1)
        return self.base_fee - self.base_fee * (target - self.gas_used) // target // 8


@dataclass(frozen=True, slots=True)
class Uptime:
    """Whether a roll-up's sequencer runs, as far as it is known at one block."""

    up: bool | None  # None: nobody knows
    since: int = 0  # Unix seconds of the last change; 0 when nobody knows
    grace: int = 0  # seconds it has to have been up before anything is done
    unknown: str = ""  # why nobody knows


class Log(msgspec.Struct, frozen=True, gc=False):
    """One event. `topics[0]` is the signature hash; all topics are lower-case 0x hex of 32 bytes.

    A back-fill makes millions: as a dataclass each would take ten times as long to make, and the collector's time.
    """

    address: Address
    topics: tuple[str, ...]
    data: bytes
    block_number: int
    log_index: int
    tx_hash: Hash


@dataclass(frozen=True, slots=True)
class Block:
    """A header and the watched logs in it, in log-index order."""

    head: Head
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """What a mirror wants from `eth_getLogs`: any of these topic0 at any of these addresses.

    `indexed` are further positions: any of these words there, an empty set for any word. It only saves traffic: who
    answers may leave it out, who asks filters again.
    """

    addresses: frozenset[Address]
    topics: frozenset[str]
    indexed: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """A view call to be made at the pass's block."""

    to: Address
    data: bytes


# ------------------------------------------------------------------------------------------------ positions


@dataclass(frozen=True, slots=True)
class Seizure:
    """What one liquidation call moves, all in base units."""

    repaid: int  # debt asset the liquidator pays
    seized: int  # collateral asset the liquidator receives
    protocol_fee: int  # collateral asset that goes to the protocol


def handle(borrower: Address, place: str = "") -> Handle:
    """The handle of a borrower's position; `place` where one may have several."""
    return f"{borrower}/{place}" if place else borrower


def label(market: str, place: str = "") -> str:
    """What journal, reports and cooldowns know a market by: its name, and the place where there are several."""
    return f"{market}/{place}" if place else market


def market_of(name: str) -> str:
    """The configured name of the market in a `label`."""
    return name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Account:
    """A borrower's health at one moment, exactly as the protocol's own view states it."""

    borrower: Address
    health_factor: int  # wad; MAX_UINT256 without debt
    collateral_value: int  # base currency
    debt_value: int  # base currency
    place: str = ""  # which of the borrower's positions in the market, where one may have several

    @property
    def handle(self) -> Handle:
        """What the book knows the position by."""
        return handle(self.borrower, self.place)


@dataclass(frozen=True, slots=True)
class LiquidationSeen:
    """A liquidation that happened, as the protocol's own event tells it. Prices are the book's when it saw the event.

    Prices are base currency per whole token, `native_price` per whole wrapped native token; None where the book has
    none, or where the event is older than its prices.
    """

    market: str
    borrower: Address
    liquidator: Address  # whom the protocol dealt with: usually a contract, not who signed
    debt: Token
    collateral: Token
    repaid: int  # base units of debt
    seized: int  # base units of collateral that the liquidator received: the protocol's fee is not in it
    block_number: int
    log_index: int
    tx_hash: Hash
    debt_price: int | None = None
    collateral_price: int | None = None
    native_price: int | None = None

    @property
    def gross(self) -> int | None:
        """Value received less value repaid in wei, rounded down: before gas, slippage, loan fees and payments."""
        if self.debt_price is None or self.collateral_price is None or not self.native_price:
            return None
        debt_unit: int = 10**self.debt.decimals
        collateral_unit: int = 10**self.collateral.decimals
        value = self.seized * self.collateral_price * debt_unit - self.repaid * self.debt_price * collateral_unit
        return value * WAD // (debt_unit * collateral_unit * self.native_price)


class SkipReason(StrEnum):
    """Why a liquidatable position was not acted on. Each is a counter, a journal row and a line of `explain`."""

    UNPROFITABLE = "unprofitable"  # best plan does not pay for its gas
    PROFIT_FLOOR = "profit_floor"
    GAS_CEILING = "gas_ceiling"
    ORACLE_GAP = "oracle_gap"
    STALE_HEAD = "stale_head"
    EXPOSURE = "exposure"
    PROFIT_SANITY = "profit_sanity"
    MARKET_UNKNOWN = "market_unknown"
    MARKET_READ_ONLY = "market_read_only"
    NO_ROUTE = "no_route"
    NO_FLASH_SOURCE = "no_flash_source"
    NO_PAIR = "no_pair"  # paused, grace period, no seizable collateral…
    DUST_HOLE = "dust_hole"
    COLLATERAL_DRAINED = "collateral_drained"
    SIMULATION_REVERTED = "simulation_reverted"
    SIMULATION_SHORT = "simulation_short"  # ran, but earned less than the floor
    IN_FLIGHT = "in_flight"
    COOLDOWN = "cooldown"
    PAUSED = "paused"
    BREAKER_OPEN = "breaker_open"
    SEQUENCER = "sequencer"  # of the roll-up: down, or not up for long
    SUPERSEDED = "superseded"  # another plan of this pass took the liquidity or the key


class MissReason(StrEnum):
    """Why somebody else liquidated a position, where no `SkipReason` of ours says it."""

    LOST_RACE = "lost_race"  # an attempt of ours was out for it
    DRY_RUN = "dry_run"  # it would have been sent
    NOT_SEEN = "not_seen"  # it became liquidatable and was taken between two blocks we looked at
    NOT_WATCHING = "not_watching"  # no pass had been made: starting, or down


@dataclass(frozen=True, slots=True)
class Skip:
    """A position left alone, with the numbers that decided it."""

    reason: SkipReason
    detail: str  # one sentence with numbers and units
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """How one liquidatable position ended a pass: exactly one of `skip` and `attempt_id` is set."""

    market: str
    borrower: Address
    skip: Skip | None = None
    attempt_id: str | None = None


# --------------------------------------------------------------------------------------------------- routes


@dataclass(frozen=True, slots=True)
class Hop:
    """One pool trade inside a path, with its exact amounts on the state it was quoted on."""

    venue: str  # name of the venue that can encode it
    pool: Address  # or its 32-byte id, where pools live inside one contract
    token_in: Address
    token_out: Address
    amount_in: int
    amount_out: int
    lends: bool = True  # the pool hands its output out before it wants its input


@dataclass(frozen=True, slots=True)
class Path:
    """Hops in trading order: `hops[i].amount_out == hops[i + 1].amount_in`."""

    hops: tuple[Hop, ...]

    @property
    def amount_in(self) -> int:
        """Base units of the first token."""
        return self.hops[0].amount_in

    @property
    def amount_out(self) -> int:
        """Base units of the last token."""
        return self.hops[-1].amount_out


@dataclass(frozen=True, slots=True)
class Route:
    """One trade split over paths that share no pool; `exact_out` tells which side was fixed."""

    token_in: Address
    token_out: Address
    paths: tuple[Path, ...]
    gas: int
    exact_out: bool
    margin: float = field(default=0.0, compare=False, repr=False)  # in per out of one unit more; 0: unknown

    @property
    def amount_in(self) -> int:
        """Base units sold over all paths."""
        return sum(path.amount_in for path in self.paths)

    @property
    def amount_out(self) -> int:
        """Base units bought over all paths."""
        return sum(path.amount_out for path in self.paths)

    @property
    def pools(self) -> frozenset[Address]:
        """Every pool the route trades in."""
        return frozenset(hop.pool for path in self.paths for hop in path.hops)

    @property
    def prepaid(self) -> frozenset[Address]:
        """Pools that bring the last token only when they have been paid: with one, the route is no loan."""
        return frozenset(path.hops[-1].pool for path in self.paths if not path.hops[-1].lends)


OWN_CALLBACK = "own callback"
"""The flash source of a protocol that hands the collateral over first and is paid when its own callback returns."""


@dataclass(frozen=True, slots=True)
class FlashOffer:
    """A loan of `amount` of `token` for the length of a callback."""

    source: str  # name of the flash source that can encode it
    lender: Address
    token: Address
    amount: int
    premium: int  # base units of token, as the lender rounds
    gas: int
    locks: frozenset[Address] = frozenset()  # pools that cannot be traded in while the loan is open


# ---------------------------------------------------------------------------------------------------- plans


@dataclass(frozen=True, slots=True)
class FeeQuote:
    """EIP-1559 prices for the next block, in wei per gas."""

    base_fee: int
    tip: int
    data_fee: int = 0  # wei per transaction of usual size, charged beside the gas by some roll-ups

    @property
    def price(self) -> int:
        """What one unit of gas is expected to cost."""
        return self.base_fee + self.tip


@dataclass(frozen=True, slots=True)
class Plan:
    """The liquidation chosen for one position, with everything it predicts.

    `gain` is what the executor's balance of `profit_token` grows by, to the wei, when the plan runs at `timestamp` on
    the state it was made on. Let repaid, seized = `seizure.repaid`, `seizure.seized`; unspent = budget − repaid, which
    stays in the executor as debt token and is swept, so it is gain only where debt *is* the profit token (marked †).
    "rest" is collateral left over; when collateral is the profit token it is kept, otherwise `sell` (exact-in of all
    of it, quoted after `buy`) turns it into the profit token. A leg with nothing to trade is None.

    1. Flash swap (`loan` None, `buy` set): `buy` is exact-out of `budget`, collateral → debt. Its pools hand out the
       debt asset first, the liquidation runs, and they are paid `buy.amount_in` of the seized collateral; `sell` runs
       when all of them have been paid. rest = seized − buy.amount_in; gain = rest or sell.amount_out, + unspent †.
    2. Loan, two legs (`loan` and `buy` set): `buy` is exact-out of loan.amount + loan.premium, collateral → debt.
       rest = seized − buy.amount_in; gain as in 1.
    3. Loan, one leg (`loan` set, `buy` None, debt is the profit token, collateral is not debt): `sell` is exact-in of
       all seized collateral → debt; the loan is repaid from it. gain = sell.amount_out − repaid − premium
       (= sell.amount_out + unspent † − loan.amount − loan.premium).
    4. Loan, same asset (collateral is debt; `loan` set, `buy` None): the loan is repaid from what was seized.
       rest = seized − repaid − premium (the unspent part included, being the same token); gain = rest, or
       sell.amount_out with `sell` exact-in of rest.

    In every loan `loan.amount` is `budget`; one from `OWN_CALLBACK` is the liquidation call itself. `buy`, and the
    `sell` of 3, run while the loan is open and trade in no pool of `loan.locks`; any other `sell` runs when the loan is
    closed.
    """

    market: str
    borrower: Address
    head: Head
    timestamp: int  # the inclusion time the prediction is made for
    debt: Token
    collateral: Token
    repay: int  # base units of debt asset, at `timestamp`
    budget: int  # base units of debt asset funded; at least `repay`, more where interest may still accrue
    seizure: Seizure
    loan: FlashOffer | None
    buy: Route | None
    sell: Route | None
    profit_token: Address
    gain: int  # base units of profit_token left in the executor, before gas
    gas: int  # units, estimated
    fees: FeeQuote
    sanity_bound: int  # wei: bonus × repaid value, the most a true liquidation can earn
    health_factor: int  # wad, at `timestamp`
    others: tuple[Address, ...] = ()  # further borrowers of the market that the same liquidation takes

    @property
    def cost(self) -> int:
        """Wei spent on gas, and on data where that is charged for, as estimated."""
        return self.gas * self.fees.price + self.fees.data_fee

    @property
    def net(self) -> int:
        """Gain less gas, in wei."""
        return self.gain - self.cost


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the node said the very transaction would do at `head`."""

    head: Head
    ok: bool
    gain: int  # wei of profit token measured by the executor
    gas_used: int
    revert: str | None = None  # decoded reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """One evaluated way of liquidating a position, for `explain`."""

    debt: Token
    collateral: Token
    repay: int
    seized: int
    funding: str
    gain: int
    gas: int
    net: int
    note: str = ""


# ------------------------------------------------------------------------------------------------- attempts


class AttemptState(StrEnum):
    """Where an attempt stands; the last five are ends.

    An end that stems from a block can still be undone with that block: a reorganised receipt puts the attempt back to
    `SENT` until the journal *closes* it, which it does once the nonce is spent under enough confirmations.
    """

    INTENT = "intent"  # decided, nothing signed
    SIGNED = "signed"  # raw transaction stored, nothing sent
    SENT = "sent"  # handed to at least one endpoint
    MINED = "mined"
    REVERTED = "reverted"
    REPLACED = "replaced"  # another transaction of ours took the nonce
    DROPPED = "dropped"  # the nonce was used by something else, or the attempt was abandoned unsent
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Nothing more is to be done unless a reorganisation undoes it."""
        return self not in (AttemptState.INTENT, AttemptState.SIGNED, AttemptState.SENT)


@dataclass(frozen=True, slots=True)
class Order:
    """A simulated and priced liquidation, ready to be signed by whoever owns the nonce."""

    id: str  # 0x hex of 32 bytes; the settlement id the executor emits with its result
    market: str
    borrower: Address
    to: Address  # the executor
    data: bytes
    gas_limit: int
    max_fee: int  # wei per gas
    tip: int  # wei per gas
    head: Head  # what it was simulated on
    predicted_gain: int  # wei, from the simulation
    predicted_gas: int  # units, from the simulation
    predicted_net: int  # wei
    plan: Mapping[str, str | int] = field(default_factory=dict)  # what a report shows: tokens, amounts as decimal text
    others: tuple[tuple[str, Address], ...] = ()  # further positions that it takes: market and borrower
    chain: str = ""  # orders that have the same must be mined in order, so one key sends them

    @property
    def positions(self) -> tuple[tuple[str, Address], ...]:
        """Market and borrower of everything it takes."""
        return ((self.market, self.borrower), *self.others)


class TxKind(StrEnum):
    """What a signed transaction is for."""

    EXECUTE = "execute"  # the liquidation, or the same one at a higher fee
    CANCEL = "cancel"  # a self-transfer that takes its nonce
    DEPLOY = "deploy"  # the executor's creation and who may use it; not an attempt, so never journaled


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed EIP-1559 transaction. In a dry run `hash` is None and `raw` the payload that would have been signed."""

    kind: TxKind
    nonce: int
    hash: Hash | None
    raw: bytes
    gas_limit: int
    max_fee: int  # wei per gas
    tip: int  # wei per gas


@dataclass(frozen=True, slots=True)
class Attempt:
    """One transaction the keeper intends to land, as the journal holds it."""

    id: str
    market: str
    borrower: Address
    signer: Address
    nonce: int
    state: AttemptState
    created_at: int
    head_number: int  # the block it was simulated on
    to: Address = ZERO_ADDRESS
    txs: tuple[Signed, ...] = ()  # oldest first, all with `nonce`
    sent_number: int | None = None  # head at the last broadcast
    ended_number: int | None = None  # block of the receipt, or head at which the nonce was found spent
    ended_hash: Hash | None = None  # hash of the receipt's block
    detail: str = ""
    predicted_gain: int = 0  # wei
    predicted_gas: int = 0  # units
    predicted_net: int = 0  # wei
    others: tuple[tuple[str, Address], ...] = ()  # further positions that it takes: market and borrower

    @property
    def positions(self) -> tuple[tuple[str, Address], ...]:
        """Market and borrower of everything it takes."""
        return ((self.market, self.borrower), *self.others)

    @property
    def raw(self) -> bytes:
        """The newest signed transaction; empty before the first."""
        return self.txs[-1].raw if self.txs else b""

    @property
    def tx_hash(self) -> Hash | None:
        """Hash of the newest signed transaction."""
        return self.txs[-1].hash if self.txs else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, from the receipt."""

    attempt_id: str
    state: AttemptState
    tx_hash: Hash | None
    block_number: int | None
    gas_used: int
    gas_price: int  # wei per gas, effective
    gain: int  # wei received by the beneficiary
    revert: str | None = None
    block_hash: Hash | None = None
    reported_gain: int | None = None  # wei the executor's own event states
    data_fee: int = 0  # wei charged beside the gas

    @property
    def cost(self) -> int:
        """What gas and data really cost, wei."""
        return self.gas_used * self.gas_price + self.data_fee

    @property
    def net(self) -> int:
        """Gain less `cost`, wei."""
        return self.gain - self.cost


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the chain says about an attempt now; the journal applies the verdicts of one head atomically."""

    attempt_id: str
    state: AttemptState
    detail: str
    number: int | None = None  # block that decided it
    outcome: Outcome | None = None  # for an end with a receipt; None deletes an earlier one
    closed: bool = False  # final for good: enough confirmations, or nothing was ever signed
