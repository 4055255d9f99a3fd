"""Following pools by their logs: discovery, distrust of single pools, undoing, and disk. No socket is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_abi.abi import encode

from keeper.abi import interface
from keeper.errors import BadData, Transient
from keeper.model import Address, Block, Hash, Head, Log, Read, SkipReason, Watch
from keeper.program import Call, Callback, Patch, Source, Step, Transfer, balance, inner_program, literal, word
from keeper.program import encode as encode_program
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3.flash import UniswapV3Flash
from keeper.venues.uniswap_v3.ticks import HIGHEST_PRICE, LOWEST_PRICE
from keeper.venues.uniswap_v3.venue import UniswapV3

pytestmark = pytest.mark.unit

FACTORY, A, B, C, STRANGE, POOL, OTHER, EXECUTOR = (Address(f"0x{i:02x}" + "00" * 18 + f"{i:02x}") for i in range(1, 9))
V2, V3 = interface("uniswap_v2_pair"), interface("uniswap_v3_pool")
Q96 = 1 << 96
DEEP = 10**18


def head(number: int) -> Head:
    return Head(number, Hash(f"0x{number:064x}"), Hash(f"0x{number - 1:064x}"), 1_000 + number, 0)


def log(where: Address, number: int, topics: Sequence[str], *words: int) -> Log:
    data = b"".join(w.to_bytes(32, "big", signed=w < 0) for w in words)
    return Log(where, tuple(topics), data, number, 0, Hash("0x" + "77" * 32))


def topic(value: int | Address) -> str:
    if isinstance(value, str):
        return "0x" + "00" * 12 + value[2:]
    return "0x" + value.to_bytes(32, "big", signed=value < 0).hex()


def created_v2(number: int, pool: Address, a: Address, b: Address) -> Log:
    event = interface("uniswap_v2_factory").topic("PairCreated")
    return log(FACTORY, number, (event, topic(a), topic(b)), int(pool, 16), 1)


def created_v3(number: int, pool: Address, a: Address, b: Address, fee: int = 500, spacing: int = 10) -> Log:
    event = interface("uniswap_v3_factory").topic("PoolCreated")
    return log(FACTORY, number, (event, topic(a), topic(b), topic(fee)), spacing, int(pool, 16))


def sync(number: int, pool: Address, *reserves: int) -> Log:
    return log(pool, number, (V2.topic("Sync"),), *reserves)


def swapped(number: int, pool: Address, price: int, liquidity: int, tick: int) -> Log:
    return log(pool, number, (V3.topic("Swap"), topic(A), topic(A)), 0, 0, price, liquidity, tick)


def minted(number: int, pool: Address, low: int, high: int, amount: int) -> Log:
    return log(pool, number, (V3.topic("Mint"), topic(A), topic(low), topic(high)), 5, amount, 1, 1)


def burned(number: int, pool: Address, low: int, high: int, amount: int) -> Log:
    return log(pool, number, (V3.topic("Burn"), topic(A), topic(low), topic(high)), amount, 1, 1)


@dataclass
class V3State:
    """What a V3 pool would answer."""

    price: int = Q96
    tick: int = 0
    liquidity: int = DEEP
    fee: int = 500
    spacing: int = 10
    unlocked: bool = True
    ticks: dict[int, tuple[int, int]] = field(default_factory=lambda: {-100: (DEEP, DEEP), 100: (DEEP, -DEEP)})

    def answer(self, data: bytes) -> bytes:
        name = next(n for n, f in V3.functions.items() if f.selector == data[:4])
        argument = int.from_bytes(data[4:36], "big", signed=True)
        word_of = sum(
            1 << (t // self.spacing & 255)
            for t in self.ticks
            if name == "tickBitmap" and t // self.spacing >> 8 == argument
        )
        values: dict[str, tuple[Any, ...]] = {
            "slot0": (self.price, self.tick, 0, 1, 1, 0, self.unlocked),
            "liquidity": (self.liquidity,),
            "fee": (self.fee,),
            "tickSpacing": (self.spacing,),
            "tickBitmap": (word_of,),
            "ticks": (*self.ticks.get(argument, (0, 0)), 0, 0, 0, 0, 0, argument in self.ticks),
        }
        return encode(V3.functions[name].outputs, values[name])


@dataclass
class FakeNode:
    """Answers what it is told to."""

    history: list[Log] = field(default_factory=list)
    pairs: dict[Address, tuple[int, int]] = field(default_factory=dict)
    pools: dict[Address, V3State] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def request(self, method: str, params: Sequence[Any]) -> Any:
        raise NotImplementedError

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        raise NotImplementedError

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        return [self._answer(read) for read in reads]

    def _answer(self, read: Read) -> bytes | None:
        if read.to in self.pairs:
            return encode(["uint112", "uint112", "uint32"], [*self.pairs[read.to], 0])
        if read.to in self.pools:
            return self.pools[read.to].answer(read.data)
        return b"" if read.to == OTHER else None  # nothing is there

    async def logs(self, watch: Watch, first: int, last: int) -> AsyncIterator[tuple[int, int, list[Log]]]:
        self.asked.append((first, last))
        found = [e for e in self.history if e.address in watch.addresses and e.topics[0] in watch.topics]
        yield first, last, [e for e in found if first <= e.block_number <= last]


async def loaded_v2() -> tuple[UniswapV2, FakeNode]:
    node = FakeNode(
        [created_v2(5, POOL, A, B), created_v2(6, OTHER, A, STRANGE)], {POOL: (1_000, 2_000), OTHER: (1, 1)}
    )
    venue = UniswapV2(FACTORY, 3, [A, B, C])
    await venue.load(node, head(10))
    return venue, node


async def loaded_v3() -> tuple[UniswapV3, FakeNode]:
    node = FakeNode([created_v3(5, POOL, A, B)], pools={POOL: V3State()})
    venue = UniswapV3(FACTORY, 3, [A, B, C])
    await venue.load(node, head(10))
    return venue, node


async def test_only_pools_between_the_tokens_are_found() -> None:
    """The factory's logs from its start block are searched; a pool with a token that does not matter is left alone."""
    venue, node = await loaded_v2()
    assert node.asked == [(3, 10)]
    assert [pool.address for pool in venue.pools()] == [POOL]
    assert venue.watch().addresses == {FACTORY, POOL}
    assert venue.history_from is None


