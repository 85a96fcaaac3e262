"""Rows partitioned among ranks and passes: each once, in the budget, no worse than by trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import (
    Length,
    Packs,
    Slice,
    Span,
    alike,
    by_tree,
    evenly,
    lengths,
    lpt_partition,
    partition_packs,
    partition_rows,
    shortest,
    split,
    waited,
    whole,
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
    for spans in (spans for packs in shares for spans in packs):
        assert spans
        tokens, held = 0, 0
        for number, start, stop, own in spans:
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
    uncut, found = by_tree(trees, ranks, budget), partition_rows(trees, ranks, budget)
    assert waited(found) <= waited(uncut)
    assert waited(found) < waited(uncut) or found == uncut
    for number in range(count):
        holders = [any(span.tree == number for p in packs for span in p) for packs in uncut]
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


def learned(tree: RolloutTree) -> list[Node]:
    """Leaves, depth first, but for those of rows without sampled tokens."""
    return [leaf for leaf in whole(tree).leaves if any(node.sampled for node in leaf.path())]


@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(1, 80))
def test_ranks_share_every_row_with_sampled_tokens(
    seed: int, count: int, ranks: int, budget: int
) -> None:
    trees = [random_tree(seed + number, size=12) for number in range(count)]
    found = partition_packs(trees, ranks, budget)
    assert len(found) == ranks and found == partition_packs(trees, ranks, budget)
    for members in (members for packs in found for members in packs):
        assert len({id(part.tree) for part in members}) == len(members)
        fits = pack(members).ids.numel() <= budget
        assert fits or (len(members) == 1 and len(members[0].leaves) == 1)
    parts = [part for packs in found for members in packs for part in members]
    for tree in trees:
        leaves = [leaf for part in parts if part.tree is tree for leaf in part.leaves]
        assert sorted(leaves, key=lambda leaf: leaf.key) == learned(tree)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 200))
def test_batches_of_rows_hold_little_padding(lengths: list[int], budget: int) -> None:
    batches = alike(lengths, budget)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[number] for number in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= budget
        assert sum(sizes) > len(batch) * max(sizes) * 7 / 8


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_parts_are_consecutive_and_nearly_equal(items: list[int], parts: int) -> None:
    found = split(items, parts)
    assert [item for part in found for item in part] == items
    assert len(found) == min(parts, len(items))
    sizes = [len(part) for part in found]
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(seeds, st.integers(1, 4))
def test_the_shortest_path_is_the_cheapest_pack_there_is(seed: int, count: int) -> None:
    trees = [random_tree(seed + number, size=12) for number in range(count)]
    part = shortest(trees)
    (leaf,) = part.leaves
    assert part.tree in trees and leaf in part.tree.leaves()
    others = [Slice(tree, [each]) for tree in trees for each in tree.leaves()]
    usable = [each for each in others if any(node.sampled for node in each.leaves[0].path())]
    assert pack([part]).ids.numel() == min(pack([each]).ids.numel() for each in usable)


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_every_item_is_in_one_part_in_order(sizes: list[int], parts: int) -> None:
    found = lpt_partition(sizes, parts)
    assert len(found) == parts
    assert sorted(item for share in found for item in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in found)
    assert found == lpt_partition(list(sizes), parts)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_the_largest_share_is_at_most_four_thirds_of_the_best(sizes: list[int], parts: int) -> None:
    best = min(
        max(
            sum(s for s, at in zip(sizes, places, strict=True) if at == part)
            for part in range(parts)
        )
        for places in product(range(parts), repeat=len(sizes))
    )
    largest = max(sum(sizes[item] for item in share) for share in lpt_partition(sizes, parts))
    assert 3 * parts * largest <= (4 * parts - 1) * best


def test_equal_items_are_dealt_out_in_turn() -> None:
    assert lpt_partition([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]
