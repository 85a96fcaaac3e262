"""The rules that hold the packages apart, read off their import statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Package -> packages of ours that it may import; the command line may import all of them.
ALLOWED = {
    "retrieval": {"retrieval"},
    "at2po_envs": {"retrieval", "at2po_envs"},
    "at2po_agents": {"retrieval", "at2po_envs", "at2po_agents"},
    "benchmarks": {"retrieval", "at2po_envs", "at2po_agents", "benchmarks"},
}
COMMAND_LINE = ROOT / "at2po_agents" / "cli"
STARTED = ROOT / "at2po_agents" / "__main__.py"
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if COMMAND_LINE in path.parents:
        return
    names = set(imported(path))
    assert {name.split(".")[0] for name in names} & ALLOWED.keys() <= ALLOWED[package]
    assert any(name.startswith("at2po_agents.cli") for name in names) == (path == STARTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print_no_global_randomness(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    forbidden = {"print", "random.seed", "random.random", "np.random.seed", "np.random.rand"}
    assert not forbidden & set(calls)
    assert "random" not in set(imported(path))
