"""Jobs on their way through a pool of rollout workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job

if TYPE_CHECKING:
    from ray import ObjectRef

Box = Sequence["ObjectRef"]
"""A list that holds the reference of an object: Ray fetches it only where it is asked for."""


class Weights(NamedTuple):
    """Weights that rollout workers fetch.

    Attributes:
        version: Updates that made them.
        boxes: Where they are: one for all rollout workers, or one for each, in order.
    """

    version: int
    boxes: Sequence[Box]


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
