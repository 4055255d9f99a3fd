"""A small synchronous JSON-RPC client: what builds, steers and checks the private chain. The daemon never uses it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from keeper.devchain.calls import calldata, component_types, returned
from keeper.errors import KeeperError


class RpcError(KeeperError):
    """The node answered a request with an error."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.message = str(error.get("message", ""))
        self.data = error.get("data")
        super().__init__(f"{method} was refused by the private chain: {self.message[:300]} (code {self.code})")


class Rpc:
    """One keep-alive HTTP connection. Not for use by several threads at once."""

    def __init__(self, url: str, timeout: float = 120.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise ValueError("the synchronous client speaks http:// and https:// only")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = url
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._ids = 0

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def request(self, method: str, *params: Any) -> Any:
        """One request, raw result; raises RpcError when the node refuses it, OSError when it cannot be reached."""
        self._ids += 1
        answer = self._post({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params})
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]], *, errors: bool = False) -> list[Any]:
        """Several requests in one round trip, raw results in order. anvil runs them in parallel: never batch sends.

        With `errors`, a refused request leaves its RpcError in the list instead of raising it.
        """
        if not calls:
            return []
        first = self._ids + 1
        self._ids += len(calls)
        answers = self._post(
            [{"jsonrpc": "2.0", "id": first + i, "method": m, "params": list(p)} for i, (m, p) in enumerate(calls)]
        )
        by_id = {answer["id"]: answer for answer in answers}
        results: list[Any] = []
        for i, (method, _) in enumerate(calls):
            answer = by_id[first + i]
            if "error" not in answer:
                results.append(answer["result"])
            elif errors:
                results.append(RpcError(method, answer["error"]))
            else:
                raise RpcError(method, answer["error"])
        return results

    def call(self, to: str, data: bytes, *, sender: str | None = None, at: str | int = "latest") -> bytes:
        """eth_call; raises RpcError when it reverts."""
        transaction = {"to": to, "data": "0x" + data.hex()} | ({"from": sender} if sender else {})
        return bytes.fromhex(self.request("eth_call", transaction, hex(at) if isinstance(at, int) else at)[2:])

    def view(self, to: str, signature: str, *args: Any, returns: str = "uint256", at: str | int = "latest") -> Any:
        """Call a view function: the value itself when `returns` names one type, a tuple for a comma-separated list."""
        types = component_types(f"({returns})")
        values = returned(types, self.call(to, calldata(signature, *args), at=at))
        return values[0] if len(types) == 1 else values

    def views(
        self, calls: Sequence[tuple[str, str, Sequence[Any], tuple[str, ...]]], *, at: str | int = "latest"
    ) -> list[tuple[Any, ...] | None]:
        """Many view calls (to, signature, args, return types) in one round trip; None where one reverts."""
        block = hex(at) if isinstance(at, int) else at
        answers = self.batch(
            [("eth_call", [{"to": to, "data": "0x" + calldata(s, *a).hex()}, block]) for to, s, a, _ in calls],
            errors=True,
        )
        return [
            None if isinstance(answer, RpcError) else returned(types, bytes.fromhex(answer[2:]))
            for answer, (_, _, _, types) in zip(answers, calls, strict=True)
        ]

    def number(self) -> int:
        """Number of the newest block."""
        return int(self.request("eth_blockNumber"), 16)

    def block(self, at: str | int = "latest", *, full: bool = False) -> dict[str, Any]:
        """A block, raw, with its transactions' hashes or (`full`) bodies."""
        found: dict[str, Any] = self.request("eth_getBlockByNumber", hex(at) if isinstance(at, int) else at, full)
        return found

    def _connect(self) -> None:
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _post(self, payload: Any) -> Any:
        body = orjson.dumps(payload)
        for reused in (self._connection.sock is not None, False):
            try:
                if self._connection.sock is None:
                    self._connect()
                self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
                with self._connection.getresponse() as response:
                    return orjson.loads(response.read())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A kept-alive connection may be closed while idle: the request was not taken, so one new try is safe.
                self._connection.close()
                if not reused:
                    raise
        raise AssertionError("unreachable")
