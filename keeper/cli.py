"""The command line: parse, call `keeper.app`, print. Keys and passwords are never taken from here.

Exit codes: 0 done · 1 a bug · 2 wrong usage · 10 the configuration or the machine must be changed · 11 a check failed ·
12 the chain is unreachable or unreadable · 13 halted until a person has looked · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import orjson

from keeper.config import parse_seconds
from keeper.config.describe import describe, json_schema, keys
from keeper.errors import CheckFailed
from keeper.model import Address, address
from keeper.ops import logging, tables
from keeper.ops.control import Caller
from keeper.ops.http import ask_livez
from keeper.ops.status import status as status_table
from keeper.ops.status import stops
from keeper.session import Commands, Session, keeper_version

F = TypeVar("F", bound=Callable[..., Any])


def with_config(function: F) -> F:
    """--config on a command."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="KEEPER_CONFIG",
        help="TOML file; without it KEEPER_CONFIG, then ./keeper.toml, then only the environment.",
    )(function)


def with_json(function: F) -> F:
    """--json on a command."""
    return click.option(
        "as_json", "--json", is_flag=True, help="Print one JSON document; amounts are strings of base units."
    )(function)


def with_comet(function: F) -> F:
    """--comet-model on a command that runs a private chain."""
    return click.option(
        "--comet-model",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Solidity file of a Comet-like market to carry beside the others.",
    )(function)


class BorrowerType(click.ParamType[Address]):
    """An address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Lower case; fails as wrong usage."""
        try:
            return address(str(value).strip())
        except ValueError:
            self.fail("an address is 0x and 40 hexadecimal digits", param, ctx)


class SinceType(click.ParamType[tuple[int, int]]):
    """A moment: a duration back from now, a date, or a block."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(block, Unix time), one of them 0."""
        if isinstance(value, tuple):
            return int(value[0]), int(value[1])
        text = str(value).strip()
        if re.fullmatch(r"[0-9][0-9_]*", text):
            return int(text), 0
        with suppress(ValueError):
            return 0, int(time.time() - parse_seconds(text))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail('give a duration such as "24h", a date such as 2026-01-31 (UTC), or a block number', param, ctx)
        return 0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(keeper_version(), prog_name="keeper")
@click.option("--debug", is_flag=True, help="Log everything, and show tracebacks of errors.")
@click.pass_obj
def cli(session: Session, *, debug: bool) -> None:
    """Watch lending markets, and liquidate what can be liquidated. Nothing is sent without `run --live`."""
    session.debug = debug


@cli.command()
@with_config
@click.option("--live", is_flag=True, help="Send transactions. Needs a signer, an executor and a passed doctor.")
@click.option("--once", is_flag=True, help="One pass at the newest block, then stop.")
@click.pass_obj
def run(session: Session, path: Path | None, *, live: bool, once: bool) -> None:
    """Run the keeper; a dry run unless --live is given."""
    config = session.load(path)
    asyncio.run(session.app.run(config, session.redactor, live=live, once=once))


@cli.command()
@with_config
@with_json
@click.pass_obj
def scan(session: Session, path: Path | None, *, as_json: bool) -> None:
    """List every borrower with debt and its exact health factor."""
    config = session.load(path, quiet=True)
    view = asyncio.run(session.app.scan(config, session.redactor))
    out = tables.console()
    tables.emit_json(out, view.json()) if as_json else out.print(tables.scan(view))


@cli.command()
@click.argument("borrower", type=BorrowerType())
@click.option("--market", help="Only this market of the configuration.")
@with_config
@with_json
@click.pass_obj
def explain(session: Session, borrower: Address, market: str | None, path: Path | None, *, as_json: bool) -> None:
    """Show what would be done about BORROWER, with every pair, gate and number."""
    config = session.load(path, quiet=True)
    views = asyncio.run(session.app.explain(config, session.redactor, borrower, market))
    out = tables.console()
    if as_json:
        tables.emit_json(out, [view.json() for view in views])
        return
    for view in views:
        out.print(tables.explain(view))
    if not views:
        out.print("no configured market knows this borrower")


