"""Turn-wise credit: from the rewards of the leaves to a value and an advantage for every turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.tree import Node, RolloutTree

LeafNorm = Literal["population", "unbiased", "none"]
Value = Literal["child_softmax", "child_linear", "child_mean", "leaf_mean"]
Advantage = Literal["value", "minus_parent", "minus_root", "sum"]

#: Added to the standard deviation. Source: released AT2PO code.
EPSILON = 1e-6


def normalise(rewards: Sequence[float], how: LeafNorm = "population") -> list[float]:
    """Centre the rewards of one tree's leaves and scale them to unit deviation.

    Args:
        rewards: Rewards of all leaves of a tree, any range.
        how: "population" (ddof 0, the released code), "unbiased" (ddof 1) or "none" (unchanged).

    Returns:
        One number per leaf; exact zeros when all rewards are equal (unless `how` is "none"); all
        NaN when a reward is not finite, so that the learner sets the tree aside.

    Source: AT2PO paper ("standard GRPO normalisation"); ddof as in the released code.
    """
    check(LeafNorm, "leaf_norm", how)
    if not all(map(math.isfinite, rewards)):
        return [math.nan] * len(rewards)
    if how == "none":
        return list(rewards)
    if all(reward == rewards[0] for reward in rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    ddof = 1 if how == "unbiased" else 0
    variance = math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - ddof)
    return [(reward - mean) / (math.sqrt(variance) + EPSILON) for reward in rewards]


def assign_values(
    tree: RolloutTree, *, leaf_norm: LeafNorm = "population", value: Value = "child_softmax"
) -> None:
    """Write `node.value` on every node, from the leaves up.

    Args:
        tree: A complete tree; every leaf has a reward.
        leaf_norm: How leaf rewards are normalised within the tree, see `normalise`.
        value: How a turn's value follows from what comes after it: "child_softmax" (weights
            proportional to exp(surprisal) of the children; the released code), "child_linear"
            (proportional to their surprisal; paper Eq. 3), "child_mean" or "leaf_mean".

    Raises:
        TreeError: If a leaf has no reward.

    Source: AT2PO paper Eq. 3 and Table 3; softmax weights only in the released code.
    """
    check(Value, "value", value)
    leaves = tree.leaves()
    rewards = [_reward(leaf) for leaf in leaves]
    for leaf, normalised in zip(leaves, normalise(rewards, leaf_norm), strict=True):
        leaf.value = normalised
    counts = dict.fromkeys(leaves, 1)
    for node in reversed(tree.nodes()):
        if node.is_leaf:
            continue
        counts[node] = sum(counts[child] for child in node.children)
        if value == "leaf_mean":
            weights = [counts[child] / counts[node] for child in node.children]
        else:
            weights = _WEIGHTS[value]([child.surprisal for child in node.children])
        node.value = math.fsum(
            weight * _known(child.value)
            for weight, child in zip(weights, node.children, strict=True)
        )


def assign_advantages(tree: RolloutTree, advantage: Advantage = "value") -> None:
    """Write `node.advantage` on every turn (the root samples nothing and gets none).

    Args:
        tree: A tree whose nodes have values.
        advantage: "value" (V, the paper's main setting), "minus_parent" (V - V of the parent),
            "minus_root" (V - V of the root) or "sum" (of the two differences).

    Raises:
        TreeError: If a node has no value.

    Source: AT2PO paper, modes V, L, G and L+G of Table 3.
    """
    check(Advantage, "advantage", advantage)
    root = _known(tree.root.value)
    for node in tree.nodes()[1:]:
        own, parent = _known(node.value), _known(node.parent.value if node.parent else None)
        node.advantage = {
            "value": own,
            "minus_parent": own - parent,
            "minus_root": own - root,
            "sum": (own - parent) + (own - root),
        }[advantage]


def check(kind: object, name: str, found: str) -> None:
    """Raise unless a setting is one of the strings of a Literal type.

    Args:
        kind: The Literal type.
        name: Name of the setting, for the message.
        found: The value given.

    Raises:
        ConfigError: If the value is not allowed.
    """
    if found not in get_args(kind):
        allowed = ", ".join(get_args(kind))
        raise ConfigError(f"{name} must be one of {allowed}, found {found!r}; pick one of these")


def _softmax(surprisals: Sequence[float]) -> list[float]:
    peak = max(surprisals)
    powers = [math.exp(surprisal - peak) for surprisal in surprisals]
    return [power / math.fsum(powers) for power in powers]


def _linear(surprisals: Sequence[float]) -> list[float]:
    total = math.fsum(surprisals)
    # Children that were all sampled with certainty leave Eq. 3 at 0/0: they then count alike.
    return [surprisal / total for surprisal in surprisals] if total > 0 else _mean(surprisals)


def _mean(surprisals: Sequence[float]) -> list[float]:
    return [1.0 / len(surprisals)] * len(surprisals)


_WEIGHTS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "child_softmax": _softmax,
    "child_linear": _linear,
    "child_mean": _mean,
}


def _reward(leaf: Node) -> float:
    if leaf.reward is None:
        raise TreeError(
            f"every leaf needs a reward, found none at {leaf.key}; finish the chain before credit"
        )
    return leaf.reward


def _known(value: float | None) -> float:
    if value is None:
        raise TreeError("advantages need node values, found None; call assign_values first")
    return value
