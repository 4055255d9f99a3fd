"""Conversions of ERC-4626 vaults and of wstETH against the contracts: OpenZeppelin's own, and a model of Lido's."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from keeper.devchain.anvil import Anvil
from keeper.devchain.artifacts import own_contracts
from keeper.devchain.calls import calldata, returned
from keeper.devchain.deploy import Deployer
from keeper.devchain.rpc import Rpc, RpcError
from keeper.errors import BadData
from keeper.model import MAX_UINT256, Address, Block, address
from keeper.venues.wrappers.erc4626 import Erc4626, VaultPool
from keeper.venues.wrappers.wsteth import StEthPool, WstEth
from tests.support.solidity import wrapped_contracts
from tests.support.venue_arena import NodeClient, head_of, say

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261129"))
HOLDER = address("0x" + "b0" * 20)
PLENTY = 1 << 200


@dataclass
class Place:
    """A chain with vaults of several offsets, one that charges, and the staked pair; `me` owns and converts."""

    rpc: Rpc
    on: Deployer
    me: Address
    asset: Address
    vaults: list[Address]
    toll: Address
    steth: Address
    wsteth: Address

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.rpc)

    async def see(self, *venues: Erc4626 | WstEth) -> None:
        """As at a new head."""
        head = head_of(self.rpc)
        for venue in venues:
            venue.apply(Block(head, ()))
            assert venue.pools() == []
            venue.observe(head, await self.client.read(venue.reads(), head))

    def try_all(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[int | None]:
        """What each call by `me` would answer, or None where it reverts."""
        raw = [
            ("eth_call", [{"from": self.me, "to": to, "data": "0x" + calldata(signature, *args).hex()}, "latest"])
            for to, signature, args in calls
        ]
        answers = self.rpc.batch(raw, errors=True)
        return [None if isinstance(a, RpcError) else returned(("uint256",), bytes.fromhex(a[2:]))[0] for a in answers]


@pytest.fixture
def place() -> Iterator[Place]:
    with Anvil(impersonate=True) as anvil:
        rpc = anvil.rpc
        me = address(rpc.request("eth_accounts")[0])
        on = Deployer(rpc, me, 30_000_000)
        asset = on.deploy(own_contracts()["Token"], "A", "A", 6)
        made = wrapped_contracts()
        vaults = [on.deploy(made["OffsetVault"], asset, offset) for offset in (0, 0, 3, 6, 12)]
        toll = on.deploy(made["TollVault"], asset)
        steth = on.deploy(made["StEth"])
        wsteth = on.deploy(made["WstEth"], steth)
        on.send(asset, "mint(address,uint256)", me, PLENTY)
        for vault in (*vaults, toll):
            on.send(asset, "approve(address,uint256)", vault, MAX_UINT256)
        on.send(steth, "approve(address,uint256)", wsteth, MAX_UINT256)
        on.flush()
        yield Place(rpc, on, me, asset, vaults, toll, steth, wsteth)


def draw_amount(rng: random.Random, most: int) -> int:
    kind = rng.random()
    if kind < 0.1:
        return rng.randint(1, 20)
    if kind < 0.3:
        return max(1, most + rng.randint(-2, 3))
    return max(1, int(most * 10 ** rng.uniform(-12, 0.1)))


def wanted(pool: VaultPool, rng: random.Random) -> tuple[str, tuple[Any, ...], int | None]:
    """One of the four calls with an amount: its signature, its arguments without parties, and our answer."""
    kind = rng.choice(("redeem", "withdraw", "deposit", "mint"))
    unwraps, given_out = kind in ("redeem", "withdraw"), kind in ("withdraw", "mint")
    share_first = pool.token0 == pool.share
    way = share_first == unwraps
    limit = {"redeem": 0, "withdraw": 1, "deposit": 2, "mint": 3}[kind]
    most = min(pool.limits[limit], 10**40)
    amount = draw_amount(rng, most)
    mine = (pool.quote_out if given_out else pool.quote_in)(way, amount)
    traded = (pool.swap_out if given_out else pool.swap_in)(way, amount)
    assert mine == (None if traded is None else traded[0])
    parties = "address,address" if unwraps else "address"
    return f"{kind}(uint256,{parties})", (amount,), mine


async def run_vaults(place: Place, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    me, on = place.me, place.on
    for vault in place.vaults:
        on.send(vault, "deposit(uint256,address)", int(10 ** rng.uniform(6, 20)), me)
    on.flush()
    # I hold every share, so what I may redeem is what the vault lets anybody.
    venues = [Erc4626(f"vault{n}", vault, me, (me,)) for n, vault in enumerate(place.vaults)]
    for venue in venues:
        await venue.load(place.client, head_of(place.rpc))
    refused = asked = 0
    for _ in range(rounds):
        for vault in rng.sample(place.vaults, rng.randint(1, 3)):
            at_hand = place.rpc.view(place.asset, "balanceOf(address)", vault)
            deed = rng.random()
            if deed < 0.3:  # a gift moves the rate
                on.send(place.asset, "transfer(address,uint256)", vault, rng.randint(1, at_hand // 3 + 2))
            elif deed < 0.5:
                on.send(vault, "work(uint256,uint256)", at_hand // rng.randint(2, 9), rng.randrange(at_hand // 9 + 2))
            elif deed < 0.6:
                on.send(vault, "setRoom(uint256)", rng.choice((0, rng.randint(1, 10**20), MAX_UINT256)))
            elif deed < 0.8 and at_hand > 10:
                shares = place.rpc.view(vault, "maxRedeem(address)", me)
                if shares > 1:
                    on.send(vault, "redeem(uint256,address,address)", rng.randint(1, shares // 3 + 1), me, me)
            else:
                on.send(vault, "setRoom(uint256)", MAX_UINT256)
                on.send(vault, "deposit(uint256,address)", rng.randint(1, 10**18), me)
        on.flush()
        await place.see(*venues)
        calls: list[tuple[str, str, tuple[Any, ...]]] = []
        mine: list[int | None] = []
        for _ in range(quotes):
            venue = rng.choice(venues)
            (pool,) = venue.pools()
            signature, args, answer = wanted(pool, rng)
            calls.append((venue.factory, signature, (*args, *([me] * signature.count("address")))))
            mine.append(answer)
        theirs = place.try_all(calls)
        for call, own, other in zip(calls, mine, theirs, strict=True):
            # Nothing for something is no trade, though the contract would do it.
            assert own == other or (own in (0, None) and other == 0), (call, own, other)
        asked += len(calls)
        refused += sum(answer is None for answer in theirs)
        for venue in venues:
            assert await venue.audit(place.client, head_of(place.rpc), 3) is None
    say(f"{asked} conversions, {refused} of them refused, 0 differences")
    assert refused > asked // 50
    assert refused < asked // 2


async def test_vaults_convert_as_quoted(place: Place) -> None:
    """All four calls, on vaults of five offsets that gifts, losses, limits and others keep changing: to the unit."""
    await run_vaults(place, rounds=12, quotes=60)


@pytest.mark.long
async def test_vaults_convert_as_quoted_long(place: Place) -> None:
    """The same with six thousand conversions."""
    await run_vaults(place, rounds=100, quotes=60)


async def test_vault_of_another_formula_is_left_out(place: Place) -> None:
    """A vault that charges is named as such; one that loses its asset's answer is out for that head only."""
    place.on.send(place.toll, "deposit(uint256,address)", 10**12, place.me)
    place.on.flush()
    toll = Erc4626("toll", place.toll, place.me)
    await toll.load(place.client, head_of(place.rpc))
    await place.see(toll)
    assert toll.pools() == []
    assert "charges" in toll.excluded[place.toll]
    place.on.send(place.vaults[0], "deposit(uint256,address)", 10**12, place.me)
    place.on.flush()
    sound = Erc4626("sound", place.vaults[0], place.me)
    await sound.load(place.client, head_of(place.rpc))
    await place.see(sound)
    assert sound.pools()[0].limits[:2] == (10**12, 10**12)
    answers = await place.client.read(sound.reads(), head_of(place.rpc))
    sound.observe(head_of(place.rpc), [None, *answers[1:]])
    assert sound.pools() == []
    sound.observe(head_of(place.rpc), answers)
    assert len(sound.pools()) == 1
    sound.rewind(1)
    assert sound.pools() == []
    stranger = Erc4626("none", place.asset, place.me)
    with pytest.raises(BadData, match="does not say"):
        await stranger.load(place.client, head_of(place.rpc))


