"""Left alone with traffic: memory flat, no task, thread or file leaked, no block left out."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import random
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from eth_utils.crypto import keccak

from keeper.demo import Daemon
from keeper.devchain.actors import Reverted, account
from keeper.devchain.calls import calldata
from keeper.devchain.catalogue import SPECS
from keeper.devchain.world import Built
from tests.e2e.test_daemon import Theatre, theatre
from tests.faults.rig import SLOT0, rig

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemon")]

_SETTINGS = """[audit]
every = 10

[breakers]
audit_failures = 1_000

[strategy]
max_oracle_gap_bps = 2000
profit_sanity_bps = 100000
"""
LATEST_ROUND, ROUNDS = 1, 2  # storage slots of the feeds' aggregators (Feed.sol)
AUDITED = re.compile(
    r"\w+ pool 0x\w{40} [^:]* block \d+: .* the mirror has \(.*\)"
    r"|\w+: 0x\w{40} has health factor \d+ at block \d+, the book says \d+"
)
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def test_no_block_is_left_out_and_no_task_stays(built: Built, tmp_path: Path) -> None:
    """Every block from the first to the last is applied exactly once, and tasks come and go."""
    await follow(built, tmp_path, 120)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_no_block_is_left_out_at_length(built: Built, tmp_path: Path) -> None:
    """The same over five thousand blocks."""
    await follow(built, tmp_path, 5_000)


async def follow(built: Built, folder: Path, blocks: int) -> None:
    async with rig(built, folder, "ws", SEED) as made:
        made.borrower()
        await made.recovered("soak")
        first, tasks = made.head()[0], len(tasks_of_the_keeper())
        applied = made.watcher.applied
        for number in range(blocks):
            if number % 25 == 0:
                made.fall(0)
                made.borrower()
            if number % 25 == 12:
                made.fall(5)
            made.trade()
            await made.breathe(0.2 if number % 5 else 0.0)  # now and then it has to catch up
        await made.recovered("soak")
        await made.quiet("soak")
        last = made.head()[0]
        assert made.watcher.applied - applied == last - first
        assert not made.differences()
        assert not await made.bookkeeping()
        assert not made.watcher.differences, "an audit found a difference"
        assert len(tasks_of_the_keeper()) <= tasks + 2
        print(f"seed {SEED}: blocks {first} to {last}, {made.watcher.passes} passes, {len(made.desk.orders)} orders")


def tasks_of_the_keeper() -> list[str]:
    """Not those of the proxy, which lives in the same loop and keeps a relay for every connection it ever had."""
    files = [getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()]
    return [code.co_filename for code in files if code is not None and "/keeper/" in code.co_filename]


@pytest.mark.parametrize("live", [False, True], ids=["dry", "live"])
def test_memory_stays_flat(built: Built, tmp_path: Path, live: bool) -> None:
    """A sample of the daemon's life: what it holds does not grow with the blocks that pass."""
    soak(built, tmp_path, live=live, blocks=150, seconds=0.07)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("live", [False, True], ids=["dry", "live"])
def test_memory_stays_flat_over_five_thousand_blocks(built: Built, tmp_path: Path, live: bool) -> None:
    """The same at full size."""
    soak(built, tmp_path, live=live, blocks=5_000, seconds=0.1)


