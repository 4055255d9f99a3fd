"""The private chain in the foreground, as an operator starts it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from eth_account import Account

from keeper.config import load
from keeper.devchain.anvil import Anvil
from keeper.devchain.rpc import Rpc
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, serve, write_config
from keeper.devchain.world import Built, World
from keeper.errors import ConfigError

pytestmark = pytest.mark.parity


def _http(lines: list[str]) -> str:
    """The HTTP URL in what `serve` said first."""
    return lines[0].split("(")[1].split(")")[0]


def test_the_configuration_is_ready_to_use(built: Built, tmp_path: Path) -> None:
    """What `serve` writes loads without a change and names the chain's markets, venues and a funded key."""
    lines: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=serve,
        args=(tmp_path / "new" / "dir" / "devchain.toml", 0, 0.05),
        kwargs={"say": lines.append, "stop": stop},
    )
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        path = tmp_path / "new" / "dir" / "devchain.toml"
        assert str(path) in lines[1]
        config = load(path, {})
        rpc = Rpc(_http(lines))
        assert config.chain.id == int(rpc.request("eth_chainId"), 16)
        assert config.chain.endpoints[0].reveal() == rpc.url.replace("http", "ws")
        assert config.chain.block_time == 0.05
        assert {name: market.address for name, market in config.markets.items()} == {
            name: market.addresses_provider for name, market in built.world.markets.items()
        } | {"morpho": built.world.morpho.address}
        assert config.tokens.wrapped_native == built.world.tokens["WETH"].address
        assert {venue.kind for venue in config.venues.values()} == {"uniswap_v2", "uniswap_v3"}
        for root in [m.address for m in config.markets.values()] + [v.address for v in config.venues.values()]:
            assert rpc.request("eth_getCode", root, "latest") != "0x"
        assert config.signer.private_key is not None
        assert Account.from_key(config.signer.private_key.reveal()).address.lower() == OPERATOR
        assert int(rpc.request("eth_getBalance", OPERATOR, "latest"), 16) > 10**18
        assert stat.S_IMODE((path.parent / "operator.key").stat().st_mode) == 0o600
        assert World.from_json((path.parent / "world.json").read_text()) == built.world

        assert abs(int(rpc.block()["timestamp"], 16) - time.time()) < 30
        feed = built.world.feeds["WETH"].proxy
        updated = rpc.view(feed, "latestRoundData()", returns="uint80,int256,uint256,uint256,uint80")[3]
        assert abs(updated - time.time()) < 30
        height = rpc.number()
        rpc.request("evm_mine")  # somebody else mining in between does not end it
        while rpc.number() < height + 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert rpc.number() >= height + 4
        rpc.close()
    finally:
        stop.set()
        thread.join(30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(rpc.url.rsplit(":", 1)[1]))) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(built: Built, tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end the process with code 0 and take anvil along; both are ready within five seconds."""
    code = (
        "import functools, pathlib, sys; from keeper.devchain.serve import serve; "
        "serve(pathlib.Path(sys.argv[1]), 0, 0.2, say=functools.partial(print, flush=True))"
    )
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "keeper.toml")],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    try:
        url = _http([process.stdout.readline()])
        assert time.monotonic() - began < 5
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0


def test_an_unwritable_directory_is_one_sentence(world: World, tmp_path: Path) -> None:
    """A directory below a file is refused before anything runs in it."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_config(world, Anvil(), tmp_path / "file" / "x" / "keeper.toml")


def test_the_operators_key_is_the_operators() -> None:
    """The published key belongs to the published address."""
    assert Account.from_key(OPERATOR_KEY).address.lower() == OPERATOR
