"""Rows shared out among ranks and passes: each once, within the budget, and no worse than trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.learner.partition import (
    Length,
    Packs,
    Span,
    by_tree,
    evenly,
    lengths,
    partition_rows,
    waited,
)
from at2po_agents.tree import Node, RolloutTree
from tests.at2po_agents.samples import random_tree

seeds = st.integers(0, 2**32)
counts, budgets = st.integers(1, 5), st.integers(1, 200)


def size(node: Node) -> int:
    return len(node.sampled) + len(node.inserted)


def paths(tree: RolloutTree) -> list[list[Node]]:
    return [leaf.path() for leaf in sorted(tree.leaves(), key=lambda leaf: leaf.key)]


def unique(rows: Sequence[Sequence[Node]]) -> int:
    return sum(map(size, {node for row in rows for node in row}))


def draw(
    seed: int, count: int, turns: int = 12
) -> tuple[list[list[list[Node]]], list[list[Length]]]:
    rows = [paths(random_tree(seed + number, size=turns)) for number in range(count)]
    return rows, [lengths(own, size) for own in rows]


@given(seeds)
def test_lengths_are_those_of_rows(seed: int) -> None:
    ((rows,), (found,)) = draw(seed, 1)
    assert [row.path for row in found] == [sum(map(size, row)) for row in rows]
    for stop in range(1, len(rows) + 1):
        assert sum(row.new for row in found[:stop]) == unique(rows[:stop])


@pytest.mark.parametrize("way", [partition_rows, by_tree, evenly])
@given(seeds, counts, counts, budgets)
def test_every_row_is_in_one_pack_within_the_budget(
    way: Callable[..., list[Packs]], seed: int, count: int, ranks: int, budget: int
) -> None:
    rows, trees = draw(seed, count)
    shares = way(trees, ranks, budget)
    assert len(shares) == ranks and shares == way([list(tree) for tree in trees], ranks, budget)
    found = []
    for pack in (pack for packs in shares for pack in packs):
        assert pack
        tokens, held = 0, 0
        for number, start, stop, own in pack:
            assert own == unique(rows[number][start:stop])
            found += [(number, row) for row in range(start, stop)]
            tokens, held = tokens + own, held + stop - start
        assert tokens <= budget or held == 1
    assert sorted(found) == [(n, row) for n in range(count) for row in range(len(rows[n]))]


@given(seeds, counts, counts, budgets)
def test_ranks_never_wait_longer_than_for_whole_trees(
    seed: int, count: int, ranks: int, budget: int
) -> None:
    _, trees = draw(seed, count)
    whole, found = by_tree(trees, ranks, budget), partition_rows(trees, ranks, budget)
    assert waited(found) <= waited(whole)
    assert waited(found) < waited(whole) or found == whole
    for number in range(count):
        holders = [any(span.tree == number for p in packs for span in p) for packs in whole]
        assert sum(holders) == 1


@given(seeds, counts, budgets)
def test_one_rank_takes_whole_trees_one_after_the_other(seed: int, count: int, budget: int) -> None:
    _, trees = draw(seed, count)
    (packs,) = partition_rows(trees, 1, budget)
    assert [packs] == by_tree(trees, 1, budget)
    spans = [span for pack in packs for span in pack]
    assert spans == sorted(spans)
    for number, tree in enumerate(trees):
        own = [span for span in spans if span.tree == number]
        assert (len(own) == 1) == (sum(row.new for row in tree) <= budget or len(tree) == 1)


@settings(max_examples=50)
@given(seeds, st.integers(1, 2), counts, budgets)
def test_the_largest_of_even_packs_is_as_small_as_it_can_be(
    seed: int, count: int, ranks: int, budget: int
) -> None:
    """Against all ways to cut the rows in their order."""
    rows, trees = draw(seed, count, turns=5)
    flat = [(number, row) for number, tree in enumerate(rows) for row in tree]

    def tokens(start: int, stop: int) -> int:
        return sum(unique([r for n, r in flat[start:stop] if n == tree]) for tree in range(count))

    ways = []  # packs, and tokens of the largest
    for cuts in product([False, True], repeat=len(flat) - 1):
        edges = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(flat)]
        sizes = [tokens(*edge) for edge in pairwise(edges)]
        rooms = [
            b - a == 1 or n <= budget for n, (a, b) in zip(sizes, pairwise(edges), strict=True)
        ]
        if all(rooms):
            ways.append((len(sizes), max(sizes)))
    passes = -(-min(ways)[0] // ranks)
    packs = evenly(trees, ranks, budget)
    assert {len(own) for own in packs} <= {passes, passes - 1} and len(packs[0]) == passes
    largest = max(sum(span.tokens for span in pack) for own in packs for pack in own)
    assert largest == min(most for number, most in ways if number <= ranks * passes)


def test_by_hand() -> None:
    """A tree of three rows of 10 tokens, of which they share 4, and one of a row of 12."""
    trees = [[Length(10, 10), Length(10, 6), Length(10, 6)], [Length(12, 12)]]
    rows, other = [Span(0, row, row + 1, 10) for row in range(3)], Span(1, 0, 1, 12)
    assert (
        partition_rows(trees, 2, 100)
        == by_tree(trees, 2, 100)
        == [[[Span(0, 0, 3, 22)]], [[other]]]
    )
    assert partition_rows(trees, 3, 100) == [[[Span(0, 0, 2, 16)]], [[rows[2]]], [[other]]]
    assert partition_rows(trees, 5, 100) == [*([[row]] for row in rows), [[other]], []]
    # The larger tree takes two passes, of 16 and 10 tokens; both ranks have to make two.
    assert by_tree(trees, 2, 16) == [[[Span(0, 0, 2, 16)], [rows[2]]], [[other]]]
    assert partition_rows(trees, 2, 16) == [[[rows[0]], [rows[2]]], [[rows[1]], [other]]]
    assert [waited(way(trees, 2, 16)) for way in (by_tree, partition_rows)] == [16 + 10, 10 + 12]
    assert partition_rows([], 3, 10) == [[], [], []]
