"""Heads by subscription and by polling, one slot, through failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from keeper.chain.client import NodeClient
from keeper.chain.heads import Heads
from keeper.chain.providers import Call
from keeper.chain.refusals import Unanswered
from keeper.errors import ConfigError
from keeper.model import Head
from tests.chain_fakes import FakeChain, FakeNode

pytestmark = pytest.mark.unit


def silent(calls: Sequence[Call]) -> list[Any] | None:
    raise Unanswered("the node is silent")


async def soon(heads: Heads) -> Head:
    async with asyncio.timeout(3):
        return await anext(heads)


async def pause() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def world(push: bool, nodes: int = 1) -> tuple[FakeChain, list[FakeNode], NodeClient]:
    chain = FakeChain()
    chain.mine()
    made = [FakeNode(chain, f"node{i}", push=push) for i in range(nodes)]
    return chain, made, NodeClient(made, attempts=1, backoff=0.0)


async def test_the_present_head_comes_first_and_then_each_announced_one() -> None:
    """A subscriber sees where the chain is without waiting for the next block, and every block it keeps up with."""
    chain, (node,), client = world(push=True)
    async with Heads(client) as heads:
        assert await soon(heads) == chain.head
        for _ in range(3):
            chain.mine()
            node.announce()
            assert await soon(heads) == chain.head
        assert heads.latest == chain.head
        assert heads.last_seen is not None


async def test_a_slow_consumer_sees_only_the_newest() -> None:
    """Heads that came while nobody looked are replaced, not queued."""
    chain, (node,), client = world(push=True)
    async with Heads(client) as heads:
        await soon(heads)
        for _ in range(5):
            chain.mine()
            node.announce()
            await pause()
        assert await soon(heads) == chain.head
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(heads)


async def test_a_repeated_announcement_is_one_head() -> None:
    """The same block announced twice is handed out once."""
    chain, (node,), client = world(push=True)
    async with Heads(client) as heads:
        await soon(heads)
        chain.mine()
        node.announce()
        node.announce()
        assert await soon(heads) == chain.head
        node.announce()
        await pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(heads)


async def test_a_reorganised_head_is_handed_out_even_when_it_is_lower() -> None:
    """The node's word about its own chain is taken, also backwards."""
    chain, (node,), client = world(push=True)
    for _ in range(5):
        chain.mine()
    async with Heads(client) as heads:
        assert (await soon(heads)).number == 6
        chain.drop(3)
        chain.mine()
        node.announce()
        assert (await soon(heads)).number == 4


async def test_a_silent_subscription_is_noticed_by_the_watchdog() -> None:
    """When no head is announced for 2.5 block times the node is asked, and the subscription made anew."""
    chain, (node,), client = world(push=True)
    async with Heads(client, block_time=0.02, least_silence=0.0) as heads:
        await soon(heads)
        chain.mine()  # not announced
        assert await soon(heads) == chain.head
        await asyncio.sleep(0.02)
        assert len(node.subscribers) >= 2


async def test_quick_blocks_may_come_in_bursts() -> None:
    """On a chain with four blocks a second a moment without any is no silence: the node is not asked."""
    chain, (node,), client = world(push=True)
    async with Heads(client, block_time=0.01, least_silence=30.0) as heads:
        await soon(heads)
        await pause()
        asked = len(node.messages)
        chain.mine()  # not announced
        await asyncio.sleep(0.1)
        assert len(node.messages) == asked
        node.announce()
        assert await soon(heads) == chain.head
        assert len(node.subscribers) == 1
    assert Heads(client, block_time=0.25)._silence == 2.0
    assert Heads(client, block_time=2.0)._silence == 5.0


async def test_a_lost_connection_is_resubscribed_elsewhere() -> None:
    """When the connection is lost and the endpoint fails, the next endpoint carries on; nothing goes backwards."""
    chain, (one, two), client = world(push=True, nodes=2)
    async with Heads(client) as heads:
        await soon(heads)
        one.fault = silent
        two.lag = 1
        for notify in one.subscribers:
            notify(None)
        await asyncio.sleep(0.15)
        with pytest.raises(TimeoutError):  # the other node is a block behind: not a reorganisation
            async with asyncio.timeout(0.05):
                await anext(heads)
        two.lag = 0
        chain.mine()
        two.announce()
        assert await soon(heads) == chain.head


async def test_http_is_polled() -> None:
    """Without subscriptions the newest block is asked for, through failures."""
    chain, (node,), client = world(push=False)
    async with Heads(client, poll_interval=0.005) as heads:
        assert await soon(heads) == chain.head
        chain.mine()
        assert await soon(heads) == chain.head
        node.fault = silent
        await asyncio.sleep(0.02)
        chain.mine()
        node.fault = lambda calls: None
        assert await soon(heads) == chain.head


async def test_a_node_that_is_on_another_chain_for_a_while_is_waited_for() -> None:
    """A balancer may lead to a wrong member and back: nothing of its is published, and the iteration goes on."""
    chain, (node,), client = world(push=False)

    def wrong(calls: Sequence[Call]) -> list[Any] | None:
        raise ConfigError("node0 is on chain 5, but chain 1 is configured")

    async with Heads(client, poll_interval=0.005) as heads:
        await soon(heads)
        node.fault = wrong
        await asyncio.sleep(0.05)
        assert client.pool.endpoints[0].wrong
        chain.mine()
        node.fault = lambda calls: None
        assert await soon(heads) == chain.head
        assert not client.pool.endpoints[0].wrong
