"""Trees that are rolled out ahead of the learner, by a bounded number of updates."""

from __future__ import annotations

from collections.abc import Callable

from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.ray.tasks import Task, finished


class Prefetcher:
    """Keeps the batches of this step and of the next `staleness` ones on their way.

    A batch is sampled under the weights at hand when it is begun. Slow workers are overtaken: a
    step takes the oldest trees that are ready.

    Args:
        submit: Queues a job under the newest weights, in parts; see `RayWorkers.submit`.
        wait: Lets the work go on until there are so many trees; see `RayWorkers.wait`.
        staleness: Most updates between the weights that sampled a tree and those that learn from
            it, at least 1.
        new_job: Returns a job of that many new questions.

    Attributes:
        dropped: Trees that were too old when their time came, or lost with the learner, so far.
    """

    def __init__(
        self,
        submit: Callable[[Job], list[Task]],
        wait: Callable[[Callable[[], int], int], None],
        staleness: int,
        new_job: Callable[[int], Job],
    ) -> None:
        self._submit, self._wait = submit, wait
        self._staleness, self._new_job = staleness, new_job
        self._tasks: list[Task] = []
        self._ready: list[tuple[int, RolloutTree]] = []  # with the version that sampled it
        self.dropped = 0

    def take(self, step: int, count: int) -> tuple[list[RolloutTree], list[int]]:
        """Return the trees to learn from in a step.

        Args:
            step: Updates done so far.
            count: Number of trees.

        Returns:
            The trees, and how many updates each is old.
        """
        self._drop(step - self._staleness)
        while self._pending() < (self._staleness + 1) * count:
            self._tasks += self._submit(self._new_job(count))
        self._wait(lambda: len(self._ready) + finished(self._tasks), count)
        for task in [task for task in self._tasks if task.trees is not None]:
            self._ready += [(task.weights.version, tree) for tree in task.trees or ()]
            self._tasks.remove(task)
        self._ready.sort(key=lambda found: found[0])  # stable: in the order they were begun
        taken, self._ready = self._ready[:count], self._ready[count:]
        return [tree for _, tree in taken], [step - version for version, _ in taken]

    def clear(self) -> None:
        """Forget all trees, as after a loss of the learner."""
        self.dropped += self._pending()
        self._tasks.clear()
        self._ready.clear()

    def _drop(self, oldest: int) -> None:
        """Drop what is older than a version; questions still on their way are asked again."""
        kept = [found for found in self._ready if found[0] >= oldest]
        self.dropped += len(self._ready) - len(kept)
        self._ready = kept
        for task in [task for task in self._tasks if task.weights.version < oldest]:
            self._tasks.remove(task)
            self.dropped += len(task.job.questions)
            self._tasks += self._submit(task.job)

    def _pending(self) -> int:
        return len(self._ready) + sum(len(task.job.questions) for task in self._tasks)
