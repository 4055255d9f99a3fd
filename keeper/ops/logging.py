"""Logs: pretty on a terminal, JSON otherwise, one canonical line per decision, and no secret in any of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import orjson
import structlog

from keeper.ops.redact import Redactor

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CHATTY = ("aiohttp.access", "asyncio", "web3", "websockets", "urllib3")
_BIGGEST_JSON = 2**53


def configure(
    redactor: Redactor, *, level: str = "info", style: str = "auto", stream: TextIO | None = None
) -> structlog.typing.FilteringBoundLogger:
    """Route structlog and the standard library's logging through one redacting chain to `stream` (stderr).

    `style` is auto, pretty or json; auto is pretty when `stream` is a terminal. Called once, when a command starts.
    """
    out = stream if stream is not None else sys.stderr
    pretty = style == "pretty" or (style == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
    ]
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        # Redaction stands last before rendering: what is formatted by then, tracebacks included, passes through it.
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Redaction(redactor), render],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("keeper")
    return logger


class _Redaction:
    """The processor that makes a secret impossible to log."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        redacted: dict[str, Any] = self._redactor.value(dict(event))
        return redacted


def _json(event: Any, **_: Any) -> str:
    """One line; integers that JavaScript and jq would round are written as strings."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return orjson.dumps(_exact(first | event), default=str).decode()


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _BIGGEST_JSON:
        return str(value)
    return value
