"""What a log line looks like."""

from __future__ import annotations

import io
import json
import logging as stdlib_logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from keeper.ops import logging
from keeper.ops.redact import Redactor

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = stdlib_logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: stdlib_logging.getLogger(name).level for name in ("web3", "asyncio")}
    yield
    stdlib_logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        stdlib_logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_are_whole_and_exact() -> None:
    """One object per line, time, level and event first, context included, and no integer a reader would round."""
    out = io.StringIO()
    log = logging.configure(Redactor(), stream=out)
    with structlog.contextvars.bound_contextvars(block=7):
        log.info("liquidation.sent", net_wei=2**53, gas=21_000, nested={"wei": [10**30]}, ok=True, text="a\nb")
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert list(found)[:3] == ["timestamp", "level", "event"]
    assert found["timestamp"].endswith("Z")
    del found["timestamp"]
    assert found == {
        "level": "info",
        "event": "liquidation.sent",
        "block": 7,
        "net_wei": "9007199254740992",
        "gas": 21_000,
        "nested": {"wei": ["1000000000000000000000000000000"]},
        "ok": True,
        "text": "a\nb",
    }


def test_auto_is_pretty_on_a_terminal_only() -> None:
    """`auto` decides by the stream; `json` and `pretty` insist."""
    for stream, style, pretty in (
        (Terminal(), "auto", True),
        (io.StringIO(), "auto", False),
        (Terminal(), "json", False),
        (io.StringIO(), "pretty", True),
    ):
        logging.configure(Redactor(), style=style, stream=stream).info("hello")
        assert stream.getvalue().startswith("{") is not pretty


def test_levels() -> None:
    """Less than the level is not written; libraries' chatter needs debug."""
    out = io.StringIO()
    log = logging.configure(Redactor(), level="info", stream=out)
    log.debug("hidden")
    stdlib_logging.getLogger("web3.x").info("chatter")
    stdlib_logging.getLogger("web3.x").warning("trouble")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["trouble"]
    assert json.loads(out.getvalue())["logger"] == "web3.x"


def test_warnings_and_foreign_tracebacks_are_lines_too() -> None:
    """Python's warnings and a library's exceptions come out as JSON with the traceback inside."""
    out = io.StringIO()
    logging.configure(Redactor(), stream=out)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    try:
        raise ValueError("bad")
    except ValueError:
        stdlib_logging.getLogger("aiohttp.server").exception("failed")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert "careful" in first["event"]
    assert "ValueError: bad" in second["exception"]


def test_configuring_twice_does_not_double_lines() -> None:
    """The later call replaces the earlier one."""
    first, second = io.StringIO(), io.StringIO()
    logging.configure(Redactor(), stream=first)
    logging.configure(Redactor(), stream=second).info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
