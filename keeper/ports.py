"""The interfaces between the engine and what it is made of. Adapters satisfy them structurally."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from keeper.model import (
    Account,
    Address,
    Attempt,
    Block,
    Decision,
    FeeQuote,
    FlashOffer,
    Handle,
    Head,
    Hop,
    LiquidationSeen,
    Log,
    Order,
    Plan,
    Read,
    Route,
    Seizure,
    Signed,
    Simulation,
    Skip,
    Token,
    Uptime,
    Verdict,
    Watch,
)
from keeper.program import Amount, Guard, Step


class Client(Protocol):
    """What adapters may ask of the node. Every method may raise `Transient` or `BadData`."""

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        """One JSON-RPC request, raw result."""

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Several requests in one round trip; the first error in it is raised."""

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        """View calls pinned to `at.hash`, many in one request; None where the view reverted."""

    def logs(self, watch: Watch, first: int, last: int) -> Any:
        """Async iterator of (first, last, list[Log]) ranges, in order and without gaps, both ends included."""


class Mirror(Protocol):
    """Something that follows the chain by its logs and steps back when blocks are undone."""

    name: str

    @property
    def history_from(self) -> int | None:
        """First block whose logs must be replayed after `load`; None when the present state can simply be read."""

    @property
    def dirty(self) -> bool:
        """True when something must be re-read from the node before the mirror can be trusted at this head."""

    def watch(self) -> Watch:
        """The logs it lives on."""

    def reads(self) -> tuple[Read, ...]:
        """The views it needs at every head."""

    def apply(self, block: Block) -> None:
        """Advance by one block's logs; raises BadData when one cannot be understood."""

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take the answers to `reads()` made at `head`."""

    async def refresh(self, client: Client, head: Head) -> None:
        """Re-read at `head` whatever made it dirty."""

    def rewind(self, number: int) -> None:
        """Return to the state after block `number`; raises BadData when it no longer knows it."""

    async def load(self, client: Client, head: Head) -> None:
        """First contact: learn at `head` what to watch. History and `refresh` follow."""

    def replay(self, logs: Sequence[Log]) -> None:
        """Take a range of old logs, in order, without undo records."""

    def distrust(self, reason: str) -> None:
        """Become unknown until reloaded: nothing may be decided from this mirror."""

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        """Compare `sample` of what is mirrored with the chain's own view at `head`; a Skip names the first difference.

        A mirror that can re-read just what differed is `dirty` afterwards; any other has to be distrusted.
        """

    def snapshot(self) -> bytes:
        """Everything `restore` needs, for disk."""

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`; raises BadData when it is of another shape or deployment.

        May be called in a thread of its own, before the mirror follows anything.
        """


@runtime_checkable
class Freezable(Protocol):
    """A mirror whose snapshot can be made up in a thread while it goes on."""

    def freeze(self) -> Callable[[], bytes]:
        """What `snapshot` would answer now, still to be worked out."""


@runtime_checkable
class Tidied(Protocol):
    """A mirror that history leaves scattered in memory."""

    def tidy(self) -> None:
        """Lay it out anew. In a thread of its own, after a replay and before the mirror follows anything."""


class UptimeFeed(Protocol):
    """What tells whether the roll-up's sequencer runs."""

    def uptime(self, head: Head) -> Uptime:
        """At `head`; unknown at any other block than the one it was read at."""


