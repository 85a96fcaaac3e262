"""How the packages are built, read off their files.

`python -m tests.architecture [CHECKOUT]` prints figures; with `--write` it writes the tree of
modules into docs/architecture.md.
"""

from __future__ import annotations

import ast
import json
import re
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
    """The modules of our packages, and which of them imports which, types included.

    Args:
        root: A checkout.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.files = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for package in PACKAGES
            for path in sorted((root / package).rglob("*.py"))
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
        return Counter(str(path.parent.relative_to(self.root)) for path in self.files.values())

    def room(self, module: str) -> str:
        """The first folder below the package, or the module itself at the top of its package."""
        package, _, rest = module.partition(".")
        name = rest.partition(".")[0]
        return f"{package}.{name}" if name else package

    @cached_property
    def inner(self) -> dict[str, set[str]]:
        """The same without `__init__` files, which offer what comes from all of a package."""
        own = {module for module, path in self.files.items() if path.name != "__init__.py"}
        return {module: self.arrows[module] & own for module in own}

    def cycle(self) -> list[str]:
        """Modules that import each other in a circle, if any."""
        try:
            TopologicalSorter(self.inner).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []

    def layers(self) -> int:
        """Modules on the longest way along imports."""
        depth: dict[str, int] = {}
        for module in TopologicalSorter(self.inner).static_order():
            depth[module] = 1 + max((depth[other] for other in self.inner[module]), default=0)
        return max(depth.values())

    def figures(self) -> dict[str, object]:
        """Return counts that say how the code is built."""
        agents = [path for module, path in self.files.items() if module.startswith("at2po_agents")]
        text = "".join(path.read_text(encoding="utf-8") for path in agents)
        cycle = self.cycle()
        return {
            "modules": len(self.files),
            "folders": len(self.folders),
            "most modules in a folder": dict(self.folders.most_common(5)),
            "arrows": sum(map(len, self.arrows.values())),
            "cycle": cycle,
            "layers": None if cycle else self.layers(),
            "lines": {package: _lines(self.root / package) for package in (*PACKAGES, "tests")},
            "Any in at2po_agents": len(re.findall(r"\bAny\b", text)),
            "getattr in at2po_agents": len(re.findall(r"\bgetattr\(", text)),
        }

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


def _lines(folder: Path) -> dict[str, int]:
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return {"all": len(lines), "comments": sum(line.startswith("#") for line in lines)}


def with_tree(text: str, tree: str) -> str:
    """Return the page's text with the tree in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tree}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        from tests.test_architecture import ORDER

        page = with_tree(PAGE.read_text(encoding="utf-8"), Architecture().tree(ORDER))
        PAGE.write_text(page, encoding="utf-8")
    else:
        root = Path(sys.argv[1]) if sys.argv[1:] else ROOT
        json.dump(Architecture(root).figures(), sys.stdout, indent=1)
