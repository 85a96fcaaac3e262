"""The guide to benchmarking: all of its code and commands run, and it names what is written."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from at2po_agents.cli import main
from at2po_agents.config.train import parse_config
from at2po_agents.evaluation.settings import EvalConfig

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "benchmark-your-agent.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")


def blocks(*marks: str) -> list[str]:
    found = [block for block in BLOCKS if any(mark in block for mark in marks)]
    assert len(found) == len(marks)
    return found


def run(code: str) -> None:
    exec(compile(code, str(GUIDE), "exec"), {"__name__": "guide"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the guide's file, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (block,) = (block for block in BLOCKS if FILE.match(block))
    (tmp_path / "my_agent.py").write_text(block, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("my_agent", None)


def documented(after: str) -> set[str]:
    """The names in the first column of the table that follows a text."""
    table = TEXT.partition(after)[2].partition("\n\n")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines())))


def test_the_agent_is_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("TitleAgent()")
    run(block)
    said = capsys.readouterr().out
    run(block)
    assert capsys.readouterr().out == said and said.startswith("EM 0.")
    line = (folder / "runs" / "title" / "episodes.jsonl").read_text().splitlines()[0]
    assert documented("A line of `episodes.jsonl`:") == set(json.loads(line))
    summary = json.loads((folder / "runs" / "title" / "summary.json").read_text())
    names = documented("`summary.json`:") - {"_interval"}
    assert names | {f"{name}_interval" for name in ("em", "f1", "cover_em")} == set(summary)
    files = {path.name for path in (folder / "runs" / "title").iterdir()}
    assert files == set(re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE)) & files
    assert len(files) == 5


def test_suite_and_export_run(folder: Path) -> None:
    for block in blocks("evaluate_suite(", "grpo_batch("):
        run(block)
    summary = json.loads((folder / "runs" / "suite" / "summary.json").read_text())
    assert set(summary["sets"]) == {"MiniWiki", "Calculator"}
    assert "card" not in summary["sets"]["MiniWiki"]
    assert len(BLOCKS) == 4


def test_the_commands_run(folder: Path) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for command in commands.strip().splitlines():
        program, *words = shlex.split(command)
        assert program == "at2po"
        main(words)
    assert (folder / "runs" / "random" / "summary.json").exists()


def test_the_command_for_endpoints_is_understood() -> None:
    (command,) = re.findall(r"```text\n(at2po eval .*?)```", TEXT, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    config = parse_config(EvalConfig, words[2:], prog="at2po eval")
    assert config.endpoint.concurrency == 32 and config.endpoint.completion_price == 0.6


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (GUIDE.parent / target).exists()
