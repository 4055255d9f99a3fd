"""The whole loop with an attempt that is not mined: priced out, sped up, or taken back, on a real node."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper.journal.attempts import load
from keeper.model import Attempt, AttemptState, TxKind
from tests.parity.test_rivals import Scene, scene
from tests.support.fork import Fork

pytestmark = pytest.mark.parity

GWEI = 10**9
DEAR = 20 * GWEI  # more than the loop offers at the private chain's base fee


async def attempts(on: Scene) -> list[Attempt]:
    return await on.journal.ask(lambda db: load(db, "1 ORDER BY created_at", ()))


async def priced_out(on: Scene, blocks: int) -> None:
    """So many blocks whose base fee nothing of ours reaches, each followed by a pass."""
    usual, on.fork.actors.base_fee = on.fork.actors.base_fee, DEAR
    for _ in range(blocks):
        on.fork.actors.mine()
        await on.step()
    on.fork.actors.base_fee = usual


async def test_what_is_priced_out_is_sped_up_and_mined(fork: Fork, tmp_path: Path) -> None:
    """After `inclusion_slack` blocks the same nonce and id, proved anew, dearer within the share; then it is mined."""
    async with scene(fork, tmp_path, live=True) as on:
        borrower = on.borrower("priced out", "WETH", 400_000)
        await on.step()
        on.fall("WETH", 920)
        await on.step()
        (first,) = await attempts(on)
        slack = on.parts.config.strategy.inclusion_slack
        await priced_out(on, slack - 1)
        assert len((await attempts(on))[0].txs) == 1
        await priced_out(on, 1)
        (attempt,) = await attempts(on)
        assert (attempt.id, attempt.nonce) == (first.id, first.nonce)
        older, newer = attempt.txs
        assert newer.kind is TxKind.EXECUTE
        assert newer.max_fee * 100 >= older.max_fee * 113
        assert newer.tip * 100 >= older.tip * 113
        share = on.parts.config.strategy.max_fee_share_bps
        assert newer.gas_limit * newer.max_fee * 10_000 <= attempt.predicted_gain * share
        assert newer.max_fee > DEAR * 7 // 8
        fork.actors.mine()
        await on.step()
        (attempt,) = await attempts(on)
        assert (attempt.state, attempt.borrower) == (AttemptState.MINED, borrower)
        receipt = fork.rpc.request("eth_getTransactionReceipt", newer.hash)
        assert receipt["status"] == "0x1"
        assert fork.rpc.request("eth_getTransactionReceipt", older.hash) is None


async def test_what_has_recovered_is_taken_back(fork: Fork, tmp_path: Path) -> None:
    """The price comes back before it is mined: a self-transfer takes the nonce, and nothing is liquidated."""
    async with scene(fork, tmp_path, live=True) as on:
        on.borrower("recovers", "WETH", 400_000)
        await on.step()
        price = fork.actors.price("WETH")
        on.fall("WETH", 920)
        await on.step()
        usual, fork.actors.base_fee = fork.actors.base_fee, DEAR
        fork.actors.set_price("WETH", price)
        fork.actors.base_fee = usual
        await on.step()
        await priced_out(on, on.parts.config.strategy.inclusion_slack)
        (attempt,) = await attempts(on)
        assert [tx.kind for tx in attempt.txs] == [TxKind.EXECUTE, TxKind.CANCEL]
        fork.actors.mine()
        await on.step()
        (attempt,) = await attempts(on)
        assert attempt.state is AttemptState.CANCELLED
        assert (await on.told()).attempts["cancelled"] == 1
