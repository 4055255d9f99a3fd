"""The weighted pools of a Balancer V2 Vault, mirrored from events, and traded with one swap at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import MAX_UINT256, ZERO_ADDRESS, Address, Head, Hop, Log, Read, Watch, address
from keeper.ports import Client
from keeper.program import Amount, Approve, Call, Patch, Source, Step, balance, literal
from keeper.venues.balancer_v2.pool import WeightedPool, WeightedState
from keeper.venues.mirror import PoolInfo, StateMirror, read_many

_GIVEN_IN, _GIVEN_OUT = 0, 1
_AMOUNT_AT = 4 + 11 * 32  # of the swap's amount in the calldata of swap()
_MOST_DECIMALS = 18
_STRANGE = "it trades fewer than two of the tokens that matter"


class BalancerV2(StateMirror[WeightedState]):
    """The weighted pools that `creators` (WeightedPoolFactory contracts) made in a Vault, traded with by `executor`.

    Whether the Vault is paused, its flash-loan fee, and what it holds of each token are read at every head.
    """

    version = "balancer-v2.1"

    def __init__(
        self,
        vault: Address,
        creators: Iterable[Address],
        start_block: int,
        tokens: Iterable[Address],
        executor: Address,
        name: str = "balancer_v2",
    ) -> None:
        super().__init__(name, vault, start_block, tokens)
        self.creators = frozenset(creators)
        self._executor = executor
        self._abi = interface("balancer_vault")
        self._pool_abi = interface("balancer_weighted_pool")
        self.created = self._pool_abi.topic("PoolCreated")
        self._swap, self._changed, self._managed = (
            self._abi.topic(event) for event in ("Swap", "PoolBalanceChanged", "PoolBalanceManaged")
        )
        self._fee, self._paused = (
            self._pool_abi.topic(event) for event in ("SwapFeePercentageChanged", "PausedStateChanged")
        )
        self._of_vault = frozenset({self._swap, self._changed, self._managed})
        self.followed = self._of_vault | {self._fee, self._paused}
        self._asked: tuple[Address, ...] = ()
        self._collector: Address | None = None
        self._collector_asked = False
        self._stopped = False
        self._balances: dict[Address, int] = {}
        self._flash_fee: int | None = None

    # ------------------------------------------------------------------------------------------ for the router

    def pools(self) -> list[WeightedPool]:
        """Every two tokens that matter of every usable pool; none while the Vault is paused."""
        if self._stopped:
            return []
        return [
            pair
            for state in self.usable()
            for pair in state.pairs
            if pair.token0 in self._tokens and pair.token1 in self._tokens
        ]

    # ---------------------------------------------------------------------------------------------------- views

    def reads(self) -> tuple[Read, ...]:
        """The Vault's pause, fees and balances."""
        self._asked = tuple(sorted(self._tokens))
        self._collector_asked = self._collector is not None
        held = interface("erc20").encode("balanceOf", self.factory)
        reads = [Read(self.factory, self._abi.encode(view)) for view in ("getPausedState", "getProtocolFeesCollector")]
        if self._collector is not None:
            fee = interface("balancer_fees_collector").encode("getFlashLoanFeePercentage")
            reads.append(Read(self._collector, fee))
        return (*reads, *(Read(token, held) for token in self._asked))

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take the answers; the fee is known from the second head on, whose collector the first one tells."""
        rest = list(answers)
        paused, collector = rest.pop(0), rest.pop(0)
        self._stopped = paused is None or bool(self._abi.decode("getPausedState", paused)[0])
        fee = rest.pop(0) if self._collector_asked else None
        self._flash_fee = int.from_bytes(fee, "big") if fee is not None and len(fee) == 32 else None
        if collector is not None:
            self._collector = address(self._abi.decode("getProtocolFeesCollector", collector)[0])
        self._balances = {
            token: int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else 0
            for token, answer in zip(self._asked, rest, strict=True)
        }

    def balance(self, token: Address) -> int:
        """Base units of `token` held by the Vault at the last observed head; 0 when unknown."""
        return 0 if self._stopped else self._balances.get(token, 0)

    @property
    def flash_fee(self) -> int | None:
        """Share of a flash loan (wad); None while unknown."""
        return self._flash_fee

    # ------------------------------------------------------------------------------------------------------ legs

    def payee(self, hop: Hop) -> None:
        """The executor, from whom the Vault pulls."""

    def exact_in(self, hop: Hop, amount: Amount, recipient: Address) -> tuple[Step, ...]:
        """Approve `amount` and sell it."""
        return Approve(hop.token_in, self.factory, amount), self._call(hop, _GIVEN_IN, amount, recipient, 0)

    def exact_out(
        self, hop: Hop, amount: Amount, recipient: Address, pay: Callable[[Amount], tuple[Step, ...]]
    ) -> tuple[Step, ...]:
        """Bring the quoted input to the executor, and buy `amount` with as much of it as it takes."""
        owed = literal(hop.amount_in)
        approval = Approve(hop.token_in, self.factory, balance(hop.token_in))
        return (*pay(owed), approval, self._call(hop, _GIVEN_OUT, amount, recipient, MAX_UINT256))

    def _call(self, hop: Hop, kind: int, amount: Amount, recipient: Address, limit: int) -> Call:
        known = amount.source is Source.LITERAL
        pool_id = bytes.fromhex(self._states[hop.pool].pool_id[2:])
        single = (pool_id, kind, hop.token_in, hop.token_out, amount.value if known else 0, b"")
        data = self._abi.encode("swap", single, (self._executor, False, recipient, False), limit, MAX_UINT256)
        return Call(self.factory, data, () if known else (Patch(_AMOUNT_AT, amount),))

    # ---------------------------------------------------------------------------------------------------- events

    def watch(self) -> Watch:
        """The Vault, the factories and every known pool."""
        return Watch(frozenset({self.factory, *self._infos}) | self.creators, self.followed | {self.created})

    def _identity(self) -> str:
        return ",".join([self.factory, *sorted(self.creators)])

    def _announcers(self) -> frozenset[Address]:
        return self.creators

    def _creations(self, words: frozenset[str]) -> tuple[frozenset[str], ...]:
        return ()

    def _matters(self, info: PoolInfo) -> bool:
        return True

    def _subject(self, log: Log) -> Address | None:
        if log.address == self.factory:
            # A pool's id begins with its address.
            return Address(log.topics[1][:42]) if log.topics[0] in self._of_vault and len(log.topics) > 1 else None
        return log.address if log.topics[0] not in self._of_vault else None

    def _created(self, log: Log) -> PoolInfo:
        return PoolInfo(address(self._pool_abi.parse("PoolCreated", log)["pool"]), ZERO_ADDRESS, ZERO_ADDRESS, 0)

    def _advance(self, pool: WeightedState, log: Log) -> WeightedState:
        topic = log.topics[0]
        if topic == self._swap:
            found = self._abi.parse("Swap", log)
            changes = {address(found["tokenIn"]): found["amountIn"], address(found["tokenOut"]): -found["amountOut"]}
            return pool.moved(changes)
        if topic == self._changed:
            found = self._abi.parse("PoolBalanceChanged", log)
            rows = zip(found["tokens"], found["deltas"], found["protocolFeeAmounts"], strict=True)
            return pool.moved({address(token): delta - fee for token, delta, fee in rows})
        if topic == self._managed:
            found = self._abi.parse("PoolBalanceManaged", log)
            return pool.moved({address(found["token"]): found["cashDelta"] + found["managedDelta"]})
        if topic == self._fee:
            return pool.charging(self._pool_abi.parse("SwapFeePercentageChanged", log)["swapFeePercentage"])
        raise BadData("it was paused, or is no longer")

    def _born(self, info: PoolInfo, log: Log) -> WeightedState | None:
        if self._unusable.get(info.address) == _STRANGE:
            return None
        raise BadData("something happened in a pool that could not be used")

    # ----------------------------------------------------------------------------------------------------- reads

    async def _read_all(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> tuple[dict[Address, WeightedState], dict[Address, str]]:
        states: dict[Address, WeightedState] = {}
        unusable: dict[Address, str] = {}
        described = await self._describe(client, head, infos)
        ids = [one for one in described.values() if not isinstance(one, str)]
        reads = [Read(self.factory, self._abi.encode("getPoolTokens", one[0])) for one in ids]
        held = dict(zip([one[0] for one in ids], await read_many(client, head, reads), strict=True))
        decimals = await self._decimals(client, head, held.values())
        for pool, one in described.items():
            if isinstance(one, str):
                unusable[pool] = one
                continue
            state = self._make(pool, one, held[one[0]], decimals)
            if isinstance(state, str):
                unusable[pool] = state
            else:
                states[pool] = state
        return states, unusable

    def _make(
        self, pool: Address, described: tuple[bytes, tuple[int, ...], int, bool], held: bytes | None, decimals: Any
    ) -> WeightedState | str:
        """The state, or why there is none."""
        pool_id, weights, fee, exact_small = described
        tokens, balances, _ = self._abi.decode("getPoolTokens", held)
        listed = tuple(address(token) for token in tokens)
        if len(self._tokens.intersection(listed)) < 2:
            return _STRANGE
        known = tuple(decimals.get(token) for token in listed)
        if len(listed) != len(weights) or None in known or max(known) > _MOST_DECIMALS:
            return "its weights or its tokens' decimals cannot be read"
        if 0 in balances:
            return "it has no liquidity"
        text = "0x" + pool_id.hex()
        return WeightedState(
            self.name, pool, text, listed, weights, known, fee, tuple(balances), exact_small=exact_small
        )

    async def _describe(
        self, client: Client, head: Head, infos: Sequence[PoolInfo]
    ) -> dict[Address, tuple[bytes, tuple[int, ...], int, bool] | str]:
        """(id, weights, fee, whether small powers are exact) of each pool, or why it cannot be used.

        Pools of 2022 and later, whose FixedPoint multiplies small powers out, are those that know a recovery mode.
        """
        views = ("getVault", "getPoolId", "getNormalizedWeights", "getSwapFeePercentage", "getPausedState")
        names = (*views, "inRecoveryMode")
        reads = [Read(info.address, self._pool_abi.encode(name)) for info in infos for name in names]
        answers = await read_many(client, head, reads)
        found: dict[Address, tuple[bytes, tuple[int, ...], int, bool] | str] = {}
        for i, info in enumerate(infos):
            *known, recovery = answers[len(names) * i : len(names) * (i + 1)]
            try:
                vault, pool_id, weights, fee, paused = (
                    self._pool_abi.decode(name, answer)[0] for name, answer in zip(views, known, strict=True)
                )
            except BadData as error:
                found[info.address] = str(error)
                continue
            if address(vault) != self.factory:
                found[info.address] = f"it belongs to the Vault {vault}"
            elif paused:
                found[info.address] = "it is paused"
            else:
                found[info.address] = (pool_id, tuple(weights), fee, recovery is not None and len(recovery) == 32)
        return found

    async def _decimals(self, client: Client, head: Head, held: Iterable[bytes | None]) -> dict[Address, int | None]:
        listed = [self._abi.decode("getPoolTokens", answer)[0] for answer in held]
        tokens = sorted({address(token) for tokens in listed for token in tokens})
        data = interface("erc20").encode("decimals")
        answers = await read_many(client, head, [Read(token, data) for token in tokens])
        return {
            token: int.from_bytes(answer, "big") if answer is not None and len(answer) == 32 else None
            for token, answer in zip(tokens, answers, strict=True)
        }

    async def _differences(self, client: Client, head: Head, pools: Sequence[WeightedState]) -> dict[Address, str]:
        infos = [self._infos[pool.address] for pool in pools]
        read, unusable = await self._read_all(client, head, infos)
        found: dict[Address, str] = {}
        for pool in pools:
            theirs = read.get(pool.address)
            if theirs is None:
                found[pool.address] = unusable[pool.address]
            elif (theirs.balances, theirs.fee) != (pool.balances, pool.fee):
                found[pool.address] = (
                    f"balances and fee are {theirs.balances}, {theirs.fee}, the mirror has {pool.balances}, {pool.fee}"
                )
        return found

    # ------------------------------------------------------------------------------------------------------ disk

    def _dump(self, pool: WeightedState) -> Any:
        rows = zip(pool.tokens, pool.weights, pool.decimals, pool.balances, strict=True)
        listed = [[token, str(weight), decimals, str(held)] for token, weight, decimals, held in rows]
        return [pool.pool_id, str(pool.fee), pool.exact_small, listed]

    def _undump(self, info: PoolInfo, raw: Any) -> WeightedState:
        rows = raw[3]
        return WeightedState(
            self.name,
            info.address,
            str(raw[0]),
            tuple(Address(row[0]) for row in rows),
            tuple(int(row[1]) for row in rows),
            tuple(int(row[2]) for row in rows),
            int(raw[1]),
            tuple(int(row[3]) for row in rows),
            exact_small=bool(raw[2]),
        )
