"""Advantages: from the rewards of the leaves to one for every turn, or one for every row.

Sources that several functions name:
    AT2PO: arXiv 2601.04767. Released code: `vllm_rollout_with_tools_tree_offline.py` in
    ATPO/verl_atpo/verl/workers/rollout/vllm_rollout/ of github.com/zzfoutofspace/ATPO at 98e60f6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.tree import Node, RolloutTree, leaf_reward

LeafNorm = Literal["population", "sample", "none", "correct"]
Value = Literal["child_softmax", "child_linear", "child_mean", "leaf_mean"]
Advantage = Literal["value", "minus_parent", "minus_root", "sum", "treerl"]
Reward = Callable[[Node], float]

#: Added to the standard deviation. Source: `epsilon` of AT2PO's released code.
EPSILON = 1e-6
#: Where a reward is larger, all are scaled down, so that their squares are numbers.
LARGEST = 1e100


def normalise(rewards: Sequence[float], how: LeafNorm = "population") -> list[float]:
    """Turn the rewards of one tree's leaves into z-scores.

    Args:
        rewards: Rewards of all leaves of a tree, any range.
        how: Standard deviation of the "population" (ddof=0) or of the "sample" (ddof=1), "none"
            (rewards as they are) or "correct" (1 where the reward is above 0, else 0: TreeRL's).

    Returns:
        One number per leaf; exact zeros instead of z-scores when all rewards are equal; all NaN
        when a reward is not finite, so that the learner sets the tree aside.

    Source: z-scores of a group are GRPO's (arXiv 2402.03300, section 4.1.2); ddof=0 is AT2PO's
    released code.
    """
    check(LeafNorm, "leaf_norm", how)
    if not all(map(math.isfinite, rewards)):
        return [math.nan] * len(rewards)
    if how == "none":
        return list(rewards)
    if how == "correct":
        return [float(reward > 0) for reward in rewards]
    if all(reward == rewards[0] for reward in rewards):
        return [0.0] * len(rewards)
    peak = max(map(abs, rewards))
    if peak > LARGEST:
        rewards = [reward / peak * LARGEST for reward in rewards]
    mean = math.fsum(rewards) / len(rewards)
    ddof = 1 if how == "sample" else 0
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
            proportional to exp(surprisal) of the children), "child_linear" (to their surprisal),
            "child_mean" or "leaf_mean".

    Raises:
        TreeError: If a leaf has no reward.

    Source: AT2PO Eq. 3 (linear weights) and Table 3; softmax weights only in its released code.
    """
    check(Value, "value", value)
    leaves = tree.leaves()
    rewards = [leaf_reward(leaf) for leaf in leaves]
    for leaf, normalised in zip(leaves, normalise(rewards, leaf_norm), strict=True):
        leaf.value = normalised
    counts = _leaves_below(tree)
    for node in reversed(tree.nodes()):
        if node.is_leaf:
            continue
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
            "minus_root" (V - V of the root), "sum" (of the two differences) or "treerl" (that sum
            over the square root of the number of leaves below).

    Raises:
        TreeError: If a node has no value.

    Source: AT2PO, modes V, L, G and L+G of Table 3; the last is that of TreeRL (arXiv 2506.11902),
    and belongs to leaf_norm "correct" and value "leaf_mean".
    """
    check(Advantage, "advantage", advantage)
    root, leaves = _known(tree.root.value), _leaves_below(tree)
    for node in tree.nodes()[1:]:
        own, parent = _known(node.value), _known(node.parent.value if node.parent else None)
        both = (own - parent) + (own - root)
        node.row_advantage = None
        node.advantage = {
            "value": own,
            "minus_parent": own - parent,
            "minus_root": own - root,
            "sum": both,
            "treerl": both / math.sqrt(leaves[node]),
        }[advantage]


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Return the advantages of GRPO: the rewards of a group compared with each other.

    Args:
        rewards: Rewards of the group, at least one.

    Returns:
        (R - mean) / (std + 1e-6) with ddof=1; the reward itself for a group of one.

    Source: GRPO (arXiv 2402.03300), section 4.1.2; ddof and the rule for one are those of
    `compute_grpo_outcome_advantage` in verl/trainer/ppo/core_algos.py of verl.
    """
    return list(rewards) if len(rewards) == 1 else normalise(rewards, "sample")


def assign_row_advantages(tree: RolloutTree, reward: Reward | None = None) -> None:
    """Give every row one advantage: its reward relative to all rows of the question (GRPO).

    Args:
        tree: A complete tree.
        reward: Reward of a leaf; None takes `leaf.reward`.

    Raises:
        TreeError: If a leaf has no reward.
    """
    leaves = tree.leaves()
    rewards = [(reward or leaf_reward)(leaf) for leaf in leaves]
    _write_rows(tree, leaves, group_advantages(rewards))


def assign_forest_advantages(
    tree: RolloutTree, trees: Sequence[Sequence[Node]], inter: bool = True
) -> None:
    """Give every row its reward relative to its own tree and to all trees (Tree-GRPO).

    Args:
        tree: A complete tree that holds all trees of a question.
        trees: The turns of each of them.
        inter: Whether to add the part relative to all rows to that within the tree.

    Raises:
        TreeError: If a leaf has no reward.

    Source: Tree-GRPO (arXiv 2509.21240), A = A_inter + A_intra.
    """
    groups = [[node for node in nodes if node.is_leaf] for nodes in trees]
    leaves = [leaf for group in groups for leaf in group]
    rewards = [leaf_reward(leaf) for leaf in leaves]
    within = [a for g in groups for a in group_advantages([leaf_reward(leaf) for leaf in g])]
    across = group_advantages(rewards) if inter else [0.0] * len(rewards)
    _write_rows(tree, leaves, [a + b for a, b in zip(across, within, strict=True)])


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
    return _mean(surprisals) if total <= 0 else [surprisal / total for surprisal in surprisals]


def _mean(surprisals: Sequence[float]) -> list[float]:
    return [1.0 / len(surprisals)] * len(surprisals)


_WEIGHTS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "child_softmax": _softmax,
    "child_linear": _linear,
    "child_mean": _mean,
}


def _write_rows(tree: RolloutTree, leaves: Sequence[Node], advantages: Sequence[float]) -> None:
    """Write the rows' advantages on the leaves, and on every turn the mean of those it serves."""
    for leaf, advantage in zip(leaves, advantages, strict=True):
        leaf.value = leaf.row_advantage = advantage
    counts = _leaves_below(tree)
    for node in reversed(tree.nodes()):
        if not node.is_leaf:
            sums = (counts[child] * _known(child.value) for child in node.children)
            node.value = math.fsum(sums) / counts[node]
        if node.parent is not None:
            node.advantage = node.value


def _leaves_below(tree: RolloutTree) -> dict[Node, int]:
    """Count the leaves under each node; a leaf counts itself."""
    counts: dict[Node, int] = {}
    for node in reversed(tree.nodes()):
        counts[node] = sum(counts[child] for child in node.children) or 1
    return counts


def _known(value: float | None) -> float:
    if value is None:
        raise TreeError("advantages need node values, found None; call assign_values first")
    return value
