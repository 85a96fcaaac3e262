"""How the packages are built, read off their files.

`python -m tests.architecture --write` writes the tree of modules into docs/architecture.md.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("retrieval", "at2po_envs", "at2po_agents", "benchmarks")
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = (
    "<!-- tree:begin (written by `python -m tests.architecture --write`) -->",
    "<!-- tree:end -->",
)


class Architecture:
    """The modules of our packages, and which of them imports which, types included."""

    def __init__(self) -> None:
        self.files = {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
            for package in PACKAGES
            for path in sorted((ROOT / package).rglob("*.py"))
        }

    def imported(self, module: str) -> Iterator[str]:
        """Names of the modules that a module imports, wherever it does so; ours and others."""
        for node in ast.walk(ast.parse(self.files[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                yield from names & self.files.keys()
                if names - self.files.keys():
                    yield node.module

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Module -> modules of ours that it imports."""
        return {
            module: set(self.imported(module)) & self.files.keys() - {module}
            for module in self.files
        }

    @cached_property
    def folders(self) -> Counter[str]:
        """Folder -> its modules, `__init__` among them."""
        return Counter(str(path.parent.relative_to(ROOT)) for path in self.files.values())

    def room(self, module: str) -> str:
        """The first folder below the package, or the module itself at the top of its package."""
        package, _, rest = module.partition(".")
        name = rest.partition(".")[0]
        return f"{package}.{name}" if name else package

    def cycle(self) -> list[str]:
        """Modules that import each other in a circle, if any; `__init__` files stand apart."""
        inner = {module for module in self.files if self.files[module].name != "__init__.py"}
        try:
            TopologicalSorter({module: self.arrows[module] & inner for module in inner}).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []

    def tree(self, order: Mapping[str, str]) -> str:
        """Return folders and modules with what they say of themselves, a line each.

        Args:
            order: Package -> its rooms from the bottom up, with spaces between them.
        """
        return "".join(
            f"\n### `{package}/`\n\n```\n"
            + "".join(self._branch(f"{package}.{room}", "") for room in order[package].split())
            + "```\n"
            for package in order
        )

    def _branch(self, module: str, indent: str) -> str:
        name, path = module.rpartition(".")[2], self.files[module]
        says = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        if path.name != "__init__.py":
            return f"{indent}{name + '.py':{28 - len(indent)}} {says}\n"
        inner = [m for m in self.files if m.rpartition(".")[0] == module and m != module]
        lines = "".join(self._branch(m, indent + "  ") for m in inner)
        return f"{indent}{name + '/':{28 - len(indent)}} {says}\n{lines}"


def with_tree(text: str, tree: str) -> str:
    """Return the page's text with the tree in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tree}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("expected --write, which writes the tree of modules into docs/architecture.md")
    from tests.test_architecture import ORDER

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tree(text, Architecture().tree(ORDER)), encoding="utf-8")
