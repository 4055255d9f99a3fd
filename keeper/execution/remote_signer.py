"""A key on another machine: Web3Signer's `eth_signTransaction`, believed only byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, NoReturn

import aiohttp
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from keeper.chain.wire import data_bytes
from keeper.config.values import Endpoint
from keeper.errors import BadData, Halt, Transient
from keeper.execution.signer import Unsigned, fields, rlp
from keeper.model import Address, Hash, Signed, checksum

MOST = 1 << 20  # bytes of an answer; the largest transaction a node takes is an eighth of that


class RemoteSigner:
    """Asks a remote signer over JSON-RPC. What it answers is used only when it is exactly the transaction that was
    asked for, signed by the expected key: it is rebuilt from the request and compared.
    """

    def __init__(self, url: Endpoint, address: Address, chain_id: int, timeout: float = 5.0) -> None:
        self._url = url
        self._address = address
        self._chain_id = chain_id
        self._timeout = timeout  # seconds
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> Address:
        """Whose signatures are expected."""
        return self._address

    async def sign(self, tx: Unsigned) -> Signed:
        """Have an EIP-1559 transaction signed.

        Raises Transient when the signer does not answer in time or declines, BadData when its answer cannot be read,
        and Halt when it signed something else or with another key: then nothing must be sent through it any more.
        """
        request = {
            "from": checksum(self._address),
            "nonce": hex(tx.nonce),
            "gas": hex(tx.gas_limit),
            "maxFeePerGas": hex(tx.max_fee),
            "maxPriorityFeePerGas": hex(tx.tip),
            "value": "0x0",
            "data": "0x" + tx.data.hex(),
            "chainId": hex(self._chain_id),
            "type": "0x2",
        }
        if tx.to is not None:
            request["to"] = checksum(tx.to)
        raw = self._raw(await self._ask("eth_signTransaction", [request]))
        self._verify(tx, raw)
        return Signed(tx.kind, tx.nonce, Hash("0x" + keccak(raw).hex()), raw, tx.gas_limit, tx.max_fee, tx.tip)

    async def accounts(self) -> list[Address]:
        """The keys the signer says it holds (`eth_accounts`). Raises Transient, BadData."""
        answer = await self._ask("eth_accounts", [])
        if not isinstance(answer, list) or not all(isinstance(item, str) for item in answer):
            raise BadData(f"the signer at {self._url} does not list its accounts")
        return [Address(item.lower()) for item in answer]

    async def close(self) -> None:
        """Close the connection; a later request opens another one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, method: str, params: list[Any]) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        try:
            async with asyncio.timeout(self._timeout):
                async with self._session.post(self._url.reveal(), json=body, allow_redirects=False) as answer:
                    text, status = bytearray(), answer.status
                    async for piece in answer.content.iter_chunked(1 << 16):
                        text += piece
                        if len(text) > MOST:
                            raise BadData(f"the signer at {self._url} answered more than {MOST} bytes")
        except TimeoutError:
            raise Transient(f"the signer at {self._url} did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Without the error's own words: they may repeat the URL.
            raise Transient(f"the signer at {self._url} cannot be reached ({type(error).__name__})") from None
        if status != 200:
            raise Transient(f"the signer at {self._url} answered HTTP {status}")
        found = _json(text)
        if not isinstance(found, dict) or found.get("id") != body["id"]:
            raise BadData(f"the signer at {self._url} answered something that is no JSON-RPC answer to the request")
        refusal = found.get("error")
        if refusal is not None:
            words = refusal.get("message") if isinstance(refusal, dict) else None
            raise Transient(f"the signer at {self._url} declined: {str(words)[:200]}")
        return found.get("result")

    def _raw(self, result: Any) -> bytes:
        """Web3Signer answers with the raw transaction; clef and geth with an object that has it."""
        if isinstance(result, dict):
            result = result.get("raw")
        try:
            return data_bytes(result, "a signed transaction")
        except BadData:
            raise BadData(f"the signer at {self._url} answered no signed transaction") from None

    def _verify(self, tx: Unsigned, raw: bytes) -> None:
        wanted = fields(tx, self._chain_id)
        signature = _signature(raw, b"".join(map(rlp, wanted)))
        if signature is None or raw != b"\x02" + rlp([*wanted, *signature]):
            self._halt("signed another transaction than was asked for")
        _, r, s = signature
        if not (0 < r < SECPK1_N and 0 < s <= SECPK1_N // 2):
            self._halt("gave a signature that no chain accepts")
        try:
            signer = Account.recover_transaction(raw)
        except (BadSignature, ValidationError, ValueError):
            self._halt("gave a signature that cannot be checked")
        if signer.lower() != self._address:
            self._halt(f"signed with the key of {signer} instead of {checksum(self._address)}")

    def _halt(self, what: str) -> NoReturn:
        raise Halt(f"the signer at {self._url} {what}: nothing was sent; find out why before starting again")

    def __repr__(self) -> str:
        return f"RemoteSigner({checksum(self._address)} at {self._url})"


def _json(text: bytearray) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _signature(raw: bytes, body: bytes) -> tuple[int, int, int] | None:
    """Parity, r and s that follow `body` in a signed transaction; None when it is of another shape."""
    at = raw.find(body, 1, 10 + len(body))
    if at < 0:
        return None
    rest = raw[at + len(body) :]
    found: list[int] = []
    while rest and len(found) < 4:
        size = rest[0] - 0x80 if rest[0] >= 0x80 else 0
        if size > 32:
            return None
        found.append(int.from_bytes(rest[1 : 1 + size] if rest[0] >= 0x80 else rest[:1], "big"))
        rest = rest[1 + size :]
    return (found[0], found[1], found[2]) if len(found) == 3 and found[0] in (0, 1) else None
