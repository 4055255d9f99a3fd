"""The built world is what it says it is."""

from __future__ import annotations

import pytest

from tests.support.fork import Fork

pytestmark = pytest.mark.parity


def test_markets_run_the_promised_revisions(fork: Fork) -> None:
    """Both pools answer with their revision, found from the addresses provider alone."""
    for market in fork.world.markets.values():
        pool = fork.rpc.view(market.addresses_provider, "getPool()", returns="address")
        assert pool == market.pool
        assert fork.rpc.view(pool, "POOL_REVISION()") == market.revision