@cli.command()
@with_config
@with_json
@click.option("--live", is_flag=True, help="Also require what `run --live` requires.")
@click.option("--notify", is_flag=True, help="Send a test message to every alert channel.")
@click.pass_obj
def doctor(session: Session, path: Path | None, *, as_json: bool, live: bool, notify: bool) -> None:
    """Check configuration, nodes, contracts, signer and disk; each no comes with its fix."""
    config = session.load(path, quiet=True)
    out = tables.console()
    tell = (lambda result: None) if as_json else (lambda result: out.print(tables.finding(result)))
    report = asyncio.run(session.app.doctor(config, session.redactor, live=live, notify=notify, tell=tell))
    if as_json:
        tables.emit_json(out, session.redactor.value(report.json()))
    else:
        out.print(tables.doctor(report))
    if not report.passed:
        failed = ", ".join(result.name for result in report.failed)
        raise CheckFailed(f"the doctor says no to: {failed}; each fix is given above")


@cli.command()
@with_config
@with_json
@click.option(
    "--since", type=SinceType(), default=(0, 0), help='"24h", a date (UTC) or a block; without it everything.'
)
@click.option("--live", is_flag=True, help="The journal of live runs instead of that of dry runs.")
@click.pass_obj
def report(session: Session, path: Path | None, since: tuple[int, int], *, as_json: bool, live: bool) -> None:
    """Tell what was seen, done, left alone and earned, from the journal."""
    config = session.load(path, quiet=True)
    summary, attempts = session.app.report(config, block=since[0], at=since[1], live=live)
    out = tables.console()
    if as_json:
        tables.emit_json(out, summary.json() | {"rows": [row.json() for row in attempts]})
    else:
        out.print(tables.report(summary, attempts))


@cli.command()
@with_config
@click.option("--yes", is_flag=True, help="Do not ask before sending the transaction.")
@click.pass_obj
def deploy(session: Session, path: Path | None, *, yes: bool) -> None:
    """Deploy the executor with the configured signer as its owner and operator, and verify it."""
    config = session.load(path)

    def confirm(question: str) -> bool:
        return yes or click.confirm(question)

    deployed = asyncio.run(session.app.deploy(config, session.redactor, confirm=confirm))
    tables.console().print(deployed)


@cli.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the ready-to-use configuration.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8545, show_default=True, help="Port of the node; 0 takes any."
)
@with_comet
@click.pass_obj
def devchain(session: Session, path: Path | None, port: int, comet_model: Path | None) -> None:
    """Run a private chain with real protocol bytecode in the foreground, until stopped."""
    logging.configure(session.redactor, level="debug" if session.debug else "info")
    asyncio.run(session.app.devchain(path, port=port, comet_model=comet_model))


@cli.command()
@with_json
@click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Where to keep the demo's configuration."
)
@with_comet
@click.pass_obj
def demo(session: Session, path: Path | None, comet_model: Path | None, *, as_json: bool) -> None:
    """Show the real daemon at work on a private chain."""
    logging.configure(session.redactor, level="debug" if session.debug else "warning")
    view = asyncio.run(session.app.demo(path, comet_model=comet_model))
    out = tables.console()
    tables.emit_json(out, view.json()) if as_json else out.print(tables.demo(view))


@cli.command()
@with_config
@click.pass_obj
def health(session: Session, path: Path | None) -> None:
    """Ask the running keeper whether it is alive (for HEALTHCHECK)."""
    config = session.load(path, quiet=True)
    found = asyncio.run(ask_livez(config.ops.http_host, config.ops.http_port))
    if not found.ok:
        raise CheckFailed("; ".join(found.reasons))
    click.echo("alive")


