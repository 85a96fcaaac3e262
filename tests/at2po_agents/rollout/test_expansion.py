from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.rollout.expansion import (
    AEPOBranching,
    ARPOBranching,
    Chains,
    EntropyGuided,
    Forest,
    RandomExpansion,
    forest,
)
from at2po_agents.rollout.expansion.entropy_measures import query_span, turn_entropy
from at2po_agents.tree import Node, RolloutTree
from tests.at2po_agents.samples import random_tree, turn

RNG = np.random.default_rng(0)


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
    assert Chains(3).forks(tree, 0, RNG) == []


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
    assert expansion.forks(tree, 0, RNG) == [first[0], tree.root, second[0]]


CHAIN = (0.2, 0.6, 0.0)


@pytest.mark.parametrize(
    ("chains", "expansion", "parents"),
    [
        pytest.param([(0.1, 9.0)], EntropyGuided(1, 1, 2), [(), ()], id="never a leaf"),
        pytest.param([(5.0,), (5.0,)], EntropyGuided(2, 1, 1), [()], id="the root is a candidate"),
        pytest.param(
            [(0.5, 0.5, 0.5)] * 2,
            EntropyGuided(2, 1, 4, penalty=0.0),
            [(), (), (0,), (1,)],
            id="ties keep breadth-first order",
        ),
        pytest.param(
            [CHAIN], EntropyGuided(1, 1, 5), [(0,), (), (), (0,), ()], id="cycled from the top"
        ),
        pytest.param(
            [CHAIN], EntropyGuided(1, 1, 3, rule="paper"), [(0,), (), (0,)], id="paper: no root"
        ),
        pytest.param([(0.3,)], EntropyGuided(1, 1, 3, rule="paper"), [()] * 3, id="paper: bare"),
    ],
)
def test_forks_start_under_the_parents_of_the_best(
    chains: list[tuple[float, ...]], expansion: EntropyGuided, parents: list[tuple[int, ...]]
) -> None:
    tree = RolloutTree("q", [0])
    for surprisals in chains:
        chain(tree, *surprisals)
    assert [node.key for node in expansion.forks(tree, 0, RNG)] == parents


@pytest.mark.parametrize(("rule", "free"), [("released", 1), ("paper", 0)])
def test_penalty_counts_siblings_or_as_released_those_beyond_the_first(
    rule: Literal["released", "paper"], free: int
) -> None:
    tree = RolloutTree("q", [0])
    only, *_ = chain(tree, 0.3, 0.1, 0.0)
    expansion = EntropyGuided(1, 1, 1, penalty=0.05, rule=rule)
    for children in (1, 2):
        assert expansion.score(only) == pytest.approx(0.3 - 0.05 * (children - free))
        chain(tree, 0.0)


@given(st.integers(0, 2**32), st.sampled_from(["released", "paper"]))
def test_rounding_does_not_rank_turns_of_the_same_tokens(
    seed: int, rule: Literal["released", "paper"]
) -> None:
    """Log-probabilities differ in their last digits by what was in the batch beside them."""
    rng = np.random.default_rng(seed)
    tree, surprisals = RolloutTree("q", [0]), dict[tuple[int, ...], float]()
    for _ in range(4):
        parent = tree.root
        for token in rng.integers(0, 2, size=3).tolist():
            surprisal = surprisals.setdefault((*parent.ids(), token), rng.exponential())
            fields = {"sampled": [token], "logprobs": [-surprisal], "inserted": [2]}
            parent = tree.add(parent, **fields)
    expansion = EntropyGuided(4, 1, 3, rule=rule)
    chosen = expansion.forks(tree, 0, RNG)
    for node in tree.nodes()[1:]:
        node.logprobs = [logprob + rng.normal() * 1e-12 for logprob in node.logprobs]
    assert expansion.forks(tree, 0, RNG) == chosen


