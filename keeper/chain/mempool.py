"""Transactions that wait in a node's public pool, as they are announced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from eth_utils.crypto import keccak

from keeper.chain.client import NodeClient
from keeper.chain.pool import Endpoint
from keeper.chain.refusals import Kind, Refusal
from keeper.chain.wire import data_bytes, hash32, quantity
from keeper.errors import BadData, ConfigError, Transient
from keeper.model import Address, Hash, address

log = structlog.get_logger(__name__)

_WAITING = 5_000  # announcements kept at most; the oldest are dropped, they are worth least
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction that is not mined yet; fees in wei per gas."""

    hash: Hash
    sender: Address
    to: Address
    data: bytes
    nonce: int
    gas: int
    value: int
    max_fee: int
    tip: int
    raw: bytes | None  # signed, as it can be sent again; None when the node's answer does not add up to the hash


class Mempool:
    """An async iterator over new pending transactions that `wanted(to, data)`; a lost subscription is made anew."""

    def __init__(self, client: NodeClient, wanted: Callable[[Address, bytes], bool], *, retry: float = 1.0) -> None:
        """`retry`: seconds before a failed subscription is tried again, doubling up to a minute."""
        self._client = client
        self._wanted = wanted
        self._retry = retry

    async def __aiter__(self) -> AsyncIterator[Pending]:
        pause = self._retry
        while True:
            try:
                endpoint = self._endpoint()
                async for pending in self._listen(endpoint):
                    pause = self._retry
                    yield pending
            except (Transient, BadData) as error:
                log.info("mempool_unavailable", reason=str(error), seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60.0)

    def _endpoint(self) -> Endpoint:
        for endpoint in self._client.pool.candidates():
            if endpoint.link.push:
                return endpoint
        raise ConfigError("pending transactions can only be followed over ws://, wss:// or IPC: add such an endpoint")

    async def _listen(self, endpoint: Endpoint) -> AsyncIterator[Pending]:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def take(item: Any) -> None:
            if queue.qsize() >= _WAITING:
                queue.get_nowait()
            queue.put_nowait(item)

        subscription = await self._subscribe(endpoint, take)
        try:
            while True:
                items = [await queue.get()]
                while not queue.empty() and len(items) < _BATCH:
                    items.append(queue.get_nowait())
                if None in items:
                    raise Transient(f"the connection to {endpoint.label} was lost")
                hashes = [item for item in items if isinstance(item, str)]
                bodies = [item for item in items if not isinstance(item, str)]
                if hashes:
                    calls = [("eth_getTransactionByHash", [tx_hash]) for tx_hash in hashes]
                    bodies += [body for body in await endpoint.ask(calls) if not isinstance(body, Refusal)]
                for body in bodies:
                    pending = read_pending(body, self._wanted)
                    if pending is not None:
                        yield pending
        finally:
            with suppress(Transient, BadData):
                await endpoint.ask([("eth_unsubscribe", [subscription])], within=2.0)

    @staticmethod
    async def _subscribe(endpoint: Endpoint, take: Callable[[Any], None]) -> str:
        """With whole transactions where the node offers them, else with hashes."""
        try:
            return await endpoint.link.subscribe(["newPendingTransactions", True], take)
        except Refusal as error:
            if error.kind not in (Kind.INVALID, Kind.UNSUPPORTED, Kind.OTHER):
                raise
        return await endpoint.link.subscribe(["newPendingTransactions"], take)


def read_pending(body: Any, wanted: Callable[[Address, bytes], bool]) -> Pending | None:
    """A raw transaction object, if it is wanted and still pending; None for anything else."""
    if not isinstance(body, Mapping) or body.get("blockNumber") is not None or not body.get("to"):
        return None
    try:
        to, data = address(body["to"]), data_bytes(body.get("input") or body.get("data"), "calldata")
        if not wanted(to, data):
            return None
        tx_hash = hash32(body["hash"], "a transaction hash")
        raw = raw_transaction(body)
        max_fee = quantity(body.get("maxFeePerGas") or body["gasPrice"], "a fee")
        return Pending(
            hash=tx_hash,
            sender=address(body["from"]),
            to=to,
            data=data,
            nonce=quantity(body["nonce"], "a nonce"),
            gas=quantity(body["gas"], "a gas limit"),
            value=quantity(body["value"], "a value"),
            max_fee=max_fee,
            tip=quantity(body.get("maxPriorityFeePerGas") or hex(max_fee), "a tip"),
            raw=raw if raw is not None and "0x" + keccak(raw).hex() == tx_hash else None,
        )
    except (KeyError, TypeError, ValueError, BadData):
        return None


def raw_transaction(body: Mapping[str, Any]) -> bytes | None:
    """The signed bytes of a transaction object of type 0, 1 or 2 (EIP-155, EIP-2930, EIP-1559); None for others."""

    def number(name: str) -> int:
        return int(body[name], 16)

    kind = int(body.get("type", "0x0"), 16)
    to = bytes.fromhex(body["to"][2:]) if body.get("to") else b""
    call = [number("gas"), to, number("value"), bytes.fromhex(str(body.get("input") or body["data"])[2:])]
    if kind == 0:
        return _rlp([number("nonce"), number("gasPrice"), *call, number("v"), number("r"), number("s")])
    access = [
        [bytes.fromhex(entry["address"][2:]), [bytes.fromhex(key[2:]) for key in entry["storageKeys"]]]
        for entry in body.get("accessList") or ()
    ]
    signature = [int(body.get("yParity") or body["v"], 16), number("r"), number("s")]
    if kind == 1:
        return b"\x01" + _rlp([number("chainId"), number("nonce"), number("gasPrice"), *call, access, *signature])
    if kind == 2:
        fees = [number("maxPriorityFeePerGas"), number("maxFeePerGas")]
        return b"\x02" + _rlp([number("chainId"), number("nonce"), *fees, *call, access, *signature])
    return None


def _rlp(item: Any) -> bytes:
    """Recursive length prefix (Ethereum Yellow Paper, appendix B); integers big-endian without leading zeros."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _prefix(len(item), 0x80) + item
    body = b"".join(_rlp(part) for part in item)
    return _prefix(len(body), 0xC0) + body


def _prefix(length: int, base: int) -> bytes:
    if length < 56:
        return bytes([base + length])
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([base + 55 + len(size)]) + size
