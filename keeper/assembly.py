"""Configuration in, running objects out: the one place where everything meets."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import structlog
from eth_utils.crypto import keccak
from prometheus_client import CollectorRegistry

from keeper.chain.checkpoints import Checkpoints
from keeper.chain.client import NodeClient
from keeper.chain.follow import Follower
from keeper.chain.rebuild import Progress
from keeper.chain.sequencer import SequencerFeed
from keeper.compiled import ready
from keeper.config import Config
from keeper.config import schema as config_schema
from keeper.errors import BadData, ConfigError, Transient, Unreachable
from keeper.execution.bundles import PrivatePolicy
from keeper.execution.data_fees import data_fee
from keeper.execution.executor import state_override
from keeper.execution.fees import CoinbaseTip, FeePolicy, FeeSource, FixedTip, PercentileTip, ShareTip, Tip
from keeper.execution.foresight import Foresight
from keeper.execution.landed import Inquiry
from keeper.execution.lane import LanePolicy
from keeper.execution.offers import Offer
from keeper.execution.prove import ProofSettings, TransactionProver
from keeper.execution.relays import Relays, RelaySpec, ReputationKey, Tally
from keeper.execution.remote_signer import RemoteSigner
from keeper.execution.reverts import CLASSES
from keeper.execution.signer import LocalSigner, Signer, load_signer
from keeper.execution.simulate import Simulator, funded
from keeper.kinds import PROTOCOLS, VENUES, Surroundings, TradingVenue, check_words
from keeper.model import Address, FeeQuote, Head, address
from keeper.ops.alerts import LogAlerter
from keeper.ops.metrics import Metrics
from keeper.ops.vitals import Vitals
from keeper.ports import Book, FlashSource
from keeper.preflight import require
from keeper.rivals import Rivals
from keeper.search import PoolSearch
from keeper.strategy.breakers import BREAKERS
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.failures import classifier
from keeper.strategy.gates import Gates, GateSettings
from keeper.strategy.opportunity import Appraiser
from keeper.strategy.planner import Planner, PlannerSettings
from keeper.strategy.underway import Underway
from keeper.venues.router import Router

log = structlog.get_logger("keeper")

# Where the executor's code is put for dry runs while none is deployed, and who owns it then. Nobody has their keys.
DRY_EXECUTOR = address(keccak(text="keeper: executor of dry runs")[-20:])
DRY_OPERATOR = address(keccak(text="keeper: operator of dry runs")[-20:])
GATES = (
    "market_unknown", "market_read_only", "paused", "breaker", "sequencer", "stale_head", "in_flight", "under_way",
    "cooldown", "gas_ceiling", "oracle_gap", "profit_sanity", "exposure", "profit_floor",
)  # fmt: skip


@dataclass(slots=True)
class Assembly:
    """Everything of one process that does not depend on whether it sends."""

    config: Config
    mode: str  # dry or live
    client: NodeClient
    checkpoints: Checkpoints
    metrics: Metrics
    vitals: Vitals
    alerter: LogAlerter
    signers: tuple[Signer, ...]
    executor: Address
    books: list[Book]
    venues: list[TradingVenue]
    sources: dict[str, FlashSource]
    rivals: Rivals
    follower: Follower
    search: PoolSearch
    fee_policy: FeePolicy
    fees: FeeSource
    prover: TransactionProver
    foresight: Foresight
    appraiser: Appraiser
    _tokens: frozenset[Address] = field(default_factory=frozenset)
    _router: Router | None = None

    @property
    def block_time(self) -> int:
        """Usual seconds from a block to the one that what is sent now lands in, whole."""
        return whole_block_time(self.config)

    @property
    def signer(self) -> Signer | None:
        """The first key."""
        return self.signers[0] if self.signers else None

    @property
    def sender(self) -> Address:
        """Who sends, or would send."""
        return DRY_OPERATOR if self.signer is None else self.signer.address

    async def start(self) -> Head:
        """Find the markets, then their pools, and bring every mirror to the head.

        Raises ConfigError for a market that is none, Unreachable when the node does not give what is needed.
        """
        gc.freeze()  # what is loaded stays: to look through all of it again holds everything up for longer than a pass
        with _readable(self.config):
            head = await self.client.head()
            await asyncio.gather(*(book.load(self.client, head) for book in self.books))
            self._follow_tokens()
            gc.freeze()
            step = await self.follower.start(head)
        await self.follower.rebuilt()
        self._follow_tokens()
        if await self.search.finished():
            with _readable(self.config):
                step = await self.follower.advance(step.head)
        gc.freeze()
        gc.collect()  # of next to nothing: the collector forgets how much there was, and comes round in time
        self.vitals.synced = True
        return step.head

    def require_a_market(self) -> None:
        """Raise Unreachable when not one market could be read: the answer would be about nothing."""
        if not any(book.status.trusted or book.read_only for book in self.books):
            reasons = "; ".join(f"{book.name}: {book.status.reason}" for book in self.books)
            raise Unreachable(f"no market can be trusted ({reasons}): mend its start_block, or use another endpoint")

    def quoter(self, fees: FeeQuote, behind: frozenset[str]) -> Router:
        """The pools of every venue that is at the head, with gas at `fees`."""
        self._follow_tokens()
        usable = [venue for venue in self.venues if venue.name not in behind]
        if self._router is None:
            tokens = self.config.tokens
            through = (tokens.wrapped_native, *tokens.connectors)
            self._router = Router(usable, through, native=tokens.wrapped_native, gas_price=fees.price)
        else:
            self._router = self._router.renewed(usable, fees.price)
        return self._router

    def _follow_tokens(self) -> None:
        """Tell the venues which tokens matter, and have the pools of new ones looked for."""
        listed = chain.from_iterable(book.tokens() for book in self.books)
        configured = self.config.tokens
        tokens = frozenset({t.address for t in listed} | {configured.wrapped_native, *configured.connectors})
        if not tokens <= self._tokens:
            self._tokens |= tokens
            for venue in self.venues:
                venue.follow(self._tokens)
        self.search.start()


@contextmanager
def _readable(config: Config) -> Iterator[None]:
    """Say what to change when a node that answers does not give what is needed to begin."""
    try:
        yield
    except (Transient, BadData) as error:
        start = min(table.start_block for table in config.markets.values())
        raise Unreachable(
            f"the chain cannot be read: {error}; put an endpoint into chain.endpoints that serves recent state and "
            f"logs from block {start} on"
        ) from error


@asynccontextmanager
async def assemble(config: Config, *, live: bool, watching: bool = False) -> AsyncIterator[Assembly]:
    """Build and connect; everything is closed on leaving. Raises ConfigError, Unreachable.

    `watching` also follows who liquidates whom, for a caller that writes it down.
    """
    check_words(config)
    if live and config.executor.address is None:
        raise ConfigError("no executor is configured: run `keeper deploy` and set executor.address before --live")
    if live and not config.every_signer:
        raise ConfigError("no key is configured: set signer.keystore (or a private key) before --live")
    mode = "live" if live else "dry"
    chain_ = config.chain
    client = NodeClient.connect(
        [endpoint.reveal() for endpoint in chain_.endpoints],
        chain_id=chain_.id,
        timeout=chain_.request_timeout,
        max_lag=chain_.max_block_lag,
        max_age=chain_.max_head_age,
        log_range=chain_.log_range,
    )
    checkpoints = await Checkpoints.open(cache_path(config), chain_.id)
    try:
        async with client, open_signers(config) as signers:
            assembly = _wire(config, mode, client, checkpoints, signers, watching=watching)
            await asyncio.to_thread(ready)
            with _readable(config):
                await require(config, client, await client.head(), assembly.sender)
            try:
                yield assembly
            finally:
                await assembly.search.close()
                await assembly.follower.close()
    finally:
        await checkpoints.close()


def whole_block_time(config: Config) -> int:
    """Seconds, at least one: where blocks are quicker than the seconds their timestamps count, the next one's may be
    the same, but nothing that is sent now is in that one.
    """
    return max(1, round(config.chain.block_time))


def lateness(config: Config) -> int:
    """Whole seconds, rounded up, that the blocks take which a liquidation may land late."""
    return ceil(config.chain.block_time * config.strategy.inclusion_slack)


def cache_path(config: Config) -> Path:
    """Where the snapshots of the mirrors are kept."""
    return config.data_dir / "mirrors.sqlite3"


@asynccontextmanager
async def open_signers(config: Config) -> AsyncIterator[tuple[Signer, ...]]:
    """Every configured key, the first one first; raises ConfigError without repeating any of them."""
    async with AsyncExitStack() as open_:
        found: list[Signer] = []
        for table in config.every_signer:
            signer = await _open_signer(config, table)
            open_.push_async_callback(signer.close)
            found.append(signer)
        yield tuple(found)


async def _open_signer(config: Config, table: config_schema.Signer) -> LocalSigner | RemoteSigner:
    if table.remote_url is not None and table.address is not None:
        return RemoteSigner(table.remote_url, table.address, config.chain.id, table.timeout)
    return await asyncio.to_thread(
        load_signer,
        config.chain.id,
        keystore=table.keystore,
        password=table.password,
        private_key=table.private_key,
    )


def private_relays(config: Config, tally: Tally | None = None) -> Relays:
    """The configured relays, not opened yet, counted by `tally`. Raises ConfigError when the signing key is none."""
    table = config.private
    specs = [RelaySpec(name, r.url, Offer(r.offer), r.simulate) for name, r in config.relays.items()]
    return Relays(specs, ReputationKey(table.signing_key), timeout=table.timeout, tally=tally)


def private_policy(config: Config) -> PrivatePolicy:
    """For how long relays are asked: not beyond the executor's own deadline."""
    return PrivatePolicy(blocks=config.strategy.inclusion_slack + 1, public_after=config.private.public_after)