@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(0, 3))
def test_every_expansion_adds_exactly_beam_leaves(seed: int, beam: int, iterations: int) -> None:
    tree = random_tree(seed)
    expansion = EntropyGuided(1, iterations, beam)
    before = len(tree.leaves())
    for iteration in range(iterations):
        for parent in expansion.forks(tree, iteration, RNG):
            assert not parent.is_leaf
            turn(tree, parent, 0.5, 0.0)
    assert expansion.forks(tree, iterations, RNG) == []
    assert len(tree.leaves()) == before + iterations * beam


@pytest.mark.parametrize(
    "settings", [{"chains": 0}, {"iterations": -1}, {"beam": 0}, {"penalty": float("nan")}]
)
def test_bad_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EntropyGuided(**settings)  # type: ignore[arg-type]


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_random_expansion_repeats_no_turn_while_there_are_others(seed: int, beam: int) -> None:
    tree = random_tree(seed, size=20)
    inner = [node for node in tree.nodes() if not node.is_leaf]
    expansion = RandomExpansion(1, 1, beam)
    parents = expansion.forks(tree, 0, np.random.default_rng(seed))
    assert parents == expansion.forks(tree, 0, np.random.default_rng(seed))
    assert len(parents) == beam
    assert expansion.forks(tree, 1, np.random.default_rng(seed)) == []
    # Each parent serves its own inner children, and the root itself too.
    room = {node: sum(not c.is_leaf for c in node.children) for node in inner}
    room[tree.root] += 1
    if beam <= len(inner):
        assert all(parents.count(parent) <= room[parent] for parent in parents)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_every_tree_of_a_forest_gets_the_same_number_of_leaves(
    seed: int, trees: int, iterations: int, beam: int
) -> None:
    rng = np.random.default_rng(seed)
    tree = RolloutTree("q", [0])
    expansion = Forest(trees, iterations, beam)

    def roll(parent: Node) -> None:
        for _ in range(rng.integers(1, 4)):
            parent = turn(tree, parent, 0.5)
        parent.reward = 0.0

    for _ in range(expansion.initial()):
        roll(tree.root)
    for iteration in range(iterations + 1):
        for parent in expansion.forks(tree, iteration, rng):
            assert not parent.is_leaf
            roll(parent)
    groups = forest(tree)
    assert [sum(n.is_leaf for n in nodes) for nodes in groups] == [1 + iterations * beam] * trees
    assert sorted(n.key for nodes in groups for n in nodes) == sorted(
        n.key for n in tree.nodes()[1:]
    )


def grow(tree: RolloutTree, expansion: ARPOBranching, entropies: list[float]) -> int:
    """Play rounds: in turn t every chain has entropies[t]; the last one ends it. Count rounds."""
    expansion = replace(expansion, vocabulary=151_669)
    parents, rounds = [tree.root] * expansion.initial(), 0
    rng = np.random.default_rng(0)
    while parents:
        for parent in parents:
            depth = parent.depth
            last = depth + 1 == len(entropies)
            turn(tree, parent, entropies[depth], 0.0 if last else None)
        parents = expansion.forks(tree, rounds, rng)
        rounds += 1
    return rounds


def test_designed_branches_start_before_the_uncertain_turn() -> None:
    tree = RolloutTree("q", [0])
    grow(tree, ARPOBranching(chains=3, initial_chains=1), [0.1, 0.9, 0.1])
    (first,) = tree.root.children[:1]
    # The second turn rose over the first, so it has a sibling, and so has that one; the third turn
    # of the first chain did not rise. Then all chains are there and nothing is measured any more.
    assert [len(first.children), len(tree.leaves())] == [3, 3]
    measured = [node.info["branching"] for node in tree.nodes() if "branching" in node.info]
    risen = 0.5 + 0.2 * 0.8 / np.log(151_669)
    assert measured == pytest.approx([risen, risen, 0.5])


