"""What trees say in figures: those of a training step, and those of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from at2po_agents.errors import EvaluationFailedError
from at2po_agents.tree import Node, RolloutTree, leaf_outcome
from at2po_envs import Outcome

_log = logging.getLogger(__name__)

_FAILURES = ("env_failed", "tool_failed")
"""Flags of episodes in which something failed that was not the agent."""


def rollout_metrics(trees: Sequence[RolloutTree]) -> dict[str, float]:
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
    ends = [leaf_outcome(leaf) for leaf in leaves]
    return {
        "rollout/reward_mean": _mean(_reward(leaf) for leaf in leaves),
        "rollout/em": _mean(end.em for end in ends),
        "rollout/format_rate": _mean(end.format_ok for end in ends),
        "rollout/search_calls": _mean(end.tool_calls for end in ends),
        "rollout/truncated": _mean(end.truncated for end in ends),
        "rollout/turns_mean": _mean(leaf.depth for leaf in leaves),
        "rollout/surprisal": _mean(turn.surprisal for turn in turns),
        "tokens/sampled": sum(len(node.sampled) for node in nodes),
        "tokens/inserted": sum(len(node.inserted) for node in nodes),
        **_failed("rollout", ends),
    }


def evaluation_metrics(leaves: Sequence[Node]) -> dict[str, float]:
    """Summarise the episodes of an evaluation.

    Args:
        leaves: The end of each, at least one.

    Returns:
        Means of EM, F1, format, searches, turns and truncation, and the number of episodes. Where
        an environment or tools failed, the share of episodes with that flag.

    Raises:
        EvaluationFailedError: If the environment failed in every episode: nothing was measured.
    """
    ends = [leaf_outcome(leaf) for leaf in leaves]
    failed = _failed("eval", ends)
    if failed.get("eval/env_failed") == 1:
        raise EvaluationFailedError(
            f"expected episodes that can be evaluated, found that the environment failed in all "
            f"{len(leaves)}; mend it, then go on with --resume"
        )
    return {
        "eval/em": _mean(end.em for end in ends),
        "eval/f1": _mean(end.f1 for end in ends),
        "eval/format_rate": _mean(end.format_ok for end in ends),
        "eval/searches": _mean(end.tool_calls for end in ends),
        "eval/turns": _mean(leaf.depth for leaf in leaves),
        "eval/truncated": _mean(end.truncated for end in ends),
        "eval/questions": len(leaves),
        **failed,
    }


def _failed(kind: str, ends: Sequence[Outcome]) -> dict[str, float]:
    """Return the shares of failures that there were, and say them."""
    shares = {name: _mean(name in end.flags for end in ends) for name in _FAILURES}
    for name, share in shares.items():
        if share:
            _log.warning("%s: %.0f%% of the episodes are flagged %s", kind, 100 * share, name)
    return {f"{kind}/{name}": share for name, share in shares.items() if share}


def _reward(leaf: Node) -> float:
    return leaf.reward if leaf.reward is not None else float("nan")


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
