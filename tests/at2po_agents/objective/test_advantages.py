from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.objective import advantages
from at2po_agents.tree import Node, RolloutTree
from tests.at2po_agents.samples import random_tree, spec_tree, turn

VALUES = ["child_softmax", "child_linear", "child_mean", "leaf_mean"]
seeds = st.integers(0, 2**32)


def descendants(node: Node) -> list[Node]:
    """Return the leaves under a node."""
    if node.is_leaf:
        return [node]
    return [leaf for child in node.children for leaf in descendants(child)]


@pytest.mark.parametrize(
    ("mode", "a", "root"),
    [
        ("child_softmax", -0.241734, -0.132914),
        ("child_linear", -0.612372, -0.382732),
        ("child_mean", 0.0, 0.0),
        ("leaf_mean", 0.0, 0.0),
    ],
)
def test_values_of_the_released_code(mode: advantages.Value, a: float, root: float) -> None:
    tree, at = spec_tree()
    advantages.assign_values(tree, value=mode)
    assert [at[name].value for name in "bcd"] == pytest.approx([0, 1.224743, -1.224743], abs=1e-6)
    assert at["a"].value == pytest.approx(a, abs=1e-6)
    assert tree.root.value == pytest.approx(root, abs=1e-6)


def test_leaf_normalisations() -> None:
    assert advantages.normalise([1.0, 0.0, -1.0]) == pytest.approx(
        [1.224743, 0, -1.224743], abs=1e-6
    )
    sample = advantages.normalise([1.0, 0.0, -1.0], "sample")
    assert sample == pytest.approx([0.999999, 0, -0.999999], abs=1e-9)
    assert advantages.normalise([1.0, 0.0, -1.0], "none") == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("how", ["population", "sample"])
@pytest.mark.parametrize("rewards", [[0.1] * 3, [0.3]])
def test_equal_rewards_give_exact_zeros(how: advantages.LeafNorm, rewards: list[float]) -> None:
    assert advantages.normalise(rewards, how) == [0.0] * len(rewards)


@pytest.mark.parametrize("how", ["population", "sample"])
def test_rewards_of_any_size_are_compared(how: advantages.LeafNorm) -> None:
    for largest in (1e100, 1e101, 1e154, 1e200, 1.7e308):
        high, low = advantages.normalise([largest, -largest], how)
        assert high == -low == pytest.approx(1 if how == "population" else 0.5**0.5, abs=1e-5)
        near = advantages.normalise([largest, largest, 0.5 * largest], how)
        assert near == pytest.approx(advantages.normalise([1e9, 1e9, 5e8], how), abs=1e-6)


@pytest.mark.parametrize("how", ["population", "sample", "none"])
def test_rewards_that_are_not_finite_spoil_their_tree_only(how: advantages.LeafNorm) -> None:
    found = advantages.normalise([1.0, math.inf, -math.inf], how)
    assert all(math.isnan(value) for value in found)


@given(seeds)
def test_normalised_leaves_have_mean_zero_and_unit_variance(seed: int) -> None:
    tree = random_tree(seed, size=20)
    values = advantages.normalise([leaf.reward or 0.0 for leaf in tree.leaves()])
    assert sum(values) == pytest.approx(0, abs=1e-9)
    if any(values):
        assert sum(v * v for v in values) / len(values) == pytest.approx(1, abs=1e-4)


@given(seeds, st.sampled_from(VALUES))
def test_values_are_convex_combinations_of_the_children(seed: int, mode: advantages.Value) -> None:
    tree = random_tree(seed)
    advantages.assign_values(tree, value=mode)
    for node in tree.nodes():
        if node.children:
            below = [child.value for child in node.children]
            assert min(below) - 1e-9 <= node.value <= max(below) + 1e-9  # type: ignore[operator]


@given(seeds)
def test_leaf_mean_is_the_mean_of_the_leaves_below(seed: int) -> None:
    tree = random_tree(seed)
    advantages.assign_values(tree, value="leaf_mean")
    for node in tree.nodes():
        below = [leaf.value for leaf in descendants(node)]
        assert node.value == pytest.approx(sum(below) / len(below), abs=1e-12)  # type: ignore


