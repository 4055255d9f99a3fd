"""The command line: what it asks of the application, what it prints, and how every end maps to an exit code."""

from __future__ import annotations

import json
import logging as stdlib_logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from keeper.cli import cli
from keeper.config import Config
from keeper.errors import BadData, CheckFailed, ConfigError, Halt, KeeperError, Transient, Unreachable
from keeper.journal.queries import Errors
from keeper.journal.rivals import Competition
from keeper.model import MAX_UINT256, Account, Address, Candidate, Hash, Head, Skip, SkipReason, Token
from keeper.ops.doctor import Finding, Report
from keeper.ops.doctor import Result as Checked
from keeper.ops.redact import Redactor
from keeper.ops.views import DemoRow, DemoView, ExplainView, GateRow, ScanRow, ScanView
from keeper.ops.vitals import Health
from keeper.session import Session

pytestmark = pytest.mark.unit

PASSWORD = "correct-horse-battery"
BORROWER = Address("0x" + "ab" * 20)
HEAD = Head(100, Hash("0x" + "01" * 32), Hash("0x" + "02" * 32), 1_700_000_000, 10**9)
WETH = Token(Address("0x" + "11" * 20), "WETH", 18)
USDC = Token(Address("0x" + "22" * 20), "USDC", 6)
CONFIG = """
[chain]
id = 1
endpoints = ["wss://node.example/v2/0123456789abcdef"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 1
[data]
dir = "unused"
[signer]
keystore = "key.json"
"""


@dataclass
class Summary:
    mode: str = "dry"
    first_block: int | None = 90
    last_block: int | None = 100
    passes: int = 11
    positions: int = 2
    skips: dict[str, int] = field(default_factory=lambda: {"unprofitable": 22})
    skipped_positions: dict[str, int] = field(default_factory=lambda: {"unprofitable": 2})
    attempts: dict[str, int] = field(default_factory=dict)
    gain: int = 0
    gas_cost: int = 0
    net: int = 0
    predicted_net: int = 0
    dry_net: int = 5 * 10**17
    gain_error: Errors = field(default_factory=lambda: Errors(0, 0, 0, 0))
    gas_error: Errors = field(default_factory=lambda: Errors(0, 0, 0, 0))
    competition: Competition = field(default_factory=Competition)

    def json(self) -> dict[str, Any]:
        return {"mode": self.mode, "dry_net": str(self.dry_net)}


