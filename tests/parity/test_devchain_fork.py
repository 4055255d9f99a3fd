"""The fixtures themselves: a test gets a fresh world whatever the one before it did."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from keeper.devchain.actors import Actors, Reverted, account
from keeper.devchain.anvil import Anvil, ChainFailed
from keeper.devchain.rpc import RpcError
from keeper.devchain.world import World
from tests.support.fork import Fork, ForkKeeper

pytestmark = pytest.mark.parity


def _play(actors: Actors) -> list[tuple[str, ...]]:
    """Some of everything; returns what its blocks hold (not their hashes: anvil fills an unused field at will)."""
    start = actors.rpc.number()
    user = account("player")
    actors.open_position(actors.world.main, user, {"WETH": 10**19}, {"USDT": 9_000 * 10**6})
    actors.set_price("WETH", 2_500 * 10**8)
    actors.align({symbol: actors.price(symbol) for symbol in actors.world.tokens})
    actors.mine(3_600)
    blocks = [actors.rpc.block(n) for n in range(start + 1, actors.rpc.number() + 1)]
    return [tuple(b[key] for key in ("stateRoot", "receiptsRoot", "timestamp", "baseFeePerGas")) for b in blocks]


def _disturb(fork: Fork) -> None:
    """Leave behind everything a careless test could."""
    rpc, actors = fork.rpc, fork.actors
    actors.mine(86_400 * 30)
    rpc.request("evm_increaseTime", 1_000_000)
    rpc.request("evm_mine")
    rpc.request("anvil_reorg", 1, [])
    rpc.request("anvil_setBlockTimestampInterval", 7)
    rpc.request("evm_setAutomine", True)
    actors.fund_native(account("payer"), 10**20)
    rpc.request("eth_sendTransaction", {"from": account("payer"), "to": account("payee"), "value": "0x1"})
    rpc.request("evm_setAutomine", False)
    rpc.request("eth_sendTransaction", {"from": account("payer"), "to": account("payee"), "value": "0x2"})
    rpc.request("evm_setNextBlockTimestamp", actors.now + 5_000_000)
    rpc.request("evm_setIntervalMining", 1)


def test_every_loan_of_the_fork_is_the_same_world(base: Anvil, world: World) -> None:
    """After a test that leaves mining modes, time jumps, reorganisations and transactions behind, the same actions
    give the same state, receipts and times as before it."""
    keeper = ForkKeeper(base, world)
    try:
        with keeper.lend() as first:
            assert (first.rpc.number(), first.actors.now) == (world.height, world.timestamp)
            made = _play(first.actors)
            used = first.http
        with keeper.lend() as second:
            assert (second.rpc.number(), second.actors.now) == (world.height, world.timestamp)
            _disturb(second)
        with keeper.lend() as third:
            assert third.http == used
            assert (third.rpc.number(), third.actors.now) == (world.height, world.timestamp)
            assert third.rpc.request("txpool_status") == {"pending": "0x0", "queued": "0x0"}
            assert int(third.rpc.request("eth_getBalance", account("payee"), "latest"), 16) == 0
            assert _play(third.actors) == made
    finally:
        keeper.stop()


def test_a_fork_that_died_is_replaced(base: Anvil, world: World) -> None:
    """A test that breaks its chain costs the next one a restart, not a failure."""
    keeper = ForkKeeper(base, world)
    try:
        with keeper.lend() as first:
            assert keeper._anvil is not None
            keeper._anvil.stop()
        with keeper.lend() as second:
            assert second.rpc.number() == world.height
            assert second.http != first.http
    finally:
        keeper.stop()


def test_history_of_the_base_is_visible_on_the_fork(base: Anvil, fork: Fork) -> None:
    """Logs from before the fork are served by it, then its own follow."""
    asked = {"fromBlock": "0x1", "toBlock": "latest", "address": fork.world.main.pool}
    old = base.rpc.request("eth_getLogs", asked)
    assert fork.rpc.request("eth_getLogs", asked) == old
    fork.actors.open_position(fork.world.main, account("new"), {"WETH": 10**18}, {})
    assert len(fork.rpc.request("eth_getLogs", asked)) > len(old) > 50


def test_blocks_hold_what_was_sent_inside_in_order(fork: Fork) -> None:
    """A block of several senders keeps the order of sending, one revert in it is reported or left in the receipts."""
    actors, market = fork.actors, fork.world.main
    names = [account(f"sender {i}") for i in range(6)]
    with actors.block() as receipts:
        sent = [actors.fund(names[0], "DAI", 10**20)] + [
            actors.send(name, market.pool, "setUserEMode(uint8)", 2) for name in names
        ]
    assert [receipt["transactionHash"] for receipt in receipts] == sent
    height = fork.rpc.number()
    with pytest.raises(Reverted, match="setUserEMode"), actors.block():
        actors.send(names[0], market.pool, "setUserEMode(uint8)", 99)
    with actors.block(strict=False) as receipts:
        actors.send(names[0], market.pool, "setUserEMode(uint8)", 99)
        actors.send(names[0], market.pool, "setUserEMode(uint8)", 0)
    assert [int(receipt["status"], 16) for receipt in receipts] == [0, 1]
    assert fork.rpc.number() == height + 2


def test_time_and_base_fee_are_as_told(fork: Fork) -> None:
    """Blocks are `step` seconds apart unless told otherwise, at a steady base fee."""
    actors, start = fork.actors, fork.actors.now
    actors.mine(blocks=3)
    assert actors.now == start + 36
    actors.mine(500)
    assert actors.now == start + 536
    assert int(fork.rpc.block()["baseFeePerGas"], 16) == actors.base_fee
    actors.mine_until(start)
    assert actors.now == start + 536
    actors.mine_until(start + 1_000)
    assert actors.now == start + 1_000


def test_an_empty_chain_is_empty_and_mines_on_request(anvil: Anvil) -> None:
    """The `anvil` fixture is a chain of its own at block zero; a refused request says which and why."""
    assert anvil.rpc.number() == 0
    anvil.rpc.request("evm_mine")
    assert anvil.rpc.batch([("eth_blockNumber", []), ("eth_chainId", [])]) == ["0x1", hex(31_337)]
    with pytest.raises(RpcError, match="eth_call was refused"):
        anvil.rpc.request("eth_call", {"to": "nonsense"}, "latest")
    kept = anvil.rpc.batch([("eth_blockNumber", []), ("no_such", [])], errors=True)
    assert kept[0] == "0x1"
    assert isinstance(kept[1], RpcError)


def test_state_survives_dump_and_load(tmp_path: Path) -> None:
    """What `dump_state` wrote at the end, `load_state` brings back."""
    state = tmp_path / "state.json"
    with Anvil(dump_state=state) as first:
        first.rpc.request("anvil_setBalance", account("rich"), hex(7))
        first.rpc.request("evm_mine")
    with Anvil(load_state=state) as second:
        assert second.rpc.number() == 1
        assert int(second.rpc.request("eth_getBalance", account("rich"), "latest"), 16) == 7


def test_old_states_are_taken_away_with_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """anvil keeps the states of old blocks on disk and leaves them there: gigabytes after a few hours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Anvil() as running:
        running.rpc.request("anvil_mine", hex(700))
        running.rpc.request("eth_getBalance", "0x" + "01" * 20, hex(1))
        assert list(tmp_path.rglob("anvil-state-*/*")), "nothing was put on disk: this shows nothing"
    assert not list(tmp_path.rglob("anvil-*"))


def test_a_taken_port_is_one_sentence(anvil: Anvil) -> None:
    """Starting on a port in use says so and what to do."""
    with pytest.raises(ChainFailed, match=f"port {anvil.port} is already in use"), Anvil(port=anvil.port):
        pass


def test_a_binary_that_ends_at_once_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken anvil gives its exit code and its last word, not a traceback of ours."""
    fake = tmp_path / "anvil"
    fake.write_text("#!/bin/sh\necho 'Error: out of luck'\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ChainFailed, match="code 3 and said: Error: out of luck"), Anvil():
        pass
