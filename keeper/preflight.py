"""Whether what the configuration names is on the chain and is what it is said to be, asked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.abi import interface
from keeper.config import Config
from keeper.errors import BadData, CheckFailed, ConfigError
from keeper.execution.deploy import read_state
from keeper.kinds import PROBES, Probe
from keeper.model import Address, Head, Read, checksum
from keeper.ports import Client

TOKEN = Probe("erc20", "decimals", (), "token")
UPTIME = Probe("uptime_feed", "decimals", (), "sequencer uptime feed")
NATIVE_DECIMALS = 18


@dataclass(frozen=True, slots=True)
class _Named:
    """A configured contract, by its key."""

    key: str
    address: Address
    probe: Probe
    start_block: int = 0


async def require(config: Config, client: Client, head: Head, sender: Address) -> None:
    """Raise ConfigError that names every key whose contract is missing, of another kind, or not deployed yet."""
    found = await problems(config, client, head, sender)
    if found:
        raise ConfigError("; ".join(found))


async def problems(config: Config, client: Client, head: Head, sender: Address) -> list[str]:
    """What `require` complains of, in words. `sender` is who executes."""
    named = _named(config)
    codes = await client.batch([("eth_getCode", [item.address, "latest"]) for item in named])
    answers = await client.read([Read(item.address, _call(item.probe)) for item in named], head)
    found: list[str] = []
    for item, code, answer in zip(named, codes, answers, strict=True):
        if code in ("0x", None):
            found.append(
                f"{item.key} is {checksum(item.address)}, where there is no contract on chain {config.chain.id}"
            )
        elif (value := _value(item.probe, answer)) is None:
            found.append(
                f"{item.key} is {checksum(item.address)}, which does not answer {item.probe.function}() and so is not "
                f"a {item.probe.kind}"
            )
        elif item.key == "tokens.wrapped_native" and value != NATIVE_DECIMALS:
            found.append(f"{item.key} is {checksum(item.address)}, a token of {value} decimals where 18 are expected")
        elif item.probe is UPTIME and value != 0:
            found.append(f"{item.key} is {checksum(item.address)}, a feed of prices and not of the sequencer's uptime")
        elif item.start_block > head.number:
            table = item.key.rpartition(".")[0]
            found.append(
                f"{table}.start_block is {item.start_block}, but the newest block is {head.number}: give the block in "
                f"which {checksum(item.address)} was deployed"
            )
    if config.executor.address is not None:
        try:
            await read_state(client, config.executor.address, sender)
        except CheckFailed as error:
            found.append(f"executor.address: {error}")
    return found


def _named(config: Config) -> list[_Named]:
    tokens = config.tokens
    named = [_Named("tokens.wrapped_native", tokens.wrapped_native, TOKEN)]
    named += [_Named(f"tokens.connectors[{n}]", token, TOKEN) for n, token in enumerate(tokens.connectors)]
    if config.chain.sequencer_feed is not None:
        named.append(_Named("chain.sequencer_feed", config.chain.sequencer_feed, UPTIME))
    named += [
        _Named(f"markets.{name}.address", market.address, PROBES[market.protocol], market.start_block)
        for name, market in config.markets.items()
    ]
    named += [
        _Named(f"venues.{name}.address", venue.address, PROBES[venue.kind], venue.start_block)
        for name, venue in config.venues.items()
    ]
    return named


def _call(probe: Probe) -> bytes:
    return interface(probe.interface).encode(probe.function, *probe.arguments)


def _value(probe: Probe, answer: bytes | None) -> object:
    """The first value of the answer; None when there is no such answer."""
    if answer is None:
        return None
    try:
        return interface(probe.interface).decode(probe.function, answer)[0]
    except BadData:
        return None
