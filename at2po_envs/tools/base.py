"""Tools: what they say of themselves, what they are asked, what they answer, and how they run."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from at2po_envs.errors import At2poEnvError, ToolResultError
from retrieval import RetrievalError
from retrieval.remote_errors import TemporaryRemoteError

_log = logging.getLogger(__name__)

_THREADS = 64
"""Most threads of one batch; only calls that hang keep theirs beyond the deadline."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What an agent is told about a tool.

    Attributes:
        name: Name, also its tag in tag dialects: lower-case letters, digits and ``_``.
        description: One sentence.
        parameters: JSON schema of its arguments, of type object.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(hash=False)

    @property
    def argument(self) -> str | None:
        """The name of its only required argument, which a tag may hold as plain text."""
        required = self.parameters.get("required", ())
        return str(required[0]) if len(required) == 1 else None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request to a tool.

    Attributes:
        tool: Name of the tool.
        arguments: Its arguments by name.
        problem: Why it cannot be carried out, empty if it can; shown to the agent.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    Attributes:
        ok: Whether the tool did its work.
        text: Text to show to the agent.
        error: Text to show instead when ``ok`` is false.
        titles: Titles of the passages in the text, best first.
        passages: The passages themselves, each a title line and then its text, for dialects that
            lay them out in their own way.
    """

    ok: bool
    text: str
    error: str = ""
    titles: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()


class Tool(Protocol):
    """Anything that answers a batch of calls."""

    @property
    def spec(self) -> ToolSpec:
        """Name, description and arguments."""
        ...

    @property
    def batched(self) -> bool:
        """Whether a whole batch costs little more than one call; else calls run one by one."""
        ...

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Return one result for each set of arguments, in order."""
        ...


def call_tools(
    tools: Mapping[str, Tool], calls: Sequence[ToolCall], timeout_s: float | None = None
) -> list[ToolResult]:
    """Carry out tool calls; they may belong to many episodes.

    Without a deadline everything runs in this thread, one tool after another. With one, each
    batched tool runs in a thread of its own and each call of another tool too, so that a hung
    call delays nothing but itself; its thread is left behind.

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
    jobs = list(_jobs(tools, calls))
    results: dict[int, ToolResult] = {}
    if timeout_s is None:
        for tool, places in jobs:
            results |= _run(tool, places, calls)
    else:
        for outcome in _in_threads([_bind(job, calls) for job in jobs], timeout_s):
            results |= outcome
    late = f"did not answer within {timeout_s} s. Try again, or go on without it."
    return [
        results.get(i) or ToolResult(False, "", f"The {call.tool} tool {late}")
        for i, call in enumerate(calls)
    ]


def _jobs(tools: Mapping[str, Tool], calls: Sequence[ToolCall]) -> list[tuple[Tool, list[int]]]:
    """Which tool answers which calls together."""
    jobs: list[tuple[Tool, list[int]]] = []
    for name in dict.fromkeys(call.tool for call in calls):
        places = [i for i, call in enumerate(calls) if call.tool == name]
        tool = tools[name]
        jobs += [(tool, places)] if tool.batched else [(tool, [i]) for i in places]
    return jobs


def _run(tool: Tool, places: Sequence[int], calls: Sequence[ToolCall]) -> dict[int, ToolResult]:
    try:
        answers = tool([calls[i].arguments for i in places])
    except Exception as error:  # a tool may be remote and fail in any way; the episode goes on
        lasting = isinstance(error, At2poEnvError | RetrievalError)
        if lasting and not isinstance(error, TemporaryRemoteError):
            raise
        name = tool.spec.name
        _log.warning("tool %s failed for %d calls", name, len(places), exc_info=True)
        answers = [ToolResult(False, "", f"The {name} tool failed. Try again.")] * len(places)
    if len(answers) != len(places):
        raise ToolResultError(
            f"expected {len(places)} results of tool {tool.spec.name!r}, found {len(answers)}"
        )
    return dict(zip(places, answers, strict=True))


_Job = Callable[[], dict[int, ToolResult]]


def _bind(job: tuple[Tool, list[int]], calls: Sequence[ToolCall]) -> _Job:
    return lambda: _run(*job, calls)


def _in_threads(jobs: Sequence[_Job], timeout_s: float) -> list[dict[int, ToolResult]]:
    """Run jobs side by side and return the results of those that end in time.

    The threads are daemons: an executor would wait for hung ones when the process ends.
    """
    waiting = deque(jobs)
    ended: list[dict[int, ToolResult] | Exception] = []
    news = threading.Condition()

    def work() -> None:
        while waiting:
            try:
                outcome: dict[int, ToolResult] | Exception = waiting.popleft()()
            except IndexError:  # another thread took the last job
                return
            except Exception as error:
                outcome = error
            with news:
                ended.append(outcome)
                news.notify()

    for _ in range(min(_THREADS, len(jobs))):
        threading.Thread(target=work, daemon=True, name="at2po-tool").start()
    deadline = time.monotonic() + timeout_s
    with news:
        while len(ended) < len(jobs) and (left := deadline - time.monotonic()) > 0:
            news.wait(left)
        waiting.clear()
        outcomes = list(ended)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
