"""What the pages say to type is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from at2po_agents.config import TrainConfig, parse_config

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
_TRAIN = re.compile(r"(?:at2po|-m at2po_agents) train (.*)")


def commands() -> list[str]:
    """Arguments of all training runs, but for those with an algorithm that a page writes."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [block for page in pages for block in _BLOCK.findall(page.read_text(encoding="utf-8"))]
    lines = [block.replace("\\\n", " ") for block in blocks]
    found = [arguments for line in lines for arguments in _TRAIN.findall(line)]
    return [arguments for arguments in dict.fromkeys(found) if "--algorithm rloo:" not in arguments]


def test_training_commands_are_found() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("arguments", commands())
def test_training_commands_are_understood(arguments: str) -> None:
    words = shlex.split(arguments, comments=True)
    config = parse_config(TrainConfig, words, prog="at2po train")
    for name in ("collectors", "learners"):
        option = f"--cluster.{name}"
        if option in words:
            assert str(getattr(config.cluster, name)) == words[words.index(option) + 1]
