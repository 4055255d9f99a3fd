"""Fixtures every test may use: an empty private chain, the built world, and a fork of it, reset after each test."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from keeper.devchain.anvil import Anvil
from keeper.devchain.rpc import Rpc
from keeper.devchain.world import Built, World, ensure_world
from tests.support.fork import Fork, ForkKeeper

KINDS = ("unit", "property", "parity", "e2e")
MAINNET_BLOCK = 23_000_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Insist that every test says which kind it is; `mainnet` and `long` come on top."""
    wrong = [item.nodeid for item in items if sum(item.get_closest_marker(k) is not None for k in KINDS) != 1]
    if wrong:
        raise pytest.UsageError(f"exactly one marker of {', '.join(KINDS)} is needed on: {', '.join(wrong)}")


@pytest.fixture(autouse=True)
def _no_sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit and property tests talk to nobody: a connection attempt fails the test."""
    if request.node.get_closest_marker("unit") is None and request.node.get_closest_marker("property") is None:
        return

    def refuse(self: socket.socket, *_: Any) -> NoReturn:
        raise AssertionError("a unit or property test tried to open a socket: use a fake, or mark it parity or e2e")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    """An empty private chain of its own; mines when asked to."""
    with Anvil() as running:
        yield running


@pytest.fixture(scope="session")
def built() -> Built:
    """The built world on disk, made now if it is not cached."""
    return ensure_world()


@pytest.fixture(scope="session")
def world(built: Built) -> World:
    """Addresses of everything in the built world."""
    return built.world


@pytest.fixture(scope="session")
def base(built: Built) -> Iterator[Anvil]:
    """The "mainnet" the forks fork from. Read it, never write to it."""
    with built.start() as running:
        yield running


@pytest.fixture(scope="session")
def _forks(base: Anvil, world: World) -> Iterator[ForkKeeper]:
    keeper = ForkKeeper(base, world)
    yield keeper
    keeper.stop()


@pytest.fixture
def fork(_forks: ForkKeeper) -> Iterator[Fork]:
    """The built world, to do anything to; put back after the test."""
    with _forks.lend() as lent:
        yield lent


@pytest.fixture(scope="session")
def _mainnet() -> Iterator[Anvil]:
    url = os.environ.get("MAINNET_RPC_URL")
    if not url:
        pytest.skip("MAINNET_RPC_URL is not set")
    with Anvil(fork_url=url, fork_block=MAINNET_BLOCK, chain_id=None, cache_fork=True) as running:
        yield running


@pytest.fixture
def mainnet_fork(_mainnet: Anvil) -> Iterator[Rpc]:
    """Ethereum mainnet at a pinned block; put back after the test. Skipped without MAINNET_RPC_URL."""
    snapshot = _mainnet.rpc.request("evm_snapshot")
    yield _mainnet.rpc
    _mainnet.rpc.request("evm_revert", snapshot)
