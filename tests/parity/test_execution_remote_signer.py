"""A signer on another machine: right answers are used, anything else never is."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eth_account import Account

from keeper.config import load
from keeper.config.values import Endpoint
from keeper.errors import BadData, ConfigError, Halt, Transient
from keeper.execution.lane import Lane
from keeper.execution.remote_signer import RemoteSigner
from keeper.execution.signer import LocalSigner, Unsigned, unsigned_payload
from keeper.journal import Journal
from keeper.model import Address, TxKind, address, checksum
from tests.support.execution_chain import Chain, FakeClient, an_order

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
CHAIN = 8453
KEY, OTHER = "0x" + "11" * 32, "0x" + "22" * 32
ME = address(Account.from_key(KEY).address)
SECRET = "s3cret-path-of-the-signer"
TX = Unsigned(TxKind.EXECUTE, 7, Address("0x" + "e0" * 20), bytes(range(90)), 500_000, 30 * 10**9, 10**9)
Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


def signed(fields: dict[str, Any], key: str = KEY, **changes: Any) -> str:
    """What a Web3Signer answers to a request, with changes for one that lies."""
    wanted = {
        "type": 2,
        "chainId": int(fields["chainId"], 16),
        "nonce": int(fields["nonce"], 16),
        "gas": int(fields["gas"], 16),
        "maxFeePerGas": int(fields["maxFeePerGas"], 16),
        "maxPriorityFeePerGas": int(fields["maxPriorityFeePerGas"], 16),
        "to": fields.get("to", b""),
        "value": 0,
        "data": fields["data"],
    } | changes
    raw = Account.from_key(key).sign_transaction(wanted).raw_transaction
    return "0x" + bytes(raw).hex()


class Web3Signer:
    """A local HTTP server; `answer` makes the result of a request's parameters."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Any] = signed
        self.raw: Answer | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if self.raw is not None:
            return await self.raw(body)
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": self.answer(body["params"][0])})


