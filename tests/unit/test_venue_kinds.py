"""Which keys a venue's kind has a use for."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper.config import Config, load
from keeper.errors import ConfigError
from keeper.kinds import PROBES, PROTOCOLS, VENUES, check_words

pytestmark = pytest.mark.unit

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "example.toml"
HEX = "0x" + "ab" * 20


def config(tmp_path: Path, kind: str, *lines: str) -> Config:
    """The example with one more venue."""
    venue = ["[venues.extra]", f'kind = "{kind}"', f'address = "{HEX}"', "start_block = 1", *lines]
    path = tmp_path / "keeper.toml"
    path.write_text(EXAMPLE.read_text() + "\n" + "\n".join(venue) + "\n")
    return load(path, {"KEEPER_RPC_URL": "ws://127.0.0.1:1"})


def test_every_kind_has_a_probe() -> None:
    """What can be configured can be checked before it is used."""
    assert PROBES.keys() == {*PROTOCOLS, *VENUES}


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("uniswap_v2", ["fee_bps = 25"]),
        ("uniswap_v4", []),
        ("balancer_v2", [f'creators = ["{HEX}"]']),
        ("erc4626", []),
        ("erc4626", [f'holders = ["{HEX}"]']),
        ("wsteth", []),
    ],
)
def test_kinds_with_their_own_keys(tmp_path: Path, kind: str, lines: list[str]) -> None:
    """Each kind is accepted with what it needs."""
    check_words(config(tmp_path, kind, *lines))


@pytest.mark.parametrize(
    ("kind", "lines", "complaint"),
    [
        ("uniswap_v4", ["fee_bps = 25"], "fee_bps: pools of this kind state their own fees"),
        ("wsteth", ["fee_bps = 25"], "fee_bps"),
        ("balancer_v2", [], "creators: name the factories"),
        ("uniswap_v3", [f'creators = ["{HEX}"]'], "creators: this kind has no use for the factories"),
        ("uniswap_v4", [f'holders = ["{HEX}"]'], "holders: this kind is not limited"),
        ("curve", [], "kind is 'curve', known are balancer_v2, erc4626"),
    ],
)
def test_keys_without_a_use_are_refused(tmp_path: Path, kind: str, lines: list[str], complaint: str) -> None:
    """A key that would do nothing, or that is missing, is named."""
    with pytest.raises(ConfigError, match=rf"^venues\.extra\.{complaint}"):
        check_words(config(tmp_path, kind, *lines))
