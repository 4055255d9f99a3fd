"""What the loop tells metrics and logs."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from keeper.model import AttemptState, Hash, Outcome, Verdict
from keeper.observer import Telemetry
from keeper.ops.metrics import Metrics
from keeper.ops.vitals import Vitals
from tests.support.execution_chain import GWEI

pytestmark = pytest.mark.unit


class NoSubmitter:
    pending = 0


class NoAlerts:
    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        raise AssertionError(name)


def test_an_end_is_counted_once_though_it_is_told_twice() -> None:
    """Mined, and later closed under enough blocks: one transaction, one profit; undone in between: told again."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="1", mode="live", markets={"main": "aave_v3"})
    vitals = Vitals("1", "live", 1, 10.0, 10.0)
    telemetry = Telemetry(metrics, vitals, NoAlerts(), {}, NoSubmitter(), lambda: None)  # type: ignore[arg-type]  # asked for nothing else here
    outcome = Outcome("a", AttemptState.MINED, Hash("0x01"), 7, 100_000, GWEI, 10**18, data_fee=10**16)
    mined = Verdict("a", AttemptState.MINED, "in block 7", 7, outcome)

    def counted(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    telemetry.settled(mined)
    telemetry.settled(Verdict("a", AttemptState.MINED, "in block 7", 7, outcome, closed=True))
    assert counted("keeper_transactions_total", result="mined") == 1
    assert counted("keeper_profit_eth_total") == pytest.approx(outcome.net / 10**18)
    assert counted("keeper_gas_spent_eth_total") == pytest.approx(0.0101), "what data cost is in it"
    telemetry.settled(Verdict("b", AttemptState.SENT, "its block was undone"))
    telemetry.settled(
        Verdict(
            "b", AttemptState.REVERTED, "lost", 8, Outcome("b", AttemptState.REVERTED, Hash("0x02"), 8, 50_000, GWEI, 0)
        )
    )
    assert counted("keeper_transactions_total", result="reverted") == 1
