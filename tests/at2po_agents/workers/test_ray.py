"""Runs whose rollout workers and learner workers are processes of Ray, some of which are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from at2po_agents import algorithms
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import dump_config
from at2po_agents.errors import WorkersLostError
from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.expansion import Chains
from at2po_agents.training.trainer import Trainer
from at2po_agents.workers.base import Job
from at2po_agents.workers.ray.tasks import Task, Weights
from retrieval.http.client import RemoteRetriever
from tests.at2po_agents.training.runs import assert_same, exact, weights

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

ME = os.getpid()
TWO = ClusterOptions(rollout_workers=2, learner_workers=2, stall_s=120)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all runs."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # other tests must not starve the actors
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def status(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "status.json").read_text())
    return read


def assert_one_thing_at_a_time(out: Path) -> None:
    """Steps that were done again come after those that were lost, as all of it took time."""
    ends: dict[str, float] = {}
    for _, span in timeline.read(out):
        assert span.end >= span.start >= ends.get(span.actor, 0.0) - 0.001
        ends[span.actor] = span.end


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights after the run of one process."""
    out = tmp_path_factory.mktemp("alone")
    Trainer(exact(out / "run")).run()
    found = weights(out / "run")
    start = load_model("mini", torch.float64)[0].state_dict()
    assert max((found[name] - start[name]).abs().max().item() for name in found) > 1e-3
    return found


class Disturbance(threading.Thread):
    """Does something to processes once as many are seen at a method, after a step has been done."""

    def __init__(
        self,
        out: Path,
        method: str,
        act: Callable[[int], object],
        step: int = 1,
        processes: int = 1,
    ) -> None:
        super().__init__(daemon=True)
        self.out, self.method, self.act, self.step = out, method, act, step
        self.count = processes
        self.hit: list[int] = []
        self.start()

    def run(self) -> None:
        while not self.hit:
            time.sleep(0.003)
            rows = read_metrics(self.out / "metrics.jsonl")
            if not rows or rows[-1]["step"] < self.step:
                continue
            if len(found := processes(self.method)) >= self.count:
                self.hit = found[: self.count]
                for process in self.hit:
                    self.act(process)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)


def processes(method: str) -> list[int]:
    """Of this process's Ray; it writes the method that an actor is at into a process's name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            if title.startswith(f"ray::{method}".encode()) and parent(parent(folder.name)) == ME:
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def parent(process: int | str) -> int:
    """Of an actor, the machine's part of Ray; of that, who began it."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_two_rollout_workers_and_two_ranks_end_where_one_process_ends(
    name: str, tmp_path: Path
) -> None:
    Trainer(exact(tmp_path / "one", name)).run()
    Trainer(exact(tmp_path / "four", name, cluster=TWO)).run()
    assert_same(tmp_path / "four", weights(tmp_path / "one"))


def test_a_run_of_four_processes_leaves_the_whole_record(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    summary = Trainer(exact(tmp_path, cluster=TWO)).run()
    assert_same(tmp_path, alone)
    assert status(tmp_path)["state"] == "finished"
    assert status(tmp_path)["faults"] == []
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(6))
    assert summary["sampled_tokens"] == sum(row.get("tokens/sampled", 0) for row in rows)
    measured = rows[-1]["time"]
    assert {"busy_rollout_worker", "busy_learner_worker", "tokens_per_s_collect"} <= measured.keys()
    assert {f"queue_{name}" for name in ("engine", "jobs", "tools")} <= measured.keys()
    assert 0 < measured["queue_engine"] <= measured["queue_engine_longest"] <= 2 * 9
    spans = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text().splitlines()]
    actors = {
        "driver",
        "rollout_worker-0",
        "rollout_worker-1",
        "learner_worker-0",
        "learner_worker-1",
    }
    assert {span["actor"] for span in spans} == actors
    assert all(0 <= span["start"] <= span["end"] for span in spans)


