"""Who signs: a key that nothing can print, and EIP-1559 transactions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from coincurve import PrivateKey
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from keeper.config.values import Secret
from keeper.errors import ConfigError
from keeper.model import Address, Hash, Signed, TxKind, address, checksum

_KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A transaction to be signed; fees in wei per gas. The native value is always zero."""

    kind: TxKind
    nonce: int
    to: Address | None  # None creates a contract from `data`
    data: bytes
    gas_limit: int
    max_fee: int
    tip: int


Item = int | bytes | list["Item"]


def rlp(item: Item) -> bytes:
    """Recursive-length prefix encoding of a number, a string of bytes, or a list of such (yellow paper, appendix B)."""
    if isinstance(item, list):
        return _prefixed(0xC0, b"".join(map(rlp, item)))
    text = item.to_bytes((item.bit_length() + 7) // 8, "big") if isinstance(item, int) else item
    return text if len(text) == 1 and text[0] < 0x80 else _prefixed(0x80, text)


def _prefixed(offset: int, body: bytes) -> bytes:
    if len(body) < 56:
        return bytes([offset + len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(size)]) + size + body


def fields(tx: Unsigned, chain_id: int) -> list[Item]:
    """Chain id, nonce, tip, maximum fee, gas limit, to, value, data, access list (EIP-1559)."""
    to = b"" if tx.to is None else bytes.fromhex(tx.to[2:])
    return [chain_id, tx.nonce, tx.tip, tx.max_fee, tx.gas_limit, to, 0, tx.data, []]


def unsigned_payload(tx: Unsigned, chain_id: int) -> bytes:
    """The bytes whose hash is signed: 0x02 and the nine fields (EIP-1559)."""
    return b"\x02" + rlp(fields(tx, chain_id))


class Signer(Protocol):
    """One key, here or on another machine."""

    @property
    def address(self) -> Address:
        """Whose nonces these are."""

    async def sign(self, tx: Unsigned) -> Signed:
        """Sign for the signer's chain; raises Transient when a remote signer does not answer."""


class LocalSigner:
    """A key in this process's memory, behind a closure: `repr`, `vars`, `pickle` and tracebacks do not show it."""

    __slots__ = ("_address", "_sign")

    def __init__(self, account: LocalAccount, chain_id: int) -> None:
        self._address = address(account.address)

        private = PrivateKey(bytes(account.key))

        def sign(tx: Unsigned) -> tuple[bytes, Hash]:
            found = private.sign_recoverable(keccak(unsigned_payload(tx, chain_id)), hasher=None)  # r, s, y parity
            r, s = int.from_bytes(found[:32], "big"), int.from_bytes(found[32:64], "big")
            raw = b"\x02" + rlp([*fields(tx, chain_id), found[64], r, s])
            return raw, Hash("0x" + keccak(raw).hex())

        self._sign: Callable[[Unsigned], tuple[bytes, Hash]] = sign

    @property
    def address(self) -> Address:
        """The key's address."""
        return self._address

    async def sign(self, tx: Unsigned) -> Signed:
        """Sign an EIP-1559 transaction."""
        raw, tx_hash = self._sign(tx)
        return Signed(tx.kind, tx.nonce, tx_hash, raw, tx.gas_limit, tx.max_fee, tx.tip)

    async def close(self) -> None:
        """Nothing is open."""

    def __repr__(self) -> str:
        return f"LocalSigner({checksum(self._address)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a signer cannot be copied or stored: it holds a key")


def load_signer(
    chain_id: int, *, keystore: Path | None = None, password: Secret | None = None, private_key: Secret | None = None
) -> LocalSigner:
    """The signer of a configuration's ``[signer]`` table, whose ``*_file`` secrets have been read already.

    Decrypting a keystore takes a second or more: call it from a thread. Raises ConfigError without ever repeating
    what was given: no or several sources, a key or a keystore of another shape, a wrong password.
    """
    if (keystore is None) == (private_key is None):
        several = "both a keystore and a private key are" if keystore else "neither a keystore nor a private key is"
        raise ConfigError(f"{several} configured: set exactly one of signer.keystore and signer.private_key")
    if keystore is not None:
        return LocalSigner(_unlock(keystore, password), chain_id)
    assert private_key is not None
    text = private_key.reveal().strip()
    if not _KEY.fullmatch(text):
        raise ConfigError("signer.private_key must have 64 hexadecimal digits, with or without 0x")
    return LocalSigner(_account(bytes.fromhex(text[-64:]), "signer.private_key"), chain_id)


def _unlock(path: Path, password: Secret | None) -> LocalAccount:
    if password is None:
        raise ConfigError(f"keystore {path} is locked: set signer.password_file, or the password in the environment")
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"keystore {path} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None
    except ValueError:
        raise ConfigError(f"keystore {path} is not JSON: point signer.keystore at an encrypted keystore file") from None
    try:
        key = bytes(Account.decrypt(content, password.reveal()))
    except ValueError as error:
        if "MAC mismatch" not in str(error):
            raise _not_a_keystore(path) from None
        raise ConfigError(
            f"keystore {path} does not open with the given password; check signer.password_file"
        ) from None
    except (KeyError, TypeError, NotImplementedError, AttributeError):
        raise _not_a_keystore(path) from None
    return _account(key, f"keystore {path}")


def _not_a_keystore(path: Path) -> ConfigError:
    return ConfigError(
        f"keystore {path} is JSON but not a version 3 keystore: point signer.keystore at an encrypted one"
    )


def _account(key: bytes, where: str) -> LocalAccount:
    try:
        account: LocalAccount = Account.from_key(key)
    except ValueError:  # zero, or not below the curve's order; the library's own message may repeat the key
        raise ConfigError(f"{where} holds a number that no key can have; create a new one") from None
    return account