class FakeApp:
    """The application, as far as commands can tell; `error` is what it raises, whatever it is asked."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.asked: list[tuple[Any, ...]] = []

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def check_words(self, config: Config) -> None:
        self._ask("check_words", config.chain.id)

    async def run(self, config: Config, redactor: Redactor, *, live: bool, once: bool) -> None:
        self._ask("run", live, once)

    async def scan(self, config: Config, redactor: Redactor) -> ScanView:
        self._ask("scan")
        rows = (
            ScanRow("aave", Account(BORROWER, 999_999_999_999_999_999, 123_456_789_012, 10**11), 10**8),
            ScanRow("aave", Account(BORROWER, MAX_UINT256, 0, 0), 10**8),
        )
        return ScanView(1, HEAD, rows, {"spark": "not synced [yet]"})

    async def explain(
        self, config: Config, redactor: Redactor, borrower: Address, market: str | None
    ) -> Sequence[ExplainView]:
        self._ask("explain", borrower, market)
        candidate = Candidate(USDC, WETH, 10**9, 6 * 10**17, "flash loan", 10**16, 500_000, -5 * 10**15, "[thin] pool")
        return [
            ExplainView(
                1,
                "aave",
                HEAD,
                Account(BORROWER, 95 * 10**16, 10**11, 9 * 10**10),
                10**8,
                "ETH",
                candidates=(candidate,),
                gates=(GateRow("profit_floor", passed=False, detail="too little", numbers={"net": -1}),),
                skip=Skip(SkipReason.UNPROFITABLE, "it does not pay", {"net": -5 * 10**15}),
            )
        ]

    async def doctor(
        self, config: Config, redactor: Redactor, *, live: bool, notify: bool, tell: Callable[[Checked], None]
    ) -> Report:
        self._ask("doctor", live, *(["notify"] if notify else ()))
        results = (
            Checked("chain", Finding.ok("chain 1")),
            Checked("journal", Finding.fail("it is foreign", "move it away") if live else Finding.warn("old", "wait")),
        )
        for result in results:
            tell(result)
        return Report(results)

    def report(self, config: Config, *, block: int, at: int, live: bool) -> tuple[Summary, list[Any]]:
        self._ask("report", block, at, live)
        return Summary(), []

    async def deploy(self, config: Config, redactor: Redactor, *, confirm: Callable[[str], bool]) -> str:
        self._ask("deploy", confirm("really?"))
        return "deployed"

    async def devchain(self, path: Path | None, *, port: int, comet_model: Path | None) -> None:
        self._ask("devchain", path, port, comet_model)

    async def demo(self, path: Path | None, *, comet_model: Path | None) -> DemoView:
        self._ask("demo")
        return DemoView(
            1337,
            "live",
            42.0,
            (
                DemoRow(
                    "aave",
                    BORROWER,
                    "whale",
                    "liquidate",
                    True,
                    9 * 10**17,
                    2 * 10**18,
                    "liquidated",
                    "",
                    10**16,
                    10**16,
                ),
            ),
        )


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = stdlib_logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    stdlib_logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "k.toml"
    path.write_text(CONFIG)
    return str(path)


def invoke(app: FakeApp, *args: str, **environ: str) -> Result:
    env = {"KEEPER__SIGNER__PASSWORD": PASSWORD} | environ
    return CliRunner().invoke(cli, args, obj=Session(app), env=env)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("the journal is foreign: move it away"), 10),
        (CheckFailed("chain id: it is 5"), 11),
        (Unreachable("no endpoint answers"), 12),
        (Transient("the node timed out"), 12),
        (BadData("the node answered nonsense"), 12),
        (Halt("three reverts in a row"), 13),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [Halt("three reverts in a row")])]), 13),
    ],
)
@pytest.mark.parametrize("command", ["run", "scan", "doctor", "report"])
def test_errors_end_in_one_sentence_and_their_code(error: KeeperError, code: int, command: str, config: str) -> None:
    """Every error of ours is one line on standard error with the documented code, and never a traceback."""
    result = invoke(FakeApp(error), command, "--config", config)
    assert result.exit_code == code
    assert result.stderr.startswith("keeper: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_a_bug_is_told_as_one(config: str, tmp_path: Path) -> None:
    """Any other exception is code 1, a short message, and a private file with the traceback, masked."""
    result = invoke(FakeApp(RuntimeError(f"oops {PASSWORD}")), "scan", "--config", config)
    assert result.exit_code == 1
    assert "this is a bug in the keeper (RuntimeError). The traceback is in " in result.stderr
    assert "Traceback" not in result.stderr
    (written,) = tmp_path.glob("keeper-bug-*.txt")
    text = written.read_text()
    assert "RuntimeError: oops ********" in text
    assert "Traceback" in text
    assert PASSWORD not in text
    assert written.stat().st_mode & 0o077 == 0


def test_a_bug_with_nowhere_to_write(config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside the journal when there is one; on standard error, masked, when nothing can be written."""
    data = tmp_path / "data" / "chain-1"
    data.mkdir(parents=True)
    result = invoke(FakeApp(RuntimeError("oops")), "scan", "--config", config, KEEPER__DATA__DIR=str(data.parent))
    assert str(data) in result.stderr
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    result = invoke(FakeApp(RuntimeError(PASSWORD)), "scan", "--config", config)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert PASSWORD not in result.stderr


def test_a_bug_among_our_errors_is_still_a_bug(config: str) -> None:
    """A group with one unknown error in it is not passed off as an operator's error."""
    group = ExceptionGroup("tasks", [Halt("stop"), KeyError("oops")])
    assert invoke(FakeApp(group), "run", "--config", config).exit_code == 1


def test_debug_shows_the_traceback_without_secrets(config: str) -> None:
    """--debug adds the traceback, masked, to bugs and to our own errors."""
    for error in (RuntimeError(PASSWORD), ConfigError(PASSWORD)):
        result = invoke(FakeApp(error), "--debug", "scan", "--config", config)
        assert "Traceback" in result.stderr
        assert PASSWORD not in result.output


def test_secrets_in_messages_are_masked(config: str) -> None:
    """Even an error that repeats a secret does not show it."""
    message = f"cannot open with {PASSWORD} at wss://node.example/v2/0123456789abcdef"
    result = invoke(FakeApp(ConfigError(message)), "run", "--config", config)
    assert PASSWORD not in result.output
    assert "0123456789abcdef" not in result.output
    assert "wss://node.example" in result.output or "********" in result.output


