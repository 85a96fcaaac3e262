"""Training on many devices, simulated: collectors and learners step by step, as a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

from at2po_agents.learner.partition import (
    by_tree,
    lengths,
    lpt_partition,
    partition_rows,
    split,
    whole,
)
from at2po_agents.tree import Node, RolloutTree
from benchmarks.scale.costs import Costs
from benchmarks.scale.rollout import Collected, collect
from benchmarks.scale.timeline import Piece
from benchmarks.speed.paper_step import Plan
from benchmarks.speed.step_cost import Work, add, rows_work


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a step is carried out, and by how many.

    Attributes:
        collectors: Devices that collect, at least 1.
        learners: Devices that learn, at least 1.
        colocate: The same devices do both in turns; then both numbers are the same.
        staleness: Updates that a step's trees may be behind the weights that learn from them.
        rounds: Collectors wait at barriers after every round of turns.
        reuse: Collectors keep keys and values for later turns and forks.
        packed: Learners compute every token of a tree once, and partition trees; otherwise they
            compute every row alone, partition rows, and wait for each other only in the end.
        whole: Learners take whole trees, even where they would wait less for cut ones.
        mini_batches: Optimizer steps per update.
        token_budget: Most tokens of a pass.
        max_batch: Most turns that a collector samples at a time.
    """

    collectors: int = 1
    learners: int = 1
    colocate: bool = True
    staleness: int = 0
    rounds: bool = False
    reuse: bool = True
    packed: bool = True
    whole: bool = False
    mini_batches: int = 8
    token_budget: int = 16384
    max_batch: int = 256

    @property
    def roles(self) -> tuple[str, str]:
        """How the names of the devices begin that collect, and of those that learn."""
        return ("device", "device") if self.colocate else ("collector", "learner")


OTHER = "other side"
"""What a device waits for whose own side has nothing to do: collectors for learners, or these."""
Rollouts = list[list[Collected]]
"""What every batch of questions took, for every step."""


def rollouts(steps: Sequence[Sequence[Plan]], setup: Setup, costs: Costs) -> Rollouts:
    """Simulate the collections of all steps, in as many batches as there are collectors.

    Args:
        steps: The trees of each step.
        setup: Says how, and how many collectors.
        costs: What everything takes.
    """
    collected = partial(
        collect, costs=costs, rounds=setup.rounds, reuse=setup.reuse, max_batch=setup.max_batch
    )
    return [list(map(collected, split(trees, setup.collectors))) for trees in steps]


def simulate(
    steps: Sequence[Sequence[Plan]],
    setup: Setup,
    costs: Costs,
    collected: Rollouts | None = None,
) -> list[Piece]:
    """Simulate training steps.

    A step's questions are dealt out in batches, and an idle collector takes the next one; they are
    asked for as soon as there are weights that are new enough. The learners begin when there are
    as many trees as a step has, whichever ended first. On the same devices the engines sleep
    meanwhile, so that nothing can be collected ahead.

    Args:
        steps: The trees of each step, equally many.
        setup: How they are collected and learned from, and by how many devices.
        costs: What everything takes.
        collected: What `rollouts` returned for them, where it is known already.

    Returns:
        What every device did at any time, from 0 to the end of the last step: `device-0` and so on
        where the same ones do both, else `collector-0` and so on, then `learner-0`.
    """
    run = _Run(setup, costs)
    batches = collected or rollouts(steps, setup, costs)
    ahead = 0 if setup.colocate else setup.staleness
    published = 0.0  # when the newest weights were ready
    for step, trees in enumerate(steps):
        first = step + ahead if step else 0
        for number, own in enumerate(batches[first : step + ahead + 1], start=first):
            run.collect(number, own, published)
        needed = sum(map(len, steps[: step + 1]))
        gathered = sorted(run.ended)[needed - 1]
        published = run.update(step, gathered, _updates(trees, setup, costs))
    for name in run.now:
        run.until(name, len(steps) - 1, published)
    return run.pieces


