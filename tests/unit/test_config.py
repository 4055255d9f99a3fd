"""Reading a configuration: what is accepted, where values come from, and how wrong ones are named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from keeper.config import Config, Endpoint, format_seconds, format_wei, load, parse_seconds, parse_wei
from keeper.config.schema import Market, Relay, Section, Venue
from keeper.errors import ConfigError

pytestmark = pytest.mark.unit

CONFIG = Path(__file__).parents[2] / "config"
RPC = {"KEEPER_RPC_URL": "ws://127.0.0.1:8546"}

MINIMAL = """
[chain]
id = 1
endpoints = ["ws://127.0.0.1:8546"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave-core]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 16291000
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keeper.toml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), environ)
    return str(caught.value)


def test_minimal_configuration_has_safe_defaults(tmp_path: Path) -> None:
    """Chain, wrapped token and one market are all that must be known; the rest has defaults and no signer."""
    config = load(write(tmp_path, MINIMAL), {})
    assert config.strategy.profit_floor == 10**16
    assert config.chain.block_time == 12.0
    assert config.ops.http_host == "127.0.0.1"
    assert not config.signer.present
    assert config.executor.address is None
    assert config.markets["aave-core"].address == "0x2f39d218133afab8f2b819b1066c7e434ad94e9e"
    assert config.data_dir.name == "chain-1"
    assert config.source("strategy.profit_floor") == "default"


def test_a_config_cannot_say_live(tmp_path: Path) -> None:
    """No key makes the keeper send: a mode in the file or the environment is an unknown key."""
    assert "unknown key" in problems(tmp_path, 'mode = "live"' + MINIMAL)
    assert "unknown key" in problems(tmp_path, MINIMAL, KEEPER__STRATEGY__LIVE="true")


def test_the_configuration_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    """Every section is frozen."""
    config = load(write(tmp_path, MINIMAL), {})
    with pytest.raises(ValueError, match="frozen"):
        config.strategy.profit_floor = 0


def test_environment_wins_and_is_named_as_the_source(tmp_path: Path) -> None:
    """KEEPER__SECTION__KEY overrides the file, also for names that contain a dash."""
    environ = {
        "KEEPER__STRATEGY__PROFIT_FLOOR": "30 gwei",
        "KEEPER__MARKETS__AAVE_CORE__START_BLOCK": "17_000_000",
        "KEEPER__CHAIN__ENDPOINTS": "wss://a.example/x, wss://b.example/y",
        "KEEPER__AUDIT__EVERY": "7",
        "KEEPER__MARKETS__SPARK__PROTOCOL": "aave_v3",
        "KEEPER__MARKETS__SPARK__ADDRESS": "0x02C3eA4e34C0cBd694D2adFa2c690EECbC1793eE",
        "KEEPER__MARKETS__SPARK__START_BLOCK": "16776300",
        "KEEPER_SEED": "5",
    }
    config = load(write(tmp_path, MINIMAL), environ)
    assert config.strategy.profit_floor == 30 * 10**9
    assert config.markets["aave-core"].start_block == 17_000_000
    assert [endpoint.label for endpoint in config.chain.endpoints] == ["a.example", "b.example"]
    assert config.audit.every == 7
    assert set(config.markets) == {"aave-core", "spark"}
    assert config.source("strategy.profit_floor") == "environment KEEPER__STRATEGY__PROFIT_FLOOR"
    assert config.source("chain.id").endswith("keeper.toml")


def test_everything_can_come_from_the_environment() -> None:
    """Without a file the environment alone is enough."""
    environ = {
        "KEEPER__CHAIN__ID": "1",
        "KEEPER__CHAIN__ENDPOINTS": "http://localhost:8545",
        "KEEPER__TOKENS__WRAPPED_NATIVE": "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2",
        "KEEPER__MARKETS__AAVE__PROTOCOL": "aave_v3",
        "KEEPER__MARKETS__AAVE__ADDRESS": "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e",
        "KEEPER__MARKETS__AAVE__START_BLOCK": "1",
    }
    assert load(None, environ).chain.id == 1


