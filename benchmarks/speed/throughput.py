"""Throughput of a training step: rollout and update, as JSON.

`python -m benchmarks.speed.throughput` measures the demo's step and writes
`benchmarks/results/throughput.json`; `--model` and `--preset` choose another.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from at2po_agents.config.train import TrainConfig, load_config, override
from at2po_agents.seeds import seed_of
from at2po_agents.training.trainer import Trainer
from at2po_agents.workers.local import LocalWorkers
from at2po_agents.workers.rollout_worker import new_collector
from benchmarks.environment import environment
from benchmarks.errors import EvaluationError


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """Measure how fast a preset's training step is on this machine."""

    preset: str = "demo"
    """Name or TOML file of the training run whose step is measured."""
    model: str = ""
    """Folder or name of a model instead of the preset's."""
    steps: int = 5
    """Steps that are measured."""
    warmup: int = 1
    """Steps before them that are not."""
    out: Path = Path("benchmarks/results/throughput.json")
    """Where the figures go."""


@dataclass(slots=True)
class _Totals:
    """Sums over the measured steps; seconds, then tokens.

    Attributes:
        rollout_seconds: Time of the rollouts, tools included.
        update_seconds: Time of the learner and of handing its weights to the engine.
        sampled_tokens: Tokens that the policy sampled.
        unique_tokens: Tokens of the trees, shared prefixes counted once.
        row_tokens: Tokens of all root-to-leaf rows: what the trees are without sharing.
        trained_tokens: Unique tokens that went forward and backward.
    """

    rollout_seconds: float = 0.0
    update_seconds: float = 0.0
    sampled_tokens: int = 0
    unique_tokens: int = 0
    row_tokens: int = 0
    trained_tokens: int = 0


def measure(config: TrainConfig, *, steps: int = 5, warmup: int = 1) -> dict[str, Any]:
    """Run training steps and time them; nothing is evaluated or saved.

    Args:
        config: The run whose step is measured.
        steps: Steps measured, >= 1.
        warmup: Steps before them that build indexes and fill caches, >= 0.

    Returns:
        JSON-able figures: totals over the measured steps, rates, the engine's counters over the
        same steps, the peak memory of this process, and the machine.

    Raises:
        EvaluationError: If a number is out of range.
    """
    if steps < 1 or warmup < 0:
        raise EvaluationError(f"expected steps >= 1 and warmup >= 0, found {steps} and {warmup}")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, out=Path(folder), resume=False))
    workers = trainer.workers
    if not isinstance(workers, LocalWorkers):
        raise EvaluationError("cluster.collectors: expected 0, found more; measure one process")
    for step in range(warmup):
        _step(trainer, workers, step, _Totals())
    before, totals = asdict(workers.rollout.engine.stats), _Totals()
    for step in range(warmup, warmup + steps):
        _step(trainer, workers, step, totals)
    counted = {name: n - before[name] for name, n in asdict(workers.rollout.engine.stats).items()}
    return {
        "model": config.model.name,
        "parameters": sum(parameter.numel() for parameter in workers.learning.model.parameters()),
        "algorithm": config.algorithm.name,
        "questions_per_step": config.rollout.questions_per_step,
        "steps": steps,
        **{name: round(number, 3) for name, number in asdict(totals).items()},
        **_rates(totals, steps),
        "engine": counted,
        "peak_rss_mib": round(_peak_rss() / 2**20, 1),
        "environment": environment(),
    }


def _step(trainer: Trainer, workers: LocalWorkers, step: int, totals: _Totals) -> None:
    """Take one training step, just as a run does, and add what it took."""
    config, n = trainer.config, trainer.config.rollout.questions_per_step
    rollout, model = workers.rollout, workers.learning.model
    collector = new_collector(config, trainer.env, rollout.engine, rollout.tokenizer)
    known = trainer.env.questions
    questions = [known[i % len(known)] for i in range(step * n, (step + 1) * n)]
    seed = seed_of(config.seed, "rollout", step)
    start = time.perf_counter()
    trees = collector.collect(
        questions, config.algorithm.expansion(), seed=seed, temperature=config.rollout.temperature
    )
    collected = time.perf_counter()
    for tree in trees:
        config.algorithm.assign_credit(tree)
    learned = workers.learning.update(trees, step)
    rollout.engine.load_weights(model.state_dict())
    totals.rollout_seconds += collected - start
    totals.update_seconds += time.perf_counter() - collected
    totals.sampled_tokens += sum(len(node.sampled) for tree in trees for node in tree.nodes())
    totals.unique_tokens += int(learned["unique_tokens"])
    totals.row_tokens += int(learned["row_tokens"])
    totals.trained_tokens += int(learned["trained_tokens"])


def _rates(totals: _Totals, steps: int) -> dict[str, float]:
    seconds = totals.rollout_seconds + totals.update_seconds
    return {
        "seconds_per_step": round(seconds / steps, 3),
        "sampled_tokens_per_second": round(totals.sampled_tokens / totals.rollout_seconds, 1),
        "trained_tokens_per_second": round(totals.trained_tokens / totals.update_seconds, 1),
        "row_tokens_per_unique_token": round(totals.row_tokens / totals.unique_tokens, 3),
    }


def _peak_rss() -> int:
    """Return the most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def demo_step(steps: int) -> dict[str, Any]:
    """Time the demo's step by part, beside what is on record for an earlier version.

    Args:
        steps: Steps measured, >= 1.

    Returns:
        Seconds per step: rollout, update, both; `before` the same of `throughput.json`; the
        `speedup`, None where the processor is another than on record.
    """
    recorded = json.loads(Path("benchmarks/results/throughput.json").read_text(encoding="utf-8"))
    found = measure(load_config(TrainConfig, "demo"), steps=steps)
    now, before = (
        {
            "rollout": round(each["rollout_seconds"] / each["steps"], 3),
            "update": round(each["update_seconds"] / each["steps"], 3),
            "step": each["seconds_per_step"],
            "git_commit": each["environment"]["git_commit"],
            "cpu": each["environment"]["cpu"],
        }
        for each in (found, recorded)
    )
    same = now["cpu"] == before["cpu"]
    speedup = round(before["step"] / now["step"], 2) if same else None
    return {**now, "before": before, "speedup": speedup}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    settings = tyro.cli(
        ThroughputConfig, prog="python -m benchmarks.speed.throughput", args=arguments
    )
    config = load_config(TrainConfig, settings.preset)
    config = override(config, {"model.name": settings.model or config.model.name})
    figures = measure(config, steps=settings.steps, warmup=settings.warmup)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"preset": settings.preset, **figures}, indent=2) + "\n"
    settings.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