def test_interrupt(config: str) -> None:
    """Ctrl-C before the loop runs is code 130 without a traceback."""
    result = invoke(FakeApp(KeyboardInterrupt()), "report", "--config", config)
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("run", "--nonsense"),
        ("explain",),
        ("explain", "0x12"),
        ("explain", "not an address"),
        ("report", "--since", "yesterday"),
        ("devchain", "--port", "70000"),
        ("run", "--private-key", "0x1"),
    ],
)
def test_wrong_usage(args: tuple[str, ...]) -> None:
    """Wrong usage is code 2, and the application is not asked anything."""
    app = FakeApp()
    assert invoke(app, *args).exit_code == 2
    assert app.asked == []


def test_run_is_dry_unless_told(config: str) -> None:
    """Only the option --live makes a run live."""
    app = FakeApp()
    invoke(app, "run", "--config", config)
    invoke(app, "run", "--config", config, "--live")
    invoke(app, "run", "--config", config, "--once")
    assert app.asked == [("run", False, False), ("run", True, False), ("run", False, True)]


def test_configuration_is_found(config: str, tmp_path: Path) -> None:
    """--config, then KEEPER_CONFIG, then ./keeper.toml; a named file that is missing is code 10."""
    app = FakeApp()
    assert invoke(app, "run", KEEPER_CONFIG=config).exit_code == 0
    assert invoke(app, "run").exit_code == 10
    (tmp_path / "keeper.toml").write_text(CONFIG)
    assert invoke(app, "run").exit_code == 0
    missing = invoke(app, "run", "--config", str(tmp_path / "nothing.toml"))
    assert missing.exit_code == 10
    assert "nothing.toml does not exist" in missing.stderr


def test_wrong_configuration_names_every_key(config: str) -> None:
    """All wrong keys stand on standard error, and no value of them."""
    result = invoke(
        FakeApp(),
        "run",
        "--config",
        config,
        KEEPER__STRATEGY__PROFIT_FLOOR="7777",
        KEEPER__STRATEGY__PROFIT_FLOR="8888",
    )
    assert result.exit_code == 10
    assert "has 2 errors" in result.stderr
    assert "strategy.profit_floor (KEEPER__STRATEGY__PROFIT_FLOOR): needs a unit" in result.stderr
    assert "did you mean strategy.profit_floor?" in result.stderr
    assert "7777" not in result.stderr
    assert "8888" not in result.stderr


def test_scan(config: str) -> None:
    """A table for people, with health factors cut off and not rounded; JSON with exact strings."""
    table = invoke(FakeApp(), "scan", "--config", config)
    assert "0.9999" in table.stdout
    assert "1.0000" not in table.stdout
    assert "no debt" in table.stdout
    assert "1,234.56" in table.stdout
    assert "spark is unknown: not synced [yet]" in table.stdout
    found = json.loads(invoke(FakeApp(), "scan", "--config", config, "--json").stdout)
    assert found["block"]["number"] == 100
    assert found["borrowers"][0] == {
        "market": "aave",
        "borrower": "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB",
        "health_factor": "999999999999999999",
        "liquidatable": True,
        "collateral_value": "123456789012",
        "debt_value": "100000000000",
        "base_unit": "100000000",
    }
    assert found["borrowers"][1]["health_factor"] is None


def test_explain(config: str) -> None:
    """The borrower reaches the application in lower case; table and JSON show candidates, gates and the reason."""
    app = FakeApp()
    table = invoke(app, "explain", "0x" + "AB" * 20, "--market", "aave", "--config", config)
    assert app.asked == [("explain", BORROWER, "aave")]
    for text in (
        "0.9500",
        "1,000 USDC",
        "0.6 WETH",
        "[thin] pool",
        "profit_floor",
        "closed",
        "left alone (unprofitable)",
    ):
        assert text in table.stdout, table.stdout
    (found,) = json.loads(invoke(app, "explain", BORROWER, "--config", config, "--json").stdout)
    assert found["skip"] == {
        "reason": "unprofitable",
        "detail": "it does not pay",
        "numbers": {"net": "-5000000000000000"},
    }
    assert found["candidates"][0]["repay"] == "1000000000"
    assert found["gates"][0]["passed"] is False
    assert found["plan"] is None


def test_doctor(config: str) -> None:
    """Findings with their fixes; a failed check is code 11, also with --json."""
    good = invoke(FakeApp(), "doctor", "--config", config)
    assert good.exit_code == 0
    assert "fix: wait" in good.stdout
    bad = invoke(FakeApp(), "doctor", "--live", "--config", config)
    assert bad.exit_code == 11
    assert "fix: move it away" in bad.stdout
    assert "the doctor says no to: journal" in bad.stderr
    as_json = invoke(FakeApp(), "doctor", "--live", "--json", "--config", config)
    assert as_json.exit_code == 11
    assert json.loads(as_json.stdout)["checks"][1]["level"] == "fail"


