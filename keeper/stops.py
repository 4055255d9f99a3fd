"""What may stop sending, before anything runs: the configured limits, and what a journal remembers."""

from __future__ import annotations

from keeper.config import Config
from keeper.journal import breakers as memory
from keeper.journal import journal_path
from keeper.journal.queries import Reader
from keeper.ops.control import MODES
from keeper.strategy.breakers import BREAKERS, Limits
from keeper.strategy.cooldown import Cooldowns
from keeper.strategy.failures import Failure


def limits(config: Config) -> Limits:
    """The configured limits."""
    table = config.breakers
    return Limits(
        loss_per_day=table.loss_per_day,
        gas_per_day=table.gas_per_day,
        reverts={
            Failure.LOST_RACE: table.reverts_lost_race,
            Failure.NOT_LIQUIDATABLE: table.reverts_not_liquidatable,
            Failure.NO_LIQUIDITY: table.reverts_no_liquidity,
            Failure.BUG: table.reverts_bug,
        },
        prediction_error_bps=table.prediction_error_bps,
        prediction_attempts=table.prediction_attempts,
        balance_attempts=table.balance_attempts,
        attempt_gas=table.attempt_gas,
        max_head_age=round(table.max_head_age),
        max_height_gap=table.max_height_gap,
        rpc_error_bps=table.rpc_error_bps,
        audit_failures=table.audit_failures,
        exposure_per_transaction=table.exposure_per_transaction,
        exposure_in_flight=table.exposure_in_flight,
        exposure_per_day=table.exposure_per_day,
    )


def recall(config: Config, cooldowns: Cooldowns) -> tuple[bool, str | None]:
    """Whether the keeper of this configuration is paused and why its breakers are open; its quarantines are taken over.

    For commands that show what the keeper would do. The live keeper's journal counts where there is one. Raises
    ConfigError when the journal cannot be read.
    """
    for mode in MODES:
        path = journal_path(config.data_dir, config.chain.id, mode)
        if not path.exists():
            continue
        reader = Reader(path, config.chain.id, mode)
        try:
            found = reader.ask(memory.load)
        finally:
            reader.close()
        for one in found.quarantines:
            cooldowns.quarantine(one.market, one.borrower, one.detail)
        reasons = [f"{row.name}: {row.detail}" for row in found.open if row.name in BREAKERS]
        return found.pause is not None, "; ".join(reasons) or None
    return False, None
