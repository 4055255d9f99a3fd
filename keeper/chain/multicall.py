"""Many views in one ``eth_call`` without a deployed contract; `contracts_abi/multicall.sol` is the other side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from functools import cache
from importlib import resources
from typing import Any

from keeper.errors import BadData
from keeper.model import Read

MAX_INITCODE = 49_152  # EIP-3860
MAX_ANSWER = 24_576  # EIP-170: the answer travels as if it were code
_HEADER = 20 + 3
_ENVELOPE = 4 * 32  # two constructor arguments, the length word, and the padding of the last word


class Again(Enum):
    """The views that got no answer in a bundle, and have to be asked for again."""

    AGAIN = 0


AGAIN = Again.AGAIN
Item = bytes | None | Again


@cache
def init_code() -> bytes:
    """The compiled constructor of ``contracts_abi/multicall.sol``."""
    artifact: dict[str, Any] = json.loads(resources.files("contracts_abi").joinpath("multicall.json").read_text())
    return bytes.fromhex(artifact["bytecode"].removeprefix("0x"))


def request_size(read: Read) -> int:
    """Bytes one view takes in a bundle."""
    return _HEADER + len(read.data)


def capacity() -> int:
    """Bytes of views that fit in one bundle."""
    return MAX_INITCODE - len(init_code()) - _ENVELOPE


def pack(reads: Sequence[Read]) -> bytes:
    """The data of an ``eth_call`` without ``to`` that makes all `reads`."""
    body = b"".join(bytes.fromhex(r.to[2:]) + len(r.data).to_bytes(3, "big") + r.data for r in reads)
    head = (64).to_bytes(32, "big") + MAX_ANSWER.to_bytes(32, "big") + len(body).to_bytes(32, "big")
    return init_code() + head + body + b"\0" * (-len(body) % 32)


def unpack(answer: bytes, count: int) -> list[Item]:
    """Per view its answer, None where it reverted, `AGAIN` where it was not made; raises BadData on nonsense."""
    items: list[Item] = []
    cursor = 1
    for _ in range(count):
        size = int.from_bytes(answer[cursor + 1 : cursor + 4], "big")
        end = cursor + 4 + size
        if end > len(answer) or answer[cursor] > 2:
            raise BadData(f"the answer to {count} bundled views is malformed ({len(answer)} bytes)")
        items.append((None, answer[cursor + 4 : end], AGAIN)[answer[cursor]])
        cursor = end
    if cursor != len(answer) or answer[0] != 0:
        raise BadData(f"the answer to {count} bundled views is malformed ({len(answer)} bytes)")
    return items


class Packer:
    """Splits views into bundles that fit, learning how long each function's answers are."""

    def __init__(self, answer_guess: int = 128) -> None:
        self._guess = answer_guess
        self._sizes: dict[bytes, int] = {}  # selector → longest answer seen

    def learn(self, read: Read, size: int) -> None:
        """Remember that `read` answered `size` bytes."""
        selector = read.data[:4]
        if size > self._sizes.get(selector, 0):
            self._sizes[selector] = size

    def bundles(self, reads: Sequence[Read], most: int) -> list[list[int]]:
        """Indices of `reads` in order, in bundles within the size limits and of at most `most` views."""
        room_in, result = capacity(), []
        bundle: list[int] = []
        used_in = used_out = 0
        for index, read in enumerate(reads):
            size_in = request_size(read)
            size_out = 4 + self._sizes.get(read.data[:4], self._guess)
            full = used_in + size_in > room_in or used_out + size_out > MAX_ANSWER - 1 or len(bundle) >= most
            if bundle and full:
                result.append(bundle)
                bundle, used_in, used_out = [], 0, 0
            bundle.append(index)
            used_in += size_in
            used_out += size_out
        if bundle:
            result.append(bundle)
        return result