def test_designed_chains_without_a_rise_fill_up_at_once() -> None:
    tree = RolloutTree("q", [0])
    rounds = grow(tree, ARPOBranching(chains=5, initial_chains=2), [0.5, 0.4])
    assert (rounds, len(tree.root.children), len(tree.leaves())) == (4, 5, 5)


def test_released_branches_follow_the_tool_result_and_fill_up_one_by_one() -> None:
    tree = RolloutTree("q", [0])
    always = ARPOBranching(chains=3, initial_chains=1, threshold=1.0, variant="released")
    grow(tree, always, [0.5, 0.5])
    assert [len(child.children) for child in tree.root.children] == [2, 1]
    tree = RolloutTree("q", [0])
    never = ARPOBranching(chains=3, initial_chains=1, threshold=-1.0, variant="released")
    assert grow(tree, never, [0.5, 0.5]) == 6
    assert len(tree.root.children) == 3


@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_a_larger_rise_makes_branching_likelier(seed: int, rise: float) -> None:
    u = np.random.default_rng(seed).random()
    released, damped = ARPOBranching(variant="released"), AEPOBranching(variant="released")
    for rule, base in ((released, u), (damped, u), (ARPOBranching(), 0.5), (AEPOBranching(), 0.5)):
        assert rule.judge(base, rise + 1, 0)[1] >= rule.judge(base, rise, 0)[1]
    assert damped.judge(u, rise, 0)[1] >= damped.judge(u, rise, 5)[1]


@pytest.mark.parametrize("rule", [ARPOBranching, AEPOBranching])
def test_a_released_copy_is_measured_against_its_own_first_turn(rule: type[ARPOBranching]) -> None:
    """A first turn of 1 nat, its chain's second of 30, and a copy whose first turn has 30."""
    released = rule(variant="released", vocabulary=151_936)
    tree = RolloutTree("q", [0])
    (first,) = chain(tree, 1.0)
    going, copy = (turn(tree, first, 30.0) for _ in range(2))
    assert released.rise(first) == 0
    assert released.rise(going) == pytest.approx(29 / np.log(151_936)) == pytest.approx(2.43, 1e-3)
    assert released.rise(copy) == 0
    assert rule(vocabulary=151_936).rise(copy) == released.rise(going)  # as designed: one chain


def test_the_chain_of_a_copy_of_a_copy_begins_with_itself() -> None:
    released = ARPOBranching(variant="released", vocabulary=3)
    tree = RolloutTree("q", [0])
    second = [turn(tree, tree.root, surprisal) for surprisal in (9.0, 1.0)][1]
    turn(tree, second, 9.0)
    copy = turn(tree, second, 2.0)
    goes_on, again = turn(tree, copy, 5.0), turn(tree, copy, 7.0)
    assert released.rise(second) == released.rise(copy) == released.rise(again) == 0
    assert released.rise(goes_on) == pytest.approx(3 / np.log(3))
    assert released.rise(turn(tree, again, 8.0)) == pytest.approx(1 / np.log(3))


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(2, 4))
def test_every_chain_of_a_released_tree_begins_once(seed: int, initial: int, beam: int) -> None:
    """All chains of a tree, those of the prompt and the copies, have a first turn of no rise."""
    rng = np.random.default_rng(seed)
    rule = ARPOBranching(
        chains=12, initial_chains=initial, beam=beam, variant="released", vocabulary=5
    )
    tree, parents, owner = RolloutTree("q", [0]), [], dict[Node, Node]()
    parents = [tree.root] * rule.initial()
    for rounds in range(99):
        going = {node for node in tree.leaves() if node.reward is None}
        for parent in parents:
            last = 0.0 if parent.depth == 3 else None
            node = turn(tree, parent, rng.exponential(), last)
            owner[node] = owner[parent] if parent in going - {tree.root} else node
            going.discard(parent)
        if not (parents := rule.forks(tree, rounds, rng)):
            break
    assert len(tree.leaves()) == len(set(owner.values())) == 12
    for node, first in owner.items():
        assert rule.rise(node) == rule.measure(node) - rule.measure(first)


