"""The doctor: its order and its answers for each way in which a node, a key or a disk can be wrong."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.refusals import Kind, Refusal
from keeper.config import Config, load
from keeper.errors import BadData, CheckFailed, ConfigError, Transient
from keeper.model import (
    Account,
    Address,
    Candidate,
    FeeQuote,
    FlashOffer,
    Hash,
    Head,
    Hop,
    Plan,
    Read,
    Route,
    Seizure,
    Simulation,
    Token,
)
from keeper.model import (
    Path as Pools,
)
from keeper.ops import checks, tables
from keeper.ops.checkup import Hooks, checkup
from keeper.ops.doctor import Check, Finding, Level, Report, Result, examine
from keeper.ops.views import ExplainView, GateRow

pytestmark = pytest.mark.unit

SIGNER = Address("0x" + "ab" * 20)
EXECUTOR = "0x000000000000000000000000000000000000dEaD"
CONFIG = """
[chain]
id = 1
endpoints = ["wss://node.example/v2/0123456789abcdef"]
[data]
dir = "data"
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 50
[venues.v3]
kind = "uniswap_v3"
address = "0x1F98431c8aD98523631AE4a59f267346ea31F984"
start_block = 40
"""


class Node:
    """A node that answers from a dictionary; a value may be an exception to raise."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "web3_clientVersion": "anvil/1",
            "eth_chainId": "0x1",
            "eth_getBlockByNumber": {
                "number": "0x64",
                "hash": "0x" + "01" * 32,
                "parentHash": "0x" + "02" * 32,
                "timestamp": hex(1_000),
                "baseFeePerGas": "0x1",
                "gasUsed": "0x0",
                "gasLimit": "0x1c9c380",
            },
            "eth_getLogs": [],
            "eth_getCode": "0x6001",
            "eth_getBalance": hex(10**19),
            "eth_simulateV1": [],
            "eth_call": "0x",
        } | answers
        self.echo = True

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer(params) if callable(answer) else answer

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self.request(method, params) for method, params in calls]

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        return [read.data if self.echo else None for read in reads]

    def logs(self, watch: Any, first: int, last: int) -> Any:
        raise NotImplementedError


def config(tmp_path: Path, extra: str = "") -> Config:
    path = tmp_path / "keeper.toml"
    path.write_text(CONFIG + extra)
    return load(path, {})


def hooks(**changed: Any) -> Hooks:
    async def signer() -> Address | None:
        return SIGNER

    async def fine(*_: Any) -> None:
        return None

    async def journal() -> str:
        return "journal is empty"

    found = Hooks(load_signer=signer, verify_executor=fine, open_journal=journal, markets={"aave": fine})
    return replace(found, **changed)


def raising(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(*_: Any) -> Any:
        raise error

    return fail


async def answer(value: Any) -> Any:
    return value


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeper.ops.checks.time.time", lambda: 1_010.0)
    for check in (checks.head_age, checks.clock_skew):
        monkeypatch.setattr(check, "__defaults__", (lambda: 1_010.0,))


async def test_a_healthy_keeper_passes_everything(tmp_path: Path) -> None:
    """With a good node, key and disk every check is ok or does not apply, and live runs may start."""
    built = config(tmp_path, f'[executor]\naddress = "{EXECUTOR}"\n')
    node = Node()
    report = await examine(checkup(built, {"wss://a": node}, node, hooks(), live=True))
    assert report.passed, report.json()
    assert {result.finding.level for result in report.results} <= {Level.OK, Level.SKIP}
    report.require()
    names = [result.name for result in report.results]
    assert len(names) == len(set(names))


CASES: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    ({"eth_chainId": "0x5"}, {}, "chain", "the node is on chain 5, not 1", "mend chain.id"),
    ({"eth_chainId": Transient("timed out")}, {}, "chain", "timed out", "check chain.endpoints"),
    ({"eth_chainId": {"no": "sense"}}, {}, "chain", "where a chain id was expected", "check chain.endpoints"),
    ({"eth_getCode": "0x"}, {}, "contracts", "no contract at tokens.wrapped_native (0xC02", "mend the address"),
    (
        {"eth_getLogs": Refusal(Kind.BEHIND, -32000, "history has been pruned", "wss://a")},
        {},
        "history",
        "history has been pruned",
        "use a node that keeps old blocks",
    ),
    ({}, {"load_signer": raising(ConfigError("the keystore is locked"))}, "signer", "locked", "[signer]"),
    ({}, {"load_signer": lambda: answer(None)}, "signer", "no key is configured", "set signer.keystore"),
    ({"eth_getBalance": "0x0"}, {}, "signer balance", "holds 0 wei", "send it some"),
    ({}, {"verify_executor": lambda _: answer("it is paused")}, "executor", "it is paused", "keeper deploy"),
    ({}, {"open_journal": raising(ConfigError("the journal is foreign"))}, "journal", "foreign", ""),
    ({}, {"markets": {"aave": raising(BadData("nonsense"))}}, "market aave", "nonsense", ""),
]