@given(seeds, st.sampled_from(VALUES), st.randoms(use_true_random=False))
def test_order_of_children_does_not_matter(seed, mode, random) -> None:  # type: ignore
    tree = random_tree(seed)
    advantages.assign_values(tree, value=mode)
    before = {node: node.value for node in tree.nodes()}
    for node in tree.nodes():
        random.shuffle(node.children)
    advantages.assign_values(tree, value=mode)
    assert before == pytest.approx({node: node.value for node in tree.nodes()}, abs=1e-12)


@given(seeds, st.sampled_from(VALUES))
def test_equal_leaves_leave_no_credit(seed: int, mode: advantages.Value) -> None:
    tree = random_tree(seed)
    for leaf in tree.leaves():
        leaf.reward = 0.7
    advantages.assign_values(tree, value=mode)
    for advantage in ("value", "minus_parent", "minus_root", "sum"):
        advantages.assign_advantages(tree, advantage)
        assert {node.advantage for node in tree.nodes()[1:]} == {0.0}


def test_linear_falls_back_to_the_mean_without_surprisal() -> None:
    tree = RolloutTree("q", [0])
    for reward in (1.0, 0.0):
        turn(tree, tree.root, 0.0, reward)
    advantages.assign_values(tree, leaf_norm="none", value="child_linear")
    assert tree.root.value == 0.5


@pytest.mark.parametrize("mode", ["child_softmax", "child_linear"])
def test_an_unknown_surprisal_is_no_reason_to_count_alike(mode: advantages.Value) -> None:
    tree = RolloutTree("q", [0])
    for surprisal, reward in ((math.nan, 1.0), (0.5, 0.0)):
        turn(tree, tree.root, surprisal, reward)
    advantages.assign_values(tree, leaf_norm="none", value=mode)
    assert tree.root.value is not None and math.isnan(tree.root.value)


def test_softmax_survives_large_surprisal() -> None:
    tree = RolloutTree("q", [0])
    turn(tree, tree.root, 2000.0, 1.0)
    turn(tree, tree.root, 0.0, 0.0)
    advantages.assign_values(tree, leaf_norm="none")
    assert tree.root.value == 1.0


def test_advantage_modes() -> None:
    tree, at = spec_tree()
    advantages.assign_values(tree, leaf_norm="none", value="leaf_mean")
    at["a"].value, at["c"].value, tree.root.value = 0.5, 1.0, -0.25
    found = {}
    for mode in ("value", "minus_parent", "minus_root", "sum"):
        advantages.assign_advantages(tree, mode)
        found[mode] = (at["a"].advantage, at["c"].advantage)
    assert found == {
        "value": (0.5, 1.0),
        "minus_parent": (0.75, 0.5),
        "minus_root": (0.75, 1.25),
        "sum": (1.5, 1.75),
    }


@given(seeds, st.sampled_from(VALUES))
def test_parent_differences_telescope_to_the_root_difference(
    seed: int, mode: advantages.Value
) -> None:
    tree = random_tree(seed)
    advantages.assign_values(tree, value=mode)
    advantages.assign_advantages(tree, "minus_parent")
    steps = {leaf: sum(node.advantage or 0.0 for node in leaf.path()) for leaf in tree.leaves()}
    advantages.assign_advantages(tree, "minus_root")
    for leaf, total in steps.items():
        assert total == pytest.approx(leaf.advantage, abs=1e-9)


def test_leaf_without_reward_is_named() -> None:
    tree, at = spec_tree()
    at["d"].reward = None
    with pytest.raises(TreeError, match=r"found none at \(0, 1\)"):
        advantages.assign_values(tree)


def test_advantages_need_values() -> None:
    with pytest.raises(TreeError, match="call assign_values first"):
        advantages.assign_advantages(spec_tree()[0])


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="child_softmax, child_linear.*found 'softmax'"):
        advantages.assign_values(spec_tree()[0], value="softmax")  # type: ignore[arg-type]


