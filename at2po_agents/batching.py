"""Batching: trees shared out among mini-batches, and among the packs that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from at2po_agents.tree import Node, RolloutTree

T = TypeVar("T")


class Slice(NamedTuple):
    """What one pack holds of a tree: consecutive leaves, depth first."""

    tree: RolloutTree
    leaves: list[Node]


def row_tokens(tree: RolloutTree, *, sampled_only: bool = False) -> int:
    """Count the tokens of all rows, shared prefixes once per row."""
    return sum(
        len(node.sampled) + (0 if sampled_only else len(node.inserted))
        for leaf in tree.leaves()
        for node in leaf.path()
    )


def split(items: Sequence[T], parts: int) -> list[list[T]]:
    """Cut items, such as trees, into consecutive parts of nearly equal size, none of them empty."""
    edges = [len(items) * part // parts for part in range(parts + 1)]
    return [list(items[a:b]) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def whole(tree: RolloutTree) -> Slice:
    """Return all leaves of a tree, depth first."""
    return Slice(tree, sorted(tree.leaves(), key=lambda leaf: leaf.key))


def shortest(trees: Sequence[RolloutTree]) -> Slice:
    """Return the path of fewest tokens, among those with sampled ones; at least one has some."""
    leaves = [Slice(tree, [leaf]) for tree in trees for leaf in tree.leaves()]
    sampled = [part for part in leaves if any(node.sampled for node in part.leaves[0].path())]
    return min(sampled, key=lambda part: sum(map(_tokens, part.leaves[0].path())))


def within(trees: Sequence[RolloutTree], budget: int) -> list[list[Slice]]:
    """Fill packs with consecutive trees up to a number of unique tokens.

    Args:
        trees: The trees.
        budget: Most tokens of a pack, at least 1. A larger tree is cut between leaves, and what
            its parts share stands in each of them, while rows of it without sampled tokens are left
            out; a single path that is larger gets a pack alone.

    Returns:
        The packs.
    """
    packs: list[list[Slice]] = []
    used = budget
    for tree in trees:
        for part, size in _cut(tree, budget):
            if not packs or used + size > budget:
                packs.append([])
                used = 0
            packs[-1].append(part)
            used += size
    return packs


def alike(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Share sequences out among batches in which less than an eighth is padding.

    Args:
        lengths: Tokens of each sequence.
        budget: Most tokens of a batch, padding included; a longer sequence gets a batch alone.

    Returns:
        The numbers of each batch's sequences, longest first.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = longest and longest * (len(batches[-1]) + 1) <= budget
        if fits and 8 * lengths[number] > 7 * longest:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _cut(tree: RolloutTree, budget: int) -> list[tuple[Slice, int]]:
    """Cut a tree into parts of as many leaves as fit, each with its number of unique tokens."""
    if (size := tree.unique_tokens) <= budget:
        return [(whole(tree), size)]
    parts: list[tuple[Slice, int]] = []
    stored: set[Node] = set()
    for leaf in whole(tree).leaves:
        path = leaf.path()
        if not any(node.sampled for node in path):
            continue  # no part of any loss, and nothing to pack where it stands alone
        size = sum(map(_tokens, path))
        more = sum(_tokens(node) for node in path if node not in stored)
        if parts and parts[-1][1] + more <= budget:
            part, before = parts[-1]
            parts[-1] = (Slice(tree, [*part.leaves, leaf]), before + more)
        else:
            parts.append((Slice(tree, [leaf]), size))
            stored = set()
        stored.update(path)
    return parts


def _tokens(node: Node) -> int:
    return len(node.sampled) + len(node.inserted)
