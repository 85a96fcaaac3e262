"""How a step's time and memory grow, a fitted cost model, and the bill of a step of the paper.

`python -m benchmarks.speed.scaling` runs steps of the demo's model, varying one factor at a time,
and writes `benchmarks/results/scaling.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from numpy.random import default_rng

from at2po_agents.config.train import TrainConfig, load_config
from at2po_agents.engines import Completion, TransformersEngine
from at2po_agents.learner.learner import Learner
from at2po_agents.policy.loading import load_policy
from at2po_agents.policy.sizes import SIZES
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import EntropyGuided
from at2po_agents.tree import RolloutTree
from at2po_envs.seeds import stable_hash
from at2po_envs.tools import ToolCall
from benchmarks.command import run
from benchmarks.environments.forced_turns import forced_env
from benchmarks.errors import EvaluationError
from benchmarks.memory import forget_peak, memory
from benchmarks.speed.cost_model import fit
from benchmarks.speed.paper_step import PaperStep
from benchmarks.speed.step_cost import bill, counts, step_work
from benchmarks.speed.tables import scaling


@dataclass(frozen=True)
class Point:
    """A step that is measured.

    Attributes:
        questions: Questions per step.
        chains: Initial chains M.
        beam: Forks K of each of two expansions.
        depth: Turns of every episode.
        passages: Passages that a search returns, about 30 tokens each.
    """

    questions: int = 8
    chains: int = 5
    beam: int = 3
    depth: int = 4
    passages: int = 2

    @property
    def leaves(self) -> int:
        """Leaves of a tree."""
        return self.chains + 2 * self.beam

    @property
    def expansion(self) -> EntropyGuided:
        """What trees grow by."""
        return EntropyGuided(self.chains, 2, self.beam)


BASE = Point()
FACTORS: dict[str, tuple[Point, ...]] = {
    "questions": tuple(replace(BASE, questions=n) for n in (2, 4, 8, 16, 32)),
    "leaves": tuple(
        replace(BASE, chains=m, beam=k) for m, k in ((2, 1), (5, 3), (10, 6), (20, 12))
    ),
    "depth": tuple(replace(BASE, depth=n) for n in (2, 4, 6, 8, 10)),
    "passages": tuple(replace(BASE, passages=n) for n in (1, 2, 4, 8, 16)),
}
"""Factor -> the steps in which it varies, all else as in the base."""

ROLLOUT_TERMS = ("engine_steps", "turns", "sampled", "prefilled", "rollout_pairs")
UPDATE_TERMS = ("optimizer_steps", "trained", "trained_pairs", "sampled")


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Measure how steps grow on this machine, and fit what they cost."""

    repeats: int = 2
    """Steps per point, other questions each time; the fastest counts, and medians of the rest."""
    out: Path = Path("benchmarks/results/scaling.json")
    """Where the figures go."""