@given(st.floats(-40, 40).filter(lambda nats: nats == 0 or abs(nats) > 1e-9))
def test_the_vocabulary_decides_where_more_than_the_sign_of_the_rise_counts(nats: float) -> None:
    """ARPO as designed takes the same turns whatever it is; what is damped or drawn does not."""
    small, large = (nats / np.log(size) for size in (2048, 151_669))
    assert ARPOBranching().judge(0.5, small, 0)[1] == ARPOBranching().judge(0.5, large, 0)[1]
    assert AEPOBranching().judge(0.5, 1.2 / np.log(2048), 1)[1]
    assert not AEPOBranching().judge(0.5, 1.2 / np.log(151_669), 1)[1]
    assert not ARPOBranching(variant="released").judge(0.55, 2.4 / np.log(151_669), 0)[1]
    assert ARPOBranching(variant="released").judge(0.55, 2.4 / np.log(2048), 0)[1]


def test_entropies_without_a_vocabulary_are_refused() -> None:
    node = Node(sampled=[1], logprobs=[-1.0])
    with pytest.raises(ConfigError, match=r"len\(tokenizer.get_vocab\(\)\)"):
        AEPOBranching().measure(node)
    assert AEPOBranching(vocabulary=151_669).measure(node) == 1 / np.log(151_669)
    with pytest.raises(ConfigError, match="vocabulary"):
        ARPOBranching(vocabulary=1)


def test_vectors_of_the_branching_rules() -> None:
    assert ARPOBranching(variant="released").judge(0.6, 0.5, 0) == (pytest.approx(0.5), True)
    assert ARPOBranching(variant="released").judge(0.61, 0.5, 0)[1] is False
    aepo = AEPOBranching(variant="released")
    assert aepo.judge(0.5, 0.5, 0) == (pytest.approx(0.6), True)
    assert aepo.judge(0.5, 0.5, 4) == (pytest.approx(0.48), False)
    assert aepo.judge(0.9, 9.0, 30) == (0.0, False)


def test_monitoring_chain_sets_how_many_start() -> None:
    expansion = AEPOBranching(chains=16, monitor=True, vocabulary=3)
    tree = RolloutTree("q", [0])
    assert expansion.initial() == 1
    first, last = chain(tree, 4.0, 2.0)
    assert expansion.forks(tree, 0, RNG) == [last]
    last.reward = 0.0
    rise = (4.0 - 3.0) / np.log(3)
    m = int(16 / (1 + np.exp(-0.5 * rise))) + 1
    assert expansion.measured([first, last]) == m
    assert expansion.forks(tree, 1, RNG) == [tree.root] * (m - 1)


def test_entropy_estimates() -> None:
    node = Node(sampled=[1, 2, 3], logprobs=[-1.0, -2.0, -6.0], info={"query": (1, 2)})
    assert turn_entropy(node) == 3.0
    assert turn_entropy(node, "query") == 2.0
    with pytest.raises(TreeError, match="keep_entropies=True"):
        turn_entropy(node, "full")
    node.entropies = [0.5, 1.0, 1.5]
    assert turn_entropy(node, "full") == 1.0
    assert turn_entropy(Node(), "query") == 0.0


class Letters:
    """A tokenizer of two letters a token."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(i // 128) + chr(i % 128) for i in ids)


@pytest.mark.parametrize(("query", "span"), [("river", (5, 8)), ("x <", (0, 2)), ("lake", None)])
def test_query_span_covers_the_arguments(query: str, span: tuple[int, int] | None) -> None:
    action = "x <search>river"
    action += " " * (len(action) % 2)
    ids = [ord(a) * 128 + ord(b) for a, b in zip(action[::2], action[1::2], strict=True)]
    node = Node(sampled=ids, action=action)
    calls = [SimpleNamespace(arguments={"query": query, "k": 3})]
    assert query_span(Letters(), node, calls) == span
