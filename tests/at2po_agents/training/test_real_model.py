"""A real language model on real questions: the run must be whole and its record honest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from at2po_agents.cli import main
from at2po_agents.monitoring.metrics_log import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_evaluation_on_real_questions(at2po_data: Path, tmp_path: Path) -> None:
    words = ["--model", "smollm2-135m", "--limit", "2", "--max-response-tokens", "128"]
    main(["eval", "--env", "at2po/Bamboogle-v0", *words, "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert summary["questions"] == len(lines) == 2
    assert summary["tokens"] == sum(json.loads(line)["tokens"] for line in lines) > 0


def test_training_saves_resumes_and_goes_on(at2po_data: Path, tmp_path: Path) -> None:
    small = ["--rollout.questions-per-step", "2", "--eval.questions", "1"]
    small += ["--rollout.max-response-tokens", "64"]
    words = ["train", "--config", "smollm2", *small, "--out", str(tmp_path)]
    main([*words, "--steps", "1"])
    main([*words, "--steps", "2", "--resume"])
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert (tmp_path / "checkpoints" / "step_000002" / "model.safetensors").exists()
