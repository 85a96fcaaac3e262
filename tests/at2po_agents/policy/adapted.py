"""Models with adapters that several test files share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from at2po_agents.engines import Completion, Request
from at2po_agents.policy.adapters import adapter_names
from at2po_agents.policy.lora import Lora, LoraOptions
from at2po_agents.tree import RolloutTree


def add_lora(model: PreTrainedModel, rank: int = 3, seed: int = 0, targets: str = "") -> Lora:
    """Put a fresh adapter into a model; skips the test where PEFT is not installed."""
    pytest.importorskip("peft", reason="needs PEFT: pip install 'at2po[lora]'")
    options = LoraOptions(rank=rank, alpha=5.0, targets=targets or "all-linear")
    return Lora(model, options, seed=seed)


def shake(model: PreTrainedModel, seed: int = 1, size: float = 0.1) -> None:
    """Give every tensor of a model's adapter new numbers."""
    numbers = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name in adapter_names(state):
        state[name].copy_(size * torch.randn(state[name].shape, generator=numbers))


def answered(requests: Sequence[Request], done: Mapping[Any, Completion]) -> list[RolloutTree]:
    """Return a tree per request, of what was sampled (reward 1) and the beginning of it (0)."""
    trees = []
    for request in requests:
        turn, tree = done[request.key], RolloutTree(request.key, list(request.ids))
        for reward, length in ((1.0, len(turn.ids)), (0.0, 3)):
            ids, logprobs = turn.ids[:length], turn.logprobs[:length]
            tree.add(tree.root, sampled=ids, logprobs=logprobs, reward=reward)
        trees.append(tree)
    return trees
