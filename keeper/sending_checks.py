"""The doctor's questions to those through whom the keeper sends: remote signers, relays and their event streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from keeper.assembly import private_relays
from keeper.config import Config
from keeper.config import schema as config_schema
from keeper.config.values import Secret
from keeper.errors import BadData, Transient
from keeper.execution import mev_share
from keeper.execution.remote_signer import RemoteSigner
from keeper.execution.signer import Unsigned
from keeper.model import TxKind, checksum
from keeper.ops.doctor import Check, Finding

# No chain takes a transaction at this nonce (EIP-2681): a signature over it is worth nothing to anybody.
UNREACHABLE_NONCE = 2**64 - 2


def sending_checks(config: Config) -> list[Check]:
    """One check per remote signer, relay and stream. Of several relays, one that is down is only a warning."""
    found: list[Check] = []
    ask: Callable[[], Awaitable[Finding]]
    tables = {"signer": config.signer} | {f"signers.{name}": table for name, table in config.signers.items()}
    for name, table in tables.items():
        if table.remote_url is not None:
            ask = partial(_signer, table, config.chain.id)
            found.append(Check(f"remote {name}", ask, fix=f"start the signer, or mend {name}.remote_url"))
    several = len(config.relays) > 1
    for name, relay in config.relays.items():
        fix = f"mend relays.{name}.url, or remove the table"
        found.append(Check(f"relay {name}", partial(_relay, config, name), fix=fix, soft=several))
        if relay.stream is not None:
            ask = partial(_stream, config, name, relay.stream)
            fix = f"mend relays.{name}.stream, or remove the key"
            found.append(Check(f"relay stream {name}", ask, fix=fix, soft=True))
    return found


async def _signer(table: config_schema.Signer, chain_id: int) -> Finding:
    """Have it sign something worthless, which it must do byte for byte; raises Halt when it signs something else."""
    assert table.remote_url is not None
    assert table.address is not None
    signer = RemoteSigner(table.remote_url, table.address, chain_id, table.timeout)
    try:
        await signer.sign(Unsigned(TxKind.CANCEL, UNREACHABLE_NONCE, table.address, b"", 21_000, 0, 0))
    except (Transient, BadData) as error:
        try:
            held = await signer.accounts()
        except (Transient, BadData):
            raise error from None
        if table.address in held:
            raise
        return Finding.fail(
            f"{error}; it holds {len(held)} keys, but not that of {checksum(table.address)}",
            "load the key into the signer, or mend the address",
        )
    finally:
        await signer.close()
    return Finding.ok(f"the signer at {table.remote_url} signs for {checksum(table.address)}")


async def _relay(config: Config, name: str) -> Finding:
    async with private_relays(config) as relays:
        said = await next(relay for relay in relays.each if relay.name == name).probe()
    if config.private.signing_key is None:
        return Finding.warn(f"{said}; every start makes us a stranger to it", "set private.signing_key")
    return Finding.ok(said)


async def _stream(config: Config, name: str, url: Secret) -> Finding:
    return Finding.ok(await mev_share.probe(name, url, within=config.private.timeout))
