"""Breakers as the daemon keeps them: over a real journal, through restarts, told to everybody who should know."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from keeper.errors import ConfigError
from keeper.execution.reasons import NOBODY
from keeper.execution.reverts import CLASSES
from keeper.journal import Journal, file, journal_path, queries
from keeper.model import Address, AttemptState, Hash, Order, Outcome, Plan, Signed, Skip, SkipReason, TxKind, Verdict
from keeper.ops.metrics import Metrics
from keeper.ops.vitals import Vitals
from keeper.safety import Safety
from keeper.stops import recall
from keeper.strategy import breakers
from keeper.strategy.breakers import BREAKERS, DAY, HISTORY, Limits, Result, judge
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.failures import UNEXPLAINED, Failure, classifier
from tests.support.execution_chain import ME, Chain, an_order
from tests.unit.test_strategy_gates import PLAN

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
S = AttemptState
HEAD = Chain().head
GWEI = 10**9
QUIET = 100
WHY = {
    Failure.LOST_RACE: "Gone()",
    Failure.NOT_LIQUIDATABLE: "step 1: HealthFactorNotBelowThreshold()",
    Failure.NO_LIQUIDITY: "GainTooLow(1, 2)",
    Failure.BUG: "panic 0x11 (arithmetic overflow)",
}


@dataclass
class Told:
    """An alerter that remembers."""

    alerts: list[tuple[str, str, bool]] = field(default_factory=list)

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        self.alerts.append((name, message, severe))


class Desk:
    """One keeper's safety over one journal file; `restart` is a kill -9 and a new process."""

    def __init__(self, path: Path, limits: Limits, mode: str = "live") -> None:
        self.path, self.limits, self.mode = path, limits, mode
        self.now = 1_700_000_000
        self.told = Told()
        self.nonce = 0
        self.journal: Journal
        self.safety: Safety
        self.cooldowns: Cooldowns
        self.metrics: Metrics
        self.vitals: Vitals

    async def start(self) -> Desk:
        self.journal = await Journal.open(self.path, 1, self.mode, lambda: self.now)
        self.metrics = Metrics(
            CollectorRegistry(), version="1", mode=self.mode, markets={"market": "p"}, breakers=BREAKERS
        )
        self.vitals = Vitals("1", self.mode, 1, 60, 60, clock=lambda: float(self.now))
        self.cooldowns = Cooldowns(60, classifier(CLASSES))
        self.safety = Safety(
            self.journal,
            self.cooldowns,
            self.limits,
            quiet=QUIET,
            metrics=self.metrics,
            vitals=self.vitals,
            alerter=self.told,
            clock=lambda: self.now,
        )
        await self.safety.open()
        return self

    async def restart(self) -> None:
        await self.journal.close()
        await self.start()

    def order(self) -> Order:
        self.nonce += 1
        return an_order(HEAD, self.nonce.to_bytes(20, "big"), f"0x{self.nonce:064x}")

    async def sent(self, order: Order) -> None:
        nonce = int(order.id, 16)
        await self.journal.intend(order, ME, nonce)
        tx = Signed(TxKind.EXECUTE, nonce, Hash(order.id), order.data, 500_000, 50 * GWEI, GWEI)
        await self.journal.signed(order.id, tx)
        await self.journal.sent(order.id, HEAD.number)

    async def end(
        self,
        order: Order,
        failure: Failure | None = None,
        *,
        gain: int | None = None,
        gas: int = 0,
        data: int = 0,
        closed: bool = False,
    ) -> Verdict:
        """Mined with `gain`, or reverted for a reason of class `failure`, having paid `gas` and `data` wei."""
        state = S.MINED if failure is None else S.REVERTED
        earned = 0 if failure else order.predicted_gain if gain is None else gain
        revert = WHY[failure] if failure else None
        outcome = Outcome(
            order.id,
            state,
            Hash(order.id),
            105,
            gas,
            1,
            earned,
            revert=revert,
            block_hash=Hash("0x" + "bb" * 32),
            data_fee=data,
        )
        verdict = Verdict(order.id, state, revert or "in block 105", 105, outcome, closed=closed)
        await self.journal.record([verdict])
        await self.safety.settled([verdict])
        return verdict

    async def attempt(self, failure: Failure | None = None, *, gain: int | None = None, gas: int = 0) -> Order:
        order = self.order()
        await self.sent(order)
        await self.end(order, failure, gain=gain, gas=gas)
        return order

    async def allowed(self, order: Order | None = None, plan: Plan = PLAN, value: int = 1) -> Skip | None:
        async with self.safety.sending(order or self.order(), {plan.debt: value}) as barred:
            return barred

    @property
    def open(self) -> set[str]:
        """As every audience is told; they must agree."""
        shown = {name for name in BREAKERS if self.metrics.breaker_open.labels(name)._value.get()}
        assert shown == set(self.vitals.breakers)
        assert (self.safety.breaker is None) == (not shown)
        assert all(name in str(self.safety.breaker) for name in shown)
        ready = self.vitals.ready().reasons
        assert all(any(name in reason for reason in ready) for name in shown)
        return shown


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    limits = Limits(
        loss_per_day=1_000,
        gas_per_day=5_000,
        reverts={Failure.LOST_RACE: 4, Failure.NOT_LIQUIDATABLE: 3, Failure.NO_LIQUIDITY: 2, Failure.BUG: 2},
        prediction_attempts=2,
        audit_failures=2,
        exposure_per_transaction=100,
        exposure_in_flight=150,
        exposure_per_day=400,
    )
    found = await Desk(tmp_path / "journal.sqlite3", limits).start()
    yield found
    await found.journal.close()


