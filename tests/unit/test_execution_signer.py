"""Keys: where they come from, that they sign what they are given, and that nothing shows them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import traceback
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.config.values import Secret
from keeper.errors import ConfigError
from keeper.execution.signer import LocalSigner, Unsigned, load_signer
from keeper.model import TxKind, address, checksum

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "11"))
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
PASSWORD = "correct horse battery staple"
ADDRESS = address(Account.from_key("0x" + KEY).address)


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    path = tmp_path / "keystore.json"
    path.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), PASSWORD, kdf="pbkdf2", iterations=10)))
    return path


def test_every_source_gives_the_same_signer(keystore: Path) -> None:
    """A keystore with its password, and a key with or without 0x or a line end, are one address."""
    for signer in (
        load_signer(1, keystore=keystore, password=Secret(PASSWORD)),
        load_signer(1, private_key=Secret(KEY)),
        load_signer(1, private_key=Secret("0x" + KEY + "\n")),
    ):
        assert signer.address == ADDRESS


async def test_it_signs_exactly_what_it_is_given() -> None:
    """The raw transaction decodes to the same fields, recovers to the signer and hashes to the stated hash."""
    signer = load_signer(31337, private_key=Secret(KEY))
    to = address("0x" + "22" * 20)
    signed = await signer.sign(Unsigned(TxKind.EXECUTE, 7, to, b"\x01\x02", 123_456, 5 * 10**9, 10**9))
    fields: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(signed.raw)).as_dict()
    assert (fields["nonce"], fields["gas"], fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (
        7,
        123_456,
        5 * 10**9,
        10**9,
    )
    assert (fields["chainId"], fields["value"], bytes(fields["data"]), fields["type"]) == (31337, 0, b"\x01\x02", 2)
    assert "0x" + bytes(fields["to"]).hex() == to
    assert address(Account.recover_transaction(signed.raw)) == ADDRESS
    assert signed.hash == "0x" + keccak(signed.raw).hex()
    assert (signed.kind, signed.nonce) == (TxKind.EXECUTE, 7)


async def test_it_signs_as_eth_account_does() -> None:
    """Byte for byte: any sizes of the fields, a creation, data around the lengths where the encoding changes."""
    dice = random.Random(SEED)
    print(f"KEEPER_SEED={SEED}")
    for number in range(200):
        chain_id = dice.choice((1, 137, 8453, 2**31))
        to = None if number % 10 == 0 else address(f"0x{dice.getrandbits(160):040x}")
        data = dice.randbytes(dice.choice((0, 1, 55, 56, 255, 256, 3_000)))
        nonce, gas = dice.getrandbits(dice.randrange(64)), dice.getrandbits(24)
        fee, tip = (dice.getrandbits(dice.randrange(128)) for _ in range(2))
        signed = await load_signer(chain_id, private_key=Secret(KEY)).sign(
            Unsigned(TxKind.EXECUTE, nonce, to, data, gas, fee, tip)
        )
        wanted = Account.sign_transaction(
            {
                "type": 2,
                "chainId": chain_id,
                "nonce": nonce,
                "to": b"" if to is None else checksum(to),
                "value": 0,
                "data": data,
                "gas": gas,
                "maxFeePerGas": fee,
                "maxPriorityFeePerGas": tip,
            },
            KEY,
        )
        assert signed.raw == bytes(wanted.raw_transaction)
        assert signed.hash == "0x" + bytes(wanted.hash).hex()


def test_nothing_shows_the_key() -> None:
    """repr, str, format, dir, copy and pickle of a signer never contain or carry the key."""
    signer = load_signer(1, private_key=Secret(KEY))
    shown = [repr(signer), str(signer), f"{signer}", repr([signer]), repr(signer._sign), repr(dir(signer))]
    cells = signer._sign.__closure__ or ()
    shown += [repr(cell.cell_contents) for cell in cells]
    shown += [repr(getattr(signer, name)) for name in dir(signer) if not name.startswith("__")]
    assert not [text for text in shown if KEY[:16] in text.lower()]
    assert not hasattr(signer, "__dict__")
    for attempt in (lambda: pickle.dumps(signer), lambda: copy.copy(signer), lambda: copy.deepcopy(signer)):
        with pytest.raises(TypeError, match="holds a key"):
            attempt()


def trouble(**source: Any) -> str:
    """The refusal, after checking that neither it nor its traceback repeats a secret."""
    with pytest.raises(ConfigError) as error:
        load_signer(1, **source)
    told = "".join(traceback.format_exception(error.value))
    for secret in (KEY, KEY[:20], PASSWORD, "wrong password"):
        assert secret not in told
    return str(error.value)


def test_refusals_say_what_to_change(keystore: Path, tmp_path: Path) -> None:
    """No source, two sources, a locked, missing, foreign or broken keystore, a wrong password, a bad key."""
    assert "neither" in trouble()
    assert "both" in trouble(keystore=keystore, private_key=Secret(KEY))
    assert "is locked" in trouble(keystore=keystore)
    assert "does not open" in trouble(keystore=keystore, password=Secret("wrong password"))
    assert "cannot be read" in trouble(keystore=tmp_path / "none.json", password=Secret(PASSWORD))
    for content in (KEY, "not json " + PASSWORD, "\x00"):
        other = tmp_path / "other.json"
        other.write_text(content)
        assert "JSON" in trouble(keystore=other, password=Secret(PASSWORD)) or content == KEY
    for content in (
        "{}",
        "[]",
        "1",
        '{"version": 3}',
        '{"version": 3, "crypto": {}}',
        '{"version": 1}',
        '"text"',
        '{"version": 3, "crypto": {"kdf": "x"}}',
        '{"version": 3, "crypto": {"kdf": "pbkdf2", "kdfparams": 1}}',
    ):
        other.write_text(content)
        assert "not a version 3 keystore" in trouble(keystore=other, password=Secret(PASSWORD))
    for bad in ("", "0x", KEY[:-1], KEY + "0", "z" * 64, "0x" + "00" * 32, "ff" * 32):
        assert "private" in trouble(private_key=Secret(bad))


def test_it_is_a_local_signer() -> None:
    """What loading gives is the class whose closure holds the key."""
    assert type(load_signer(1, private_key=Secret(KEY))) is LocalSigner
