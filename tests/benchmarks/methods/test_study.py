"""The comparison: equal budgets, runs that are kept, intervals and tables that say what was run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.algorithms import REGISTRY
from benchmarks.errors import EvaluationError
from benchmarks.methods import study as compare
from benchmarks.methods.run import METHODS, Run, carry_out
from benchmarks.methods.study import CompareConfig, main
from benchmarks.methods.summary import summarise, table

SAME = {"optim.learning_rate": 2e-4, "optim.mini_batches": 2, "eval.questions": 4}
SMALL = """extends = "{preset}"
[rollout]
questions_per_step = 2
max_response_tokens = 24
[optim]
mini_batches = 2
[env_options]
questions = 20
passages = 100
[eval.env_options]
questions = 20
passages = 100
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All presets on a small world, with short answers."""
    for name, method in METHODS.items():
        preset = tmp_path / f"{name}.toml"
        preset.write_text(SMALL.format(preset=method.preset), encoding="utf-8")
        monkeypatch.setitem(METHODS, name, replace(method, preset=str(preset)))


def result(seed: int, correct: str, **more: Any) -> dict[str, Any]:
    """A run with two evaluations."""
    point = {"mark": 10, "tokens": 10, "em": 0.5, "searches": 1.0, "format_rate": 1.0}
    return {"seed": seed, "correct": correct, "evaluations": [{**point, "mark": 5}, point], **more}


def test_all_methods_and_the_four_ablations_are_there() -> None:
    runs = {name: Run.of(name, Path(), [1], {"seed": 0, **SAME}).config for name in METHODS}
    kinds = {config.algorithm.name for config in runs.values()}
    assert kinds == REGISTRY.keys()
    own = runs["atpo"].algorithm
    changed = {name: runs[name].algorithm for name in METHODS if METHODS[name].ablation}
    assert changed["random"] == replace(own, search="random")
    assert changed["rows"] == replace(own, advantage="rows")
    assert changed["token"].ratio == "token" and changed["sequence"].ratio == "sequence"
    first, *others = runs.values()
    assert all((c.optim, c.rollout) == (first.optim, first.rollout) for c in others)


def test_a_run_ends_with_the_step_that_reaches_its_budget(small: None, tmp_path: Path) -> None:
    run = Run.of("grpo", tmp_path, [100, 900], {"seed": 3, **SAME})
    carry_out(run, [100, 900])
    kept = json.loads(run.file.read_text(encoding="utf-8"))
    first, last = kept["evaluations"]
    # A step: 2 questions, 8 chains, at most 24 tokens each.
    assert 100 <= first["tokens"] < 100 + 2 * 8 * 24
    assert 900 <= last["tokens"] < 900 + 2 * 8 * 24
    assert first["steps"] < last["steps"]
    assert kept["seed"] == 3 and len(kept["correct"]) == 4
    assert last["em"] == pytest.approx(kept["correct"].count("1") / 4)


def test_other_settings_are_other_runs(tmp_path: Path) -> None:
    files = {
        Run.of("grpo", tmp_path, marks, {"seed": seed, **SAME, **more}).file
        for marks in ([10], [5, 10])
        for seed in (0, 1)
        for more in ({}, {"optim.learning_rate": 1e-4}, {"optim.mini_batches": 1})
    }
    assert len(files) == 12
    assert Run.of("atpo", tmp_path, [10], {"seed": 0, **SAME}).file not in files


def test_the_command_runs_what_is_missing_and_keeps_it(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    carried: list[str] = []

    def noted(run: Run, marks: list[int]) -> None:
        carried.append(run.name)
        carry_out(run, marks)

    def threads(workers: int, mp_context: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(compare, "carry_out", noted)
    monkeypatch.setattr(compare, "ProcessPoolExecutor", threads)
    options = {
        "--runs": tmp_path / "runs",
        "--out": tmp_path / "compare.json",
        "--figure": tmp_path / "compare.svg",
        "--budget": 50,
        "--questions": 4,
        "--marks": 1,
        "--mini-batches": 2,
        "--workers": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    main([*words, "--quick", "--methods", "react", "atpo", "tree_grpo"])
    assert carried == ["react", "atpo", "tree_grpo"]
    record = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert record["quick"] and record["seeds"] == 1 and record["budget"] == 50
    assert record["runs_complete"] == record["runs"] == 3
    assert record["environment"]["versions"]["torch"]
    assert "Tree-GRPO" in capsys.readouterr().out
    assert "sampled tokens" in (tmp_path / "compare.svg").read_text(encoding="utf-8")

    main([*words, "--quick", "--methods", "react", "atpo", "tree_grpo", "grpo"])
    assert carried[3:] == ["grpo"]


def test_differences_are_taken_question_by_question() -> None:
    results = {
        "atpo": [result(0, "1100"), result(1, "1110")],
        "grpo": [result(0, "1100"), result(1, "1110")],
        "gspo": [result(1, "0000")],
        "dapo": [],
    }
    summary = summarise(results)
    assert summary.keys() == {"atpo", "grpo", "gspo"}
    assert summary["atpo"]["em"] == pytest.approx(5 / 8)
    assert summary["atpo"]["difference"] is None
    assert summary["grpo"]["difference"] == {"em": 0.0, "low": 0.0, "high": 0.0}
    assert summary["gspo"]["difference"]["em"] == pytest.approx(-0.75)  # seed 1 only
    lines = table(summary)
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["AT²PO", "GRPO", "GSPO"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"methods": ("ppo",)}, "ppo"), ({"marks": 0}, "marks"), ({"budget": 0}, "budget")],
)
def test_bad_settings_are_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        CompareConfig(**wrong)