async def test_an_open_breaker_survives_a_restart_and_only_a_person_closes_it(desk: Desk) -> None:
    """Tripped, alerted once and severely, shown, stopping every order; after resume the same history does not count."""
    await desk.attempt(gas=5_000, gain=10**18)
    assert desk.open == set()
    await desk.attempt(gas=1)
    assert desk.open == {"gas_per_day"}
    (name, message, severe), *more = desk.told.alerts
    assert (name, severe, more) == ("breaker_open", True, [])
    assert "gas_per_day" in message
    assert "keeper resume gas_per_day" in message
    barred = await desk.allowed()
    assert barred is not None
    assert barred.reason is SkipReason.BREAKER_OPEN
    await desk.restart()
    assert desk.open == {"gas_per_day"}
    assert len(desk.told.alerts) == 1
    desk.now += 10 * DAY
    await desk.restart()
    assert desk.open == {"gas_per_day"}, "time alone does not close it"
    desk.now -= 10 * DAY
    assert await desk.safety.resume(["gas_per_day"]) == ["gas_per_day"]
    assert desk.open == set()
    assert await desk.allowed() is None
    await desk.restart()
    assert desk.open == set()
    await desk.attempt(gas=5_000)
    assert desk.open == set(), "what a person has seen is not counted again"
    await desk.attempt(gas=1)
    assert desk.open == {"gas_per_day"}


async def test_what_data_cost_is_gas_spent(desk: Desk) -> None:
    """A roll-up's charge beside the gas counts towards the day's limit, in the report and in the metric."""
    order = desk.order()
    await desk.sent(order)
    verdict = await desk.end(order, gas=2_000, data=3_000)
    assert desk.open == set()
    order = desk.order()
    await desk.sent(order)
    await desk.end(order, data=1)
    assert desk.open == {"gas_per_day"}
    total = await desk.journal.ask(queries.summary)
    assert (total.gas_cost, total.net) == (5_001, total.gain - 5_001)
    order = desk.order()
    await desk.sent(order)
    await desk.end(order, Failure.LOST_RACE, gas=10, data=7)
    reverts = (await desk.journal.ask(queries.summary)).competition.reverts
    assert (reverts.count, reverts.cost) == (1, 17)
    assert verdict.outcome is not None
    desk.metrics.settled(verdict.outcome.net, verdict.outcome.cost)
    assert desk.metrics.gas_spent._value.get() == pytest.approx(5_000 / 10**18)


