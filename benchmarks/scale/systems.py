"""Ways to carry out training steps on GPUs, and what each of them takes, simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from at2po_agents.policy.sizes import SIZES
from benchmarks.scale.costs import Assumptions, Costs, on_gpus
from benchmarks.scale.simulation import Rollouts, Setup, rollouts, simulate, splits
from benchmarks.scale.timeline import Piece, shares, stage_seconds, step_seconds
from benchmarks.scale.workload import Plan

BUSY = ("decode", "prefill", "host", "learn", "optimizer")
"""Parts in which a device does what it is there for."""


@dataclass(frozen=True)
class System:
    """A way to carry out steps.

    Attributes:
        label: What it is, for tables.
        split: Some devices collect and the others learn, as many of each as is fastest.
        first_read: The first mini-batch needs no pass for its old log-probabilities.
        setup: What differs from the defaults of `Setup`.
    """

    label: str
    split: bool = False
    first_read: bool = True
    setup: Mapping[str, Any] = field(default_factory=dict)


SYSTEMS = {
    "released": System(
        "barriers, rows (as released)", first_read=False, setup={"rounds": True, "packed": False}
    ),
    "nothing": System(
        "event loop, nothing shared", first_read=False, setup={"reuse": False, "packed": False}
    ),
    "rows": System("event loop, rows", first_read=False, setup={"packed": False}),
    "barriers": System("barriers, packed", setup={"rounds": True}),
    "ours": System("event loop, packed"),
    "split": System("… collectors and learners apart", split=True),
    "stale": System("… and one update behind", split=True, setup={"staleness": 1}),
    "whole": System("event loop, packed, whole trees", setup={"whole": True}),
}
"""What is compared; dots stand for the line before."""


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

    def run(self, system: System) -> dict[str, Any]:
        """Simulate one system, with the fastest split where it has one.

        Args:
            system: The system.

        Returns:
            JSON-able: seconds per step, collectors, learners, seconds of collecting and of the
            update, utilisation of either kind of device, and what the time of all of them went to.
        """
        costs = on_gpus(
            SIZES["Qwen3-4B"], self.mini_batches, first_read=system.first_read, assumed=self.assumed
        )
        base = Setup(**system.setup, mini_batches=self.mini_batches)
        if system.split:
            setups = splits(self.gpus, base)
        else:
            setups = [replace(base, collectors=self.gpus, learners=self.gpus)]
        tried = [(setup, self._timeline(setup, costs)) for setup in setups]
        setup, pieces = min(tried, key=lambda pair: step_seconds(pair[1]))
        steady = [piece for piece in pieces if piece.step]
        roles = ("device", "device") if setup.colocate else ("collector", "learner")
        return {
            "seconds": round(step_seconds(pieces), 2),
            "collectors": setup.collectors,
            "learners": setup.learners,
            "collect_seconds": round(stage_seconds(pieces, "collect"), 2),
            "update_seconds": round(stage_seconds(pieces, "update"), 2),
            "collectors_busy": round(_busy(steady, roles[0]), 4),
            "learners_busy": round(_busy(steady, roles[1]), 4),
            "shares": {name: round(share, 4) for name, share in shares(steady).items()},
        }

    def _timeline(self, setup: Setup, costs: Costs) -> list[Piece]:
        key = (setup.collectors, setup.rounds, setup.reuse)
        if key not in self.known:
            self.known[key] = rollouts(self.steps, setup, costs)
        return simulate(self.steps, setup, costs, self.known[key])


def _busy(pieces: Sequence[Piece], role: str) -> float:
    found = shares(pieces, role)
    return sum(found.get(part, 0.0) for part in BUSY)
