"""The private chain in the foreground, with a ready-to-use configuration beside it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from keeper.devchain.actors import Actors
from keeper.devchain.anvil import Anvil, ChainFailed
from keeper.devchain.comet import config_lines, deploy_comet
from keeper.devchain.rpc import RpcError
from keeper.devchain.world import World, ensure_world
from keeper.errors import ConfigError
from keeper.model import Address, address

# anvil's first account, published with every copy of it: worth nothing anywhere else.
OPERATOR = address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
OPERATOR_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"

CONNECTORS = ("USDC", "USDT", "DAI", "WBTC", "wstETH")


def serve(
    config: Path,
    port: int = 8545,
    block_time: float = 2.0,
    *,
    comet_model: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
) -> None:
    """Run the built world until SIGINT or SIGTERM (or until `stop` is set), a block every `block_time` seconds.

    With `comet_model`, a Solidity file, there is a Comet-like market beside the others.
    Writes the configuration to `config` and beside it ``world.json`` and the operator's key file (the folder is made
    if missing), and says so, one line at a time, through `say`. Raises ConfigError when something must be installed or
    the folder cannot be written, ChainFailed when anvil ends by itself or the port is taken.
    """
    built = ensure_world()
    ending = threading.Event() if stop is None else stop
    with _signals(ending), built.start(port=port, impersonate=True) as anvil:
        actors = awaken(anvil, built.world)
        more = "" if comet_model is None else config_lines(deploy_comet(actors, comet_model))
        path = write_config(built.world, anvil, config, block_time=block_time, more=more)
        say(f"private chain {built.world.chain_id} is up at {anvil.ws} ({anvil.http}), block {anvil.rpc.number()}")
        say(f"configuration: {path}")
        say("stop it with Ctrl-C")
        while not ending.wait(block_time):
            try:
                tick(actors)
            except OSError as error:
                raise ChainFailed("anvil ended by itself: start the private chain again") from error


def awaken(anvil: Anvil, world: World) -> Actors:
    """Bring a freshly loaded chain to the time of day, with fresh rounds on every feed; returns who acts on it."""
    actors = Actors(anvil.rpc, world, wall_clock=True)
    with actors.block():
        for symbol in world.feeds:
            actors.set_price(symbol, actors.price(symbol))
    return actors


def tick(actors: Actors) -> None:
    """Mine one block with whatever is pending."""
    try:
        actors.mine(strict=False)
    except RpcError as error:
        # Somebody else mined in between and the chosen time is past: the next tick chooses again.
        if "imestamp" not in error.message:
            raise


def write_config(
    world: World,
    anvil: Anvil,
    path: Path,
    *,
    block_time: float = 2.0,
    http_port: int = 9464,
    executor: Address | None = None,
    more: str = "",
) -> Path:
    """Write the daemon's configuration for this chain, and `more` at its end; returns its path.

    Raises ConfigError when that fails.
    """
    path = path.expanduser().resolve()
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        key = directory / "operator.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(OPERATOR_KEY + "\n")
        (directory / "world.json").write_text(world.to_json())
        path.write_text(config_text(world, anvil.ws, directory, block_time, http_port, executor) + more)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}): choose another directory") from error
    return path


def config_text(
    world: World, endpoint: str, directory: Path, block_time: float, http_port: int, executor: Address | None
) -> str:
    """The configuration as TOML."""
    tokens = {symbol: token.address for symbol, token in world.tokens.items()}
    lines = [
        "# Written by `keeper devchain`; it is written anew at every start.",
        "[chain]",
        f"id = {world.chain_id}",
        f"endpoints = [{json.dumps(endpoint)}]",
        f'block_time = "{max(1, round(block_time * 1_000))}ms"',
        "",
        "[data]",
        f"dir = {json.dumps(str(directory / 'data'))}",
        "",
        "[tokens]",
        f'wrapped_native = "{tokens["WETH"]}"',
        "connectors = [" + ", ".join(f'"{tokens[symbol]}"' for symbol in CONNECTORS) + "]",
    ]
    for name, market in world.markets.items():
        lines += [
            "",
            f"[markets.{name}]",
            'protocol = "aave_v3"',
            f'address = "{market.addresses_provider}"',
            f"start_block = {market.start_block}",
        ]
    lines += [
        "",
        f"[markets.{world.morpho.name}]",
        'protocol = "morpho_blue"',
        f'address = "{world.morpho.address}"',
        f"start_block = {world.morpho.start_block}",
    ]
    uniswap = world.uniswap
    for kind, factory, start in (
        ("uniswap_v2", uniswap.v2_factory, uniswap.v2_start_block),
        ("uniswap_v3", uniswap.v3_factory, uniswap.v3_start_block),
    ):
        lines += ["", f"[venues.{kind}]", f'kind = "{kind}"', f'address = "{factory}"', f"start_block = {start}"]
    if executor is not None:
        lines += ["", "[executor]", f'address = "{executor}"']
    lines += [
        "",
        "[signer]",
        f"private_key_file = {json.dumps(str(directory / 'operator.key'))}",
        "",
        "[strategy]",
        'max_exposure = "5000 ether"',
        # Blocks come faster than on any real chain, and a machine that is busy must still be in time.
        f"inclusion_slack = {min(12, max(3, round(8 / block_time)))}",
        "",
        "[ops]",
        f"http_port = {http_port}",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _signals(ending: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `ending`; outside the main thread, where signals cannot be taken, nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
