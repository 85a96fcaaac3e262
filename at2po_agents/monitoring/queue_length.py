"""Lengths of queues: how much work is there for someone to do, on average and at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple


class QueueLength(NamedTuple):
    """How long a queue was over a stretch of time.

    Attributes:
        queue: Its name: "jobs" for rollout workers; in one of these turns at the "engine" (be they
            sampled or not yet) and turns that wait for "tools".
        seconds: How long it was followed.
        total: Its length times the seconds that it had that length, summed up.
        longest: Its greatest length.
    """

    queue: str
    seconds: float
    total: float
    longest: int


class QueueWatch:
    """Follows the length of a queue.

    Args:
        queue: Its name.
        clock: Returns seconds; for tests.
    """

    def __init__(self, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._clock = queue, clock
        self._length = self._longest = 0
        self._total = 0.0
        self._begun = self._since = clock()

    def note(self, length: int) -> None:
        """Say how long the queue is from now on.

        Args:
            length: At least 0.
        """
        now = self._clock()
        self._total += self._length * (now - self._since)
        self._length, self._since = length, now
        self._longest = max(self._longest, length)

    def take(self) -> QueueLength:
        """Return how long the queue was since this was last called."""
        self.note(self._length)
        found = QueueLength(self._queue, self._since - self._begun, self._total, self._longest)
        self._begun, self._total, self._longest = self._since, 0.0, self._length
        return found


def summarise(lengths: Iterable[QueueLength]) -> dict[str, float]:
    """Reduce the lengths of a step to metrics.

    Args:
        lengths: Of any queues, be they followed by one process or by several.

    Returns:
        For each queue `queue_NAME`, its mean length over time, and `queue_NAME_longest`; a queue of
        several processes counts as many of its kind.
    """
    found: dict[str, float] = {}
    known = list(lengths)
    for name in sorted({each.queue for each in known}):
        own = [each for each in known if each.queue == name]
        seconds = sum(each.seconds for each in own)
        if seconds > 0:
            found[f"queue_{name}"] = sum(each.total for each in own) / seconds
            found[f"queue_{name}_longest"] = max(each.longest for each in own)
    return found
