"""What surrounds every command: the application behind it, its masks and logs, and the one place errors end in."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import click

from keeper.config import Config, load
from keeper.errors import KeeperError
from keeper.model import Address
from keeper.ops import logging, tables
from keeper.ops.doctor import Report, Result
from keeper.ops.redact import Redactor
from keeper.ops.views import DemoView, ExplainView, ScanView

DEFAULT_CONFIG = Path("keeper.toml")
EXIT_BUG = 1
EXIT_INTERRUPTED = 130


def keeper_version() -> str:
    """The installed version."""
    try:
        return version("keeper")
    except PackageNotFoundError:
        return "unknown"


class SummaryView(tables.Summary, Protocol):
    """The journal's summary, for a table or as JSON."""

    def json(self) -> dict[str, Any]: ...


class AttemptView(tables.AttemptLine, Protocol):
    """One attempt of the journal, for a table or as JSON."""

    def json(self) -> dict[str, Any]: ...


class Application(Protocol):
    """What commands ask of `keeper.app`. Everything may raise a KeeperError."""

    def check_words(self, config: Config) -> None:
        """Raise ConfigError for a protocol or kind of venue that nobody implements."""

    async def run(self, config: Config, redactor: Redactor, *, live: bool, once: bool) -> None: ...

    async def scan(self, config: Config, redactor: Redactor) -> ScanView: ...

    async def explain(
        self, config: Config, redactor: Redactor, borrower: Address, market: str | None
    ) -> Sequence[ExplainView]: ...

    async def doctor(
        self, config: Config, redactor: Redactor, *, live: bool, notify: bool, tell: Callable[[Result], None]
    ) -> Report: ...

    def report(
        self, config: Config, *, block: int, at: int, live: bool
    ) -> tuple[SummaryView, Sequence[AttemptView]]: ...

    async def deploy(self, config: Config, redactor: Redactor, *, confirm: Callable[[str], bool]) -> str:
        """A sentence that says where the executor is and what to put into the configuration."""

    async def devchain(self, path: Path | None, *, port: int, comet_model: Path | None) -> None: ...

    async def demo(self, path: Path | None, *, comet_model: Path | None) -> DemoView: ...


class Session:
    """What every command shares: the masks learnt so far, and whether a traceback is wanted."""

    def __init__(self, app: Application | None = None) -> None:
        self.redactor = Redactor()
        self.debug = False
        self.data_dir: Path | None = None
        self._app = app

    @property
    def app(self) -> Application:
        """The composition root, imported when first needed: `--help` and `health` do without protocols and web3."""
        if self._app is None:
            self._app = cast(Application, import_module("keeper.app"))
        return self._app

    def load(self, path: Path | None, *, quiet: bool = False) -> Config:
        """The configuration, with its secrets known to the masks, and logging set up as it says."""
        if path is None and DEFAULT_CONFIG.exists():
            path = DEFAULT_CONFIG
        config = load(path, os.environ)
        self.redactor.add(*config.secrets())
        self.data_dir = config.data_dir
        level = "debug" if self.debug else "warning" if quiet else config.ops.log_level
        logging.configure(self.redactor, level=level, style=config.ops.log_format)
        return config


class Commands(click.Group):
    """The group whose `main` is the one place where an error becomes a sentence and an exit code."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and end the process."""
        session = extra.get("obj") or Session()
        try:
            code = super().main(*args, **extra | {"prog_name": "keeper", "standalone_mode": False, "obj": session})
        except click.exceptions.Exit as error:
            code = error.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            # The reader of our output has gone (`keeper scan | head`): nothing is wrong, and nothing more can be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except KeeperError as error:
            code = _explain(session, error)
        except BaseExceptionGroup as group:
            code = _explain_group(session, group)
        except Exception as error:  # the outermost frame: whatever arrives here is a bug, and is told as one
            code = _confess(session, error)
        sys.exit(code if isinstance(code, int) else 0)


def _explain(session: Session, error: KeeperError) -> int:
    """One sentence on standard error; with --debug the traceback too."""
    if session.debug:
        click.echo(session.redactor.text("".join(traceback.format_exception(error))), err=True, nl=False)
    click.echo(f"keeper: {session.redactor.text(str(error))}", err=True)
    return error.exit_code


def _explain_group(session: Session, group: BaseExceptionGroup[BaseException]) -> int:
    """Tasks that failed together: the first of our own errors speaks, unless there is a bug among them."""
    leaves = list(_leaves(group))
    ours = [error for error in leaves if isinstance(error, KeeperError)]
    if len(ours) == len(leaves):
        return max(_explain(session, error) for error in ours)
    if all(isinstance(error, KeeperError | KeyboardInterrupt | asyncio.CancelledError) for error in leaves):
        return EXIT_INTERRUPTED
    return _confess(session, group)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _confess(session: Session, error: BaseException) -> int:
    """A bug: a short message, and the traceback where it can be found, or at once with --debug."""
    text = session.redactor.text("".join(traceback.format_exception(error)))
    path = _keep(session, f"keeper {keeper_version()}, Python {sys.version.split()[0]}\n{text}")
    if session.debug or path is None:
        click.echo(text, err=True, nl=False)
    where = f" The traceback is in {path}; please report it." if path is not None else ""
    click.echo(f"keeper: this is a bug in the keeper ({type(error).__name__}).{where}", err=True)
    return EXIT_BUG


def _keep(session: Session, text: str) -> Path | None:
    """Write a private file beside the journal, which outlives a container, or else where temporary files go."""
    for folder in (session.data_dir, Path(tempfile.gettempdir())):
        if folder is None or not folder.is_dir():
            continue
        path = folder / f"keeper-bug-{int(time.time())}-{os.getpid()}.txt"
        with suppress(OSError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            return path
    return None
