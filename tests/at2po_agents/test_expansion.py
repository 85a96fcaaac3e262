from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.errors import ConfigError
from at2po_agents.expansion import Chains, EntropyGuided
from at2po_agents.tree import Node, RolloutTree
from tests.at2po_agents.samples import random_tree, turn


def chain(tree: RolloutTree, *surprisals: float) -> list[Node]:
    """Add a chain of turns under the root."""
    nodes, parent = [], tree.root
    for surprisal in surprisals:
        parent = turn(tree, parent, surprisal)
        nodes.append(parent)
    return nodes


def test_chains_never_fork() -> None:
    tree = RolloutTree("q", [0])
    chain(tree, 1.0, 1.0)
    assert Chains(3).initial() == 3
    assert Chains(3).forks(tree, 0) == []


def test_worked_check_of_the_released_code() -> None:
    """Ten children: first turns pay 0.45, so deeper turns with less surprisal compete."""
    tree = RolloutTree("q", [0])
    first = chain(tree, 0.90, 0.50, 0.0)
    second = chain(tree, 0.40, 0.44, 0.0)
    for _ in range(8):
        chain(tree, 0.0)
    expansion = EntropyGuided(chains=10, iterations=1, beam=3)
    scores = [expansion.score(node) for node in (first[0], second[0], first[1], second[1])]
    assert scores == pytest.approx([0.45, -0.05, 0.50, 0.44])
    assert expansion.score(tree.root) == pytest.approx(-0.45)
    # Forks start under the parents: of the turn with 0.50, of the one with 0.90, of that with 0.44.
    assert expansion.forks(tree, 0) == [first[0], tree.root, second[0]]


def test_leaves_are_never_forked() -> None:
    tree = RolloutTree("q", [0])
    nodes = chain(tree, 0.1, 9.0)
    assert EntropyGuided(1, 1, 2).forks(tree, 0) == [tree.root, tree.root]
    assert nodes[1].is_leaf


def test_root_is_a_candidate_without_surprisal() -> None:
    tree = RolloutTree("q", [0])
    chain(tree, 5.0)
    chain(tree, 5.0)
    expansion = EntropyGuided(2, 1, 1)
    assert expansion.score(tree.root) == -0.05
    assert expansion.forks(tree, 0) == [tree.root]


def test_ties_keep_breadth_first_order() -> None:
    tree = RolloutTree("q", [0])
    first = chain(tree, 0.5, 0.5, 0.5)
    second = chain(tree, 0.5, 0.5, 0.5)
    expansion = EntropyGuided(2, 1, 4, penalty=0.0)
    assert expansion.forks(tree, 0) == [tree.root, tree.root, first[0], second[0]]


def test_short_candidate_lists_are_cycled_from_the_top() -> None:
    tree = RolloutTree("q", [0])
    nodes = chain(tree, 0.2, 0.6, 0.0)
    # Ranking: the second turn (fork under the first), the first turn, the root.
    assert EntropyGuided(1, 1, 5).forks(tree, 0) == [
        nodes[0],
        tree.root,
        tree.root,
        nodes[0],
        tree.root,
    ]


def test_penalty_counts_siblings_beyond_the_first() -> None:
    tree = RolloutTree("q", [0])
    (only, *_) = chain(tree, 0.3, 0.1, 0.0)
    expansion = EntropyGuided(1, 1, 1, penalty=0.05)
    assert expansion.score(only) == pytest.approx(0.3)
    chain(tree, 0.0)
    assert expansion.score(only) == pytest.approx(0.25)


@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(0, 3))
def test_every_expansion_adds_exactly_beam_leaves(seed: int, beam: int, iterations: int) -> None:
    tree = random_tree(seed)
    expansion = EntropyGuided(1, iterations, beam)
    before = len(tree.leaves())
    for iteration in range(iterations):
        for parent in expansion.forks(tree, iteration):
            assert not parent.is_leaf
            turn(tree, parent, 0.5, 0.0)
    assert expansion.forks(tree, iterations) == []
    assert len(tree.leaves()) == before + iterations * beam


@pytest.mark.parametrize(
    "settings", [{"chains": 0}, {"iterations": -1}, {"beam": 0}, {"penalty": float("nan")}]
)
def test_bad_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EntropyGuided(**settings)  # type: ignore[arg-type]