async def test_a_confirmation_is_not_counted_twice(desk: Desk) -> None:
    """The verdict that closes an attempt long after a reset does not bring the old failure back."""
    orders = [desk.order() for _ in range(2)]
    for order in orders:
        await desk.sent(order)
        await desk.end(order, Failure.NO_LIQUIDITY)
    assert desk.open == {"reverts_no_liquidity"}
    await desk.safety.resume()
    desk.now += 144
    for order in orders:
        await desk.end(order, Failure.NO_LIQUIDITY, closed=True)
    assert desk.open == set()


async def test_a_reorganised_failure_is_not_counted(desk: Desk) -> None:
    """A revert that was undone, and then mined well, is a success."""
    await desk.attempt(Failure.NO_LIQUIDITY)
    order = desk.order()
    await desk.sent(order)
    await desk.attempt(Failure.LOST_RACE)
    desk.safety.limits = replace(desk.limits, reverts={**desk.limits.reverts, Failure.NO_LIQUIDITY: 3})
    await desk.end(order, Failure.NO_LIQUIDITY)
    undone = Verdict(order.id, S.SENT, "block 105 was reorganised away")
    await desk.journal.record([undone])
    await desk.safety.settled([undone])
    await desk.attempt(Failure.NO_LIQUIDITY)
    assert desk.open == set()
    await desk.end(order)
    await desk.attempt(Failure.NO_LIQUIDITY)
    assert desk.open == set()


async def test_what_ended_while_the_keeper_was_down_is_judged_at_the_start(desk: Desk) -> None:
    """A restart that settles attempts itself trips and quarantines as the loop would."""
    for _ in range(2):
        order = desk.order()
        await desk.sent(order)
        revert = WHY[Failure.BUG]
        outcome = Outcome(order.id, S.REVERTED, Hash(order.id), 105, 1, 1, 0, revert, Hash("0x" + "bb" * 32))
        await desk.journal.record([Verdict(order.id, S.REVERTED, revert, 105, outcome)])
    assert desk.open == set()
    await desk.restart()
    assert desk.open == {"reverts_bug"}
    assert len(desk.vitals.quarantined) == 2


async def test_a_bug_quarantines_its_position_until_it_is_released(desk: Desk) -> None:
    """Through a restart and a worse health; released by borrower or all at once, and not caught again by old news."""
    first, second = await desk.attempt(Failure.BUG), await desk.attempt(Failure.BUG)
    await desk.restart()

    def held(order: Order) -> bool:
        return desk.cooldowns.hold(order.market, order.borrower, 1) is not None

    assert held(first)
    assert held(second)
    assert len([alert for alert in desk.told.alerts if alert[0] == "quarantine" and alert[2]]) == 2
    lifted = await desk.safety.resume([first.borrower])
    assert len(lifted) == 1
    await desk.attempt()
    assert not held(first)
    assert held(second)
    await desk.restart()
    assert not held(first)
    assert held(second)
    assert desk.open == {"reverts_bug"}
    await desk.safety.resume(["quarantine"])
    await desk.restart()
    assert not held(second)
    assert desk.vitals.quarantined == {}
    assert desk.open == {"reverts_bug"}


