"""Which questions the doctor asks, in which order, and which need another's yes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from keeper.config import Config
from keeper.model import Address
from keeper.ops import checks
from keeper.ops.doctor import Check, Finding
from keeper.ports import Client

ANYONE = Address("0x" + "00" * 19 + "01")


@dataclass(frozen=True, slots=True)
class Hooks:
    """What only the composition root can do. Each may raise a KeeperError, which becomes a failed check."""

    load_signer: Callable[[], Awaitable[Address | None]]  # its address, None when no key is configured
    verify_executor: Callable[[Address], Awaitable[str | None]]  # what is wrong with it, or None
    open_journal: Callable[[], Awaitable[str]]  # a sentence about it
    markets: Mapping[str, Callable[[], Awaitable[str | None]]]  # why a market is read-only, or None
    simulate: Callable[[], Awaitable[Finding]] | None = None  # an execution of nothing, by the configured executor
    more: tuple[Check, ...] = ()


def checkup(
    config: Config, endpoints: Mapping[str, Client], client: Client, hooks: Hooks, *, live: bool
) -> list[Check]:
    """All checks of one configuration.

    `endpoints` are clients of one endpoint each, by label; `client` is the one over all of them. One endpoint that is
    down or behind is a warning, because `client` fails over; one on another chain is a failure.
    """
    signer: list[Address | None] = [None]

    async def load_signer() -> Address | None:
        signer[0] = await hooks.load_signer()
        return signer[0]

    async def valid() -> Finding:
        return Finding.ok(f"{len(config.markets)} markets and {len(config.venues)} venues on chain {config.chain.id}")

    async def signer_balance() -> Finding:
        return await checks.signer_balance(client, signer[0], config.strategy.max_gas_price)

    found = [
        Check("config", valid),
        Check("secret files", partial(checks.secret_files, config)),
        Check("data directory", partial(checks.data_dir, config.data_dir)),
        Check("journal", partial(checks.journal_opens, hooks.open_journal), ("data directory",)),
    ]
    for label, one in endpoints.items():
        reach = f"endpoint {label}"
        found += [
            Check(reach, partial(checks.endpoint_answers, one), fix=checks.NODE, soft=True),
            Check(f"chain id {label}", partial(checks.chain_id, one, config.chain.id), (reach,), checks.NODE),
            Check(
                f"head age {label}",
                partial(checks.head_age, one, config.chain.max_head_age),
                (reach,),
                checks.NODE,
                soft=True,
            ),
        ]
    contracts = {"tokens.wrapped_native": config.tokens.wrapped_native}
    contracts |= {f"tokens.connectors[{index}]": token for index, token in enumerate(config.tokens.connectors)}
    contracts |= {f"markets.{name}": market.address for name, market in config.markets.items()}
    contracts |= {f"venues.{name}": venue.address for name, venue in config.venues.items()}
    if config.chain.sequencer_feed is not None:
        contracts["chain.sequencer_feed"] = config.chain.sequencer_feed
    if config.executor.address is not None:
        contracts["executor.address"] = config.executor.address
    starts = [market.start_block for market in config.markets.values()]
    start = min(starts + [venue.start_block for venue in config.venues.values()])
    chain = Check("chain", partial(checks.chain_id, client, config.chain.id), fix=checks.NODE)
    found += [
        chain,
        Check("clock", partial(checks.clock_skew, client), ("chain",), checks.NODE),
        Check("reads", partial(checks.block_reads, client), ("chain",), checks.NODE),
        Check(
            "history", partial(checks.history, client, start), ("chain",), "use a node that keeps old blocks and logs"
        ),
        Check("simulation", partial(checks.simulation_method, client, ANYONE), ("chain",), checks.NODE),
        Check("contracts", partial(checks.has_code, client, contracts), ("chain",), checks.NODE),
    ]
    found += [
        Check(f"market {name}", partial(checks.market_known, load), ("chain", "contracts"), "see the message")
        for name, load in hooks.markets.items()
    ]
    found += [
        Check("signer", partial(checks.signer_loads, load_signer, live=live), fix="mend the [signer] table"),
        Check("signer balance", signer_balance, ("signer", "chain"), checks.NODE),
        Check(
            "executor",
            partial(checks.executor_ready, config.executor.address, hooks.verify_executor, live=live),
            ("signer", "chain", "contracts"),
            checks.NODE,
        ),
    ]
    if hooks.simulate is not None:
        found.append(Check("executor simulation", hooks.simulate, ("executor", "reads"), checks.NODE))
    return [*found, *hooks.more]
