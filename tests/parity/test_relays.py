"""Private sending against a real node: a builder that includes, drops, hangs, breaks, refuses; and what it costs."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account

from keeper.chain.client import NodeClient
from keeper.config.values import Secret
from keeper.devchain.anvil import Anvil
from keeper.execution.bundles import PrivateLane, PrivatePolicy
from keeper.execution.lane import LanePolicy
from keeper.execution.offers import Bundle, Offer
from keeper.execution.recover import recover
from keeper.execution.relays import Relays, RelaySpec, ReputationKey
from keeper.execution.signer import LocalSigner, load_signer
from keeper.execution.submit import LiveSubmitter, new_attempt_id
from keeper.execution.track import Tracker
from keeper.journal import Journal, queries
from keeper.model import Address, Head, Order, address
from tests.support.bench import ETH, Bench, make_bench
from tests.support.relay_server import RelayServer

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
RNG = random.Random(SEED)
KEY = "0x" + RNG.randbytes(32).hex()
ME = address(Account.from_key(KEY).address)
REPUTATION = Secret("0x" + RNG.randbytes(32).hex())
GWEI = 10**9
BLOCKS = 3


@dataclass
class Desk:
    """A live keeper's sending side that knows relays only."""

    bench: Bench
    client: NodeClient
    journal: Journal
    signer: LocalSigner
    relays: Relays
    private: PrivatePolicy
    lane: PrivateLane
    submitter: LiveSubmitter

    def restart(self) -> None:
        """A process that knows only what the journal says."""
        self.lane = PrivateLane(self.client, self.journal, self.signer, self.relays, POLICY, self.private)
        self.submitter = LiveSubmitter(self.journal, self.lane, Tracker(self.client, self.journal, self.lane, 3))

    async def order(self, *, works: bool = True, gain: int = ETH, borrower: int = 1, coinbase_bps: int = 0) -> Order:
        """An order that brings `gain` wei of WETH from nowhere, or reverts."""
        head, attempt_id = await self.client.head(), new_attempt_id()
        data = self.bench.encode(
            (self.bench.earn(gain),),
            id=bytes.fromhex(attempt_id[2:]),
            min_gain=0 if works else 2 * gain,
            coinbase_bps=coinbase_bps,
        )
        return Order(
            id=attempt_id,
            market="bench",
            borrower=Address(f"0x{borrower:040x}"),
            to=self.bench.executor,
            data=data,
            gas_limit=1_000_000,
            max_fee=100 * GWEI,
            tip=GWEI,
            head=head,
            predicted_gain=gain,
            predicted_gas=150_000,
            predicted_net=gain - 150_000 * 2 * GWEI,
        )

    async def settle(self) -> Head:
        head = await self.client.head()
        await self.submitter.settle(head)
        return head

    async def state(self, attempt_id: str) -> tuple[str, str]:
        rows = await self.journal.ask(queries.attempts)
        return next((row.state, row.detail) for row in rows if row.id == attempt_id)

    def mine(self) -> None:
        self.bench.rpc.request("anvil_mine", "0x1")

    def nonce(self) -> int:
        return int(self.bench.rpc.request("eth_getTransactionCount", ME, "latest"), 16)

    def money(self) -> int:
        return int(self.bench.rpc.request("eth_getBalance", ME, "latest"), 16)

    def in_public(self) -> int:
        """Transactions that wait where everybody can see them."""
        return int(self.bench.rpc.request("txpool_status")["pending"], 16)


POLICY = LanePolicy(max_age=6, rebroadcast_every=1, bump_every=2)


@asynccontextmanager
async def desk(
    anvil: Anvil,
    folder: Path,
    *servers: tuple[RelayServer, Offer],
    public_after: int | None = None,
    simulate: bool = False,
) -> AsyncIterator[Desk]:
    anvil.rpc.request("anvil_autoImpersonateAccount", True)
    bench = make_bench(anvil.rpc)
    anvil.rpc.request("anvil_setBalance", ME, hex(1_000 * ETH))
    bench.tell(bench.executor, "setOperator(address,bool)", ME, True)
    anvil.rpc.request("anvil_autoImpersonateAccount", False)
    specs = [RelaySpec(f"r{i}", Secret(server.url), offer, simulate) for i, (server, offer) in enumerate(servers)]
    relays = Relays(specs, ReputationKey(REPUTATION), timeout=0.5)
    async with NodeClient.connect([anvil.ws], chain_id=31337, max_age=10**9, attempts=1) as client, relays:
        signer = load_signer(31337, private_key=Secret(KEY))
        journal = await Journal.open(folder / "journal.sqlite3", 31337, "live")
        private = PrivatePolicy(BLOCKS, public_after)
        lane = PrivateLane(client, journal, signer, relays, POLICY, private)
        submitter = LiveSubmitter(journal, lane, Tracker(client, journal, lane, 3))
        yield Desk(bench, client, journal, signer, relays, private, lane, submitter)
        await journal.close()


