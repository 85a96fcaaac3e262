"""How far the simulation can be trusted: costs fitted on this machine, and real runs predicted."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.random import default_rng

from at2po_agents.algorithms import ATPO
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig, load_config, override
from at2po_agents.monitoring import trace
from at2po_agents.rollout.expansion import Expansion
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import Node, RolloutTree
from benchmarks.scale.costs import Costs, fitted
from benchmarks.scale.rollout import collect
from benchmarks.scale.simulation import Setup, simulate
from benchmarks.scale.timeline import Piece, stage_seconds, step_seconds
from benchmarks.speed.cost_model import fit
from benchmarks.speed.paper_step import Plan
from benchmarks.speed.scaling import BASE, ROLLOUT_TERMS, UPDATE_TERMS, Point, Stepper
from benchmarks.speed.step_cost import add, counts, rows_work

FITTED = (
    *(replace(BASE, questions=n) for n in (2, 4, 8, 16)),
    *(replace(BASE, chains=m, beam=k) for m, k in ((2, 1), (10, 6))),
    *(replace(BASE, depth=n) for n in (2, 3, 6)),
    *(replace(BASE, passages=n) for n in (1, 4)),
)
"""Steps that costs are fitted to."""


def fit_costs(points: Sequence[Point] = FITTED, repeats: int = 3) -> dict[str, Any]:
    """Fit stage costs on this machine, to steps of one worker with the embedded model.

    They are timed in seconds of the processor, on one thread, so that other load on the machine
    hardly counts.

    Args:
        points: The steps, at least as many as there are costs.
        repeats: Times that every step is taken; the fastest counts.

    Returns:
        JSON-able: the fits of rollout and update, as of `benchmarks.speed.cost_model.fit`.
    """
    rows = []
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stepper = Stepper(time.process_time)
        stepper.step(replace(BASE, questions=2), 0)  # a warm-up
        for number, point in enumerate(points):
            taken = [stepper.step(point, number) for _ in range(repeats)]
            plans = [regrown(tree, point.expansion) for tree in stepper.trees]
            seconds = (f"{part}_seconds" for part in ("rollout", "update"))
            rows.append(
                amounts(plans, stepper.learner.mini_batches)
                | {name: min(row[name] for row in taken) for name in seconds}
            )
    return {
        "rollout": fit(rows, ROLLOUT_TERMS, "rollout_seconds"),
        "update": fit(rows, UPDATE_TERMS, "update_seconds"),
    }


def amounts(plans: Sequence[Plan], mini_batches: int) -> dict[str, float]:
    """Count the work of a step as the simulation does, under the names of fitted costs.

    Args:
        plans: What was grown and learned from, by tools that take no time.
        mini_batches: Optimizer steps.
    """
    grown = collect(plans, Costs())
    learned = add(rows_work(plan.tree.leaves()) for plan in plans if plan.learned)
    return {
        **counts([plan.tree for plan in plans]),
        "engine_steps": grown.engine_steps,
        "prefilled": grown.prefilled,
        "rollout_pairs": grown.pairs,
        "optimizer_steps": mini_batches,
        "trained": learned.tokens,
        "trained_pairs": learned.pairs,
    }


def regrown(tree: RolloutTree, expansion: Expansion) -> Plan:
    """Find the order in which the chains of a real tree began.

    Args:
        tree: A complete tree with credit.
        expansion: What it grew by; it is asked again, so it must draw nothing.
    """
    grown = {node: node.children for node in tree.nodes()}
    for node in grown:
        node.children = []

    def grow(node: Node) -> Node:
        """Grow the next chain behind a node; return its first turn."""
        first = turn = grown[node][len(node.children)]
        node.children.append(first)
        while grown[turn]:
            turn.children.append(grown[turn][0])
            turn = turn.children[0]
        return first

    plan = Plan(tree, learned=any(node.advantage or node.row_advantage for node in grown))
    parents = [tree.root] * expansion.initial()
    while parents:
        plan.waves.append([grow(parent) for parent in parents])
        parents = expansion.forks(tree, len(plan.waves) - 1, default_rng(0))
    return plan


@dataclass(frozen=True)
class Run:
    """A training run of several processes on this machine.

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


def measure_runs(
    fits: Mapping[str, Any],
    calibrated: Run = CALIBRATED,
    predicted: Sequence[Run] = PREDICTED,
) -> dict[str, Any]:
    """Take runs of several processes, and predict them from the costs of one.

    Args:
        fits: As of `fit_costs`.
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
    runs = [_compared(run, fits, together) for run in predicted]
    return {"together": asdict(together), "runs": runs}


def _compared(run: Run, fits: Mapping[str, Any], together: Together) -> dict[str, Any]:
    """Take a run, and put what it took beside what was to be expected."""
    pieces, steps = take(run)
    measured = {stage: stage_seconds(pieces, stage) for stage in ("collect", "update")}
    # Between the ends of updates: a run also evaluates, and hands trees and weights over.
    measured["step"] = step_seconds(pieces)
    return asdict(run) | {
        stage: {
            "measured": round(measured[stage], 3),
            "predicted": round(seconds, 3),
            "error": round(seconds / measured[stage] - 1, 4),
        }
        for stage, seconds in _predicted(run, steps, fits, together).items()
    }


def take(run: Run) -> tuple[list[Piece], list[list[Plan]]]:
    """Take a run; return its timeline, and the trees of the steps that count."""
    logging.getLogger("at2po_agents").setLevel(logging.WARNING)
    steps: list[list[Plan]] = [[] for _ in range(run.steps - 1)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        Trainer(run.config(out)).run()
        for step, plans in enumerate(steps, start=2):
            file = out / "trees" / f"step_{step:06d}.jsonl"
            for line in file.read_text(encoding="utf-8").splitlines():
                tree = RolloutTree.from_dict(json.loads(line))
                run.algorithm.assign_credit(tree)  # which the learner did, in another process
                plans.append(regrown(tree, run.algorithm.expansion()))
        spans = trace.read(out)
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
