"""What the next block holds if pending transactions come first: views and orders, run behind them on the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeper.chain.refusals import Kind, Refusal
from keeper.chain.wire import data_bytes, quantity
from keeper.errors import BadData
from keeper.execution.simulate import Overrides, next_block
from keeper.model import Address, Head, Order, Read
from keeper.ports import Client

_NOBODY = Address("0x" + "00" * 20)


class Foresight:
    """Runs calls one after the other in one block, by `eth_simulateV1`: nothing else that nodes offer can.

    `sender` sends orders; `overrides` is the state override of `simulate.Simulator`.
    """

    def __init__(self, client: Client, sender: Address, overrides: Overrides | None = None) -> None:
        self._client = client
        self._sender = sender
        self._overrides = {account: dict(values) for account, values in (overrides or {}).items()}
        self._offered: bool | None = None

    async def offered(self, head: Head) -> bool:
        """Whether the node can do it; asked once. Raises Transient."""
        if self._offered is None:
            call = {"from": _NOBODY, "to": _NOBODY, "input": "0x"}
            await self._run([call], head, head.timestamp + 1, validation=False)
        return bool(self._offered)

    async def views(
        self, first: Mapping[str, str], reads: Sequence[Read], head: Head, timestamp: int
    ) -> list[bytes | None] | None:
        """What the views answer behind the call object `first`, None where one reverts.

        None for all of it where the node cannot say, or when `first` itself fails. Raises Transient, BadData.
        """
        asked = [{"from": _NOBODY, "to": read.to, "input": "0x" + read.data.hex()} for read in reads]
        # Without validation: a view pays no gas. What `first` would pay is validated when orders are proved behind it.
        answers = await self._run([first, *asked], head, timestamp, validation=False)
        if answers is None or not answers[0][0]:
            return None
        return [output if ok else None for ok, output in answers[1:]]

    async def standing(
        self, first: Mapping[str, str] | None, orders: Sequence[Order], head: Head, timestamp: int
    ) -> list[Order]:
        """Those of `orders`, each proved alone behind `first`, that also succeed one after the other, in their order.

        All of them where the node cannot say or nobody here knows `first`. Raises Transient, BadData.
        """
        kept = list(orders)
        while first is not None and len(kept) > 1:
            calls = [first, *(self._call(order) for order in kept)]
            answers = await self._run(calls, head, timestamp, validation=True)
            if answers is None:
                break
            failed = next((index for index, (ok, _) in enumerate(answers[1:]) if not ok), None)
            if failed is None:
                break
            del kept[failed]
        return kept

    async def _run(
        self, calls: Sequence[Mapping[str, str]], head: Head, timestamp: int, *, validation: bool
    ) -> list[tuple[bool, bytes]] | None:
        """Success and output of each call; None where the node does not offer it."""
        if self._offered is False:
            return None
        block = {
            "blockOverrides": next_block(head, timestamp),
            "stateOverrides": self._overrides,
            "calls": list(calls),
        }
        params = {"blockStateCalls": [block], "validation": validation, "traceTransfers": False}
        try:
            answer = await self._client.request("eth_simulateV1", [params, {"blockHash": head.hash}])
        except Refusal as refusal:
            if refusal.kind is not Kind.UNSUPPORTED:
                raise
            self._offered = False
            return None
        self._offered = True
        return _read(answer, len(calls))

    def _call(self, order: Order) -> dict[str, str]:
        return {
            "from": self._sender,
            "to": order.to,
            "input": "0x" + order.data.hex(),
            "gas": hex(order.gas_limit),
            "maxFeePerGas": hex(order.max_fee),
            "maxPriorityFeePerGas": hex(order.tip),
            "value": "0x0",
        }


def _read(answer: Any, count: int) -> list[tuple[bool, bytes]]:
    try:
        found = [
            (quantity(call["status"], "a status") == 1, data_bytes(call["returnData"], "return data"))
            for call in answer[0]["calls"]
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise BadData(f"the node's eth_simulateV1 cannot be read ({error!r}): use another endpoint") from error
    if len(found) != count:
        raise BadData(f"the node's eth_simulateV1 answers {len(found)} of {count} calls: use another endpoint")
    return found