async def test_nothing_is_offered_before_load_and_after_distrust() -> None:
    """An unknown mirror has no pools until it is loaded again."""
    assert UniswapV2(FACTORY, 3, [A, B]).pools() == []
    venue, node = await loaded_v2()
    venue.distrust("a gap in the logs")
    assert venue.pools() == []
    assert venue.pool(POOL) is None
    await venue.load(node, head(11))
    assert len(venue.pools()) == 1


async def test_pools_of_new_tokens_are_found_while_the_others_are_traded_in() -> None:
    """After `follow` everything known stays in use; a search of all history finds what was passed over before."""
    venue, node = await loaded_v2()
    venue.follow([A])
    assert not venue.unsearched
    venue.follow([STRANGE])
    assert venue.unsearched == {STRANGE}
    assert [pool.address for pool in venue.pools()] == [POOL]
    await venue.search(node, head(11))
    assert node.asked[-1] == (3, 11)
    assert not venue.unsearched
    assert venue.excluded == {OTHER: "it was found just now"}
    assert [pool.address for pool in venue.pools()] == [POOL]
    await venue.refresh(node, head(11))
    assert {pool.address for pool in venue.pools()} == {POOL, OTHER}
    venue.apply(Block(head(12), (sync(12, OTHER, 7, 8),)))
    venue.rewind(11)  # it was not there before the search, but it was on the chain
    assert {pool.address for pool in venue.pools()} == {POOL, OTHER}
    assert venue.pool(OTHER) == venue.pools()[1]