async def test_snapshots_of_wrappers(place: Place) -> None:
    """A restored wrapper needs no load; one of another wrapper is refused."""
    venue = WstEth("staked", place.wsteth, place.me)
    with pytest.raises(BadData, match="belongs to another"):
        venue.restore(venue.snapshot())
    await venue.load(place.client, head_of(place.rpc))
    again = WstEth("staked", place.wsteth, place.me)
    again.restore(venue.snapshot())
    place.on.send(place.steth, "submit(address)", place.me, value=10**18)
    place.on.flush()
    await place.see(venue, again)
    assert again.pools()[0].assets == venue.pools()[0].assets == 10**18
    with pytest.raises(BadData, match="another"):
        Erc4626("vault", place.vaults[0], place.me).restore(venue.snapshot())
    again.distrust("told to")
    assert again.excluded == {place.wsteth: "told to"}


async def run_staked(place: Place, rounds: int, quotes: int) -> None:
    say(f"seed {SEED}")
    rng = random.Random(SEED)
    me, on, rpc = place.me, place.on, place.rpc
    rpc.request("anvil_setBalance", me, hex(10**30))
    on.send(place.steth, "submit(address)", me, value=10**24)
    on.send(place.wsteth, "wrap(uint256)", 10**23)
    on.flush()
    venue = WstEth("staked", place.wsteth, me)
    await venue.load(place.client, head_of(rpc))
    pooled, asked, lost = 10**24, 0, 0
    for _ in range(rounds):
        pooled = pooled * rng.randint(10_000, 10_050) // 10_000 + rng.randrange(10**9)
        on.send(place.steth, "rebase(uint256)", pooled)
        on.flush()
        await place.see(venue)
        (pool,) = venue.pools()
        assert isinstance(pool, StEthPool)
        calls: list[tuple[str, str, tuple[Any, ...]]] = []
        mine: list[int] = []
        for _ in range(quotes):
            amount = draw_amount(rng, 10**22)
            unwraps, asked_for = rng.random() < 0.5, rng.random() < 0.5
            if unwraps:
                shares = pool.redeeming(amount) if asked_for else amount
                calls.append((place.wsteth, "unwrap(uint256)", (shares,)))
                mine.append(pool.unwrapped(shares))
            else:
                assets = pool.depositing(amount) if asked_for else amount
                calls.append((place.wsteth, "wrap(uint256)", (assets,)))
                mine.append(pool.deposited(assets))
                assert not asked_for or (mine[-1] == amount and pool.deposited(assets - 1) < amount)
        assert place.try_all(calls) == mine
        asked += len(calls)
        # What is promised can be passed on, and is within a few units of the most that can be.
        for _ in range(3):
            amount = rng.randint(1, 10**20)
            way = pool.token0 == pool.share
            promised = pool.quote_in(way, amount) or 0
            bought = pool.quote_out(way, amount)
            assert bought is not None
            for shares, least in ((amount, promised), (bought, amount)):
                snapshot = rpc.request("evm_snapshot")
                on.send(
                    place.steth, "transfer(address,uint256)", HOLDER, rpc.view(place.steth, "balanceOf(address)", me)
                )
                on.send(place.wsteth, "unwrap(uint256)", shares)
                on.flush()
                arrived = rpc.view(place.steth, "balanceOf(address)", me)
                on.send(place.steth, "transfer(address,uint256)", address("0x" + "b1" * 20), arrived)
                on.flush()
                passed = rpc.view(place.steth, "balanceOf(address)", "0x" + "b1" * 20)
                assert least <= passed <= arrived <= least + 6, (shares, least, passed, arrived)
                lost += arrived - passed
                assert rpc.request("evm_revert", snapshot)
                on = place.on = Deployer(rpc, me, 30_000_000)
    say(f"{asked} conversions, 0 differences; {lost} units lost by passing stETH on")
    assert lost


async def test_staked_ether_converts_as_quoted(place: Place) -> None:
    """Random wraps and unwraps at a rate that rises: to the unit, and never more promised than can be passed on."""
    await run_staked(place, rounds=8, quotes=60)


@pytest.mark.long
async def test_staked_ether_converts_as_quoted_long(place: Place) -> None:
    """The same with six thousand conversions."""
    await run_staked(place, rounds=100, quotes=60)
