"""What trees say in figures: those of a training step, and those of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from at2po_agents.errors import EvaluationFailedError
from at2po_agents.tree import Node, RolloutTree

_log = logging.getLogger(__name__)

_FAILURES = ("env_failed", "tool_failed")
"""Flags of episodes in which something failed that was not the agent."""


def rollout_metrics(trees: Sequence[RolloutTree]) -> dict[str, Any]:
    """Summarise collected trees.

    Args:
        trees: Complete trees.

    Returns:
        Means over leaves (reward, EM, format, turns, searches, truncation), the mean surprisal of
        turns in nats, and token counts: sampled, inserted. Where an environment or tools failed,
        the share of leaves with that flag.
    """
    nodes = [node for tree in trees for node in tree.nodes()]
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    turns = [node for node in nodes if node.parent is not None]

    def over_leaves(name: str) -> float:
        return _mean(leaf.info[name] for leaf in leaves)

    return {
        "rollout/reward_mean": _mean(_reward(leaf) for leaf in leaves),
        "rollout/em": over_leaves("em"),
        "rollout/format_rate": over_leaves("format_ok"),
        "rollout/search_calls": over_leaves("tool_calls"),
        "rollout/truncated": over_leaves("truncated"),
        "rollout/turns_mean": _mean(leaf.depth for leaf in leaves),
        "rollout/surprisal": _mean(turn.surprisal for turn in turns),
        "tokens/sampled": sum(len(node.sampled) for node in nodes),
        "tokens/inserted": sum(len(node.inserted) for node in nodes),
        **_failed("rollout", leaves),
    }


def evaluation_metrics(leaves: Sequence[Node]) -> dict[str, Any]:
    """Summarise the episodes of an evaluation.

    Args:
        leaves: The end of each, at least one.

    Returns:
        Means of EM, F1, format, searches, turns and truncation, and the number of episodes. Where
        an environment or tools failed, the share of episodes with that flag.

    Raises:
        EvaluationFailedError: If the environment failed in every episode: nothing was measured.
    """
    failed = _failed("eval", leaves)
    if failed.get("eval/env_failed") == 1:
        raise EvaluationFailedError(
            f"expected episodes that can be evaluated, found that the environment failed in all "
            f"{len(leaves)}; mend it, then go on with --resume"
        )
    return {
        "eval/em": _mean(leaf.info["em"] for leaf in leaves),
        "eval/f1": _mean(leaf.info["f1"] for leaf in leaves),
        "eval/format_rate": _mean(leaf.info["format_ok"] for leaf in leaves),
        "eval/searches": _mean(leaf.info["tool_calls"] for leaf in leaves),
        "eval/turns": _mean(leaf.depth for leaf in leaves),
        "eval/truncated": _mean(leaf.info["truncated"] for leaf in leaves),
        "eval/questions": len(leaves),
        **failed,
    }


def _failed(kind: str, leaves: Sequence[Node]) -> dict[str, float]:
    """Return the shares of failures that there were, and say them."""
    flags = [leaf.info.get("flags", ()) for leaf in leaves]
    shares = {name: _mean(name in each for each in flags) for name in _FAILURES}
    for name, share in shares.items():
        if share:
            _log.warning("%s: %.0f%% of the episodes are flagged %s", kind, 100 * share, name)
    return {f"{kind}/{name}": share for name, share in shares.items() if share}


def _reward(leaf: Node) -> float:
    return leaf.reward if leaf.reward is not None else float("nan")


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