async def test_a_bundle_lands_in_its_block_unseen(anvil: Anvil, tmp_path: Path) -> None:
    """Offered to two builders at once, included by one, found on chain by its receipt; the public never sees it."""
    async with (
        RelayServer(anvil.rpc) as one,
        RelayServer(anvil.rpc, "drop") as other,
        desk(anvil, tmp_path, (one, Offer.BUNDLE), (other, Offer.BUNDLE)) as here,
    ):
        order = await here.order()
        await here.submitter.submit(order)
        assert here.in_public() == 0
        assert one.methods() == other.methods() == ["eth_sendBundle"]
        assert one.signers == {ReputationKey(REPUTATION).address}
        assert (await here.state(order.id))[0] == "sent"  # an answer of 200 is not an inclusion
        built = one.build()
        assert len(built.included) == 1
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"
        assert here.submitter.pending == 0


@pytest.mark.parametrize("mode", ["drop", "hang", "broken", "nonsense"])
async def test_what_is_not_included_is_offered_again_and_costs_nothing(anvil: Anvil, tmp_path: Path, mode: str) -> None:
    """Every block until the deadline, then DROPPED without a transaction; the nonce is taken until then, free after."""
    async with (
        RelayServer(anvil.rpc, mode) as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here,
    ):
        money, nonce = here.money(), here.nonce()
        order = await here.order()
        await here.submitter.submit(order)
        for _ in range(BLOCKS - 1):
            server.build()
            head = await here.settle()
            assert here.submitter.in_flight("bench", order.borrower, head) == order.id
        if mode == "drop":
            targets = [int(params["blockNumber"], 16) for _, params in server.requests]
            assert targets == [order.head.number + 1 + i for i in range(BLOCKS)]
            assert len({params["replacementUuid"] for _, params in server.requests}) == 1
        server.build()  # the last block it was offered for, or might have been
        await here.settle()
        state, detail = await here.state(order.id)
        assert state == "dropped"
        assert f"block {order.head.number + BLOCKS}" in detail
        assert (here.money(), here.nonce(), here.in_public()) == (money, nonce, 0)
        server.mode = "include"
        again = await here.order()
        sent = await here.submitter.submit(again)
        assert sent.nonce == nonce
        server.build()
        await here.settle()
        assert (await here.state(again.id))[0] == "mined"
        assert (await here.state(order.id))[0] == "dropped"


async def test_a_reverting_bundle_costs_nothing(anvil: Anvil, tmp_path: Path) -> None:
    """The builder simulates it, finds the revert, and leaves it out; no gas is paid."""
    async with (
        RelayServer(anvil.rpc) as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here,
    ):
        money = here.money()
        order = await here.order(works=False)
        await here.submitter.submit(order)
        reasons = []
        for _ in range(BLOCKS):
            reasons += server.build().dropped
            await here.settle()
        assert len(reasons) == BLOCKS
        assert (await here.state(order.id))[0] == "dropped"
        assert (here.money(), here.nonce()) == (money, 0)


async def test_the_relays_own_simulation_keeps_a_failure_back(anvil: Anvil, tmp_path: Path) -> None:
    """With `simulate` a bundle that fails there is not even sent; one that works is."""
    async with (
        RelayServer(anvil.rpc) as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE), simulate=True) as here,
    ):
        await here.submitter.submit(await here.order(works=False))
        assert server.methods() == ["eth_callBundle"]
        server.requests.clear()
        await here.submitter.submit(await here.order(borrower=2))
        assert server.methods() == ["eth_callBundle"]  # nonce 1 cannot run before nonce 0
        for _ in range(BLOCKS):
            server.build()
            await here.settle()
        server.requests.clear()
        order = await here.order()
        await here.submitter.submit(order)
        assert server.methods() == ["eth_callBundle", "eth_sendBundle"]
        server.build()
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"


