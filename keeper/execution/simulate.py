"""The very transaction, at the very block, on the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeper.chain.refusals import Kind, Refusal
from keeper.chain.wire import data_bytes, quantity
from keeper.errors import BadData
from keeper.execution.reverts import decode_revert
from keeper.model import Address, Head, Simulation
from keeper.ports import Client

Overrides = Mapping[Address, Mapping[str, Any]]

# Enough for any gas a simulated sender can be asked to have: 2^96 wei.
_RICH = hex(1 << 96)
_CANNOT = frozenset({Kind.UNSUPPORTED, Kind.INVALID, Kind.OTHER})


@dataclass(frozen=True, slots=True)
class Trial:
    """A transaction to the executor as it would be sent; fees in wei per gas."""

    data: bytes
    gas_limit: int
    max_fee: int
    tip: int


def funded(sender: Address) -> dict[Address, dict[str, Any]]:
    """The state override that lets `sender` pay for gas, for a dry run whose sender holds nothing."""
    return {sender: {"balance": _RICH}}


class Simulator:
    """Runs trials in the block after a head, each on its own or in chains, all in one round trip.

    `eth_simulateV1` with validation, so that nonce, balance and fees are checked as in a block and BASEFEE is real.
    Where a node lacks it: `eth_call` and `eth_estimateGas` with the same overrides; the gas is then an upper bound.
    `overrides` is the state override that every trial runs with: the executor's code where it is not deployed, and the
    sender's balance in a dry run.
    """

    def __init__(
        self,
        client: Client,
        executor: Address,
        sender: Address,
        overrides: Overrides | None = None,
        revert_reason: Callable[[bytes], str] = decode_revert,
    ) -> None:
        self._client = client
        self._executor = executor
        self._sender = sender
        self._overrides = {account: dict(values) for account, values in (overrides or {}).items()}
        self._reason = revert_reason
        self._has_simulate = True
        self._has_block_overrides = True

    async def behind(
        self, first: Mapping[str, str], head: Head, timestamp: int, trials: Sequence[Trial]
    ) -> list[Simulation]:
        """What each trial does directly behind the call object `first` in one block, each on its own.

        Raises Transient, also from a node without `eth_simulateV1`: nothing else runs two calls in one block.
        """
        requests = [("eth_simulateV1", self._simulate_params(head, timestamp, [trial], first)) for trial in trials]
        answers = await asyncio.gather(*(self._client.request(method, params) for method, params in requests))
        found: list[Simulation] = []
        for answer in answers:
            try:
                calls = answer[0]["calls"]
                leads = quantity(calls[0]["status"], "a status") == 1
                ours = [{**answer[0], "calls": calls[1:]}]
            except (KeyError, IndexError, TypeError) as error:
                raise BadData(f"the node's eth_simulateV1 cannot be read ({error!r}): use another endpoint") from error
            reason = "the transaction before ours fails"
            failed = Simulation(head, ok=False, gain=0, gas_used=0, revert=reason)
            found.append(self._simulated(head, ours) if leads else failed)
        return found

    async def run(self, head: Head, timestamp: int, trials: Sequence[Trial]) -> list[Simulation]:
        """What each trial does when included in block `head.number + 1` at `timestamp`, in the order of `trials`.

        Raises Transient when the node cannot answer for this head, BadData when its answer cannot be read.
        """
        return [
            ran for (ran,) in await self.in_order(head, timestamp, [[trial] for trial in trials]) if ran is not None
        ]

    async def in_order(
        self, head: Head, timestamp: int, chains: Sequence[Sequence[Trial]]
    ) -> list[list[Simulation | None]]:
        """The same where the trials of each chain are included one after the other; chains know nothing of each other.

        None for what a node without `eth_simulateV1` cannot run: everything but the first of a chain.
        """
        if not chains:
            return []
        if self._has_simulate and len(chains) > 1:
            requests = [("eth_simulateV1", self._simulate_params(head, timestamp, chain)) for chain in chains]
            try:
                answers = await self._client.batch(requests)
                return [self._each(head, a, len(chain)) for a, chain in zip(answers, chains, strict=True)]
            except Refusal as refusal:
                self._check(refusal)  # one of the trials is at fault, or the method: ask for each by itself
        return list(await asyncio.gather(*(self._one(head, timestamp, chain) for chain in chains)))

    async def _one(self, head: Head, timestamp: int, chain: Sequence[Trial]) -> list[Simulation | None]:
        if self._has_simulate:
            try:
                params = self._simulate_params(head, timestamp, chain)
                return self._each(head, await self._client.request("eth_simulateV1", params), len(chain))
            except Refusal as refusal:
                self._check(refusal)
        return [await self._call(head, timestamp, chain[0]), *[None] * (len(chain) - 1)]

    def _check(self, refusal: Refusal) -> None:
        """Raise a refusal after which `eth_call` would be no better."""
        if refusal.kind is Kind.UNSUPPORTED:
            self._has_simulate = False
        elif refusal.kind not in _CANNOT and not _invalid_transaction(refusal):
            raise refusal

    def _simulate_params(
        self, head: Head, timestamp: int, trials: Sequence[Trial], first: Mapping[str, str] | None = None
    ) -> list[Any]:
        block = {
            "blockOverrides": next_block(head, timestamp),
            "stateOverrides": self._overrides,
            "calls": [*([first] if first is not None else []), *map(self._transaction, trials)],
        }
        return [{"blockStateCalls": [block], "validation": True, "traceTransfers": False}, {"blockHash": head.hash}]

    def _each(self, head: Head, answer: Any, count: int) -> list[Simulation | None]:
        try:
            calls = list(answer[0]["calls"])
        except (KeyError, IndexError, TypeError) as error:
            raise BadData(f"the node's eth_simulateV1 cannot be read ({error!r}): use another endpoint") from error
        if len(calls) != count:
            raise BadData(f"the node's eth_simulateV1 answers {len(calls)} of {count} calls: use another endpoint")
        return [self._simulated(head, [{"calls": [call]}]) for call in calls]

    def _simulated(self, head: Head, answer: Any) -> Simulation:
        try:
            call = answer[0]["calls"][0]
            status, output = call["status"], data_bytes(call["returnData"], "return data")
            gas_used = quantity(call["gasUsed"], "gas used")
            error = call.get("error") or {}
        except (KeyError, IndexError, TypeError, AttributeError) as failure:
            raise BadData(f"the node's eth_simulateV1 cannot be read ({failure!r}): use another endpoint") from failure
        if quantity(status, "a status") == 1:
            return self._gain(head, output, gas_used)
        if not output and isinstance(error.get("data"), str):
            output = data_bytes(error["data"], "revert data")
        said = str(error.get("message", ""))
        reason = self._reason(output) if output or "revert" in said or not said else said
        return Simulation(head, ok=False, gain=0, gas_used=gas_used, revert=reason)

    async def _call(self, head: Head, timestamp: int, trial: Trial) -> Simulation:
        """`eth_call` for the gain and `eth_estimateGas` for the gas."""
        params = [self._transaction(trial), {"blockHash": head.hash}, self._overrides]
        try:
            output = data_bytes(await self._with_block("eth_call", params, head, timestamp), "return data")
            gas = quantity(await self._with_block("eth_estimateGas", params, head, timestamp), "a gas estimate")
        except Refusal as refusal:
            if refusal.kind is Kind.REVERT:
                reason = self._reason(refusal.data) if refusal.data else refusal.reason
            elif refusal.kind is Kind.GAS or _invalid_transaction(refusal):
                reason = refusal.reason
            else:
                raise
            return Simulation(head, ok=False, gain=0, gas_used=trial.gas_limit, revert=reason)
        return self._gain(head, output, gas)

    async def _with_block(self, method: str, params: list[Any], head: Head, timestamp: int) -> Any:
        if self._has_block_overrides:
            try:
                return await self._client.request(method, [*params, next_block(head, timestamp)])
            except Refusal as refusal:
                if refusal.kind not in (Kind.UNSUPPORTED, Kind.INVALID):
                    raise
                # The head's own number and time then stand in for the next block's.
                self._has_block_overrides = False
        return await self._client.request(method, params)

    def _gain(self, head: Head, output: bytes, gas_used: int) -> Simulation:
        if len(output) < 32:
            reason = f"no executor answers at {self._executor}"
            return Simulation(head, ok=False, gain=0, gas_used=gas_used, revert=reason)
        return Simulation(head, ok=True, gain=int.from_bytes(output[:32], "big"), gas_used=gas_used)

    def _transaction(self, trial: Trial) -> dict[str, str]:
        return {
            "from": self._sender,
            "to": self._executor,
            "input": "0x" + trial.data.hex(),
            "gas": hex(trial.gas_limit),
            "maxFeePerGas": hex(trial.max_fee),
            "maxPriorityFeePerGas": hex(trial.tip),
            "value": "0x0",
        }


def next_block(head: Head, timestamp: int) -> dict[str, str]:
    """The block override for the block after `head`."""
    # anvil simulates in the base block's own number unless told; geth takes the next one either way.
    return {
        "number": hex(head.number + 1),
        "time": hex(max(timestamp, head.timestamp + 1)),
        "baseFeePerGas": hex(head.next_base_fee()),
    }


def _invalid_transaction(refusal: Refusal) -> bool:
    """The transaction as such is not acceptable: execution-apis, eth_simulateV1, error codes -38010 to -38025."""
    return -38025 <= refusal.code <= -38010 or "insufficient funds" in refusal.reason.lower()
