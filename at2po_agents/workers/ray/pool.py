"""The pool of rollout workers: jobs in, trees out, whatever happens to single processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate

import ray
from ray.actor import ActorHandle

from at2po_agents.monitoring.queue_length import QueueLength, QueueWatch
from at2po_agents.monitoring.trace import Span
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.ray.actors import RolloutActor
from at2po_agents.workers.ray.calls import TICK_S, ActorLostError, Call, P, R
from at2po_agents.workers.ray.tasks import Task


@dataclass(eq=False)
class _Member:
    """A rollout worker, and what it is at; it has started once it has done a job."""

    number: int
    actor: ActorHandle
    started: bool = False
    task: Task | None = None
    call: Call[tuple[list[RolloutTree], list[Span], list[QueueLength]]] | None = None


class RolloutPool:
    """Rollout workers that take jobs in turn; one that dies or hangs is replaced, its job repeated.

    What a job gives follows from its seed and weights, so that nothing is changed by a loss.

    Args:
        make: Starts the rollout worker of a number.
        size: Number of rollout workers, at least 1.
        stall_s: Seconds without progress after which one counts as hung.
        lost: Told of every loss and why, before the worker is replaced; it may raise instead.
    """

    def __init__(
        self,
        make: Callable[[int], ActorHandle],
        size: int,
        stall_s: float,
        lost: Callable[[str, str], None],
    ) -> None:
        self._make, self._stall_s, self._lost = make, stall_s, lost
        self._members = [_Member(number, make(number)) for number in range(size)]
        self._queue: deque[Task] = deque()
        self._jobs = QueueWatch("jobs")
        self._queues: list[QueueLength] = []
        self._spans: list[Span] = []

    def submit(self, task: Task, *, urgent: bool = False) -> None:
        """Queue a job.

        Args:
            task: The job; its `trees` are there when it is done.
            urgent: Whether it goes before all others that wait.
        """
        (self._queue.appendleft if urgent else self._queue.append)(task)
        self._jobs.note(len(self._queue))

    def tick(self) -> None:
        """Take what is done, replace what is lost, and give jobs to workers that are idle.

        Raises:
            Exception: What a job itself raised.
        """
        for member in list(self._members):
            task = member.task
            try:
                self._take(member)
            except ActorLostError as error:
                self._replace(member, task, error)
        for member in self._members:
            if member.call is None and self._queue:
                member.task = task = self._queue.popleft()
                boxes = task.weights.boxes
                box = boxes[member.number % len(boxes)]
                member.call = self._call(member, RolloutActor.grow_trees, task.job, box)
        self._jobs.note(len(self._queue))

    def take_trace(self) -> tuple[list[Span], list[QueueLength]]:
        """Return what the workers did and how long queues were since this was last called."""
        found = self._spans, [self._jobs.take(), *self._queues]
        self._spans, self._queues = [], []
        return found

    def sleep(self) -> None:
        """Have all engines release their memory; only legal while no job is on its way."""
        waiting = {member: self._call(member, RolloutActor.sleep) for member in self._members}
        while waiting:
            for member, call in list(waiting.items()):
                try:
                    if call.done():
                        call.result()
                        del waiting[member]
                except ActorLostError as error:
                    del waiting[member]
                    self._replace(member, None, error)  # by one that has no engine yet
            time.sleep(TICK_S)

    def forget(self) -> None:
        """Give up all jobs: neither their trees nor their errors concern anybody any more."""
        self._queue.clear()
        for member in self._members:
            member.task = None

    def close(self) -> None:
        """End all rollout workers."""
        for member in self._members:
            ray.kill(member.actor)

    def _call(
        self,
        member: _Member,
        method: Callable[Concatenate[RolloutActor, P], R],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Call[R]:
        return Call(member.actor, self._stall_s, not member.started, method, *arguments, **named)

    def _take(self, member: _Member) -> None:
        call, task = member.call, member.task
        if call is None or not call.done():
            return
        member.call = member.task = None
        if task is not None:  # else it was given up
            task.trees, spans, queues = call.result()
            member.started = True
            self._spans += spans
            self._queues += queues

    def _replace(self, member: _Member, task: Task | None, why: ActorLostError) -> None:
        self._lost(f"rollout_worker-{member.number}", str(why))
        if task is not None:
            self._queue.appendleft(task)
        ray.kill(member.actor)
        self._members[member.number] = _Member(member.number, self._make(member.number))
