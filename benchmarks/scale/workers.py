"""Runs of several processes on this machine, beside what the simulation says of them."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from at2po_agents.algorithms import ATPO
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig, load_config, override
from at2po_agents.monitoring import trace
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import RolloutTree
from benchmarks.scale.calibration import beside
from benchmarks.scale.costs import fitted
from benchmarks.scale.simulation import Setup, simulate
from benchmarks.scale.timeline import Piece, stage_seconds, step_seconds
from benchmarks.scale.workload import Plan, planned


@dataclass(frozen=True)
class Run:
    """A training run of several processes.

    Attributes:
        collectors: Processes that collect.
        learners: Ranks of the learner.
        questions: Questions per step.
        chains: Initial chains M.
        beam: Forks K of each of two expansions.
        steps: Steps, of which the first does not count; at least 3.
    """

    collectors: int
    learners: int
    questions: int = 16
    chains: int = 5
    beam: int = 3
    steps: int = 5

    @property
    def algorithm(self) -> ATPO:
        """What trees grow by and are learned from."""
        return ATPO(chains=self.chains, iterations=2, beam=self.beam)

    def config(self, out: Path) -> TrainConfig:
        """Return the settings: the demo's, but for what is measured."""
        changes = {
            "algorithm": self.algorithm,
            "steps": self.steps,
            "rollout.questions_per_step": self.questions,
            # So small a rate costs the same and leaves the policy what it is.
            "optim.learning_rate": 1e-15,
            "eval.every": 1,  # which keeps the trees
            "eval.questions": 1,
            "cluster": ClusterOptions(
                rollout_workers=self.collectors, learner_workers=self.learners
            ),
            "out": out,
        }
        return override(load_config(TrainConfig, "demo"), changes)


CALIBRATED = Run(2, 2)
"""What two processes cost each other is read off this run."""
PREDICTED = (
    Run(1, 1),
    Run(2, 1),
    Run(2, 2, questions=24),
    Run(2, 2, questions=12, chains=8, beam=5),
)
"""Runs that are predicted."""


@dataclass(frozen=True)
class Together:
    """What two processes on one machine cost each other.

    Attributes:
        exchange: Seconds in which two ranks exchange weights and gradients of one pass.
        crowding: How many times as long two collectors need as one would for the same questions.
    """

    exchange: float = 0.0
    crowding: float = 1.0


def measure_workers(
    fits: Mapping[str, Any],
    calibrated: Run = CALIBRATED,
    predicted: Sequence[Run] = PREDICTED,
) -> dict[str, Any]:
    """Take runs of several processes, and predict them from the costs of one.

    Args:
        fits: Those of `scale_calibration.calibrate`.
        calibrated: Run of two collectors and two ranks, from which `Together` is taken.
        predicted: Runs to predict, of one or two of each.

    Returns:
        JSON-able: `together`, and `runs`, for each of which its sizes and, of collecting, updates
        and steps, the seconds measured and predicted and the relative error.
    """
    pieces, steps = take(calibrated)
    free = _predicted(calibrated, steps, fits, Together())
    slow = _predicted(calibrated, steps, fits, Together(exchange=1.0))
    exposed = stage_seconds(pieces, "update") - free["update"]
    together = Together(
        max(0.0, exposed / (slow["update"] - free["update"])),
        stage_seconds(pieces, "collect") / free["collect"],
    )
    runs = [compared(run, fits, together) for run in predicted]
    return {"together": asdict(together), "runs": runs}


def compared(run: Run, fits: Mapping[str, Any], together: Together) -> dict[str, Any]:
    """Take a run, and put what it took beside what was to be expected.

    Args:
        run: The run.
        fits: As for `measure_workers`.
        together: What two processes cost each other.
    """
    pieces, steps = take(run)
    measured = {stage: stage_seconds(pieces, stage) for stage in ("collect", "update")}
    # Between the ends of updates: a run also evaluates, and hands trees and weights over.
    measured["step"] = step_seconds(pieces)
    predicted = _predicted(run, steps, fits, together)
    return asdict(run) | {name: beside(measured[name], predicted[name]) for name in predicted}


def take(run: Run) -> tuple[list[Piece], list[list[Plan]]]:
    """Take a run; return its timeline, and the trees of the steps that count."""
    logging.getLogger("at2po_agents").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(run.config(Path(folder) / "run")).run()
        spans = trace.read(Path(folder) / "run")
        steps = []
        for step in range(2, run.steps + 1):
            path = Path(folder) / "run" / "trees" / f"step_{step:06d}.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines()
            trees = [RolloutTree.from_dict(json.loads(line)) for line in lines]
            for tree in trees:  # which the learner did, in another process
                run.algorithm.assign_credit(tree)
            steps.append(planned(trees, run.algorithm.expansion()))
    pieces = [Piece(s.actor, s.stage, step, s.start, s.end) for step, s in spans if step > 0]
    return pieces, steps


def _predicted(
    run: Run, steps: Sequence[Sequence[Plan]], fits: Mapping[str, Any], together: Together
) -> dict[str, float]:
    config = run.config(Path())
    setup = Setup(
        collectors=run.collectors,
        learners=run.learners,
        colocate=False,
        mini_batches=config.optim.mini_batches,
        token_budget=config.optim.token_budget,
        max_batch=config.engine.max_batch,
    )
    pieces = simulate(steps, setup, fitted(fits, hop=together.exchange))
    stages = {name: stage_seconds(pieces, name, skip=0) for name in ("collect", "update")}
    if run.collectors > 1:
        stages["collect"] *= together.crowding
    return {**stages, "step": sum(stages.values())}