async def test_a_search_on_a_node_that_is_behind_says_nothing() -> None:
    """What was created since then would be passed over for good."""
    venue, node = await loaded_v2()
    venue.follow([STRANGE])
    with pytest.raises(Transient, match="at block 10, and the node that is to be searched at 9"):
        await venue.search(node, head(9))
    assert venue.unsearched == {STRANGE}


async def test_a_pool_that_is_not_there_costs_nobody_else() -> None:
    """Its creation was undone after the search had read it: its own answer is empty."""
    venue, node = await loaded_v2()
    venue.follow([STRANGE])
    await venue.search(node, head(11))
    del node.pairs[OTHER]
    await venue.refresh(node, head(11))
    assert [pool.address for pool in venue.pools()] == [POOL]
    assert venue.excluded == {OTHER: "its reserves cannot be read"}
    venue.apply(Block(head(12), (sync(12, OTHER, 7, 8),)))
    assert {pool.address for pool in venue.pools()} == {POOL, OTHER}


async def test_a_load_finds_the_pools_of_new_tokens_as_well() -> None:
    """Where the mirror is unknown anyway there is nothing to search: the load looks through all of history."""
    venue, node = await loaded_v2()
    venue.follow([STRANGE])
    venue.distrust("for a reason")
    assert not venue.unsearched
    await venue.search(node, head(11))  # one that was under way finds that nothing is known
    assert venue.pools() == []
    await venue.load(node, head(11))
    assert node.asked[-1] == (3, 11)
    assert not venue.unsearched
    assert {pool.address for pool in venue.pools()} == {POOL, OTHER}


async def test_a_search_that_did_not_end_is_made_again_after_a_restart() -> None:
    """A snapshot names the tokens whose pools were looked for, not those that were wanted."""
    venue, node = await loaded_v2()
    venue.follow([STRANGE])
    twin = UniswapV2(FACTORY, 3, [A, B, C, STRANGE])
    twin.restore(venue.snapshot())
    assert twin.unsearched == {STRANGE}
    assert [pool.address for pool in twin.pools()] == [POOL]
    await twin.search(node, head(11))
    await twin.refresh(node, head(11))
    assert {pool.address for pool in twin.pools()} == {POOL, OTHER}
    again = UniswapV2(FACTORY, 3, [A, B, C, STRANGE])
    again.restore(twin.snapshot())
    assert not again.unsearched


async def test_a_new_pool_is_read_before_it_is_used() -> None:
    """A pool created live makes the mirror dirty, is used after refresh, and is gone when its block is undone."""
    venue, node = await loaded_v2()
    node.pairs[OTHER] = (50, 60)
    venue.apply(Block(head(11), (created_v2(11, OTHER, B, C), sync(11, OTHER, 7, 8))))
    assert venue.excluded == {OTHER: "it was created just now"}
    assert OTHER in venue.watch().addresses
    assert [pool.address for pool in venue.pools()] == [POOL]
    await venue.refresh(node, head(11))
    found = venue.pool(OTHER)
    assert found is not None
    assert (found.reserve0, found.reserve1) == (50, 60)
    venue.rewind(10)
    assert OTHER not in venue.watch().addresses
    assert not venue.dirty
    assert venue.pool(OTHER) is None


async def test_reserves_follow_syncs_and_rewind() -> None:
    """Each Sync replaces the reserves, empty ones remove the pair, and stepping back restores every one exactly."""
    venue, _ = await loaded_v2()
    states = {10: (1_000, 2_000), 11: (5, 6), 12: None, 13: (9, 9)}
    for number in (11, 12, 13):
        venue.apply(Block(head(number), (sync(number, POOL, 4, 4), sync(number, POOL, *(states[number] or (0, 0))))))
    for number in (13, 12, 11, 10):
        venue.rewind(number)
        pool = venue.pool(POOL)
        assert (pool and (pool.reserve0, pool.reserve1)) == states[number]
    with pytest.raises(BadData, match="cannot step back"):
        venue.rewind(9)


