"""Deploying and verifying the executor on a private chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from keeper.app import deploy as deploy_command
from keeper.config import load
from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.devchain.rpc import Rpc, RpcError
from keeper.devchain.serve import OPERATOR as FIRST
from keeper.devchain.serve import OPERATOR_KEY, config_text
from keeper.errors import CheckFailed, ConfigError, Transient
from keeper.execution.deploy import authorise, deploy, read_state, verify
from keeper.execution.executor import RUNTIME_CODE
from keeper.execution.signer import LocalSigner
from keeper.model import ZERO_ADDRESS, Address, Head, Read, Watch, address, checksum
from keeper.ops.redact import Redactor
from tests.support.bench import BENEFICIARY, ETH, OPERATOR, OWNER, STRANGER, deploy_executor, fund
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

KEY = "0x" + "5e" * 32
ME = address(Account.from_key(KEY).address)
CHAIN = 31337


@dataclass
class Node:
    """The part of a client that deploying needs, on the private chain; mines a while after the transaction was sent."""

    rpc: Rpc
    mine_after: int = 1  # receipts asked for before it is mined
    asked: int = 0

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        if method == "eth_getTransactionReceipt":
            self.asked += 1
            if self.asked == self.mine_after:
                self.rpc.request("evm_mine")
            if self.asked == 1:
                raise Transient("the first request is lost")
        return self.rpc.request(method, *params)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return self.rpc.batch(calls)

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        raise AssertionError("deploying reads no views of a head")

    def logs(self, watch: Watch, first: int, last: int) -> Any:
        raise AssertionError("deploying reads no logs")


@pytest.fixture
def node(anvil: Anvil) -> Node:
    fund(anvil.rpc)
    anvil.rpc.request("anvil_autoImpersonateAccount", *[True])
    anvil.rpc.request("anvil_setBalance", ME, hex(10 * ETH))
    return Node(anvil.rpc, mine_after=3)


def signer() -> LocalSigner:
    return LocalSigner(Account.from_key(KEY), CHAIN)


async def test_deployment_has_the_roles_it_was_given(node: Node) -> None:
    """The executor gets owner, operator and beneficiary as told, the hash is announced first, and the bill is exact."""
    told: list[str] = []
    before = int(node.rpc.request("eth_getBalance", ME, "latest"), 16)
    done = await deploy(
        node, signer(), owner=OWNER, operator=OPERATOR, beneficiary=BENEFICIARY, poll_seconds=0, announce=told.append
    )
    assert node.rpc.request("eth_getCode", done.executor, "latest") == "0x" + RUNTIME_CODE.hex()
    assert (done.state.owner, done.state.beneficiary, done.state.pending_owner) == (OWNER, BENEFICIARY, ZERO_ADDRESS)
    assert (done.state.operator_allowed, done.state.paused) == (True, False)
    assert done.cost == before - int(node.rpc.request("eth_getBalance", ME, "latest"), 16)
    assert len(told) == 1
    assert done.tx_hash in told[0]
    assert await verify(node, done.executor, OPERATOR) is None
    assert await verify(node, done.executor, OWNER) is None


async def test_the_signer_is_everything_unless_told_otherwise(node: Node) -> None:
    """Without roles the signer owns, operates and benefits."""
    done = await deploy(node, signer(), poll_seconds=0)
    assert (done.state.owner, done.state.beneficiary) == (ME, ME)
    assert node.rpc.view(done.executor, "operators(address)", ME, returns="bool")


async def test_verify_says_what_is_wrong(node: Node) -> None:
    """No code, other code, a stranger as operator and a pause are told apart, each with its cure."""
    executor = deploy_executor(node.rpc)
    other = address("0x" + "77" * 20)
    node.rpc.request("anvil_setCode", other, "0x6000")

    async def wrong(where: Address, operator: Address) -> str:
        found = await verify(node, where, operator)
        assert found is not None
        return found

    assert "no contract" in await wrong(address("0x" + "78" * 20), OPERATOR)
    assert "not this version's executor" in await wrong(other, OPERATOR)
    assert f"does not obey {checksum(STRANGER)}" in await wrong(executor, STRANGER)
    pause = {"from": OPERATOR, "to": executor, "data": "0x" + calldata("pause()").hex()}
    node.rpc.request("eth_sendTransaction", pause)
    node.rpc.request("evm_mine")
    assert f"is paused: its owner {checksum(OWNER)}" in await wrong(executor, OPERATOR)
    state = await read_state(node, executor, OPERATOR)
    assert (state.paused, state.owner, state.beneficiary) == (True, OWNER, BENEFICIARY)


async def test_pending_transactions_stop_a_deployment(node: Node) -> None:
    """A nonce that is already on its way is not fought over; nothing is sent."""
    node.rpc.request("eth_sendTransaction", {"from": ME, "to": STRANGER, "value": "0x1"})
    with pytest.raises(ConfigError, match="pending"):
        await deploy(node, signer(), poll_seconds=0)
    assert int(node.rpc.request("eth_getTransactionCount", ME, "pending"), 16) == 1


@pytest.mark.parametrize(("wei", "max_fee", "words"), [(10**9, None, "send it more"), (ETH, 1, "offer more, or wait")])
async def test_too_little_money_or_fee_is_said_before_sending(
    node: Node, wei: int, max_fee: int | None, words: str
) -> None:
    """A signer that cannot pay, and an offer below the base fee, are refused with the figures."""
    node.rpc.request("anvil_setBalance", ME, hex(wei))
    # The node itself would refuse to estimate for a poor account that names a price; none is named.
    with pytest.raises(ConfigError, match=words):
        await deploy(node, signer(), max_fee=max_fee, poll_seconds=0)
    assert int(node.rpc.request("eth_getTransactionCount", ME, "pending"), 16) == 0


async def test_unmined_deployment_names_its_hash(node: Node) -> None:
    """When time runs out the person learns which transaction to look for."""
    node.mine_after = 10**9
    with pytest.raises(Transient, match=r"0x[0-9a-f]{64} was not mined within 0 s"):
        await deploy(node, signer(), timeout_seconds=0.05, poll_seconds=0.01)
    assert int(node.rpc.request("eth_getTransactionCount", ME, "pending"), 16) == 1


async def test_failed_deployment_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation that is mined but fails ends in a sentence, not in an address."""

    real = node.batch

    async def lowball(calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers = zip(calls, await real(calls), strict=True)
        return [hex(700_000) if method == "eth_estimateGas" else answer for (method, _), answer in answers]

    monkeypatch.setattr(node, "batch", lowball)
    with pytest.raises(CheckFailed, match="was mined but failed"):
        await deploy(node, signer(), poll_seconds=0)


async def test_further_keys_are_let_in_once(node: Node) -> None:
    """One transaction of the owner per key that may not execute yet, announced; a second call has nothing to do."""
    told: list[str] = []
    done = await deploy(node, signer(), poll_seconds=0)

    async def call() -> list[Address]:
        node.asked, node.mine_after = 0, 2
        node.rpc.request("evm_setAutomine", True)
        return await authorise(
            node, signer(), done.executor, [ME, OPERATOR, STRANGER], poll_seconds=0, announce=told.append
        )

    assert await call() == [OPERATOR, STRANGER]
    assert [checksum(OPERATOR) in told[0], checksum(STRANGER) in told[1]] == [True, True]
    for key in (ME, OPERATOR, STRANGER):
        assert await verify(node, done.executor, key) is None
    count = int(node.rpc.request("eth_getTransactionCount", ME, "latest"), 16)
    assert count == 3
    assert await call() == []
    assert int(node.rpc.request("eth_getTransactionCount", ME, "latest"), 16) == count


async def test_only_the_owner_lets_keys_in(node: Node) -> None:
    """Somebody else's executor: nothing is sent."""
    executor = deploy_executor(node.rpc)
    with pytest.raises(RpcError, match="revert"):
        await authorise(node, signer(), executor, [STRANGER], poll_seconds=0)
    assert int(node.rpc.request("eth_getTransactionCount", ME, "pending"), 16) == 0


async def test_the_command_lets_every_configured_key_in(fork: Fork, tmp_path: Path) -> None:
    """`keeper deploy` with two keys: the first owns, both execute, and the sentence names both."""
    second = address(Account.from_key(KEY).address)
    (tmp_path / "operator.key").write_text(OPERATOR_KEY)
    (tmp_path / "second.key").write_text(KEY)
    path = tmp_path / "keeper.toml"
    text = config_text(fork.world, fork.http, tmp_path, 1, 0, None)
    path.write_text(f'{text}\n[signers.second]\nprivate_key_file = "{tmp_path / "second.key"}"\n')
    config = load(path, {})
    fork.actors.mine()  # with the usual base fee: a fork remembers what another test had asked for
    fork.rpc.request("evm_setAutomine", True)
    said = await deploy_command(config, Redactor(config.secrets()), confirm=lambda question: True)
    executor = address(said.split()[4])
    first = address(FIRST)
    assert fork.rpc.view(executor, "owner()", returns="address") == first
    for key in (first, second):
        assert fork.rpc.view(executor, "operators(address)", key, returns="bool")
        assert checksum(key) in said
