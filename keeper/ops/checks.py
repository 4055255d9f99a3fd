"""The doctor's questions. Each function asks one thing and answers with what it found and how to mend it."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from keeper.chain.refusals import Kind, Refusal
from keeper.chain.wire import head as parse_head
from keeper.chain.wire import quantity
from keeper.config import Config, format_wei
from keeper.model import Address, Head, Read, checksum
from keeper.ops.doctor import Finding
from keeper.ports import Client

NODE = "check chain.endpoints, or add another endpoint"
LOWEST_DISK = 2 * 1024**3
LOWEST_BALANCE_ATTEMPTS = 5
USUAL_GAS = 1_000_000
CLOCK_SLACK = 15.0


async def newest(client: Client) -> Head:
    """The node's newest block; raises Transient or BadData."""
    return parse_head(await client.request("eth_getBlockByNumber", ["latest", False]))


async def endpoint_answers(client: Client) -> Finding:
    """Whether the node can be reached at all."""
    started = time.monotonic()
    version = await client.request("web3_clientVersion", [])
    return Finding.ok(f"{version} answers in {(time.monotonic() - started) * 1000:.0f} ms")


async def chain_id(client: Client, expected: int) -> Finding:
    """Whether the node is on the configured chain."""
    found = quantity(await client.request("eth_chainId", []), "a chain id")
    if found != expected:
        return Finding.fail(
            f"the node is on chain {found}, not {expected}",
            "point chain.endpoints at the right chain, or mend chain.id",
        )
    return Finding.ok(f"chain {found}")


async def head_age(client: Client, limit: float, clock: Callable[[], float] = time.time) -> Finding:
    """Whether the node keeps up with its chain, as far as its newest block tells."""
    head = await newest(client)
    age = clock() - head.timestamp
    text = f"block {head.number} is {age:.0f} s old (limit {limit:.0f} s)"
    return Finding.ok(text) if age <= limit else Finding.fail(text, "wait until the node is synced, or use another")


async def clock_skew(client: Client, clock: Callable[[], float] = time.time) -> Finding:
    """Whether this machine's clock is behind the chain's: a head from the future can only mean that."""
    head = await newest(client)
    ahead = head.timestamp - clock()
    if ahead > CLOCK_SLACK:
        return Finding.fail(
            f"this machine's clock is at least {ahead:.0f} s behind the chain", "synchronise the clock (NTP)"
        )
    return Finding.ok("the clock is not behind the chain")


async def block_reads(client: Client) -> Finding:
    """Whether views can be pinned to a block hash and bundled without a deployed contract, as every pass does."""
    head = await newest(client)
    identity = Address("0x" + f"{4:040x}")  # the identity precompile answers what it is sent, on every chain
    probe = b"keeper"
    answers = await client.read([Read(identity, probe), Read(identity, probe * 2)], head)
    if answers != [probe, probe * 2]:
        return Finding.fail("bundled reads at a block hash give wrong answers", NODE)
    return Finding.ok("reads are pinned to a block hash and bundled")


async def history(client: Client, start_block: int) -> Finding:
    """Whether the node still has the blocks and logs from which positions are rebuilt."""
    block = hex(start_block)
    if await client.request("eth_getBlockByNumber", [block, False]) is None:
        return Finding.fail(
            f"the node does not know block {start_block}",
            "mend start_block, or use a node that keeps old blocks and logs",
        )
    await client.request("eth_getLogs", [{"fromBlock": block, "toBlock": block}])
    return Finding.ok(f"logs reach back to block {start_block}")


async def simulation_method(client: Client, sender: Address) -> Finding:
    """Which way transactions can be tried on this node: `eth_simulateV1`, or `eth_call` with overrides."""
    call = {"from": sender, "to": sender, "data": "0x"}
    block = {"blockStateCalls": [{"calls": [call]}], "validation": False}
    try:
        await client.request("eth_simulateV1", [block, "latest"])
    except Refusal as refusal:
        if refusal.kind not in (Kind.UNSUPPORTED, Kind.INVALID):
            raise
        override = {sender: {"balance": hex(10**18)}}
        await client.request("eth_call", [call, "latest", override])
        return Finding.warn(
            "eth_simulateV1 is not offered; eth_call with overrides is used and gas is only estimated",
            "a node with eth_simulateV1 (geth 1.14.9, reth, nethermind) simulates exactly",
        )
    return Finding.ok("eth_simulateV1 is offered")