def fee_policy(config: Config) -> FeePolicy:
    """The strategy's tip and fee limits."""
    table = config.strategy
    tips: dict[str, Tip] = {
        "fixed": FixedTip(),
        "percentile": PercentileTip(table.tip_percentile),
        "share": ShareTip(table.tip_share_bps),
        "coinbase": CoinbaseTip(table.tip_share_bps),
    }
    return FeePolicy(
        tip=tips[table.tip_policy],
        min_tip=table.tip,
        max_tip=table.max_tip,
        max_fee=table.max_gas_price,
        spend_share_bps=table.max_fee_share_bps,
        headroom_blocks=config.strategy.inclusion_slack + 1,
    )


def lane_policy(config: Config) -> LanePolicy:
    """When to give up and how to replace. Its blocks are at least a second each, so that quick ones count by several.

    Where data is charged as gas, a self-transfer takes as much of it as its bytes cost; what is left over is not paid.
    """
    usual = LanePolicy(max_fee=config.strategy.max_gas_price, min_tip=config.strategy.tip)
    pace = max(1, ceil(1 / config.chain.block_time))
    return replace(
        usual,
        max_age=usual.max_age * pace,
        rebroadcast_every=usual.rebroadcast_every * pace,
        bump_every=usual.bump_every * pace,
        cancel_gas=2_000_000 if config.chain.data_fee == "arbitrum" else usual.cancel_gas,
    )


