from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import (
    Slice,
    alike,
    partition_packs,
    shortest,
    split,
    whole,
    within,
)
from at2po_agents.tree import Node, RolloutTree
from tests.at2po_agents.samples import random_tree

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(1, 3), st.integers(1, 80))
def test_packs_hold_every_row_once_and_keep_to_the_budget(
    seed: int, count: int, budget: int
) -> None:
    trees = [random_tree(seed + number, size=12) for number in range(count)]
    packs = within(trees, budget)
    found: dict[int, list[Slice]] = {}
    for members in packs:
        for part in members:
            found.setdefault(id(part.tree), []).append(part)
        fits = pack(members).ids.numel() <= budget
        assert fits or (len(members) == 1 and len(members[0].leaves) == 1)
    assert list(found) == [id(tree) for tree in trees]
    for tree in trees:
        parts = found[id(tree)]
        assert len(parts) == 1 or tree.unique_tokens > budget
        assert [leaf for part in parts for leaf in part.leaves] == learned(tree)


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
    assert partition_packs(trees, 1, budget) == [within(trees, budget)]


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