def soak(built: Built, folder: Path, *, live: bool, blocks: int, seconds: float) -> None:
    rng, checked = random.Random(SEED), 0
    samples: list[tuple[int, int, int, int]] = []  # block, KiB, threads, descriptors
    with theatre(built, folder, live=live) as scene:
        scene.config.write_text(scene.config.read_text().replace("[strategy]\n", _SETTINGS))
        daemon = scene.daemon()
        try:
            assert daemon.process is not None
            for number in range(blocks):
                began = time.monotonic()
                with scene.stage.lock:
                    traffic(scene, rng, number)
                if number % 50 == 49:  # the private chain forgets old states
                    for told in differences(daemon)[checked:]:
                        check_race(scene, told)
                        checked += 1
                if number % max(blocks // 50, 1) == 0:
                    samples.append((number, *holdings(daemon.process.pid)))
                time.sleep(max(seconds - (time.monotonic() - began), 0.0))
            lag = settle(scene, daemon)
            metrics = requests.get(f"{daemon.http}/metrics", timeout=5).text
            assert re.search(r'keeper_audits_total\{.*result="ok"\} [1-9]', metrics), "nothing was audited"
            assert daemon.stop() == 0, daemon.tail()
        finally:
            daemon.kill()
        if live:
            scene.check_against_chain()
        raced = differences(daemon)
        for told in raced[checked:]:
            check_race(scene, told)
        attempts = len(scene.attempts())
    assert attempts, "there was nothing to do"
    half = samples[len(samples) // 2 :]
    slope = least_squares([(block, kib) for block, kib, _, _ in half])
    told = f"{blocks} blocks, {attempts} attempts, {samples[0][1] // 1024} to {samples[-1][1] // 1024} MiB"
    told += f", {len(raced)} audits beaten by the next block"
    print(f"seed {SEED}, {'live' if live else 'dry'}: {told}, {slope:+.2f} KiB a block at the end, {lag} blocks behind")
    # An audit that was answered from another block says so, and so does the book that is read anew for it.
    assert not [text for text in errors(daemon) if AUDITED.search(text) is None]
    assert half[-1][1] - half[0][1] < max(16 * 1024, blocks * 4), "it keeps growing"
    assert half[-1][2] <= half[0][2] + 2, "threads leak"
    assert half[-1][3] <= half[0][3] + 8, "descriptors leak"


def traffic(scene: Theatre, rng: random.Random, number: int) -> None:
    """One block of swaps, deposits, borrowers and prices."""
    actors, world = scene.stage.actors, scene.stage.world
    if number % 30 == 0:
        with suppress(Reverted):  # the keeper may trade in the same pool in the same block
            actors.align({symbol: spec.price for symbol, spec in SPECS.items()})
    with actors.block(strict=False):
        pool = rng.choice([p for p in world.uniswap.pools if not p.thin])
        side = rng.random() < 0.5
        actors.swap(pool, zero_for_one=side, amount=actors.worth(pool.token0 if side else pool.token1, 3_000))
        market = rng.choice([*world.markets.values()])
        if number % 30 == 5:
            user = account(f"soak {number}")
            amount = actors.worth("WETH", 30_000)
            actors.fund(user, "WETH", amount)
            actors.supply(market, user, "WETH", amount)
            actors.borrow(market, user, "USDC", actors.worth("USDC", 23_500))
        if number % 30 == 15:
            actors.set_price("WETH", SPECS["WETH"].price * 92 // 100)
        if number % 30 == 0:
            actors.set_price("WETH", SPECS["WETH"].price)


def settle(scene: Theatre, daemon: Daemon) -> int:
    """Blocks the daemon is behind the chain once the traffic is over; waits until nothing is in flight."""
    deadline = time.monotonic() + 30
    behind = 1 << 30
    while time.monotonic() < deadline:
        time.sleep(0.3)
        status = daemon.status()
        head = status.get("head")
        number = head.get("number") if isinstance(head, dict) else None
        if isinstance(number, int):
            behind = scene.stage.watcher.number() - number
            if behind <= 1 and not status.get("in_flight"):
                return behind
    raise AssertionError(f"the daemon is {behind} blocks behind: {daemon.tail()}")


def holdings(pid: int) -> tuple[int, int, int]:
    """Resident KiB, threads and open descriptors of a process, from /proc."""
    folder = Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    return pages * _PAGE // 1024, len([*(folder / "task").iterdir()]), len([*(folder / "fd").iterdir()])


def errors(daemon: Daemon) -> list[str]:
    """What was logged as an error, as told."""
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if '"level":"error"' in line]
    return [str(line.get("message", line)) for line in lines]


def differences(daemon: Daemon) -> list[str]:
    """What audits found different, each once, whoever tells it: an alert that repeats itself is not always logged."""
    found = [AUDITED.search(text) for text in errors(daemon)]
    return list(dict.fromkeys(match[0] for match in found if match is not None))


def check_race(scene: Theatre, told: str) -> None:
    """anvil answers for its newest block while it mines the next one: the mirror was right after all, or, where it was
    the mirror that was answered so, it is what the very next block's prices make of its own block.
    """
    rpc, markets = scene.stage.watcher, scene.stage.world.markets
    found = re.search(r"(\w+) pool (0x\w{40}) .* block (\d+): .* the mirror has (\(.*\))", told)
    if found is not None:
        at, mirror = int(found[3]), ast.literal_eval(found[4])
        if found[1] == "uniswap_v2":
            chain = rpc.view(found[2], "getReserves()", returns="uint112,uint112,uint32", at=at)[:2]
        else:
            price, tick, *_ = rpc.view(found[2], "slot0()", returns=SLOT0, at=at)
            chain = (price, tick, rpc.view(found[2], "liquidity()", returns="uint128", at=at))
        assert tuple(chain) == mirror, told
        return
    found = re.search(r"(\w+): (0x\w{40}) has health factor \d+ at block (\d+), the book says (\d+)", told)
    assert found is not None, told
    pool, at = markets[found[1]].pool, int(found[3])
    call = {"to": pool, "data": "0x" + calldata("getUserAccountData(address)", found[2]).hex()}
    ahead = next_prices(scene, at)
    health = [
        int(rpc.request("eth_call", call, hex(at), *override)[2 + 5 * 64 :], 16)
        for override in ([], *([[ahead]] if ahead else []))
    ]
    assert int(found[4]) in health, f"{told}; the chain has {health}"


def next_prices(scene: Theatre, at: int) -> dict[str, dict[str, dict[str, str]]]:
    """A state override that gives block `at` the rounds that feeds were given in the next one."""
    rpc = scene.stage.watcher
    found: dict[str, dict[str, dict[str, str]]] = {}
    for feed in scene.stage.world.feeds.values():
        rounds = [rpc.request("eth_getStorageAt", feed.aggregator, hex(LATEST_ROUND), hex(n)) for n in (at, at + 1)]
        if rounds[0] != rounds[1]:
            first = int.from_bytes(keccak(int(rounds[1], 16).to_bytes(32, "big") + ROUNDS.to_bytes(32, "big")), "big")
            slots = [LATEST_ROUND, first, first + 1]
            words = [rpc.request("eth_getStorageAt", feed.aggregator, hex(slot), hex(at + 1)) for slot in slots]
            found[feed.aggregator] = {
                "stateDiff": {f"0x{slot:064x}": word for slot, word in zip(slots, words, strict=True)}
            }
    return found


def least_squares(points: list[tuple[int, int]]) -> float:
    """The slope of a line through them."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
