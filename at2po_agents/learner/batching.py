"""Batching: trees shared out among mini-batches, ranks, and packs that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from at2po_agents.learner.partition import lengths, share
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
    paths = [Slice(tree, [leaf]) for tree in trees for leaf in _learned(tree)]
    return min(paths, key=lambda part: sum(map(_tokens, part.leaves[0].path())))


def shares(trees: Sequence[RolloutTree], ranks: int, budget: int) -> list[list[list[Slice]]]:
    """Share trees out among ranks, and fill packs up to a number of unique tokens.

    Args:
        trees: The trees.
        ranks: Number of ranks, at least 1. They take whole trees, or parts of them where they would
            have to wait longer for each other otherwise (see `balance.share`).
        budget: Most tokens of a pack, at least 1. A larger tree is cut between leaves, and what
            its parts share stands in each of them; a single path that is larger gets a pack alone.

    Returns:
        The packs of each rank, the same on every rank; rows without sampled tokens, which are no
        part of any loss, are left out.
    """
    leaves = [_learned(tree) for tree in trees]
    rows = [lengths([leaf.path() for leaf in own], _tokens) for own in leaves]
    return [
        [[Slice(trees[n], leaves[n][start:stop]) for n, start, stop, _ in pack] for pack in packs]
        for packs in share(rows, ranks, budget)
    ]


def within(trees: Sequence[RolloutTree], budget: int) -> list[list[Slice]]:
    """Return the packs of a rank that is alone, see `shares`."""
    (packs,) = shares(trees, 1, budget)
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


def _learned(tree: RolloutTree) -> list[Node]:
    """Return the leaves, depth first, that have sampled tokens on their paths."""
    return [leaf for leaf in whole(tree).leaves if any(node.sampled for node in leaf.path())]


def _tokens(node: Node) -> int:
    return len(node.sampled) + len(node.inserted)
