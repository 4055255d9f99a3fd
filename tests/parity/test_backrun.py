"""Liquidations in the same block as the oracle update that makes them possible, directly behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account

from keeper.app import _desk
from keeper.assembly import Assembly, assemble
from keeper.backrun import BackrunEngine
from keeper.config import load
from keeper.devchain.actors import account
from keeper.devchain.artifacts import own_contracts
from keeper.devchain.calls import calldata
from keeper.devchain.catalogue import SPECS
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.early import engine_for, following
from keeper.engine import Parts
from keeper.errors import KeeperError
from keeper.execution.bundles import PrivateSubmitter
from keeper.execution.executor import creation_code
from keeper.execution.oracle_updates import ANSWER_UPDATED, decode_call
from keeper.journal import Journal, queries
from keeper.journal.queries import AttemptRow
from keeper.model import Address, Decision, Head, Order, Skip, Verdict, address, checksum
from keeper.ports import Book, Proof, Synced
from keeper.strategy.opportunity import Opportunity
from tests.support.fork import Fork
from tests.support.relay_server import RelayServer, call_of, hash_of
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

TRANSMITTER_KEY = "0x" + "7a" * 32
TRANSMITTER = address(Account.from_key(TRANSMITTER_KEY).address)
BENEFICIARY = account("beneficiary")
BORROWER = account("behind an update")
TRANSMIT = "transmit(bytes32[3],bytes,bytes32[],bytes32[],bytes32)"
ENV = {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"}


class Quiet:
    """An observer that keeps what was decided."""

    def __init__(self) -> None:
        self.orders: list[Decision] = []
        self.troubles: list[str] = []

    def synced(self, step: Synced) -> None: ...
    def settled(self, verdict: Verdict) -> None: ...
    def audited(self, market: str, difference: Skip | None) -> None: ...
    def surveyed(self, book: Book, found: object) -> None: ...
    def passed(self, head: Head) -> None: ...

    def decided(self, found: Opportunity, proof: Proof | None, decision: Decision, detail: str) -> None:
        if decision.attempt_id is not None:
            self.orders.append(decision)

    def interrupted(self, head: Head, error: KeeperError) -> None:
        self.troubles.append(str(error))


class NoLimits:
    """Safeguards that never stop anything."""

    paused = False
    breaker: str | None = None

    async def settled(self, verdicts: object) -> None: ...
    async def audited(self, mirror: str, difference: Skip | None) -> None: ...

    def sending(self, order: Order, repaid: object) -> nullcontext[Skip | None]:
        return nullcontext(None)


@dataclass
class Scene:
    """A live keeper with one builder, a borrower whom a lower ether price makes liquidatable, and a price to post."""

    fork: Fork
    server: RelayServer
    parts: Assembly
    engine: BackrunEngine
    journal: Journal
    forwarder: Address
    observer: Quiet
    head: Head | None = None
    posted: list[bytes] = field(default_factory=list)

    @property
    def aggregator(self) -> Address:
        return self.fork.world.feeds["WETH"].aggregator

    async def step(self) -> Head:
        self.head = await self.parts.client.head()
        await self.engine.step(self.head)
        return self.head

    def report(self, answer: int, nonce: int = 0, tip: int = 10**9, to: Address | None = None) -> bytes:
        """A signed update through the forwarder, as a node operator sends it."""
        observed = sorted([answer - 7, answer - 1, answer, answer + 2, answer + 30])
        report = encode(["uint32", "bytes32", "int192[]", "int192"], [1, b"", observed, 1])
        inner = calldata(TRANSMIT, [b"\0" * 32] * 3, report, [b"\1" * 32], [b"\2" * 32], b"\0" * 32)
        data = calldata("forward(address,bytes)", to or self.aggregator, inner)
        return self.signed(data, nonce, tip)

    def signed(self, data: bytes, nonce: int, tip: int) -> bytes:
        # Without data it is a harmless transfer to somebody.
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self.fork.world.chain_id,
            "nonce": nonce,
            "to": checksum(self.forwarder if data else BENEFICIARY),
            "value": 0,
            "data": data,
            "gas": 500_000,
            "maxFeePerGas": 100 * 10**9 + tip,
            "maxPriorityFeePerGas": tip,
        }
        return bytes(Account.sign_transaction(fields, TRANSMITTER_KEY).raw_transaction)

    def publish(self, raw: bytes) -> str:
        """Into the public pool."""
        sent: str = self.fork.rpc.request("eth_sendRawTransaction", "0x" + raw.hex())
        return sent

    async def offered(self, count: int = 1, seconds: float = 8.0) -> None:
        """Wait until the builder was asked so many times."""
        await until(lambda: len(self.server.requests) >= count, seconds)

    async def attempts(self) -> list[AttemptRow]:
        return sorted(await self.journal.ask(queries.attempts), key=lambda row: row.head_number)

    def nonce(self) -> int:
        return int(self.fork.rpc.request("eth_getTransactionCount", OPERATOR, "latest"), 16)

    def money(self) -> int:
        return int(self.fork.rpc.request("eth_getBalance", OPERATOR, "latest"), 16)

    def places(self, number: int) -> list[tuple[str, str]]:
        """(sender, hash) of a block's transactions in order."""
        txs = self.fork.rpc.block(number, full=True)["transactions"]
        return [(tx["from"], tx["hash"]) for tx in sorted(txs, key=lambda tx: int(tx["transactionIndex"], 16))]