async def has_code(client: Client, contracts: Mapping[str, Address]) -> Finding:
    """Whether every configured address is a contract on this chain."""
    names = list(contracts)
    codes = await client.batch([("eth_getCode", [contracts[name], "latest"]) for name in names])
    empty = [name for name, code in zip(names, codes, strict=True) if code in ("0x", None)]
    if empty:
        listed = ", ".join(f"{name} ({checksum(contracts[name])})" for name in empty)
        return Finding.fail(f"no contract at {listed}", "mend the address, or the chain the endpoints are on")
    return Finding.ok(f"{len(names)} configured addresses are contracts")


async def signer_loads(load: Callable[[], Awaitable[Address | None]], *, live: bool) -> Finding:
    """Whether the key can be opened. `load` answers its address, None when no key is configured."""
    found = await load()
    if found is not None:
        return Finding.ok(f"signer {checksum(found)}")
    if live:
        return Finding.fail("no key is configured", "set signer.keystore and its password, or a private key")
    return Finding.skip("no key is configured; a dry run needs none")


async def signer_balance(client: Client, signer: Address | None, max_gas_price: int) -> Finding:
    """Whether the signer can pay for a few attempts at the highest gas price allowed."""
    if signer is None:
        return Finding.skip("no key is configured")
    balance = quantity(await client.request("eth_getBalance", [signer, "latest"]), "a balance")
    enough = LOWEST_BALANCE_ATTEMPTS * USUAL_GAS * max_gas_price
    text = f"{checksum(signer)} holds {format_wei(balance)}"
    if balance == 0:
        return Finding.fail(text, "send it some of the native token to pay for gas")
    if balance < enough:
        return Finding.warn(
            f"{text}, less than {LOWEST_BALANCE_ATTEMPTS} attempts cost at strategy.max_gas_price",
            f"top it up to {format_wei(enough)} or more",
        )
    return Finding.ok(text)


async def executor_ready(
    address: Address | None, verify: Callable[[Address], Awaitable[str | None]], *, live: bool
) -> Finding:
    """Whether the executor is ours, obeys the signer and is not paused. `verify` answers what is wrong, or None."""
    if address is None:
        if live:
            return Finding.fail("no executor is configured", "run `keeper deploy` and set executor.address")
        return Finding.skip("no executor is configured; a dry run injects its code")
    wrong = await verify(address)
    if wrong is not None:
        return Finding.fail(
            f"executor {checksum(address)}: {wrong}", "deploy one with `keeper deploy`, or mend executor.address"
        )
    return Finding.ok(f"executor {checksum(address)} has the expected code and obeys the signer")


async def market_known(load: Callable[[], Awaitable[str | None]]) -> Finding:
    """Whether the market's contracts are of a known version. `load` answers why it is read-only, or None."""
    reason = await load()
    if reason is not None:
        return Finding.warn(
            f"it will only be watched: {reason}", "update the keeper to a version that knows these rules"
        )
    return Finding.ok("its version is known")


async def journal_opens(opens: Callable[[], Awaitable[str]]) -> Finding:
    """Whether the journal is ours and whole. `opens` answers a sentence about it, or raises ConfigError."""
    return Finding.ok(await opens())


async def data_dir(path: Path) -> Finding:
    """Whether journal and cache can be written, with room to spare."""
    return await asyncio.to_thread(_probe, path)


def _probe(path: Path) -> Finding:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"keeper")
        probe.unlink()
    except OSError as error:
        return Finding.fail(f"{path} cannot be written: {error.strerror}", "set data.dir to a folder of this user")
    free = shutil.disk_usage(path).free
    text = f"{path} has {free / 1024**3:.1f} GiB free"
    if free < LOWEST_DISK:
        return Finding.warn(text, "free some space: the journal must be able to grow")
    return Finding.ok(text)


async def secret_files(config: Config) -> Finding:
    """Whether the files that hold keys, passwords and endpoints are readable by this user only."""
    named = (
        *(one.keystore for one in config.every_signer),
        *(one.password_file for one in config.every_signer),
        *(one.private_key_file for one in config.every_signer),
        *(one.remote_url_file for one in config.every_signer),
        config.chain.endpoints_file,
        config.alerts.channels_file,
        config.alerts.severe_channels_file,
    )
    return await asyncio.to_thread(_private, [path for path in named if path is not None])


def _private(files: list[Path]) -> Finding:
    exposed = []
    for path in files:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            return Finding.fail(f"{path} cannot be read: {error.strerror}", "mend the path in the configuration")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            exposed.append(str(path))
    if exposed:
        return Finding.warn(f"others can read {', '.join(exposed)}", f"chmod 600 {' '.join(exposed)}")
    return (
        Finding.ok("files with secrets are private") if files else Finding.skip("no files with secrets are configured")
    )
