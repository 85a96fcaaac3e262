"""Real trees in the simulation, costs fitted to them, and runs that a test writes predicted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.rollout.expansion import EntropyGuided
from at2po_agents.tree import Node, RolloutTree
from benchmarks.scale import calibration
from benchmarks.scale.calibration import Run, Together, amounts, fit_costs, measure_runs, regrown
from benchmarks.scale.costs import fitted
from benchmarks.scale.simulation import Setup, simulate
from benchmarks.scale.timeline import Piece, stage_seconds
from benchmarks.speed.paper_step import PaperStep, Plan
from benchmarks.speed.scaling import ROLLOUT_TERMS, UPDATE_TERMS, Point
from benchmarks.speed.step_cost import step_work
from tests.benchmarks.scale.scale_samples import draw

FITS = {
    "rollout": {"microseconds_per": dict.fromkeys(ROLLOUT_TERMS, 10.0)},
    "update": {"microseconds_per": dict.fromkeys(UPDATE_TERMS, 10.0)},
}
TRUTH = Together(exchange=0.25, crowding=1.4)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_real_trees_are_grown_again_in_the_order_of_their_chains(seed: int) -> None:
    rng, search = np.random.default_rng(seed), EntropyGuided(3, 2, 2)
    tree = RolloutTree("q", rng.integers(0, 9, 5).tolist())
    parents, waves = [tree.root] * search.initial(), []
    while parents:
        wave: list[Node] = []
        for parent in parents:
            node = parent
            for place in range(rng.integers(1, 4)):
                node.inserted = node.inserted or [1, 2]
                sampled = rng.integers(0, 9, rng.integers(1, 6)).tolist()
                logprobs = (-rng.exponential(size=len(sampled))).tolist()
                node = tree.add(node, sampled=sampled, logprobs=logprobs)
                wave += [] if place else [node]
        waves.append(wave)
        parents = search.forks(tree, len(waves) - 1, rng)
    before = tree.to_dict()
    plan = regrown(tree, search)
    assert plan.waves == waves and plan.tree.to_dict() == before
    assert not plan.learned
    work = step_work([tree])
    assert amounts([plan], 1)["prefilled"] == work["prefill"].tokens
    assert amounts([plan], 1)["trained"] == 0
    tree.leaves()[-1].advantage = 1.0
    assert amounts([regrown(tree, search)], 1)["trained"] == work["packed"].tokens


def test_costs_are_fitted_to_what_the_simulation_counts() -> None:
    """On steps that take exactly what their amounts cost, the simulation is exact."""
    plans = draw(4, 8, PaperStep(chains=3, beam=2, turn=9, tool_seconds=0.0))
    work = amounts(plans, 2)
    pieces = simulate([plans], Setup(mini_batches=2), fitted(FITS))
    for stage, terms in (("collect", ROLLOUT_TERMS), ("update", UPDATE_TERMS)):
        expected = sum(1e-5 * work[term] for term in terms)
        assert stage_seconds(pieces, stage, skip=0) == pytest.approx(expected)


def test_costs_are_fitted_to_real_steps() -> None:
    tiny = [Point(questions=1, chains=2, beam=1, depth=d, passages=p) for d, p in ((2, 1), (3, 2))]
    fits = fit_costs(tiny, repeats=1)
    for part, terms in (("rollout", ROLLOUT_TERMS), ("update", UPDATE_TERMS)):
        assert fits[part]["microseconds_per"].keys() == {*terms}


def test_what_two_processes_cost_each_other_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timelines that follow the model are predicted without error."""
    plans = draw(0, 4, PaperStep(chains=3, iterations=1, beam=2))

    def take(run: Run) -> tuple[list[Piece], list[list[Plan]]]:
        took = calibration._predicted(run, [plans, plans], FITS, TRUTH)
        pieces, now = [], 0.0
        for step in (1, 2, 3):
            for stage in ("collect", "update"):
                pieces.append(Piece("someone-0", stage, step, now, now + took[stage]))
                now += took[stage]
        return pieces, [plans, plans]

    monkeypatch.setattr(calibration, "take", take)
    found = measure_runs(FITS, Run(2, 2), (Run(1, 1), Run(2, 1), Run(2, 2)))
    assert found["together"] == pytest.approx({"exchange": 0.25, "crowding": 1.4})
    for run in found["runs"]:
        for stage in ("collect", "update", "step"):
            assert run[stage]["error"] == pytest.approx(0, abs=1e-3)
    alone, two, four = found["runs"]
    assert two["collect"]["predicted"] < alone["collect"]["predicted"]
    assert four["update"]["predicted"] != alone["update"]["predicted"]