PRICE = 2_880 * 10**8


def borrower(number: int) -> Address:
    return BORROWER if number == 0 else account(f"behind an update too {number}")


async def until(happened: Callable[[], bool], seconds: float = 8.0) -> None:
    """Wait for it; raises TimeoutError."""
    for _ in range(round(seconds / 0.02)):
        if happened():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


@asynccontextmanager
async def scene(
    fork: Fork,
    folder: Path,
    *,
    offer: str = "bundle",
    mempool: bool = True,
    live: bool = True,
    env: dict[str, str] | None = None,
    debts: tuple[str, ...] = ("USDC",),
    adapter: tuple[int, int] | None = None,
) -> AsyncIterator[Scene]:
    """One borrower per entry of `debts`; with `adapter` (bps of the feed's answer, cap) ether is priced through one."""
    actors = fork.actors
    with actors.block() as receipts:
        actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, BENEFICIARY), gas=6_000_000)
        actors.submit(OPERATOR, None, own_contracts()["FeedForwarder"].creation({}), gas=2_000_000)
    executor, forwarder = (address(receipt["contractAddress"]) for receipt in receipts)
    actors.fund_native(TRANSMITTER, 10**20)
    market = fork.world.main
    if adapter is not None:
        code = compiled_contracts()["CappedAdapter"].creation({}, fork.world.feeds["WETH"].proxy, *adapter)
        with actors.block() as receipts:
            actors.submit(fork.world.deployer, None, code, gas=2_000_000)
        actors.set_oracle_source(market, "WETH", address(receipts[0]["contractAddress"]))
    for number, debt in enumerate(debts):
        actors.fund(borrower(number), "WETH", 40 * 10**18)
        actors.supply(market, borrower(number), "WETH", 40 * 10**18)
        available = actors.standing(market, borrower(number)).available // 10**8
        actors.borrow(market, borrower(number), debt, actors.worth(debt, available * 999 // 1_000))
    actors.align({symbol: spec.price for symbol, spec in SPECS.items()} | {"WETH": PRICE})
    async with AsyncExitStack() as open_:
        server = await open_.enter_async_context(RelayServer(fork.rpc))
        path = folder / "keeper.toml"
        extra = f'\n[relays.builder]\nurl = "{server.url}"\noffer = "{offer}"\n'
        if offer == "mev_share":
            extra += f'stream = "{server.stream}"\n'
        extra += f"[mempool]\nenabled = {'true' if mempool else 'false'}\n"
        path.write_text(config_text(fork.world, fork.ws, folder, 12, 0, executor) + extra)
        (folder / "operator.key").write_text(OPERATOR_KEY)
        parts = await open_.enter_async_context(assemble(load(path, ENV | (env or {})), live=live))
        journal, submitter = await open_.enter_async_context(_desk(parts))
        assert isinstance(submitter, PrivateSubmitter) == live
        observer = Quiet()
        await parts.start()
        wired = Parts(
            client=parts.client,
            follower=parts.follower,
            books=parts.books,
            mirrors=[],
            quoter=parts.quoter,
            appraiser=parts.appraiser,
            fees=parts.fees,
            prover=parts.prover,
            submitter=submitter,
            recorder=journal,
            observer=observer,
            safeguards=NoLimits(),
            clock=lambda: actors.now,
        )
        engine = engine_for(parts, wired)
        assert isinstance(engine, BackrunEngine)
        stage = Scene(fork, server, parts, engine, journal, forwarder, observer)
        await stage.step()
        assert engine.feeds.depends(stage.aggregator, market.name)
        await open_.enter_async_context(following(parts, engine))
        if offer == "mev_share":
            await until(lambda: server.subscriptions > 0)
        else:
            await asyncio.sleep(0.3)  # the subscription
        yield stage


async def test_a_backrun_lands_in_the_same_block_directly_behind_its_update(fork: Fork, tmp_path: Path) -> None:
    """Seen pending, decoded, planned under its price, simulated behind it, bundled, mined behind it, profitable."""
    async with scene(fork, tmp_path) as here:
        update = here.publish(here.report(PRICE))
        await here.offered()
        (method, params) = here.server.requests[0]
        assert method == "eth_sendBundle"
        assert len(params["txs"]) == 2
        built = here.server.build()
        assert len(built.included) == 2
        order = here.places(built.number)
        place = [tx_hash for _, tx_hash in order].index(update)
        assert order[place + 1][0] == OPERATOR
        await here.step()
        (attempt,) = await here.attempts()
        assert (attempt.state, attempt.block_number, attempt.tx_hash) == ("mined", built.number, order[place + 1][1])
        assert attempt.borrower == BORROWER
        assert attempt.net is not None
        assert attempt.net > 0
        assert attempt.predicted_gain == attempt.gain, "the simulation behind the update told the gain to the wei"
        print(f"net {attempt.net} wei, predicted {attempt.predicted_net}")


async def test_the_producer_is_paid_a_share_of_the_gain(fork: Fork, tmp_path: Path) -> None:
    """tip_policy "coinbase": the executor pays it out of what it measured, the rest is the prediction to the wei."""
    producer = account("block producer")
    fork.rpc.request("anvil_setCoinbase", producer)
    coinbase = {"KEEPER__STRATEGY__TIP_POLICY": "coinbase", "KEEPER__STRATEGY__TIP_SHARE_BPS": "3000"}
    async with scene(fork, tmp_path, env=coinbase) as here:
        here.publish(here.report(PRICE, tip=0))
        await here.offered()
        before = int(fork.rpc.request("eth_getBalance", producer, "latest"), 16)
        here.server.build()
        paid = int(fork.rpc.request("eth_getBalance", producer, "latest"), 16) - before
        await here.step()
        (attempt,) = await here.attempts()
        assert attempt.state == "mined"
        assert attempt.gain is not None
        assert attempt.net is not None
        assert attempt.gas_used is not None
        tips = 10**9 * attempt.gas_used
        measured = attempt.gain + (paid - tips)
        assert paid - tips == measured * 3_000 // 10_000
        assert attempt.net > 0
        assert attempt.gain == attempt.predicted_gain


async def test_a_dry_run_writes_down_what_it_would_have_sent(fork: Fork, tmp_path: Path) -> None:
    """The same steps up to the last one: an order in the journal, nothing signed, nothing offered."""
    async with scene(fork, tmp_path, live=False) as here:
        here.publish(here.report(PRICE))
        await until(lambda: bool(here.observer.orders))
        (attempt,) = await here.attempts()
        assert attempt.borrower == BORROWER
        assert attempt.predicted_net > 0
        assert attempt.tx_hash is None
        assert here.server.requests == []


async def test_a_dropped_bundle_costs_nothing_and_is_offered_again(fork: Fork, tmp_path: Path) -> None:
    """While the update waits, every head brings a fresh bundle at the same nonce; it lands with the update at last."""
    async with scene(fork, tmp_path) as here:
        money, nonce = here.money(), here.nonce()
        here.server.mode = "drop"
        raw = here.report(PRICE)
        update = here.publish(raw)
        for round_ in range(2):
            await here.offered(round_ + 1)
            here.fork.rpc.request("anvil_dropTransaction", update)  # this block leaves the update waiting
            here.server.build()
            here.publish(raw)
            await here.step()
        await here.offered(3)
        targets = [int(params["blockNumber"], 16) for _, params in here.server.requests]
        assert targets == [targets[0], targets[0] + 1, targets[0] + 2]
        assert (here.money(), here.nonce()) == (money, nonce)
        rows = await here.attempts()
        assert [row.state for row in rows] == ["dropped", "dropped", "sent"]
        assert {row.nonce for row in rows} == {nonce}
        here.server.mode = "include"
        here.fork.rpc.request("anvil_dropTransaction", update)
        here.server.build()
        here.publish(raw)
        await here.step()
        built = here.server.build()
        assert len(built.included) == 2
        await here.step()
        assert [row.state for row in await here.attempts()][-1] == "mined"


async def test_a_bundle_never_lands_without_its_update(fork: Fork, tmp_path: Path) -> None:
    """The update is replaced by another transaction: ours is not included, not sent alone, and costs nothing."""
    async with scene(fork, tmp_path) as here:
        money, nonce = here.money(), here.nonce()
        here.publish(here.report(PRICE))
        await here.offered()
        here.publish(here.signed(b"", 0, 50 * 10**9))  # the same nonce at a higher fee
        here.fork.rpc.request("evm_mine")  # somebody else's block
        for _ in range(6):
            await here.step()
            assert here.fork.rpc.request("txpool_status")["pending"] == "0x0"
            here.server.build()
        assert (here.money(), here.nonce()) == (money, nonce)
        assert [row.state for row in await here.attempts()] == ["dropped"]


async def test_after_a_lost_update_the_ordinary_pass_decides(fork: Fork, tmp_path: Path) -> None:
    """The update lands without us: one head later the book has its price, and the position is taken as any other."""
    async with scene(fork, tmp_path) as here:
        here.server.mode = "drop"
        here.publish(here.report(PRICE))
        await here.offered()
        here.server.build()  # the update is mined, our bundle is not
        here.server.mode = "include"
        await here.step()
        assert len(here.server.requests[-1][1]["txs"]) == 1
        here.server.build()
        await here.step()
        assert [row.state for row in await here.attempts()] == ["dropped", "mined"]


async def test_what_is_no_update_of_a_feed_in_use_changes_nothing(fork: Fork, tmp_path: Path) -> None:
    """Foreign aggregators, malformed and unsorted reports, an answer that changes nothing: nothing is offered."""
    async with scene(fork, tmp_path) as here:
        stranger = account("some other feed")
        here.publish(here.report(PRICE, 0, to=stranger))
        here.publish(here.report(3_000 * 10**8, 1))  # the present price
        here.publish(
            here.signed(calldata("forward(address,bytes)", here.aggregator, b"\xb1\xdc\x65\xa4nonsense"), 2, 1)
        )
        unsorted = encode(["uint32", "bytes32", "int192[]", "int192"], [1, b"", [PRICE, PRICE - 1], 1])
        inner = calldata(TRANSMIT, [b"\0" * 32] * 3, unsorted, [], [], b"\0" * 32)
        assert decode_call(here.aggregator, inner) is None
        here.publish(here.signed(calldata("forward(address,bytes)", here.aggregator, inner), 3, 1))
        here.publish(here.report(2_990 * 10**8, 4))  # not enough for anybody
        await asyncio.sleep(0.8)
        assert here.server.requests == []
        assert await here.attempts() == []


async def test_the_book_under_a_pending_price_is_the_book_after_it(fork: Fork, tmp_path: Path) -> None:
    """Health of everybody in the view equals, to the wei, what the book says once the price is on chain."""
    async with scene(fork, tmp_path, mempool=True) as here:
        head = await here.step()
        book: Any = next(b for b in here.parts.books if b.name == fork.world.main.name)
        weth = fork.world.tokens["WETH"].address
        at = head.timestamp + 24
        before = list(book.accounts(at))
        view = book.with_prices({weth: PRICE})
        told = list(view.accounts(at))
        screened = set(view.screen(at))
        assert list(book.accounts(at)) == before, "looking changed the book"
        fork.actors.set_price("WETH", PRICE)
        await here.step()
        assert list(book.accounts(at)) == told != before
        assert set(book.screen(at)) == screened
        assert BORROWER in screened


async def test_a_hint_about_a_private_update_is_bid_on(fork: Fork, tmp_path: Path) -> None:
    """MEV-Share: the update is known by hash and log only; the bid lands directly behind it."""
    async with scene(fork, tmp_path, offer="mev_share", mempool=False) as here:
        raw = here.report(PRICE)
        topics = [ANSWER_UPDATED, "0x" + PRICE.to_bytes(32, "big").hex(), "0x" + "00" * 31 + "02"]
        here.server.say(b"event: nonsense\ndata: {not json\n\n:comment\n\n")
        here.server.share(here.report(PRICE, 9), {"logs": None, "txs": None})  # a hint that hints at nothing
        update = here.server.share(raw, {"logs": [{"address": here.aggregator, "topics": topics, "data": "0x"}]})
        await here.offered()
        assert here.server.requests[0][0] == "mev_sendBundle"
        assert here.server.requests[0][1]["body"][0] == {"hash": update}
        built = here.server.build()
        assert [sender for sender, _ in here.places(built.number)] == [TRANSMITTER, OPERATOR]
        await here.step()
        (attempt,) = await here.attempts()
        assert attempt.state == "mined"
        assert attempt.gain is not None
        assert attempt.gain > 0


async def test_the_stream_comes_back(fork: Fork, tmp_path: Path) -> None:
    """A closed event stream is opened again, and the next hint is heard."""
    async with scene(fork, tmp_path, offer="mev_share", mempool=False) as here:
        here.server.say(b"")
        await until(lambda: here.server.subscriptions > 1)
        call = {"to": here.forwarder, "callData": "0x" + _data_of(here.report(PRICE)).hex()}
        here.server.share(here.report(PRICE), {"txs": [call]})
        await here.offered()
        assert here.server.requests[0][0] == "mev_sendBundle"


def _data_of(raw: bytes) -> bytes:
    return bytes.fromhex(call_of(raw)["input"][2:])


DEBTS = ("USDC", "WBTC", "LINK")


async def test_several_positions_behind_one_update(fork: Fork, tmp_path: Path) -> None:
    """Three borrowers fall with one price: three nonces in a row, every bundle with all before it, one block."""
    async with scene(fork, tmp_path, debts=DEBTS) as here:
        nonce = here.nonce()
        update = here.publish(here.report(PRICE))
        await here.offered(3)
        bundles = [params["txs"] for _, params in here.server.requests]
        assert [len(txs) for txs in bundles] == [2, 3, 4]
        assert bundles[0] == bundles[2][:2]
        assert bundles[1] == bundles[2][:3]
        assert [int(call_of(bytes.fromhex(raw[2:]))["nonce"], 16) for raw in bundles[2][1:]] == [
            nonce, nonce + 1, nonce + 2,
        ]  # fmt: skip
        assert len({params["replacementUuid"] for _, params in here.server.requests}) == 3
        built = here.server.build()
        order = here.places(built.number)
        assert [sender for sender, _ in order] == [TRANSMITTER, OPERATOR, OPERATOR, OPERATOR]
        assert order[0][1] == update
        await here.step()
        rows = await here.attempts()
        assert {row.state for row in rows} == {"mined"}
        assert {row.borrower for row in rows} == {borrower(number) for number in range(3)}
        assert [row.gain for row in rows] == [row.predicted_gain for row in rows]
        rows.sort(key=lambda row: row.nonce)
        assert [row.predicted_net for row in rows] == sorted((row.predicted_net for row in rows), reverse=True)
        count = here.parts.metrics.registry.get_sample_value
        assert count("keeper_relay_included_total", {"relay": "builder"}) == 3
        assert count("keeper_relay_requests_total", {"relay": "builder"}) == 3
        assert count("keeper_relay_answers_total", {"relay": "builder", "result": "accepted"}) == 3


async def test_one_that_fails_does_not_take_the_others_along(fork: Fork, tmp_path: Path) -> None:
    """The last of three is made to fail in the builder's block: the longest bundle that holds lands, none is stuck."""
    async with scene(fork, tmp_path, debts=DEBTS) as here:
        here.publish(here.report(PRICE))
        await here.offered(3)
        nonce = here.nonce()
        await here.step()
        last = max(await here.attempts(), key=lambda row: row.nonce)
        simulate = here.server.simulate

        def spoiled(raws: Any) -> list[dict[str, Any]]:
            calls = simulate(raws)
            for raw, call in zip(raws, calls, strict=True):
                if hash_of(raw) == last.tx_hash:
                    call["status"] = "0x0"
            return calls

        here.server.simulate = spoiled  # type: ignore[method-assign]
        built = here.server.build()
        assert len(built.included) == 3
        assert here.nonce() == nonce + 2
        await here.step()
        states = {row.id: row.state for row in await here.attempts()}
        assert states.pop(last.id) == "dropped"
        # The position is liquidatable for everybody now, and taken as any other with the nonce that was not used.
        assert sorted(states.values()) == ["mined", "mined", "sent"]
        here.server.build()
        await here.step()
        assert here.nonce() == nonce + 3
        assert sorted(row.state for row in await here.attempts()) == ["dropped", "mined", "mined", "mined"]


async def test_a_price_behind_an_adapter_is_what_the_chain_says(fork: Fork, tmp_path: Path) -> None:
    """Ether is priced at 99 % of its feed: the update is simulated, the oracle asked behind it, the gain exact."""
    async with scene(fork, tmp_path, adapter=(9_900, 10**18)) as here:
        weth, market = fork.world.tokens["WETH"].address, fork.world.main
        assert here.engine.feeds.of(here.aggregator, market.name) == []
        assert here.engine.feeds.made_from(here.aggregator, market.name) == [weth]
        assert here.engine.feeds.of(here.aggregator, fork.world.second.name) == [weth]
        update = here.publish(here.report(PRICE))
        await here.offered()
        built = here.server.build()
        order = here.places(built.number)
        assert [sender for sender, _ in order] == [TRANSMITTER, OPERATOR]
        assert order[0][1] == update
        await here.step()
        (attempt,) = await here.attempts()
        assert (attempt.state, attempt.borrower) == ("mined", BORROWER)
        assert attempt.gain == attempt.predicted_gain == int(attempt.plan["planned_gain"])


async def test_what_a_cap_makes_of_an_update_is_not_guessed(fork: Fork, tmp_path: Path) -> None:
    """A price that falls, but not below the cap, changes nothing; one that does is acted on."""
    async with scene(fork, tmp_path, adapter=(10_000, 2_960 * 10**8)) as here:
        here.publish(here.report(2_970 * 10**8))
        await asyncio.sleep(0.8)
        assert here.server.requests == []
        fork.rpc.request("evm_mine")
        await here.step()
        here.publish(here.report(2_845 * 10**8, 1))
        await here.offered()
        here.server.build()
        await here.step()
        (attempt,) = await here.attempts()
        assert (attempt.state, attempt.gain) == ("mined", attempt.predicted_gain)


async def test_without_a_simulation_an_adapter_is_left_out_with_its_reason(fork: Fork, tmp_path: Path) -> None:
    """A node without eth_simulateV1: nothing is guessed, and why is written down."""
    async with scene(fork, tmp_path, adapter=(9_900, 10**18)) as here:
        here.parts.foresight._offered = False
        here.engine.feeds._read_at = None
        await here.step()
        reason = here.engine.feeds.skipped[fork.world.main.name, fork.world.tokens["WETH"].address]
        assert "no eth_simulateV1" in reason
        here.publish(here.report(PRICE))
        await asyncio.sleep(0.8)
        assert here.server.requests == []