def test_variables_inside_the_file(tmp_path: Path) -> None:
    """${NAME} is replaced, a missing one is named, and the source says which variable was used."""
    text = MINIMAL.replace("ws://127.0.0.1:8546", "wss://node.example/${TOKEN}")
    config = load(write(tmp_path, text), {"TOKEN": "abc"})
    assert config.chain.endpoints[0].reveal() == "wss://node.example/abc"
    assert "${TOKEN}" in config.source("chain.endpoints[0]")
    assert "chain.endpoints[0]: the environment variable TOKEN is not set" in problems(tmp_path, text)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """*_file keys read what container secrets mount, relative to the config file, without the last line end."""
    (tmp_path / "password").write_text("hunter2\n")
    (tmp_path / "nodes").write_text("ws://a.example\nws://b.example\n")
    text = MINIMAL.replace('endpoints = ["ws://127.0.0.1:8546"]', 'endpoints_file = "nodes"')
    config = load(write(tmp_path, text + '[signer]\nkeystore = "k.json"\npassword_file = "password"\n'), {})
    assert config.signer.password is not None
    assert config.signer.password.reveal() == "hunter2"
    assert config.signer.keystore == tmp_path / "k.json"
    assert len(config.chain.endpoints) == 2
    assert config.source("signer.password") == "file of signer.password_file"


def test_environment_file_secret(tmp_path: Path) -> None:
    """KEEPER__SIGNER__PRIVATE_KEY_FILE names a file too."""
    (tmp_path / "key").write_text("0x" + "11" * 32)
    config = load(write(tmp_path, MINIMAL), {"KEEPER__SIGNER__PRIVATE_KEY_FILE": str(tmp_path / "key")})
    assert config.signer.present


def test_secrets_do_not_stand_in_the_file(tmp_path: Path) -> None:
    """A key or password written into the TOML is refused, even when overridden; ${NAME} alone is fine."""
    text = MINIMAL + '[signer]\nprivate_key = "0x1234"\n'
    for environ in ({}, {"KEEPER__SIGNER__PRIVATE_KEY": "0x99"}):
        message = problems(tmp_path, text, **environ)
        assert "signer.private_key must not stand in the file: set KEEPER__SIGNER__PRIVATE_KEY" in message
    assert load(write(tmp_path, text.replace("0x1234", "${PK}")), {"PK": "0x77"}).signer.present