def _wire(
    config: Config,
    mode: str,
    client: NodeClient,
    checkpoints: Checkpoints,
    signers: tuple[Signer, ...],
    *,
    watching: bool,
) -> Assembly:
    table, native = config.strategy, config.tokens.wrapped_native
    block_time, late = whole_block_time(config), lateness(config)
    markets = {name: market.protocol for name, market in config.markets.items()}
    registry = CollectorRegistry()
    metrics = Metrics(
        registry,
        version=version("keeper"),
        mode=mode,
        markets=markets,
        gates=GATES,
        breakers=BREAKERS,
        providers=[endpoint.label for endpoint in client.pool.endpoints],
        stats=client.stats,
    )
    vitals = Vitals(
        version=version("keeper"),
        mode=mode,
        chain_id=config.chain.id,
        max_loop_age=max(config.chain.max_head_age, 10 * config.chain.block_time) + config.chain.request_timeout,
        max_head_age=config.chain.max_head_age,
    )
    alerter = LogAlerter(log, metrics, repeat_after=config.alerts.dedupe_window)
    executor = config.executor.address or DRY_EXECUTOR
    around = Surroundings(
        executor=executor,
        wrapped_native=native,
        alerter=alerter,
        slack_seconds=late,
        undo_depth=config.chain.max_reorg_depth,
    )
    books: list[Book] = []
    venues: list[TradingVenue] = []
    sources: list[FlashSource] = []
    for name, market in config.markets.items():
        book, lends = PROTOCOLS[market.protocol](name, market, around)
        books.append(book)
        sources += lends
    for name, place in config.venues.items():
        venue, lends = VENUES[place.kind](name, place, around)
        venues.append(venue)
        sources += lends
    policy = fee_policy(config)
    data = data_fee(config.chain.data_fee, client, config.chain.id)
    prover = TransactionProver(
        _simulator(config, client, executor, signers[0] if signers else None, mode),
        policy,
        {venue.name: venue for venue in venues},
        {source.name: source for source in sources},
        ProofSettings(
            executor=executor,
            wrapped_native=native,
            min_net=table.profit_floor,
            slippage_bps=table.max_slippage_bps,
            block_time=block_time,
            lateness=late,
        ),
        data_fee=data,
    )
    gates = GateSettings(
        min_net=table.profit_floor,
        max_gas_price=table.max_gas_price,
        max_oracle_gap_bps=table.max_oracle_gap_bps,
        max_head_age=round(config.chain.max_head_age),
        max_exposure=table.max_exposure,
        sanity_bps=table.profit_sanity_bps,
    )
    feed = config.chain.sequencer_feed
    sequencer = None if feed is None else SequencerFeed(feed, round(config.chain.sequencer_grace), alerter)
    rivals = Rivals(books, Inquiry(client), mode, lambda reason: metrics.missed.labels(reason).inc())
    follower = Follower(
        client,
        [*books, *venues, *([rivals] if watching else ()), *([sequencer] if sequencer else ())],
        checkpoints,
        alerter,
        undo=config.chain.max_reorg_depth,
        checkpoint_every=config.data.snapshot_every,
        progress=_progress(vitals),
    )
    return Assembly(
        config=config,
        mode=mode,
        client=client,
        checkpoints=checkpoints,
        metrics=metrics,
        vitals=vitals,
        alerter=alerter,
        signers=signers,
        executor=executor,
        books=books,
        venues=venues,
        sources={source.name: source for source in sources},
        rivals=rivals,
        follower=follower,
        search=PoolSearch(client, venues, follower.distrust),
        fee_policy=policy,
        fees=FeeSource(client, policy, data),
        prover=prover,
        foresight=Foresight(client, *_pretence(config, executor, signers[0] if signers else None, mode)),
        appraiser=Appraiser(
            Planner(PlannerSettings(native)),
            Gates(gates),
            Cooldowns(round(table.cooldown), classifier(CLASSES), block_time=block_time),
            tuple(sources),
            sequencer,
            Underway() if mode == "live" else None,
        ),
    )