@pytest.mark.parametrize(("answers", "changed", "name", "text", "fix"), CASES)
async def test_what_is_wrong_is_named_with_its_fix(
    tmp_path: Path, answers: dict[str, Any], changed: dict[str, Any], name: str, text: str, fix: str
) -> None:
    """Each fault fails its own check, in words, with the fix, and stops a live keeper."""
    built = config(tmp_path, f'[executor]\naddress = "{EXECUTOR}"\n')
    node = Node(**answers)
    report = await examine(checkup(built, {"wss://a": node}, node, hooks(**changed), live=True))
    found = {result.name: result.finding for result in report.failed}
    assert text in found[name].text
    assert fix in found[name].fix
    with pytest.raises(CheckFailed, match="of keeper doctor failed"):
        report.require()


async def test_one_dead_endpoint_is_a_warning(tmp_path: Path) -> None:
    """While another endpoint answers, a dead one warns, and nothing more is asked of it."""
    good, dead = Node(), Node(web3_clientVersion=Transient("refused"))
    report = await examine(checkup(config(tmp_path), {"good": good, "dead": dead}, good, hooks(), live=False))
    found = {result.name: result.finding.level for result in report.results}
    assert report.passed
    assert found["endpoint dead"] is Level.WARN
    assert found["chain id dead"] is Level.SKIP
    assert found["chain id good"] is Level.OK


async def test_one_endpoint_on_another_chain_is_a_failure(tmp_path: Path) -> None:
    """An endpoint on a wrong chain is never shrugged off: failover could land there."""
    good, wrong = Node(), Node(eth_chainId="0x5")
    report = await examine(checkup(config(tmp_path), {"good": good, "wrong": wrong}, good, hooks(), live=False))
    assert [result.name for result in report.failed] == ["chain id wrong"]


async def test_a_dry_run_needs_no_signer_and_no_executor(tmp_path: Path) -> None:
    """Without key and executor a dry run passes; they are skipped with the reason."""
    node = Node()
    without = hooks(load_signer=lambda: answer(None))
    report = await examine(checkup(config(tmp_path), {"a": node}, node, without, live=False))
    assert report.passed
    found = {result.name: result.finding for result in report.results}
    assert found["signer"].level is found["executor"].level is Level.SKIP
    assert "a dry run injects its code" in found["executor"].text


@pytest.mark.parametrize(
    ("ask", "level", "text"),
    [
        (lambda node: checks.head_age(node, 60), Level.OK, "10 s old"),
        (lambda node: checks.head_age(node, 5), Level.FAIL, "10 s old (limit 5 s)"),
        (checks.clock_skew, Level.OK, "not behind"),
        (lambda node: checks.clock_skew(node, lambda: 900.0), Level.FAIL, "at least 100 s behind"),
        (checks.block_reads, Level.OK, "pinned"),
        (lambda node: checks.simulation_method(node, SIGNER), Level.OK, "offered"),
        (lambda node: checks.signer_balance(node, SIGNER, 10**9), Level.OK, "10 ether"),
        (lambda node: checks.signer_balance(node, SIGNER, 10**14), Level.WARN, "less than 5 attempts"),
        (lambda node: checks.signer_balance(node, None, 1), Level.SKIP, "no key"),
        (lambda node: checks.market_known(lambda: answer("revision 99")), Level.WARN, "revision 99"),
    ],
)
async def test_single_checks(ask: Callable[[Node], Awaitable[Finding]], level: Level, text: str) -> None:
    """Each question on its own, with its limits."""
    found = await ask(Node())
    assert found.level is level
    assert text in found.text


async def test_reads_that_lie_are_noticed() -> None:
    """A node whose bundled reads give other bytes than asked for fails."""
    node = Node()
    node.echo = False
    assert (await checks.block_reads(node)).level is Level.FAIL


async def test_simulation_falls_back() -> None:
    """A node without eth_simulateV1 is a warning; one that cannot override state either is a failed request."""
    unknown = Refusal(Kind.UNSUPPORTED, -32601, "the method does not exist", "wss://a")
    assert (await checks.simulation_method(Node(eth_simulateV1=unknown), SIGNER)).level is Level.WARN
    with pytest.raises(Refusal):
        await checks.simulation_method(Node(eth_simulateV1=unknown, eth_call=unknown), SIGNER)


async def test_data_directory(tmp_path: Path) -> None:
    """A file where the folder should be is a failure; a folder is made when missing and left empty."""
    (tmp_path / "file").write_text("")
    assert (await checks.data_dir(tmp_path / "file" / "x")).level is Level.FAIL
    assert (await checks.data_dir(tmp_path / "a" / "b")).level in (Level.OK, Level.WARN)
    assert list((tmp_path / "a" / "b").iterdir()) == []


