"""Runs of several processes beside the simulation, with timelines that a test writes."""

from __future__ import annotations

import pytest

from benchmarks.scale import workers as scale_workers
from benchmarks.scale.timeline import Piece
from benchmarks.scale.workers import Run, Together, measure_workers
from benchmarks.scale.workload import Workload
from benchmarks.speed.step_cost import PaperStep

ROLLOUT = ("engine_steps", "turns", "sampled", "prefilled", "rollout_pairs")
UPDATE = ("optimizer_steps", "trained", "trained_pairs", "sampled")
FITS = {
    "rollout": {"microseconds_per": dict.fromkeys(ROLLOUT, 10.0)},
    "update": {"microseconds_per": dict.fromkeys(UPDATE, 10.0)},
}
TRUTH = Together(exchange=0.25, crowding=1.4)


def test_what_two_processes_cost_each_other_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timelines that follow the model are predicted without error."""
    from numpy.random import default_rng

    trees = Workload(PaperStep(prompts=4, chains=3, iterations=1, beam=2)).draw(4, default_rng(0))

    def take(run: Run) -> tuple[list[Piece], list[list[object]]]:
        took = scale_workers._predicted(run, [trees, trees], FITS, TRUTH)
        pieces, now = [], 0.0
        for step in (1, 2, 3):
            for stage in ("collect", "update"):
                pieces.append(Piece("someone-0", stage, step, now, now + took[stage]))
                now += took[stage]
        return pieces, [trees, trees]

    monkeypatch.setattr(scale_workers, "take", take)
    found = measure_workers(FITS, Run(2, 2), (Run(1, 1), Run(2, 1), Run(2, 2)))
    assert found["together"] == pytest.approx({"exchange": 0.25, "crowding": 1.4})
    for run in found["runs"]:
        for stage in ("collect", "update", "step"):
            assert run[stage]["error"] == pytest.approx(0, abs=1e-3)
    alone, two, four = found["runs"]
    assert two["collect"]["predicted"] < alone["collect"]["predicted"]
    assert four["update"]["predicted"] != alone["update"]["predicted"]
