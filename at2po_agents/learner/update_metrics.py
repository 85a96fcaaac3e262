"""What an update reports: the metrics of its mini-batches, and what its trees come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from at2po_agents.learner.partition import row_tokens
from at2po_agents.objective.diagnostics import combine
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True)
class MiniBatchStep:
    """What one mini-batch did.

    Attributes:
        taken: Whether the optimizer stepped.
        loss: Of all ranks.
        norm: Norm of the gradient of all ranks, before clipping.
        trained: Tokens that went forward and backward on this rank.
        tokens: Sampled row tokens of each of this rank's packs.
        metrics: The algorithm's metrics on each of them, in the CPU's memory.
    """

    taken: bool
    loss: float
    norm: float
    trained: int
    tokens: list[int]
    metrics: list[dict[str, Tensor]]


def summarize(by_rank: Sequence[Sequence[MiniBatchStep]]) -> dict[str, float]:
    """Reduce the metrics of all mini-batches; what was not measured or is not finite is left out.

    Args:
        by_rank: The mini-batches of each rank; loss and norm are the same on all of them.
    """
    steps, everywhere = by_rank[0], list(chain(*by_rank))
    taken = [step for step in steps if step.taken]
    metrics: dict[str, float] = {
        "optimizer_steps": len(taken),
        "skipped": len(steps) - len(taken),
        "trained_tokens": sum(step.trained for step in everywhere),
    }
    if taken:
        metrics["loss"] = sum(step.loss for step in taken) / len(taken)
        metrics["grad_norm"] = sum(step.norm for step in taken) / len(taken)
    tokens = [count for step in everywhere for count in step.tokens]
    measured = [found for step in everywhere for found in step.metrics]
    return metrics | combine(measured, tokens)


def count_trees(trees: Sequence[RolloutTree]) -> dict[str, float]:
    """Count trees, rows and tokens of an update.

    Args:
        trees: All trees of the update.
    """
    return {
        "trees": len(trees),
        "rows": sum(len(tree.leaves()) for tree in trees),
        "zero_variance_trees": sum(not carries_credit(tree) for tree in trees),
        "unique_tokens": sum(tree.unique_tokens for tree in trees),
        "row_tokens": sum(row_tokens(tree) for tree in trees),
    }


def carries_credit(tree: RolloutTree) -> bool:
    """Whether any token of the tree can have a weight in the loss."""
    turns = tree.nodes()[1:]
    credited = any(node.advantage or node.row_advantage for node in turns)
    return credited and any(node.sampled for node in turns)
