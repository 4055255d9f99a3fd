"""The rules of the house that a syntax tree can show."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
CORE = {"model", "errors", "maths", "ports", "program", "abi", "rewind", "compiled", "memory"}
ADAPTERS = {"protocols", "venues", "chain", "execution", "journal", "ops"}
ALLOWED = {
    "errors": set(),
    "model": {"errors"},
    "maths": {"model", "errors"},
    "abi_writing": set(),
    "program": {"model", "errors"},
    "abi": {"model", "errors", "abi_writing"},
    "compiled": {"memory"},
    "rewind": {"model", "errors"},
    "memory": set(),
    "ports": {"model", "errors", "program", "maths"},
    "strategy": {"model", "errors", "maths", "ports", "program"},
    "config": {"model", "errors"},
    "protocols": CORE | {"config", "protocols"},
    "venues": CORE | {"config", "venues"},
    "chain": CORE | {"config", "chain"},
    "execution": CORE | {"config", "execution", "chain"},
    "journal": CORE | {"config", "journal"},
    "ops": CORE | {"config", "ops", "chain"},
    "pauses": set(),
    "engine": CORE | {"strategy", "engine", "pauses"},
}


def imports(path: Path) -> set[str]:
    """The keeper's own second-level modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "keeper" else [f"keeper.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found.update(n.split(".")[1] for n in names if n.startswith("keeper."))
    return found


def files(part: str) -> list[Path]:
    single = ROOT / "keeper" / f"{part}.py"
    return [single] if single.exists() else sorted((ROOT / "keeper" / part).rglob("*.py"))


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_run_one_way(part: str) -> None:
    """No part imports what stands above or beside it."""
    assert files(part), f"keeper/{part} has no files"
    for path in files(part):
        wrong = imports(path) - ALLOWED[part] - {part}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("part", ["strategy", "engine", "execution"])
def test_the_middle_names_no_protocol_and_no_venue(part: str) -> None:
    """Planning, sending and the loop stay free of any protocol's or venue's name."""
    names = ("aave", "uniswap", "morpho", "comet", "spark", "balancer")
    for path in files(part):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            word = ""
            if isinstance(node, ast.Name):
                word = node.id
            elif isinstance(node, ast.Attribute):
                word = node.attr
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                word = node.name
            assert not any(name in word.lower() for name in names), f"{path.name}:{getattr(node, 'lineno', 0)} {word}"


def test_the_engine_can_be_read_in_one_sitting() -> None:
    """keeper/engine.py stays within 200 lines."""
    assert len((ROOT / "keeper" / "engine.py").read_text().splitlines()) <= 200


def test_top_level_holds_what_the_owner_named() -> None:
    """The given layout is there."""
    for name in ("pyproject.toml", "keeper", "contracts_abi", "tests", "config", "Dockerfile", "README.md"):
        assert (ROOT / name).exists(), name
