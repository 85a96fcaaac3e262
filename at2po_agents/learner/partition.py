"""Trees partitioned into mini-batches, among ranks, and into packs that fit into memory.

Ranks exchange weights and gradients in every pass, so all of them wait for its largest pack.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from heapq import heapreplace
from itertools import accumulate, groupby, zip_longest
from operator import itemgetter
from typing import NamedTuple, TypeVar

from at2po_agents.tree import Node, RolloutTree

T = TypeVar("T")
Turn = TypeVar("Turn", bound=Hashable)


class Length(NamedTuple):
    """Tokens of a row.

    Attributes:
        path: All of them, from the prompt on.
        new: Those that the row before it in the tree does not have; in the first row all.
    """

    path: int
    new: int


class Span(NamedTuple):
    """Consecutive rows of a tree, which a pass computes together.

    Attributes:
        tree: Number of the tree.
        start: Number of the first row.
        stop: Number of the row after the last.
        tokens: Unique tokens, so that what the rows share counts once.
    """

    tree: int
    start: int
    stop: int
    tokens: int


Packs = list[list[Span]]
"""What a rank computes, pass by pass."""


def lengths(rows: Sequence[Sequence[Turn]], tokens: Callable[[Turn], int]) -> list[Length]:
    """Count the tokens of a tree's rows.

    Args:
        rows: The turns of each row, the prompt among them; rows depth first.
        tokens: Counts those of a turn.
    """
    found = []
    before: set[Turn] = set()
    for row in rows:
        new = sum(tokens(turn) for turn in row if turn not in before)
        found.append(Length(sum(map(tokens, row)), new))
        before = set(row)
    return found


def partition_rows(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Partition trees among ranks: whole ones, or cut ones where ranks then wait less.

    Args:
        trees: The rows of each tree, depth first.
        ranks: Number of ranks, at least 1; one alone takes whole trees.
        budget: Most unique tokens of a pack, at least 1. A larger tree is cut between rows in any
            case, and what its parts share counts in each of them; a row that is larger gets a pack
            alone.

    Returns:
        The packs of each rank; the same on every rank.
    """
    whole = by_tree(trees, ranks, budget)
    if ranks == 1:
        return whole
    return min(whole, evenly(trees, ranks, budget), key=waited)


def waited(by_rank: Sequence[Packs]) -> int:
    """Count the tokens that an update takes its time for: the most that a rank has in each pass."""
    sizes = ([sum(span.tokens for span in pack) for pack in packs] for packs in by_rank)
    return sum(map(max, zip_longest(*sizes, fillvalue=0)))


def by_tree(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Partition whole trees among ranks, each of which fills packs with what it got.

    Args:
        trees: As for `partition_rows`.
        ranks: As for `partition_rows`.
        budget: As for `partition_rows`.
    """
    parts = [
        [_span(number, tree, start, stop) for start, stop in _cut(tree, budget)]
        for number, tree in enumerate(trees)
    ]
    sizes = [sum(span.tokens for span in spans) for spans in parts]
    return [
        _fill([span for number in own for span in parts[number]], budget)
        for own in lpt_partition(sizes, ranks)
    ]


def evenly(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Cut the rows of all trees, one after the other, into packs of about as many tokens.

    There are as few passes as the budget allows. The largest pack is as small as it can be among
    ways to cut the rows in this order into a pack for every rank in every pass.

    Args:
        trees: As for `partition_rows`.
        ranks: As for `partition_rows`.
        budget: As for `partition_rows`.

    Source: the linear partition problem, by bisection of the limit up to which parts are filled.
    """
    rows = [row for tree in trees for row in tree]
    places = [(number, row) for number, tree in enumerate(trees) for row in range(len(tree))]
    most = -(-len(_cut(rows, budget)) // ranks) * ranks
    # The limits from 1 on, of which the last is the budget: it is known to do.
    limit = 1 + bisect_left(range(1, budget), True, key=lambda at: len(_cut(rows, at)) <= most)
    packs = []
    for start, stop in _cut(rows, limit):
        pack = []
        for number, group in groupby(places[start:stop], key=itemgetter(0)):
            own = [row for _, row in group]
            pack.append(_span(number, trees[number], own[0], own[-1] + 1))
        packs.append(pack)
    return [packs[rank::ranks] for rank in range(ranks)]


def _cut(rows: Sequence[Length], limit: int) -> list[tuple[int, int]]:
    """Cut rows into parts of as many tokens as the limit allows, and at least one row."""
    total = [0, *accumulate(row.new for row in rows)]
    parts = []
    start = 0
    while start < len(rows):
        # A part from `start` to `stop` has the first row's path, and what is new in the others.
        room = limit - rows[start].path + total[start + 1]
        stop = max(start + 1, bisect_right(total, room) - 1)
        parts.append((start, stop))
        start = stop
    return parts


def _span(number: int, tree: Sequence[Length], start: int, stop: int) -> Span:
    tokens = tree[start].path + sum(row.new for row in tree[start + 1 : stop])
    return Span(number, start, stop, tokens)


def _fill(spans: Sequence[Span], budget: int) -> Packs:
    """Fill packs with consecutive spans, none of which is cut."""
    packs: Packs = []
    used = budget
    for span in spans:
        if not packs or used + span.tokens > budget:
            packs.append([])
            used = 0
        packs[-1].append(span)
        used += span.tokens
    return packs


def lpt_partition(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Partition items so that the largest part is small.

    Args:
        sizes: Size of each item, such as the unique tokens of a tree.
        parts: Number of parts, at least 1.

    Returns:
        The numbers of each part's items, in ascending order; the same on every rank.

    Source: longest processing time first (Graham 1969): the largest part is at most 4/3 of the
    best possible.
    """
    found: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]  # a heap
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        load, part = loads[0]
        found[part].append(number)
        heapreplace(loads, (load + sizes[number], part))
    return [sorted(numbers) for numbers in found]


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


def partition_packs(
    trees: Sequence[RolloutTree], ranks: int, budget: int
) -> list[list[list[Slice]]]:
    """Partition trees among ranks, and fill packs up to a number of unique tokens.

    Args:
        trees: The trees.
        ranks: Number of ranks, at least 1. They take whole trees, or parts of them where they would
            have to wait longer for each other otherwise (see `partition_rows`).
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
        for packs in partition_rows(rows, ranks, budget)
    ]


def alike(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Partition sequences into batches in which less than an eighth is padding.

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