async def test_what_is_not_explained_yet_is_held_and_no_bug(desk: Desk) -> None:
    """Left alone whatever its health does, also after a restart, until the reason is known; then as that asks for."""

    async def reverted(order: Order, revert: str) -> None:
        outcome = Outcome(order.id, S.REVERTED, Hash(order.id), 105, 1, 1, 0, revert, Hash("0x" + "bb" * 32))
        verdict = Verdict(order.id, S.REVERTED, revert, 105, outcome)
        await desk.journal.record([verdict])
        desk.cooldowns.ended(verdict, desk.now)
        await desk.safety.settled([verdict])

    for final, quarantined in (("Gone()", False), (f"{NOBODY}, asked for 8 blocks", True)):
        order = desk.order()
        desk.cooldowns.sent(order.id, order.market, order.borrower, 10**18)
        await desk.sent(order)
        await reverted(order, f"{UNEXPLAINED}: asked again")
        for health in (10**18, 10**17):
            hold = desk.cooldowns.hold(order.market, order.borrower, health)
            assert hold is not None
            assert "being found out" in hold.why
        assert desk.open == set()
        assert desk.vitals.quarantined == {}
        await desk.restart()
        assert desk.cooldowns.hold(order.market, order.borrower, 10**17) is not None
        await reverted(order, final)
        hold = desk.cooldowns.hold(order.market, order.borrower, 10**17)
        assert (hold is not None) == quarantined == bool(desk.vitals.quarantined)
        assert hold is None or "quarantined" in hold.why


async def test_other_failures_quarantine_nothing(desk: Desk) -> None:
    """Only what nobody can explain waits for a person."""
    for failure in (Failure.LOST_RACE, Failure.NOT_LIQUIDATABLE, Failure.NO_LIQUIDITY):
        await desk.attempt(failure)
    assert desk.vitals.quarantined == {}


async def test_a_pause_survives_a_restart_and_bars_every_order(desk: Desk) -> None:
    """Paused is told everywhere; breakers and pause are lifted apart or together."""
    await desk.safety.pause("node upgrade")
    await desk.restart()
    assert desk.safety.paused
    assert desk.vitals.status()["pause_reason"] == "node upgrade"
    assert desk.metrics.paused._value.get() == 1
    assert not desk.vitals.ready().ok
    barred = await desk.allowed()
    assert barred is not None
    assert barred.reason is SkipReason.PAUSED
    await desk.attempt(gas=5_001)
    assert await desk.safety.resume(["gas_per_day"]) == ["gas_per_day"]
    assert desk.safety.paused
    assert await desk.safety.resume(["pause"]) == ["pause"]
    assert await desk.allowed() is None
    await desk.restart()
    assert not desk.vitals.paused
    await desk.safety.pause("")
    await desk.attempt(gas=5_001)
    assert await desk.safety.resume() == ["gas_per_day", "pause"]
    assert await desk.safety.resume() == []


async def test_a_confirmed_pause_means_nothing_is_on_its_way_out(desk: Desk) -> None:
    """The pause waits for the order that is being sent; orders behind it are barred."""
    async with desk.safety.sending(desk.order(), {PLAN.debt: 1}) as barred:
        assert barred is None
        pausing = asyncio.ensure_future(desk.safety.pause("now"))
        await asyncio.sleep(0.05)
        assert desk.safety.paused
        assert not pausing.done()
    await pausing
    assert await desk.allowed() is not None


async def test_unknown_names_lift_nothing(desk: Desk) -> None:
    """A misspelt name is refused as a whole."""
    await desk.safety.pause("")
    for wrong in ("los_per_day", "0x12", "0x" + "zz" * 20, ""):
        with pytest.raises(ConfigError, match="nothing that stops sending is called"):
            await desk.safety.resume(["pause", wrong])
    assert desk.safety.paused


async def test_exposure_is_counted_in_the_journal(desk: Desk) -> None:
    """In flight until it ends, by day unless it came to nothing, each asset by itself, also after a restart."""
    other = replace(PLAN, debt=replace(PLAN.debt, address=Address("0x" + "77" * 20)))
    first, second = desk.order(), desk.order()
    assert await desk.allowed(first, value=100) is None
    await desk.sent(first)
    assert await desk.allowed(second, other, value=100) is None
    await desk.sent(second)
    await desk.restart()
    assert await desk.allowed(value=50) is None
    barred = await desk.allowed(value=51)
    assert barred is not None
    assert barred.numbers == {"value": 151, "limit": 150}
    assert desk.open == {"exposure_in_flight"}
    await desk.end(first)
    await desk.safety.look_in_flight()
    desk.now += QUIET - 1
    await desk.safety.look_in_flight()
    assert desk.open == {"exposure_in_flight"}
    desk.now += 1
    await desk.safety.look_in_flight()
    assert desk.open == set()
    for failure in (None, None, Failure.LOST_RACE):
        order = desk.order()
        assert await desk.allowed(order, value=100) is None
        await desk.sent(order)
        await desk.end(order, failure)
    assert await desk.allowed(value=100) is None
    order = desk.order()
    assert await desk.allowed(order, value=50) is None
    await desk.sent(order)
    await desk.end(order)
    assert await desk.allowed(value=51) is not None
    assert desk.open == {"exposure_per_day"}
    await desk.safety.resume(["exposure_per_day"])
    assert await desk.allowed(value=100) is None
    assert await desk.allowed(value=101) is not None
    assert desk.open == {"exposure_per_transaction"}


