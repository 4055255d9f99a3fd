"""The wire format of the executor's language."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from keeper.model import ZERO_ADDRESS, Address
from keeper.program import (
    Amount,
    Approve,
    Call,
    Callback,
    Keep,
    Patch,
    Source,
    Step,
    Transfer,
    balance,
    encode,
    inner_program,
    kept,
    literal,
    word,
)

pytestmark = pytest.mark.unit

TOKEN = Address("0x" + "11" * 20)
POOL = Address("0x" + "22" * 20)
SELECTOR = bytes.fromhex("128acb08")


def _swap(inner: bytes, *numbers: int) -> bytes:
    return SELECTOR + abi_encode(["uint256"] * len(numbers) + ["bytes"], [*numbers, inner])


def test_transfer_layout() -> None:
    """A transfer is kind 3, its length, token, recipient and amount, each at its documented place."""
    body = bytes.fromhex(TOKEN[2:] + POOL[2:]) + b"\x01" + bytes.fromhex(TOKEN[2:]) + b"\x00" + (7).to_bytes(32, "big")
    assert encode((Transfer(TOKEN, POOL, balance(TOKEN, keep=7)),)) == b"\x03" + len(body).to_bytes(3, "big") + body


def test_call_without_callback_layout() -> None:
    """A plain call has no expectation bracket: target, zero sender, patch count, patches, data."""
    data = SELECTOR + bytes(64)
    step = Call(POOL, data, (Patch(36, word(1, plus=3)),))
    amount = b"\x02" + bytes(20) + b"\x01" + (3).to_bytes(32, "big")
    body = bytes.fromhex(POOL[2:]) + bytes(20) + b"\x01" + (36).to_bytes(3, "big") + amount + data
    assert encode((step,)) == b"\x01" + len(body).to_bytes(3, "big") + body


def test_coin_travels_as_a_patch_outside_the_data() -> None:
    """The value of a call is written before its patches, at the offset that no calldata reaches."""
    data = SELECTOR + bytes(32)
    step = Call(POOL, data, (Patch(4, literal(1)),), value=kept(b"\x07" * 32, 2))
    coin = b"\x05" + bytes(20) + b"\x02" + b"\x07" * 32
    patch = (4).to_bytes(3, "big") + bytes(22) + (1).to_bytes(32, "big")
    body = bytes.fromhex(POOL[2:]) + bytes(20) + b"\x02" + b"\xff\xff\xff" + coin + patch + data
    assert encode((step,)) == b"\x01" + len(body).to_bytes(3, "big") + body


def test_keep_layout() -> None:
    """A keep step is its key and the position of the word; it may begin an inner program."""
    assert encode((Keep(b"\x0a" * 32, 3),)) == b"\x05\x00\x00\x21" + b"\x0a" * 32 + b"\x03"
    inner = encode((Keep(bytes(32)), Transfer(TOKEN, POOL, literal(1))))
    assert inner_program(Call(POOL, _swap(inner, 1))) == inner


def test_negative_patch_sets_the_top_bit_of_its_source() -> None:
    """A patch that writes a negative number differs from its positive twin in one bit."""
    data = SELECTOR + bytes(32)
    plain = encode((Call(POOL, data, (Patch(4, word(0)),)),))
    negated = encode((Call(POOL, data, (Patch(4, word(0), negative=True),)),))
    place = 4 + 40 + 1 + 3
    assert plain[place] == Source.WORD
    assert negated == plain[:place] + bytes([Source.WORD | 0x80]) + plain[place + 1 :]


def test_callback_carries_the_hash_of_what_is_sent() -> None:
    """The expectation holds sender, argument position, hash of the inner program and the answer."""
    inner = encode((Transfer(TOKEN, POOL, literal(1)),))
    call = Call(POOL, _swap(inner, 5, 6), callback=Callback(POOL, 2, b"\x00" * 31 + b"\x01"))
    expected = bytes.fromhex(POOL[2:]) * 2 + b"\x02" + keccak(inner) + b"\x00\x20" + bytes(31) + b"\x01" + b"\x00"
    assert encode((call,))[4:] == expected + call.data


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_inner_program_is_the_outermost(depth: int) -> None:
    """In nested calls the program found is the one handed to this call, not one further inside."""
    inner = encode((Approve(TOKEN, POOL, literal(2)), Transfer(TOKEN, POOL, literal(1))))
    for level in range(depth):
        call = Call(POOL, _swap(inner, 0, level, len(inner)), callback=Callback(POOL, 2))
        assert inner_program(call) == inner
        inner = encode((call,))


def test_program_followed_by_static_arguments_is_found() -> None:
    """A static argument after the bytes (Aave's referral code) sits in the head and does not hide the program."""
    inner = encode((Transfer(TOKEN, POOL, literal(1)),))
    data = SELECTOR + abi_encode(["address", "address", "uint256", "bytes", "uint16"], [POOL, TOKEN, 10**18, inner, 0])
    assert inner_program(Call(POOL, data)) == inner


@pytest.mark.parametrize(
    "data", [b"", SELECTOR, _swap(b"", 1), _swap(b"\x00" * 64, 1), _swap(b"hello", 1), SELECTOR + b"\xff" * 96]
)
def test_call_expecting_a_callback_without_a_program_is_refused(data: bytes) -> None:
    """A callback with nothing to run, or with bytes that are no program, is a mistake found before anything is sent."""
    with pytest.raises(ValueError, match="does not end in an encoded program"):
        encode((Call(POOL, data, callback=Callback(POOL, 0)),))


@pytest.mark.parametrize(
    "step",
    [
        Call(POOL, SELECTOR + bytes(32), (Patch(5, literal(1)),)),
        Call(POOL, bytes(64), tuple(Patch(0, literal(1)) for _ in range(255)), value=literal(1)),
        Keep(bytes(32), 256),
        Transfer(TOKEN, POOL, literal(2**256)),
        Transfer(TOKEN, POOL, literal(-1)),
        Transfer(TOKEN, POOL, Amount(Source.WORD, 0, None, 256)),
        Call(POOL, _swap(b"\x03\x00\x00\x00", 1), callback=Callback(POOL, 256)),
        Call(POOL, _swap(b"\x03\x00\x00\x00", 1), callback=Callback(ZERO_ADDRESS, 1)),
        Call(POOL, _swap(b"\x03\x00\x00\x00", 1), callback=Callback(POOL, 1, bytes(1 << 16))),
        Call(POOL, bytes(64), tuple(Patch(0, literal(1)) for _ in range(256))),
    ],
)
def test_numbers_that_do_not_fit_are_refused(step: Step) -> None:
    """Whatever cannot be written in its field raises instead of being cut."""
    with pytest.raises(ValueError, match=r"fit|outside|names nobody"):
        encode((step,))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_key_of_another_length_is_refused(size: int) -> None:
    """A key that is not a word would shift everything after it."""
    with pytest.raises(ValueError, match="32 bytes"):
        encode((Keep(bytes(size)),))