class _Run:
    """A timeline that grows without gaps, actor by actor."""

    def __init__(self, setup: Setup, costs: Costs) -> None:
        self.costs = costs
        self.switch = costs.switch if setup.colocate else 0.0
        collector, learner = setup.roles
        self.collectors = [f"{collector}-{n}" for n in range(setup.collectors)]
        self.learners = [f"{learner}-{n}" for n in range(setup.learners)]
        self.now = dict.fromkeys((*self.collectors, *self.learners), 0.0)
        self.ended: list[float] = []  # when each tree was collected
        self.pieces: list[Piece] = []

    def collect(self, step: int, batches: Sequence[Collected], asked: float) -> None:
        """Deal out the batches of a step, each to the collector that is idle first."""
        busy = max(self.now[name] for name in self.collectors)
        for batch in batches:
            name = min(self.collectors, key=self.now.__getitem__)
            self.until(name, step, min(asked, busy), "stragglers")
            self.until(name, step, asked)
            self._add(name, "weights", step, {"weights": self.costs.load, "switch": self.switch})
            self.ended += [self._add(name, "collect", step, batch.parts)] * batch.trees

    def update(self, step: int, begin: float, parts: Sequence[dict[str, float]]) -> float:
        """Let all learners make an update; return when its weights are ready."""
        for name, own in zip(self.learners, parts, strict=True):
            self.until(name, step, begin, "stragglers" if name in self.collectors else OTHER)
            self._add(name, "weights", step, {"switch": self.switch})
            self._add(name, "update", step, own)
        return max(
            self._add(name, "weights", step, {"weights": self.costs.publish})
            for name in self.learners
        )

    def until(self, actor: str, step: int, time: float, why: str = OTHER) -> None:
        """Let an actor wait."""
        if time > (start := self.now[actor]):
            self.pieces.append(Piece(actor, "wait", step, start, time, {why: time - start}))
            self.now[actor] = time

    def _add(self, actor: str, stage: str, step: int, parts: Mapping[str, float]) -> float:
        """Let an actor do something next; return when it is done."""
        start = self.now[actor]
        self.now[actor] = start + sum(parts.values())
        if self.now[actor] > start:
            self.pieces.append(Piece(actor, stage, step, start, self.now[actor], parts))
        return self.now[actor]


def _updates(trees: Sequence[Plan], setup: Setup, costs: Costs) -> list[dict[str, float]]:
    """Return what an update takes each learner, by what it goes to; all take equally long."""
    parts = [
        {"learn": 0.0, "exchange": 0.0, "optimizer": 0.0, "imbalance": 0.0}
        for _ in range(setup.learners)
    ]
    for batch in split(trees, setup.mini_batches):
        for works, passes in _passes([plan.tree for plan in batch if plan.learned], setup):
            seconds = [costs.training(work) for work in works]
            slowest = max(seconds)
            exchange = passes * costs.exchange(setup.learners)
            exposed = max(0.0, exchange - costs.overlap * slowest)
            for own, its in zip(parts, seconds, strict=True):
                own["learn"] += its
                own["exchange"] += exposed
                own["imbalance"] += slowest - its
        for own in parts:
            own["optimizer"] += costs.optimizer / setup.learners
    return parts


def _passes(trees: Sequence[RolloutTree], setup: Setup) -> Iterator[tuple[list[Work], int]]:
    """Go through a mini-batch: what learners do until they wait for each other, and passes."""
    ranks, budget = setup.learners, setup.token_budget
    leaves = [whole(tree).leaves for tree in trees]
    if setup.packed:
        partition = by_tree if setup.whole else partition_rows
        rows = [lengths([leaf.path() for leaf in own], _tokens) for own in leaves]
        for together in zip_longest(*partition(rows, ranks, budget), fillvalue=()):
            yield [add(rows_work(leaves[n][a:b]) for n, a, b, _ in pack) for pack in together], 1
    else:
        works = [rows_work([leaf]) for own in leaves for leaf in own]
        numbers = lpt_partition([work.tokens for work in works], ranks)
        own = [add(works[number] for number in those) for those in numbers]
        yield own, max(-(-work.tokens // budget) for work in own)


def _tokens(turn: Node) -> int:
    return len(turn.sampled) + len(turn.inserted)


def splits(devices: int, setup: Setup) -> list[Setup]:
    """Return ways to use devices: all for both, or divided by eighths if not on the same ones.

    Args:
        devices: How many there are, at least 2 where they are divided.
        setup: What else is set.
    """
    if setup.colocate:
        return [replace(setup, collectors=devices, learners=devices)]
    counts = {max(1, devices * eighths // 8) for eighths in range(1, 8)}
    return [replace(setup, collectors=count, learners=devices - count) for count in sorted(counts)]
