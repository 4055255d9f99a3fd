"""Calldata written word by word is what eth_abi writes, or eth_abi is asked."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_abi.exceptions import EncodingError

from keeper.abi import interface

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "5"))
POOL = interface("aave_pool")


def drawn(dice: random.Random, kind: str) -> Any:
    """A value of that type, often at its edges."""
    if kind == "address":
        return f"0x{dice.getrandbits(160):040x}"
    if kind == "bool":
        return dice.random() < 0.5
    bits = int(kind.removeprefix("uint"))
    return dice.choice((0, 1, 2**bits - 1, dice.getrandbits(bits)))


def test_plain_calls_are_encoded_alike() -> None:
    """Every function of the pool whose arguments are single words."""
    print(f"KEEPER_SEED={SEED}")
    dice = random.Random(SEED)
    plain = [function for function in POOL.functions.values() if function.plain and function.inputs]
    assert any(function.name == "liquidationCall" for function in plain)
    for function in plain:
        for _ in range(200):
            arguments = [drawn(dice, kind) for kind in function.inputs]
            assert POOL.encode(function.name, *arguments) == function.selector + encode(function.inputs, arguments)


@pytest.mark.parametrize("wrong", [-1, 2**256, True, "1", None, 1.5])
def test_what_does_not_fit_is_refused_by_eth_abi(wrong: Any) -> None:
    """Nothing is cut to size."""
    who = "0x" + "ab" * 20
    with pytest.raises(EncodingError):
        POOL.encode("liquidationCall", who, who, who, wrong, False)


@pytest.mark.parametrize("wrong", ["0x" + "zz" * 20, "0x" + "ab" * 19, "0x" + " " * 40, 5])
def test_what_is_no_address_is_refused_by_eth_abi(wrong: Any) -> None:
    """Neither text of another length nor of other letters."""
    with pytest.raises(EncodingError):
        POOL.encode("liquidationCall", wrong, "0x" + "ab" * 20, "0x" + "ab" * 20, 1, False)