def test_rollout_workers_that_die_are_replaced_and_nothing_else_changes(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    disturbance = Disturbance(tmp_path, "RolloutActor.grow_trees", kill, processes=2)
    # One loss of each is allowed, however many are lost at once.
    Trainer(exact(tmp_path, cluster=replace(TWO, max_restarts=1))).run()
    assert disturbance.hit
    assert_same(tmp_path, alone)
    faults = status(tmp_path)["faults"]
    assert len({fault["actor"] for fault in faults}) == len(faults) == 2
    assert all(fault["actor"].startswith("rollout_worker-") for fault in faults)
    assert all("died" in fault["what"] for fault in faults)


def test_a_rollout_worker_that_hangs_is_replaced_and_nothing_else_changes(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    disturbance = Disturbance(tmp_path, "RolloutActor.grow_trees", stop)
    options = ClusterOptions(rollout_workers=2, learner_workers=1, stall_s=20)
    Trainer(exact(tmp_path, cluster=options)).run()
    assert disturbance.hit
    assert_same(tmp_path, alone)
    (fault,) = status(tmp_path)["faults"]
    assert "no progress" in fault["what"]


def test_a_rank_that_dies_in_an_update_takes_the_run_back_to_the_last_checkpoint(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    disturbance = Disturbance(tmp_path, "LearnerActor.update", kill, step=3)
    Trainer(exact(tmp_path, cluster=TWO)).run()
    assert disturbance.hit
    assert_same(tmp_path, alone)
    (fault,) = status(tmp_path)["faults"]
    assert fault["actor"].startswith("learner_worker-")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(6))
    assert_one_thing_at_a_time(tmp_path)


def test_a_rank_that_dies_while_the_last_checkpoint_is_written_does_so_too(tmp_path: Path) -> None:
    Trainer(exact(tmp_path / "one", steps=1)).run()
    trainer = Trainer(exact(tmp_path / "four", steps=1, cluster=TWO))
    wait, ranks = trainer.workers.wait_for_checkpoint, processes("LearnerActor")

    def deadly() -> None:
        if ranks:
            kill(ranks.pop())
            ranks.clear()
        wait()

    trainer.workers.wait_for_checkpoint = deadly  # type: ignore[method-assign]
    trainer.run()
    assert_same(tmp_path / "four", weights(tmp_path / "one", step=1), step=1)
    (fault,) = status(tmp_path / "four")["faults"]
    assert fault["actor"].startswith("learner_worker-")


def test_a_run_whose_driver_is_killed_goes_on(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    config = exact(tmp_path / "run", cluster=TWO)
    (tmp_path / "config.toml").write_text(dump_config(config))
    command = [sys.executable, "-m", "at2po_agents", "train"]
    first = subprocess.Popen(
        [*command, "--config", str(tmp_path / "config.toml")],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not any((tmp_path / "run" / "checkpoints").glob("step_*")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    Trainer(exact(tmp_path / "run", cluster=TWO, resume=True)).run()
    assert_same(tmp_path / "run", alone)
    assert "no final status" in status(tmp_path / "run")["faults"][0]["what"]
    assert_one_thing_at_a_time(tmp_path / "run")


def test_sigterm_is_the_commands_own_once_ray_is_there() -> None:
    script = """
import os, signal
from at2po_agents.cli.endings import ending
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.workers.ray.placement import connect

with ending("at2po train", "again"):
    assert connect(ClusterOptions(rollout_workers=1))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("on record")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
    assert ended.stdout == "on record\n"
    assert ended.stderr.endswith("at2po train: stopped by SIGTERM\nagain\n")
    assert "logging.cc" not in ended.stderr  # Ray's traces


def test_too_many_losses_end_the_run_and_say_why(tmp_path: Path) -> None:
    options = ClusterOptions(rollout_workers=2, learner_workers=1, max_restarts=0)
    disturbance = Disturbance(tmp_path, "RolloutActor.grow_trees", kill)
    with pytest.raises(WorkersLostError, match="cluster.max_restarts"):
        Trainer(exact(tmp_path, cluster=options)).run()
    assert disturbance.hit
    assert status(tmp_path)["state"] == "failed"
    deadline = time.monotonic() + 30
    while processes("RolloutActor"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Failing:
    """A rollout worker all of whose jobs fail."""

    def grow_trees(self, *arguments: Any) -> None:
        raise ValueError("no such job")

    def heartbeat(self) -> None:
        return None


def tick_until_idle(pool: Any) -> None:
    pool.tick()
    while pool._queue or any(member.call for member in pool._members):
        time.sleep(0.01)
        pool.tick()


def test_the_error_of_a_job_is_raised_once_and_not_if_it_was_given_up() -> None:
    from at2po_agents.workers.ray.pool import RolloutPool

    made = ray.remote(concurrency_groups={"health": 1})(Failing)
    pool = RolloutPool(lambda number: made.remote(), 1, 60.0, lambda actor, why: None)

    task = Task(Job((0,), Chains(1)), Weights(0, [[]]))
    for _ in range(2):
        pool.submit(task)
        with pytest.raises(ValueError, match="no such job"):
            tick_until_idle(pool)
        tick_until_idle(pool)
    pool.submit(task)
    pool.tick()
    pool.forget()
    tick_until_idle(pool)
    pool.close()


def test_a_process_that_finds_no_room_ends_the_run_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from at2po_agents.workers.ray import calls
    from at2po_agents.workers.ray.pool import RolloutPool

    monkeypatch.setattr(calls, "START_S", 2.0)
    options = ClusterOptions(rollout_workers=1, learner_worker_gpus=1, stall_s=2)
    with pytest.raises(WorkersLostError, match="of 8 CPUs and 0 of 0 GPUs; add machines"):
        Trainer(exact(tmp_path, cluster=options))
    made = ray.remote(num_gpus=1, concurrency_groups={"health": 1})(Failing)
    pool = RolloutPool(lambda number: made.remote(), 1, 2.0, lambda actor, why: None)
    pool.submit(Task(Job((0,), Chains(1)), Weights(0, [[]])))
    with pytest.raises(WorkersLostError, match="expected room for a process"):
        tick_until_idle(pool)


class Recorder:
    """Takes the place of what rolls out, and notes the weights that it gets."""

    queues = ()

    def __init__(self) -> None:
        self.got: list[Any] = []

    def grow_trees(self, job: Job, weights: Any) -> list[Any]:
        self.got.append(weights)
        return []


def test_a_rollout_worker_fetches_weights_once_and_those_after_a_loss_again(tmp_path: Path) -> None:
    from at2po_agents.workers.ray.actors import RolloutActor

    worker, recorder = RolloutActor(exact(tmp_path), "rollout_worker-0"), Recorder()
    worker._worker = recorder  # type: ignore[assignment]
    lost, again = [ray.put({"of step 1": 0})], [ray.put({"of step 1 again": 0})]
    for box in (lost, lost, again):
        worker.grow_trees(Job((0,), Chains(1)), box)
    assert [list(weights) for weights in recorder.got] == [
        ["of step 1"],
        ["of step 1"],
        ["of step 1 again"],
    ]
    assert recorder.got[0] is recorder.got[1]


def test_rollout_workers_and_ranks_that_share_a_place_take_turns(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    options = ClusterOptions(rollout_workers=2, learner_workers=2, colocate=True)
    Trainer(exact(tmp_path, cluster=options)).run()
    assert_same(tmp_path, alone)
    spans = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text().splitlines()]
    collecting = [s for s in spans if s["stage"] in ("collect", "eval")]
    updating = [s for s in spans if s["stage"] == "update"]
    assert len(updating) == 2 * 5
    for one in collecting:
        assert all(one["end"] <= two["start"] or two["end"] <= one["start"] for two in updating)


@pytest.mark.skipif(not importlib.util.find_spec("nixl"), reason="needs the package nixl")
def test_weights_that_rollout_workers_read_from_the_learner_are_the_same(
    tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    options = ClusterOptions(rollout_workers=2, learner_workers=1, transport="nixl")
    Trainer(exact(tmp_path, cluster=options)).run()
    assert_same(tmp_path, alone)


class Server:
    """A retriever over HTTP that can be killed and come back."""

    def __init__(self, passages: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.index = f"bm25:{passages}"
        self.start()

    def start(self) -> None:
        words = ["serve", "--index", self.index, "--port", self.port]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "at2po_agents", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        RemoteRetriever(self.url).wait_until_ready(120)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, dict[str, Any]]]:
    """MiniWiki behind a server, and the settings of a run that searches there."""
    wiki = gymnasium.make("at2po_envs:at2po/MiniWiki-v0", questions=20, seed=1).unwrapped.wiki
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    with passages.open("w") as file:
        for passage in wiki.corpus:
            file.write(json.dumps({"id": passage.id, "contents": passage.contents}) + "\n")
    with questions.open("w") as file:
        for question in wiki.question_list:
            answers = list(question.golden_answers)
            row = {"id": question.id, "question": question.question, "golden_answers": answers}
            file.write(json.dumps(row) + "\n")
    server = Server(passages)
    options = {
        "questions_path": str(questions),
        "retriever": server.url,
        "prompt": "brief",
        "tool_timeout_s": 2.0,
    }
    run = {"env": "at2po/HotpotQA-v0", "env_options": options, "eval.env_options": options}
    yield server, run
    server.kill()


def test_a_retriever_that_dies_is_waited_for(
    tmp_path: Path, served: tuple[Server, dict[str, Any]]
) -> None:
    server, run = served
    options = ClusterOptions(rollout_workers=2, learner_workers=1, stall_s=120)
    Trainer(exact(tmp_path / "calm", **run)).run()

    def outage() -> None:
        while not read_metrics(tmp_path / "run" / "metrics.jsonl"):
            time.sleep(0.01)
        server.kill()
        time.sleep(6)
        server.start()

    away = threading.Thread(target=outage, daemon=True)
    away.start()
    Trainer(exact(tmp_path / "run", **run, cluster=options)).run()
    away.join()
    assert_same(tmp_path / "run", weights(tmp_path / "calm"))
    spans = (tmp_path / "run" / "timeline.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in spans]
    assert max(row["end"] - row["start"] for row in rows if row["stage"] == "collect") > 5


def test_rollout_workers_one_update_ahead_are_corrected_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They work beside the update, and keep up with it however busy this machine is."""
    from at2po_agents.workers.ray.workers import RayWorkers

    set_weights = RayWorkers.set_rollout_weights

    def once_idle(workers: RayWorkers) -> None:
        tick_until_idle(workers.pool)
        set_weights(workers)

    monkeypatch.setattr(RayWorkers, "set_rollout_weights", once_idle)
    ahead = ClusterOptions(rollout_workers=2, learner_workers=1, staleness=1)
    algorithm = algorithms.ATPO(chains=3, iterations=1, beam=2, importance_cap=2.0)
    Trainer(exact(tmp_path, algorithm=algorithm, cluster=ahead)).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")[1:]
    assert [row["rollout/staleness"] for row in rows] == [0, 1, 1, 1, 1]
    weighed = [row["policy/importance_mean"] for row in rows]
    assert weighed[0] == pytest.approx(1, abs=1e-9)  # sampled by the weights that learn from it
    assert any(abs(weight - 1) > 1e-9 for weight in weighed[1:])
    assert all(row["rollout/dropped"] == 0 for row in rows)


def test_a_loss_of_the_learner_drops_what_was_collected_ahead(tmp_path: Path) -> None:
    ahead = ClusterOptions(rollout_workers=2, learner_workers=2, staleness=1, stall_s=120)
    algorithm = algorithms.ATPO(chains=3, iterations=1, beam=2, importance_cap=2.0)
    disturbance = Disturbance(tmp_path, "LearnerActor.update", kill, step=3)
    Trainer(exact(tmp_path, algorithm=algorithm, cluster=ahead)).run()
    assert disturbance.hit
    (fault,) = status(tmp_path)["faults"]
    assert fault["actor"].startswith("learner_worker-")
    assert fault["done"] == "restarted from a checkpoint"
    rows = read_metrics(tmp_path / "metrics.jsonl")[1:]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(0 <= row["rollout/staleness"] <= 1 for row in rows)
    assert rows[0]["rollout/dropped"] == 0
    assert rows[-1]["rollout/dropped"] >= 4  # a batch was on its way
