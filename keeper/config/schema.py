"""Everything that can be configured, in one frozen schema. The descriptions are the help of `keeper config schema`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from keeper import model
from keeper.config.values import (
    Address,
    Addresses,
    Bps,
    Channels,
    File,
    HealthFactor,
    Hidden,
    Port,
    Seconds,
    Url,
    Urls,
    Wei,
    Whole,
    Word,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$")]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Section(BaseModel):
    """Base of every table: frozen, and a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


class Chain(Section):
    """The chain and the nodes it is read through."""

    id: Whole = Field(gt=0, description="Chain id; every endpoint must answer with it.")
    endpoints: Urls = Field(
        description="Nodes in order of preference: ws(s)://, http(s):// or an .ipc path. Shown masked."
    )
    endpoints_file: File | None = Field(
        None, description="File with the endpoints, one per line, instead of `endpoints`."
    )
    block_time: Seconds = Field(12.0, gt=0, description="Usual time between two blocks.")
    max_head_age: Seconds = Field(60.0, gt=0, description="Nothing is sent while the newest block is older than this.")
    max_block_lag: Whole = Field(3, description="An endpoint this many blocks behind the best one is not read from.")
    request_timeout: Seconds = Field(
        15.0, gt=0, description="An endpoint that has not answered by then is left for the next."
    )
    poll_interval: Seconds = Field(1.0, gt=0, description="How often an HTTP endpoint is asked for a new block.")
    log_range: Whole = Field(
        10_000, gt=0, description="Most blocks asked for in one eth_getLogs; a node that refuses is asked for fewer."
    )
    max_reorg_depth: Whole = Field(
        64, gt=0, description="Blocks that can be undone in memory; deeper ones cause a reload."
    )
    data_fee: Literal["none", "op", "arbitrum"] = Field(
        "none", description="How a roll-up charges for data: `op` (OP stack), `arbitrum`, or `none`."
    )
    sequencer_feed: Address | None = Field(
        None,
        description="Chainlink's L2 sequencer uptime feed (its proxy); nothing is sent while it is down or unknown.",
    )
    sequencer_grace: Seconds = Field(
        3600.0, description="How long the sequencer must have been up, by that feed, before anything is sent."
    )


class Data(Section):
    """What is kept on disk."""

    dir: File = Field(
        Path("~/.keeper"),
        validate_default=True,
        description="Folder of journal and cache; each chain gets a sub-folder of its own.",
    )
    snapshot_every: Whole = Field(100, gt=0, description="Blocks between two snapshots of the mirrored state.")


class Tokens(Section):
    """Tokens that matter to every market."""

    wrapped_native: Address = Field(description="The wrapped native token (WETH): what profit is measured in.")
    connectors: Addresses = Field((), description="Tokens a route may pass through, besides the wrapped native one.")


class Market(Section):
    """A lending market. `protocol` says how it works; one address is enough to find everything else."""

    protocol: Word = Field(description="How the market works, for example `aave_v3`.")
    address: Address = Field(
        description="The contract from which all others are found: Aave's PoolAddressesProvider, Morpho, a Comet."
    )
    start_block: Whole = Field(description="Block the market was deployed in; events are read from there.")
    further: Addresses = Field(
        (), description="Further contracts of the protocol, where its kind knows any (Morpho: PreLiquidationFactory)."
    )


class Venue(Section):
    """A place to trade. `kind` says how it works; its pools are found from its address."""

    kind: Word = Field(description="How the venue works, for example `uniswap_v3`.")
    address: Address = Field(
        description="The contract that created its pools, or holds them: a factory, V4's PoolManager, Balancer's Vault."
    )
    start_block: Whole = Field(description="Block that contract was deployed in.")
    creators: Addresses = Field((), description="Balancer: the weighted-pool factories whose pools are traded.")
    holders: Addresses = Field(
        (),
        description="ERC-4626: accounts that hold shares, such as a market's collateral token; what they may redeem is "
        "the limit.",
    )
    fee_bps: Bps | None = Field(
        None, lt=10_000, description="Swap fee where the pools do not state it (forks); unset: the kind's own."
    )


