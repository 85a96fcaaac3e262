"""What a training step costs on many GPUs: simulated from stage costs, by arithmetic for GPUs.

`python -m benchmarks.scale` simulates steps of the paper's setting on 1 to 512 GPUs, compares the
simulation with real steps of this machine, and writes `benchmarks/results/scale.json`. No figure of
it was measured on a GPU: `scale_costs` holds every assumption.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from at2po_agents.policy.sizes import SIZES
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.scale.calibration import calibrate
from benchmarks.scale.costs import Assumptions, Gpu, on_gpus
from benchmarks.scale.simulation import Setup
from benchmarks.scale.systems import SYSTEMS, Scene
from benchmarks.scale.tables import scale
from benchmarks.scale.workers import measure_workers
from benchmarks.scale.workload import Workload
from benchmarks.speed.step_cost import PaperStep

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
    """GPUs at which assumptions are varied, at least 2; 0 for none."""
    calibrate: bool = True
    """Compare the simulation with steps of the embedded model on this machine, minutes."""
    seed: int = 0
    """Seed of the trees."""
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
    workload = Workload()
    calibration = calibrate() if config.calibrate else None
    costs = on_gpus(SIZES["Qwen3-4B"], workload.step.mini_batches, first_read=True)
    return {
        "workload": asdict(workload),
        "gpu": asdict(Gpu()),
        "assumed": asdict(Assumptions()),
        "model": asdict(SIZES["Qwen3-4B"]),
        "costs": asdict(costs),
        "setup": asdict(Setup()),
        "fixed": {
            str(gpus): _compared(config, workload, workload.step.prompts, gpus)
            for gpus in config.gpus
        },
        "growing": {
            str(gpus): _compared(config, workload, config.per_gpu * gpus, gpus)
            for gpus in config.gpus
        },
        "sensitivity": sensitivity(config, workload),
        "calibration": calibration,
        "workers": measure_workers(calibration["fits"]) if calibration else None,
    }


def _compared(config: ScaleConfig, workload: Workload, questions: int, gpus: int) -> dict[str, Any]:
    scene = _scene(config, workload, questions, gpus)
    return {
        "questions": questions,
        "systems": {
            name: {"label": system.label, **scene.run(system)}
            for name, system in SYSTEMS.items()
            if gpus > 1 or not system.split
        },
    }


def _scene(
    config: ScaleConfig,
    workload: Workload,
    questions: int,
    gpus: int,
    assumed: Assumptions = Assumptions(),  # noqa: B008 - immutable
) -> Scene:
    rng = default_rng([config.seed, questions])
    steps = [workload.draw(questions, rng) for _ in range(config.steps)]
    return Scene(gpus, steps, workload.step.mini_batches, assumed)


def sensitivity(config: ScaleConfig, workload: Workload) -> dict[str, Any] | None:
    """Say how many times as long the released way takes as two of ours, by assumption.

    Args:
        config: `sensitivity_gpus` and `per_gpu` say where.
        workload: What is varied, beside the assumptions about GPUs.

    Returns:
        The ratios as assumed, and with one assumption lower or higher; None for no GPUs.
    """
    if not config.sensitivity_gpus:
        return None
    gpus, questions = config.sensitivity_gpus, config.sensitivity_gpus * config.per_gpu

    def ratios(varied: Workload, assumed: Assumptions) -> dict[str, float]:
        scene = _scene(config, varied, questions, gpus, assumed)
        seconds = {
            name: scene.run(SYSTEMS[name])["seconds"] for name in ("released", "ours", "stale")
        }
        return {name: round(seconds["released"] / seconds[name], 3) for name in ("ours", "stale")}

    def changed(name: str, value: float) -> dict[str, float]:
        if hasattr(Assumptions, name):
            return ratios(workload, replace(Assumptions(), **{name: value}))
        varied: dict[str, Any] = {name: value}
        if hasattr(PaperStep, name):
            varied = {"step": replace(workload.step, **{name: int(value)})}
        return ratios(replace(workload, **varied), Assumptions())

    return {
        "gpus": gpus,
        "questions": questions,
        "assumed": ratios(workload, Assumptions()),
        "varied": {
            name: [{"value": value, **changed(name, value)} for value in values]
            for name, values in SENSITIVITY.items()
        },
    }


main = partial(run, "benchmarks.scale", ScaleConfig, measure, show=scale)
