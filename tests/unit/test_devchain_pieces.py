"""The parts of the private chain that need no chain."""

from __future__ import annotations

import math
import socket
import threading
import time
from pathlib import Path

import pytest
from eth_utils.crypto import keccak

from keeper.devchain import anvil as anvil_module
from keeper.devchain import artifacts
from keeper.devchain.anvil import Anvil, find_anvil
from keeper.devchain.artifacts import Artifact
from keeper.devchain.calls import calldata, topic
from keeper.devchain.cast import COMET_BORROWERS, MORPHO_BORROWERS
from keeper.devchain.catalogue import POOLS, SPECS
from keeper.devchain.deploy import created_address
from keeper.devchain.scenario import BORROWERS, CRASH, Expected, debts
from keeper.devchain.store import stored
from keeper.devchain.uniswap import SPACING, dollars, positions, sqrt_price
from keeper.errors import ConfigError
from keeper.model import address

pytestmark = pytest.mark.unit


def test_calldata_encodes_nested_and_empty_signatures() -> None:
    """Selectors and arguments are those of the ABI, for plain, empty and tuple-array signatures."""
    to = "0x" + "11" * 20
    assert calldata("transfer(address,uint256)", to, 5).hex() == "a9059cbb" + "00" * 12 + "11" * 20 + f"{5:064x}"
    assert calldata("deposit()").hex() == "d0e30db0"
    nested = calldata("f((uint8,bytes)[])", [(1, b"x")])
    assert nested[:4] == keccak(text="f((uint8,bytes)[])")[:4]
    assert nested[4:].hex().startswith(f"{32:064x}{1:064x}{32:064x}{1:064x}{64:064x}{1:064x}78")


def test_topics_are_the_published_ones() -> None:
    """The feed's event has Chainlink's topic."""
    published = "0x0559884fd3a460db3073b7fc896cc77986f16e378210ded43186175bf646fc5f"
    assert topic("AnswerUpdated(int256,uint256,uint256)") == published


@pytest.mark.parametrize(
    ("nonce", "expected"),
    [
        (0, "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"),
        (1, "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8"),
        (2, "0xf778b86fa74e846c4f0a1fbd1335fe81c00a0c91"),
    ],
)
def test_created_addresses_match_known_ones(nonce: int, expected: str) -> None:
    """Widely published addresses of one sender's first contracts come out."""
    assert created_address(address("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"), nonce) == expected


def test_libraries_are_put_into_their_holes() -> None:
    """Linking replaces exactly the placeholder's 20 bytes, at every place, and appends the arguments."""
    hole = "__$" + "a" * 34 + "$__"
    artifact = Artifact("X", "6001" + hole + "6002" + hole, (("L", (2, 24)),), ("uint256",))
    library = address("0x" + "cd" * 20)
    assert artifact.creation({"L": library}, 7).hex() == "6001" + "cd" * 20 + "6002" + "cd" * 20 + f"{7:064x}"


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without node_modules the error names the package and the command."""
    monkeypatch.setattr(artifacts, "MODULES", tmp_path)
    with pytest.raises(ConfigError, match=r"@aave/core-v3 is not installed .* `make install`"):
        artifacts.package_version("@aave/core-v3")


def test_no_anvil_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without anvil on PATH or in node_modules there is one sentence with both remedies; outside a checkout another."""
    monkeypatch.setattr(anvil_module, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="installed copy: use a clone"):
        anvil_module.find_anvil()
    (tmp_path / "package.json").touch()
    with pytest.raises(ConfigError, match=r"neither on PATH nor at .*make install.*getfoundry"):
        find_anvil()


def test_anvil_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person's own Foundry is used before the packaged one."""
    mine = tmp_path / "anvil"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_anvil() == str(mine)