@pytest.fixture
async def server() -> AsyncIterator[tuple[Web3Signer, RemoteSigner]]:
    told = Web3Signer()
    application = web.Application()
    application.router.add_post(f"/{SECRET}", told.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    signer = RemoteSigner(Endpoint(f"http://127.0.0.1:{port}/{SECRET}"), ME, CHAIN, timeout=0.3)
    yield told, signer
    await signer.close()
    await runner.cleanup()


async def test_the_same_transaction_as_a_local_key(server: tuple[Web3Signer, RemoteSigner]) -> None:
    """Byte for byte and hash for hash, for 100 random transactions."""
    told, signer = server
    rng = random.Random(SEED)
    local = LocalSigner(Account.from_key(KEY), CHAIN)
    for _ in range(100):
        to = None if rng.random() < 0.1 else Address("0x" + rng.randbytes(20).hex())
        data = rng.randbytes(rng.choice((0, 1, 31, 54, 55, 56, 255, 256, 257, 2_000, 70_000)))
        fees = sorted(rng.choice((0, 1, 127, 128, 10**9, 10**12)) for _ in range(2))
        tx = Unsigned(TxKind.EXECUTE, rng.choice((0, 1, 127, 128, 70_000)), to, data, 21_000, fees[1], fees[0])
        here, there = await local.sign(tx), await signer.sign(tx)
        assert here == there, f"KEEPER_SEED={SEED}"
    request = told.requests[0]
    assert request["method"] == "eth_signTransaction"
    assert request["params"][0]["from"].lower() == ME


async def test_an_object_with_the_raw_transaction_will_do(server: tuple[Web3Signer, RemoteSigner]) -> None:
    """As clef and geth answer."""
    told, signer = server
    told.answer = lambda fields: {"raw": signed(fields), "tx": {}}
    assert (await signer.sign(TX)).nonce == TX.nonce


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another nonce": lambda f: signed(f, nonce=8),
    "another receiver": lambda f: signed(f, to=checksum(Address("0x" + "bb" * 20))),
    "a creation": lambda f: signed(f, to=b""),
    "a value": lambda f: signed(f, value=1),
    "other data": lambda f: signed(f, data=f["data"] + "00"),
    "another chain": lambda f: signed(f, chainId=1),
    "a dearer fee": lambda f: signed(f, maxFeePerGas=10**12),
    "a dearer tip": lambda f: signed(f, maxPriorityFeePerGas=2 * 10**9),
    "more gas": lambda f: signed(f, gas=600_000),
    "an access list": lambda f: signed(f, accessList=[{"address": "0x" + "bb" * 20, "storageKeys": []}]),
    "another key": lambda f: signed(f, key=OTHER),
    "a legacy transaction": lambda f: "0x" + bytes(
        Account.from_key(KEY).sign_transaction(
            {"nonce": 7, "gas": 21_000, "gasPrice": 10**9, "to": f["to"], "value": 0, "chainId": CHAIN}
        ).raw_transaction
    ).hex(),
    "a byte more": lambda f: signed(f) + "00",
    "a byte less": lambda f: signed(f)[:-2],
    "no signature": lambda f: "0x" + unsigned_payload(TX, CHAIN).hex(),
    "nothing": lambda f: "0x",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_what_was_not_asked_for_stops_the_keeper(server: tuple[Web3Signer, RemoteSigner], lie: str) -> None:
    """Whatever differs from the request in one field or in its signature raises Halt and is never returned."""
    told, signer = server
    told.answer = LIES[lie]
    with pytest.raises(Halt) as caught:
        await signer.sign(TX)
    assert SECRET not in str(caught.value)


def _constant(text: str, fields: dict[str, Any]) -> str:
    return text


async def test_random_damage_is_never_signed(server: tuple[Web3Signer, RemoteSigner]) -> None:
    """500 seeded flips of one bit of a right answer: not one is taken for it."""
    told, signer = server
    rng = random.Random(SEED)
    right = bytes.fromhex((await signer.sign(TX)).raw.hex())
    for _ in range(500):
        spoilt = bytearray(right)
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        told.answer = partial(_constant, "0x" + spoilt.hex())
        with pytest.raises(Halt):
            await signer.sign(TX)


GARBAGE: dict[str, Any] = {
    "no JSON": web.Response(text="<html>"),
    "a list": web.json_response([1]),
    "null": web.json_response(None),
    "another id": web.json_response({"jsonrpc": "2.0", "id": 10**6, "result": "0x"}),
    "no hex": "zz",
    "a number": 5,
    "too much": "0x" + "00" * (1 << 20),
    "no result": None,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_bad_data(server: tuple[Web3Signer, RemoteSigner], kind: str) -> None:
    """What is no answer at all is bad data, said without the URL's secret."""
    told, signer = server
    found = GARBAGE[kind]
    if isinstance(found, web.Response):
        text = found.text

        async def raw(body: dict[str, Any]) -> web.StreamResponse:
            return web.Response(text=text)

        told.raw = raw
    else:
        told.answer = lambda fields: found
    with pytest.raises(BadData) as caught:
        await signer.sign(TX)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", ["hangs", "declines", "500", "redirects", "closes", "gone"])
async def test_a_signer_that_does_not_sign_is_transient(server: tuple[Web3Signer, RemoteSigner], kind: str) -> None:
    """It hangs, declines, fails, sends elsewhere or is away: to be tried again, without following it anywhere."""
    told, signer = server

    async def raw(body: dict[str, Any]) -> web.StreamResponse:
        match kind:
            case "hangs":
                await asyncio.sleep(5)
            case "declines":
                error = {"code": -32000, "message": "locked"}
                return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": error})
            case "redirects":
                raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")
            case "closes":
                raise ConnectionResetError
        return web.Response(status=500, text=json.dumps({"id": body["id"], "result": "0x"}))

    told.raw = raw
    if kind == "gone":
        signer = RemoteSigner(Endpoint(f"http://127.0.0.1:9/{SECRET}"), ME, CHAIN)
    with pytest.raises(Transient) as caught:
        await signer.sign(TX)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(signer)
    await signer.close()


async def test_a_lane_survives_its_signer(server: tuple[Web3Signer, RemoteSigner], tmp_path: Path) -> None:
    """Nothing is sent when the signer lies or hangs, and the nonce is free for the next order that it does sign."""
    told, signer = server
    chain = Chain()
    client = FakeClient(chain)
    journal = await Journal.open(tmp_path / "journal.sqlite3", 1, "live")
    lane = Lane(client, journal, signer)
    handed: list[bytes] = []

    async def send_raw(raw: bytes) -> list[Any]:
        handed.append(raw)
        return []

    client.send_raw = send_raw  # type: ignore[method-assign]  # the fake chain cannot read real transactions
    told.answer = lambda fields: "zz"
    with pytest.raises(BadData):
        await lane.submit(an_order(chain.head, bytes(20), "0x" + "01" * 32))
    told.answer = lambda fields: signed(fields, nonce=3)
    with pytest.raises(Halt):
        await lane.submit(an_order(chain.head, bytes(20), "0x" + "02" * 32))
    assert not handed
    (left,) = await journal.unsettled()
    assert not left.txs
    await lane.tend(left, chain.head)  # what a restart would do too
    told.answer = signed
    sending = await lane.submit(an_order(chain.head, bytes(20), "0x" + "03" * 32))
    assert sending.nonce == 0
    assert len(handed) == 1
    (attempt,) = await journal.unsettled()
    assert await lane.cancel(attempt, chain.head) is not None
    told.answer = lambda fields: "zz"
    (attempt,) = await journal.unsettled()
    assert await lane.cancel(attempt, chain.head) is None, "a cancellation waits for the signer"
    await journal.close()


def configured(tmp_path: Path, text: str) -> Path:
    base = (Path(__file__).resolve().parents[2] / "config" / "example.toml").read_text()
    head, _, rest = base.partition("[signer]\n")
    path = tmp_path / "keeper.toml"
    path.write_text(f"{head}[signer]\n{text}\n{rest}")
    return path


RPC = {"KEEPER_RPC_URL": "http://127.0.0.1:8545"}


def test_remote_and_further_signers_are_configured(tmp_path: Path) -> None:
    """A remote first key and a further local one from the environment; neither secret is shown."""
    text = f'remote_url = "https://user:{SECRET}@signer.example:9000/{SECRET}"\naddress = "{ME}"\n[signers.second]'
    config = load(configured(tmp_path, text), RPC | {"KEEPER__SIGNERS__SECOND__PRIVATE_KEY": OTHER})
    first, second = config.every_signer
    assert first.address == ME
    assert second.private_key is not None
    assert second.private_key.reveal() == OTHER
    assert SECRET in config.secrets()
    assert OTHER in config.secrets()
    for shown in (repr(config), config.model_dump_json()):
        assert SECRET not in shown
        assert OTHER not in shown


def test_a_further_key_comes_from_a_file_and_never_stands_in_the_configuration(tmp_path: Path) -> None:
    """`private_key_file` works in every table; the key itself is refused there, as in [signer]."""
    (tmp_path / "second").write_text(OTHER + "\n")
    first = {"KEEPER__SIGNER__PRIVATE_KEY": KEY}
    config = load(configured(tmp_path, '[signers.second]\nprivate_key_file = "second"'), RPC | first)
    assert config.every_signer[1].private_key is not None
    with pytest.raises(ConfigError, match=r"signers\.second\.private_key: must not stand in the file") as caught:
        load(configured(tmp_path, f'[signers.second]\nprivate_key = "{OTHER}"'), RPC | first)
    assert OTHER not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('remote_url = "https://s.example"', "belong together"),
        (f'address = "{ME}"', "belong together"),
        (f'remote_url = "wss://s.example"\naddress = "{ME}"', "http"),
        (f'remote_url = "https://s.example"\naddress = "{ME}"\nkeystore = "k.json"', "keep one"),
        ("[signers.second]", "no first one"),
        (f'remote_url = "https://s.example"\naddress = "{ME}"\n[signers.second]', "has no key"),
    ],
)
def test_half_a_signer_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Every combination that could not sign, or not tell with what, is named."""
    with pytest.raises(ConfigError, match=words):
        load(configured(tmp_path, text), RPC)
