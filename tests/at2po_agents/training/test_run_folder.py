"""Run folders: one writer at a time, and nothing in them is lost that a run did not write."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.errors import CheckpointError, EvaluationFailedError
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.monitoring.status import RunStatus, read_status
from at2po_agents.monitoring.tree_metrics import evaluation_metrics, rollout_metrics
from at2po_agents.training import run_folder
from at2po_agents.training.run_folder import hold, make_way, move_aside, prepare, write_lines
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.local import LocalWorkers
from at2po_envs import Outcome
from retrieval.storage.files import Held
from tests.at2po_agents.training.runs import brief

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's own warnings are not ours


def everything(folder: Path) -> dict[str, bytes]:
    """Contents of all files but the lock, by name."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def begin(folder: Path, rows: str = "", step: int = 0) -> None:
    """Leave what a killed run leaves."""
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(rows)
    (folder / "config.toml").write_text("seed = 0\n")
    RunStatus(folder, resumed=False).update(step)


def hold_for_ever(folder: str, ready: str) -> None:
    with hold(Path(folder)):
        Path(ready).touch()
        time.sleep(600)


def test_a_folder_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", tmp_path / "ready"
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=hold_for_ever, args=(str(folder), str(ready)))
    other.start()
    while not ready.exists():
        assert other.is_alive()
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=f"found a training run by process {other.pid}"):
        with hold(folder):
            pass
    other.kill()
    other.join()
    with hold(folder):
        pass


def test_a_folder_that_was_renamed_meanwhile_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, take = tmp_path / "run", run_folder.sole_writer

    @contextmanager
    def late(*arguments: Any, **options: Any) -> Iterator[Held]:
        with take(*arguments, **options) as held:
            folder.rename(tmp_path / "run.1")
            folder.mkdir()
            yield held

    monkeypatch.setattr(run_folder, "sole_writer", late)
    with pytest.raises(
        CheckpointError, match="found it renamed or removed; put it back and resume, or start again"
    ):
        with hold(folder):
            pass


def test_a_run_writes_nothing_where_another_has_taken_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, step = tmp_path / "run", Trainer._step
    other = {"config.toml": b"theirs", "status.json": b"{}", "checkpoints/step_000001/a": b"b"}

    def renamed(trainer: Trainer) -> Any:
        if trainer.state.step == 1:
            folder.rename(tmp_path / "run.1")
            for name, content in other.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return step(trainer)

    monkeypatch.setattr(Trainer, "_step", renamed)
    with pytest.raises(CheckpointError, match="found it renamed or removed"):
        changes = {"rollout.questions_per_step": 1, "optim.mini_batches": 1}
        Trainer(brief(folder, steps=2, **changes)).run()
    assert everything(folder) == other
    assert [row["step"] for row in read_metrics(tmp_path / "run.1" / "metrics.jsonl")] == [0, 1]


def test_a_new_folder_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("mine")
    prepare(tmp_path, resume=False)
    prepare(tmp_path, resume=True)
    assert everything(tmp_path) == {"my.toml": b"mine"}


@pytest.mark.parametrize("rows", ["", '{"step": 0, "eval/em": 0.5}\n', '{"step": 0'])
def test_an_attempt_that_learned_nothing_gives_way(rows: str, tmp_path: Path) -> None:
    for number in (1, 2):
        begin(tmp_path / "run", rows)
        before = everything(tmp_path / "run")
        (tmp_path / "run" / "my.toml").write_text("mine")
        prepare(tmp_path / "run", resume=False)
        now = everything(tmp_path / "run")
        assert now.pop("my.toml") == b"mine"
        kept = {f"attempt.{number}/{name}": content for name, content in before.items()}
        kept = {name: content for name, content in kept.items() if name.count("attempt") == 1}
        assert kept.items() <= now.items()
        assert [name for name in now if not name.startswith("attempt.")] == []
        (tmp_path / "run" / "my.toml").unlink()


def test_giving_way_may_be_cut_short(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "attempt.1").mkdir()
    (tmp_path / "metrics.jsonl").rename(tmp_path / "attempt.1" / "metrics.jsonl")
    prepare(tmp_path, resume=False)
    assert everything(tmp_path).keys() == {
        "attempt.1/metrics.jsonl",
        "attempt.2/config.toml",
        "attempt.2/status.json",
    }


def finish(folder: Path) -> None:
    begin(folder, '{"step": 0}\n')
    with RunStatus(folder, resumed=False):
        pass


def put(name: str, text: str, begun: bool = True) -> Any:
    """Return what puts a file into a folder, where a run may have begun."""

    def make(folder: Path) -> None:
        if begun:
            begin(folder, '{"step": 0}\n')
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return make


def link_to_nothing(folder: Path) -> None:
    folder.mkdir()
    (folder / "checkpoints").symlink_to("nowhere")


ROWS = '{"step": 0}\n{"step": 1}\n'
OTHERS = {
    "somebody's config": put("config.toml", "# mine\n", begun=False),
    "somebody's trees": put("trees/oak", "mine", begun=False),
    "a status of something else": put("status.json", '{"state": "ok"}', begun=False),
    "a link to nothing": link_to_nothing,
}
HELD = {
    "a step": lambda folder: begin(folder, ROWS, 1),
    "a step that the status does not know": lambda folder: begin(folder, ROWS),
    "a checkpoint": put("checkpoints/step_000000/state.json", "{}"),
    "an evaluation that was all": finish,
    "a summary": put("summary.json", "{}"),
    "damaged metrics": put("metrics.jsonl", "?\n"),
    "a damaged status": put("status.json", "{"),
}


