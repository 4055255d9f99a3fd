"""The schema and a configuration as rows for a person: keys, types, defaults, help; values and their sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from keeper.config.load import section_model
from keeper.config.schema import Config


@dataclass(frozen=True, slots=True)
class KeyHelp:
    """One key of the schema."""

    key: str
    type: str
    default: str  # "required" where there is none, empty where unset is allowed
    help: str


@dataclass(frozen=True, slots=True)
class ValueRow:
    """One value in force, masked."""

    key: str
    value: str
    source: str


def json_schema() -> dict[str, Any]:
    """JSON Schema of the TOML file, with defaults as they would be written there."""
    schema = Config.model_json_schema()
    sections: dict[str, type[BaseModel]] = {}
    for field in Config.model_fields.values():
        if (inner := section_model(field.annotation)) is not None:
            sections[inner.__name__] = inner
    for name, entry in schema["$defs"].items():
        for key, described in entry["properties"].items():
            if "default" in described:
                described["default"] = _default(sections[name], key)
    return schema


def keys() -> list[KeyHelp]:
    """Every key in the order of the schema; names of your own stand as ``<name>``."""
    return list(_keys(Config, ""))


def _keys(schema: type[BaseModel], prefix: str) -> Iterator[KeyHelp]:
    properties = schema.model_json_schema()["properties"]
    for name, field in schema.model_fields.items():
        inner = section_model(field.annotation)
        if inner is not None:
            own = f"{prefix}{name}." + ("" if field.annotation is inner else "<name>.")
            yield from _keys(inner, own)
            continue
        if field.is_required():
            default = "required"
        elif field.default in (None, PydanticUndefined):
            default = ""
        else:
            default = _text(_default(schema, name))
        yield KeyHelp(f"{prefix}{name}", _type(properties[name]), default, field.description or "")


def _default(schema: type[BaseModel], name: str) -> Any:
    default = schema.model_fields[name].default
    return schema.model_construct(**{name: default}).model_dump(mode="json", include={name})[name]


def _type(entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        return _type(entry["anyOf"][0])
    if "enum" in entry:
        return " | ".join(entry["enum"])
    if entry.get("type") == "array":
        return f"list of {_type(entry['items'])}"
    return str(entry.get("format") or entry["type"])


def describe(config: Config) -> list[ValueRow]:
    """Every value in force, as it would be written in the file, and where it came from."""
    return list(_values(config, config.model_dump(mode="json"), ""))


def _values(config: Config, table: dict[str, Any], prefix: str) -> Iterator[ValueRow]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _values(config, value, f"{key}.")
        else:
            yield ValueRow(key, _text(value), _source(config, key, value))


def _source(config: Config, key: str, value: Any) -> str:
    if isinstance(value, list) and value and config.source(f"{key}[0]") != "default":
        return ", ".join(dict.fromkeys(config.source(f"{key}[{index}]") for index in range(len(value))))
    return config.source(key)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