def _simulator(config: Config, client: NodeClient, executor: Address, signer: Signer | None, mode: str) -> Simulator:
    return Simulator(client, executor, *_pretence(config, executor, signer, mode))


def _pretence(
    config: Config, executor: Address, signer: Signer | None, mode: str
) -> tuple[Address, dict[Address, dict[str, Any]]]:
    """Who sends, and the state override. Live: nothing is pretended. Dry: the sender can pay, and an executor of ours
    is there in any case.
    """
    sender = DRY_OPERATOR if signer is None else signer.address
    overrides: dict[Address, dict[str, Any]] = {}
    if mode == "dry":
        overrides |= funded(sender)
        if config.executor.address is None or signer is None:
            overrides[executor] = state_override(executor, sender, sender)[executor]
    return sender, overrides


def _progress(vitals: Vitals) -> Callable[[Progress], None]:
    """Tell the operator how far a back-fill is, at most every few seconds."""
    said: dict[str, float] = {}

    def tell(at: Progress) -> None:
        vitals.beat()
        vitals.sync_progress = (
            f"{at.name}: block {at.at} of {at.last} ({at.percent:.1f} %), {at.logs} logs,"
            f" {at.blocks_per_second:.0f} blocks/s, about {at.eta:.0f} s left"
        )
        now = time.monotonic()
        if now - said.get(at.name, -60.0) >= 5.0 or at.at >= at.last:
            said[at.name] = now
            log.info("backfill", mirror=at.name, progress=vitals.sync_progress)

    return tell
