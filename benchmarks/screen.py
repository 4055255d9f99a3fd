"""The sweep over all health factors, beside copying its arrays and beside asking the pool."""

from __future__ import annotations

from random import Random

import numpy as np

from benchmarks.measure import Row, best
from keeper.devchain.actors import Actors, account
from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.devchain.world import World
from keeper.maths.wad_ray import RAY
from keeper.model import ZERO_ADDRESS, Address, Token
from keeper.protocols.aave_v3.health import Valuation
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Market, Reserve, State
from keeper.protocols.aave_v3.rules import RULES
from keeper.rewind import Rewind

NOW = 1_800_000_000
ENTRIES = 5


def book(users: int, seed: int = 1) -> tuple[Ledger, Valuation]:
    """Users with five entries each, over ten reserves."""
    dice = Random(seed)
    reserves, states, prices = {}, {}, {}
    for number in range(10):
        token = Token(Address(f"0x{number + 1:040x}"), f"T{number}", 18)
        config = 8_000 << 16 | 10_500 << 32 | 18 << 48 | 1 << 56
        reserves[number] = Reserve(number, token, ZERO_ADDRESS, ZERO_ADDRESS, None, config, 0, 0)
        states[number] = State(RAY + number, RAY // 50, RAY + number, RAY // 20, NOW - 1_000)
        prices[token.address] = 10**8 * (number + 1)
    market = Market(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS, None, 10, RULES[10], 5, 10**8, reserves, {})
    ledger = Ledger(Rewind())
    for index in range(users):
        user = ledger.user(Address(f"0x{index + 1_000:040x}"))
        for place, number in enumerate(dice.sample(range(10), ENTRIES)):
            side = SUPPLY if place < 3 else DEBT
            amount = dice.randrange(1, 10**21) if side == SUPPLY else dice.randrange(1, 10**20)
            ledger.set_amount(ledger.entry(user, slot(number, side)), amount)
            if side == SUPPLY:
                ledger.set_enabled(user, number, True)
    return ledger, Valuation(market, states, prices, NOW)


def run(anvil: Anvil, world: World, *, users: int) -> list[Row]:
    """Three rows: against a copy, against the sum in Python integers, against JSON-RPC batches."""
    ledger, valuation = book(users)

    def sweep() -> object:
        return ledger.balances(valuation.factors(ledger.emodes_seen)) < valuation.screen_slack

    entries = users * ENTRIES
    amounts, owners, kinds = np.ones(entries), np.ones(entries, np.int32), np.ones(entries, np.int16)

    def copy() -> object:
        return amounts.copy(), owners.copy(), kinds.copy()

    ours = best(sweep, units=users)
    exact = min(users, 2_000)

    def integers() -> object:
        return [valuation.health(ledger.supplies_and_debts(user), 0) for user in range(exact)]

    actors = Actors(anvil.rpc, world)
    who = account("benchmark")
    actors.open_position(
        world.main, who, {"WETH": 10**18, "WBTC": 10**7, "DAI": 10**21}, {"USDC": 10**8, "USDT": 10**8}
    )
    data = "0x" + calldata("getUserAccountData(address)", who).hex()
    asked: list[tuple[str, list[object]]] = [("eth_call", [{"to": world.main.pool, "data": data}, "latest"])] * 200
    what = f"screen {users:,} positions, each"

    def pool() -> object:
        return anvil.rpc.batch(asked)

    return [
        Row(what, ours, "numpy copies the arrays", best(copy, units=users)),
        Row(what, ours, "exact integers", best(integers, runs=3, units=exact)),
        Row(what, ours, "getUserAccountData in batches of 200", best(pool, units=len(asked))),
    ]