@pytest.mark.parametrize(
    "wrong",
    [
        swapped(11, POOL, Q96 + 1, DEEP - 1, 0),  # liquidity the ticks do not add up to
        burned(11, POOL, -100, 100, DEEP + 1),
        log(POOL, 11, (V3.topic("Initialize"),), Q96, 0),
        log(POOL, 11, (V3.topic("Swap"),), 1),
    ],
)
async def test_a_contradiction_makes_one_pool_stale(wrong: Log) -> None:
    """A log that cannot be true takes its pool out until it has been read again; the others stay."""
    venue, node = await loaded_v3()
    node.history.append(created_v3(6, OTHER, A, C))
    node.pools[OTHER] = V3State()
    await venue.load(node, head(10))
    venue.apply(Block(head(11), (wrong,)))
    assert [pool.address for pool in venue.pools()] == [OTHER]
    assert venue.dirty
    assert POOL in venue.excluded
    venue.apply(Block(head(12), (swapped(12, POOL, Q96 + 5, DEEP, 0),)))  # not enough to be trusted again
    assert venue.pool(POOL) is None
    node.pools[POOL] = V3State(price=Q96 + 5)
    await venue.refresh(node, head(12))
    pool = venue.pool(POOL)
    assert pool is not None
    assert pool.sqrt_price == Q96 + 5
    venue.rewind(10)
    pool = venue.pool(POOL)
    assert pool is not None
    assert pool.sqrt_price == Q96


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (V3State(price=0), "not initialised"),
        (V3State(unlocked=False), "locked"),
        (V3State(fee=501), "factory said"),
        (V3State(liquidity=DEEP + 1), "add up"),
        (V3State(ticks={-100: (DEEP, DEEP)}), "cancel"),
    ],
)
async def test_a_pool_that_cannot_be_quoted_exactly_is_not_used(state: V3State, why: str) -> None:
    """It is known, followed, and left out with its reason."""
    node = FakeNode([created_v3(5, POOL, A, B)], pools={POOL: state})
    venue = UniswapV3(FACTORY, 3, [A, B])
    await venue.load(node, head(10))
    assert venue.pools() == []
    assert why in venue.excluded[POOL]
    assert not venue.dirty


async def test_a_pool_is_born_by_its_events() -> None:
    """Initialize, Mint, Swap and Burn build the very state that reading gives."""
    node = FakeNode([created_v3(5, POOL, A, B)], pools={POOL: V3State(price=0)})
    venue = UniswapV3(FACTORY, 3, [A, B])
    await venue.load(node, head(10))
    events = (
        log(POOL, 11, (V3.topic("Initialize"),), Q96, 0),
        minted(11, POOL, -100, 100, 3 * DEEP),
        burned(11, POOL, -100, 100, 2 * DEEP),
        swapped(11, POOL, Q96 - 9, DEEP, -1),
        burned(11, POOL, -100, 100, 0),
    )
    venue.apply(Block(head(11), events))
    pool = venue.pool(POOL)
    assert pool is not None
    assert (pool.sqrt_price, pool.tick, pool.liquidity) == (Q96 - 9, -1, DEEP)
    assert pool.ticks.gross_net == V3State().ticks
    assert venue.excluded == {}


