"""What the pages say to type is understood by the commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from at2po_agents.cli import main

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w*)$", re.MULTILINE)
_COMMAND = re.compile(
    r"^(?:\w*\$ +)?(?:(?:\w+=\S+ )*at2po|.* -m at2po_agents) ([a-z]\w+.*)", re.MULTILINE
)
_SPAN = re.compile(r"`at2po ([a-z]\w+ [^`]+)`")
# Such as `--out …`, what ends with a help text, and algorithms that are written on the page itself.
_NO_COMMAND = re.compile(r"…|\.\.\.|\||--help|NAME|undecided:|rloo:")


def commands() -> list[str]:
    """All command lines on the pages, in blocks or within text, without the program's name."""
    found: list[str] = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        texts, languages, blocks = (_FENCE.split(text)[place::4] for place in range(3))
        for language, block in zip(languages, blocks, strict=True):
            if language in ("", "bash", "console", "sh"):
                found += _COMMAND.findall(block.replace("\\\n", " "))
        found += [" ".join(span.split()) for part in texts for span in _SPAN.findall(part)]
    return [line for line in dict.fromkeys(found) if not _NO_COMMAND.search(line)]


class Understood(BaseException):
    """Ends a command once its arguments are parsed."""


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = tyro.cli

    def parse_only(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise Understood

    monkeypatch.setattr(tyro, "cli", parse_only)
    with pytest.raises(Understood):
        main(shlex.split(line, comments=True))


def test_commands_are_found() -> None:
    assert {line.split()[0] for line in commands()} >= {"train", "eval", "report", "index", "serve"}
