"""How far the simulation can be trusted: costs fitted on this machine, its times beside real ones.

Steps of one worker are timed in seconds of its processor, on one thread, so that other load on the
machine hardly counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.scale.costs import IDLE, Costs, fitted
from benchmarks.scale.rollout import collect
from benchmarks.scale.simulation import Setup, simulate
from benchmarks.scale.timeline import stage_seconds
from benchmarks.scale.workload import Plan, planned, total
from benchmarks.speed.cost_model import fit
from benchmarks.speed.scaling import BASE, ROLLOUT_TERMS, UPDATE_TERMS, Point, Stepper

STAGES = {"rollout": "collect", "update": "update"}
"""Stages that are compared -> their names in timelines."""
FITTED = (
    *(replace(BASE, questions=n) for n in (2, 4, 8, 16)),
    *(replace(BASE, chains=m, beam=k) for m, k in ((2, 1), (10, 6))),
    *(replace(BASE, depth=n) for n in (2, 3, 6)),
    *(replace(BASE, passages=n) for n in (1, 4)),
)
"""Steps that costs are fitted to."""
PREDICTED = (
    replace(BASE, questions=6),
    replace(BASE, questions=12, depth=3),
    replace(BASE, questions=4, chains=8, beam=5),
    replace(BASE, questions=10, depth=5, passages=1),
    replace(BASE, questions=3, passages=3),
)
"""Other steps, which are predicted."""


def calibrate(
    model: str = "mini",
    fit_to: Sequence[Point] = FITTED,
    predict: Sequence[Point] = PREDICTED,
    repeats: int = 3,
) -> dict[str, Any]:
    """Fit stage costs on this machine, and predict steps of one worker that were not fitted.

    The prediction knows the trees, but not how often the engine stepped or what it prefilled.

    Args:
        model: The policy.
        fit_to: Steps to fit, at least as many as there are costs.
        predict: Steps to predict.
        repeats: Times that every step is taken; the fastest counts.

    Returns:
        JSON-able: the fits of rollout and update, and for each step predicted its sizes, and of
        rollout and update the seconds measured and predicted and the relative error.
    """
    with _one_thread():
        stepper = Stepper(model, time.process_time)
        stepper.step(replace(BASE, questions=2), 0)  # a warm-up
        rows = []
        for number, point in enumerate(fit_to):
            seconds = _fastest(stepper, point, number, repeats)
            work = amounts(planned(stepper.trees, point.expansion), stepper.learner.mini_batches)
            rows.append(work | seconds)
        fits = {
            "rollout": fit(rows, ROLLOUT_TERMS, "rollout_seconds"),
            "update": fit(rows, UPDATE_TERMS, "update_seconds"),
        }
        setup = Setup(
            mini_batches=stepper.learner.mini_batches,
            token_budget=stepper.learner.token_budget,
            max_batch=stepper.config.engine.max_batch,
        )
        found = []
        for number, point in enumerate(predict, start=len(fit_to)):
            seconds = _fastest(stepper, point, number, repeats)
            steps = [planned(stepper.trees, point.expansion)]
            found.append({**asdict(point), **compared(seconds, steps, setup, fitted(fits))})
    return {"model": model, "fits": fits, "one_worker": found}


def amounts(trees: Sequence[Plan], mini_batches: int) -> dict[str, float]:
    """Count the work of a step as the simulation does, under the names of fitted costs.

    Args:
        trees: What was grown and learned from, by tools that take no time.
        mini_batches: Optimizer steps.
    """
    grown = collect(trees, IDLE)
    learned = total([tree for tree in trees if tree.learned])
    return {
        "engine_steps": grown.engine_steps,
        "turns": sum(len(tree.turns) for tree in trees),
        "sampled": sum(turn.sampled for tree in trees for turn in tree.turns),
        "prefilled": grown.prefilled,
        "rollout_pairs": grown.pairs,
        "optimizer_steps": mini_batches,
        "trained": learned.tokens,
        "trained_pairs": learned.pairs,
    }


def _fastest(stepper: Stepper, point: Point, number: int, repeats: int) -> dict[str, float]:
    """Take the same step several times, and keep the least of its seconds."""
    taken = [stepper.step(point, number) for _ in range(repeats)]
    return {name: min(row[name] for row in taken) for name in map("{}_seconds".format, STAGES)}


def compared(
    measured: Mapping[str, float], steps: Sequence[Sequence[Plan]], setup: Setup, costs: Costs
) -> dict[str, Any]:
    """Put measured seconds of rollout and update beside those of the simulation.

    Args:
        measured: `rollout_seconds` and `update_seconds`.
        steps: The trees of the steps that were measured.
        setup: How they were carried out.
        costs: What everything takes.

    Returns:
        JSON-able: for either stage the seconds measured and predicted, and the relative error.
    """
    pieces = simulate(steps, setup, costs)
    return {
        name: beside(measured[f"{name}_seconds"], stage_seconds(pieces, stage, skip=0))
        for name, stage in STAGES.items()
    }


def beside(measured: float, predicted: float) -> dict[str, float]:
    """Put seconds that were predicted beside those measured, with the relative error."""
    return {
        "measured": round(measured, 3),
        "predicted": round(predicted, 3),
        "error": round(predicted / measured - 1, 4),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