@pytest.mark.parametrize("loaded", [True, False], ids=["on re-reading", "from the start"])
async def test_a_pool_lost_to_a_nodes_slip_is_looked_at_again(loaded: bool) -> None:
    """An answer that contradicts itself costs the pool until the next audit, not for ever; nor does one that is true.

    What the pool's own events end is not asked for again.
    """
    slip, good = V3State(liquidity=DEEP + 1), V3State()
    node = FakeNode([created_v3(5, POOL, A, B)], pools={POOL: good if loaded else slip})
    venue = UniswapV3(FACTORY, 3, [A, B])
    await venue.load(node, head(10))
    if loaded:
        venue.apply(Block(head(11), (swapped(11, POOL, Q96, DEEP - 1, 0),)))  # makes it stale
        node.pools[POOL] = slip
        await venue.refresh(node, head(11))
    at = head(11 if loaded else 10)
    for state, usable in ((slip, 0), (slip, 0), (good, 1)):
        node.pools[POOL] = state
        before = venue.dirty
        assert not before
        assert venue.pools() == []
        assert "add up" in venue.excluded[POOL]
        assert await venue.audit(node, at, 5) is None
        assert venue.dirty
        await venue.refresh(node, at)
        assert len(venue.pools()) == usable
    node.pools[POOL] = V3State(price=0)
    await venue.load(node, head(12))
    assert await venue.audit(node, head(12), 5) is None
    assert not venue.dirty


async def test_audit_finds_and_removes_what_differs() -> None:
    """A pool whose price, liquidity or a tick differs on chain is named in a Skip and not offered until re-read."""
    venue, node = await loaded_v3()
    assert await venue.audit(node, head(10), 5) is None
    for change in (V3State(price=Q96 + 1), V3State(ticks={-100: (2 * DEEP, DEEP), 100: (DEEP, -DEEP)})):
        node.pools[POOL] = change
        found = await venue.audit(node, head(10), 5)
        assert found is not None
        assert found.reason is SkipReason.MARKET_UNKNOWN
        assert POOL in found.detail
        assert venue.pools() == []
        node.pools[POOL] = V3State()
        await venue.refresh(node, head(10))
        assert len(venue.pools()) == 1
    pairs, node = await loaded_v2()
    node.pairs[POOL] = (1_000, 2_001)
    assert await pairs.audit(node, head(9), 1) is None  # another block: nothing can be said
    assert await pairs.audit(node, head(10), 1) is not None
    assert pairs.dirty


async def test_snapshots_restore_and_refuse() -> None:
    """A snapshot brings everything back; one of another factory or another shape is refused."""
    venue, _ = await loaded_v3()
    venue.apply(Block(head(11), (swapped(11, POOL, Q96 + 7, DEEP, 0),)))
    data = venue.snapshot()
    twin = UniswapV3(FACTORY, 3, [A, B])
    twin.restore(data)
    mine, other = venue.pool(POOL), twin.pool(POOL)
    assert mine is not None
    assert other is not None
    assert (other.sqrt_price, other.ticks.gross_net) == (mine.sqrt_price, mine.ticks.gross_net)
    twin.replay([swapped(12, POOL, Q96 + 9, DEEP, 0)])
    after = twin.pool(POOL)
    assert after is not None
    assert after.sqrt_price == Q96 + 9
    for refused in (UniswapV3(OTHER, 3, [A, B]), UniswapV3(FACTORY, 4, [A, B])):
        with pytest.raises(BadData):
            refused.restore(data)
    pairs = UniswapV2(FACTORY, 3, [A, B])
    for bad in (data, b"", b"{}", b"[1]", data.replace(b'"pools"', b'"fools"')):
        with pytest.raises(BadData):
            pairs.restore(bad)


# ----------------------------------------------------------------------------------------------------------- legs


def hop_of(venue: UniswapV2 | UniswapV3, sold: Address, bought: Address) -> Any:
    from keeper.model import Hop

    return Hop(venue.name, POOL, sold, bought, 1_000, 900)


def only_call(steps: tuple[Step, ...]) -> Call:
    call = steps[-1]
    assert isinstance(call, Call)
    return call


