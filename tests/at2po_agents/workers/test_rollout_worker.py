"""Jobs, and what becomes of trees whose tools were away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.algorithms import GRPO
from at2po_agents.config.train import TrainConfig, override
from at2po_agents.errors import ToolsUnavailableError
from at2po_agents.learner.checkpoint import latest
from at2po_agents.monitoring.status import read_status
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.expansion import Chains
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.rollout_worker import MAX_ROLLOUT_RETRIES, RolloutWorker, make_envs
from tests.at2po_agents.training.runs import small

JOB = Job((3, 4, 5), Chains(2), seed=1)


class Unreliable:
    """A search tool that fails a number of calls, and says whether it is there."""

    batched = True

    def __init__(self, tool: Any, failures: int, there: bool | None = True) -> None:
        self.tool, self.spec = tool, tool.spec
        self.failures, self.there = failures, there
        self.asked: list[float] = []

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> Any:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        return self.tool(arguments)

    def ready(self, timeout_s: float) -> bool | None:
        self.asked.append(timeout_s)
        return self.there


def worker(failures: int = 0, there: bool | None = True) -> tuple[RolloutWorker, Unreliable]:
    config = override(
        TrainConfig(),
        {
            "env_options": {"questions": 20},
            "eval.env_options": {"questions": 5},
            "rollout.tool_wait_timeout_s": 7.0,
        },
    )
    model, tokenizer = load_model("mini")
    envs = make_envs(config)
    tool = Unreliable(envs[0].tools["search"], failures, there)
    envs[0].tools = {"search": tool}
    return RolloutWorker(config, model, tokenizer, envs), tool


def collect(made: RolloutWorker) -> list[RolloutTree]:
    return made.grow_trees(JOB, load_model("mini")[0].state_dict())


def flags(trees: Sequence[RolloutTree]) -> set[str]:
    return {flag for tree in trees for leaf in tree.leaves() for flag in leaf.outcome.flags}


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    return [tree.to_dict() for tree in collect(worker()[0])]


def sampled(trees: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [[(node["sampled"], node["inserted"]) for node in tree["nodes"]] for tree in trees]


def test_trees_whose_tools_were_away_are_grown_again(undisturbed: list[dict[str, Any]]) -> None:
    made, tool = worker(failures=2)
    trees = collect(made)
    assert tool.asked == [7.0] * len(tool.asked)
    assert len(tool.asked) >= 1
    assert not flags(trees)
    assert sampled([tree.to_dict() for tree in trees]) == sampled(undisturbed)


def test_tools_that_stay_away_end_the_collection() -> None:
    made, tool = worker(failures=1000, there=False)
    with pytest.raises(
        ToolsUnavailableError, match="found unavailable for 7 s: search; bring them back"
    ):
        collect(made)
    assert not made.waiting


def test_a_tool_that_fails_though_it_is_there_is_no_reason_to_wait_for_ever() -> None:
    made, tool = worker(failures=1000)
    assert flags(collect(made)) == {"tool_failed"}
    assert len(tool.asked) == MAX_ROLLOUT_RETRIES


def test_a_tool_of_this_process_is_never_waited_for() -> None:
    made, tool = worker(failures=1000, there=None)
    assert flags(collect(made)) == {"tool_failed"}
    assert len(tool.asked) == 1


def test_parts_keep_order_and_numbers() -> None:
    job = Job(tuple(range(10, 17)), Chains(1), first=2)
    parts = job.split(3)
    assert [part.questions for part in parts] == [(10, 11), (12, 13), (14, 15, 16)]
    assert [part.first for part in parts] == [2, 4, 6]
    assert len(Job((1,), Chains(1)).split(4)) == 1


def test_a_pause_keeps_what_was_learned_and_the_run_goes_on(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "algorithm": GRPO(chains=2),
        "steps": 2,
        "rollout.questions_per_step": 2,
        "rollout.max_response_tokens": 200,
        "eval.every": 0,
        "checkpoint.every": 50,
    }
    Trainer(small(tmp_path / "whole", **changes)).run()
    trainer = Trainer(small(tmp_path / "run", **changes))
    learn = trainer.workers.learn

    def then_away(*arguments: Any) -> Any:
        tool = Unreliable(trainer.env.tools["search"], 1000, there=False)
        trainer.env.tools = {"search": tool}
        return learn(*arguments)

    trainer.workers.learn = then_away  # type: ignore[method-assign]
    with pytest.raises(ToolsUnavailableError):
        trainer.run()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("paused", 1)
    assert "bring them back" in (tmp_path / "run" / "status.json").read_text()
    found = latest(tmp_path / "run" / "checkpoints", trainer.identity)
    assert found is not None
    assert found.path.name == "step_000001"
    Trainer(small(tmp_path / "run", **changes, resume=True)).run()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("finished", 2)
    ends = [
        (tmp_path / name / "checkpoints" / "step_000002" / "model.safetensors").read_bytes()
        for name in ("whole", "run")
    ]
    assert ends[0] == ends[1]