class Executor(Section):
    """The contract that carries out liquidations."""

    address: Address | None = Field(
        None, description="Deployed executor; unset: dry runs inject its code, live runs refuse."
    )


class Signer(Section):
    """A key that sends: a keystore, a private key, or a remote signer. Dry runs need none."""

    keystore: File | None = Field(None, description="Encrypted JSON keystore file.")
    password: Hidden | None = Field(None, description="Keystore password (environment only).")
    password_file: File | None = Field(None, description="File with the keystore password, instead of `password`.")
    private_key: Hidden | None = Field(None, description="Private key (environment only); a keystore is safer.")
    private_key_file: File | None = Field(None, description="File with the private key, instead of `private_key`.")
    remote_url: Url | None = Field(
        None, description="Signer that holds the key and speaks eth_signTransaction, as Web3Signer. Shown masked."
    )
    remote_url_file: File | None = Field(None, description="File with that URL, instead of `remote_url`.")
    address: Address | None = Field(None, description="The address the remote signer signs for.")
    timeout: Seconds = Field(
        5.0, gt=0, description="A remote signer that has not answered by then is asked again later."
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.keystore is not None and self.private_key is not None:
            raise ValueError("keystore and private_key are both set: keep one")
        if self.remote_url is not None and (self.keystore is not None or self.private_key is not None):
            raise ValueError("remote_url and a key are both set: keep one")
        if self.remote_url is not None and self.remote_url.kind not in ("http", "https"):
            raise ValueError("remote_url must start with http:// or https://")
        if (self.remote_url is None) != (self.address is None):
            raise ValueError("remote_url and address belong together: set both, or neither")
        if self.password is not None and self.keystore is None:
            raise ValueError("password is set without a keystore: set keystore too, or remove it")
        return self

    @property
    def present(self) -> bool:
        """A key is configured (it may still be locked)."""
        return not (self.keystore is None and self.private_key is None and self.remote_url is None)


class Strategy(Section):
    """What is worth doing, and what it may cost."""

    profit_floor: Wei = Field(10**16, description="Least net profit, after gas, that is worth sending for.")
    max_gas_price: Wei = Field(
        300 * 10**9, gt=0, description="Nothing is sent while gas costs more than this per unit."
    )
    max_exposure: Wei = Field(
        1_000 * 10**18, gt=0, description="Most debt, valued in the native token, repaid in one attempt."
    )
    max_oracle_gap_bps: Bps = Field(500, description="Most the protocol's price may differ from the pools' price.")
    profit_sanity_bps: Bps = Field(
        20_000, gt=0, description="Most a plan may earn, as a share of bonus x debt; more is a broken price, not luck."
    )
    tip_policy: Literal["fixed", "percentile", "share", "coinbase"] = Field(
        "percentile",
        description="`fixed` tip, `percentile` of recent blocks' tips, `share` of the simulated gain, or the least tip "
        "and a share of the gain paid by the executor to the `coinbase` (needs relays).",
    )
    tip: Wei = Field(10**9, description="Priority fee per gas with `fixed`; the least one with the other policies.")
    max_tip: Wei = Field(50 * 10**9, description="Most priority fee per gas, whatever the policy.")
    tip_percentile: Whole = Field(60, le=100, description="Percentile of recent tips with `percentile`.")
    tip_share_bps: Bps = Field(2_000, le=10_000, description="Share of the gain offered with `share` or `coinbase`.")
    max_fee_share_bps: Bps = Field(5_000, le=10_000, description="Most of the simulated gain that may be spent on gas.")
    max_slippage_bps: Bps = Field(
        100, le=10_000, description="Most of the planned gain that may be lost until inclusion, enforced on chain."
    )
    inclusion_slack: Whole = Field(
        3, description="Blocks an attempt may land late and still have enough budget for interest."
    )
    cooldown: Seconds = Field(60.0, description="A borrower is left alone this long after a failed attempt.")
    renewals: Whole = Field(
        64, description="Plans made anew per block because better ones move their pools; what needs more waits."
    )
    renewal_time: Seconds = Field(
        0.5,
        description="How long a pass may make plans anew, at most an eighth of a block; then it sends what it has.",
    )
    batch_items: Whole = Field(
        4, gt=0, description="Most liquidations of one market in a transaction; 1: each has a transaction of its own."
    )
    batch_risk_bps: Bps = Field(
        200,
        le=10_000,
        description="How often one liquidation of several in a transaction makes all fail; sharing must save more gas.",
    )


class Relay(Section):
    """A private relay or builder. As soon as one is configured, liquidations go to relays only."""

    url: Url = Field(description="Where it takes JSON-RPC: http(s)://. Shown masked.")
    offer: Literal["bundle", "transaction", "mev_share"] = Field(
        "bundle",
        description="What it takes: `bundle` (eth_sendBundle), `transaction` (eth_sendPrivateTransaction) or "
        "`mev_share` (mev_sendBundle).",
    )
    simulate: bool = Field(
        default=False,
        description="Ask it to simulate first (eth_callBundle, where offered) and keep back what fails there.",
    )

    stream: Url | None = Field(
        None, description="Its MEV-Share event stream (http(s)://): bids follow hints about feed updates; unset: none."
    )

    @model_validator(mode="after")
    def _hints_need_shares(self) -> Self:
        if self.stream is not None and self.offer != "mev_share":
            raise ValueError('stream needs offer = "mev_share": only such a relay can place a bid behind a hash')
        return self


class Mempool(Section):
    """Acting on price updates that are not mined yet. Liquidations then go out as bundles right behind them."""

    enabled: bool = Field(default=False, description="Follow the node's pending transactions (needs relays).")
    feeds_every: Whole = Field(
        50, gt=0, description="Blocks between two looks at which aggregators stand behind the markets' prices."
    )


class Private(Section):
    """What all relays share."""

    signing_key: Hidden | None = Field(
        None, description="Key that signs requests, for reputation only (environment only); unset: random per start."
    )
    signing_key_file: File | None = Field(None, description="File with the signing key, instead of `signing_key`.")
    timeout: Seconds = Field(2.0, gt=0, description="A relay that has not answered by then is not waited for.")
    public_after: Whole | None = Field(
        None, gt=0, description="Blocks after which what no relay included is sent in public too; unset: never."
    )


class Audit(Section):
    """The book compared with the protocol's own view."""

    every: Whole = Field(50, gt=0, description="Blocks between two audits.")
    sample: Whole = Field(20, gt=0, description="Borrowers compared in each audit.")


class Breakers(Section):
    """When to stop sending altogether. A value exactly at its limit passes; every "day" is the last 24 hours.

    An open breaker stops all sending until `keeper resume`; those whose help says so close by themselves. What was sent
    already is still looked after. A dry run spends nothing, so there only exposure, audit, head age, endpoints and RPC
    errors can open one.
    """

    loss_per_day: Wei = Field(5 * 10**17, description="Most that attempts may lose a day; gains do not pay for losses.")
    gas_per_day: Wei = Field(10**18, description="Most that settled attempts may spend on gas a day.")
    reverts_lost_race: Whole = Field(
        20, gt=0, description="So many reverts a day because somebody was faster, without a success in between."
    )
    reverts_not_liquidatable: Whole = Field(
        10, gt=0, description="The same of positions that could not be liquidated (yet)."
    )
    reverts_no_liquidity: Whole = Field(10, gt=0, description="The same of pools or lenders that gave too little.")
    reverts_bug: Whole = Field(
        3, gt=0, description="The same of reverts nobody can explain; each also quarantines its position."
    )
    prediction_error_bps: Bps = Field(
        500, description="Most a mined attempt may earn more or less than its simulation said."
    )
    prediction_attempts: Whole = Field(3, gt=0, description="So many such attempts in a row open the breaker.")
    balance_attempts: Whole = Field(
        5, description="The signer must hold the gas of so many attempts at the current price. Closes by itself."
    )
    attempt_gas: Whole = Field(
        1_000_000, gt=0, description="Gas of one attempt, for the check of the signer's balance."
    )
    max_head_age: Seconds = Field(300.0, gt=0, description="The newest block may be so old. Closes by itself.")
    max_height_gap: Whole = Field(
        10, description="Endpoints with a fresh head may be so many blocks apart. Closes by itself."
    )
    agree_depth: Whole = Field(
        2, description="Endpoints must tell the same block this far below the lowest head. Closes by itself."
    )
    rpc_error_bps: Bps = Field(
        5_000, description="Most RPC calls without a usable answer, as a share of a minute's. Closes by itself."
    )
    audit_failures: Whole = Field(1, gt=0, description="So many audits a day that find a difference.")
    exposure_per_transaction: Wei = Field(
        10_000 * 10**18,
        description="Most debt repaid by one order, valued in the native token; `strategy` limits plans.",
    )
    exposure_in_flight: Wei = Field(
        20_000 * 10**18, description="Most debt of one asset in orders not mined yet. Closes by itself."
    )
    exposure_per_day: Wei = Field(100_000 * 10**18, description="Most debt of one asset repaid a day.")
    quiet: Seconds = Field(120.0, description="A breaker that closes by itself waits for so long a time without cause.")
    check_every: Seconds = Field(
        15.0, gt=0, description="How often balance, head age, endpoints and RPC are looked at."
    )


class Alerts(Section):
    """Who is told what happens, besides the log. Channels are apprise URLs and are shown masked."""

    channels: Channels = Field((), description="Channels that get every alert.")
    channels_file: File | None = Field(None, description="File with them, one per line, instead of `channels`.")
    severe_channels: Channels = Field((), description="Channels that get severe alerts only.")
    severe_channels_file: File | None = Field(
        None, description="File with them, one per line, instead of `severe_channels`."
    )
    max_per_minute: Whole = Field(
        10, gt=0, description="Most messages to one channel a minute; the rest ends in one line that counts them."
    )
    dedupe_window: Seconds = Field(600.0, description="The same alert is not said again before.")
    near_health_factor: HealthFactor = Field(
        102 * 10**16, gt=10**18, description="Health factor below which a large position is near."
    )
    near_liquidation_size: Whole = Field(
        0,
        description="Least debt, in whole units of the market's base currency (mostly US dollars), of a position whose"
        " being near liquidation is told; 0: none is.",
    )


class Ops(Section):
    """What the person sees."""

    http_host: str = Field("127.0.0.1", min_length=1, description="Address of /metrics, /livez, /readyz and /status.")
    http_port: Port = Field(9464, description="Port of the same; 0 takes any free one.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Annotated[Literal["auto", "pretty", "json"], BeforeValidator(_lower)] = Field(
        "auto", description="`auto` is pretty on a terminal and JSON otherwise."
    )
    shutdown_grace: Seconds = Field(30.0, description="On SIGTERM, how long to wait for receipts of what was sent.")


class Config(Section):
    """The whole configuration. Going live is not part of it: that is the command line's `--live`, and only that."""

    chain: Chain
    data: Data = Field(default_factory=lambda: Data.model_validate({}))
    tokens: Tokens
    markets: dict[Name, Market] = Field(min_length=1, description="One table per lending market.")
    venues: dict[Name, Venue] = Field(default_factory=dict, description="One table per place to trade.")
    executor: Executor = Field(default_factory=lambda: Executor.model_validate({}))
    signer: Signer = Field(default_factory=lambda: Signer.model_validate({}))
    signers: dict[Name, Signer] = Field(default_factory=dict, description="One table per further key, beside `signer`.")
    strategy: Strategy = Field(default_factory=lambda: Strategy.model_validate({}))
    relays: dict[Name, Relay] = Field(default_factory=dict, description="One table per private relay or builder.")
    mempool: Mempool = Field(default_factory=lambda: Mempool.model_validate({}))
    private: Private = Field(default_factory=lambda: Private.model_validate({}))
    audit: Audit = Field(default_factory=lambda: Audit.model_validate({}))
    breakers: Breakers = Field(default_factory=lambda: Breakers.model_validate({}))
    alerts: Alerts = Field(default_factory=lambda: Alerts.model_validate({}))
    ops: Ops = Field(default_factory=lambda: Ops.model_validate({}))

    @model_validator(mode="after")
    def _backruns_are_for_relays(self) -> Self:
        if self.mempool.enabled and all(relay.offer == "transaction" for relay in self.relays.values()):
            raise ValueError("mempool.enabled needs a relay that takes bundles: add a [relays.<name>] table")
        if self.mempool.enabled and all(endpoint.kind == "http" for endpoint in self.chain.endpoints):
            raise ValueError("mempool.enabled needs an endpoint that announces: add a ws://, wss:// or .ipc one")
        return self

    @model_validator(mode="after")
    def _coinbase_is_for_relays(self) -> Self:
        table = self.strategy
        if table.tip_policy == "coinbase" and not self.relays:
            raise ValueError('strategy.tip_policy = "coinbase" needs a relay: add a [relays.<name>] table')
        if table.tip_policy == "coinbase" and table.tip_share_bps >= table.max_fee_share_bps:
            raise ValueError("strategy.tip_share_bps leaves nothing of strategy.max_fee_share_bps for gas: lower it")
        return self

    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        """The same market or pools under two names would be liquidated, or counted, twice."""
        for section, tables in (("markets", self.markets), ("venues", self.venues)):
            names: dict[model.Address, str] = {}
            for name, table in tables.items():
                first = names.setdefault(table.address, name)
                if first != name:
                    raise ValueError(f"{section}.{first} and {section}.{name} are the same contract: keep one")
        return self

    @model_validator(mode="after")
    def _further_signers(self) -> Self:
        if self.signers and not self.signer.present:
            raise ValueError("there are further signers but no first one: fill in [signer]")
        absent = [name for name, signer in self.signers.items() if not signer.present]
        if absent:
            raise ValueError(f"signers.{absent[0]} has no key: give it a keystore, a private_key or a remote_url")
        return self

    @property
    def every_signer(self) -> tuple[Signer, ...]:
        """Every configured signer, the first one first."""
        return (self.signer, *self.signers.values()) if self.signer.present else ()

    @property
    def data_dir(self) -> Path:
        """This chain's own folder, so that one journal never serves two chains."""
        return self.data.dir / f"chain-{self.chain.id}"

    def source(self, key: str) -> str:
        """Where the value of a dotted key came from; "default" when nobody set it."""
        return self._sources.get(key, "default")

    def secrets(self) -> tuple[str, ...]:
        """Every string that must never be shown, for the log's redaction. Not for anything else."""
        found: list[str] = []
        relays = [url for relay in self.relays.values() for url in (relay.url, relay.stream) if url is not None]
        remote = [
            signer.remote_url for signer in (self.signer, *self.signers.values()) if signer.remote_url is not None
        ]
        for endpoint in (*self.chain.endpoints, *relays, *remote):
            if endpoint.kind == "ipc":
                continue
            parts = urlsplit(endpoint.reveal())
            pieces = [parts.username or "", parts.query, parts.fragment, parts.path.strip("/"), *parts.path.split("/")]
            pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
            # Short pieces are words such as "v3" or "rpc"; whole URLs are cut down to the host wherever they appear.
            found += [parts.password or "", *(piece for piece in pieces if len(piece) >= 8)]
            if str(endpoint) != endpoint.reveal().rstrip("/"):
                found.append(endpoint.reveal())
        keys = [key for s in (self.signer, *self.signers.values()) for key in (s.password, s.private_key)]
        found += [secret.reveal() for secret in (*keys, self.private.signing_key) if secret is not None]
        for channel in (*self.alerts.channels, *self.alerts.severe_channels):
            found += channel.pieces()
        return tuple(dict.fromkeys(text for text in found if text))
