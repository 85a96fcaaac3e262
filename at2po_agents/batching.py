"""Batching: trees shared out among mini-batches, and among the packs that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

from at2po_agents.tree import RolloutTree


def row_tokens(tree: RolloutTree, *, sampled_only: bool = False) -> int:
    """Count the tokens of all rows, shared prefixes once per row."""
    return sum(
        len(node.sampled) + (0 if sampled_only else len(node.inserted))
        for leaf in tree.leaves()
        for node in leaf.path()
    )


def split(trees: Sequence[RolloutTree], parts: int) -> list[list[RolloutTree]]:
    """Cut trees into consecutive parts of nearly equal size, leaving out empty ones."""
    edges = [len(trees) * part // parts for part in range(parts + 1)]
    return [list(trees[a:b]) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def within(trees: Sequence[RolloutTree], budget: int) -> list[list[RolloutTree]]:
    """Fill packs with consecutive trees up to a number of unique tokens."""
    packs: list[list[RolloutTree]] = []
    used = budget
    for tree in trees:
        size = tree.unique_tokens
        if not packs or used + size > budget:
            packs.append([])
            used = 0
        packs[-1].append(tree)
        used += size
    return packs
