"""A Comet-like market on the private chain, as an operator starts it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from keeper.config import load
from keeper.devchain.comet import comet_contracts
from keeper.devchain.rpc import Rpc
from keeper.devchain.serve import serve
from keeper.errors import ConfigError
from tests.support.comet_driver import MODEL

pytestmark = pytest.mark.parity


def test_the_private_chain_carries_a_market(tmp_path: Path) -> None:
    """With the model's path the configuration names one market more, whose contract is there and empty."""
    lines: list[str] = []
    stop = threading.Event()
    path = tmp_path / "devchain.toml"
    thread = threading.Thread(
        target=serve,
        args=(path, 0, 0.05),
        kwargs={"comet_model": MODEL, "say": lines.append, "stop": stop},
    )
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        market = load(path, {}).markets["comet"]
        rpc = Rpc(lines[0].split("(")[1].split(")")[0])
        assert market.protocol == "compound_v3"
        assert rpc.view(market.address, "numAssets()", returns="uint8") == 4
        assert rpc.view(market.address, "getReserves()", returns="int256") == 0
        assert 0 < market.start_block <= rpc.number()
        rpc.close()
    finally:
        stop.set()
        thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere, and a file without the contracts, are configuration errors."""
    with pytest.raises(ConfigError, match="cannot be read"):
        comet_contracts(tmp_path / "missing.sol")
    other = tmp_path / "Other.sol"
    other.write_text("// SPDX-License-Identifier: MIT\npragma solidity ^0.8.20;\ncontract Other {}\n")
    with pytest.raises(ConfigError, match="has no contract CometModel"):
        comet_contracts(other)