@pytest.mark.parametrize("name", [*OTHERS, *HELD])
def test_what_may_be_worth_something_is_not_written_over(name: str, tmp_path: Path) -> None:
    (OTHERS | HELD)[name](tmp_path / "run")
    before = everything(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"expected a new folder.*--resume.*--out"):
        prepare(tmp_path / "run", resume=False)
    assert everything(tmp_path / "run") == before


@pytest.mark.parametrize("name", OTHERS)
def test_resuming_takes_nothing_for_a_run_that_is_none(name: str, tmp_path: Path) -> None:
    (OTHERS | HELD)[name](tmp_path / "run")
    before = everything(tmp_path / "run")
    with pytest.raises(CheckpointError, match="expected a run to go on with.*--out"):
        prepare(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["a step", "damaged metrics"])
def test_resuming_without_a_checkpoint_keeps_what_there_was(name: str, tmp_path: Path) -> None:
    (OTHERS | HELD)[name](tmp_path / "run")
    before = everything(tmp_path / "run")
    prepare(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == {f"attempt.1/{k}": v for k, v in before.items()}


def test_what_cannot_be_written_to_gives_way(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    (tmp_path / "timeline.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "config.toml")
    (tmp_path / "trees").write_text("x")
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "checkpoints").mkdir()
    make_way(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("status.json.1", "timeline.jsonl.1", "config.toml.1", "trees.1"),
        *("metrics.jsonl", "checkpoints"),
    }


def test_an_earlier_run_is_moved_whole_and_a_living_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert move_aside(folder) is None
    for number in (1, 2):
        begin(folder, '{"step": 0}\n{"step": 1}\n', 1)
        before = everything(folder)
        with hold(folder), pytest.raises(CheckpointError, match="found a training run by"):
            move_aside(folder)
        assert move_aside(folder) == tmp_path / f"demo.{number}"
        assert everything(tmp_path / f"demo.{number}") == before and not folder.exists()


def test_a_folder_of_somebody_is_not_moved(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert move_aside(tmp_path) is None
    assert everything(tmp_path).keys() == {"metrics.jsonl"}


def test_lines_can_hold_any_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "a" / "b.jsonl", [{"q": "\ud83d Jaws"}, {"q": "é"}])
    text = (tmp_path / "a" / "b.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["q"] for line in text.splitlines()] == ["\ufffd Jaws", "é"]
    write_lines(tmp_path / "none.jsonl", [])
    assert not (tmp_path / "none.jsonl").exists()


def test_a_run_holds_its_folder_until_it_ends(tmp_path: Path) -> None:
    trainer = Trainer(brief(tmp_path))
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=f"a training run by process {os.getpid()}"):
            Trainer(brief(tmp_path, resume=resume))
    trainer.run()
    with pytest.raises(CheckpointError, match="found a run in it"):
        Trainer(brief(tmp_path))
    with pytest.raises(CheckpointError, match="found a run in it"):  # and no lock was left behind
        Trainer(brief(tmp_path))


def test_an_attempt_that_fails_at_once_does_not_keep_the_next_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("the index is not there")

    with monkeypatch.context() as during, pytest.raises(OSError, match="index"):
        during.setattr(LocalWorkers, "run_job", broken)
        Trainer(brief(tmp_path)).run()
    assert read_status(tmp_path).state == "failed"
    Trainer(brief(tmp_path)).run()
    assert read_status(tmp_path).state == "finished"
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]
    assert (tmp_path / "attempt.1" / "status.json").exists()


def flagged(*flags: str) -> RolloutTree:
    """A tree of one turn whose episode has flags."""
    tree = RolloutTree("q", [1], "p")
    outcome = Outcome(False, 0.0, False, flags=flags)
    tree.add(tree.root, sampled=[1], logprobs=[-1.0], reward=0.0, outcome=outcome)
    return tree


def test_an_evaluation_that_measured_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def evaluated(*trees: RolloutTree) -> dict[str, Any]:
        return evaluation_metrics([tree.leaves()[0] for tree in trees])

    plain = evaluated(flagged(), flagged())
    assert "eval/env_failed" not in plain and not caplog.records
    some = evaluated(flagged("env_failed"), flagged("tool_failed"), flagged(), flagged())
    assert (some.pop("eval/env_failed"), some.pop("eval/tool_failed")) == (0.25, 0.25)
    assert some == plain | {"eval/questions": 4}
    assert "25% of the episodes are flagged env_failed" in caplog.text
    with pytest.raises(EvaluationFailedError, match="the environment failed in all 2"):
        evaluated(flagged("env_failed"), flagged("env_failed"))


def test_a_batch_says_what_failed_in_it() -> None:
    assert rollout_metrics([flagged(), flagged("env_failed")])["rollout/env_failed"] == 0.5
    assert not {"rollout/env_failed", "rollout/tool_failed"} & rollout_metrics([flagged()]).keys()