def forest_of(*trees: list[float]) -> tuple[RolloutTree, list[list[Node]]]:
    """Build trees of single turns with these rewards."""
    tree = RolloutTree("q", [0])
    return tree, [[turn(tree, tree.root, 0.5, reward) for reward in rewards] for rewards in trees]


def test_inter_and_intra_tree_advantages_of_tree_grpo() -> None:
    """Source: specification 5.7, worked example."""
    tree, trees = forest_of([1, 0, 0], [1, 1, 1])
    advantages.assign_forest_advantages(tree, trees)
    found = [leaf.row_advantage for leaf in tree.leaves()]
    expected = [1.8002, -1.8683, -1.8683, 0.6455, 0.6455, 0.6455]
    assert found == pytest.approx(expected, abs=1e-4)
    advantages.assign_forest_advantages(tree, trees, inter=False)
    within = [leaf.row_advantage for leaf in tree.leaves()]
    assert within == pytest.approx([1.1547, -0.5774, -0.5774, 0, 0, 0], abs=1e-4)


def test_a_group_of_one_keeps_its_reward() -> None:
    assert advantages.group_advantages([0.7]) == [0.7]
    tree, trees = forest_of([1.0], [0.0])
    advantages.assign_forest_advantages(tree, trees, inter=False)
    assert [leaf.row_advantage for leaf in tree.leaves()] == [1.0, 0.0]


@given(seeds)
def test_row_advantages_sum_to_zero_and_turns_carry_their_mean(seed: int) -> None:
    tree = random_tree(seed, size=20)
    advantages.assign_row_advantages(tree)
    leaves = tree.leaves()
    if len(leaves) > 1:
        rows = [leaf.row_advantage or 0.0 for leaf in leaves]
        assert sum(rows) == pytest.approx(0, abs=1e-9)
        if any(rows):
            assert sum(a * a for a in rows) / (len(rows) - 1) == pytest.approx(1, abs=1e-4)
    for node in tree.nodes()[1:]:
        below = [leaf.row_advantage or 0.0 for leaf in descendants(node)]
        assert node.advantage == pytest.approx(sum(below) / len(below), abs=1e-9)


@given(seeds, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(seed, random) -> None:  # type: ignore
    tree = random_tree(seed, size=20)

    def assign() -> dict[Node, float | None]:
        advantages.assign_row_advantages(tree)
        rows = {leaf: leaf.row_advantage for leaf in tree.leaves()}
        trees = [[n for n in tree.nodes() if top in n.path()] for top in tree.root.children]
        advantages.assign_forest_advantages(tree, trees)
        return rows | {node: node.advantage for node in tree.nodes()[1:] if not node.is_leaf}

    before = assign()
    for node in tree.nodes():
        random.shuffle(node.children)
    assert assign() == pytest.approx(before, abs=1e-9)


@given(seeds)
def test_treerl_divides_both_differences_by_the_root_of_the_leaves(seed: int) -> None:
    tree = random_tree(seed)
    advantages.assign_values(tree, leaf_norm="correct", value="leaf_mean")
    advantages.assign_advantages(tree, "treerl")

    def correct(node: Node) -> float:
        below = descendants(node)
        return sum((leaf.reward or 0.0) > 0 for leaf in below) / len(below)

    for node in tree.nodes()[1:]:
        assert node.parent is not None
        both = 2 * correct(node) - correct(tree.root) - correct(node.parent)
        expected = both / math.sqrt(len(descendants(node)))
        assert node.advantage == pytest.approx(expected, abs=1e-12)


@given(seeds)
def test_leaf_mean_values_are_grpo_s_row_means_but_for_the_deviation(seed: int) -> None:
    tree = random_tree(seed, size=20)
    n = len(tree.leaves())
    if n == 1:
        return
    advantages.assign_row_advantages(tree)
    rows = {node: node.advantage for node in tree.nodes()[1:]}
    advantages.assign_values(tree, value="leaf_mean")
    advantages.assign_advantages(tree)
    for node, advantage in rows.items():
        assert node.advantage == pytest.approx((advantage or 0) * math.sqrt(n / (n - 1)), abs=1e-4)
        assert node.row_advantage is None
