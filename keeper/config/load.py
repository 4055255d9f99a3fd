"""From TOML, environment and secret files to one `Config`, with every wrong key named in one error.

Later sources win: default, file, environment. ``KEEPER__SECTION__KEY`` sets a key, ``${NAME}`` inside a string of the
file is replaced from the environment, and ``<key>_file`` reads a value from a file, as container secrets are mounted.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from keeper.config.schema import Config
from keeper.errors import ConfigError

ENV_PREFIX = "KEEPER__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_ENV_ONLY = {"signer.password", "signer.private_key", "private.signing_key"}
_FURTHER = re.compile(r"^signers\.[^.]+\.")  # tables of further signers have the keys of the first
_FROM_FILE = {
    "chain.endpoints_file": "chain.endpoints",
    "signer.password_file": "signer.password",
    "signer.private_key_file": "signer.private_key",
    "signer.remote_url_file": "signer.remote_url",
    "alerts.channels_file": "alerts.channels",
    "alerts.severe_channels_file": "alerts.severe_channels",
    "private.signing_key_file": "private.signing_key",
}
_PATHS = {"data.dir", "signer.keystore", *_FROM_FILE}

Key = tuple[str | int, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read, merge and check; raises ConfigError that names every wrong key, and repeats no value."""
    draft = _Draft(environ)
    if path is not None:
        draft.read(path)
    draft.read_environment()
    draft.read_files()
    config = draft.build()
    if config is None or draft.problems:
        where = str(path) if path is not None else "the environment"
        count = len(draft.problems)
        lines = "".join(f"\n  {_line(key, text)}" for key, text in draft.problems.items())
        raise ConfigError(f"the configuration from {where} has {count} error{'s' * (count != 1)}:{lines}")
    return config


