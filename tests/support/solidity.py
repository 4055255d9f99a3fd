"""The test contracts of ``tests/support/contracts``, compiled once and cached like the private chain itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from keeper.devchain.artifacts import MODULES, Artifact, _closure, package_version
from keeper.devchain.solc import compile_standard
from keeper.devchain.store import digest, stored

_CONTRACTS = Path(__file__).resolve().parent / "contracts"
_WRAPPED = Path(__file__).resolve().parent / "wrapped"
_SETTINGS: dict[str, Any] = {"optimizer": {"enabled": True, "runs": 200}, "evmVersion": "cancun", "viaIR": True}


@cache
def compiled_contracts() -> Mapping[str, Artifact]:
    """Every contract of every file there, by name."""
    return _compiled("tests", {path.name: path.read_text() for path in sorted(_CONTRACTS.glob("*.sol"))})


@cache
def wrapped_contracts() -> Mapping[str, Artifact]:
    """The vaults and the staked pair of ``tests/support/wrapped``, over OpenZeppelin's ERC4626 as installed."""
    imported = _closure(["@openzeppelin/contracts/token/ERC20/extensions/ERC4626.sol"], MODULES)
    own = {path.name: path.read_text() for path in sorted(_WRAPPED.glob("*.sol"))}
    return _compiled("wrapped", {**own, **imported}, viaIR=False)


def _compiled(label: str, texts: Mapping[str, str], **settings: Any) -> Mapping[str, Artifact]:
    chosen = _SETTINGS | settings
    sources = {name: {"content": text} for name, text in texts.items()}

    def build(directory: Path) -> None:
        selection = {"outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}}}
        request = {"language": "Solidity", "sources": sources, "settings": chosen | selection}
        answer = compile_standard(request)
        found = {
            name: {"code": made["evm"]["bytecode"]["object"], "arguments": _arguments(made["abi"])}
            for contracts in answer["contracts"].values()
            for name, made in contracts.items()
        }
        (directory / "artifacts.json").write_text(json.dumps(found))

    key = digest([package_version("solc"), sources, chosen])
    raw = json.loads((stored(f"compiled/{label}-{key}", build) / "artifacts.json").read_text())
    return {name: Artifact(name, made["code"], (), tuple(made["arguments"])) for name, made in raw.items()}


def _arguments(abi: list[dict[str, Any]]) -> list[str]:
    return [item["type"] for entry in abi if entry["type"] == "constructor" for item in entry["inputs"]]
