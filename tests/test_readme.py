"""The README and docs/results.md: examples run, figures are those of the recorded runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from at2po_agents.config.train import TrainConfig, load_config
from benchmarks.readme import DOCUMENTS, RESULTS, fill, fill_all

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.count("<result>") == 2
    assert "yes" in shown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_figures_are_those_on_record(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert fill_all(text, DOCUMENTS[name]) == text


def test_the_figures_linked_exist() -> None:
    assert (ROOT / "docs" / "demo.svg").exists()


def test_the_recorded_run_used_the_demo_preset() -> None:
    summary = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))["summary"]
    config = load_config(TrainConfig, "demo")
    assert (summary["steps"], summary["questions"]) == (config.steps, config.eval.questions)
    assert summary["em_after"] >= 0.85
    assert summary["em_after"] - summary["em_before"] >= 0.25


def test_missing_markers_are_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        fill("# at2po\n", "demo", "figures")
