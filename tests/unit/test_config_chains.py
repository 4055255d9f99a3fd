"""The configurations of real chains: valid, every address checked and with its source, sensible in seconds."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_utils.address import to_checksum_address

from keeper.assembly import lane_policy, lateness, whole_block_time
from keeper.config import Config, load
from keeper.kinds import check_words

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[2] / "config"
EVERY = sorted(FOLDER.glob("*.toml"))
CHAINS = [path for path in EVERY if path.name != "example.toml"]
NODE = {"KEEPER_RPC_URL": "wss://node.example/key"}
ADDRESS = re.compile(r'"(0x[0-9a-fA-F]{40})"')
SOURCE = re.compile(r"# .*(\b(of|in|by|before) \S+|\bsame source\b|docs\.)")


def read(path: Path) -> Config:
    return load(path, NODE)


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_file_is_a_configuration_that_can_be_run(path: Path) -> None:
    """With a node alone each file loads, and every word in it stands for something."""
    check_words(read(path))


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_address_carries_its_checksum(path: Path) -> None:
    """EIP-55: a digit that was mistyped shows."""
    found = ADDRESS.findall(path.read_text())
    assert found
    assert found == [to_checksum_address(one) for one in found]


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_every_address_and_first_block_says_where_it_is_from(path: Path) -> None:
    """A comment on the very line names a package, a file, a page, or the source above it."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    wanted = [line for line in lines if ADDRESS.search(line) or line.startswith("start_block")]
    config = read(path)
    assert len(wanted) >= 2 * (len(config.markets) + len(config.venues))
    assert [line for line in wanted if SOURCE.search(line) is None] == []


@dataclass(frozen=True, slots=True)
class Use:
    chain: str
    key: str
    meaning: str


def uses() -> dict[str, list[Use]]:
    found: dict[str, list[Use]] = defaultdict(list)
    for path in CHAINS:
        config, chain = read(path), path.stem
        tokens = (config.tokens.wrapped_native, *config.tokens.connectors)
        for token in tokens:
            found[token].append(Use(chain, f"tokens {token}", "token"))
        for name, market in config.markets.items():
            found[market.address].append(Use(chain, name, market.protocol))
            for one in market.further:
                found[one].append(Use(chain, f"{name}.further", f"further contract of {market.protocol}"))
        for name, venue in config.venues.items():
            found[venue.address].append(Use(chain, name, venue.kind))
            for one in venue.creators:
                found[one].append(Use(chain, f"{name}.creators", f"creator of pools of {venue.kind}"))
        if config.chain.sequencer_feed is not None:
            found[config.chain.sequencer_feed].append(Use(chain, "sequencer_feed", "sequencer feed"))
    return found


def test_no_address_means_two_things() -> None:
    """Each address stands once in a file, and for the same kind of contract in every file it stands in."""
    for address, where in uses().items():
        chains = [use.chain for use in where]
        assert len(set(chains)) == len(chains), (address, where)
        assert len({use.meaning for use in where}) == 1, (address, where)
    written = sum(len(ADDRESS.findall(path.read_text())) for path in CHAINS)
    assert written == sum(len(where) for where in uses().values()), "an address that no key of these is"


def test_each_chain_has_what_was_promised() -> None:
    """Four chains under their ids; on each, every protocol and every kind of venue."""
    found = {path.stem: read(path) for path in CHAINS}
    assert {name: config.chain.id for name, config in found.items()} == {
        "ethereum": 1, "base": 8453, "arbitrum": 42161, "optimism": 10,
    }  # fmt: skip
    for config in found.values():
        assert {market.protocol for market in config.markets.values()} == {"aave_v3", "compound_v3", "morpho_blue"}
        assert {"comet_usdc", "comet_weth"} <= config.markets.keys()
        assert {venue.kind for venue in config.venues.values()} == {
            "balancer_v2",
            "uniswap_v2",
            "uniswap_v3",
            "uniswap_v4",
        }
        assert {"uniswap_v2", "sushiswap"} <= config.venues.keys()
        assert config.markets["morpho"].further, "its pre-liquidations"
        assert config.venues["balancer_v2"].creators
    assert "spark" in found["ethereum"].markets
    stacks = {name: config.chain.data_fee for name, config in found.items()}
    assert stacks == {"ethereum": "none", "base": "op", "optimism": "op", "arbitrum": "arbitrum"}
    for name, config in found.items():
        assert (config.chain.sequencer_feed is None) == (name == "ethereum"), "a roll-up has a sequencer"


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_what_is_counted_in_blocks_makes_sense_in_seconds(path: Path) -> None:
    """Twelve seconds, two, or a quarter of one: the keeper is as patient and as busy on every chain."""
    config = read(path)
    block, chain = config.chain.block_time, config.chain
    assert 5 * block <= chain.max_head_age <= 60
    assert chain.max_head_age < config.breakers.max_head_age
    assert 9 <= chain.max_block_lag * block <= 36
    assert 30 <= config.breakers.max_height_gap * block <= 120
    assert chain.max_block_lag < config.breakers.max_height_gap
    assert chain.max_reorg_depth * block >= 32
    assert chain.max_reorg_depth <= 128, "what venues can undo"
    assert 300 <= config.audit.every * block <= 1_200
    assert 600 <= config.data.snapshot_every * block <= 2_400
    assert 2 <= lateness(config) <= 36
    assert chain.poll_interval <= max(block, 1.0)
    assert chain.log_range * block >= 86_400, "a year of history in a few hundred requests"
    assert chain.sequencer_grace == 3_600


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_tips_and_limits_fit_each_other(path: Path) -> None:
    """The least tip is no more than the most, the ceiling above both, and a day's losses worth several attempts."""
    config = read(path)
    table = config.strategy
    assert table.tip <= table.max_tip < table.max_gas_price
    attempt = config.breakers.attempt_gas * table.max_gas_price
    assert attempt <= config.breakers.gas_per_day
    assert table.profit_floor < config.breakers.loss_per_day


@pytest.mark.parametrize(
    ("block_time", "slack", "whole", "late"),
    [("12s", 3, 12, 36), ("2s", 3, 2, 6), ("250ms", 8, 1, 2), ("250ms", 3, 1, 1), ("1500ms", 3, 2, 5), ("1s", 0, 1, 0)],
)
def test_a_block_takes_a_second_at_least_but_slack_is_counted_exactly(
    block_time: str, slack: int, whole: int, late: int
) -> None:
    """Timestamps are whole seconds; eight blocks of a quarter second are two seconds late, not eight."""
    environ = {"KEEPER__CHAIN__BLOCK_TIME": block_time, "KEEPER__STRATEGY__INCLUSION_SLACK": str(slack)}
    config = load(FOLDER / "arbitrum.toml", NODE | environ)
    assert (whole_block_time(config), lateness(config)) == (whole, late)


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_what_is_not_mined_is_given_the_time_to_be(path: Path) -> None:
    """It is handed out again and outbid every few seconds at most, and given up after its deadline, on every chain."""
    config = read(path)
    policy, block = lane_policy(config), config.chain.block_time
    assert 3 <= policy.rebroadcast_every * block <= 36
    assert 3 <= policy.bump_every * block <= 36
    assert policy.max_age * block >= 12
    assert policy.max_age * block > whole_block_time(config) + lateness(config)
    assert (policy.max_fee, policy.min_tip) == (config.strategy.max_gas_price, config.strategy.tip)
    assert (policy.cancel_gas > 21_000) == (path.stem == "arbitrum"), "where data is charged as gas, 21,000 do not do"
