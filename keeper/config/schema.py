"""Everything that can be configured, in one frozen schema. The descriptions are the help of `keeper config schema`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from keeper import model
from keeper.config.values import Address, Addresses, Bps, File, Hidden, Port, Seconds, Urls, Wei, Whole, Word

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
    max_reorg_depth: Whole = Field(
        64, gt=0, description="Blocks that can be undone in memory; deeper ones cause a reload."
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
    addresses_provider: Address = Field(description="The contract from which all others of the market are found.")
    start_block: Whole = Field(description="Block the market was deployed in; events are read from there.")

    @property
    def root(self) -> model.Address:
        """The address the rest of the market is found from."""
        return self.addresses_provider


class Venue(Section):
    """A place to trade. `kind` says how it works; its pools are found from the factory."""

    kind: Word = Field(description="How the venue works, for example `uniswap_v3`.")
    factory: Address = Field(description="The contract that created its pools.")
    start_block: Whole = Field(description="Block the factory was deployed in.")
    fee_bps: Bps | None = Field(
        None, lt=10_000, description="Swap fee where the pools do not state it (forks); unset: the kind's own."
    )

    @property
    def root(self) -> model.Address:
        """The address the rest of the venue is found from."""
        return self.factory


class Executor(Section):
    """The contract that carries out liquidations."""

    address: Address | None = Field(
        None, description="Deployed executor; unset: dry runs inject its code, live runs refuse."
    )


class Signer(Section):
    """The key that sends. Dry runs need none."""

    keystore: File | None = Field(None, description="Encrypted JSON keystore file.")
    password: Hidden | None = Field(None, description="Keystore password (environment only).")
    password_file: File | None = Field(None, description="File with the keystore password, instead of `password`.")
    private_key: Hidden | None = Field(None, description="Private key (environment only); a keystore is safer.")
    private_key_file: File | None = Field(None, description="File with the private key, instead of `private_key`.")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.keystore is not None and self.private_key is not None:
            raise ValueError("keystore and private_key are both set: keep one")
        if self.password is not None and self.keystore is None:
            raise ValueError("password is set without a keystore: set keystore too, or remove it")
        return self

    @property
    def present(self) -> bool:
        """A key is configured (it may still be locked)."""
        return self.keystore is not None or self.private_key is not None


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
    tip_policy: Literal["fixed", "percentile", "share"] = Field(
        "percentile",
        description="Priority fee: `fixed` tip, `percentile` of recent blocks' tips, or `share` of the simulated gain.",
    )
    tip: Wei = Field(10**9, description="Priority fee per gas with `fixed`; the least one with the other policies.")
    max_tip: Wei = Field(50 * 10**9, description="Most priority fee per gas, whatever the policy.")
    tip_percentile: Whole = Field(60, le=100, description="Percentile of recent tips with `percentile`.")
    tip_share_bps: Bps = Field(2_000, le=10_000, description="Share of the simulated gain offered as tip with `share`.")
    max_fee_share_bps: Bps = Field(5_000, le=10_000, description="Most of the simulated gain that may be spent on gas.")
    max_slippage_bps: Bps = Field(
        100, le=10_000, description="Most of the planned gain that may be lost until inclusion, enforced on chain."
    )
    inclusion_slack: Whole = Field(
        3, description="Blocks an attempt may land late and still have enough budget for interest."
    )
    cooldown: Seconds = Field(60.0, description="A borrower is left alone this long after a failed attempt.")


class Audit(Section):
    """The book compared with the protocol's own view."""

    every: Whole = Field(50, gt=0, description="Blocks between two audits.")
    sample: Whole = Field(20, gt=0, description="Borrowers compared in each audit.")


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
    strategy: Strategy = Field(default_factory=lambda: Strategy.model_validate({}))
    audit: Audit = Field(default_factory=lambda: Audit.model_validate({}))
    ops: Ops = Field(default_factory=lambda: Ops.model_validate({}))

    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        """The same market or pools under two names would be liquidated, or counted, twice."""
        for section, tables in (("markets", self.markets), ("venues", self.venues)):
            names: dict[model.Address, str] = {}
            for name, table in tables.items():
                first = names.setdefault(table.root, name)
                if first != name:
                    raise ValueError(f"{section}.{first} and {section}.{name} are the same contract: keep one")
        return self

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
        for endpoint in self.chain.endpoints:
            if endpoint.kind == "ipc":
                continue
            parts = urlsplit(endpoint.reveal())
            pieces = [parts.username or "", parts.query, parts.fragment, parts.path.strip("/"), *parts.path.split("/")]
            pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
            # Short pieces are words such as "v3" or "rpc"; whole URLs are cut down to the host wherever they appear.
            found += [parts.password or "", *(piece for piece in pieces if len(piece) >= 8)]
            if str(endpoint) != endpoint.reveal().rstrip("/"):
                found.append(endpoint.reveal())
        found += [secret.reveal() for secret in (self.signer.password, self.signer.private_key) if secret is not None]
        return tuple(dict.fromkeys(text for text in found if text))
