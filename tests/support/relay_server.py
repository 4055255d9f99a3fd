"""A builder and relay on a private chain: it checks signatures, simulates, and includes bundles or drops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.chain.wire import head as read_head
from keeper.devchain.rpc import Rpc, RpcError
from keeper.model import Address, Hash, address

STEP = 12  # seconds between two blocks


@dataclass
class Held:
    """Something to include: raw transactions in order, for blocks first…last."""

    raws: list[bytes]
    first: int
    last: int
    uuid: str = ""


@dataclass
class Built:
    """A block this builder made."""

    number: int
    included: list[Hash]  # of bundles, in the order of the block
    dropped: list[str] = field(default_factory=list)  # why, per bundle that was not included


class RelayServer:
    """One endpoint with a builder behind it. `mode` is how it behaves towards requests:

    include · drop (answers 200 and forgets) · hang · broken (HTTP 500) · nonsense · refuse (a JSON-RPC error)
    """

    def __init__(
        self, rpc: Rpc, mode: str = "include", *, offers_cancel: bool = True, wall_clock: bool = False
    ) -> None:
        """With `wall_clock` blocks carry the time of day, as a daemon of its own expects."""
        self.rpc = rpc
        self.mode = mode
        self.offers_cancel = offers_cancel
        self.wall_clock = wall_clock
        self.held: list[Held] = []
        self.private: dict[Hash, bytes] = {}  # transactions of users, known to others by hash only
        self.requests: list[tuple[str, Any]] = []
        self.signers: set[Address] = set()
        self.forged = 0  # requests whose signature was wrong
        self.hints: list[asyncio.Queue[bytes]] = []
        self.subscriptions = 0
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream(self) -> str:
        return f"{self.url}/events"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._serve)
        app.router.add_get("/events", self._events)
        app.router.add_post("/flood/{any}", self._flood)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        assert self._runner is not None
        await self._runner.cleanup()

    def methods(self) -> list[str]:
        """What was asked so far."""
        return [method for method, _ in self.requests]

    # ------------------------------------------------------------------------------------------- JSON-RPC

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.mode == "hang":
            await self._stopping.wait()
        if self.mode == "broken":
            return web.Response(status=500, text="oh no")
        if self.mode == "nonsense":
            return web.Response(text="<html>")
        who = signer_of(request.headers.get("X-Flashbots-Signature", ""), body)
        if who is None:
            self.forged += 1
            return self._answer(
                {"error": {"code": -32000, "message": "signer address does not match the payload"}}, 403
            )
        self.signers.add(who)
        asked = orjson.loads(body)
        method, params = asked["method"], asked["params"][0]
        self.requests.append((method, params))
        if self.mode == "refuse":
            return self._answer({"error": {"code": -32000, "message": "nonce too low"}})
        try:
            return self._answer({"result": self._do(method, params)})
        except LookupError as error:
            return self._answer({"error": {"code": -32601, "message": str(error.args[0])}})

    async def _flood(self, request: web.Request) -> web.Response:
        return web.Response(body=b" " * (3 << 20))

    def _answer(self, content: dict[str, Any], status: int = 200) -> web.Response:
        return web.Response(
            status=status,
            body=orjson.dumps({"jsonrpc": "2.0", "id": 1, **content}),
            content_type="application/json",
        )

    def _do(self, method: str, params: Any) -> Any:
        if method == "eth_sendBundle":
            assert not params.get("revertingTxHashes")
            raws = [bytes.fromhex(raw[2:]) for raw in params["txs"]]
            block = int(params["blockNumber"], 16)
            return {"bundleHash": self._hold(Held(raws, block, block, params["replacementUuid"]))}
        if method == "mev_sendBundle":
            raws = [self._body(item) for item in params["body"]]
            inclusion = params["inclusion"]
            last = int(inclusion.get("maxBlock", inclusion["block"]), 16)
            return {"bundleHash": self._hold(Held(raws, int(inclusion["block"], 16), last))}
        if method == "eth_sendPrivateTransaction":
            number = self.rpc.number()
            return self._hold(Held([bytes.fromhex(params["tx"][2:])], number + 1, int(params["maxBlockNumber"], 16)))
        if method == "eth_callBundle":
            try:
                calls = self.simulate([bytes.fromhex(raw[2:]) for raw in params["txs"]])
                results = [{"gasUsed": int(c["gasUsed"], 16), **_error(c)} for c in calls]
            except RpcError as error:
                results = [{"gasUsed": 0, "error": error.message}]
            return {"results": results, "stateBlockNumber": int(params["stateBlockNumber"], 16)}
        if self.offers_cancel and method == "eth_cancelBundle":
            self.held = [held for held in self.held if held.uuid != params["replacementUuid"]]
            return None
        if self.offers_cancel and method == "eth_cancelPrivateTransaction":
            before = len(self.held)
            self.held = [held for held in self.held if hash_of(held.raws[-1]) != params["txHash"]]
            return len(self.held) < before
        raise LookupError(f"the method {method} does not exist/is not available")

    def _body(self, item: dict[str, Any]) -> bytes:
        if "hash" in item:
            if item["hash"] not in self.private:
                raise LookupError("unable to find the transaction of this hash")
            return self.private[item["hash"]]
        assert item["canRevert"] is False
        return bytes.fromhex(item["tx"][2:])

    def _hold(self, held: Held) -> str:
        if self.mode != "drop":
            if held.uuid:
                self.held = [h for h in self.held if (h.uuid, h.first) != (held.uuid, held.first)]
            self.held.append(held)
        return "0x" + keccak(b"".join(keccak(raw) for raw in held.raws)).hex()

    # -------------------------------------------------------------------------------------------- building

    def simulate(self, raws: Sequence[bytes]) -> list[dict[str, Any]]:
        """The transactions one after the other in the next block; raises RpcError when one is invalid."""
        head = read_head(self.rpc.block())
        self._check_nonces(raws)
        block = {
            "blockOverrides": {
                "number": hex(head.number + 1),
                "time": hex(self._next_time(head.timestamp)),
                "baseFeePerGas": hex(head.next_base_fee()),
            },
            "calls": [call_of(raw) for raw in raws],
        }
        answer = self.rpc.request("eth_simulateV1", {"blockStateCalls": [block], "validation": True}, hex(head.number))
        calls: list[dict[str, Any]] = answer[0]["calls"]
        return calls

    def _next_time(self, now: int) -> int:
        return max(now + 1, int(time.time())) if self.wall_clock else now + STEP

    def _check_nonces(self, raws: Sequence[bytes]) -> None:
        """anvil's simulation lets any nonce pass, a block does not."""
        expected: dict[str, int] = {}
        for raw in raws:
            call = call_of(raw)
            who = call["from"]
            known = expected.get(who)
            expected[who] = (
                int(self.rpc.request("eth_getTransactionCount", who, "latest"), 16) if known is None else known
            )
            if int(call["nonce"], 16) != expected[who]:
                raise RpcError("eth_simulateV1", {"message": f"nonce {call['nonce']} where {expected[who]} is next"})
            expected[who] += 1

    def build(self) -> Built:
        """Make the next block: whole bundles whose simulation succeeds, then whatever waits in public."""
        head = read_head(self.rpc.block())
        number = head.number + 1
        chosen: list[bytes] = []
        built = Built(number, [])
        for held in [h for h in self.held if h.first <= number <= h.last]:
            raws = [raw for raw in held.raws if raw not in chosen]
            try:
                failed = [call for call in self.simulate(chosen + raws) if call["status"] != "0x1"]
            except RpcError as error:
                built.dropped.append(error.message)
                continue
            if failed:
                built.dropped.append(str(failed[0].get("error")))
                continue
            chosen += raws
        for raw in chosen:
            try:
                self.rpc.request("eth_sendRawTransaction", "0x" + raw.hex())
            except RpcError as error:
                assert "already" in error.message, error.message  # noqa: PT017 - what waits in public is included too
        self.rpc.request("anvil_setNextBlockBaseFeePerGas", hex(head.next_base_fee()))
        self.rpc.request("evm_mine", {"timestamp": self._next_time(head.timestamp), "blocks": 1})
        built.included = [hash_of(raw) for raw in chosen]
        mined = self.rpc.block(number, full=True)["transactions"]
        places = {tx["hash"]: int(tx["transactionIndex"], 16) for tx in mined}
        for tx_hash in built.included:
            receipt = self.rpc.request("eth_getTransactionReceipt", tx_hash)
            assert receipt["status"] == "0x1", "the builder broke its promise"
            assert tx_hash in places
        self.held = [held for held in self.held if held.last > number]
        return built

    # ------------------------------------------------------------------------------------------- MEV-Share

    def share(self, raw: bytes, hint: dict[str, Any]) -> Hash:
        """A user's private transaction: bundles may name it by its hash, and subscribers get `hint` about it."""
        tx_hash = hash_of(raw)
        self.private[tx_hash] = raw
        for queue in self.hints:
            queue.put_nowait(b"data: " + orjson.dumps({"hash": tx_hash, **hint}) + b"\n\n")
        return tx_hash

    def say(self, line: bytes) -> None:
        """Put raw bytes on the stream; empty bytes close it."""
        for queue in self.hints:
            queue.put_nowait(line)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self.mode == "broken":
            return web.Response(status=500, text="oh no")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.hints.append(queue)
        self.subscriptions += 1
        try:
            await response.write(b":ping\n\n")
            while not self._stopping.is_set():
                try:
                    line = await asyncio.wait_for(queue.get(), 0.2)
                except TimeoutError:
                    continue
                if not line:
                    break
                await response.write(line)
        finally:
            self.hints.remove(queue)
        return response


def signer_of(header: str, body: bytes) -> Address | None:
    """Who signed `body`, if the header says so truly."""
    who, _, signature = header.partition(":")
    try:
        message = encode_defunct(text="0x" + keccak(body).hex())
        found = Account.recover_message(message, signature=HexBytes(signature))
        return address(found) if address(who) == address(found) else None
    except (ValueError, TypeError):
        return None


def hash_of(raw: bytes) -> Hash:
    """A raw transaction's hash."""
    return Hash("0x" + keccak(raw).hex())


def call_of(raw: bytes) -> dict[str, Any]:
    """The call a raw type 2 transaction makes."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return {
        "from": Account.recover_transaction(raw),
        "to": "0x" + bytes(fields["to"]).hex(),
        "input": "0x" + bytes(fields["data"]).hex(),
        "nonce": hex(fields["nonce"]),
        "gas": hex(fields["gas"]),
        "value": hex(fields["value"]),
        "maxFeePerGas": hex(fields["maxFeePerGas"]),
        "maxPriorityFeePerGas": hex(fields["maxPriorityFeePerGas"]),
    }


def _error(call: dict[str, Any]) -> dict[str, str]:
    return {} if call["status"] == "0x1" else {"error": "execution reverted", "revert": str(call.get("error"))}
