"""Carrying out tool calls of many episodes, each of which waits only for its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from at2po_envs.tools.base import Tool, ToolCall, ToolResult
from at2po_envs.tools.calling import call_tool

_THREADS = 64
"""Most jobs at a time; one that hangs beyond its deadline does not count any more."""

_HUNG_EACH, _HUNG_ALL = 16, 64
"""Most calls of a tool, and of all tools, that may hang beyond their deadlines: new calls fail then
at once, as each would leave another thread behind."""

_hung: set[_Job] = set()
_hung_lock = threading.Lock()


def hung_calls() -> int:
    """Return how many tool calls of this process hang beyond their deadlines, each in a thread."""
    with _hung_lock:
        return len(_hung)


def check_timeout(timeout_s: float | None) -> None:
    """Raise ValueError unless a deadline for tool calls is None or a time that a thread can wait.

    Args:
        timeout_s: Seconds, > 0 and finite.
    """
    if timeout_s is None:
        return
    number = isinstance(timeout_s, int | float)
    if not number or not 0 < timeout_s <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"expected tool_timeout_s > 0 and at most {threading.TIMEOUT_MAX:.0f} seconds, found "
            f"{timeout_s!r}; None waits without a deadline"
        )


def call_tools(
    tools: Mapping[str, Tool], calls: Sequence[ToolCall], timeout_s: float | None = None
) -> list[ToolResult]:
    """Carry out tool calls and wait for all of them; they may belong to many episodes.

    Without a deadline everything runs in this thread, one tool after another; with one, as
    `ToolRunner` says.

    Args:
        tools: The tools by name.
        calls: The calls, none of them with a problem.
        timeout_s: Seconds until whatever is unfinished counts as failed; None waits.

    Returns:
        Their results, in the same order; a tool that raises gives failed ones.

    Raises:
        ToolResultError: If a tool does not return one result per call.
        At2poEnvError: If a tool raises one: no episode could go well.
        RetrievalError: Likewise.
    """
    runner = ToolRunner(tools, timeout_s)
    runner.submit([(None, calls)])
    ((_, results),) = runner.collect(wait=True)
    return results


@dataclass(eq=False)
class _Episode:
    """What an episode asked for at once."""

    key: Hashable
    calls: Sequence[ToolCall]
    results: dict[int, ToolResult] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        return len(self.results) == len(self.calls)


_Place = tuple[_Episode, int]
"""An episode and the number of its call."""


@dataclass(eq=False)
class _Job:
    """Calls that one tool carries out together."""

    tool: Tool
    places: list[_Place]
    deadline: float
    outcome: list[ToolResult] | BaseException | None = None


class ToolRunner:
    """Carries out tool calls of many episodes in the background.

    With a deadline, each batched tool has one job for all calls submitted together, and each call
    of another tool is a job. Jobs run side by side in threads, so that a slow or hung one delays
    only the episodes that wait for it; its thread is left behind. Without a deadline, calls run as
    they are submitted, in the thread that submits them: a schedule that repeats exactly.

    Args:
        tools: The tools by name.
        timeout_s: Seconds from its submission until a call counts as failed, > 0; None waits.

    Raises:
        ValueError: If the deadline is out of range.
    """

    def __init__(self, tools: Mapping[str, Tool], timeout_s: float | None = None) -> None:
        check_timeout(timeout_s)
        self._tools, self._timeout_s = tools, timeout_s
        self._episodes: list[_Episode] = []
        self._queue: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._ended: list[_Job] = []
        self._news = threading.Condition()

    def __len__(self) -> int:
        """Number of episodes whose results were not collected yet."""
        return len(self._episodes)

    def submit(self, asked: Sequence[tuple[Hashable, Sequence[ToolCall]]]) -> None:
        """Begin to carry out the calls of some episodes.

        Args:
            asked: Key of each episode, and its calls, none of them with a problem; an episode
                without calls is answered at once.

        Raises:
            ToolResultError: See `call_tools`; with a deadline `collect` raises it.
        """
        episodes = [_Episode(key, calls) for key, calls in asked]
        self._episodes += episodes
        places = [(episode, i) for episode in episodes for i in range(len(episode.calls))]
        jobs = _jobs(self._tools, places)
        if self._timeout_s is None:
            for tool, members in jobs:
                _answer(members, call_tool(tool, [episode.calls[i] for episode, i in members]))
            return
        deadline = time.monotonic() + self._timeout_s
        with self._news:
            self._queue += [_Job(tool, members, deadline) for tool, members in jobs]
            self._start()

    def collect(self, *, wait: bool = False) -> list[tuple[Hashable, list[ToolResult]]]:
        """Return the episodes that have all their results by now.

        Args:
            wait: Whether to wait until there is one, if any is unanswered.

        Returns:
            Keys and results, in the order in which they were submitted; each episode once. A tool
            that raised or did not answer in time gives failed results.

        Raises:
            ToolResultError: See `call_tools`.
            At2poEnvError: Likewise.
            RetrievalError: Likewise.
        """
        with self._news:
            self._take()
            while wait and self._episodes and not any(e.answered for e in self._episodes):
                if not self._ended:
                    deadline = min(job.deadline for job in (*self._queue, *self._running))
                    self._news.wait(max(0.0, deadline - time.monotonic()))
                self._take()
        ready = [episode for episode in self._episodes if episode.answered]
        self._episodes = [episode for episode in self._episodes if not episode.answered]
        return [(e.key, [e.results[i] for i in range(len(e.calls))]) for e in ready]

    def _start(self) -> None:
        """Give queued jobs a thread each, as far as there are threads."""
        while self._queue and len(self._running) < _THREADS:
            job = self._queue.popleft()
            if _is_stuck(job.tool):
                refused = ToolResult(False, "", _STUCK.format(job.tool.spec.name))
                job.outcome = [refused] * len(job.places)
                self._ended.append(job)
                continue
            self._running.add(job)
            # A daemon: an executor would wait for hung jobs when the process ends.
            threading.Thread(target=self._work, args=(job,), daemon=True, name="at2po-tool").start()

    def _work(self, job: _Job) -> None:
        try:
            outcome: list[ToolResult] | BaseException = call_tool(
                job.tool, [episode.calls[i] for episode, i in job.places]
            )
        except BaseException as error:
            outcome = error
        with self._news:
            if job not in self._running:  # nobody waits for it any more
                with _hung_lock:
                    _hung.discard(job)
            else:
                job.outcome = outcome
                self._running.remove(job)
                self._ended.append(job)
                self._start()
                self._news.notify()

    def _take(self) -> None:
        """Hand out the results of jobs that have ended, and give up those that are late."""
        for job in self._ended:
            if isinstance(job.outcome, BaseException):
                raise job.outcome
            _answer(job.places, job.outcome or [])
        self._ended.clear()
        now = time.monotonic()
        for job in [job for job in (*self._running, *self._queue) if job.deadline <= now]:
            late = (
                f"The {job.tool.spec.name} tool did not answer within {self._timeout_s} s. "
                "Try again, or go on without it."
            )
            _answer(job.places, [ToolResult(False, "", late)] * len(job.places))
            if job in self._running:
                self._running.remove(job)
                with _hung_lock:
                    _hung.add(job)
            if job in self._queue:
                self._queue.remove(job)
        self._start()


_STUCK = (
    "The {} tool hangs: too many of its calls have not come back. This call was not made; go on "
    "without it."
)


def _is_stuck(tool: Tool) -> bool:
    with _hung_lock:
        of_this = sum(job.tool is tool for job in _hung)
        return of_this >= _HUNG_EACH or len(_hung) >= _HUNG_ALL


def _answer(places: Sequence[_Place], results: Sequence[ToolResult]) -> None:
    for (episode, i), result in zip(places, results, strict=True):
        episode.results[i] = result


def _jobs(tools: Mapping[str, Tool], places: Sequence[_Place]) -> list[tuple[Tool, list[_Place]]]:
    """Say which tool carries out which calls together."""
    of_tool: dict[str, list[_Place]] = {}
    for episode, i in places:
        of_tool.setdefault(episode.calls[i].tool, []).append((episode, i))
    jobs: list[tuple[Tool, list[_Place]]] = []
    for name, members in of_tool.items():
        tool = tools[name]
        jobs += [(tool, members)] if tool.batched else [(tool, [place]) for place in members]
    return jobs
