"""The ledger against the contracts it mirrors: token totals and single balances."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

from keeper.abi import interface
from keeper.model import Address, Head, Read
from keeper.ports import Client
from keeper.protocols.aave_v3.ledger import DEBT, SUPPLY, Ledger, slot
from keeper.protocols.aave_v3.market import Market, Reserve

_TOKEN = interface("aave_token")
_STABLE = interface("aave_stable_debt_token")
_CHUNK = 5_000  # entries read at a time
_SAMPLE = 64  # entries per token looked at although the total is right


def _sides(market: Market) -> Iterator[tuple[Reserve, int, Address]]:
    for reserve in market.reserves.values():
        yield reserve, SUPPLY, reserve.a_token
        yield reserve, DEBT, reserve.v_token


async def wrong_totals(client: Client, head: Head, market: Market, ledger: Ledger) -> list[tuple[str, Address, int]]:
    """(what, token, slot) of every token whose total the ledger does not have at `head`."""
    sides = list(_sides(market))
    reads = tuple(Read(token, _TOKEN.encode("scaledTotalSupply")) for _, _, token in sides)
    answers = await client.read(reads, head)
    wrong = []
    for (reserve, side, token), answer in zip(sides, answers, strict=True):
        (total,) = _TOKEN.decode("scaledTotalSupply", answer)
        await asyncio.sleep(0)  # a sum over a million holders takes its time
        mine = ledger.total(slot(reserve.id, side))
        if total != mine:
            what = "debt" if side == DEBT else "supply"
            wrong.append((f"{reserve.token.symbol} {what}: {mine} here, {total} there", token, slot(reserve.id, side)))
    return wrong


async def repair(client: Client, head: Head, market: Market, ledger: Ledger, *, everything: bool) -> int:
    """Make the ledger's amounts those of the chain at `head`; returns how many entries were wrong.

    Tokens whose total and a sample are right are left alone, unless `everything` is to be read.
    """
    wrong = {token for _, token, _ in await wrong_totals(client, head, market, ledger)}
    changed = 0
    for reserve, side, token in list(_sides(market)):
        entries = ledger.holders(slot(reserve.id, side)).copy()
        if not everything and token not in wrong:
            count = len(entries)
            chosen = random.Random(head.number).sample(range(count), min(_SAMPLE, count))  # noqa: S311 - no secret
            if not await _settle(client, head, ledger, token, entries[chosen].tolist()):
                continue
            changed += 1
        changed += await _settle(client, head, ledger, token, entries.tolist())
    return changed


async def _settle(client: Client, head: Head, ledger: Ledger, token: Address, entries: Sequence[int]) -> int:
    changed = 0
    for start in range(0, len(entries), _CHUNK):
        part = entries[start : start + _CHUNK]
        names = [ledger.names[ledger.owner[entry]] for entry in part]
        answers = await client.read(tuple(Read(token, _TOKEN.encode("scaledBalanceOf", n)) for n in names), head)
        for entry, answer in zip(part, answers, strict=True):
            (scaled,) = _TOKEN.decode("scaledBalanceOf", answer)
            if ledger.amount[entry] != scaled:
                ledger.set_amount(entry, scaled)
                changed += 1
    return changed


async def still_stable(client: Client, head: Head, market: Market, names: Sequence[Address]) -> set[Address]:
    """Who of these has stable debt at `head`."""
    tokens = [r.stable_token for r in market.reserves.values() if r.stable_token is not None and r.stable_supply]
    asked = [(name, token) for name in names for token in tokens]
    if not asked:
        return set()
    reads = tuple(Read(token, _STABLE.encode("principalBalanceOf", name)) for name, token in asked)
    answers = await client.read(reads, head)
    return {
        name
        for (name, _), answer in zip(asked, answers, strict=True)
        if _STABLE.decode("principalBalanceOf", answer)[0]
    }