class Pair(Protocol):
    """One (debt, collateral) choice of a liquidatable position, with the contract's exact rules behind it."""

    @property
    def debt(self) -> Token: ...
    @property
    def collateral(self) -> Token: ...
    @property
    def debt_price(self) -> int:
        """Base currency per whole token."""

    @property
    def collateral_price(self) -> int:
        """Base currency per whole token."""

    @property
    def bonus_bps(self) -> int:
        """Liquidation bonus over par, e.g. 500 for 5 %."""

    @property
    def feasible(self) -> tuple[tuple[int, int], ...]:
        """Closed intervals of repay amounts the contract accepts, ascending; dust rules are the gaps between them."""

    def seize(self, repay: int) -> Seizure:
        """Exactly what repaying `repay` moves."""

    def gas(self, repay: int) -> int:
        """Expected gas of the liquidation call itself, approvals included."""

    def budget(self, repay: int) -> int:
        """Debt asset to have at hand for `repay` if inclusion is a few blocks late."""

    def advance(self, repay: int) -> FlashOffer | None:
        """The budget as the protocol's own callback lends it: collateral first, `amount + premium` when it returns.

        Its source is `OWN_CALLBACK`. None where the debt asset is due at once.
        """

    @property
    def others(self) -> tuple[Address, ...]:
        """Further borrowers whom the same call liquidates."""


@dataclass(frozen=True, slots=True)
class Position:
    """A borrower as exact integers at one moment, ready to be planned for."""

    market: str  # the `label`: the book's name and the account's place
    account: Account
    head: Head
    timestamp: int
    base_unit: int  # 10 ** decimals of the base currency
    native_price: int | None  # base currency per whole wrapped native token, if the market lists it
    pairs: tuple[Pair, ...]
    refusals: tuple[Skip, ...] = ()  # why further pairs are not offered


