"""What a training run asks of its workers: jobs of rolling out, updates, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from at2po_agents.learner.checkpoint import Checkpoint
from at2po_agents.learner.partition import split
from at2po_agents.monitoring.queue_length import QueueLength
from at2po_agents.monitoring.trace import Span
from at2po_agents.rollout.expansion import Expansion
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True)
class Job:
    """Questions that are rolled out in the same way.

    Attributes:
        questions: Their numbers in the environment.
        expansion: Says where a tree grows.
        seed: Seed of the collection that the job is, or belongs to.
        temperature: Sampling temperature; 0 is greedy.
        test: Whether they are those of the environment that evaluates.
        first: Number of the first of them within the whole collection.
    """

    questions: tuple[int, ...]
    expansion: Expansion
    seed: int = 0
    temperature: float = 1.0
    test: bool = False
    first: int = 0

    def split(self, parts: int) -> list[Job]:
        """Cut the job into at most so many consecutive ones of nearly equal size."""
        found, first = [], self.first
        for questions in split(self.questions, parts):
            found.append(replace(self, questions=tuple(questions), first=first))
            first += len(questions)
        return found


class Workers(Protocol):
    """Rollout workers and learner workers of one run, in this process or in others."""

    @property
    def nonfinite_trees(self) -> Sequence[RolloutTree]:
        """Trees whose loss or gradient was not finite in the latest update."""
        ...

    def start(self, resumed: Checkpoint | None) -> None:
        """Begin with a checkpoint's policy and optimizer, or with the configured model."""
        ...

    def run_job(self, job: Job) -> list[RolloutTree]:
        """Roll a job out under the rollout weights; return a tree a question, in their order."""
        ...

    def learn(self, trees: Sequence[RolloutTree], step: int) -> dict[str, float]:
        """Learn from credited trees; see `Learner.update`."""
        ...

    def set_rollout_weights(self) -> None:
        """Have the next jobs rolled out under the learner's present weights.

        Engines load them when such a job begins, so this itself takes no time.
        """
        ...

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, float], fingerprint: str, keep: int
    ) -> None:
        """Write a checkpoint, or begin to; see `checkpoint_writing.save`."""
        ...

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        ...

    def take_trace(self) -> tuple[list[Span], list[QueueLength]]:
        """Return what was done and how long queues were since this was last called.

        Nothing where one process is alone.
        """
        ...

    def close(self) -> None:
        """Finish what was begun, and free everything."""
        ...
