"""Jobs on their way through a pool of collectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from at2po_agents.tree import RolloutTree
from at2po_agents.workers.rollout_worker import Job


class Weights(NamedTuple):
    """Weights that collectors fetch.

    Attributes:
        version: Updates that made them.
        boxes: Lists that hold their reference: one for all collectors, or one for each, in order.
    """

    version: int
    boxes: Sequence[Sequence[Any]]

    def box(self, collector: int) -> Sequence[Any]:
        """Return the list of a collector."""
        return self.boxes[collector % len(self.boxes)]


@dataclass(eq=False)
class Task:
    """A job on its way through the pool.

    Attributes:
        job: The job.
        weights: The weights that it is to be rolled out under.
        trees: Its trees, when it has been.
    """

    job: Job
    weights: Weights
    trees: list[RolloutTree] | None = None


def finished(tasks: Iterable[Task]) -> int:
    """Count the trees that are done."""
    return sum(len(task.trees or ()) for task in tasks)