@dataclass(frozen=True, slots=True)
class Liquidation:
    """How a protocol wants to be called: cheap guards, the steps, and the gas they are expected to take.

    `steps` pay with debt asset that the executor holds. `around(inner)` are the steps that run `inner` inside the
    protocol's own callback and pay then; None where `Pair.advance` is.
    """

    guards: tuple[Guard, ...]
    steps: tuple[Step, ...]
    gas: int
    around: Callable[[tuple[Step, ...]], tuple[Step, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a market may be acted on."""

    trusted: bool
    reason: str = ""


class Book(Mirror, Protocol):
    """A lending market mirrored in memory, exact to the wei."""

    @property
    def status(self) -> Status:
        """Trusted, or why not."""

    @property
    def base_unit(self) -> int:
        """One unit of the currency that values and prices are in."""

    @property
    def borrower_count(self) -> int:
        """Borrowers with debt."""

    @property
    def read_only(self) -> bool:
        """Positions are shown but never acted on: the market runs rules that are not known."""

    def tokens(self) -> tuple[Token, ...]:
        """Every asset of the market."""

    def screen(self, timestamp: int) -> Sequence[Handle]:
        """Positions that may be liquidatable at `timestamp`: possibly too many, never too few."""

    def handles(self, borrower: Address) -> tuple[Handle, ...]:
        """The borrower's positions; one, where a borrower can have no second, whether it is known or not."""

    def account(self, handle: Handle, timestamp: int) -> Account | None:
        """Exact health, or None for a position the market does not know."""

    def accounts(self, timestamp: int) -> Iterable[Account]:
        """Every position with debt."""

    def position(self, handle: Handle, timestamp: int, behind: Sequence[Plan] = ()) -> Position | None:
        """The exact position at `timestamp`; None when it is not liquidatable.

        With `behind`, other plans for this book, it is the position as they leave it when they run first in the block.
        """

    def liquidation(self, pair: Pair, borrower: Address, repay: int) -> Liquidation:
        """The executor steps for one pair and amount."""

    def near(self, timestamp: int, below: int, size: int, most: int) -> list[Account]:
        """Healthy borrowers under the health factor `below` (wad) with at least `size` of debt (base currency).

        At most `most` of them, the largest debts first.
        """

    def liquidation_watch(self) -> Watch:
        """Where the protocol says that somebody was liquidated."""

    def liquidations(self, logs: Sequence[Log]) -> tuple[LiquidationSeen, ...]:
        """What those of `logs` that match `liquidation_watch` tell; raises BadData when one cannot be understood."""


class Venue(Mirror, Protocol):
    """An AMM: it quotes exactly from local state and knows how to be traded with."""

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Sell `amount` (known now or on chain) through the hop's pool."""

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Buy `amount`; where its steps stand, `pay(owed)` must bring the input to the `payee`.

        A pool that lends hands the output to `recipient` before they run, any other afterwards.
        """

    def payee(self, hop: Hop) -> Address | None:
        """Who is to be paid for an `exact_out`; None: the executor, from where the venue's own steps take it."""

    def enclose(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Steps that run `steps`, which trade or borrow here, within whatever must be open meanwhile."""


class Quoter(Protocol):
    """Exact trades over all venues on one state of the pools. Pure."""

    def sell(
        self, token_in: Address, token_out: Address, amount_in: int, avoid: frozenset[Address] = ...
    ) -> Route | None:
        """Best split for selling exactly `amount_in`, by output less gas; None when nothing can take it all."""

    def buy(
        self, token_in: Address, token_out: Address, amount_out: int, avoid: frozenset[Address] = ...
    ) -> Route | None:
        """Best split for buying exactly `amount_out`, by input plus gas."""

    def after(self, route: Route) -> Quoter:
        """The same pools once `route` has been traded."""

    def spot(self, token_in: Address, token_out: Address) -> tuple[int, int] | None:
        """Marginal price before fees of the deepest path as (out, in) base units; None without a path."""


@runtime_checkable
class Requoter(Quoter, Protocol):
    """A quoter that can also keep a split: lets a plan weigh a purchase against the sale that follows it."""

    def again(self, route: Route) -> Route | None:
        """The same paths with the same fixed side (each path's input, or output if `exact_out`), exact on this state.

        None when a pool on the way cannot take or give that much.
        """


class FlashSource(Protocol):
    """Somebody who lends for the length of a callback."""

    name: str

    def offers(self, token: Address, amount: int) -> tuple[FlashOffer, ...]:
        """Loans it can make now, by live depth."""

    def borrow(self, offer: FlashOffer, inner: tuple[Step, ...]) -> tuple[Step, ...]:
        """Steps that take the loan, run `inner`, and pay back with premium."""


class Ledger(Protocol):
    """The durable record. Each method has committed when it returns; `Halt` means it could not.

    What is committed is on disk, but for `intend` and `sent`: these are with what is written next. A signature is on
    disk, and its intention with it, before anything is sent.
    """

    async def record_pass(self, head: Head, decisions: Sequence[Decision]) -> None:
        """Every liquidatable position of the pass at `head`, each exactly once."""

    async def intend(self, order: Order, signer: Address, nonce: int) -> Attempt:
        """Pin `nonce` for `order`, before anything is signed."""

    async def signed(self, attempt_id: str, tx: Signed) -> None:
        """Keep a signed transaction of the attempt, before it is sent."""

    async def resimulated(self, order: Order) -> None:
        """What is predicted for the attempt `order.id` from now on; its newest transaction is `order`'s."""

    async def sent(self, attempt_id: str, number: int) -> None:
        """An endpoint has taken the newest transaction at head `number`."""

    async def record(self, verdicts: Sequence[Verdict]) -> None:
        """Apply all of them or none."""

    async def spent(self, signer: Address) -> int:
        """Nonces of the signer below this are spent for good, by attempts that are closed; 0 when none is known."""

    async def unsettled(self) -> list[Attempt]:
        """Attempts not closed yet, by signer and nonce."""


class Synced(Protocol):
    """Where the mirrors stand after a step."""

    @property
    def head(self) -> Head: ...
    @property
    def undone(self) -> int:
        """Blocks that were reorganised away since the last step."""

    @property
    def behind(self) -> frozenset[str]:
        """Names of mirrors that are not at `head`: nothing may be decided from them."""


class Following(Protocol):
    """Keeps every mirror at the head it is given."""

    async def advance(self, head: Head) -> Synced:
        """Raises Transient when the node fails; no mirror is half-way then."""

    def distrust(self, name: str, reason: str) -> None:
        """Have a mirror rebuilt from the chain."""


class Fees(Protocol):
    """Prices of gas."""

    async def quote(self, head: Head) -> FeeQuote:
        """For the block after `head`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one transaction is to do: plans of one book, one after the other, each with how the market is called.

    `behind`: places of earlier jobs of the same list whose effects the plans count on.
    """

    items: tuple[tuple[Plan, Liquidation], ...]
    behind: tuple[int, ...] = ()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """In the order in which they run."""
        return tuple(plan for plan, _ in self.items)


@dataclass(frozen=True, slots=True)
class Proof:
    """A job as the node ran it: exactly one of `order` and `skip` is set.

    `behind`: places of the jobs that had run before it when it was simulated: it may be sent only after them.
    """

    job: Job
    simulation: Simulation | None = None
    order: Order | None = None
    skip: Skip | None = None
    behind: tuple[int, ...] = ()

    @property
    def gain(self) -> int:
        """Wei, as planned."""
        return sum(plan.gain for plan in self.job.plans)


class Prover(Protocol):
    """Runs the very transactions on the node; its results, not the plans', decide."""

    async def prove(self, jobs: Sequence[Job], head: Head, fees: FeeQuote) -> list[Proof]:
        """One proof per job, in order, in one round trip unless one that others count on turns out not to be worth it.

        A job that counts on another is run behind it in the same block; one whose predecessor fails stands if it
        succeeds without.
        """


@dataclass(frozen=True, slots=True)
class Renewal:
    """An attempt that is out, with what would take its place: of the same positions, with its id and nonce.

    The fees, wei per gas, are the least a node accepts in its place.
    """

    attempt_id: str
    job: Job
    least_max_fee: int
    least_tip: int


class Renewer(Protocol):
    """Proves replacements as a `Prover` proves new plans."""

    async def renew(self, jobs: Sequence[Renewal], head: Head, fees: FeeQuote) -> list[Proof]:
        """One proof per job, in order; its order has the attempt's id and at least the least fees."""


class Sent(Protocol):
    """What became of an order."""

    @property
    def attempt_id(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def refused(self) -> bool:
        """Nobody has it, and its nonce is free."""


class Submitter(Protocol):
    """The last step, dry or live."""

    @property
    def pending(self) -> int:
        """Attempts that may still be mined."""

    @property
    def keeps_order(self) -> bool:
        """Orders of one chain are mined in the order in which they were submitted, or not at all."""

    async def settle(self, head: Head) -> Sequence[Verdict]:
        """First of all at every head: what became of earlier attempts."""

    def in_flight(self, market: str, borrower: Address, head: Head) -> str | None:
        """The attempt that may still change this position."""

    async def submit(self, order: Order) -> Sent:
        """Take one order; raises Transient when nothing was written, Halt when nothing can be."""


class Safeguards(Protocol):
    """What stops sending: the operator's pause and the breakers."""

    @property
    def paused(self) -> bool:
        """By the operator."""

    @property
    def breaker(self) -> str | None:
        """Why breakers keep anything from being sent; None while all are closed."""

    async def settled(self, verdicts: Sequence[Verdict]) -> None:
        """Attempts have moved, and the ledger says so already."""

    async def audited(self, mirror: str, difference: Skip | None) -> None:
        """A mirror was compared with the chain."""

    def sending(self, order: Order, repaid: Mapping[Token, int]) -> AbstractAsyncContextManager[Skip | None]:
        """Around the submission of an order that repays these assets, in wei worth of each: why not, or None.

        Whoever pauses waits for it, so that nothing new goes out once a pause is confirmed.
        """


class Recorder(Protocol):
    """Where decisions go."""

    async def record_pass(self, head: Head, decisions: Sequence[Decision]) -> None:
        """Every liquidatable position of the pass, each exactly once; raises Halt when it cannot be written."""


class Alerter(Protocol):
    """Tells a person."""

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        """Never blocks and never raises."""