def test_all_errors_at_once(tmp_path: Path) -> None:
    """One run names every wrong key of file and environment, each with what to do."""
    text = """
    [chain]
    id = "one"
    endpoints = ["ftp://x"]
    block_time = 12
    [tokens]
    wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc3"
    [markets.aave]
    protocol = "Aave V3"
    start_block = -1
    profit_flor = "1 ether"
    [signer]
    password_file = "missing"
    [strategey]
    [strategy]
    profit_floor = 0.01
    max_gas_price = "30"
    max_exposure = "1 eth"
    tip_policy = "auto"
    max_oracle_gap_bps = "3%"
    cooldown = "1 minute"
    [ops]
    http_port = 99999
    """
    message = problems(tmp_path, text, KEEPER__STRATEGY__TIP="2", KEEPER__FOO__BAR="1", KEEPER_CHAIN__ID="1")
    expected = [
        "chain.id: must be a whole number",
        "chain.endpoints[0]: must be a URL that starts with",
        'chain.block_time: needs a unit, because a bare number could be seconds or milliseconds: write "12s"',
        "tokens.wrapped_native: has a wrong checksum",
        "markets.aave.protocol: must be a lower-case word",
        "markets.aave.address: is missing",
        "markets.aave.start_block: must be a whole number",
        "markets.aave.profit_flor: unknown key; did you mean strategy.profit_floor?",
        "signer.password_file: the file it names cannot be read: No such file or directory",
        "strategey: unknown key; did you mean strategy?",
        "strategy.profit_floor: needs a unit, because a bare number could be wei, gwei or ether",
        "strategy.max_gas_price: needs a unit",
        "strategy.max_exposure: must be an amount in wei, gwei or ether",
        "strategy.tip_policy: must be 'fixed', 'percentile', 'share' or 'coinbase'",
        "strategy.max_oracle_gap_bps: must be whole basis points (100 is 1 %)",
        "strategy.cooldown: must be a duration",
        "ops.http_port: must be at most 65535",
        "strategy.tip (KEEPER__STRATEGY__TIP): needs a unit",
        "foo (KEEPER__FOO__BAR): unknown key",
        "KEEPER_CHAIN__ID: unknown environment variable; did you mean KEEPER__CHAIN__ID?",
    ]
    for line in expected:
        assert line in message, message
    assert message.count("\n") == len(expected)
    assert f"has {len(expected)} errors" in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[chain\n", "is not valid TOML (at line 1"),
        ("[chain]\nid = 1\nid = 2\n", "is not valid TOML"),
        ("chain = 5\n", "chain: must be a table of keys"),
        ("markets = []\n", "markets: must be a table of keys"),
        ("[markets.'Bad Name']\n", "a name has only lower-case letters"),
        ("[markets]\n", "markets: needs at least one entry"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, said: str) -> None:
    """Broken TOML and wrong shapes end in one sentence each."""
    assert said in problems(tmp_path, text)


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder and a binary file are named."""
    with pytest.raises(ConfigError, match=r"nothing\.toml does not exist: name another with --config"):
        load(tmp_path / "nothing.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary", {})


def test_conflicting_signers(tmp_path: Path) -> None:
    """Two keys, or a password without a keystore, or a value given twice, are refused."""
    both = MINIMAL + '[signer]\nkeystore = "k"\n'
    assert "keystore and private_key are both set" in problems(tmp_path, both, KEEPER__SIGNER__PRIVATE_KEY="0x1")
    assert "password is set without a keystore" in problems(tmp_path, MINIMAL, KEEPER__SIGNER__PASSWORD="x")
    twice = {"KEEPER__SIGNER__PASSWORD": "x", "KEEPER__SIGNER__PASSWORD_FILE": "/dev/null"}
    assert "are both set: keep one" in problems(tmp_path, both, **twice)
    (tmp_path / "empty").write_text("\n")
    assert "the file it names is empty" in problems(
        tmp_path, both, KEEPER__SIGNER__PASSWORD_FILE=str(tmp_path / "empty")
    )


@pytest.mark.parametrize(
    ("text", "wei"),
    [("0.01 ether", 10**16), ("30 gwei", 30 * 10**9), ("5wei", 5), ("1_000 Ether", 10**21), ("0 wei", 0)],
)
def test_amounts(text: str, wei: int) -> None:
    """Amounts are exact integers of wei and survive being printed."""
    assert parse_wei(text) == wei
    assert parse_wei(format_wei(wei)) == wei


@pytest.mark.parametrize(
    "value", ["0.1 wei", "-1 ether", "1e3 wei", "1 eth", "", "ether", "1 ether 2", "1" + "0" * 80 + " wei"]
)
def test_wrong_amounts(value: str) -> None:
    """Fractions of a wei, signs, exponents, unknown units and overflows are refused."""
    with pytest.raises(ValueError, match=r"must be|finer|more than|needs"):
        parse_wei(value)


@pytest.mark.parametrize("value", [5, 0.5, "5", "0.5", True, None, [], {}])
def test_bare_numbers_are_not_amounts_or_durations(value: Any) -> None:
    """Without a unit there is no amount and no duration."""
    with pytest.raises(ValueError, match=r"unit|must be"):
        parse_wei(value)
    with pytest.raises(ValueError, match=r"unit|must be"):
        parse_seconds(value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("12s", 12.0), ("500ms", 0.5), ("5m", 300.0), ("2 h", 7200.0), ("1d", 86400.0), ("1.5s", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are seconds and survive being printed."""
    assert parse_seconds(text) == seconds
    assert parse_seconds(format_seconds(seconds)) == seconds


@pytest.mark.parametrize(
    ("url", "shown", "kind"),
    [
        ("wss://user:pass@node.example:8546/v3/key?a=b", "wss://node.example:8546/***", "ws"),
        ("https://node.example/", "https://node.example", "http"),
        ("http://[::1]:8545", "http://[::1]:8545", "http"),
        ("/var/run/geth.ipc", "ipc:/var/run/geth.ipc", "ipc"),
        ("ipc:///var/run/geth.ipc", "ipc:/var/run/geth.ipc", "ipc"),
    ],
)
def test_endpoints_show_only_scheme_and_host(url: str, shown: str, kind: str) -> None:
    """User, password, path and query of an endpoint are never printed."""
    endpoint = Endpoint(url)
    assert str(endpoint) == f"{endpoint}" == shown
    assert repr(endpoint) == f"Endpoint('{shown}')"
    assert endpoint.kind == kind


@pytest.mark.parametrize(
    "url", ["", "node.example", "ftp://x", "http://", "http://a b", "http://x:99999999", "http://[1"]
)
def test_wrong_endpoints(url: str) -> None:
    """What cannot be a node is refused."""
    with pytest.raises(ValueError, match="must be a URL"):
        Endpoint(url)


TABLES: dict[str, type[Section]] = {"markets": Market, "venues": Venue, "relays": Relay}


def keys(schema: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found |= keys(inner, f"{name}.")
        elif name == "signers":
            continue  # tables with the keys of [signer]
        elif name in TABLES:
            found |= {f"{name}.{key}" for key in TABLES[name].model_fields}
        else:
            found.add(prefix + name)
    return found


def test_the_example_names_every_key_with_its_default(tmp_path: Path) -> None:
    """config/example.toml is complete, valid, and every commented value is the default."""
    text = (CONFIG / "example.toml").read_text()
    plain = load(CONFIG / "example.toml", RPC)
    written = tomllib.loads(re.sub(r"^#(\w+ = |\[)", r"\1", text, flags=re.MULTILINE))
    assert written.pop("signers").keys() == {"second"}
    named = {
        f"{section}.{key}"
        for section, table in written.items()
        for key in (table if section not in TABLES else set().union(*table.values()))
    }
    assert named == keys(Config) - {"signer.password", "signer.private_key", "private.signing_key"}
    filled = tmp_path / "example.toml"
    off = re.sub(r"^#\[.*?\n\n", "", text, flags=re.MULTILINE | re.DOTALL)  # whole tables that are off by default
    lines = re.sub(r"^#(\w+ = )", r"\1", off, flags=re.MULTILINE).splitlines()
    placeholders = (
        "endpoints_file", 'address = "0x…', "keystore", "password_file", "private_key_file", "signing_key_file",
        "public_after", "remote_url", "sequencer_feed", "channels_file", "severe_channels_file",
    )  # fmt: skip
    filled.write_text("\n".join(line for line in lines if not line.startswith(placeholders)))
    assert load(filled, RPC).model_dump() == plain.model_dump()


def test_mainnet_configuration_needs_only_a_node() -> None:
    """config/ethereum.toml loads with KEEPER_RPC_URL and says which variable is missing without it."""
    config = load(CONFIG / "ethereum.toml", RPC)
    assert config.chain.id == 1
    assert {market.protocol for market in config.markets.values()} == {"aave_v3", "compound_v3", "morpho_blue"}
    assert {"aave", "spark", "comet_usdc", "comet_weth"} <= config.markets.keys()
    with pytest.raises(ConfigError, match="KEEPER_RPC_URL is not set"):
        load(CONFIG / "ethereum.toml", {})


def test_every_key_has_help() -> None:
    """Each key carries one line of help, and each section a sentence."""

    def walk(schema: type[BaseModel]) -> None:
        assert schema.__doc__
        for name, field in schema.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                walk(field.annotation)
            else:
                assert field.description or schema is Config, f"{schema.__name__}.{name}"

    walk(Config)
    for section in TABLES.values():
        walk(section)
