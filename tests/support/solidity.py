"""The test contracts of ``tests/support/contracts``, compiled once and cached like the private chain itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from keeper.devchain.artifacts import Artifact, package_version
from keeper.devchain.solc import compile_standard
from keeper.devchain.store import digest, stored

_CONTRACTS = Path(__file__).resolve().parent / "contracts"
_SETTINGS: dict[str, Any] = {"optimizer": {"enabled": True, "runs": 200}, "evmVersion": "cancun", "viaIR": True}


@cache
def compiled_contracts() -> Mapping[str, Artifact]:
    """Every contract of every file there, by name."""
    sources = {path.name: {"content": path.read_text()} for path in sorted(_CONTRACTS.glob("*.sol"))}

    def build(directory: Path) -> None:
        selection = {"outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}}}
        request = {"language": "Solidity", "sources": sources, "settings": _SETTINGS | selection}
        answer = compile_standard(request)
        found = {
            name: {"code": made["evm"]["bytecode"]["object"], "arguments": _arguments(made["abi"])}
            for contracts in answer["contracts"].values()
            for name, made in contracts.items()
        }
        (directory / "artifacts.json").write_text(json.dumps(found))

    key = digest([package_version("solc"), sources, _SETTINGS])
    raw = json.loads((stored(f"compiled/tests-{key}", build) / "artifacts.json").read_text())
    return {name: Artifact(name, made["code"], (), tuple(made["arguments"])) for name, made in raw.items()}


def _arguments(abi: list[dict[str, Any]]) -> list[str]:
    return [item["type"] for entry in abi if entry["type"] == "constructor" for item in entry["inputs"]]