async def test_a_private_transaction_may_land_until_its_last_block(anvil: Anvil, tmp_path: Path) -> None:
    """eth_sendPrivateTransaction: the nonce stays taken as long as the relay may use it, even after a withdrawal."""
    async with (
        RelayServer(anvil.rpc) as server,
        desk(anvil, tmp_path, (server, Offer.TRANSACTION)) as here,
    ):
        order = await here.order()
        await here.submitter.submit(order)
        assert server.requests[0][1]["maxBlockNumber"] == hex(order.head.number + BLOCKS)
        (attempt,) = await here.journal.unsettled()
        kept = list(server.held)
        await here.lane.cancel(attempt, await here.client.head())
        assert "eth_cancelPrivateTransaction" in server.methods()
        server.held = []
        here.mine()
        head = await here.settle()
        assert here.submitter.in_flight("bench", order.borrower, head) == order.id
        server.held = kept  # it said it would forget, and did not
        server.build()
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"


async def test_what_somebody_kept_is_found_when_it_lands_late(anvil: Anvil, tmp_path: Path) -> None:
    """A dropped transaction that is landed all the same is booked to its attempt; the newer one at its nonce is not."""
    async with (
        RelayServer(anvil.rpc, "drop") as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here,
    ):
        first = await here.order()
        await here.submitter.submit(first)
        for _ in range(BLOCKS):
            here.mine()
            await here.settle()
        assert (await here.state(first.id))[0] == "dropped"
        second = await here.order(borrower=2)
        assert (await here.submitter.submit(second)).nonce == 0
        anvil.rpc.request("eth_sendRawTransaction", server.requests[0][1]["txs"][0])
        here.mine()
        await here.settle()
        assert (await here.state(first.id))[0] == "mined"
        assert (await here.state(second.id))[0] == "replaced"
        assert here.submitter.pending == 0


async def test_a_restart_goes_on_in_private(anvil: Anvil, tmp_path: Path) -> None:
    """The journal says who was told, so a new process offers the same bytes to relays for the blocks that are left."""
    async with (
        RelayServer(anvil.rpc, "drop") as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here,
    ):
        order = await here.order()
        await here.submitter.submit(order)
        here.mine()
        here.restart()
        found = await recover(
            here.journal, Tracker(here.client, here.journal, here.lane, 3), here.lane, await here.client.head()
        )
        assert found.resumed == (order.id,)
        assert here.in_public() == 0
        one, two = (params for _, params in server.requests)
        assert (one["txs"], one["replacementUuid"]) == (two["txs"], two["replacementUuid"])
        assert int(two["blockNumber"], 16) == int(one["blockNumber"], 16) + 1
        server.mode = "include"
        await here.settle()
        server.build()
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"


async def test_public_fallback_is_a_policy(anvil: Anvil, tmp_path: Path) -> None:
    """Only when told to, after so many blocks, what no relay includes is sent in public, and lands."""
    async with (
        RelayServer(anvil.rpc, "drop") as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE), public_after=2) as here,
    ):
        order = await here.order()
        await here.submitter.submit(order)
        here.mine()
        await here.settle()
        assert here.in_public() == 0
        here.mine()
        await here.settle()
        assert here.in_public() == 1
        assert "public since block" in (await here.state(order.id))[1]
        here.mine()
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"


async def test_a_wrong_signature_is_refused(anvil: Anvil, tmp_path: Path) -> None:
    """The server insists on address and signature; a header of another body or key gets nowhere."""

    class Forger(ReputationKey):
        __slots__ = ()

        def header(self, body: bytes) -> str:
            return super().header(body + b" ")

    async with RelayServer(anvil.rpc) as server:
        relays = Relays([RelaySpec("r", Secret(server.url), Offer.BUNDLE)], Forger(REPUTATION), timeout=1)
        async with desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here, relays:
            lane = PrivateLane(here.client, here.journal, here.signer, relays, POLICY, here.private)
            order = await here.order()
            sent = await lane.submit(order)
            assert (server.forged, server.held) == (1, [])
            assert "signer address" in sent.detail
            assert not server.build().included


