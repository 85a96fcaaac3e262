"""What a training step costs on many GPUs: simulated from stage costs, by arithmetic for GPUs.

`python -m benchmarks.scale` simulates steps of the paper's setting on 1 to 512 GPUs, compares the
simulation with real runs on this machine, and writes `benchmarks/results/scale.json`. No figure of
it was measured on a GPU: `benchmarks/scale/costs.py` holds every assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from at2po_agents.policy.sizes import SIZES
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.scale.calibration import fit_costs, measure_runs
from benchmarks.scale.costs import Assumptions, Costs, Gpu, on_gpus
from benchmarks.scale.simulation import Rollouts, Setup, rollouts, simulate, splits
from benchmarks.scale.tables import scale
from benchmarks.scale.timeline import Piece, stage_seconds, step_seconds, time_by_part
from benchmarks.speed.paper_step import PaperStep, Plan

MODEL = SIZES["Qwen3-4B"]
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "released": ("barriers, rows (as released)", {"rounds": True, "packed": False}),
    "nothing": ("event loop, nothing shared", {"reuse": False, "packed": False}),
    "rows": ("event loop, rows", {"packed": False}),
    "barriers": ("barriers, packed", {"rounds": True}),
    "ours": ("event loop, packed", {}),
    "split": ("… collectors and learners apart", {"colocate": False}),
    "stale": ("… and one update behind", {"colocate": False, "staleness": 1}),
    "whole": ("event loop, packed, whole trees", {"whole": True}),
}
"""Ways to carry out steps -> labels (dots stand for the line before), and settings of `Setup`."""
BUSY = ("decode", "prefill", "host", "learn", "optimizer")
"""Parts of a device's time in which it does what it is there for."""
SENSITIVITY: dict[str, tuple[float, float]] = {
    "turn": (60, 240),
    "turn_spread": (0.25, 1.0),
    "tool_seconds": (0.1, 2.5),
    "step_overhead": (1e-3, 1e-2),
    "decode_use": (0.4, 0.8),
    "train_use": (0.2, 0.5),
    "overlap": (0.0, 0.5),
    "handover": (1e9, 2e10),
    "switch": (0.2, 5.0),
}
"""Assumption -> lower and higher values that could be true as well."""


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Simulate what a training step costs on many GPUs."""

    gpus: tuple[int, ...] = (1, 8, 64, 512)
    """Numbers of GPUs, ascending."""
    per_gpu: int = 8
    """Questions per GPU and step, where steps grow with the GPUs; the paper's runs had 8."""
    steps: int = 4
    """Steps simulated, at least 2; the first does not count."""
    sensitivity_gpus: int = 64
    """GPUs at which assumptions are varied, at least 2."""
    calibrate: bool = True
    """Compare the simulation with steps of the embedded model on this machine, minutes."""
    out: Path = Path("benchmarks/results/scale.json")
    """Where the figures go."""


def measure(config: ScaleConfig) -> dict[str, Any]:
    """Simulate all systems on all numbers of GPUs.

    Args:
        config: What to simulate.

    Returns:
        JSON-able: the workload, costs and assumptions; by number of GPUs what each system takes,
        for the paper's step and for one that grows with the GPUs; how much the comparison depends
        on the assumptions; what was predicted and measured on this machine, with one process and
        with several.

    Raises:
        EvaluationError: If a number is out of range.
    """
    if config.steps < 2 or not config.gpus or min(*config.gpus, config.per_gpu) < 1:
        raise EvaluationError(
            "expected steps >= 2 and numbers of GPUs and questions >= 1, found "
            f"{config.steps}, {config.gpus} and {config.per_gpu}"
        )
    step = PaperStep()
    fits = fit_costs() if config.calibrate else None
    return {
        "workload": asdict(step),
        "gpu": asdict(Gpu()),
        "assumed": asdict(Assumptions()),
        "model": asdict(MODEL),
        "costs": asdict(on_gpus(MODEL, step.mini_batches)),
        "setup": asdict(Setup()),
        "fixed": {
            str(gpus): _compared(Scene.of(config, gpus, step.prompts, step)) for gpus in config.gpus
        },
        "growing": {
            str(gpus): _compared(Scene.of(config, gpus, config.per_gpu * gpus, step))
            for gpus in config.gpus
        },
        "sensitivity": sensitivity(config, step),
        "calibration": {"fits": fits} if fits else None,
        "workers": measure_runs(fits) if fits else None,
    }