@pytest.mark.parametrize(("sold", "bought", "side"), [(A, B, 0), (B, A, 1)])
def test_v3_legs_pay_what_is_owed(sold: Address, bought: Address, side: int) -> None:
    """Known amounts are literal, others patched over amountSpecified (negative for a purchase), and the owed word of
    the callback is what is sent."""
    venue = UniswapV3(FACTORY, 3, [A, B])
    hop = hop_of(venue, sold, bought)
    paid = encode_program((Transfer(sold, POOL, word(side)),))
    limit = HIGHEST_PRICE if side else LOWEST_PRICE
    data = V3.encode("swap", EXECUTOR, not side, 1_000, limit, paid)
    assert venue.exact_in(hop, literal(1_000), EXECUTOR) == (Call(POOL, data, (), Callback(POOL, 2)),)
    patched = only_call(venue.exact_in(hop, balance(sold), EXECUTOR))
    assert patched.patches == (Patch(68, balance(sold)),)
    assert inner_program(patched) == paid
    owed: list[Any] = []

    def pay(amount: Any) -> tuple[Step, ...]:
        owed.append(amount)
        return (Transfer(sold, POOL, amount),)

    bought_call = only_call(venue.exact_out(hop, literal(900), EXECUTOR, pay))
    assert bought_call.data == V3.encode("swap", EXECUTOR, not side, -900, limit, paid)
    assert owed == [word(side)]
    nested = only_call(venue.exact_out(hop, word(1), OTHER, pay))
    assert nested.patches == (Patch(68, word(1), negative=True),)


@pytest.mark.parametrize(("sold", "bought", "side"), [(A, B, 0), (B, A, 1)])
def test_v2_legs_ask_the_pair(sold: Address, bought: Address, side: int) -> None:
    """A sale sends first and takes what the pair gives for it; a purchase takes first and pays what the pair asks."""
    venue = UniswapV2(FACTORY, 3, [A, B], fee_bps=25)
    hop = hop_of(venue, sold, bought)
    sent, call = venue.exact_in(hop, balance(sold), EXECUTOR)
    assert sent == Transfer(sold, POOL, balance(sold))
    assert isinstance(call, Call)
    (patch,) = call.patches
    assert patch.offset == (4 if side else 36)
    assert (patch.amount.source, patch.amount.value, patch.amount.token, patch.amount.index) == (
        Source.V2_OUT,
        25,
        POOL,
        side,
    )
    steps = venue.exact_out(hop, literal(900), EXECUTOR, lambda owed: (Transfer(sold, POOL, owed),))
    bought_call = only_call(steps)
    assert bought_call.callback == Callback(POOL, 3)
    outputs = (900, 0) if side else (0, 900)
    inner = inner_program(bought_call)
    assert bought_call.data == V2.encode("swap", *outputs, EXECUTOR, inner)
    assert (25 << 128 | 900).to_bytes(32, "big") in inner


async def test_flash_loans_by_depth_and_fee() -> None:
    """Loans are offered by what the pool held at the observed head, cheapest first, and repaid with the asked fee."""
    venue, _ = await loaded_v3()
    flash = UniswapV3Flash(venue, EXECUTOR)
    assert flash.offers(A, 1) == ()
    assert [read.to for read in venue.reads()] == [A, B]
    venue.observe(head(10), [(500).to_bytes(32, "big"), None])
    assert flash.offers(A, 501) == flash.offers(B, 1) == flash.offers(C, 1) == flash.offers(A, 0) == ()
    (offer,) = flash.offers(A, 500)
    assert (offer.premium, offer.lender, offer.locks) == (1, POOL, frozenset({POOL}))
    call = only_call(flash.borrow(offer, ()))
    assert inner_program(call) == encode_program((Transfer(A, POOL, word(0, 500)),))
    assert call.data == V3.encode("flash", EXECUTOR, 500, 0, inner_program(call))
    venue.distrust("x")
    with pytest.raises(ValueError, match="no usable pool"):
        flash.borrow(offer, ())
