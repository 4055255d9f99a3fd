"""Private relays without a network: signatures, what is sent, the coinbase payment, secrets."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

from keeper.config import load
from keeper.config.values import Secret
from keeper.errors import ConfigError
from keeper.execution.bundles import Terms
from keeper.execution.fees import BPS, CoinbaseTip, FeePolicy, FixedTip, bid, gas_limit_up, spendable
from keeper.execution.offers import Bundle, Offer, replacement_uuid, submission
from keeper.execution.relays import RelaySpec, ReputationKey
from keeper.model import Address, Attempt, AttemptState, FeeQuote, Hash, checksum

pytestmark = pytest.mark.unit

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
KEY = "0x" + "17" * 32
LEADER = Hash("0x" + "ab" * 32)
CONFIG = """
[chain]
id = 1
endpoints = ["wss://node.example"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 16291000
"""
RELAY = '[relays.one]\nurl = "https://relay.example/api-key-of-mine"\n'


def test_the_header_is_what_relays_check() -> None:
    """address:signature, over the EIP-191 message that is the hex text of the body's hash."""
    key = ReputationKey(Secret(KEY))
    body = b'{"method":"eth_sendBundle"}'
    who, _, signature = key.header(body).partition(":")
    message = encode_defunct(text="0x" + keccak(body).hex())
    assert Account.recover_message(message, signature=signature) == who == checksum(key.address)
    assert key.header(body + b" ") != key.header(body)


def test_the_key_shows_itself_nowhere() -> None:
    """Not in repr, not in an error, not in a pickle; without a configured key every process has another one."""
    key = ReputationKey(Secret(KEY))
    assert KEY[2:] not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(ConfigError, match="signing_key") as caught:
        ReputationKey(Secret("0xnot-a-key-1234"))
    assert "not-a-key" not in str(caught.value)
    assert ReputationKey(None).address != ReputationKey(None).address


def test_what_each_kind_of_relay_is_sent() -> None:
    """One block, in order, nothing may revert; a transaction relay gets the last block; a share names a hash."""
    alone = Bundle(b"\x02ours", 100, 103, "uuid")
    raw = "0x" + b"\x02ours".hex()
    assert submission(Offer.BUNDLE, alone) == (
        "eth_sendBundle",
        {"txs": [raw], "blockNumber": "0x64", "replacementUuid": "uuid"},
    )
    assert submission(Offer.TRANSACTION, alone) == (
        "eth_sendPrivateTransaction",
        {"tx": raw, "maxBlockNumber": "0x67"},
    )
    behind = Bundle(b"\x02ours", 100, 103, "uuid", b"\x02first")
    assert submission(Offer.BUNDLE, behind)[1]["txs"] == ["0x" + b"\x02first".hex(), raw]
    known = Bundle(b"\x02ours", 100, 103, "uuid", LEADER)
    assert known.txs is None
    method, params = submission(Offer.SHARE, known)
    assert method == "mev_sendBundle"
    assert params["body"] == [{"hash": LEADER}, {"tx": raw, "canRevert": False}]
    assert params["inclusion"] == {"block": "0x64", "maxBlock": "0x64"}
    assert params["version"] == "v0.1"


def test_replacement_ids_survive_a_restart() -> None:
    """The same attempt has the same UUID in every process, another attempt another one."""
    assert (
        replacement_uuid("0x" + "01" * 32) == replacement_uuid("0x" + "01" * 32) != replacement_uuid("0x" + "02" * 32)
    )


@pytest.mark.parametrize("terms", [Terms(7), Terms(123, LEADER)])
def test_terms_are_read_back_from_the_journal(terms: Terms) -> None:
    """What is written into an attempt's detail is understood again; any other detail counts as public."""
    attempt = Attempt("0x1", "m", Address("0x2"), Address("0x3"), 0, AttemptState.SENT, 0, 1, detail=str(terms))
    assert Terms.of(attempt) == terms
    for other in ("", "block 7 was reorganised away", "public since block 9", f"{terms}!"):
        assert (
            Terms.of(Attempt("0x1", "m", Address("0x2"), Address("0x3"), 0, AttemptState.SENT, 0, 1, detail=other))
            is None
        )


def test_coinbase_and_gas_together_stay_within_the_share() -> None:
    """10,000 random gains: what the contract pays the producer plus the dearest gas is at most the allowed share."""
    rng = random.Random(SEED)
    offered = 0
    for _ in range(10_000):
        measured = int(10 ** rng.uniform(15, 20))
        share, spend = rng.randrange(0, 9_900), rng.randrange(100, BPS + 1)
        gas, quote = rng.randrange(100_000, 2_000_000), FeeQuote(rng.randrange(10**7, 10**11), 10**9)
        policy = FeePolicy(CoinbaseTip(share), 10**9, 50 * 10**9, 10**12, spend)
        coinbase = measured * share // BPS  # Executor.sol, _settle
        offer = bid(policy, quote, measured - coinbase, gas)
        if offer is None:
            continue
        offered += 1
        assert coinbase + offer.most <= measured * spend // BPS, f"seed {SEED}"
        assert offer.tip <= 10**9
        assert offer.gas_limit == gas_limit_up(gas)
    print(f"seed {SEED}: {offered} offers")
    assert offered > 1_000
    assert spendable(FeePolicy(CoinbaseTip(BPS), 0, 0, 0), 10**18) == 0
    assert spendable(FeePolicy(FixedTip(), 0, 0, 0, 5_000), 10**18) == 5 * 10**17


def test_relays_are_off_by_default_and_their_secrets_hidden(tmp_path: Path) -> None:
    """No relay without a table; a relay's path and the signing key are among what the log hides; no public fallback."""
    path = tmp_path / "keeper.toml"
    path.write_text(CONFIG)
    plain = load(path, {})
    assert (plain.relays, plain.private.public_after) == ({}, None)
    path.write_text(CONFIG + RELAY)
    config = load(path, {"KEEPER__PRIVATE__SIGNING_KEY": KEY})
    assert {"api-key-of-mine", KEY} <= set(config.secrets())
    assert "api-key-of-mine" not in str(config.relays["one"].url)
    assert "api-key-of-mine" not in repr(RelaySpec("one", config.relays["one"].url, Offer.BUNDLE))


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('[strategy]\ntip_policy = "coinbase"\n', "needs a relay"),
        (RELAY + '[strategy]\ntip_policy = "coinbase"\ntip_share_bps = 6000\n', "leaves nothing"),
        ('[relays.one]\nurl = "https://x.example"\noffer = "rumour"\n', "offer"),
        ("[mempool]\nenabled = true\n", "needs a relay that takes bundles"),
        (RELAY + 'offer = "transaction"\n[mempool]\nenabled = true\n', "needs a relay that takes bundles"),
        (RELAY + 'stream = "https://events.example"\n', "needs offer"),
        (f'{RELAY}[private]\nsigning_key = "{KEY}"\n', "must not stand in the file"),
    ],
)
def test_wrong_relay_configurations(tmp_path: Path, extra: str, said: str) -> None:
    """A coinbase payment without relays or beyond the cap, an unknown kind, a key in the file."""
    path = tmp_path / "keeper.toml"
    path.write_text(CONFIG + extra)
    with pytest.raises(ConfigError, match=said) as caught:
        load(path, {})
    assert KEY not in str(caught.value)
