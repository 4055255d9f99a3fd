"""The sweep over all health factors, beside copying its arrays and beside asking the pool; and what a price costs."""

from __future__ import annotations

from collections.abc import Callable

from eth_abi.abi import decode

from benchmarks.crowd import Asset, Crowd
from benchmarks.measure import Row, beside, best
from keeper.chain.multicall import init_code
from keeper.devchain.actors import Actors, account
from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.devchain.world import World
from keeper.maths.wad_ray import RAY
from keeper.model import ZERO_ADDRESS, Address, Token
from keeper.protocols.aave_v3 import snapshot
from keeper.protocols.aave_v3.health import Valuation
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, kind, slot
from keeper.protocols.aave_v3.market import Market, Reserve, State
from keeper.protocols.aave_v3.rules import RULES
from keeper.protocols.kernels import Floats, NumpyKernels
from keeper.protocols.sweep import Sweep

NOW = 1_800_000_000
RESERVES = 10  # that everybody has some of
RARE = RESERVES  # one more


def market() -> tuple[Market, dict[int, State], dict[Address, int]]:
    """Reserves of a dollar each."""
    reserves, states, prices = {}, {}, {}
    for number in range(RESERVES + 1):
        token = Token(Address(f"0x{number + 1:040x}"), f"T{number}", 18)
        config = 8_000 << 16 | 10_500 << 32 | 18 << 48 | 1 << 56
        tokens = Address(f"0x{0xA000 + number:040x}"), Address(f"0x{0xB000 + number:040x}")
        reserves[number] = Reserve(number, token, *tokens, None, config, 0, 0)
        states[number] = State(RAY + number, RAY // 50, RAY + number, RAY // 20, NOW - 1_000)
        prices[token.address] = 10**8
    pool = Address(f"0x{0xC000:040x}")
    by_asset = {reserve.token.address: number for number, reserve in reserves.items()}
    made = Market(pool, ZERO_ADDRESS, ZERO_ADDRESS, None, 10, RULES[10], 5, 10**8, reserves, {}, by_asset)
    return made, states, prices


def crowd(users: int) -> Crowd:
    """People on that market."""
    made, _, _ = market()
    assets = [Asset(r.id, r.token.address, r.a_token, r.v_token, 1e18) for r in list(made.reserves.values())[:RARE]]
    return Crowd(users, assets, made.pool)


def valued(price: int = 10**8, later: int = 0) -> Valuation:
    """The market with the first reserve at `price`, `later` seconds on."""
    made, states, prices = market()
    return Valuation(made, states, prices | {made.reserves[0].token.address: price}, NOW + later)


def screen(users: int) -> list[Row]:
    """The full sweep and what prices and a block of interest cost, all on one book."""
    ledger = crowd(users).ledger()
    seldom = _rare(ledger)
    columns, entries = ledger.columns(), ledger.entries
    factors, slack = valued().factors({0}), valued().screen_slack
    sweep = Sweep(ledger)

    def full() -> object:
        return ledger.balances(factors)

    def copy() -> object:
        return columns.weight.copy(), columns.owner.copy(), columns.kind.copy()

    def turns(choice: list[Floats]) -> Callable[[], object]:
        def work() -> object:
            choice.reverse()
            return sweep.below(choice[0], slack)

        return work

    def touched(work: Callable[[], object]) -> int:
        before = sweep.touched
        work()
        return sweep.touched - before

    rare = factors.copy()
    rare[kind(slot(RARE, SUPPLY), 0)] *= 0.99
    works = [
        turns([factors, valued(99 * 10**6).factors({0})]),
        turns([factors, rare]),
        turns([factors, valued(later=12).factors({0})]),
    ]
    sweep.below(factors, slack)
    counts = []
    for work in works:
        counts.append(touched(work))
        work()
    full_time, copy_time = beside(full, copy, runs=15)
    times = [beside(work, full, runs=14) for work in works]
    common = len(ledger.holders(slot(0, SUPPLY))) + len(ledger.holders(slot(0, DEBT)))
    rows = [
        Row(
            "screen", f"every health factor, {entries:,} entries", full_time * 1e3, "ms", "numpy copies the arrays",
            copy_time * 1e3, "≤ 2 × the copy at 1,000,000", full_time <= 2 * copy_time if users >= 1_000_000 else None,
            users,
        ),
        Row(
            "price", f"a feed that half depend on, {common:,}", times[0][0] * 1e3, "ms", "the full sweep",
            times[0][1] * 1e3, "≤ 1 ms at 100,000; no more than a full sweep",
            times[0][0] <= 1.5 * times[0][1] + 1e-4 and (users != 100_000 or times[0][0] <= 1e-3), users,
            f"{counts[0]:,} of {users:,} summed up",
        ),
        Row(
            "price", f"a feed that few depend on, {seldom:,}", times[1][0] * 1e3, "ms", "the full sweep",
            times[1][1] * 1e3, "only the exposed are touched", counts[1] == seldom, users,
            f"{counts[1]:,} of {users:,} summed up",
        ),
        Row("price", "interest of one block", times[2][0] * 1e3, "ms", "the full sweep", times[2][1] * 1e3,
            "nobody is touched", counts[2] == 0, users),
    ]  # fmt: skip
    if users <= 100_000:
        slow, copy_time = beside(lambda: _numpy(ledger, factors), copy, runs=3)
        rows.append(
            Row("screen", "the same without numba", slow * 1e3, "ms", "numpy copies the arrays", copy_time * 1e3,
                size=users)
        )  # fmt: skip
    return rows


def _rare(ledger: Ledger) -> int:
    """Let one user in a hundred hold an eleventh reserve, worth as much as the one it replaces; how many do."""
    holders = ledger.first.live(ledger.counts[0])[::100]
    ledger.slot.data[holders] = slot(RARE, SUPPLY)
    snapshot.derive(ledger)
    ledger.compact()
    return len(ledger.holders(slot(RARE, SUPPLY)))


def _numpy(ledger: Ledger, factors: Floats) -> object:
    return Sweep(ledger, NumpyKernels()).below(factors, 42.0)


def against_node(anvil: Anvil, world: World, per_position: float, *, asked: int = 100) -> list[Row]:
    """`getUserAccountData` in JSON-RPC batches and in one multicall, beside the screen's time per position."""
    actors = Actors(anvil.rpc, world)
    who = account("benchmark")
    actors.open_position(
        world.main, who, {"WETH": 10**18, "WBTC": 10**7, "DAI": 10**21}, {"USDC": 10**8, "USDT": 10**8}
    )
    data = calldata("getUserAccountData(address)", who)
    calls: list[tuple[str, list[object]]] = [
        ("eth_call", [{"to": world.main.pool, "data": "0x" + data.hex()}, "latest"])
    ] * asked
    body = (bytes.fromhex(world.main.pool[2:]) + len(data).to_bytes(3, "big") + data) * asked
    head = (64).to_bytes(32, "big") + (2**24).to_bytes(32, "big") + len(body).to_bytes(32, "big")
    bundle = init_code() + head + body + b"\0" * (-len(body) % 32)
    whole: list[object] = [{"data": "0x" + bundle.hex(), "gas": hex(10**9)}, "latest"]
    one = anvil.rpc.batch(calls[:1])[0]
    many = bytes.fromhex(anvil.rpc.request("eth_call", *whole)[2:])
    assert decode(["uint256"] * 6, many[5 : 5 + 192]) == decode(["uint256"] * 6, bytes.fromhex(one[2:]))
    batch = best(lambda: anvil.rpc.batch(calls), runs=3, units=asked)
    multicall = best(lambda: anvil.rpc.request("eth_call", *whole), runs=3, units=asked)
    target = "≥ 1,000 × faster than the best RPC way"
    return [
        Row("screen", "one position", per_position * 1e6, "µs", f"getUserAccountData, {name} of {asked}", theirs * 1e6,
            target, min(batch, multicall) >= 1_000 * per_position)
        for name, theirs in (("JSON-RPC batches", batch), ("multicalls", multicall))
    ]  # fmt: skip
