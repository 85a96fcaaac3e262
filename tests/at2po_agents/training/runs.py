"""Settings of runs of seconds, and what such runs leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from at2po_agents.algorithms import ATPO, DAPO, GRPO, Algorithm
from at2po_agents.config.train import TrainConfig, load_config, override
from at2po_agents.learner import checkpoint
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.weights import state_hash

ALGORITHMS: dict[str, Algorithm] = {
    "atpo": ATPO(chains=3, iterations=1, beam=2),
    "grpo": GRPO(chains=4),
    "dapo": DAPO(chains=4, oversample=2, max_length=300, buffer=100),
}


def small(out: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: few questions, small trees."""
    usual: dict[str, Any] = {
        "env_options": {"questions": 50, "seed": 1},
        "eval.env_options": {"split": "test", "questions": 6, "seed": 2},
        "algorithm": ALGORITHMS["atpo"],
        "steps": 4,
        "rollout.questions_per_step": 3,
        "optim.mini_batches": 1,
        "optim.learning_rate": 1e-3,
        "rollout.max_response_tokens": 300,
        "eval.every": 2,
        "eval.questions": 6,
        "checkpoint.every": 2,
        "out": out,
    }
    return override(TrainConfig(), usual | changes)


def exact(out: Path, name: str = "atpo", **changes: Any) -> TrainConfig:
    """Five steps in float64, where packs are cut and mini-batches smaller than ranks."""
    usual: dict[str, Any] = {
        "algorithm": ALGORITHMS[name],
        "steps": 5,
        "rollout.questions_per_step": 4,
        "optim.mini_batches": 2,
        "optim.token_budget": 1500,
        "eval.every": 0,
        "model.dtype": "float64",
    }
    return small(out, **(usual | changes))


def brief(out: Path, **changes: Any) -> TrainConfig:
    """A run that evaluates one question in a few tokens."""
    usual = {"steps": 0, "eval.questions": 1, "rollout.max_response_tokens": 8, "out": out}
    return override(load_config(TrainConfig, "demo"), usual | changes)


def rows_without_time(out: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in read_metrics(out / "metrics.jsonl")
    ]


def weights(out: Path, step: int = 5) -> dict[str, Tensor]:
    """The masters that a run had after a step, however they are kept; tied ones once."""
    found = checkpoint.load(out / checkpoint.FOLDER / f"step_{step:06d}", None)
    if found.shards is not None:
        from at2po_agents.learner.fsdp import read_shards

        state = read_shards(found.shards, "model")
    else:
        state = load_model(str(found.path), torch.float64)[0].state_dict()
    return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def assert_same(
    out: Path, expected: Mapping[str, Tensor], step: int = 5, close: float = 1e-9
) -> None:
    found = weights(out, step)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=close, msg=name)


def tensor_hashes(folder: Path) -> dict[str, str]:
    """Return hashes of all tensors that a checkpoint of one process holds, by file."""
    found = {
        str(path.relative_to(folder)): load_file(path) for path in folder.rglob("*.safetensors")
    }
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    states = saved["optimizer"]["state"]
    found["adam"] = {f"{i} {n}": t for i, s in states.items() for n, t in s.items()}
    found["masters"] = {str(i): t for i, t in enumerate(saved["masters"])}
    return {name: state_hash(tensors) for name, tensors in found.items() if tensors}
