"""Exact Uniswap V3 quotes beside QuoterV2 and degenbot on the same pool, by how many ticks the trade crosses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import orjson

from benchmarks.measure import Row, best
from keeper.chain.client import NodeClient
from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.devchain.store import stored
from keeper.devchain.world import World
from keeper.venues.uniswap_v3.pool import V3Pool
from keeper.venues.uniswap_v3.venue import UniswapV3

CROSSED = (0, 5, 50)
DEGENBOT = "0.3.0"
_TICKS = 60  # on either side
_FEE = 500
_VARIED = 200  # amounts per case
_IN = "quoteExactInputSingle((address,address,uint256,uint24,uint160))"
_OUT = "quoteExactOutputSingle((address,address,uint256,uint24,uint160))"


async def _load(anvil: Anvil, world: World) -> list[V3Pool]:
    tokens = [token.address for token in world.tokens.values()]
    venue = UniswapV3(world.uniswap.v3_factory, world.uniswap.v3_start_block, tokens)
    async with NodeClient.connect([anvil.ws], chain_id=world.chain_id) as client:
        await venue.load(client, await client.head())
    return venue.pools()


def dense_pool(anvil: Anvil, world: World) -> V3Pool:
    """The ether pool of 0.05 %, with an initialised tick at every spacing around the price."""
    actors = Actors(anvil.rpc, world)
    place = actors.pool("v3", "WETH", "USDC", _FEE)
    (pool,) = [pool for pool in asyncio.run(_load(anvil, world)) if pool.address == place.address]
    spacing = pool.ticks.spacing
    here = pool.tick // spacing * spacing
    for start in range(-_TICKS, _TICKS, 20):
        with actors.block():
            for step in range(start, start + 20):
                lower = here + step * spacing
                actors.add_liquidity(place, lower, lower + spacing, pool.liquidity // 50 + 997 * abs(step))
    (pool,) = [pool for pool in asyncio.run(_load(anvil, world)) if pool.address == place.address]
    return pool


def amounts(pool: V3Pool, crossed: int, *, exact_out: bool) -> list[int]:
    """Different amounts of token0 in (or token1 out) that cross exactly so many ticks."""
    swap = pool.swap_out if exact_out else pool.swap_in

    def ticks(amount: int) -> int:
        after = swap(True, amount)  # noqa: FBT003 - token0 for token1
        return _TICKS if after is None else pool.ticks.crossed(pool.tick, after[1].tick)

    def first(wanted: int) -> int:
        low, high = 1, 1 << 120
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if ticks(middle) >= wanted else (middle + 1, high)
        return low

    low, high = (1 if crossed == 0 else first(crossed)), first(crossed + 1) - 1
    assert high - low > 2 * _VARIED, (low, high)
    dice = Random(crossed)
    found = [dice.randrange(low + (high - low) // 2, high) for _ in range(_VARIED)]
    assert {ticks(amount) for amount in found} == {crossed}
    return found


def run(anvil: Anvil, world: World, *, degenbot: bool = True) -> list[Row]:
    """Exact-in and exact-out, each against both."""
    pool = dense_pool(anvil, world)
    cases = {(crossed, out): amounts(pool, crossed, exact_out=out) for out in (False, True) for crossed in CROSSED}
    theirs = _degenbot(anvil, pool, cases) if degenbot else "left out"
    rows: list[Row] = []
    calm: dict[bool, float] = {}
    for (crossed, out), varied in cases.items():
        name = f"exact-{'out' if out else 'in'}, {crossed} ticks crossed"
        mine = best(_ours(pool, varied, out=out), runs=9, units=len(varied)) * 1e6
        calm.setdefault(out, mine)
        quoter = _quoter(anvil, world, pool, varied[:40], out=out) * 1e6
        flat = mine <= calm[out] + 1
        rows.append(
            Row("quotes", name, mine, "µs", "QuoterV2 by eth_call, batches of 40", quoter,
                "≤ 20 µs, the same for 50 ticks as for none; ≥ 100 ×", mine <= 20 and flat and quoter >= 100 * mine)
        )  # fmt: skip
        if isinstance(theirs, str):
            rows.append(Row("quotes", name, mine, "µs", f"degenbot {DEGENBOT}", None, "≥ 5 ×", None, note=theirs))
        else:
            other = theirs[f"{crossed} {int(out)}"]
            rows.append(
                Row("quotes", name, mine, "µs", f"degenbot {DEGENBOT}", other, "≥ 5 ×", other >= 5 * mine)
            )  # fmt: skip
    return rows


def _ours(pool: V3Pool, varied: list[int], *, out: bool) -> Callable[[], object]:
    quote = pool.quote_out if out else pool.quote_in
    return lambda: [quote(True, amount) for amount in varied]  # noqa: FBT003 - token0 for token1


def _quoter(anvil: Anvil, world: World, pool: V3Pool, varied: list[int], *, out: bool) -> float:
    """Seconds per quote of the contract; its answers must be ours."""
    to = world.uniswap.quoter
    asked: list[tuple[str, list[object]]] = []
    for amount in varied:
        data = calldata(_OUT if out else _IN, (pool.token0, pool.token1, amount, pool.fee, 0))
        asked.append(("eth_call", [{"to": to, "data": "0x" + data.hex()}, "latest"]))
    answers = [int(answer[2:66], 16) for answer in anvil.rpc.batch(asked)]
    assert answers == _ours(pool, varied, out=out)(), "the quotes are not the pool's"
    return best(lambda: anvil.rpc.batch(asked), runs=3, units=len(asked))


def _degenbot(anvil: Anvil, pool: V3Pool, cases: dict[tuple[int, bool], list[int]]) -> dict[str, float] | str:
    """µs per quote by case, measured in an environment of its own; or why there is none."""
    try:
        where = stored(f"degenbot/{DEGENBOT}-{sys.version_info.major}.{sys.version_info.minor}", _install)
    except subprocess.CalledProcessError as error:
        return f"could not be installed: {str(error.stderr).strip().splitlines()[-1:]}"
    expected = {f"{c} {int(o)}": _ours(pool, varied, out=o)() for (c, o), varied in cases.items()}
    task = {"url": anvil.http, "pool": pool.address, "expected": expected} | {
        "cases": {f"{crossed} {int(out)}": varied for (crossed, out), varied in cases.items()}
    }
    script = Path(__file__).with_name("degenbot_quotes.py")
    ran = subprocess.run(
        [where / "bin" / "python", script], input=orjson.dumps(_text(task)), capture_output=True, check=False
    )
    if ran.returncode:
        return f"failed: {ran.stderr.decode().strip().splitlines()[-1:]}"
    found: dict[str, float] = orjson.loads(ran.stdout.splitlines()[-1])
    return found


def _text(value: object) -> object:
    """Integers as text: they are larger than JSON's."""
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    return [str(item) for item in value] if isinstance(value, list) else value


def _install(folder: Path) -> None:
    """An environment that can be moved: only its interpreter is called."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, text=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"degenbot=={DEGENBOT}"]
    subprocess.run(pip, check=True, capture_output=True, text=True)
