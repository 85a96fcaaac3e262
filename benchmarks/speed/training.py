"""Packed against flat training: seconds, tokens and memory of one AT²PO mini-batch, as JSON.

`python -m benchmarks.speed.training` goes forward and backward over the same trees in two ways:
every unique token once, and every row as a sequence of its own. The latter goes in batches of rows
of similar length, with causal attention and a head that sees sampled tokens only, under the same
token budget. Gradients are the same, and checked to be. The trees are those of the demo's first
step, and random ones of the paper's shape.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.random import default_rng
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel as Model

from at2po_agents.algorithms import ATPO, Algorithm
from at2po_agents.config.train import TrainConfig, load_config
from at2po_agents.engines import TransformersEngine
from at2po_agents.learner.logprobs import flat_logprobs, token_logprobs
from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import alike, partition_packs, row_tokens
from at2po_agents.objective.rows import Rows
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.environments import make_env
from at2po_agents.rollout.expansion.entropy_measures import entropy_mean_std
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.rollout_worker import new_collector
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.memory import memory
from benchmarks.speed.paper_step import PaperStep

TOLERANCE = 1e-3
"""Largest difference of the two gradients in float32, in parts of their norm."""


@dataclass(frozen=True, kw_only=True)
class TrainSpeedConfig:
    """Measure what packing saves in training on this machine."""

    trees: tuple[int, ...] = (1, 4, 16)
    """Sizes of the mini-batches."""
    repeats: int = 5
    """Passes per way of training, taken in turn."""
    token_budget: int = 16384
    """Most tokens in one forward pass, of both ways."""
    out: Path = Path("benchmarks/results/train_speed.json")
    """Where the figures go."""


def packed(model: Model, algorithm: Algorithm, trees: list[RolloutTree], budget: int) -> int:
    """Add the gradients of a mini-batch to the model as the learner does.

    Args:
        model: The model.
        algorithm: Its loss is taken.
        trees: Credited trees.
        budget: Most tokens in one forward pass.

    Returns:
        Tokens that went through the model.
    """
    tokens = 0
    for members in partition_packs(trees, 1, budget)[0]:
        part = pack(members, dtype=model.dtype)
        logp = token_logprobs(model, part)
        rows = _shared(part.rows, trees)
        _backward(algorithm, rows, rows.gather(logp))
        tokens += part.ids.numel()
    return tokens


def flat(model: Model, algorithm: Algorithm, trees: list[RolloutTree], budget: int) -> int:
    """Do what `packed` does with every row as a sequence of its own."""
    rows = _shared(pack(trees, dtype=model.dtype).rows, trees)
    sequences = [r for tree in trees for r in sorted(tree.rows(), key=lambda r: r.leaf.key)]
    tokens = 0
    for numbers in alike([len(row.ids) for row in sequences], budget):
        batch = [sequences[number] for number in numbers]
        own = _take(rows, numbers)
        scores = pad_sequence(flat_logprobs(model, batch), batch_first=True)
        _backward(algorithm, own, scores)
        tokens += len(batch) * max(len(row.ids) for row in batch)
    return tokens


def demo_trees(count: int) -> list[RolloutTree]:
    """Collect trees with the embedded model as the demo does, and credit them.

    Args:
        count: Number of trees, >= 1.

    Returns:
        The first trees that have something to learn from.

    Raises:
        EvaluationError: If there are fewer among three times as many.
    """
    config = load_config(TrainConfig, "demo")
    model, tokenizer = load_model(config.model.name)
    env = make_env(config.env, config.env_options)
    collector = new_collector(config, env, TransformersEngine(model, tokenizer), tokenizer)
    trees = collector.collect(env.questions[: 3 * count], config.algorithm.expansion(), seed=0)
    for tree in trees:
        config.algorithm.assign_credit(tree)
    found = [tree for tree in trees if any(node.advantage for node in tree.nodes())]
    if len(found) < count:
        raise EvaluationError(
            f"expected {count} trees with different rewards, found {len(found)} among "
            f"{len(trees)}; measure fewer"
        )
    return found[:count]


def paper_trees(count: int) -> list[RolloutTree]:
    """Draw trees of the paper's shape with random tokens and rewards, and credit them.

    Args:
        count: Number of trees, >= 1.
    """
    rng = default_rng(0)
    # Rows of at most 3,150 tokens, which the embedded model's context holds.
    step = PaperStep(most_turns=6, turn_spread=0.0)
    trees = [plan.tree for plan in step.draw(count, rng)]
    for tree in trees:
        for node in tree.nodes():
            node.sampled, node.inserted = (
                rng.integers(1, 2048, len(ids)).tolist() for ids in (node.sampled, node.inserted)
            )
            node.logprobs = (-rng.exponential(size=len(node.sampled))).tolist()
            node.reward = float(rng.integers(2)) if node.is_leaf else None
        ATPO().assign_credit(tree)
    return trees


SHAPES: dict[str, Callable[[int], list[RolloutTree]]] = {
    "demo": demo_trees,
    "paper": paper_trees,
}
WAYS: dict[str, Callable[[Model, Algorithm, list[RolloutTree], int], int]] = {
    "packed": packed,
    "flat": flat,
}


def _shared(rows: Rows, trees: Sequence[RolloutTree]) -> Rows:
    """Give rows the denominators and entropies of the whole mini-batch."""
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    tokens = sum(row_tokens(tree, sampled_only=True) for tree in trees)
    return replace(
        rows, total_rows=len(leaves), total_tokens=tokens, entropy_mean_std=entropy_mean_std(leaves)
    )


def _take(rows: Rows, numbers: Sequence[int]) -> Rows:
    """Choose rows, as wide as the longest of them."""
    width = int(rows.mask[numbers].sum(1).max())
    chosen: dict[str, Any] = {
        field.name: value[numbers, :width] if value.dim() == 2 else value[numbers]
        for field in fields(rows)
        if isinstance(value := getattr(rows, field.name), Tensor)
    }
    return replace(rows, **chosen)


def _backward(algorithm: Algorithm, rows: Rows, logp: Tensor) -> None:
    algorithm.loss(rows, logp, logp.detach()).loss.backward()


def measure(config: TrainSpeedConfig) -> dict[str, Any]:
    """Time both ways over all shapes and sizes.

    Args:
        config: What is measured.

    Returns:
        JSON-able figures.

    Raises:
        EvaluationError: If a number is out of range, or the ways do not agree.
    """
    if config.repeats < 1 or min(config.trees, default=0) < 1 or config.token_budget < 1:
        raise EvaluationError(f"expected numbers of at least 1, found {config}")
    cases = []
    for shape, grow in SHAPES.items():
        trees = grow(max(config.trees))
        for count in config.trees:
            cases.append({"shape": shape, **compare(trees[:count], config)})
    return {
        "model": "mini",
        "algorithm": ATPO.name,
        "repeats": config.repeats,
        "token_budget": config.token_budget,
        "cases": cases,
    }


def compare(trees: list[RolloutTree], config: TrainSpeedConfig) -> dict[str, Any]:
    """Measure both ways over one mini-batch.

    Args:
        trees: Credited trees.
        config: Repeats and token budget.

    Returns:
        Counts of tokens, median seconds, peak memory in MiB above what the process held before;
        then the ratio of row tokens to unique tokens, the speed-up, and the speed-up over that
        ratio.

    Raises:
        EvaluationError: If the ways' gradients differ.
    """
    model, _ = load_model("mini")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    tokens, gradients = {}, {}
    for repeat in range(config.repeats + 1):  # the first is not counted
        for name, way in WAYS.items():
            model.zero_grad()
            start = time.perf_counter()
            tokens[name] = way(model, ATPO(), trees, config.token_budget)
            took = time.perf_counter() - start
            if repeat:
                seconds[name].append(took)
            else:
                gradients[name] = _gradient(model)
    off = (gradients["packed"] - gradients["flat"]).norm() / gradients["flat"].norm()
    if not off < TOLERANCE:
        raise EvaluationError(f"expected equal gradients, found a difference of {off}; a bug")
    rows, unique = sum(map(row_tokens, trees)), sum(tree.unique_tokens for tree in trees)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    speed_up, ratio = medians["flat"] / medians["packed"], rows / unique
    return {
        "trees": len(trees),
        "row_tokens": rows,
        "unique_tokens": unique,
        "tokens_processed": tokens,
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "peak_mib": {name: round(_peak_alone(name, trees, config), 1) for name in WAYS},
        "gradient_difference": float(off),
        "ratio": round(ratio, 3),
        "speed_up": round(speed_up, 3),
        "speed_up_of_ratio": round(speed_up / ratio, 3),
    }


def _gradient(model: Model) -> Tensor:
    """Return the gradients of all parameters as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _peak_alone(name: str, trees: list[RolloutTree], config: TrainSpeedConfig) -> float:
    """Return the memory in MiB that one way takes in a process of its own."""
    job = (name, trees, config.token_budget, torch.get_num_threads())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, job)


def _peak(name: str, trees: list[RolloutTree], budget: int, threads: int) -> float:
    torch.set_num_threads(threads)
    model, _ = load_model("mini")
    before = memory("VmRSS")
    WAYS[name](model, ATPO(), trees, budget)
    return memory("VmHWM") - before


main = partial(run, "benchmarks.speed.training", TrainSpeedConfig, measure)


if __name__ == "__main__":
    main()
