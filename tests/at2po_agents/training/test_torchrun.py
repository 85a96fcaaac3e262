"""Whole runs of several ranks that torchrun starts, held to the same runs in one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from at2po_agents.cli import main
from at2po_agents.config.train import TrainConfig, dump_config
from at2po_agents.learner import checkpoint
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.monitoring.trace import FILE as TIMELINE
from at2po_agents.policy.loading import load_model
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.training.runs import assert_same, exact, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # TensorBoard's own warnings are not ours
]
ROOT = Path(__file__).parents[3]


def settings(out: Path, name: str = "atpo", **changes: Any) -> TrainConfig:
    """A run that keeps all of its checkpoints."""
    return exact(out, name, **({"checkpoint.keep": 9} | changes))


def torchrun(
    size: int, config: TrainConfig, *program: str, restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Train on several ranks of this machine; without a program as the documentation says."""
    config.out.mkdir(parents=True, exist_ok=True)
    file = config.out / "settings.toml"
    file.write_text(dump_config(config), encoding="utf-8")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    words = ["train", "--config", str(file), "--out", str(config.out)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "--max-restarts", str(restarts)]
        + ["-m", *(program or ("at2po_agents",)), *words],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def up_to_step_two(run: Path, out: Path) -> Path:
    """Copy a run as it would be, had all of its processes been killed after its second step."""
    shutil.copytree(run, out)
    for step in (4, 5):
        shutil.rmtree(out / checkpoint.FOLDER / f"step_{step:06d}")
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of one process, by algorithm."""

    @cache
    def run(name: str) -> Path:
        out = tmp_path_factory.mktemp("alone") / name
        Trainer(settings(out, name)).run()
        return out

    return run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two ranks, and what it said."""
    out = tmp_path_factory.mktemp("pair") / "run"
    return out, torchrun(2, settings(out))


def test_two_ranks_give_the_run_of_one_process(alone: Any, pair: Any) -> None:
    out, _ = pair
    start = load_model("mini", torch.float64)[0].state_dict()
    moved = [(tensor - start[name]).abs().max().item() for name, tensor in weights(out).items()]
    assert max(moved) > 1e-4
    assert_same(out, weights(alone("atpo")))
    for one, two in zip(*map(rows, (alone("atpo"), out)), strict=True):
        assert one.keys() == two.keys()
        for name in ("rollout/reward_mean", "tokens/sampled", "eval/em"):
            assert one.get(name) == two.get(name)
        # Ranks compute what the parts of a tree share in each of them.
        assert one.get("tokens/trained", 0) <= two.get("tokens/trained", 0)
        assert one.get("policy/loss") == pytest.approx(two.get("policy/loss"), abs=1e-9)


def rows(out: Path) -> list[dict[str, Any]]:
    found = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in found] == [0, 1, 2, 3, 4, 5]
    return found


def test_the_first_rank_speaks_for_all(pair: Any) -> None:
    out, said = pair
    assert said.stdout.count('"em_before"') == said.stdout.count("report:") == 1
    assert said.stderr.count("step 5/5") == 1
    assert (out / "report.html").exists()
    assert {"rank-0", "rank-1"} == {
        line.split('"')[3] for line in (out / TIMELINE).read_text().splitlines()
    }


def test_dapo_does_so_too(alone: Any, tmp_path: Path) -> None:
    torchrun(2, settings(tmp_path, "dapo"))
    assert_same(tmp_path, weights(alone("dapo")))


def test_killed_ranks_are_started_again_and_end_at_the_same_weights(
    alone: Any, tmp_path: Path
) -> None:
    out, lives = tmp_path / "run", tmp_path / "lives"
    lives.mkdir()
    program = ("tests.at2po_agents.training.killed_ranks", str(lives))
    torchrun(2, settings(out, resume=True), *program, restarts=2)
    found = {path.name: path.read_text().split() for path in lives.iterdir()}
    assert found["0"] == []
    assert found["1"] == ["step_000002"]
    unfinished, *whole = found["2"]
    assert unfinished.startswith(".step_000004.") and whole == ["step_000002"]
    assert_same(out, weights(alone("atpo")))
    rows(out)


def test_one_process_goes_on_with_what_two_ranks_wrote(
    alone: Any, pair: Any, tmp_path: Path
) -> None:
    out = up_to_step_two(pair[0], tmp_path / "run")
    Trainer(settings(out, resume=True)).run()
    assert_same(out, weights(alone("atpo")))
    rows(out)


@pytest.mark.parametrize(("before", "size"), [("pair", 3), ("alone", 2)])
def test_other_numbers_of_ranks_go_on(
    before: str, size: int, alone: Any, pair: Any, tmp_path: Path
) -> None:
    out = up_to_step_two(pair[0] if before == "pair" else alone("atpo"), tmp_path / "run")
    torchrun(size, settings(out, resume=True))
    assert_same(out, weights(alone("atpo")))
    rows(out)


def test_a_finished_run_that_is_started_again_has_nothing_to_do(pair: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(pair[0], out)
    said = torchrun(2, settings(out, resume=True))
    assert said.stdout.count('"em_before"') == 1
    assert_same(out, weights(pair[0]), close=0.0)


def test_bfloat16_keeps_wide_masters_and_resumes_exactly(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    torchrun(2, settings(straight, **{"model.dtype": "bfloat16"}))
    masters = weights(straight)
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16()).any() for tensor in masters.values())
    up_to_step_two(straight, resumed)
    torchrun(2, settings(resumed, resume=True, **{"model.dtype": "bfloat16"}))
    assert_same(resumed, masters, close=0.0)
    main(["export", str(straight), str(tmp_path / "model")])
    model, _ = load_model(str(tmp_path / "model"), torch.bfloat16)
    assert torch.equal(model.model.norm.weight, masters["model.norm.weight"].bfloat16())
