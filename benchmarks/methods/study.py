"""All methods on MiniWiki with an equal budget of sampled tokens: `python -m benchmarks.methods`.

Runs that are complete are kept under `runs/compare`, so a comparison that was interrupted goes on
where it stopped. It writes `benchmarks/results/compare.json` and `docs/compare.svg`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.environment import environment
from benchmarks.errors import EvaluationError
from benchmarks.methods.run import METHODS, THREADS, Result, Run, carry_out
from benchmarks.methods.summary import save_curves, summarise, table
from retrieval.storage.files import write_whole

ROOT = Path(__file__).parents[2]
_QUICK: dict[str, Any] = {"budget": 60_000, "marks": 4, "seeds": 1, "questions": 150}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare AT²PO, its ablations and all other methods at an equal budget."""

    quick: bool = False
    """One seed, a small budget: some minutes, a first look rather than a result."""
    budget: int = 120_000
    """Sampled tokens per run; the step that reaches it is the last."""
    marks: int = 6
    """Evaluations per run, evenly spaced in sampled tokens."""
    seeds: int = 3
    """Seeds per method, from 0."""
    questions: int = 300
    """Unseen questions per evaluation."""
    learning_rate: float = 2e-4
    """Learning rate of all methods: the demo's."""
    mini_batches: int = 4
    """Updates per step; with a single one all importance ratios would be 1."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to run."""
    workers: int = 0
    """Runs at a time, one thread each; 0 is one per core."""
    runs: Path = Path("runs/compare")
    """Where finished runs are kept."""
    out: Path = ROOT / "benchmarks" / "results" / "compare.json"
    """Where the result goes."""
    figure: Path = ROOT / "docs" / "compare.svg"
    """Where the curves go."""

    def __post_init__(self) -> None:
        """Check ranges now rather than after the first run."""
        if unknown := set(self.methods) - METHODS.keys():
            raise EvaluationError(
                f"methods: expected some of {', '.join(METHODS)}, found {', '.join(unknown)}"
            )
        for name in ("budget", "marks", "seeds", "questions", "mini_batches"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"{name}: expected at least 1, found {getattr(self, name)}")

    def places(self) -> list[int]:
        """Return the numbers of sampled tokens at which runs are evaluated."""
        return [self.budget * (i + 1) // self.marks for i in range(self.marks)]


def compare(config: CompareConfig) -> dict[str, Any]:
    """Carry out the runs that are missing; the record is written after each.

    Args:
        config: What to compare.

    Returns:
        The content of `compare.json`.

    Raises:
        EvaluationError: If a run does not stay finite.
    """
    if config.quick:
        # What is named on the command line stays; the rest becomes small.
        default = CompareConfig()
        small = {n: v for n, v in _QUICK.items() if getattr(config, n) == getattr(default, n)}
        config = replace(config, **small)
    config.runs.mkdir(parents=True, exist_ok=True)
    places, runs = config.places(), _runs(config)
    # Seed by seed, so that a comparison that is cut short has all methods for its first seeds.
    missing = sorted(
        (run for run in runs if not run.file.exists()), key=lambda run: run.config.seed
    )
    record = _record(config, runs)
    spawn = multiprocessing.get_context("spawn")
    workers = config.workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        running = {pool.submit(carry_out, run, places): run for run in missing}
        for future in as_completed(running):
            future.result()
            record = _record(config, runs)
            done = f"{record['runs_complete']}/{record['runs']}"
            sys.stderr.write(f"{done} {running[future].file.stem}\n")
    return record


def _runs(config: CompareConfig) -> list[Run]:
    """Return all runs that the comparison is made of."""
    return [
        Run.of(
            name,
            config.runs,
            config.places(),
            {
                "seed": seed,
                "optim.learning_rate": config.learning_rate,
                "optim.mini_batches": config.mini_batches,
                "eval.questions": config.questions,
            },
        )
        for name in config.methods
        for seed in range(config.seeds)
    ]


def _record(config: CompareConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Summarise the runs that are complete, and write what they say."""
    results: dict[str, list[Result]] = {name: [] for name in config.methods}
    for each in runs:
        if each.file.exists():
            results[each.name].append(json.loads(each.file.read_text(encoding="utf-8")))
    shown = ("quick", "budget", "marks", "seeds", "questions", "learning_rate", "mini_batches")
    record = {
        **{name: getattr(config, name) for name in shown},
        "threads_per_run": THREADS,
        "runs": len(runs),
        "runs_complete": sum(len(found) for found in results.values()),
        "methods": summarise(results),
        "results": results,
        "environment": environment(),
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(config.out, json.dumps(record, indent=2) + "\n")
    save_curves(record["methods"], config.figure)
    return record


def _shown(record: Mapping[str, Any]) -> str:
    return "\n".join(table(record["methods"]))


main = partial(run, "benchmarks.methods", CompareConfig, compare, show=_shown)
