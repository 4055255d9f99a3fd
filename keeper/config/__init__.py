"""The configuration: one schema, its value types, and the loader that says exactly what is wrong."""

from keeper.config.load import ENV_PREFIX, load
from keeper.config.schema import (
    Alerts,
    Audit,
    Breakers,
    Chain,
    Config,
    Data,
    Executor,
    Market,
    Ops,
    Section,
    Signer,
    Strategy,
    Tokens,
    Venue,
)
from keeper.config.values import MASK, Channel, Endpoint, Secret, format_seconds, format_wei, parse_seconds, parse_wei

__all__ = [
    "ENV_PREFIX",
    "MASK",
    "Alerts",
    "Audit",
    "Breakers",
    "Chain",
    "Channel",
    "Config",
    "Data",
    "Endpoint",
    "Executor",
    "Market",
    "Ops",
    "Secret",
    "Section",
    "Signer",
    "Strategy",
    "Tokens",
    "Venue",
    "format_seconds",
    "format_wei",
    "load",
    "parse_seconds",
    "parse_wei",
]
