"""The same measurements of `gem-llm`; a script of its own for a Python that has that package.

It reads a task as JSON from standard input and writes figures as JSON to standard output. See
`benchmarks.environments.throughput`, which runs it.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from typing import Any

import datasets  # type: ignore[import-untyped, unused-ignore]
from gem.envs.qa_env import QaEnv  # type: ignore[import-not-found, unused-ignore]
from gem.tools.search_tool import SearchTool  # type: ignore[import-not-found, unused-ignore]
from gem.tools.tool_env_wrapper import ToolEnvWrapper  # type: ignore[import-not-found, unused-ignore]
from gem.vector.async_vector_env import AsyncVectorEnv  # type: ignore[import-not-found, unused-ignore]
from gem.vector.sync_vector_env import SyncVectorEnv  # type: ignore[import-not-found, unused-ignore]

_SEARCH = "<think> I should look this up. </think> <search> the film number {} </search>"
_ANSWER = "<think> I know. </think> <answer> nobody </answer>"


class StubTool(SearchTool):  # type: ignore[misc, unused-ignore]
    """Its search tool, with the stub in place of the HTTP request."""

    def __init__(self, delay_s: float, found: list[str]) -> None:
        super().__init__(search_url="stub")
        self.delay_s = delay_s
        self.found = [{"document": {"contents": contents}} for contents in found]

    def _search(self, query: str) -> str:
        if self.delay_s:
            time.sleep(self.delay_s)
        return str(self._passages2string(self.found))


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Measure stepping; see `benchmarks.environments.throughput.measure`."""
    columns = {
        "question": [row["question"] for row in task["rows"]],
        "answer": [row["golden_answers"] for row in task["rows"]],
    }
    data = datasets.Dataset.from_dict(columns)

    def make(delay: float) -> Any:
        tool = StubTool(delay, task["passages"])
        return ToolEnvWrapper(QaEnv(dataset=data), [tool], max_tool_uses=11)

    rates = {name: _stepping(partial(make, delay), task) for name, delay in task["delays"].items()}
    return {
        "package": f"gem-llm {version('gem-llm')}",
        "steps_per_second": rates,
    }


def _stepping(make: Callable[[], Any], task: dict[str, Any]) -> dict[str, float]:
    env, n = make(), task["envs"]
    env.reset(seed=0)

    def one(action: str) -> int:
        if env.step(action)[2]:
            env.reset()
        return 1

    found = {"one_by_one": _rate(one, task)}
    for name, kind in (("sync_vector", SyncVectorEnv), ("thread_vector", AsyncVectorEnv)):
        vector = kind(["qa"] * n, [make] * n)
        vector.reset(seed=0)
        found[name] = _rate(partial(_step_all, vector, n), task)
    return found


def _step_all(vector: Any, n: int, action: str) -> int:
    vector.step([action] * n)
    return n


def _rate(step: Callable[[str], int], task: dict[str, Any]) -> float:
    actions = _turns(task["searches"])
    episode = range(task["searches"] + 1)
    for _ in episode:
        step(next(actions))
    taken, start = 0, time.perf_counter()
    while time.perf_counter() - start < task["seconds"]:
        taken += sum(step(next(actions)) for _ in episode)
    return round(taken / (time.perf_counter() - start), 1)


def _turns(searches: int) -> Iterator[str]:
    while True:
        yield from (_SEARCH.format(i) for i in range(searches))
        yield _ANSWER


if __name__ == "__main__":
    with redirect_stdout(io.StringIO()):  # the package may talk
        figures = measure(json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps(figures) + "\n")