def test_what_is_built_once_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight callers at once share one build, and later ones read it."""
    monkeypatch.setenv("KEEPER_CACHE", str(tmp_path / "cache"))
    built: list[int] = []

    def build(directory: Path) -> None:
        built.append(1)
        time.sleep(0.05)
        (directory / "thing").write_text("done")

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append((stored("k/x", build) / "thing").read_text())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["done"] * 8
    assert len(built) == 1


def test_a_failed_build_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After a build that broke off, the next call builds anew."""
    monkeypatch.setenv("KEEPER_CACHE", str(tmp_path))

    def broken(directory: Path) -> None:
        (directory / "thing").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stored("k/y", broken)
    assert [path.name for path in (tmp_path / "k").iterdir()] == ["y.lock"]
    assert (stored("k/y", lambda directory: (directory / "thing").touch()) / "thing").read_text() == ""


def test_an_unwritable_cache_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache path below a file is refused in one sentence that names the variable."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KEEPER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="set KEEPER_CACHE"):
        stored("x", lambda directory: None)


def test_anvil_failure_never_shows_the_forked_url() -> None:
    """What anvil said is passed on without the endpoint, which may carry a key."""
    secret = "http://user:hunter2@127.0.0.1:9/v3/0123456789abcdef"
    failed = Anvil(fork_url=secret)._explain(1, f"Error: failed to get {secret}\n")
    assert "hunter2" not in failed
    assert "failed to get <the forked endpoint>" in failed


@pytest.mark.parametrize("number", [n for n, spec in enumerate(POOLS) if spec.kind == "v3"])
def test_seeded_positions_are_valid_and_surround_the_price(number: int) -> None:
    """Every position is on the spacing with positive liquidity, most hold the price, and the same seed repeats them."""
    pool = POOLS[number]
    a, b = pool.tokens
    made = positions(pool, a, b, number)
    assert made == positions(pool, a, b, number)
    assert len(made) == pool.ranges + 1
    tick = math.floor(2 * math.log(sqrt_price(a, b) / 2**96) / math.log(1.0001))
    spacing = SPACING[pool.fee]
    for lower, upper, liquidity in made:
        assert lower < upper
        assert lower % spacing == upper % spacing == 0
        assert liquidity > 0
    assert made[0][0] < -880_000 < 880_000 < made[0][1]
    assert sum(lower <= tick < upper for lower, upper, _ in made) > pool.ranges // 2


def test_prices_and_amounts_agree() -> None:
    """√price is the feeds' ratio in base units, and a dollar amount is worth its dollars."""
    for a, b in (("WETH", "USDC"), ("WBTC", "WETH"), ("DAI", "USDC")):
        raw = (sqrt_price(a, b) / 2**96) ** 2 * 10 ** (SPECS[a].decimals - SPECS[b].decimals)
        assert raw == pytest.approx(SPECS[a].price / SPECS[b].price, rel=1e-9)
    assert dollars("WETH", 6_000) == 2 * 10**18
    assert dollars("USDC", 1, {"USDC": 10**8}) == 10**6


def test_borrowers_are_distinct_and_cover_every_expectation() -> None:
    """No two staged accounts coincide, each owes something, and each kind of expectation occurs."""
    cast = (*BORROWERS, *MORPHO_BORROWERS, *COMET_BORROWERS)
    assert len({borrower.account for borrower in cast}) == len({borrower.label for borrower in cast}) == len(cast) >= 36
    assert {borrower.expected for borrower in cast} == set(Expected)
    for borrower in BORROWERS:
        assert all(amount > 0 for amount in debts(borrower).values()), borrower.label
        assert sum(borrower.debt.values()) == 100
        assert (borrower.health >= 1_000) == (borrower.expected is Expected.HEALTHY)
    assert CRASH["WETH"] < SPECS["WETH"].price


def test_unit_tests_cannot_open_sockets() -> None:
    """The guard in conftest is on: a connection attempt fails the test that makes it."""
    with socket.socket() as client, pytest.raises(AssertionError, match="tried to open a socket"):
        client.connect(("127.0.0.1", 9))
