"""Bytecode: from the protocols' npm packages as published, or compiled from their sources with the pinned compiler."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eth_abi.abi import encode

from keeper.devchain.solc import ROOT, compile_standard
from keeper.devchain.store import digest, stored
from keeper.errors import ConfigError

MODULES = ROOT / "node_modules"
CONTRACTS = Path(__file__).resolve().parent / "contracts"

_IMPORT = re.compile(r"""^\s*import\b[^'"]*?['"]([^'"]+)['"]""", re.MULTILINE)
_AAVE = "@aave-dao/aave-v3-origin/src/contracts/"
_REMAPPINGS = {
    "openzeppelin-contracts/contracts/": "@openzeppelin/contracts/",
    "openzeppelin-contracts-upgradeable/contracts/": "@openzeppelin/contracts-upgradeable/",
    "solidity-utils/": "@bgd-labs/solidity-utils/src/",
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """Creation code, the library holes in it, and the types of the constructor's arguments."""

    name: str
    code: str  # hex without 0x; holes are 40 characters that are not an address
    links: tuple[tuple[str, tuple[int, ...]], ...]  # (library, byte offsets)
    arguments: tuple[str, ...]

    def creation(self, libraries: Mapping[str, str], *args: Any) -> bytes:
        """Code to deploy: libraries put in and constructor arguments appended."""
        code = self.code
        for library, offsets in self.links:
            for at in offsets:
                code = code[: 2 * at] + libraries[library][2:].lower() + code[2 * at + 40 :]
        return bytes.fromhex(code) + encode(self.arguments, args)


def package_version(package: str) -> str:
    """Version of an installed npm package; raises ConfigError when it is not installed."""
    try:
        described = json.loads((MODULES / package / "package.json").read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"the npm package {package} is not installed under {ROOT}: run `make install` first"
        ) from error
    return f"{package}@{described['version']}"


@cache
def published(package: str, path: str) -> Artifact:
    """An artifact as published: hardhat's and truffle's formats. `path` is relative to the package."""
    package_version(package)
    name = posixpath.basename(path).removesuffix(".json")
    raw = json.loads((MODULES / package / path).read_text())
    return _artifact(name, raw["abi"], raw["bytecode"], raw.get("linkReferences") or {})


def aave_302(path: str) -> Artifact:
    """``@aave/core-v3``'s artifact of ``contracts/<path>.sol``, e.g. ``protocol/pool/Pool``."""
    return published("@aave/core-v3", f"artifacts/contracts/{path}.sol/{posixpath.basename(path)}.json")


def uniswap_v2(name: str) -> Artifact:
    """``@uniswap/v2-core``'s artifact."""
    return published("@uniswap/v2-core", f"build/{name}.json")


def uniswap_v3(path: str, package: str = "v3-core") -> Artifact:
    """``@uniswap/v3-core``'s or ``v3-periphery``'s artifact of ``contracts/<path>.sol``."""
    return published(f"@uniswap/{package}", f"artifacts/contracts/{path}.sol/{posixpath.basename(path)}.json")


_IRM = "types/factories/lib/morpho-blue-irm/src/adaptive-curve-irm/AdaptiveCurveIrm__factory.js"
_TYPECHAIN_CODE = re.compile(r'_bytecode = "0x([0-9a-f]+)"')


@cache
def morpho_blue() -> Artifact:
    """Morpho Blue, compiled from ``@morpho-org/morpho-blue`` as it is deployed (about 17 s the first time)."""
    settings = {
        "optimizer": {"enabled": True, "runs": 999_999},
        "viaIR": True,
        "evmVersion": "paris",
        "metadata": {"bytecodeHash": "none"},
    }
    entry = "@morpho-org/morpho-blue/src/Morpho.sol"
    return _compiled("morpho-blue", [entry], MODULES, settings, compiler="solc-0.8.19")["Morpho"]


@cache
def adaptive_curve_irm() -> Artifact:
    """Morpho's interest rate model as ``@morpho-org/morpho-blue-bundlers`` publishes it, in a TypeChain factory."""
    package = "@morpho-org/morpho-blue-bundlers"
    package_version(package)
    found = _TYPECHAIN_CODE.search((MODULES / package / _IRM).read_text())
    if found is None:
        raise ConfigError(f"{MODULES / package / _IRM} holds no bytecode: run `make install` first")
    return Artifact("AdaptiveCurveIrm", found[1], (), ("address",))


@cache
def uniswap_v4(name: str) -> Artifact:
    """``@uniswap/v4-core``'s artifact of a contract named like its file, in foundry's format."""
    package_version("@uniswap/v4-core")
    raw = json.loads((MODULES / f"@uniswap/v4-core/out/{name}.sol/{name}.json").read_text())
    return _artifact(name, raw["abi"], raw["bytecode"]["object"], raw["bytecode"]["linkReferences"])


def balancer_v2(task: str, name: str) -> Artifact:
    """``@balancer-labs/v2-deployments``' artifact of a contract deployed in a task, e.g. ``20210418-vault``."""
    return published("@balancer-labs/v2-deployments", f"dist/tasks/{task}/artifact/{name}.json")


AAVE_36 = (
    *(f"protocol/libraries/logic/{name}Logic" for name in ("Borrow", "FlashLoan", "Liquidation", "Pool", "Supply")),
    "protocol/libraries/logic/ConfiguratorLogic",
    "protocol/configuration/PoolAddressesProvider",
    "protocol/configuration/ACLManager",
    "instances/PoolInstance",
    "instances/PoolConfiguratorInstance",
    "instances/ATokenInstance",
    "instances/VariableDebtTokenInstance",
    "misc/AaveOracle",
    "misc/DefaultReserveInterestRateStrategyV2",
    "helpers/AaveProtocolDataProvider",
    "helpers/LiquidationDataProvider",
)


@cache
def aave_36() -> Mapping[str, Artifact]:
    """Aave V3.6 by contract name, compiled from ``@aave-dao/aave-v3-origin`` (about 20 s the first time)."""
    settings = {"optimizer": {"enabled": True, "runs": 200}, "evmVersion": "shanghai"}
    return _compiled("aave-v3.6", [f"{_AAVE}{path}.sol" for path in AAVE_36], MODULES, settings)


@cache
def own_contracts() -> Mapping[str, Artifact]:
    """The tokens, feeds and market maker of the private chain, by contract name."""
    settings = {"optimizer": {"enabled": True, "runs": 200}, "evmVersion": "shanghai"}
    return _compiled("devchain", sorted(path.name for path in CONTRACTS.glob("*.sol")), CONTRACTS, settings)


def _compiled(
    name: str, entries: Sequence[str], root: Path, settings: dict[str, Any], compiler: str = "solc"
) -> Mapping[str, Artifact]:
    """Compile the first contract named like its file, for each entry; cached by sources, settings and compiler."""
    sources = _closure(entries, root)
    key = digest([package_version(compiler), sources, settings, list(entries)])

    def build(directory: Path) -> None:
        request = {
            "language": "Solidity",
            "sources": {path: {"content": text} for path, text in sources.items()},
            "settings": settings
            | {
                "remappings": [f"{a}={b}" for a, b in _REMAPPINGS.items()],
                "outputSelection": {
                    entry: {"*": ["abi", "evm.bytecode.object", "evm.bytecode.linkReferences"]} for entry in entries
                },
            },
        }
        answer = compile_standard(request, compiler)
        found = {
            contract: {
                "abi": made["abi"],
                "bytecode": made["evm"]["bytecode"]["object"],
                "linkReferences": made["evm"]["bytecode"]["linkReferences"],
            }
            for entry in entries
            for contract, made in answer["contracts"][entry].items()
            if made["evm"]["bytecode"]["object"]
        }
        (directory / "artifacts.json").write_text(json.dumps(found))

    raw = json.loads((stored(f"compiled/{name}-{key}", build) / "artifacts.json").read_text())
    return {n: _artifact(n, r["abi"], r["bytecode"], r["linkReferences"]) for n, r in raw.items()}


def _closure(entries: Sequence[str], root: Path) -> dict[str, str]:
    """Sources of the entries and of all they import, by source unit name."""
    found: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        unit = waiting.pop()
        if unit in found:
            continue
        try:
            text = (root / unit).read_text()
        except FileNotFoundError as error:
            raise ConfigError(f"the source {root / unit} is missing: run `make install` first") from error
        found[unit] = text
        waiting += [_resolve(unit, wanted) for wanted in _IMPORT.findall(text)]
    return dict(sorted(found.items()))


def _resolve(unit: str, wanted: str) -> str:
    if wanted.startswith("."):
        return posixpath.normpath(posixpath.join(posixpath.dirname(unit), wanted))
    for prefix, target in _REMAPPINGS.items():
        if wanted.startswith(prefix):
            return target + wanted[len(prefix) :]
    return wanted


def _artifact(name: str, abi: list[dict[str, Any]], code: str, links: dict[str, Any]) -> Artifact:
    constructor = next((entry for entry in abi if entry["type"] == "constructor"), None)
    holes = tuple(
        (library, tuple(place["start"] for place in places))
        for libraries in links.values()
        for library, places in libraries.items()
    )
    arguments = tuple(item["type"] for item in constructor["inputs"]) if constructor else ()
    return Artifact(name, code.removeprefix("0x"), holes, arguments)
