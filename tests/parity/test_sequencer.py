"""The sequencer's gate in the whole loop, against a feed that answers as a roll-up's does."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper import preflight
from keeper.chain.client import NodeClient
from keeper.chain.sequencer import SequencerFeed
from keeper.config import load
from keeper.devchain.serve import OPERATOR, config_text
from keeper.errors import ConfigError
from keeper.journal.attempts import load as attempts
from keeper.model import Address, AttemptState, Decision, SkipReason, address
from tests.parity.test_rivals import Scene, scene
from tests.support.fork import Fork
from tests.support.solidity import compiled_contracts

pytestmark = pytest.mark.parity

GRACE = 600
STEP = 12  # seconds from a head to the block after it


def create(fork: Fork, name: str) -> Address:
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, bytes.fromhex(compiled_contracts()[name].code))
    return address(receipts[0]["contractAddress"])


def say(fork: Fork, feed: Address, *, down: bool, since: int) -> None:
    fork.actors.send(OPERATOR, feed, "update(bool,uint64)", down, since)


async def decide(on: Scene) -> Decision:
    """The one decision of a pass, with the follower asked for nothing but one round trip."""
    head = await on.parts.client.head()
    synced = await on.parts.follower.advance(head)
    assert synced.requests <= 2  # the way to the head, if it moved by several blocks, and everything at it
    (decision,) = await on.engine.step(head)
    return decision


def shown(on: Scene) -> float | None:
    """The gate as the metrics have it."""
    return on.parts.metrics.registry.get_sample_value("keeper_gate_open", {"gate": "sequencer"})


async def test_nothing_is_sent_until_the_sequencer_has_been_up_for_long(fork: Fork, tmp_path: Path) -> None:
    """No round yet, a feed that reverts, down, up again: closed until up for more than the grace, then it is taken."""
    proxy, feed = create(fork, "UptimeProxy"), create(fork, "UptimeFeed")
    environ = {"KEEPER__CHAIN__SEQUENCER_FEED": proxy, "KEEPER__CHAIN__SEQUENCER_GRACE": f"{GRACE}s"}
    async with scene(fork, tmp_path, live=True, environ=environ) as on:
        borrower = on.borrower("behind a sequencer", "WETH", 400_000)
        on.fall("WETH", 900)

        async def closed(*words: str) -> None:
            decision = await decide(on)
            assert decision.borrower == borrower
            assert decision.skip is not None
            assert decision.skip.reason is SkipReason.SEQUENCER
            assert decision.skip.numbers["grace"] == GRACE
            for word in words:
                assert word in decision.skip.detail
            rows = await on.journal.ask(
                lambda db: db.execute("SELECT reason, detail FROM decisions ORDER BY id DESC LIMIT 1").fetchall()
            )
            assert rows[0][0] == "sequencer"
            assert shown(on) == 0

        await closed("unknown", "not begun a round")
        fork.actors.send(OPERATOR, proxy, "use(address)", feed)
        await closed("unknown", "does not answer")
        say(fork, feed, down=True, since=fork.actors.now)
        await closed("down for")
        fork.actors.mine(5_000)
        say(fork, feed, down=True, since=fork.actors.now)  # confirmed: `updatedAt` is new, `startedAt` is not
        await closed("down for")
        since = fork.actors.now
        say(fork, feed, down=False, since=since)
        await closed("up for", "more than 600 s")
        fork.actors.mine_until(since + GRACE - STEP)
        await closed("up for 600 s")
        assert not await on.journal.ask(lambda db: attempts(db, "1", ()))

        fork.actors.mine(1)
        decision = await decide(on)
        assert (decision.borrower, decision.skip) == (borrower, None)
        assert shown(on) == 1
        fork.actors.mine()
        await on.step()
        (attempt,) = await on.journal.ask(lambda db: attempts(db, "1", ()))
        assert (attempt.state, attempt.borrower) == (AttemptState.MINED, borrower)


async def test_it_steps_back_with_the_chain(fork: Fork, tmp_path: Path) -> None:
    """After a reorganisation the gate goes by what the feed says on the other branch."""
    feed = create(fork, "UptimeFeed")
    say(fork, feed, down=False, since=1)
    environ = {"KEEPER__CHAIN__SEQUENCER_FEED": feed, "KEEPER__CHAIN__SEQUENCER_GRACE": f"{GRACE}s"}
    async with scene(fork, tmp_path, live=False, environ=environ) as on:
        mirror = on.parts.appraiser.sequencer
        assert isinstance(mirror, SequencerFeed)
        snapshot = fork.rpc.request("evm_snapshot")
        say(fork, feed, down=True, since=fork.actors.now)
        head = await on.parts.client.head()
        await on.parts.follower.advance(head)
        assert mirror.uptime(head).up is False
        fork.rpc.request("evm_revert", snapshot)
        fork.actors.mine(13, blocks=2)
        other = await on.parts.client.head()
        assert (await on.parts.follower.advance(other)).undone == 1
        assert mirror.uptime(other).up is True
        assert mirror.uptime(head).up is None


async def test_another_contract_in_its_place_is_refused_at_the_start(fork: Fork, tmp_path: Path) -> None:
    """An account without code, a token and a feed of prices are named before anything is read."""
    path = tmp_path / "keeper.toml"
    path.write_text(config_text(fork.world, fork.ws, tmp_path, 12, 0, None))
    (tmp_path / "operator.key").write_text("0x" + "11" * 32)
    good = create(fork, "UptimeFeed")
    token = fork.world.tokens["WETH"]
    for feed, words in (
        (OPERATOR, "no contract"),
        (fork.world.uniswap.v2_factory, "not a sequencer uptime feed"),
        (token.address, "feed of prices"),
        (good, None),
    ):
        config = load(path, {"KEEPER__CHAIN__SEQUENCER_FEED": feed})
        async with NodeClient.connect([fork.ws], chain_id=fork.world.chain_id, max_age=10**9) as client:
            head = await client.head()
            if words is None:
                await preflight.require(config, client, head, OPERATOR)
                continue
            with pytest.raises(ConfigError, match=rf"chain\.sequencer_feed.*{words}"):
                await preflight.require(config, client, head, OPERATOR)