async def test_a_silent_relay_does_not_hold_up_the_others(anvil: Anvil, tmp_path: Path) -> None:
    """One hangs, one breaks, one includes: submission takes no longer than the timeout, and it lands."""
    async with (
        RelayServer(anvil.rpc, "hang") as a,
        RelayServer(anvil.rpc, "broken") as b,
        RelayServer(anvil.rpc) as c,
        desk(anvil, tmp_path, (a, Offer.BUNDLE), (b, Offer.BUNDLE), (c, Offer.BUNDLE)) as here,
    ):
        order = await here.order()
        began = asyncio.get_running_loop().time()
        await here.submitter.submit(order)
        assert asyncio.get_running_loop().time() - began < 1.5
        c.build()
        await here.settle()
        assert (await here.state(order.id))[0] == "mined"
        if a.mode == "hang":
            a._stopping.set()


async def test_random_relays_never_cost_more_than_what_lands(anvil: Anvil, tmp_path: Path) -> None:
    """Random behaviour of two builders, random blocks, restarts: at most one landing per attempt, no stuck nonce."""
    rng = random.Random(SEED)
    async with (
        RelayServer(anvil.rpc) as one,
        RelayServer(anvil.rpc) as two,
        desk(anvil, tmp_path, (one, Offer.BUNDLE), (two, Offer.TRANSACTION)) as here,
    ):
        orders: list[Order] = []
        for step in range(60):
            for server in (one, two):
                server.mode = rng.choice(["include", "include", "drop", "broken", "refuse"])
            if rng.random() < 0.4:
                orders.append(await here.order(works=rng.random() < 0.7, borrower=step + 1))
                await here.submitter.submit(orders[-1])
            rng.choice([one, two]).build() if rng.random() < 0.8 else here.mine()
            if rng.random() < 0.15:
                here.restart()
            await here.settle()
        for _ in range(BLOCKS + 2):
            here.mine()
            await here.settle()
        states = [(await here.state(order.id))[0] for order in orders]
        print(f"seed {SEED}: {len(orders)} attempts: { {state: states.count(state) for state in set(states)} }")
        assert here.submitter.pending == 0
        assert set(states) <= {"mined", "dropped", "replaced"}
        assert states.count("mined") == here.nonce() > 0
        assert "dropped" in states


async def test_the_producer_is_paid_only_for_a_success(anvil: Anvil, tmp_path: Path) -> None:
    """A fifth of the gain goes from the executor to the block's producer with the landing bundle; none for a revert."""
    async with (
        RelayServer(anvil.rpc) as server,
        desk(anvil, tmp_path, (server, Offer.BUNDLE)) as here,
    ):
        producer = "0x" + "c0" * 20
        anvil.rpc.request("anvil_setCoinbase", producer)
        failing = await here.order(works=False, coinbase_bps=2_000)
        await here.submitter.submit(failing)
        server.build()
        await here.settle()
        assert int(anvil.rpc.request("eth_getBalance", producer, "latest"), 16) == 0
        for _ in range(BLOCKS):
            server.build()
            await here.settle()
        order = await here.order(coinbase_bps=2_000)
        await here.submitter.submit(order)
        server.build()
        await here.settle()
        row = next(row for row in await here.journal.ask(queries.attempts) if row.id == order.id)
        assert (row.state, row.gain) == ("mined", ETH - ETH // 5)
        assert int(anvil.rpc.request("eth_getBalance", producer, "latest"), 16) >= ETH // 5


async def test_errors_of_a_relay_show_none_of_its_secrets(anvil: Anvil) -> None:
    """Unreachable, too slow, redirecting or flooding: the error names relay and host, never the path or password."""
    async with RelayServer(anvil.rpc) as server:
        port = server.url.rpartition(":")[2]
        urls = {
            "dead": "http://me:hunter22@127.0.0.1:1/key-of-mine?token=abcdefgh",
            "lost": f"http://me:hunter22@127.0.0.1:{port}/key-of-mine?token=abcdefgh",
            "flood": f"http://me:hunter22@127.0.0.1:{port}/flood/key-of-mine",
        }
        specs = [RelaySpec(name, Secret(url), Offer.BUNDLE) for name, url in urls.items()]
        async with Relays(specs, ReputationKey(REPUTATION), timeout=2) as relays:
            for told in await relays.send(Bundle(b"\x02", 1, 1, "uuid")):
                assert told.error is not None
                text = f"{told.error!r} {told.error}"
                assert told.relay in text
                assert not [word for word in ("hunter22", "key-of-mine", "abcdefgh") if word in text]
                assert ("more than" in text) == (told.relay == "flood")
