"""Counting what a collection of rollout trees cost, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from at2po_agents.tree import Node, RolloutTree


def counts(trees: Sequence[RolloutTree]) -> dict[str, Any]:
    """Count a collection's leaves, turns and tokens.

    Args:
        trees: Complete trees.

    Returns:
        leaves, turns, turns_per_leaf, and tokens: prompt, sampled, inserted (without prompts), all
        of them once a tree.
    """
    turns = [node for tree in trees for node in tree.nodes() if node.parent is not None]
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    return {
        "leaves": len(leaves),
        "turns": len(turns),
        "turns_per_leaf": round(sum(leaf.depth for leaf in leaves) / len(leaves), 3),
        "prompt": sum(len(tree.root.inserted) for tree in trees),
        "sampled": sum(len(node.sampled) for node in turns),
        "inserted": sum(len(node.inserted) for node in turns),
    }


def first_time(trees: Sequence[RolloutTree]) -> int:
    """Count the context tokens whose keys and values decoding alone did not leave behind.

    A token here is a place: a sequence of ids from the start of a row, so that rows which begin
    alike, even of different trees, share places. While a turn is sampled every token of it but the
    last goes through the model. What remains of all contexts are the prompts, what the environment
    inserted, and the last token of every turn that another turn follows; each of these places must
    be prefilled once. What an engine prefilled beyond that was a recomputation.

    Args:
        trees: All trees that were collected since the engine's cache was empty.

    Returns:
        The least number of tokens that any engine prefills for these trees.
    """
    places: dict[tuple[int, int], int] = {}
    decoded: set[int] = set()
    needed: set[int] = set()

    def walk(place: int, ids: Sequence[int]) -> list[int]:
        seen = []
        for token in ids:
            place = places.setdefault((place, token), len(places) + 1)
            seen.append(place)
        return seen

    for tree in trees:
        ends: dict[Node, int] = {}
        for node in tree.nodes():
            start = ends[node.parent] if node.parent is not None else 0
            sampled = walk(start, node.sampled)
            inserted = walk(sampled[-1] if sampled else start, node.inserted)
            ends[node] = [start, *sampled, *inserted][-1]
            decoded.update(sampled[:-1])
            if node.children:
                needed.update(sampled[-1:] + inserted)
    return len(needed - decoded)
