"""Whole runs of the trainer on the embedded model and world."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from at2po_agents.config.train import dump_config
from at2po_agents.errors import (
    CheckpointError,
    DivergedError,
    EnvironmentNotFoundError,
    EvaluationFailedError,
)
from at2po_agents.learner.checkpoint import seal
from at2po_agents.monitoring.metric_names import is_known
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.monitoring.status import read_status
from at2po_agents.objective import losses
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.local import LocalWorkers
from tests.at2po_agents.training.runs import rows_without_time, small, tensor_hashes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # TensorBoard's own warnings are not ours
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(small(out)).run()
    return out


def test_a_run_leaves_its_whole_record(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {"em_before", "em_after", "questions", "steps", "sampled_tokens", "seconds", "seed"} <= (
        summary.keys()
    )
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval/em" in row] == [0, 2, 4]
    assert summary["sampled_tokens"] == sum(row.get("tokens/sampled", 0) for row in rows)
    names = {name for row in rows for name in row.keys() - {"step", "time"}}
    names |= {f"time/{name}" for row in rows for name in row["time"]}
    assert {name for name in names if not is_known(name)} == set()
    assert (finished / "episodes" / "step_000004.jsonl").read_text().count("\n") == 6
    assert (finished / "trees" / "step_000004.jsonl").read_text().count("\n") == 3
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == [
        "step_000002",
        "step_000004",
    ]


def test_the_first_mini_batch_has_ratio_one_and_weights_move(finished: Path) -> None:
    rows = read_metrics(finished / "metrics.jsonl")[1:]
    assert all(row["policy/ratio_max"] == 1.0 for row in rows if "policy/ratio_max" in row)
    assert any(row["policy/grad_norm"] > 0 for row in rows)


def test_the_same_seed_gives_the_same_metrics(finished: Path, tmp_path: Path) -> None:
    Trainer(small(tmp_path / "again")).run()
    assert rows_without_time(tmp_path / "again") == rows_without_time(finished)


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    (tmp_path / "run.toml").write_text(dump_config(small(out)))
    command = [sys.executable, "-c", "from at2po_agents.cli import main; main()"]
    words = ["train", "--config", str(tmp_path / "run.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *words], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step_000002").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    Trainer(small(out, resume=True)).run()
    last = Path("checkpoints") / "step_000004"
    assert tensor_hashes(out / last) == tensor_hashes(finished / last)
    assert rows_without_time(out) == rows_without_time(finished)


def test_a_process_that_is_alone_needs_nothing_of_many(tmp_path: Path) -> None:
    """In a process of its own: what other tests import is there for good."""
    (tmp_path / "run.toml").write_text(dump_config(small(tmp_path / "run", steps=1)))
    program = f"""
import sys
from pathlib import Path
import torch.distributed
from at2po_agents.config.train import TrainConfig, load_config
from at2po_agents.training.trainer import Trainer
Trainer(load_config(TrainConfig, Path({str(tmp_path / "run.toml")!r}))).run()
heavy = ("ray", "peft", "vllm", "torch.distributed.checkpoint")
heavy += ("at2po_agents.learner.fsdp", "at2po_agents.workers.ray.workers")
sys.exit(f"{{[name for name in heavy if name in sys.modules]}} "
         f"{{torch.distributed.is_initialized()}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[] False"


def test_a_checkpoint_of_another_configuration_is_refused(finished: Path) -> None:
    with pytest.raises(CheckpointError, match="another configuration"):
        Trainer(small(finished, resume=True, **{"optim.learning_rate": 2e-3}))


DEEP = "[" * 100_000 + "]" * 100_000


def test_a_wrong_environment_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotFoundError, match="found 'at2po_envs:at2po/Nowhere-v0'"):
        Trainer(replace(small(tmp_path / "run"), env="at2po/Nowhere-v0"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", DEEP, '{"faults": 5, "step": "abc"}', "\xff"])
@pytest.mark.parametrize("name", ["status.json", "timeline.jsonl", "summary.json", "config.toml"])
def test_records_of_any_shape_block_no_resume(
    finished: Path, tmp_path: Path, name: str, content: str
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / name).write_bytes(content.encode("latin-1"))
    Trainer(small(out, resume=True)).run()
    assert read_status(out).state == "finished"
    assert rows_without_time(out) == rows_without_time(finished)


def test_what_is_in_the_way_of_a_record_blocks_no_resume(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    for name in ("status.json", "timeline.jsonl", "config.toml", "summary.json"):
        (out / name).unlink(missing_ok=True)
        (out / name / "mine").mkdir(parents=True)
    shutil.rmtree(out / "episodes")
    (out / "episodes").symlink_to("nowhere")
    Trainer(small(out, resume=True)).run()
    assert read_status(out).state == "finished"
    assert (out / "status.json.1" / "mine").is_dir()


def test_figures_that_nobody_has_are_not_made_up(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    whole = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(whole[1:]))  # without that of step 0
    summary = Trainer(small(out, resume=True)).run()
    before = json.loads((finished / "summary.json").read_text())
    assert (summary["em_before"], summary["em_after"]) == (None, before["em_after"])
    (out / "metrics.jsonl").unlink()
    summary = Trainer(small(out, resume=True)).run()
    assert (summary["em_before"], summary["em_after"], summary["steps"]) == (None, None, 4)


def test_a_checkpoint_of_another_version_is_refused(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    for path in (out / "checkpoints").glob("*/state.json"):
        state = json.loads(path.read_text())
        state.pop("sha256")
        path.write_bytes(seal(state | {"extra": {"step": "4"}}))
    with pytest.raises(CheckpointError, match="expected the numbers step, questions.*version"):
        Trainer(small(out, resume=True))


def test_an_environment_that_fails_in_every_episode_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job = LocalWorkers.run_job

    def failing(self: LocalWorkers, job: Job) -> list[RolloutTree]:
        trees = run_job(self, job)
        for leaf in (leaf for tree in trees for leaf in tree.leaves()):
            leaf.outcome = replace(leaf.outcome, flags=("env_failed",))
        return trees

    monkeypatch.setattr(LocalWorkers, "run_job", failing)
    with pytest.raises(EvaluationFailedError, match="the environment failed in all 6"):
        Trainer(small(tmp_path)).run()
    assert read_status(tmp_path).state == "failed"
    assert rows_without_time(tmp_path) == []


def test_three_updates_that_are_not_finite_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(ratio: torch.Tensor, *_: Any, **bounds: float) -> torch.Tensor:
        return ratio * torch.nan

    monkeypatch.setattr(losses, "clipped", poisoned)
    trainer = Trainer(small(tmp_path / "bad", steps=9, **{"optim.learning_rate": 1.0}))
    model = trainer.workers.learning.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DivergedError, match="lower optim.learning_rate"):
        trainer.run()
    assert trainer.state.step == 3
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    written = sorted(path.name for path in (tmp_path / "bad" / "nonfinite_trees").iterdir())
    assert written == ["step_000001.jsonl", "step_000002.jsonl", "step_000003.jsonl"]
