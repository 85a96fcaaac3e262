"""The trees of simulated steps: drawn like the paper's, or read off real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.rollout.expansion import EntropyGuided
from at2po_agents.tree import Node, RolloutTree
from benchmarks.scale.rollout import collect
from benchmarks.scale.workload import Workload, planned, total
from benchmarks.speed.rollout_counts import first_time
from benchmarks.speed.step_cost import Work, step_work
from tests.benchmarks.scale.scale_samples import SOME, chains_of, draw, real

seeds = st.integers(0, 2**32)


def test_the_steps_drawn_have_the_shape_of_the_paper_s() -> None:
    plans = draw(0, 40, Workload())
    assert {len(plan.leaves) for plan in plans} == {22}
    assert {tuple(map(len, plan.waves)) for plan in plans} == {(10, 6, 6)}
    turns = [turn for plan in plans for turn in plan.turns]
    initial = [len(chains_of([first])) for plan in plans for first in plan.waves[0]]
    assert np.mean(initial) == pytest.approx(3.71, abs=0.15)
    assert max(initial) <= 7
    assert np.mean([turn.sampled for turn in turns]) == pytest.approx(120, rel=0.03)
    assert np.mean([t.tool for t in turns if t.follows]) == pytest.approx(0.5, rel=0.1)
    for turn in turns:
        assert (turn.inserted, turn.tool > 0) == ((440, True) if turn.follows else (0, False))


@settings(max_examples=30)
@given(seeds)
def test_work_is_that_of_the_tree(seed: int) -> None:
    plans = draw(seed, 2)
    work = step_work([real(plan) for plan in plans])
    assert total(plans) == work["packed"]
    rows = [row for plan in plans for row in plan.rows()]
    assert Work(*map(sum, zip(*rows, strict=True))) == work["flat"]
    for plan in plans:
        count = len(plan.leaves)
        assert plan.part(0, count) == plan.packed()
        assert [plan.part(row, row + 1) for row in range(count)] == plan.rows()
        assert [row.path for row in plan.lengths()] == [row.tokens for row in plan.rows()]
        for stop in range(1, count + 1):
            new = sum(row.new for row in plan.lengths()[:stop])
            assert new == plan.part(0, stop).tokens


@settings(max_examples=30)
@given(seeds)
def test_plans_are_read_off_real_trees(seed: int) -> None:
    """Trees that grow here as in a collector, with the order in which chains began."""
    rng, search = np.random.default_rng(seed), EntropyGuided(3, 2, 2)
    tree = RolloutTree("q", rng.integers(0, 9, 5).tolist())
    parents, waves = [tree.root] * search.initial(), []
    while parents:
        wave = []
        for parent in parents:
            chain: list[Node] = []
            for _ in range(rng.integers(1, 4)):
                sampled = rng.integers(0, 9, rng.integers(1, 6)).tolist()
                chain.append(tree.add(chain[-1] if chain else parent, sampled=sampled))
                chain[-1].logprobs = (-rng.exponential(size=len(sampled))).tolist()
                chain[-1].inserted = [1, 2]
            chain[-1].inserted = []
            wave.append([(len(node.path()[:-1]), len(node.sampled)) for node in chain])
        waves.append(wave)
        parents = search.forks(tree, len(waves) - 1, rng)
    (plan,) = planned([tree], search)
    assert not plan.learned
    found = [
        [[(len(turn.path), turn.sampled) for turn in chains_of([first])] for first in wave]
        for wave in plan.waves
    ]
    assert found == waves
    work = step_work([tree])
    assert plan.packed() == work["packed"]
    assert Work(*map(sum, zip(*plan.rows(), strict=True))) == work["flat"]
    assert first_time([tree]) <= collect([plan], SOME).prefilled <= work["prefill"].tokens
    tree.leaves()[-1].advantage = 1.0
    assert planned([tree], search)[0].learned


def test_what_contexts_share_is_prefilled_once() -> None:
    def tree(*ids: int) -> RolloutTree:
        found = RolloutTree("q", [1, 2, 3])
        first = found.add(found.root, sampled=list(ids), inserted=[7, 8])
        found.add(first, sampled=[9])
        return found

    search = EntropyGuided(1, 0, 1)
    one, same, other = tree(4, 5), tree(4, 5), tree(4, 6)
    # The prompt; behind the first turn its last token, and what was inserted.
    assert collect(planned([one], search), SOME).prefilled == 3 + 3
    assert collect(planned([one, same], search), SOME).prefilled == 6
    trees = [one, same, other]
    assert collect(planned(trees, search), SOME).prefilled == first_time(trees) == 9
    # Nothing follows the 4 that ends this tree, so it is not there for the first turn of another.
    last, longer = RolloutTree("q", [1, 2, 3]), tree(4)
    last.add(last.root, sampled=[4])
    trees = [last, longer]
    assert collect(planned(trees, search), SOME).prefilled == first_time(trees) == 3 + 3