async def test_a_dry_run_counts_what_it_would_have_sent(tmp_path: Path) -> None:
    """Its attempts are all dropped, and are exposure of the day all the same."""
    desk = await Desk(tmp_path / "dry.sqlite3", Limits(exposure_per_day=100), "dry").start()
    order = desk.order()
    assert await desk.allowed(order, value=100) is None
    await desk.journal.intend(order, ME, 0)
    await desk.journal.record([Verdict(order.id, S.DROPPED, "dry run", closed=True)])
    assert await desk.allowed(value=1) is not None
    assert desk.open == {"exposure_per_day"}
    desk.now += DAY
    await desk.safety.resume()
    assert await desk.allowed(value=100) is None
    await desk.journal.close()


async def test_audits_are_counted_across_restarts_and_a_day(desk: Desk) -> None:
    """Two within a day trip, an old one or one that was seen does not count."""
    difference = Skip(SkipReason.MARKET_UNKNOWN, "off by one wei")
    await desk.safety.audited("aave", None)
    await desk.safety.audited("aave", difference)
    desk.now += DAY
    await desk.safety.audited("aave", difference)
    assert desk.open == set()
    await desk.restart()
    desk.now += DAY - 1
    await desk.safety.audited("aave", difference)
    assert desk.open == {"self_audit"}
    await desk.safety.resume(["self_audit"])
    await desk.safety.audited("aave", difference)
    assert desk.open == set()
    await desk.safety.audited("aave", difference)
    assert desk.open == {"self_audit"}


async def test_a_healing_breaker_heals_through_a_restart(desk: Desk) -> None:
    """Open after the restart, closed after the quiet time, alerted both ways, and open again with its cause."""
    trip = breakers.head_age(0, 7, desk.now, desk.limits)
    await desk.safety.observe(breakers.HEAD_AGE, trip)
    await desk.restart()
    assert desk.open == {"head_age"}
    await desk.safety.observe(breakers.HEAD_AGE, None)
    desk.now += QUIET
    await desk.safety.observe(breakers.HEAD_AGE, None)
    assert desk.open == set()
    assert [alert[0] for alert in desk.told.alerts] == ["breaker_open", "breaker_closed"]
    await desk.restart()
    assert desk.open == set()
    await desk.safety.observe(breakers.HEAD_AGE, trip)
    assert desk.open == {"head_age"}


