"""Putting the executor on chain, letting keys use it, and checking one that is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.crypto import keccak

from keeper.chain.wire import data_bytes, hash32, quantity
from keeper.errors import BadData, CheckFailed, ConfigError, Transient
from keeper.execution.executor import EXECUTOR, RUNTIME_HASH, creation_code
from keeper.execution.signer import Signer, Unsigned
from keeper.model import Address, Hash, TxKind, address, checksum
from keeper.ports import Client

_FIELDS = (("owner", ()), ("pendingOwner", ()), ("beneficiary", ()), ("paused", ()))


@dataclass(frozen=True, slots=True)
class ExecutorState:
    """What an executor on chain says about itself."""

    owner: Address
    pending_owner: Address
    beneficiary: Address
    paused: bool
    operator_allowed: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """A verified executor and what putting it there took."""

    executor: Address
    tx_hash: Hash
    block: int
    gas_used: int
    cost: int  # wei
    state: ExecutorState


async def read_state(client: Client, executor: Address, operator: Address) -> ExecutorState:
    """The executor's roles at the newest block, after making sure that its code is ours.

    `operator_allowed` tells whether `operator` may execute, as an operator or as the owner. Raises CheckFailed when
    there is no code, or other code than the artifact's.
    """
    code = data_bytes(await client.request("eth_getCode", [executor, "latest"]), "contract code")
    if not code:
        raise CheckFailed(f"there is no contract at {checksum(executor)}: deploy one with `keeper deploy`")
    if "0x" + keccak(code).hex() != RUNTIME_HASH:
        raise CheckFailed(
            f"the contract at {checksum(executor)} is not this version's executor: deploy one with `keeper deploy`"
        )
    views = [*_FIELDS, ("operators", (operator,))]
    calls = [
        ("eth_call", [{"to": executor, "data": "0x" + EXECUTOR.encode(name, *args).hex()}, "latest"])
        for name, args in views
    ]
    answers = await client.batch(calls)
    owner, pending, beneficiary, paused, allowed = (
        EXECUTOR.decode(name, data_bytes(answer, name))[0] for (name, _), answer in zip(views, answers, strict=True)
    )
    return ExecutorState(
        address(owner), address(pending), address(beneficiary), paused, allowed or address(owner) == operator
    )


async def verify(client: Client, executor: Address, operator: Address) -> str | None:
    """What keeps `operator` from executing through `executor`, in words that follow its address; None when nothing."""
    try:
        state = await read_state(client, executor, operator)
    except CheckFailed as error:
        return str(error)
    if not state.operator_allowed:
        return f"does not obey {checksum(operator)}: its owner {checksum(state.owner)} must call setOperator"
    if state.paused:
        return f"is paused: its owner {checksum(state.owner)} must call unpause"
    return None


async def deploy(
    client: Client,
    signer: Signer,
    *,
    owner: Address | None = None,
    operator: Address | None = None,
    beneficiary: Address | None = None,
    max_fee: int | None = None,
    timeout_seconds: float = 300.0,
    poll_seconds: float = 1.0,
    announce: Callable[[str], None] = lambda _: None,
) -> Deployment:
    """Create the executor, wait for it to be mined, and verify code and roles.

    `owner`, `operator` and `beneficiary` are the signer unless given. `max_fee` (wei per gas) bounds what is offered;
    by default twice the base fee plus the node's suggested tip. `announce` is told the transaction's hash before it is
    sent. Raises ConfigError when the signer has transactions pending or cannot pay, Transient when it was not mined in
    time (it still may be), CheckFailed when what was mined is not what was meant.
    """
    roles = owner or signer.address, operator or signer.address, beneficiary or owner or signer.address
    tx = await _prepare(client, signer.address, None, creation_code(*roles), max_fee)
    tx_hash, receipt = await _send(client, signer, tx, "creates the executor", timeout_seconds, poll_seconds, announce)
    if not receipt.get("contractAddress"):
        raise CheckFailed(f"the deployment {tx_hash} was mined but created nothing: report it")
    executor = address(str(receipt["contractAddress"]))
    state = await read_state(client, executor, roles[1])
    if (state.owner, state.beneficiary, state.operator_allowed, state.paused) != (roles[0], roles[2], True, False):
        raise CheckFailed(f"the executor at {checksum(executor)} does not have the roles it was deployed with: {state}")
    gas_used = quantity(receipt.get("gasUsed"), "the gas used")
    price = quantity(receipt.get("effectiveGasPrice"), "a gas price")
    block = quantity(receipt.get("blockNumber"), "a block number")
    return Deployment(executor, tx_hash, block, gas_used, gas_used * price, state)


async def authorise(
    client: Client,
    signer: Signer,
    executor: Address,
    operators: Sequence[Address],
    *,
    max_fee: int | None = None,
    timeout_seconds: float = 300.0,
    poll_seconds: float = 1.0,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Address]:
    """Let each of `operators` execute, one transaction of the owner `signer` after the other; those that were new.

    Who may already is left out. Raises as `deploy`; what was done until then stays done.
    """
    added: list[Address] = []
    for operator in operators:
        if (await read_state(client, executor, operator)).operator_allowed:
            continue
        data = EXECUTOR.encode("setOperator", operator, True)  # noqa: FBT003 - the contract's own argument
        tx = await _prepare(client, signer.address, executor, data, max_fee)
        what = f"lets {checksum(operator)} execute"
        await _send(client, signer, tx, what, timeout_seconds, poll_seconds, announce)
        if not (await read_state(client, executor, operator)).operator_allowed:
            raise CheckFailed(f"the executor at {checksum(executor)} still does not obey {checksum(operator)}")
        added.append(operator)
    return added


async def _send(
    client: Client,
    signer: Signer,
    tx: Unsigned,
    what: str,
    timeout_seconds: float,
    poll_seconds: float,
    announce: Callable[[str], None],
) -> tuple[Hash, dict[str, Any]]:
    """Sign, announce and send `tx`, which does `what`; its hash and its receipt once it has succeeded."""
    signed = await signer.sign(tx)
    assert signed.hash is not None
    announce(f"sending {signed.hash}, which {what} for at most {tx.gas_limit * tx.max_fee} wei")
    await client.request("eth_sendRawTransaction", ["0x" + signed.raw.hex()])
    receipt = await _receipt(client, signed.hash, timeout_seconds, poll_seconds)
    if receipt.get("status") != "0x1":
        raise CheckFailed(
            f"the transaction {signed.hash}, which {what}, was mined but failed: try again, and report it if it "
            "persists"
        )
    return signed.hash, receipt


async def _prepare(client: Client, sender: Address, to: Address | None, data: bytes, max_fee: int | None) -> Unsigned:
    mined, pending, balance, suggested, block, gas = await client.batch(
        [
            ("eth_getTransactionCount", [sender, "latest"]),
            ("eth_getTransactionCount", [sender, "pending"]),
            ("eth_getBalance", [sender, "latest"]),
            ("eth_maxPriorityFeePerGas", []),
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_estimateGas", [{"from": sender, "data": "0x" + data.hex()} | ({} if to is None else {"to": to})]),
        ]
    )
    nonce = quantity(mined, "a nonce")
    if quantity(pending, "a nonce") != nonce:
        raise ConfigError(f"{checksum(sender)} has transactions pending: wait until they are mined, then deploy")
    base_fee = quantity(block.get("baseFeePerGas") if isinstance(block, dict) else None, "a base fee")
    tip = quantity(suggested, "a tip")
    fee = 2 * base_fee + tip if max_fee is None else max_fee
    if fee < base_fee:
        raise ConfigError(
            f"the base fee is {base_fee} wei per gas and the most to be offered is {fee}: offer more, or wait"
        )
    gas_limit = quantity(gas, "a gas estimate") * 11 // 10
    if quantity(balance, "a balance") < gas_limit * fee:
        raise ConfigError(
            f"{checksum(sender)} holds {quantity(balance, 'a balance')} wei and the transaction can cost "
            f"{gas_limit * fee}: send it more, or offer less per gas"
        )
    return Unsigned(TxKind.DEPLOY, nonce, to, data, gas_limit, fee, min(tip, fee))


async def _receipt(client: Client, tx_hash: Hash, timeout_seconds: float, poll_seconds: float) -> dict[str, Any]:
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_seconds
    while True:
        try:
            found = await client.request("eth_getTransactionReceipt", [tx_hash])
        except Transient:
            found = None  # the node may be back before the deadline
        if isinstance(found, dict):
            if hash32(found.get("transactionHash"), "a transaction hash") != tx_hash:
                raise BadData(f"the node answered with another receipt than that of {tx_hash}: use another endpoint")
            return found
        if clock() >= deadline:
            raise Transient(
                f"the transaction {tx_hash} was not mined within {timeout_seconds:.0f} s and may still be: look it up "
                "before trying again"
            )
        await asyncio.sleep(poll_seconds)
