from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "your-own-environment.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to import from; what is imported and registered is undone."""
    monkeypatch.syspath_prepend(tmp_path)
    modules, ids = set(sys.modules), set(gymnasium.registry)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if FILE.match(f"# {name}.py\n") and (tmp_path / f"{name}.py").exists():
            del sys.modules[name]
    for name in set(gymnasium.registry) - ids:
        del gymnasium.registry[name]


def test_all_code_of_the_guide_runs(folder):
    files = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in BLOCKS:
            compile(block, str(GUIDE), "exec")
            if match := FILE.match(block):
                (folder / f"{match.group(1)}.py").write_text(block, encoding="utf-8")
                files += 1
            else:
                exec(block, {"__name__": "guide"})
    assert files == 3 and len(BLOCKS) == 7


def test_the_shortest_environment_takes_forty_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 40
