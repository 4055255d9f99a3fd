"""Which contracts stand behind a price: asked of the chain, whatever adapters are in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from keeper.abi import interface
from keeper.chain.refusals import Kind, Refusal
from keeper.errors import BadData
from keeper.model import Address, Head, address
from keeper.ports import Client

_LATEST = "0x" + interface("price_feed").encode("latestAnswer").hex()
_NOBODY = "0x" + "00" * 20
_CANNOT = (Kind.UNSUPPORTED, Kind.INVALID)


async def touched(client: Client, sources: Sequence[Address], head: Head) -> dict[Address, frozenset[Address]]:
    """For each price source every contract that `latestAnswer()` runs through, by `eth_createAccessList`.

    A source whose call fails is left out, all of them where the node does not offer the method. Raises Transient.
    """
    if not sources:
        return {}
    asked = [
        ("eth_createAccessList", [{"from": _NOBODY, "to": to, "input": _LATEST}, {"blockHash": head.hash}])
        for to in sources
    ]
    try:
        answers: list[Any] = await client.batch(asked)
    except Refusal as refusal:
        if refusal.kind in _CANNOT:
            return {}
        # One of the sources is at fault, and a batch names only the first.
        answers = list(await asyncio.gather(*(_one(client, method, params) for method, params in asked)))
    found = {source: _addresses(answer) for source, answer in zip(sources, answers, strict=True)}
    return {source: contracts | {source} for source, contracts in found.items() if contracts is not None}


async def _one(client: Client, method: str, params: Sequence[Any]) -> Any:
    try:
        return await client.request(method, params)
    except Refusal as refusal:
        if refusal.kind in (*_CANNOT, Kind.REVERT, Kind.OTHER, Kind.GAS):
            return None
        raise


def _addresses(answer: Any) -> frozenset[Address] | None:
    if answer is None or (isinstance(answer, dict) and answer.get("error")):
        return None
    try:
        return frozenset(address(entry["address"]) for entry in answer["accessList"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"the node's eth_createAccessList cannot be read ({error!r}): use another endpoint") from error
