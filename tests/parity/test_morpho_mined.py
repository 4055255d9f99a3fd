"""What is planned for Morpho's borrowers is what the chain does: whole plans through the executor, to the wei."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from keeper.abi import interface
from keeper.assembly import Assembly, assemble
from keeper.config import load
from keeper.devchain.actors import account
from keeper.devchain.catalogue import SPECS
from keeper.devchain.morpho_users import MorphoUsers
from keeper.devchain.serve import OPERATOR, OPERATOR_KEY, config_text
from keeper.execution.compose import compose
from keeper.execution.executor import Settlement, creation_code, encode_execute, executed
from keeper.model import OWN_CALLBACK, WAD, Address, FeeQuote, Hash, Log, Plan, address
from keeper.protocols.morpho_blue import MorphoBlueBook
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20273"))
MORPHO = interface("morpho_blue")
BENEFICIARY = account("morpho beneficiary")
VOLATILE = ("WETH", "WBTC", "wstETH", "LINK", "CRV")
FEES = FeeQuote(2 * 10**9, 10**8)


async def test_every_plan_moves_exactly_what_it_says(fork: Fork, tmp_path: Path) -> None:
    """Random positions of every market: repaid, seized and gain as predicted, with the prediction as the floor."""
    await _liquidate_many(fork, tmp_path, wanted=16, seed=SEED)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_every_plan_moves_exactly_what_it_says_at_length(fork: Fork, tmp_path: Path) -> None:
    """The same for three hundred and more."""
    shapes = await _liquidate_many(fork, tmp_path, wanted=320, seed=SEED + 1)
    assert {"collateral for profit", "one leg"} <= {shape.split(":")[0] for shape in shapes}
    assert any(shape.endswith("bad debt") for shape in shapes)


async def _liquidate_many(fork: Fork, folder: Path, *, wanted: int, seed: int) -> Counter[str]:
    print(f"KEEPER_SEED={seed}")
    hunt = Hunt(fork, random.Random(seed), deploy(fork))
    async with assemble(configured(fork, folder, hunt.executor), live=False) as parts:
        await parts.start()
        while (done := hunt.shapes.total()) < wanted:
            hunt.rounds += 1
            assert hunt.rounds < 60, f"only {done} of {wanted} after {hunt.rounds} rounds"
            hunt.market_day()
            await hunt.take_everybody(parts)
    biased = sum(hunt.errors) / len(hunt.errors)
    print(f"{hunt.shapes.total()} liquidations, {dict(hunt.shapes)}, gas estimate off by {biased:+.1f} % on average")
    assert "two legs: none left" in hunt.shapes
    assert abs(biased) < 15
    return hunt.shapes


def configured(fork: Fork, folder: Path, executor: Address) -> Any:
    """The private chain's own configuration, with an executor, and no other markets and venues than are needed."""
    path = folder / "keeper.toml"
    tables = config_text(fork.world, fork.ws, folder, 12, 0, executor).split("\n[")
    needed = ("markets.morpho]", "venues.uniswap_v3]", "venues.uniswap_v2]")
    kept = [t for t in tables if t.startswith(needed) or not t.startswith(("markets.", "venues."))]
    path.write_text("\n[".join(kept))
    (folder / "operator.key").write_text(OPERATOR_KEY)
    return load(path, {"KEEPER__CHAIN__MAX_HEAD_AGE": "1000000h"})


def deploy(fork: Fork) -> Address:
    """An executor."""
    with fork.actors.block() as receipts:
        fork.actors.submit(OPERATOR, None, creation_code(OPERATOR, OPERATOR, BENEFICIARY), gas=6_000_000)
    return address(receipts[0]["contractAddress"])