class Stepper:
    """Takes whole steps of the embedded model, rollout and update, of any point.

    Args:
        clock: Gives seconds.

    Attributes:
        trees: Those of the latest step, with credit.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.trees: list[RolloutTree] = []
        self.config = load_config(TrainConfig, "demo")
        self.model, self.tokenizer = load_policy("mini", "float32", "model")
        self.collectors: dict[tuple[int, int], Collector] = {}
        self.engine = _Counting(self.model, self.tokenizer, max_batch=self.config.engine.max_batch)
        self.learner = Learner(
            self.model,
            algorithm=self.config.algorithm,
            # So small a rate costs the same and leaves the policy what it is.
            lr=1e-15,
            weight_decay=0.0,
            mini_batches=self.config.optim.mini_batches,
            token_budget=self.config.optim.token_budget,
        )

    def step(self, point: Point, number: int) -> dict[str, float]:
        """Take one step.

        Args:
            point: Its size.
            number: Which questions and seed.

        Returns:
            Seconds, amounts of work and memory.
        """
        collector = self._collector(point)
        known = collector.env.questions
        asked = [known[(number * point.questions + i) % len(known)] for i in range(point.questions)]
        self.engine.load_weights(self.model.state_dict())
        before, steps = asdict(self.engine.stats), self.engine.steps
        forget_peak()
        start = self.clock()
        trees = self.trees = collector.collect(
            asked, point.expansion, seed=stable_hash("scaling", number)
        )
        collected = self.clock()
        _reward(trees)
        for tree in trees:
            self.learner.algorithm.assign_credit(tree)
        learned = self.learner.update(trees, number)
        seconds = self.clock() - collected
        work = step_work(trees)
        return {
            "rollout_seconds": collected - start,
            "update_seconds": seconds,
            "engine_steps": self.engine.steps - steps,
            **counts(trees),
            "prefilled": self.engine.stats.prefilled - before["prefilled"],
            "rollout_pairs": work["decode"].pairs + work["prefill"].pairs,
            "optimizer_steps": learned["optimizer_steps"],
            "trained": learned["trained_tokens"],
            "trained_pairs": work["packed"].pairs,
            "longest_row": max(len(leaf.ids()) for tree in trees for leaf in tree.leaves()),
            "peak_mib": memory("VmHWM"),
        }

    def _collector(self, point: Point) -> Collector:
        kind = (point.depth, point.passages)
        if kind not in self.collectors:
            env = forced_env(point.depth, {**self.config.env_options, "results": point.passages})
            env.run_tools([ToolCall("search", {"query": "film"})])  # its index is built now
            # Room for every turn and result, but not for a turn that never ends.
            limit, most = point.depth * (48 + 32 * point.passages), self.engine.max_length
            self.collectors[kind] = Collector(
                env,
                self.engine,
                self.tokenizer,
                max_response_tokens=limit,
                context=most,
            )
        return self.collectors[kind]


class _Counting(TransformersEngine):
    """Our engine, its steps counted."""

    steps = 0

    def step(self) -> list[Completion]:
        self.steps += 1
        return super().step()


def _reward(trees: Sequence[RolloutTree]) -> None:
    """Give leaves rewards of 0 and 1 by turns, so that every tree is trained on."""
    for tree in trees:
        for number, leaf in enumerate(tree.leaves()):
            leaf.reward = float(number % 2)


def measure(config: ScalingConfig) -> dict[str, Any]:
    """Measure all points, fit the costs, and bill a step of the paper.

    Args:
        config: What to measure.

    Returns:
        JSON-able figures by factor, the fits of rollout and update, the bill with its assumptions.

    Raises:
        EvaluationError: If a number is out of range.
    """
    if config.repeats < 1:
        raise EvaluationError(f"expected repeats >= 1, found {config.repeats}; raise it")
    stepper = Stepper()
    stepper.step(replace(BASE, questions=2), 0)  # a warm-up
    factors: dict[str, list[dict[str, Any]]] = {}
    seen: dict[Point, dict[str, Any]] = {}
    for name, points in FACTORS.items():
        for point in points:
            if point not in seen:
                stepper.engine.close()  # gives back the memory that the last point needed
                taken = [stepper.step(point, number) for number in range(config.repeats)]
                seen[point] = {**asdict(point), "leaves_per_tree": point.leaves}
                for key in taken[0]:
                    # Other load only lengthens seconds.
                    typical = min if key.endswith("seconds") else median
                    seen[point][key] = round(float(typical([row[key] for row in taken])), 4)
        factors[name] = [seen[point] for point in points]
    rows = list(seen.values())
    return {
        "model": "mini",
        "repeats": config.repeats,
        "factors": factors,
        "fits": {
            "rollout": fit(rows, ROLLOUT_TERMS, "rollout_seconds"),
            "update": fit(rows, UPDATE_TERMS, "update_seconds"),
        },
        "paper_step": paper_step(),
    }


def paper_step() -> dict[str, Any]:
    """Return what a Qwen3-4B step of the paper's setting costs, by arithmetic alone."""
    step, decoder = PaperStep(), SIZES["Qwen3-4B"]
    trees = [plan.tree for plan in step.draw(step.prompts, default_rng(0))]
    counted = counts(trees)
    return {
        "model": asdict(decoder),
        "assumed": asdict(step),
        "leaves": counted["leaves"],
        "turns_per_leaf": counted["turns_per_leaf"],
        "bill": bill(step_work(trees), decoder, step.mini_batches),
    }


main = partial(run, "benchmarks.speed.scaling", ScalingConfig, measure, show=scaling)


if __name__ == "__main__":
    main()
