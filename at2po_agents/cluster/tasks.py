"""Jobs on their way through a pool of collectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from at2po_agents.jobs import Job
from at2po_agents.tree import RolloutTree


class Weights(NamedTuple):
    """Weights that collectors can fetch.

    Attributes:
        version: Updates that made them.
        box: A list that holds their reference.
    """

    version: int
    box: list[Any]


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
