"""The benchmark of training: both ways do the same, and the figures fit each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from at2po_agents.algorithms import AEPO, ATPO, Algorithm
from at2po_agents.tree import RolloutTree
from benchmarks.errors import EvaluationError
from benchmarks.speed import training as train_speed
from benchmarks.speed.training import TrainSpeedConfig, paper_trees
from tests.at2po_agents.samples import random_tree, tiny_model


def credited(count: int, algorithm: Algorithm) -> list[RolloutTree]:
    grown = (random_tree(seed, size=12) for seed in range(100))
    trees = [tree for tree in grown if len(tree.leaves()) > 1][:count]
    for tree in trees:
        for number, leaf in enumerate(tree.leaves()):
            leaf.reward = float(number % 2)
        algorithm.assign_credit(tree)
    return trees


@pytest.mark.parametrize("algorithm", [ATPO(), AEPO(shared="once")])
@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_both_ways_have_the_same_gradient(algorithm: Algorithm, budget: int) -> None:
    trees, found, tokens = credited(3, algorithm), {}, {}
    for name, way in train_speed.WAYS.items():
        model = tiny_model()
        tokens[name] = way(model, algorithm, trees, budget)
        found[name] = train_speed._gradient(model)
    assert tokens["packed"] <= tokens["flat"]
    assert found["packed"].norm() > 0
    off = (found["packed"] - found["flat"]).norm()
    assert off <= 1e-9 * found["flat"].norm()


def test_trees_of_the_paper_have_its_shape() -> None:
    trees = paper_trees(20)
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    assert len(leaves) == 20 * 22
    assert sum(leaf.depth for leaf in leaves) / len(leaves) == pytest.approx(3.7, abs=0.1)
    assert {len(tree.root.inserted) for tree in trees} == {230}
    assert max(len(leaf.ids()) for leaf in leaves) < 4096
    assert any(node.advantage for node in trees[0].nodes())


def test_the_command_writes_figures_that_fit_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(name: str, trees: list[RolloutTree], config: TrainSpeedConfig) -> float:
        return train_speed._peak(name, trees, config.token_budget, torch.get_num_threads())

    def grow(count: int) -> list[RolloutTree]:
        return credited(count, ATPO())

    monkeypatch.setattr(train_speed, "SHAPES", {"random": grow})
    monkeypatch.setattr(train_speed, "_peak_alone", in_this_process)
    out = tmp_path / "results" / "train_speed.json"
    train_speed.main(["--trees", "1", "2", "--repeats", "1", "--out", str(out)])
    result: dict[str, Any] = json.loads(out.read_text())
    assert [case["trees"] for case in result["cases"]] == [1, 2]
    for case in result["cases"]:
        assert case["unique_tokens"] == case["tokens_processed"]["packed"] < case["row_tokens"]
        assert case["ratio"] == pytest.approx(case["row_tokens"] / case["unique_tokens"], abs=1e-3)
        assert min(case["seconds"].values()) > 0
        assert min(case["peak_mib"].values()) >= 0
        assert case["gradient_difference"] < 1e-5


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--trees", "0"], ["--token-budget", "0"]])
def test_numbers_out_of_range_are_refused(words: list[str]) -> None:
    with pytest.raises(EvaluationError, match="at least 1"):
        train_speed.main(words)


def test_gradients_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> int:
        tokens = train_speed.packed(*arguments)
        next(p for p in arguments[0].parameters() if p.grad is not None).grad.mul_(2)  # type: ignore
        return tokens

    monkeypatch.setattr(train_speed, "WAYS", {"packed": wrong, "flat": train_speed.flat})
    with pytest.raises(EvaluationError, match="expected equal gradients"):
        train_speed.compare(credited(1, ATPO()), TrainSpeedConfig(repeats=1))