async def test_secret_files(tmp_path: Path) -> None:
    """Files others can read are named with the command that mends it; missing ones fail."""
    assert (await checks.secret_files(config(tmp_path))).level is Level.SKIP
    key = tmp_path / "key.json"
    key.write_text("{}")
    built = config(tmp_path, '[signer]\nkeystore = "key.json"\n')
    key.chmod(0o644)
    exposed = await checks.secret_files(built)
    assert exposed.level is Level.WARN
    assert exposed.fix == f"chmod 600 {key}"
    key.chmod(0o600)
    assert (await checks.secret_files(built)).level is Level.OK
    key.unlink()
    assert (await checks.secret_files(built)).level is Level.FAIL


async def test_dependents_are_left_out_and_bugs_are_not_hidden() -> None:
    """What needs a failed check is skipped, through any number of steps; an unknown exception is not a finding."""
    heard: list[Result] = []
    found = [
        Check("a", raising(Transient("down")), fix="restart it"),
        Check("b", lambda: answer(Finding.ok("fine")), ("a",)),
        Check("c", lambda: answer(Finding.ok("fine")), ("b",)),
        Check("d", lambda: answer(Finding.ok("fine"))),
    ]
    report = await examine(found, heard.append)
    assert [result.finding.level for result in report.results] == [Level.FAIL, Level.SKIP, Level.SKIP, Level.OK]
    assert list(report.results) == heard
    assert report.results[0].finding.fix == "restart it"
    with pytest.raises(RuntimeError):
        await examine([Check("bug", raising(RuntimeError("bug")))])


def shown(thing: Any) -> str:
    out = io.StringIO()
    tables.console(out).print(thing)
    return out.getvalue()


def test_findings_as_text() -> None:
    """Level, name and text on one line, the fix below; the sum at the end."""
    result = Result("chain", Finding.fail("it is [5]", "mend chain.id"))
    assert shown(tables.finding(result)).splitlines() == ["fail chain: it is [5]", "     fix: mend chain.id"]
    assert shown(tables.doctor(Report((result,)))).strip() == "1 fail"


def test_a_plan_with_a_loan_and_a_split_route() -> None:
    """The plan's table and JSON carry funding, the shares of the route, cost and net."""
    weth, usdc = Token(Address("0x" + "11" * 20), "WETH", 18), Token(Address("0x" + "22" * 20), "USDC", 6)
    head = Head(7, Hash("0x" + "01" * 32), Hash("0x" + "02" * 32), 1_000, 10**9)
    hops = [
        Hop("uniswap_v3", Address("0x" + f"{n:040x}"), weth.address, usdc.address, 10**18 * n, 2_000 * 10**6 * n)
        for n in (1, 3)
    ]
    route = Route(weth.address, usdc.address, tuple(Pools((hop,)) for hop in hops), 200_000, exact_out=True)
    plan = Plan(
        market="aave",
        borrower=SIGNER,
        head=head,
        timestamp=1_012,
        debt=usdc,
        collateral=weth,
        repay=7_900 * 10**6,
        budget=7_901 * 10**6,
        seizure=Seizure(7_900 * 10**6, 41 * 10**17, 10**15),
        loan=FlashOffer("aave", SIGNER, usdc.address, 7_901 * 10**6, 3_950_500, 100_000),
        buy=route,
        sell=None,
        profit_token=weth.address,
        gain=10**17,
        gas=600_000,
        fees=FeeQuote(10**9, 10**9),
        sanity_bound=2 * 10**17,
        health_factor=95 * 10**16,
    )
    view = ExplainView(
        1,
        "aave",
        head,
        Account(SIGNER, 95 * 10**16, 10**12, 9 * 10**11),
        10**8,
        "ETH",
        candidates=(Candidate(usdc, weth, 1, 1, "aave", 1, 1, 1),),
        plan=plan,
        gates=(GateRow("profit_floor", passed=True, detail="enough"),),
        simulation=Simulation(head, ok=True, gain=10**17, gas_used=590_000),
    )
    text = shown(tables.explain(view))
    for part in (
        "aave lends 7,901 USDC plus 3.9505 USDC",
        "25.00 % through uniswap_v3",
        "75.00 % through uniswap_v3",
        "600,000 at 2.00 gwei is 0.001200 ETH",
        "0.098800 ETH",
        "simulation at block 7: gains 0.100000 ETH with 590,000 gas",
        "verdict: would be sent",
    ):
        assert part in text, text
    found = view.json()
    assert found["plan"]["net"] == str(plan.net)
    assert found["plan"]["buy"]["paths"][1][0]["amount_in"] == str(3 * 10**18)
    assert found["plan"]["loan"]["premium"] == "3950500"
    assert found["skip"] is None
    on_a_roll_up = replace(view, plan=replace(plan, fees=replace(plan.fees, data_fee=10**14)))
    told = shown(tables.explain(on_a_roll_up))
    assert "600,000 at 2.00 gwei is 0.001300 ETH, 0.000100 ETH of it for data" in told, told