class _Draft:
    """The configuration while it is put together; problems are kept by dotted key and none is fatal by itself."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.data: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def read(self, path: Path) -> None:
        """The TOML file, with variables replaced and relative paths taken from its folder."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"the config file {path} does not exist: name another with --config") from None
        except OSError as error:
            raise ConfigError(f"the config file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"the config file {path} is not UTF-8 text") from None
        except tomllib.TOMLDecodeError as error:
            place = re.search(r"\(at [^()]*\)$", str(error))
            raise ConfigError(
                f"the config file {path} is not valid TOML {place[0] if place else ''}: "
                "strings stand in quotes and a table may appear only once"
            ) from None
        self.data = self._prepare(raw, (), str(path), path.parent)

    def _prepare(self, value: Any, key: Key, source: str, folder: Path) -> Any:
        if isinstance(value, dict):
            return {name: self._prepare(item, (*key, name), source, folder) for name, item in value.items()}
        dotted = _dotted(key)
        if isinstance(value, list):
            self.sources[dotted] = source
            return [self._prepare(item, (*key, index), source, folder) for index, item in enumerate(value)]
        if isinstance(value, str):
            if _known(dotted) in _ENV_ONLY and not _WHOLE_VARIABLE.fullmatch(value):
                variable = ENV_PREFIX + dotted.upper().replace(".", "__")
                self.problems[dotted] = f"must not stand in the file: set {variable} or use {dotted}_file"
                return value
            names = _VARIABLE.findall(value)
            missing = [name for name in names if not self.environ.get(name)]
            if missing:
                self.problems[dotted] = f"the environment variable {' and '.join(missing)} is not set"
                return value
            value = _VARIABLE.sub(lambda match: self.environ[match[1]], value)
            if names:
                source = f"{source} with ${{{'}, ${'.join(names)}}}"
            if _known(dotted) in _PATHS and value and not value.startswith("~"):
                value = str(folder / value)
        self.sources[dotted] = source
        return value

    def read_environment(self) -> None:
        """Every ``KEEPER__…`` variable; an unknown one is an error, because it was meant to do something."""
        for name in sorted(self.environ):
            if name.startswith("KEEPER_") and "__" in name and not name.startswith(ENV_PREFIX):
                self.problems[name] = (
                    f"unknown environment variable; did you mean {ENV_PREFIX}{name[len('KEEPER_') :]}?"
                )
            if not name.startswith(ENV_PREFIX):
                continue
            parts = name[len(ENV_PREFIX) :].lower().split("__")
            table: Any = self.data
            for depth, part in enumerate(parts[:-1]):
                part = _existing(part, table)
                parts[depth] = part
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    break
            if not all(parts) or len(parts) < 2 or not isinstance(table, dict):
                self.problems[name] = f"is not of the form {ENV_PREFIX}SECTION__KEY"
                continue
            table[parts[-1]] = self.environ[name]
            dotted = ".".join(parts)
            if _known(dotted) not in _ENV_ONLY:  # a secret written into the file is wrong even when it is overridden
                self.problems.pop(dotted, None)
            self.sources[dotted] = f"environment {name}"

    def read_files(self) -> None:
        """Replace each ``<key>_file`` by the text in that file."""
        for file_key, key in self._from_file():
            section, _, name = key.rpartition(".")
            table: Any = self.data
            for part in section.split("."):
                table = table.get(part) if isinstance(table, dict) else None
            if not isinstance(table, dict) or not table.get(f"{name}_file"):
                continue
            if name in table:
                # The later source wins; within one source two values are one too many.
                ours, theirs = self.sources[file_key], self.sources.get(key, "")
                if ours.startswith("environment") == theirs.startswith("environment"):
                    self.problems[key] = f"{key} and {file_key} are both set: keep one"
                    continue
                if theirs.startswith("environment"):
                    continue
            try:
                text = Path(str(table[f"{name}_file"])).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                self.problems[file_key] = f"the file it names cannot be read: {reason}"
                self.problems.setdefault(key, "")  # said once, at the file's key
                continue
            if not text.strip():
                self.problems[file_key] = "the file it names is empty"
            table[name] = text
            self.sources[key] = f"file of {file_key}"

    def _from_file(self) -> list[tuple[str, str]]:
        """Each ``<key>_file`` with its key, for every table of signers."""
        further = self.data.get("signers")
        names = further if isinstance(further, dict) else {}
        mine = [(file_key, key) for file_key, key in _FROM_FILE.items() if key.startswith("signer.")]
        return list(_FROM_FILE.items()) + [
            (file_key.replace("signer", f"signers.{name}", 1), key.replace("signer", f"signers.{name}", 1))
            for name in names
            for file_key, key in mine
        ]

    def build(self) -> Config | None:
        """The checked configuration, or None with the problems noted."""
        config, found = None, []
        try:
            config = Config.model_validate(self.data)
            config._sources = self.sources  # noqa: SLF001 - the loader completes what it builds
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        for item in found:
            dotted = _dotted(item["loc"])
            if not any(dotted == known or dotted.startswith(known + "[") for known in self.problems):
                self.problems[self._label(dotted)] = _sentence(
                    item["loc"], item["type"], item["msg"], item.get("ctx", {})
                )
        self.problems = {key: text for key, text in self.problems.items() if text}
        return config

    def _label(self, dotted: str) -> str:
        """The key, with the variable that set it or something below it."""
        for key, source in self.sources.items():
            if source.startswith("environment") and (key == dotted or key.startswith(f"{dotted}.")):
                return f"{dotted} ({source.removeprefix('environment ')})"
        return dotted


def _known(dotted: str) -> str:
    """The key by which the tables above know it."""
    return _FURTHER.sub("signer.", dotted)


def _dotted(key: Iterable[str | int]) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text.removesuffix(".[key]")


def _line(key: str, text: str) -> str:
    """One problem. A secret's key has no colon behind it: what follows one is masked wherever it is printed."""
    return text if not key else f"{key} {text}" if key in _ENV_ONLY else f"{key}: {text}"


def _existing(part: str, table: Mapping[str, Any]) -> str:
    """The key of `table` that an environment variable can only spell with underscores."""
    return next((name for name in table if name.lower().replace("-", "_") == part), part)


def _sentence(loc: Key, kind: str, message: str, context: Mapping[str, Any]) -> str:
    """A pydantic error in plain words, without the value."""
    match kind:
        case "missing":
            return "is missing" + _help(loc)
        case "extra_forbidden":
            return "unknown key" + _suggestion(loc)
        case "value_error":
            return str(context["error"])
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than":
            return f"must be less than {context['lt']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "literal_error":
            return f"must be {context['expected']}"
        case "too_short":
            return "needs at least one entry"
        case "string_too_short":
            return "must not be empty"
        case "string_pattern_mismatch":
            return "a name has only lower-case letters, digits and single - or _"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a table of keys"
        case "tuple_type":
            return "must be a list"
        case _:
            return message[:1].lower() + message[1:]


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The schema of a section, or of the entries of a table of sections."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _section(loc: Key) -> tuple[type[BaseModel], int]:
    """The schema that holds the last part of `loc`, and at which depth its keys stand."""
    if len(loc) == 1:
        return Config, 0
    field = Config.model_fields.get(str(loc[0]))
    section = section_model(field.annotation) if field else None
    return (section, len(loc) - 1) if section else (Config, 0)


def _help(loc: Key) -> str:
    field = _section(loc)[0].model_fields.get(str(loc[-1]))
    if field is None:
        return ""
    section = section_model(field.annotation)
    text = field.description or (section.__doc__ if section else "") or ""
    return f": {text[:1].lower()}{text[1:]}".rstrip(".")


def _suggestion(loc: Key) -> str:
    """The key that was probably meant: in the same table first, then in any other."""
    wrong = str(loc[-1])
    section, depth = _section(loc)
    near = get_close_matches(wrong, section.model_fields, n=1)
    if near:
        return f"; did you mean {_dotted((*loc[:depth], near[0]))}?"
    for name, field in Config.model_fields.items():
        other = section_model(field.annotation)
        if other is not None and (near := get_close_matches(wrong, other.model_fields, n=1, cutoff=0.85)):
            middle = ".<name>" if name in ("markets", "venues", "relays", "signers") else ""
            return f"; did you mean {name}{middle}.{near[0]}?"
    return f"; known here: {', '.join(section.model_fields)}"