@pytest.mark.parametrize(
    ("since", "block", "at"), [("123", 123, 0), ("1970-01-02", 0, 86400), ("1970-01-01T01:00:00+01:00", 0, 0)]
)
def test_report_since(config: str, since: str, block: int, at: int) -> None:
    """--since takes a block or a date in UTC."""
    app = FakeApp()
    assert invoke(app, "report", "--since", since, "--config", config).exit_code == 0
    assert app.asked == [("report", block, at, False)]


def test_report(config: str) -> None:
    """A duration goes back from now; the answer is a table or JSON."""
    app = FakeApp()
    table = invoke(app, "report", "--since", "24h", "--config", config)
    assert app.asked[0][2] > 1_600_000_000
    assert "a live keeper would have earned about 0.500000 ETH" in table.stdout
    assert json.loads(invoke(app, "report", "--json", "--config", config).stdout) == {
        "mode": "dry",
        "dry_net": "500000000000000000",
        "rows": [],
    }


def test_deploy_asks_first(config: str) -> None:
    """Deployment asks unless --yes is given; a refusal is passed on."""
    app = FakeApp()
    CliRunner().invoke(cli, ["deploy", "--config", config], obj=Session(app), input="n\n")
    invoke(app, "deploy", "--yes", "--config", config)
    assert app.asked == [("deploy", False), ("deploy", True)]


def test_demo_and_devchain(tmp_path: Path) -> None:
    """Neither needs a configuration."""
    app = FakeApp()
    assert "earned 0.010000 ETH, in 42 s" in invoke(app, "demo").stdout
    assert json.loads(invoke(app, "demo", "--json").stdout)["earned"] == "10000000000000000"
    assert invoke(app, "devchain", "--port", "0", "--config", "x.toml").exit_code == 0
    assert app.asked[-1] == ("devchain", Path("x.toml"), 0, None)
    model = tmp_path / "Model.sol"
    model.touch()
    assert invoke(app, "devchain", "--comet-model", str(model)).exit_code == 0
    assert app.asked.pop() == ("devchain", None, 8545, model)


def test_config_commands(config: str) -> None:
    """validate, show and schema; show masks secrets and names the source of each value."""
    app = FakeApp()
    assert "valid: chain 1, 1 markets" in invoke(app, "config", "validate", "--config", config).stdout
    shown = invoke(app, "config", "show", "--config", config, "--json", KEEPER__CHAIN__BLOCK_TIME="2s")
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert rows["chain.endpoints"] == ("wss://node.example/***", config)
    assert rows["signer.password"] == ("********", "environment KEEPER__SIGNER__PASSWORD")
    assert rows["chain.block_time"] == ("2s", "environment KEEPER__CHAIN__BLOCK_TIME")
    assert rows["strategy.profit_floor"] == ("0.01 ether", "default")
    table = invoke(app, "config", "show", "--config", config)
    assert "wss://node.example/***" in table.stdout
    assert PASSWORD not in shown.output + table.output
    assert "strategy.profit_floor" in invoke(app, "config", "schema").stdout
    schema = json.loads(invoke(app, "config", "schema", "--json").stdout)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Strategy"]["properties"]["profit_floor"]["default"] == "0.01 ether"


def test_health_asks_where_the_configuration_says(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`health` asks the configured address; not alive is code 11 with the reason."""
    asked: list[tuple[str, int]] = []

    async def answer(host: str, port: int) -> Health:
        asked.append((host, port))
        return Health() if port == 7000 else Health(("the loop hangs",))

    monkeypatch.setattr("keeper.cli.ask_livez", answer)
    assert invoke(FakeApp(), "health", "--config", config, KEEPER__OPS__HTTP_PORT="7000").exit_code == 0
    dead = invoke(FakeApp(), "health", "--config", config)
    assert dead.exit_code == 11
    assert "the loop hangs" in dead.stderr
    assert asked == [("127.0.0.1", 7000), ("127.0.0.1", 9464)]


def test_help_names_every_command() -> None:
    """--help lists what the README promises, and works without a configuration."""
    result = invoke(FakeApp(), "--help")
    assert result.exit_code == 0
    for name in ("run", "scan", "explain", "doctor", "report", "deploy", "devchain", "demo", "config", "health"):
        assert f"\n  {name} " in result.stdout
        assert invoke(FakeApp(), name, "--help").exit_code == 0
