"""``python -m keeper.devchain.build_executor``: ``contracts_abi/Executor.sol`` into ``contracts_abi/executor.json``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from keeper.devchain.solc import ROOT, compile_standard

SOURCE = ROOT / "contracts_abi" / "Executor.sol"
ARTIFACT = ROOT / "contracts_abi" / "executor.json"

# No metadata: the code then depends on nothing but the source, the compiler and these settings.
SETTINGS: dict[str, Any] = {
    "evmVersion": "cancun",
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "optimizer": {"enabled": True, "runs": 1_000_000},
    "viaIR": True,
}


def build() -> str:
    """The text of the artifact; raises ConfigError when the compiler is missing or refuses the source."""
    source = SOURCE.read_text()
    outputs = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "storageLayout"]
    answer = compile_standard(
        {
            "language": "Solidity",
            "sources": {SOURCE.name: {"content": source}},
            "settings": SETTINGS | {"outputSelection": {SOURCE.name: {"Executor": outputs}}},
        }
    )
    made = answer["contracts"][SOURCE.name]["Executor"]
    artifact = {
        "contract": "Executor",
        "source": {"file": SOURCE.name, "sha256": hashlib.sha256(source.encode()).hexdigest()},
        "compiler": {"package": f"solc@{_compiler_version()}", "settings": SETTINGS},
        "storage": {
            item["label"]: {"slot": int(item["slot"]), "offset": item["offset"]}
            for item in made["storageLayout"]["storage"]
        },
        "abi": made["abi"],
        "bytecode": "0x" + made["evm"]["bytecode"]["object"],
        "runtime": "0x" + made["evm"]["deployedBytecode"]["object"],
    }
    return _format(artifact)


def _compiler_version() -> str:
    return str(json.loads((ROOT / "node_modules" / "solc" / "package.json").read_text())["version"])


def _format(artifact: dict[str, Any]) -> str:
    """JSON with one ABI entry per line."""
    lines = []
    for key, value in artifact.items():
        if key == "abi":
            entries = ",\n".join(f"    {json.dumps(entry)}" for entry in value)
            lines.append(f'  "abi": [\n{entries}\n  ]')
        else:
            lines.append(f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the artifact."""
    ARTIFACT.write_text(build())
    sys.stdout.write(f"{ARTIFACT.relative_to(Path.cwd()) if ARTIFACT.is_relative_to(Path.cwd()) else ARTIFACT}\n")


if __name__ == "__main__":
    main()