@pytest.mark.parametrize("lives", [12, pytest.param(300, marks=pytest.mark.long)])
async def test_random_lives_trip_exactly_when_recomputed(tmp_path: Path, lives: int) -> None:
    """Random lives of attempts, resets and kills over a real journal open what a recount of them opens."""
    print("seed", SEED)
    rng = random.Random(SEED)
    limits = Limits(
        loss_per_day=1_000,
        gas_per_day=4_000,
        reverts=dict.fromkeys(Failure, 3),
        prediction_attempts=2,
    )
    seen: set[str] = set()
    for life in range(lives):
        desk = await Desk(tmp_path / f"{life}.sqlite3", limits).start()
        results: list[Result] = []
        marks: dict[str, int] = {}
        expected: set[str] = set()
        usual = list(Failure)[life % len(Failure)]
        for seq in range(1, rng.randint(8, 20)):
            desk.now += rng.choice([1, 12, 5_000, 40_000])
            failure = rng.choice([None, None, *Failure, *[usual] * 10])
            gas = rng.choice([0, 1, 300, 1_000])
            gain = None if rng.random() < 0.4 else rng.choice([10**17 * 105 // 100, 10**17 * 106 // 100, 0])
            order = await desk.attempt(failure, gain=gain, gas=gas)
            earned = 0 if failure else order.predicted_gain if gain is None else gain
            results.append(
                Result(seq, desk.now, earned - gas, gas, order.predicted_gain, earned, failure is None, failure)
            )
            expected |= {trip.name for trip in judge(results, marks, limits, desk.now)}
            assert desk.open == expected
            if rng.random() < 0.3:
                await desk.restart()
                assert desk.open == expected
            if rng.random() < 0.2:
                names = rng.sample(HISTORY, rng.randint(1, 3))
                assert set(await desk.safety.resume(names)) == expected & set(names)
                marks |= dict.fromkeys(names, seq)
                expected -= set(names)
            seen |= expected
        await desk.journal.close()
    assert len(seen) > len(HISTORY) // 2, "most breakers have to open for the comparison to mean something"
    assert lives < 100 or seen == set(HISTORY)


async def test_other_commands_recall_what_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live journal counts where there is one, an older keeper's journal stops nothing, nor does none at all."""
    config: Any = SimpleNamespace(data_dir=tmp_path, chain=SimpleNamespace(id=1))
    assert recall(config, Cooldowns(60)) == (False, None)
    older = file.migrations()[:2]
    with monkeypatch.context() as patch:
        patch.setattr(file, "migrations", lambda: older)
        await (await Journal.open(journal_path(tmp_path, 1, "dry"), 1, "dry")).close()
        assert recall(config, Cooldowns(60)) == (False, None)
    dry = await Desk(journal_path(tmp_path, 1, "dry"), Limits(), "dry").start()
    await dry.safety.pause("")
    assert recall(config, Cooldowns(60)) == (True, None)
    live = await Desk(journal_path(tmp_path, 1, "live"), Limits(gas_per_day=1, loss_per_day=10**18)).start()
    order = await live.attempt(Failure.BUG, gas=2)
    cooldowns = Cooldowns(60)
    paused, breaker = recall(config, cooldowns)
    assert not paused
    assert breaker is not None
    assert breaker.startswith("gas_per_day: ")
    assert cooldowns.hold(order.market, order.borrower, 1) is not None
    await dry.journal.close()
    await live.journal.close()


def test_the_fake_reasons_are_of_the_class_they_stand_for() -> None:
    """The table above is read as the classifier reads it."""
    classify: Any = classifier(CLASSES)
    assert {failure: classify(text) for failure, text in WHY.items()} == {failure: failure for failure in Failure}


async def test_an_order_of_two_assets_is_within_the_limits_of_both_or_of_none(desk: Desk) -> None:
    """Each is counted by itself; what is barred has exposed nothing, and a failed batch bars each of its positions."""
    other = replace(PLAN.debt, address=Address("0x" + "77" * 20))
    order = replace(desk.order(), others=(("market", Address("0x" + "b7" * 20)),))
    async with desk.safety.sending(order, {PLAN.debt: 100, other: 101}) as barred:
        assert barred is not None
    assert desk.open == {"exposure_per_transaction"}
    await desk.safety.resume()
    async with desk.safety.sending(order, {PLAN.debt: 100, other: 60}) as barred:
        assert barred is None
    await desk.sent(order)
    assert await desk.allowed(value=50) is None
    assert await desk.allowed(plan=replace(PLAN, debt=other), value=90) is None
    barred = await desk.allowed(plan=replace(PLAN, debt=other), value=91)
    assert barred is not None
    assert barred.numbers["value"] == 151
    await desk.safety.resume()
    await desk.end(order, Failure.BUG)
    assert len(desk.vitals.quarantined) == 2
