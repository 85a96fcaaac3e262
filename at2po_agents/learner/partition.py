"""Balance: the rows of trees, shared out among ranks and among the passes of each of them.

Ranks exchange weights and gradients in every pass, so all of them wait for its largest pack. Only
lengths count here: `batching` makes packs of trees of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, groupby, zip_longest
from operator import itemgetter
from typing import NamedTuple, TypeVar

from at2po_agents.learner.process_group import share_out

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


def share(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Share trees out among ranks: whole ones, or cut ones where ranks then wait less.

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


def waited(shares: Sequence[Packs]) -> int:
    """Count the tokens that an update takes its time for: the most that a rank has in each pass."""
    sizes = ([sum(span.tokens for span in pack) for pack in packs] for packs in shares)
    return sum(map(max, zip_longest(*sizes, fillvalue=0)))


def by_tree(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Share whole trees out among ranks, each of which fills packs with what it got.

    Args:
        trees: As for `share`.
        ranks: As for `share`.
        budget: As for `share`.
    """
    parts = [
        [_span(number, tree, start, stop) for start, stop in _cut(tree, budget)]
        for number, tree in enumerate(trees)
    ]
    sizes = [sum(span.tokens for span in spans) for spans in parts]
    return [
        _fill([span for number in own for span in parts[number]], budget)
        for own in share_out(sizes, ranks)
    ]


def evenly(trees: Sequence[Sequence[Length]], ranks: int, budget: int) -> list[Packs]:
    """Cut the rows of all trees, one after the other, into packs of about as many tokens.

    There are as few passes as the budget allows. The largest pack is as small as it can be among
    ways to cut the rows in this order into a pack for every rank in every pass.

    Args:
        trees: As for `share`.
        ranks: As for `share`.
        budget: As for `share`.

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