def with_mode(function: F) -> F:
    """--live or --dry on a command that talks to a running keeper."""
    chosen = click.option("--live", "mode", flag_value="live", default=None, help="The live keeper.")
    other = click.option(
        "--dry", "mode", flag_value="dry", default=None, help="The dry one; without either the live one if it runs."
    )
    return chosen(other(function))


@contextmanager
def calling(session: Session, path: Path | None, mode: str | None) -> Iterator[Caller]:
    """A connection to the keeper that runs on this configuration."""
    with closing(Caller.find(session.load(path, quiet=True).data_dir, mode)) as caller:
        yield caller


@cli.command()
@click.option("--reason", default="", help="A word for whoever looks later.")
@with_mode
@with_config
@click.pass_obj
def pause(session: Session, path: Path | None, mode: str | None, reason: str) -> None:
    """Stop the running keeper from sending anything new; it watches on, and tends what it has sent."""
    with calling(session, path, mode) as caller:
        said = caller.ask("pause", reason=reason)
    click.echo(
        f"paused: nothing new is sent until `keeper resume`, also after a restart; {said['in_flight']} in flight"
    )


@cli.command()
@click.argument("names", nargs=-1)
@with_mode
@with_config
@click.pass_obj
def resume(session: Session, path: Path | None, mode: str | None, names: tuple[str, ...]) -> None:
    """Let the running keeper send again: lift all that stops it, or only NAMES.

    A name is a breaker's, "pause", "quarantine", or the borrower of a quarantined position.
    """
    with calling(session, path, mode) as caller:
        said = caller.ask("resume", names=list(names))
    click.echo(f"lifted: {', '.join(said['lifted'])}" if said["lifted"] else "nothing had to be lifted")
    for line in stops(said["status"]):
        click.echo(f"still {line}")


@cli.command()
@click.option("--watch", is_flag=True, help="Again every second, until interrupted.")
@with_mode
@with_config
@with_json
@click.pass_obj
def status(session: Session, path: Path | None, mode: str | None, *, watch: bool, as_json: bool) -> None:
    """Show what the running keeper does, and everything that keeps it from sending."""
    out = tables.console()
    with calling(session, path, mode) as caller:
        while True:
            said = caller.ask("status")
            if watch and out.is_terminal and not as_json:
                out.clear()
            if watch and as_json:
                click.echo(orjson.dumps(said).decode())
            else:
                tables.emit_json(out, said) if as_json else out.print(status_table(said))
            if not watch:
                return
            time.sleep(1.0)


@cli.group(name="config")
def config_group() -> None:
    """Check, show and explain the configuration."""


@config_group.command()
@with_config
@click.pass_obj
def validate(session: Session, path: Path | None) -> None:
    """Say whether the configuration can be used, naming every wrong key."""
    config = session.load(path, quiet=True)
    session.app.check_words(config)
    counts = f"{len(config.markets)} markets, {len(config.venues)} venues"
    click.echo(f"the configuration is valid: chain {config.chain.id}, {counts}")


@config_group.command()
@with_config
@with_json
@click.pass_obj
def show(session: Session, path: Path | None, *, as_json: bool) -> None:
    """Print every value in force, secrets masked, and where it came from."""
    rows = [(row.key, session.redactor.text(row.value), row.source) for row in describe(session.load(path, quiet=True))]
    if as_json:
        tables.emit_json(tables.console(), [dict(zip(("key", "value", "source"), row, strict=True)) for row in rows])
    else:
        tables.console().print(tables.config_rows(rows))


@config_group.command()
@with_json
def schema(*, as_json: bool) -> None:
    """Print every key with its type, default and help; with --json the JSON Schema for editors."""
    if as_json:
        click.echo(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())
        return
    tables.console().print(tables.schema_rows(keys()))


def main() -> NoReturn:
    """Entry point of the command ``keeper``."""
    cli.main()
