"""The guide to algorithms: all of its code runs, its commands are understood."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from at2po_agents import algorithms
from at2po_agents.config.train import TrainConfig, dump_config, load_config, parse_config
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.samples import spec_tree

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "your-own-algorithm.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"```bash\nPYTHONPATH=\. at2po (.*?)\n```", TEXT)
FILE = re.compile(r"# (\w+)\.py\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The guide's files in a folder to import from; what is registered is undone."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for block in BLOCKS:
        if match := FILE.match(block):
            names.append(match.group(1))
            (tmp_path / f"{names[-1]}.py").write_text(block, encoding="utf-8")
    known = set(algorithms.REGISTRY)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)
    for name in set(algorithms.REGISTRY) - known:
        del algorithms.REGISTRY[name]


def test_all_code_of_the_guide_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in (block for block in BLOCKS if not FILE.match(block)):
        exec(compile(block, str(GUIDE), "exec"), {"__name__": "guide"})
    assert "<search>" in capsys.readouterr().out
    assert len(BLOCKS) == 4 and len(list(folder.glob("*.py"))) == 2


def test_the_command_trains_with_it(folder: Path) -> None:
    (command,) = COMMANDS
    name, *arguments = shlex.split(command)
    assert name == "train"
    small = "--steps 1 --rollout.questions-per-step 2 --optim.mini-batches 1 --eval.questions 2"
    small += " --rollout.max-response-tokens 64"
    config = parse_config(
        TrainConfig,
        [*arguments, *shlex.split(small), "--out", str(folder / "run")],
        prog="at2po train",
    )
    assert config.algorithm.name == "rloo" and config.algorithm.chains == 4
    summary = Trainer(config).run()
    assert summary["steps"] == 1 and summary["algorithm"] == "rloo:RLOO"
    settings = folder / "run" / "config.toml"
    assert settings.read_text(encoding="utf-8") == dump_config(config)
    assert load_config(TrainConfig, settings) == config


def test_leave_one_out_is_what_it_says(folder: Path) -> None:
    tree, nodes = spec_tree()
    algorithms.find("rloo:RLOO")().assign_credit(tree)
    found = {name: nodes[name].row_advantage for name in "bcd"}
    assert found == pytest.approx({"b": 0.0, "c": 1.5, "d": -1.5})


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (GUIDE.parent / target).exists()
