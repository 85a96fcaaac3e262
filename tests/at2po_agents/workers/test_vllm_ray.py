"""vLLM in processes of Ray and torchrun: the contract of engines, runs that follow updates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig
from at2po_agents.engines import Engine, make_engine
from at2po_agents.errors import ConfigError
from at2po_agents.learner.logprobs import flat_logprobs
from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.loading import load_model
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.engines.engine_contract import (
    EngineContract,
    Make,
    make_model,
    make_tokenizer,
)
from tests.at2po_agents.engines.vllm_takes_over import TakesOver
from tests.at2po_agents.training.runs import small, weights
from tests.at2po_agents.training.test_torchrun import torchrun

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own warnings are not ours
]


class Host:
    """Holds an engine in a process of Ray."""

    def __init__(self) -> None:
        self._make = TakesOver()

    def make(self, model: Any, tokenizer: Any, options: dict[str, Any]) -> None:
        self._make(model, tokenizer, **options)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._make.engine, method)(*arguments)

    def read(self, name: str) -> Any:
        return getattr(self._make.engine, name)


class Remote:
    """The engine of a host, as if it were here."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name in ("stats", "max_length"):
            return self._get(self._host.read.remote(name))
        return lambda *arguments: self._get(self._host.call.remote(name, *arguments))

    def _get(self, reply: Any) -> Any:
        try:
            return ray.get(reply)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    host = ray.remote(Host).remote()

    def start(model: Any, tokenizer: Any, **options: Any) -> Engine:
        ray.get(host.make.remote(model, tokenizer, options))
        return Remote(host)  # type: ignore[return-value]

    yield start
    ray.kill(host)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return make_model("qwen3", tokenizer, torch.float32)


class TestContract(EngineContract):
    tolerances: ClassVar = {torch.float32: 1e-5}


def off(model: PreTrainedModel, trees: list[RolloutTree]) -> float:
    """How far the log-probabilities of sampled tokens are from a model's, at most."""
    rows = [row for tree in trees for row in tree.rows()]
    with torch.no_grad():
        scored = flat_logprobs(model, rows)
    sampled = [
        torch.tensor([each for node in row.leaf.path() for each in node.logprobs]) for row in rows
    ]
    return max((one - two).abs().max().item() for one, two in zip(scored, sampled, strict=True))


def two_steps(out: Path, **changes: Any) -> TrainConfig:
    usual: dict[str, Any] = {
        "steps": 2,
        "rollout.questions_per_step": 4,
        "eval.every": 1,
        "eval.questions": 4,
        "checkpoint.every": 1,
        "engine.name": "vllm",
        "engine.options": {"cache_bytes": 1 << 26},
    }
    return small(out, **(usual | changes))


def assert_sampled_with_the_weights_of_every_update(out: Path, updated: Any) -> None:
    """Hold trees to the weights at the start, and after one update."""
    grown = []
    for step in (1, 2):
        lines = (out / "trees" / f"step_{step:06d}.jsonl").read_text().splitlines()
        grown.append([RolloutTree.from_dict(json.loads(line)) for line in lines])
    before, after = load_model("mini")[0], load_model("mini")[0]
    after.load_state_dict(updated, strict=False)  # tied weights are there once
    assert off(before, grown[0]) < 1e-3
    assert off(after, grown[1]) < 1e-3
    assert off(before, grown[1]) > 1e-2


def test_rollout_workers_sample_with_the_weights_of_every_update(tmp_path: Path) -> None:
    options = ClusterOptions(rollout_workers=2, learner_workers=1)
    Trainer(two_steps(tmp_path, cluster=options)).run()
    assert_sampled_with_the_weights_of_every_update(tmp_path, weights(tmp_path, step=1))


def test_so_do_ranks_of_torchrun_each_with_an_engine(tmp_path: Path) -> None:
    torchrun(2, two_steps(tmp_path))
    assert_sampled_with_the_weights_of_every_update(tmp_path, weights(tmp_path, step=1))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    collected = {span.actor for _, span in timeline.read(tmp_path) if span.stage == "collect"}
    assert collected == {"rank-0", "rank-1"}


def test_an_engine_of_several_gpus_is_refused_under_torchrun(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    options = {"tensor_parallel_size": 2}
    with pytest.raises(ConfigError, match="found tensor_parallel_size=2"):
        make_engine("vllm", model, tokenizer, max_batch=4, options=options)