class Hunt:
    """Days on which prices fall, and the liquidation of everybody whom that hurts."""

    def __init__(self, fork: Fork, rng: random.Random, executor: Address) -> None:
        self.fork, self.rng, self.executor = fork, rng, executor
        self.users = MorphoUsers(fork.actors, fork.world.morpho)
        self.shapes: Counter[str] = Counter()
        self.errors: list[int] = []
        self.rounds = 0

    def market_day(self) -> None:
        """Prices go back to where they were, people borrow nearly all they may, prices fall; pools follow or do not."""
        rng, base = self.rng, {symbol: spec.price for symbol, spec in SPECS.items()}
        self._reprice(base)
        for market in self.fork.world.morpho.markets.values():
            for index in range(3):
                user = account(f"morpho day {self.rounds} {market.id} {index}")
                usd = int(10 ** rng.uniform(3.8, 5.6 if market.collateral != "CRV" else 4.2))
                pledged = self.fork.actors.worth(market.collateral, usd)
                share = rng.uniform(0.93, 0.999) * market.lltv / WAD
                debt = self.fork.actors.worth(market.loan, 10**6) * int(usd * share) // 10**6
                with self.fork.actors.block(strict=False):
                    self.users.pledge(user, market, pledged)
                    self.users.borrow(user, market, assets=debt)
        fallen = dict(base)
        for symbol in VOLATILE:
            fallen[symbol] = base[symbol] * rng.randrange(840, 990) // 1000
        # The staked token falls behind the one it is staked for, as in a run on it.
        fallen["wstETH"] = base["wstETH"] * fallen["WETH"] // base["WETH"] * rng.randrange(920, 980) // 1000
        self._reprice(fallen)

    def _reprice(self, prices: dict[str, int]) -> None:
        actors = self.fork.actors
        actors.align(prices)
        with actors.block():
            for symbol, price in prices.items():
                if actors.price(symbol) != price:
                    actors.set_price(symbol, price)

    async def take_everybody(self, parts: Assembly) -> None:
        """One liquidation per block until nothing pays."""
        book = next(book for book in parts.books if isinstance(book, MorphoBlueBook))
        for _ in range(60):
            head = await parts.client.head()
            synced = await parts.follower.advance(head)
            assert not synced.behind
            timestamp = head.timestamp + 12
            quoter = parts.quoter(FeeQuote(head.next_base_fee(), 10**8), frozenset())
            for name in self.rng.sample(found := book.screen(timestamp), len(found)):
                position = book.position(name, timestamp)
                if position is None:
                    continue
                choice = parts.appraiser.planner.plan(position, quoter, tuple(parts.sources.values()), FEES)
                if choice.plan is not None and choice.pair is not None:
                    break
            else:
                return
            plan = choice.plan
            liquidation = book.liquidation(choice.pair, plan.borrower, plan.repay)
            venues = {venue.name: venue for venue in parts.venues}
            program = compose(plan, liquidation, venues, parts.sources, self.executor)
            # The floor is the prediction itself: one wei less would revert.
            settlement = Settlement(
                self.shapes.total().to_bytes(32, "big"), plan.gain, parts.config.tokens.wrapped_native, timestamp
            )
            with self.fork.actors.block(12, strict=False) as receipts:
                self.fork.actors.submit(OPERATOR, self.executor, encode_execute(program, settlement), gas=6_000_000)
            assert self.fork.rpc.block("latest")["timestamp"] == hex(timestamp)
            self.shapes[self._check(receipts[0], plan)] += 1
            self.errors.append(100 * plan.gas // int(receipts[0]["gasUsed"], 16) - 100)
        raise AssertionError("sixty liquidations and still more to do")

    def _check(self, receipt: dict[str, Any], plan: Plan) -> str:
        what = f"{plan.borrower} in {plan.market}: {plan.debt.symbol} for {plan.collateral.symbol}, repay {plan.repay}"
        assert receipt["status"] == "0x1", f"reverted: {what}"
        assert plan.loan is not None
        assert plan.loan.source == OWN_CALLBACK, what
        logs = [_log(raw) for raw in receipt["logs"]]
        (event,) = [MORPHO.parse("Liquidate", log) for log in logs if log.topics[0] == MORPHO.topic("Liquidate")]
        assert (event["repaidAssets"], event["seizedAssets"]) == (plan.seizure.repaid, plan.seizure.seized), what
        outcome = executed(logs, self.executor)
        assert outcome is not None, what
        assert outcome.gain == plan.gain, what
        rpc, morpho = self.fork.rpc, self.fork.world.morpho.address
        for token in (plan.debt.address, plan.collateral.address, plan.profit_token):
            assert rpc.view(token, "balanceOf(address)", self.executor) == 0, f"{what}: {token} is left behind"
            assert rpc.view(token, "allowance(address,address)", self.executor, morpho) == 0, what
        shape = "one leg" if plan.buy is None else "two legs" if plan.sell else "collateral for profit"
        return f"{shape}: {'bad debt' if event['badDebtAssets'] else 'none left' if self._closed(plan) else 'partial'}"

    def _closed(self, plan: Plan) -> bool:
        market = next(m for m in self.fork.world.morpho.markets.values() if m.id.startswith(plan.market.split("/")[1]))
        return self.users.position(plan.borrower, market)[1] == 0


def _log(raw: dict[str, Any]) -> Log:
    return Log(
        address(raw["address"]),
        tuple(raw["topics"]),
        bytes.fromhex(raw["data"][2:]),
        int(raw["blockNumber"], 16),
        int(raw["logIndex"], 16),
        Hash(raw["transactionHash"]),
    )