@dataclass(frozen=True)
class Scene:
    """Steps to be carried out on a number of GPUs.

    Attributes:
        gpus: How many.
        steps: The trees of each step.
        mini_batches: Optimizer steps per update.
        assumed: What costs are computed from.
        known: Collections that were simulated, by what they depend on.
    """

    gpus: int
    steps: Sequence[Sequence[Plan]]
    mini_batches: int
    assumed: Assumptions = Assumptions()
    known: dict[tuple[object, ...], Rollouts] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: ScaleConfig,
        gpus: int,
        questions: int,
        step: PaperStep,
        assumed: Assumptions = Assumptions(),  # noqa: B008 - immutable
    ) -> Scene:
        """Draw steps of so many questions."""
        rng = default_rng([0, questions])
        steps = [step.draw(questions, rng) for _ in range(config.steps)]
        return cls(gpus, steps, step.mini_batches, assumed)

    def run(self, system: str) -> dict[str, Any]:
        """Simulate a system, with as many collectors as are fastest where it has some apart.

        Args:
            system: A key of `SYSTEMS`.

        Returns:
            JSON-able: its label, seconds per step, collectors, learners, seconds of collecting and
            of the update, utilisation of either kind of device, what the time of all of them went
            to.
        """
        label, settings = SYSTEMS[system]
        base = Setup(**settings, mini_batches=self.mini_batches)
        costs = on_gpus(MODEL, self.mini_batches, packed=base.packed, assumed=self.assumed)
        tried = [(setup, self._timeline(setup, costs)) for setup in splits(self.gpus, base)]
        setup, pieces = min(tried, key=lambda pair: step_seconds(pair[1]))
        steady = [piece for piece in pieces if piece.step]
        collecting, learning = (time_by_part(steady, role) for role in setup.roles)
        return {
            "label": label,
            "seconds": round(step_seconds(pieces), 2),
            "collectors": setup.collectors,
            "learners": setup.learners,
            "collect_seconds": round(stage_seconds(pieces, "collect"), 2),
            "update_seconds": round(stage_seconds(pieces, "update"), 2),
            "collectors_busy": round(sum(collecting.get(part, 0.0) for part in BUSY), 4),
            "learners_busy": round(sum(learning.get(part, 0.0) for part in BUSY), 4),
            "shares": {name: round(share, 4) for name, share in time_by_part(steady).items()},
        }

    def _timeline(self, setup: Setup, costs: Costs) -> list[Piece]:
        key = (setup.collectors, setup.rounds, setup.reuse)
        if key not in self.known:
            self.known[key] = rollouts(self.steps, setup, costs)
        return simulate(self.steps, setup, costs, self.known[key])


def _compared(scene: Scene) -> dict[str, Any]:
    together = (name for name, (_, s) in SYSTEMS.items() if scene.gpus > 1 or "colocate" not in s)
    return {
        "questions": len(scene.steps[0]),
        "systems": {name: scene.run(name) for name in together},
    }


def sensitivity(config: ScaleConfig, step: PaperStep) -> dict[str, Any]:
    """Say how many times as long the released way takes as two of ours, by assumption.

    Args:
        config: `sensitivity_gpus` and `per_gpu` say where.
        step: What is varied, beside the assumptions about GPUs.

    Returns:
        The ratios as assumed, and with one assumption lower or higher.
    """
    gpus, questions = config.sensitivity_gpus, config.sensitivity_gpus * config.per_gpu

    def ratios(**changed: Any) -> dict[str, float]:
        of_gpus = {name: value for name, value in changed.items() if hasattr(Assumptions, name)}
        of_step = {name: value for name, value in changed.items() if name not in of_gpus}
        assumed = replace(Assumptions(), **of_gpus)
        scene = Scene.of(config, gpus, questions, replace(step, **of_step), assumed)
        released, ours, stale = (
            scene.run(name)["seconds"] for name in ("released", "ours", "stale")
        )
        return {"ours": round(released / ours, 3), "stale": round(released / stale, 3)}

    return {
        "gpus": gpus,
        "questions": questions,
        "assumed": ratios(),
        "varied": {
            name: [{"value": value, **ratios(**{name: value})} for value in values]
            for name, values in SENSITIVITY.items()
        },
    }


main = partial(run, "benchmarks.scale", ScaleConfig, measure, show=scale)
