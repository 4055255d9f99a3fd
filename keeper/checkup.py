"""The doctor's questions, asked of the objects a configuration builds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from keeper import preflight
from keeper.assembly import DRY_EXECUTOR, DRY_OPERATOR, cache_path, open_signers
from keeper.chain.checkpoints import inspect
from keeper.chain.client import NodeClient
from keeper.config import Config
from keeper.execution.deploy import verify
from keeper.execution.executor import Settlement, encode_execute, state_override
from keeper.execution.simulate import Simulator, Trial, funded
from keeper.journal.file import check
from keeper.journal.journal import journal_path
from keeper.kinds import PROTOCOLS, Surroundings, check_words
from keeper.model import Address
from keeper.ops import channels
from keeper.ops.checkup import Hooks, checkup
from keeper.ops.doctor import Check, Finding, Report, Result, examine
from keeper.program import Program
from keeper.sending_checks import sending_checks


class _Quiet:
    """An alerter for questions: what it hears is in the answers."""

    def alert(self, name: str, message: str, *, severe: bool = False) -> None:
        """Nobody is to be woken by a check."""


async def diagnose(
    config: Config, *, live: bool, notify: bool = False, tell: Callable[[Result], None] = lambda result: None
) -> Report:
    """Ask everything; never raises for what a check found. With `notify` each alert channel gets a test message."""
    check_words(config)
    urls = [endpoint.reveal() for endpoint in config.chain.endpoints]
    timeout = config.chain.request_timeout
    client = NodeClient.connect(urls, chain_id=config.chain.id, timeout=timeout, attempts=2)
    singles = [NodeClient.connect([url], timeout=timeout, attempts=1) for url in urls]
    try:
        endpoints = {one.pool.endpoints[0].label: one for one in singles}
        return await examine(
            checkup(config, endpoints, client, _Questions(config, client, live=live, notify=notify).hooks, live=live),
            tell,
        )
    finally:
        for one in (client, *singles):
            await one.close()


class _Questions:
    """What the doctor cannot answer from the configuration and a node alone."""

    def __init__(self, config: Config, client: NodeClient, *, live: bool, notify: bool) -> None:
        self._config = config
        self._client = client
        self._mode = "live" if live else "dry"
        self._signer: Address | None = None  # the first one
        self._signers: list[Address] = []
        self.hooks = Hooks(
            load_signer=self._load_signer,
            verify_executor=self._verify_executor,
            open_journal=self._open_journal,
            markets={name: partial(self._market, name) for name in config.markets},
            simulate=self._simulate,
            more=(
                Check("alerts", partial(channels.check, config.alerts, notify=notify), fix="mend the [alerts] table"),
                Check("cache", self._cache, ("data directory",), "move it away"),
                Check("deployments", self._deployments, ("chain", "reads"), "mend the configuration"),
                *sending_checks(config),
            ),
        )

    async def _load_signer(self) -> Address | None:
        async with open_signers(self._config) as signers:
            self._signers = [signer.address for signer in signers]
        self._signer = self._signers[0] if self._signers else None
        return self._signer

    async def _verify_executor(self, executor: Address) -> str | None:
        for signer in self._signers or [DRY_OPERATOR]:
            if (wrong := await verify(self._client, executor, signer)) is not None:
                return wrong
        return None

    async def _open_journal(self) -> str:
        path = journal_path(self._config.data_dir, self._config.chain.id, self._mode)
        exists = check(path, self._config.chain.id, self._mode)
        return f"{path} is sound" if exists else f"{path} will be created"

    async def _cache(self) -> Finding:
        path = cache_path(self._config)
        exists = await asyncio.to_thread(inspect, path, self._config.chain.id)
        return Finding.ok(f"{path} is sound" if exists else f"{path} will be created")

    async def _deployments(self) -> Finding:
        """Every configured contract is of the kind it is configured as, and was there at its start block."""
        sender = self._signer or DRY_OPERATOR
        wrong = await preflight.problems(self._config, self._client, await self._client.head(), sender)
        if wrong:
            return Finding.fail("; ".join(wrong), "mend these keys")
        return Finding.ok("every configured contract is of the configured kind")

    async def _market(self, name: str) -> str | None:
        """Load the market as the daemon would, and hear whether its rules are known."""
        table = self._config.markets[name]
        around = Surroundings(DRY_EXECUTOR, self._config.tokens.wrapped_native, _Quiet(), 36, 64)
        book, _ = PROTOCOLS[table.protocol](name, table, around)
        await book.load(self._client, await self._client.head())
        return book.status.reason if book.read_only else None

    async def _simulate(self) -> Finding:
        """An execution of nothing: the whole path but for the liquidation itself."""
        config, native = self._config, self._config.tokens.wrapped_native
        executor = config.executor.address or DRY_EXECUTOR
        sender = self._signer or DRY_OPERATOR
        overrides = funded(sender)
        if config.executor.address is None or self._signer is None:
            overrides[executor] = state_override(executor, sender, sender)[executor]
        head = await self._client.head()
        settlement = Settlement(bytes(32), 0, native, head.timestamp + 3_600)
        data = encode_execute(Program((), (), native), settlement)
        trial = Trial(data, 500_000, 2 * head.next_base_fee() + 10**9, 0)
        simulator = Simulator(self._client, executor, sender, overrides)
        ran = (await simulator.run(head, head.timestamp + max(1, round(config.chain.block_time)), [trial]))[0]
        if ran.ok:
            return Finding.ok(f"an empty execution takes {ran.gas_used} gas")
        return Finding.fail(
            f"an empty execution fails: {ran.revert}", "mend the executor, or the node's eth_simulateV1"
        )
