"""The pool of collectors: jobs in, trees out, whatever happens to single processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from at2po_agents.monitoring.queue_length import QueueLength, QueueWatch
from at2po_agents.monitoring.trace import Span
from at2po_agents.workers.ray.calls import TICK_S, ActorLostError, Call
from at2po_agents.workers.ray.tasks import Task


@dataclass(eq=False)
class _Member:
    """A collector, and what it is at; it has started once it has done a job."""

    number: int
    actor: Any
    started: bool = False
    task: Task | None = None
    call: Call | None = None


class CollectorPool:
    """Collectors that take jobs in turn; one that dies or hangs is replaced, its job begun again.

    What a job gives follows from its seed and weights, so that nothing is changed by a loss.

    Args:
        make: Starts the collector of a number.
        size: Number of collectors, at least 1.
        stall_s: Seconds without progress after which a collector counts as hung.
        lost: Told of every lost collector and why, before it is replaced; it may raise instead.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        size: int,
        stall_s: float,
        lost: Callable[[str, str], None],
    ) -> None:
        self._make, self._stall_s, self._lost = make, stall_s, lost
        self._members = [_Member(number, make(number)) for number in range(size)]
        self._queue: deque[Task] = deque()
        self._jobs = QueueWatch("jobs")
        self._queues: list[QueueLength] = []
        self.spans: list[Span] = []

    def __len__(self) -> int:
        """Number of collectors."""
        return len(self._members)

    @property
    def busy(self) -> bool:
        """Whether jobs wait or are carried out, be they given up or not."""
        return bool(self._queue) or any(member.call is not None for member in self._members)

    @property
    def actors(self) -> list[Any]:
        """The collectors' handles."""
        return [member.actor for member in self._members]

    def submit(self, task: Task, *, urgent: bool = False) -> None:
        """Queue a job.

        Args:
            task: The job; its `trees` are there when it is done.
            urgent: Whether it goes before all others that wait.
        """
        (self._queue.appendleft if urgent else self._queue.append)(task)
        self._jobs.note(len(self._queue))

    def tick(self) -> None:
        """Take what is done, replace who is lost, and give jobs to whoever is idle.

        Raises:
            Exception: What a job itself raised.
        """
        for member in list(self._members):
            task = member.task
            try:
                self._take(member)
            except ActorLostError as error:
                self._replace(member, task, str(error))
        for member in self._members:
            if member.call is None and self._queue:
                self._give(member, self._queue.popleft())
        self._jobs.note(len(self._queue))

    def take_queues(self) -> list[QueueLength]:
        """Return how long the collectors' queues were since this was last called, and their own."""
        queues, self._queues = self._queues, []
        return [self._jobs.take(), *queues]

    def call_all(self, method: str) -> None:
        """Have all collectors, and whoever replaces them, carry out a method.

        Only legal while no job is on its way.

        Args:
            method: Its name.
        """
        waiting = {member: self._call(member, method) for member in self._members}
        while waiting:
            for member, call in list(waiting.items()):
                try:
                    if call.done():
                        call.result()
                        del waiting[member]
                except ActorLostError as error:
                    del waiting[member]
                    fresh = self._replace(member, None, str(error))
                    waiting[fresh] = self._call(fresh, method)
            time.sleep(TICK_S)

    def forget(self) -> None:
        """Give up all jobs: neither their trees nor their errors concern anybody any more."""
        self._queue.clear()
        for member in self._members:
            member.task = None

    def _give(self, member: _Member, task: Task) -> None:
        member.task = task
        box = task.weights.box(member.number)
        member.call = self._call(member, "collect", task.job, box)

    def _call(self, member: _Member, method: str, *arguments: Any) -> Call:
        starting = not member.started
        return Call(member.actor, method, arguments, self._stall_s, starting=starting)

    def _take(self, member: _Member) -> None:
        call, task = member.call, member.task
        if call is None or not call.done():
            return
        member.call = member.task = None
        if task is not None:  # else it was given up
            task.trees, spans, queues = call.result()
            member.started = True
            self.spans += spans
            self._queues += queues

    def _replace(self, member: _Member, task: Task | None, why: str) -> _Member:
        self._lost(f"collector-{member.number}", why)
        if task is not None:
            self._queue.appendleft(task)
        ray.kill(member.actor)
        fresh = _Member(member.number, self._make(member.number))
        self._members[member.number] = fresh
        return fresh
