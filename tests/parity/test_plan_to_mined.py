"""What the keeper predicts is what the chain does: whole plans, mined through the executor, to the wei."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from keeper.abi import interface
from keeper.assembly import Assembly, assemble
from keeper.config import load
from keeper.devchain.actors import Actors, account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.lending import Market
from keeper.devchain.rpc import RpcError
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.execution.compose import compose
from keeper.execution.executor import Settlement, creation_code, encode_execute, executed
from keeper.model import Address, FeeQuote, Hash, Log, Plan, address
from keeper.ports import Book
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
POOL = interface("aave_pool")
BENEFICIARY = account("beneficiary")
VOLATILE = ("WETH", "WBTC", "wstETH", "LINK", "CRV")
DEBTS = ("USDC", "USDT", "DAI", "WETH", "WBTC")


async def test_every_plan_moves_exactly_what_it_says(fork: Fork, tmp_path: Path) -> None:
    """Sixty random positions on both revisions: repaid, seized and net gain as predicted, to the wei."""
    await _liquidate_many(fork, tmp_path, wanted=60, seed=SEED)


@pytest.mark.long
async def test_every_plan_moves_exactly_what_it_says_at_length(fork: Fork, tmp_path: Path) -> None:
    """The same for three hundred and more."""
    await _liquidate_many(fork, tmp_path, wanted=320, seed=SEED + 1)


async def _liquidate_many(fork: Fork, folder: Path, *, wanted: int, seed: int) -> None:
    rng = random.Random(seed)
    actors = fork.actors
    executor = _deploy(fork)
    path = folder / "keeper.toml"
    path.write_text(config_text(fork.world, fork.ws, folder, 12, 0, executor))
    (folder / "operator.key").write_text(OPERATOR_KEY)
    shapes: Counter[str] = Counter()
    errors: list[int] = []
    async with assemble(load(path, {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"}), live=False) as parts:
        await parts.start()
        done = round_ = 0
        while done < wanted:
            round_ += 1
            assert round_ < 60, f"only {done} of {wanted} after {round_} rounds"
            _market_day(actors, fork, rng, round_)
            for market in fork.world.markets.values():
                book = next(book for book in parts.books if book.name == market.name)
                done += await _take_everybody(parts, book, market, fork, executor, shapes, errors)
    biased = sum(errors) / len(errors)
    print(f"seed {seed}: {done} liquidations, shapes {dict(shapes)}, gas estimate off by {biased:+.1f} % on average")
    assert {"flash swap", "loan from morpho"} <= {shape.split(",")[0] for shape in shapes}


def _market_day(actors: Actors, fork: Fork, rng: random.Random, number: int) -> None:
    """Prices go back to where they were, people borrow nearly all they may, prices fall."""
    base = {symbol: spec.price for symbol, spec in SPECS.items()}
    _reprice(actors, base)
    for market in fork.world.markets.values():
        for index in range(8):
            _borrower(actors, market, account(f"{market.name} {number} {index}"), rng)
    fallen = dict(base)
    for symbol in VOLATILE:
        fallen[symbol] = base[symbol] * rng.randrange(760, 930) // 1000
    if rng.random() < 0.5:
        fallen["DAI"] = base["DAI"] * rng.randrange(955, 1000) // 1000
    _reprice(actors, fallen)


def _reprice(actors: Actors, prices: dict[str, int]) -> None:
    actors.align(prices)
    with actors.block():
        for symbol, price in prices.items():
            if actors.price(symbol) != price:
                actors.set_price(symbol, price)


def _borrower(actors: Actors, market: Market, user: Address, rng: random.Random) -> None:
    usd = int(10 ** rng.uniform(3.8, 5.9))
    with actors.block(strict=False):
        for symbol in rng.sample([s for s in market.reserves if s in (*VOLATILE, "USDC")], rng.choice((1, 1, 2, 3))):
            amount = actors.worth(symbol, min(usd, 40_000) if symbol == "CRV" else usd)
            actors.fund(user, symbol, amount)
            actors.supply(market, user, symbol, amount)
    free = actors.standing(market, user).available // 10**8
    debts = rng.sample([symbol for symbol in market.reserves if symbol in DEBTS], rng.choice((1, 1, 2, 3)))
    with actors.block(strict=False):
        for symbol in debts:
            actors.borrow(market, user, symbol, actors.worth(symbol, max(1, free * 97 // 100 // len(debts))))


async def _take_everybody(
    parts: Assembly,
    book: Book,
    market: Market,
    fork: Fork,
    executor: Address,
    shapes: Counter[str],
    errors: list[int],
) -> int:
    taken = 0
    for _ in range(40):
        head = await parts.client.head()
        synced = await parts.follower.advance(head)
        assert not synced.behind
        timestamp = head.timestamp + 12
        quoter = parts.quoter(FeeQuote(head.next_base_fee(), 10**8), frozenset())
        for handle in book.screen(timestamp):
            position = book.position(handle, timestamp)
            if position is None:
                continue
            sources = tuple(parts.sources.values())
            choice = parts.appraiser.planner.plan(position, quoter, sources, FeeQuote(2 * 10**9, 10**8))
            if choice.plan is not None and choice.pair is not None:
                break
        else:
            return taken
        liquidation = book.liquidation(choice.pair, choice.plan.borrower, choice.plan.repay)
        venues = {venue.name: venue for venue in parts.venues}
        program = compose(choice.plan, liquidation, venues, parts.sources, executor)
        native = parts.config.tokens.wrapped_native
        # The floor is the prediction itself: one wei less would revert.
        data = encode_execute(program, Settlement(taken.to_bytes(32, "big"), choice.plan.gain, native, timestamp))
        with fork.actors.block(12, strict=False) as receipts:
            fork.actors.submit(OPERATOR, executor, data, gas=6_000_000)
        assert fork.rpc.block("latest")["timestamp"] == hex(timestamp)
        shapes[_check(receipts[0], choice.plan, market, executor, fork)] += 1
        errors.append(100 * choice.plan.gas // int(receipts[0]["gasUsed"], 16) - 100)
        taken += 1
    raise AssertionError("forty liquidations and still more to do")


def _check(receipt: dict[str, object], plan: Plan, market: Market, executor: Address, fork: Fork) -> str:
    kind = "flash swap" if plan.loan is None else f"loan from {plan.loan.source}"
    shape = f"{kind}, {'buy' if plan.buy else ''}{'+sell' if plan.sell else ''}"
    what = f"{shape} of {plan.borrower}: {plan.debt.symbol} for {plan.collateral.symbol}, repay {plan.repay}"
    assert receipt["status"] == "0x1", f"reverted: {what}: {_reason(receipt, fork)}"
    logs = [
        Log(
            address(raw["address"]),
            tuple(raw["topics"]),
            bytes.fromhex(raw["data"][2:]),
            int(raw["blockNumber"], 16),
            int(raw["logIndex"], 16),
            Hash(raw["transactionHash"]),
        )
        for raw in receipt["logs"]  # type: ignore[attr-defined]  # a raw JSON receipt
    ]
    calls = [POOL.parse("LiquidationCall", log) for log in logs if log.topics[0] == POOL.topic("LiquidationCall")]
    assert len(calls) == 1, what
    assert calls[0]["debtToCover"] == plan.seizure.repaid, what
    assert calls[0]["liquidatedCollateralAmount"] == plan.seizure.seized, what
    outcome = executed(logs, executor)
    assert outcome is not None, what
    assert outcome.gain == plan.gain, what
    assert outcome.recipient == (BENEFICIARY if plan.gain else None), what
    for token in (plan.debt.address, plan.collateral.address, plan.profit_token):
        assert fork.rpc.view(token, "balanceOf(address)", executor) == 0, f"{what}: {token} is left behind"
        for spender in (market.pool, *(pool.address for pool in fork.world.uniswap.pools)):
            assert fork.rpc.view(token, "allowance(address,address)", executor, spender) == 0, what
    return shape


def _reason(receipt: dict[str, object], fork: Fork) -> str:
    from keeper.execution.reverts import decode_revert

    sent = fork.rpc.request("eth_getTransactionByHash", receipt["transactionHash"])
    call = {key: sent[key] for key in ("from", "to", "input", "gas")}
    try:
        fork.rpc.request("eth_call", call, hex(int(sent["blockNumber"], 16) - 1), {}, {})
    except RpcError as error:
        return decode_revert(bytes.fromhex(error.data[2:])) if isinstance(error.data, str) else error.message
    return "it would have succeeded before"


def _deploy(fork: Fork) -> Address:
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, BENEFICIARY), gas=6_000_000)
    return address(receipts[0]["contractAddress"])
